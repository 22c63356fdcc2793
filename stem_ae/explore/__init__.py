"""Explorer: Bayesian experiments that decide where to measure next.

Importing this package does not import torch; that happens when an :class:`Explorer` is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stem_ae.explore.explorer import Explorer

__all__ = ["Explorer"]


def __getattr__(name: str) -> Any:
    if name == "Explorer":
        from stem_ae.explore.explorer import Explorer

        return Explorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
