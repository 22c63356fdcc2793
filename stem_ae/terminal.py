"""Text from files that others may have written, for a terminal."""

from __future__ import annotations

import re

_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, the cursor
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\x9c|$)"  # the window's title, the clipboard
    r"|\x1b[ -/]*[0-~]"
    r"|\x9b[0-?]*[ -/]*[@-~]"
    r"|[\u202a-\u202e\u2066-\u2069]",  # what turns the direction of writing
    re.DOTALL,
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def printable(text: object, in_one_line: bool = False) -> str:
    """Return text without escape sequences and control characters.

    Parameters
    ----------
    text : object
        What is to be printed.
    in_one_line : bool
        Whether line breaks and tabulators are to become spaces too.
    """
    cleaned = _CONTROLS.sub("", _SEQUENCES.sub("", str(text)))
    return " ".join(cleaned.split()) if in_one_line else cleaned
