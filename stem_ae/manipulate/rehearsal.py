"""Rehearsals: a planned run on a virtual microscope with the atoms that were found and today's parameters."""

from __future__ import annotations

import time

import ase.data
import numpy as np

from stem_ae.atoms import Atoms2D
from stem_ae.imaging.scan_field import ScanField
from stem_ae.imaging.specimens import Specimen
from stem_ae.imaging.virtual_microscope import Beam as Column
from stem_ae.imaging.virtual_microscope import Conditions, VirtualMicroscope
from stem_ae.manipulate.beam import FloatArray
from stem_ae.manipulate.guard import Limits
from stem_ae.manipulate.policy import Policy
from stem_ae.manipulate.run import EjectionRun, Find, Observer, RunSettings
from stem_ae.manipulate.runlog import RunLog
from stem_ae.manipulate.virtual import SimulatedClock, VirtualBeam
from stem_ae.structure.material import material_for

_LONG_S = 20.0  # exposures that last longer are read less often


def specimen_of(atoms: Atoms2D) -> Specimen:
    """Return the specimen that the found columns stand for, the image being its extent."""
    material = material_for(atoms.species)
    rows = [
        (x, y, -height, ase.data.atomic_numbers[element])
        for (x, y), name in zip(atoms.positions.tolist(), atoms.symbols, strict=True)
        for element, height in material.atoms_of(name)
    ]
    table = np.array(rows).reshape(-1, 4)
    dy, dx = atoms.known_sampling
    positions = table[:, :3] + (dx / 2, dy / 2, 0.0)  # from the corner of the first pixel, not its centre
    extent = (atoms.shape[1] * dx, atoms.shape[0] * dy)
    counting = tuple({name.rstrip("0123456789") for name in atoms.species if name[-1:].isdigit()})
    return Specimen(positions, table[:, 3].astype(np.int64), material.name, counting, extent)


class Rehearsal:
    """A run on a virtual microscope, in which predictions take their time but nothing else has to be waited for.

    Parameters
    ----------
    atoms : Atoms2D
        What was found in the image in which the targets were chosen.
    find : callable
        As for :class:`EjectionRun`.
    policy, settings, limits, log, observer
        Likewise.
    column : stem_ae.imaging.virtual_microscope.Beam
        Energy, angle, current.
    conditions : Conditions
        Drift, source size and so on.
    blanker_s : float
        How long the blanker takes.
    seed : int
        Of everything that happens by chance.
    """

    def __init__(
        self,
        atoms: Atoms2D,
        find: Find,
        policy: Policy,
        column: Column,
        conditions: Conditions | None = None,
        settings: RunSettings | None = None,
        limits: Limits | None = None,
        log: RunLog | None = None,
        observer: Observer | None = None,
        blanker_s: float = 1e-3,
        seed: int = 0,
    ) -> None:
        clock = SimulatedClock()
        specimen = specimen_of(atoms)
        self.microscope = VirtualMicroscope(specimen, conditions, seed, clock)
        """What really happens; its specimen is the truth."""
        field, sampling = ScanField(specimen.extent), atoms.known_sampling[0]
        coarse = 10 if settings and settings.timeout_s > _LONG_S else 1  # or minutes would have to be waited for
        self.beam = VirtualBeam(
            self.microscope, clock, field, column, sampling, 1e-4 * coarse, 1e-3 * coarse, blanker_s, seed
        )

        def timed(image: FloatArray, sampling: float) -> Atoms2D:
            start = time.perf_counter()
            found = find(image, sampling)
            clock.advance(time.perf_counter() - start)  # meanwhile the specimen drifts on
            return found

        self.run = EjectionRun(self.beam, timed, policy, settings, limits, log, observer)
        """Arm it, and run it."""
