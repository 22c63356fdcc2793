"""Calculations on structures: relaxation, molecular dynamics, adsorption; engines; input files for others.

Names are imported when they are first used: a job's process, or a panel, should not wait for what it does not need.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stem_ae.simulate.calculation import Calculation
    from stem_ae.simulate.engines import Estimate, available, estimate
    from stem_ae.simulate.inputs import export
    from stem_ae.simulate.result import Result
    from stem_ae.simulate.statistics import describe, displacement
    from stem_ae.simulate.tasks import Adsorption, Command, MolecularDynamics, Relax, Task

_HOMES = {
    "calculation": ("Calculation",),
    "engines": ("Estimate", "available", "estimate"),
    "inputs": ("export",),
    "result": ("Result",),
    "statistics": ("describe", "displacement"),
    "tasks": ("Adsorption", "Command", "MolecularDynamics", "Relax", "Task"),
}

__all__ = [
    "Adsorption",
    "Calculation",
    "Command",
    "Estimate",
    "MolecularDynamics",
    "Relax",
    "Result",
    "Task",
    "available",
    "describe",
    "displacement",
    "estimate",
    "export",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"stem_ae.simulate.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
