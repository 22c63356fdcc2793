"""Beam-targeted manipulation: which atoms (``targets``), where they are now (``aim``), and when to stop."""

from stem_ae.manipulate.aim import Aim, LockOn
from stem_ae.manipulate.exposure import Exposure, ExposureSettings, Outcome, Reading
from stem_ae.manipulate.levels import signal_levels
from stem_ae.manipulate.step import StepDetector

__all__ = [
    "Aim",
    "Exposure",
    "ExposureSettings",
    "LockOn",
    "Outcome",
    "Reading",
    "StepDetector",
    "signal_levels",
]
