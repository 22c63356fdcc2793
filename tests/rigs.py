"""Virtual microscopes for tests of manipulation: atoms are found without a network, with errors of 3 pm."""

from __future__ import annotations

import numpy as np

from stem_ae import Atoms2D
from stem_ae.imaging import specimens
from stem_ae.imaging.scan_field import ScanField
from stem_ae.imaging.virtual_microscope import Beam as Column
from stem_ae.imaging.virtual_microscope import Conditions, VirtualMicroscope
from stem_ae.manipulate import EjectionRun, Limits
from stem_ae.manipulate.virtual import SimulatedClock, VirtualBeam

FIELD = ScanField((30.0, 30.0))
PLENTY = Limits(total_electrons=1e13, local_dose=1e14, armed_s=1e5)


class Rig:
    """A specimen on the virtual microscope, surveyed.

    ``weights`` has the cross section of each class in Å²; further options are the beam's.
    """

    sought = ""

    def __init__(self, specimen, weights, column, dose, drift=1 / 60, damage=True, seed=0, **options):
        self.clock, self.species = SimulatedClock(), tuple(weights)
        self.weights = np.array(list(weights.values()))
        self.microscope = VirtualMicroscope(specimen, Conditions(drift=(drift, 0.0), damage=damage), seed, self.clock)
        self.beam = VirtualBeam(self.microscope, self.clock, FIELD, column, seed=seed, **options)
        self.rng = np.random.default_rng(seed)
        self.beam.unblank()
        self.survey = self.beam.survey(dose)
        self.beam.blank()
        self.atoms = self.find(self.survey.image, self.survey.sampling)

    def find(self, image, sampling):
        """Return the atoms of the last frame, as a network would find them."""
        frame = self.microscope._last_frame
        xy, names = frame.truth()
        labels = np.array([self.species.index(name) for name in names])
        found = xy + self.rng.normal(0, 0.03, xy.shape)
        return Atoms2D(
            found, np.tile(np.eye(2) * 9e-4, (len(xy), 1, 1)), labels, self.species, np.eye(len(self.species))[labels],
            self.weights[labels] * frame.electrons, image.shape, sampling,
        )  # fmt: skip

    def near(self, *places):
        """Return the positions of the atoms (of class ``sought``, if there is one) that are nearest to some places."""
        sought = np.isin(self.atoms.symbols, self.sought or self.species)
        positions = self.atoms.positions[sought]
        away = np.linalg.norm(positions[None] - np.array(places)[:, None], axis=2)
        return positions[away.argmin(axis=1)]

    def run(self, policy, **options):
        """Return an armed run of a policy."""
        run = EjectionRun(self.beam, self.find, policy, start=(self.survey, self.atoms), **options)
        run.guard.arm()
        return run


class Disulfide(Rig):
    """MoS2 at 60 pA."""

    sought = "S2"

    def __init__(self, seed=0, drift=1 / 60, damage=True, vacancies=0.0):
        specimen = specimens.mos2((45.0, 45.0), vacancies, 0.0, rotation=7.0, seed=seed)
        weights = {"Mo": 0.041, "S2": 0.0168, "S1": 0.0084}
        super().__init__(specimen, weights, Column(current_pa=60.0), 1e4, drift, damage, seed)


class Sheet(Rig):
    """Graphene at 150 pA with Si next to some places."""

    def __init__(self, *dopants, seed=0, drift=1 / 60, energy_ev=60e3):
        sheet = specimens.graphene((45.0, 45.0), 0.0, rotation=7.0)
        for place in dopants:
            away = np.linalg.norm(sheet.positions[:, :2] - 7.5 - place, axis=1)
            sheet.numbers[away.argmin()] = 14
        column = Column(energy_ev, current_pa=150.0)
        super().__init__(
            sheet, {"C": 0.00147, "Si": 0.0062}, column, 3e4, drift, seed=seed, reading_s=5e-3, read_s=5e-2
        )

    def dopants(self):
        """Return where the dopants really are, in the first survey."""
        sheet = self.microscope.specimen
        return sheet.positions[sheet.numbers == 14, :2] + 15.0 - 0.1
