"""Relaxation that starts from a model of the energy's curvature."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from ase.optimize import BFGS
from ase.optimize.precon import PreconLBFGS
from ase.optimize.precon.precon import Precon
from numpy.typing import NDArray

from stem_ae.simulate.constraints import free_coordinates
from stem_ae.simulate.hessian import model_hessian

FloatArray = NDArray[np.float64]

DENSE_UP_TO = 400
"""Atoms up to which the full curvature is kept and diagonalised every step."""


class ModelBFGS(BFGS):
    """ASE's BFGS, started from the model Hessian (or from the one a checkpoint kept)."""

    def __init__(self, atoms: ase.Atoms, hessian: FloatArray | None = None, **options: Any) -> None:
        self._start = hessian
        super().__init__(atoms, **options)

    def initialize(self) -> None:
        """Set the first Hessian."""
        super().initialize()  # type: ignore[no-untyped-call]
        self.H0 = _without_held(self.atoms).toarray() if self._start is None else self._start

    def curvature(self) -> FloatArray | None:
        """Return the Hessian as learnt so far, for a checkpoint."""
        return None if self.state is None else np.asarray(self.state.hessian)


class ModelPrecon(Precon):
    """The model Hessian as a sparse preconditioner, factorised once."""

    def __init__(self, atoms: ase.Atoms) -> None:
        self._matrix = _without_held(atoms)
        self._solve = scipy.sparse.linalg.factorized(self._matrix)

    def make_precon(self, atoms: ase.Atoms, reinitialize: bool | None = None) -> None:
        """Keep the one of the start: bonds do not change much."""

    def Pdot(self, x: FloatArray) -> FloatArray:
        """Return the matrix times a vector."""
        result: FloatArray = self._matrix @ x
        return result

    def solve(self, x: FloatArray) -> FloatArray:
        """Return the inverse times a vector."""
        result: FloatArray = self._solve(x)
        return result

    def copy(self) -> ModelPrecon:
        """Return itself: it never changes."""
        return self

    def asarray(self) -> FloatArray:
        """Return the dense matrix."""
        result: FloatArray = self._matrix.toarray()
        return result


def optimiser(atoms: ase.Atoms, hessian: FloatArray | None = None) -> Any:
    """Return the optimiser for this size: ASE's, quiet, ready to ``irun``."""
    if len(atoms) <= DENSE_UP_TO:
        return ModelBFGS(atoms, hessian=hessian, logfile=None)
    return PreconLBFGS(atoms, precon=ModelPrecon(atoms), maxstep=0.2, logfile=None)


def _without_held(atoms: ase.Atoms) -> scipy.sparse.csc_matrix:
    """Return the model Hessian with the coordinates that are held cut off from the rest."""
    free = scipy.sparse.diags(free_coordinates(atoms).ravel().astype(float))
    matrix = model_hessian(atoms)
    held = scipy.sparse.identity(3 * len(atoms)) - free
    return scipy.sparse.csc_matrix(free @ matrix @ free + held * matrix.diagonal().mean())
