"""Beam-targeted manipulation.

Which atoms (``targets``), where they are now (``aim``), when to stop (``exposure``), what has become of them
(``verify``, by the counts of its ``columns``), what to do next (``policy``), and all of it together (``run``) on an
instrument (``beam``).
"""

from stem_ae.manipulate.aim import Aim, LockOn
from stem_ae.manipulate.exposure import Exposure, ExposureSettings, Outcome, Reading
from stem_ae.manipulate.guard import Interrupted, Limits
from stem_ae.manipulate.levels import signal_levels
from stem_ae.manipulate.moves import MoveDopants, RemoveDopants
from stem_ae.manipulate.policy import ClosedLoop, Do, OneFromEach, OpenLoop, Policy, View
from stem_ae.manipulate.run import Attempt, EjectionRun, Observer, RunSettings
from stem_ae.manipulate.runlog import RunLog
from stem_ae.manipulate.step import StepDetector
from stem_ae.manipulate.verify import Verdict

__all__ = [
    "Aim",
    "Attempt",
    "ClosedLoop",
    "Do",
    "EjectionRun",
    "Exposure",
    "ExposureSettings",
    "Interrupted",
    "Limits",
    "LockOn",
    "MoveDopants",
    "Observer",
    "OneFromEach",
    "OpenLoop",
    "Outcome",
    "Policy",
    "Reading",
    "RemoveDopants",
    "RunLog",
    "RunSettings",
    "StepDetector",
    "Verdict",
    "View",
    "signal_levels",
]
