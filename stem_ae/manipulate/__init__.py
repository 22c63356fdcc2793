"""Beam-targeted manipulation: which atoms, how to aim, and when to stop."""

from stem_ae.manipulate.step import StepDetector

__all__ = ["StepDetector"]
