"""Units as files spell them: what an axis measures, and how many Å its unit is."""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any, Literal

Quantity = Literal["length", "reciprocal", "angle", "energy", "time", "none", "unknown"]
"""What an axis measures; ``none`` where the file says nothing or counts pixels."""

_ANGSTROM = {
    "m": 1e10, "meter": 1e10, "metre": 1e10, "inch": 2.54e8, "in": 2.54e8, "inche": 2.54e8,
    "cm": 1e8, "centimeter": 1e8, "centimetre": 1e8, "mm": 1e7, "millimeter": 1e7, "millimetre": 1e7,
    "um": 1e4, "micrometer": 1e4, "micrometre": 1e4, "micron": 1e4, "nm": 10.0, "nanometer": 10.0, "nanometre": 10.0,
    "a": 1.0, "aa": 1.0, "ang": 1.0, "angst": 1.0, "angstrom": 1.0, "angstroem": 1.0,
    "pm": 0.01, "picometer": 0.01, "picometre": 0.01, "fm": 1e-5, "dm": 1e9, "km": 1e13, "gm": 1e19, "tm": 1e22,
}  # fmt: skip
"""Å in one unit of length, under its plain name; see :func:`_plain`."""

_ANGLES = {"rad", "radian", "mrad", "milliradian", "urad", "microradian", "deg", "degree", "°"}
_ENERGIES = {"ev", "kev", "mev", "electronvolt", "kiloelectronvolt"}
_TIMES = {"s", "sec", "second", "ms", "msec", "millisecond", "us", "microsecond", "ns", "min", "minute", "h", "hour",
          "hz", "khz", "mhz"}  # fmt: skip
_PIXELS = {"", "px", "pixel", "pix", "point", "channel", "ch", "index", "frame", "none", "undefined", "<undefined>",
           "a.u", "au", "arb", "unitless", "dimensionless", "n/a", "nan", "1"}  # fmt: skip
_MICRO = (r"\u00b5", r"\u03bc", r"\micro", r"\mu", "\u03bc")
"""Ways to write the sign: escaped by ImageJ, in TeX, and at last the sign itself."""
_MISREAD = {"\u00c2\u00b5": "\u00b5", "\u00ce\u00bc": "\u00b5", "\u00c3\u2026": "\u00c5", "\u00c3\u0085": "\u00c5",
            "\u00c2\u00b0": "\u00b0"}  # fmt: skip
"""Signs in UTF-8 that were read in another encoding."""
_LONGEST = 40
"""Characters: longer texts are not units."""


def to_angstrom(scale: Any, units: str | None) -> float | None:
    """Return a pixel size in Å, or ``None`` where the unit is no length (or there is no size)."""
    factor = _ANGSTROM.get(_plain(units))
    try:
        size = abs(float(scale))
    except (TypeError, ValueError, OverflowError):
        return None
    if factor is None or not 0 < size * factor < float("inf"):
        return None
    return size * factor


def quantity(units: str | None) -> Quantity:
    """Return what an axis in these units measures."""
    text = _plain(units)
    if text in _ANGSTROM:
        return "length"
    if text in _PIXELS:
        return "none"
    if text in _ANGLES:
        return "angle"
    if text in _ENERGIES:
        return "energy"
    if text in _TIMES:
        return "time"
    return "reciprocal" if _one_over(text) in _ANGSTROM.keys() | _PIXELS else "unknown"


def spelled(units: str | None) -> str:
    """Return a unit for a sentence: short, without control characters."""
    text = "".join(c for c in str(units or "") if c.isprintable()).strip()
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _plain(units: str | None) -> str:
    r"""Return a unit in small letters, singular: ``$\AA$``, ``Ångströms`` and ``A`` become names of the same."""
    text = "" if units is None else str(units).strip()
    if len(text) > _LONGEST or text in ("M", "MM", "Mm", "PM"):  # mega and peta are not milli and pico
        return "?"
    text = html.unescape(text)
    for wrong, right in _MISREAD.items():
        text = text.replace(wrong, right)
    text = unicodedata.normalize("NFKD", text).casefold()
    text = "".join(c for c in text if not unicodedata.combining(c)).replace("\u2212", "-")
    for sign in _MICRO:
        text = text.replace(sign, "u")
    text = text.replace(r"\u00c5", "a").replace(r"\u212b", "a")  # escaped by ImageJ
    text = re.sub(r"\\(mathrm|text|rm|unit|,|;)", "", text)
    text = re.sub(r"[\\${}\[\]_\s]", "", text)
    text = re.sub(r"\(.*\)$|/(px|pixel)$", "", text) or text  # nanometer (nm), nm/px
    return _singular(text.strip(".()"))


def _singular(text: str) -> str:
    return text[:-1] if text.endswith("s") and len(text) > 3 else text


def _one_over(text: str) -> str:
    """Return the unit that a reciprocal one is one over, as in ``1/nm``, ``nm^-1``, ``2pi/a``; ``?`` if it is none."""
    found = re.fullmatch(r"(?:1|2pi|rad|cycles?)/(.+)|(.+?)(?:\*\*|\^)?\(?-1", text)
    return _singular(found[1] or found[2]) if found else "?"
