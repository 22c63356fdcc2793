"""Dopants moved in graphene on the virtual microscope: where they go, what is said about it, and no atom is lost."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from stem_ae import Atoms2D, StemAeError
from stem_ae.imaging import specimens
from stem_ae.imaging.scan_field import ScanField
from stem_ae.imaging.virtual_microscope import Beam as Column
from stem_ae.imaging.virtual_microscope import Conditions, VirtualMicroscope
from stem_ae.manipulate import (
    ClosedLoop,
    Do,
    EjectionRun,
    Limits,
    MoveDopants,
    Outcome,
    RunLog,
    RunSettings,
    Verdict,
    View,
    runlog,
)  # fmt: skip
from stem_ae.manipulate.moves import MoveVerification
from stem_ae.manipulate.virtual import SimulatedClock, VirtualBeam

FIELD = ScanField((30.0, 30.0))
SPECIES = ("C", "Si")
PLENTY = Limits(total_electrons=1e13, local_dose=1e14, armed_s=1e5)


class Bench:
    """Graphene with some Si whose atoms are found without a network, with errors of 3 pm."""

    def __init__(self, *dopants, seed=0, drift=1 / 60):
        self.clock = SimulatedClock()
        sheet = specimens.graphene((45.0, 45.0), 0.0, rotation=7.0)
        for place in dopants:
            away = np.linalg.norm(sheet.positions[:, :2] - 7.5 - place, axis=1)
            sheet.numbers[away.argmin()] = 14
        self.microscope = VirtualMicroscope(sheet, Conditions(drift=(drift, 0.0)), seed, self.clock)
        self.beam = VirtualBeam(
            self.microscope, self.clock, FIELD, Column(current_pa=150.0), reading_s=5e-3, read_s=5e-2, seed=seed
        )
        self.rng = np.random.default_rng(seed)
        self.beam.unblank()
        self.survey = self.beam.survey(3e4)
        self.beam.blank()
        self.atoms = self.find(self.survey.image, self.survey.sampling)

    def find(self, image, sampling):
        frame = self.microscope._last_frame
        xy, names = frame.truth()
        labels = np.array([SPECIES.index(name) for name in names])
        weight = np.array([0.00147, 0.0062])[labels] * frame.electrons
        covariance = np.tile(np.eye(2) * 9e-4, (len(xy), 1, 1))
        found = xy + self.rng.normal(0, 0.03, xy.shape)
        return Atoms2D(found, covariance, labels, SPECIES, np.eye(2)[labels], weight, image.shape, sampling)

    def near(self, *places):
        away = np.linalg.norm(self.atoms.positions[None] - np.array(places)[:, None], axis=2)
        return self.atoms.positions[away.argmin(axis=1)]

    def run(self, policy, settings, **options):
        run = EjectionRun(
            self.beam, self.find, policy, settings, PLENTY, start=(self.survey, self.atoms), **options
        )
        run.guard.arm()
        return run

    def dopants(self):
        """Return where the dopants really are, in the first survey."""
        sheet = self.microscope.specimen
        return sheet.positions[sheet.numbers == 14, :2] + 15.0 - 0.1


def test_a_dopant_is_walked_to_its_goal(tmp_path):
    bench = Bench((12, 15), seed=1)
    goal = bench.near((16.0, 15.0))
    log = RunLog(tmp_path / "run.jsonl")
    run = bench.run(MoveDopants(bench.atoms.positions, goal), RunSettings.moving(), log=log)
    assert run.run() == "done"
    log.close()
    assert not run.policy.missing(run.view)
    assert bench.dopants() == pytest.approx(goal, abs=0.3)
    assert not bench.microscope.ejections
    moved = [a for a in run.attempts if a.verdict is Verdict.MOVED]
    assert len(moved) >= 3
    true = [hop for hop in bench.microscope.exchanges if hop.moved_to is not None]
    reported = len(moved) + sum(a.verdict is Verdict.ASTRAY for a in run.attempts)
    assert reported == len(true)
    for exposure in runlog.exposures(log.path):
        assert exposure.replay().outcome is not None


def test_a_beam_on_the_dopant_removes_it_or_says_that_it_has_not():
    bench = Bench((15, 15), seed=3)
    site = bench.near((15, 15))
    ladder = ("Si", "C")
    removing = RunSettings(ladder, timeout_s=200.0, maximum_electrons=1e12, aim_dose=2e4, verify_dose=2e4)
    run = bench.run(ClosedLoop(site, ["C"], ladder, tries=20), removing)
    run.run()
    first, last = bench.microscope.exchanges[0], run.attempts[-1]
    assert last.outcome is Outcome.STEP
    assert last.verdict is Verdict.ONE
    assert len(last.bystanders) == (first.moved_to is not None)


def lattice():
    """Return a small honeycomb with two Si, and a view of it."""
    bench = Bench((9, 9), (20, 20))
    return bench, View(bench.atoms, [], 1, False)


def test_ways_are_shortest_and_keep_clear_of_other_dopants():
    bench, view = lattice()
    positions = bench.atoms.positions
    goal = bench.near((16.0, 9.0))
    policy = MoveDopants(positions, goal)
    (way,) = policy.ways(view).values()
    assert bench.atoms.symbols[way[0]] == "Si"
    assert positions[way[0]] == pytest.approx(bench.near((9, 9))[0])
    assert positions[way[-1]] == pytest.approx(goal[0])
    steps = np.linalg.norm(np.diff(positions[way], axis=0), axis=1)
    assert np.all(steps < 1.9)
    assert len(way) - 1 == pytest.approx(np.linalg.norm(goal - positions[way[0]]) / 1.42, rel=0.5)
    assert policy.next(view) == way[1]
    # A fence of Si across the way: the beam goes round it, two sites away.
    fence = np.abs(positions[:, 0] - 12.5) < 0.8
    fence &= np.abs(positions[:, 1] - 9.0) < 3.0
    labels = np.where(fence, 1, bench.atoms.labels)
    fenced = View(dataclasses.replace(bench.atoms, labels=labels), [], 1, False)
    (longer,) = MoveDopants(positions, goal, keep=positions[fence]).ways(fenced).values()
    assert len(longer) > len(way)
    apart = np.linalg.norm(positions[longer[1:]][:, None] - positions[fence][None], axis=2)
    assert apart.min() > 1.9


def test_the_nearest_dopant_goes_and_what_is_kept_stays():
    bench, view = lattice()
    positions, goal = bench.atoms.positions, bench.near((18.0, 18.0))
    (way,) = MoveDopants(positions, goal).ways(view).values()
    assert positions[way[0]] == pytest.approx(bench.near((20, 20))[0])
    (way,) = MoveDopants(positions, goal, keep=bench.near((20, 20))).ways(view).values()
    assert positions[way[0]] == pytest.approx(bench.near((9, 9))[0])
    at_goal = MoveDopants(positions, bench.near((20, 20)))
    assert at_goal.next(view) is Do.END
    assert not at_goal.missing(view)
    changed = View(bench.atoms, [(3, Verdict.UNCLEAR)], 1, True)
    assert MoveDopants(positions, goal).next(changed) is Do.SURVEY
    with pytest.raises(StemAeError, match="no site"):
        MoveDopants(positions, [(0.0, 60.0)])


@pytest.mark.parametrize(
    ("now_at", "verdict"), [(0, Verdict.NONE), (1, Verdict.MOVED), (2, Verdict.ASTRAY), (None, Verdict.GONE)]
)
@pytest.mark.parametrize("outcome", [Outcome.STEP, Outcome.TIMEOUT])
def test_where_the_dopant_is_afterwards(now_at, verdict, outcome):
    bench = Bench((15, 15))
    atoms = bench.atoms
    start = int(np.flatnonzero(atoms.labels == 1)[0])
    near = np.flatnonzero(np.linalg.norm(atoms.positions - atoms.positions[start], axis=1) < 1.9)
    target, other, _ = (int(k) for k in near if k != start)
    check = MoveVerification(atoms, target, outcome, "Si")
    assert check.verdict is Verdict.UNCLEAR
    labels = np.zeros(len(atoms), np.int64)
    if now_at is not None:
        labels[(start, target, other)[now_at]] = 1
    seen = Atoms2D(
        atoms.positions, atoms.covariance, labels, SPECIES, np.where(np.eye(2)[labels] > 0, 0.97, 0.03),
        atoms.intensity, atoms.shape, atoms.sampling,
    )  # fmt: skip
    for _ in range(3):
        if not check.is_clear:
            check.add(seen, (10.0, 10.0, 20.0, 20.0))
    assert check.verdict is verdict
    np.testing.assert_array_equal(check.updated().labels, labels)
    assert len(check.bystanders()) == (verdict is Verdict.ASTRAY)
