"""Checks of numbers that users and scripts set. Impossible ones are refused with one sentence.

NaN passes a check that is written the wrong way round (``if value < 0: refuse``), and then a limit of NaN limits
nothing. Each check here is written so that NaN fails it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]

MOST_S = 7 * 24 * 3600.0
"""Seconds: nothing at a microscope is set to take longer than a week."""
_LARGEST = 1e100
MOST_SEED = 2**32 - 1
MOST_PA = 1e6
"""Picoamperes: a thousand times what a strong probe has."""
MOST_ELECTRONS = 1e18
"""Electrons, or e/Å²: 200 pA bring less in twenty years."""


def number(value: Any, name: str, least: float = -math.inf, most: float = math.inf, unit: str = "") -> float:
    """Return a finite number from ``least`` to ``most``.

    Parameters
    ----------
    value
        What was set.
    name : str
        What to call it.
    least, most : float
        The ends belong to the range.
    unit : str
        Of all of them, for the sentence.

    Raises
    ------
    StemAeError
        If it is not a number, NaN, infinite, or out of range.
    """
    found = _as_float(value)
    if not (math.isfinite(found) and least <= found <= most):
        raise _refusal(value, name, "a number", _range(f"{least:g} or more", least, most, unit))
    return found


def positive(value: Any, name: str, most: float = math.inf, unit: str = "") -> float:
    """Return a finite number above zero, at most ``most``; see :func:`number`."""
    found = _as_float(value)
    if not (math.isfinite(found) and 0 < found <= most):
        raise _refusal(value, name, "a positive number", _range("", -math.inf, most, unit))
    return found


def budget(value: Any, name: str) -> float:
    """Return a number from zero up; infinity means no limit; see :func:`number`."""
    found = _as_float(value)
    if not found >= 0:
        raise _refusal(value, name, "a number", " from 0 up, or leave it out for no limit")
    return found


def share(value: Any, name: str) -> float:
    """Return a fraction from 0 to below 1; see :func:`number`."""
    found = _as_float(value)
    if not 0 <= found < 1:
        raise _refusal(value, name, "a fraction", ", such as 0.03 for 3 %")
    return found


def probability(value: Any, name: str) -> float:
    """Return a probability, excluding 0 and 1; see :func:`number`."""
    found = _as_float(value)
    if not 0 < found < 1:
        raise _refusal(value, name, "a probability", " between 0 and 1")
    return found


def whole(value: Any, name: str, least: int = 1, most: int = 10_000_000) -> int:
    """Return a whole number from ``least`` to ``most``; see :func:`number`."""
    found = _as_float(value)
    if not (least <= found <= most and found == int(found)):
        raise _refusal(value, name, "a whole number", _range(f"{least} or more", least, most, ""))
    return int(found)


def place(value: Any, name: str) -> tuple[float, float]:
    """Return a place: x and y, both finite; see :func:`number`."""
    try:
        x, y = (float(each) for each in value)
    except (TypeError, ValueError, OverflowError):
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise _refusal(value, name, "x and y in Å", "")
    return x, y


def places(values: ArrayLike, name: str) -> FloatArray:
    """Return places ``(n, 2)``, all finite; see :func:`number`."""
    try:
        found = np.asarray(values, dtype=float).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise StemAeError(f"{name} cannot be read: give x and y in Å for each.") from error
    wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(wrong):
        raise StemAeError(f"{name}: number {wrong[0] + 1} has no position, give x and y in Å for each.")
    return found


def shape(value: Any, name: str, most: int = 10_000_000) -> tuple[int, int]:
    """Return two whole numbers, rows and columns, each at most ``most``; see :func:`number`."""
    counts = items(value, name)
    if len(counts) != 2:
        raise _refusal(value, name, "rows and columns", "")
    rows, columns = (whole(count, "The number of rows or columns", most=most) for count in counts)
    return rows, columns


def finite_or_nan(value: Any) -> float:
    """Return a number that a computation has given, NaN if it is none, or so large that its square is infinite."""
    found = float(value) if isinstance(value, bool | np.bool_) else _as_float(value)
    return found if abs(found) <= _LARGEST else math.nan


def items(values: Any, name: str) -> tuple[Any, ...]:
    """Return what a list, a tuple or an array holds; one word is no list of letters."""
    try:
        if not isinstance(values, str | bytes):
            return tuple(values)
    except TypeError:
        pass
    raise _refusal(values, name, "a list", "")


def _as_float(value: Any) -> float:
    """Return a number, or NaN if it is not one."""
    if isinstance(value, bool | np.bool_ | str | bytes) or value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _range(from_least: str, least: float, most: float, unit: str) -> str:
    words = [f" of {from_least}"] if math.isfinite(least) else []
    words += [f" of at most {most:g}"] if math.isfinite(most) and not words else []
    words += [f", at most {most:g}"] if math.isfinite(most) and math.isfinite(least) else []
    return "".join(words) + (f" {unit}" if words and unit else "")


def _refusal(value: Any, name: str, wanted: str, more: str) -> StemAeError:
    text = f"{value:g}" if isinstance(value, float) else str(value)[:40]
    shown = "".join(letter if letter.isprintable() else "�" for letter in text)  # no control sequences to the terminal
    return StemAeError(f"{name} is {shown}: give {wanted}{more}.")
