"""Colours of the classes, the same in Swift, in pictures and in reports."""

PALETTE = ("#56B4E9", "#F0A020", "#FF4D6D", "#2FD3A0", "#F0E442", "#C77DFF", "#FFFFFF")
"""After Okabe and Ito, told apart with any colour vision; the first class is the common one and calm."""


def color(index: int) -> str:
    """Return the colour of a model's class by its place among the classes, as ``#RRGGBB``."""
    return PALETTE[index % len(PALETTE)]
