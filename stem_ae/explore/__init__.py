"""Explorer: Bayesian experiments that decide where to measure next."""

from stem_ae.explore.explorer import Explorer

__all__ = ["Explorer"]
