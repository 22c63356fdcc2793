"""Electrons: from beam current and dwell time to dose, and back."""

from __future__ import annotations

from scipy import constants

from stem_ae.atoms import as_sampling

ELECTRONS_PER_PICOAMPERE_MICROSECOND = 1e-18 / constants.e  # 6.24


def electrons_per_pixel(current_pA: float, dwell_us: float) -> float:
    """Return how many electrons hit one pixel."""
    return float(current_pA * dwell_us * ELECTRONS_PER_PICOAMPERE_MICROSECOND)


def dose_per_area(electrons: float, sampling: float | tuple[float, float]) -> float:
    """Return the dose in e/Å² of ``electrons`` per pixel at ``sampling`` in Å per pixel."""
    dy, dx = as_sampling(sampling)
    return electrons / (dy * dx)


def electrons_for_dose(dose: float, sampling: float | tuple[float, float]) -> float:
    """Return the electrons per pixel of a ``dose`` in e/Å²."""
    dy, dx = as_sampling(sampling)
    return dose * dy * dx
