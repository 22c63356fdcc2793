"""What the user types, read."""

from __future__ import annotations

import math

from stem_ae.errors import StemAeError


class TypedError(StemAeError):
    """What was typed cannot be read; the message says what to type."""


def number(text: str, what: str, least: float | None = None) -> float:
    """Return the number that was typed: positive, or at least ``least``. A comma is as good as a point.

    Raises
    ------
    TypedError
        If it is none.
    """
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        value = math.nan
    is_right = value > 0 if least is None else value >= least
    if not (is_right and math.isfinite(value)):
        wanted = "a positive number" if least is None else f"a number, {least:g} or more"
        raise TypedError(f"{what} “{text.strip()}” is not {wanted}: type one.")
    return value


def count(text: str, what: str, least: int = 0) -> int:
    """Return the whole number, at least ``least``, that was typed.

    Raises
    ------
    TypedError
        If it is none.
    """
    if not text.strip().isdecimal() or int(text) < least:
        raise TypedError(f"{what} “{text.strip()}” is not a whole number from {least} upwards: type one.")
    return int(text)
