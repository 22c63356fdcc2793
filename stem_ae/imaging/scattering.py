"""How strongly an atom scatters into an annular detector."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Detector = Literal["HAADF", "MAADF"]

# Cross section of one carbon atom (Å²) and the exponent of Z.
# HAADF: exponent 1.64 as measured at 60 kV by Krivanek et al., Nature 464 (2010) 571.
# MAADF: at lower angles screening weakens the dependence on Z and the cross section grows.
_CARBON_AND_EXPONENT: dict[Detector, tuple[float, float]] = {"HAADF": (1.7e-3, 1.64), "MAADF": (5.0e-3, 1.50)}


def cross_section(numbers: ArrayLike, detector: Detector = "HAADF") -> NDArray[np.float64]:
    """Return the cross section in Å² for scattering into the detector, for atomic numbers of any shape."""
    carbon, exponent = _CARBON_AND_EXPONENT[detector]
    return carbon * (np.asarray(numbers, dtype=float) / 6.0) ** exponent
