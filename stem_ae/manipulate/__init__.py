"""Beam-targeted manipulation: which atoms, how to aim, and when to stop."""

from stem_ae.manipulate.exposure import Exposure, ExposureSettings, Outcome, Reading
from stem_ae.manipulate.step import StepDetector

__all__ = ["Exposure", "ExposureSettings", "Outcome", "Reading", "StepDetector"]
