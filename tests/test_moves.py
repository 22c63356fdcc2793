"""Dopants moved in graphene on the virtual microscope: where they go, what is said about it, and no atom is lost."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from stem_ae import StemAeError
from stem_ae.manipulate import (
    Do,
    MoveDopants,
    Outcome,
    RemoveDopants,
    RunLog,
    RunSettings,
    Verdict,
    View,
    runlog,
)  # fmt: skip
from stem_ae.manipulate.columns import ColumnModel, Evidence, Measured
from stem_ae.manipulate.moves import MoveVerification
from tests.rigs import PLENTY, Sheet

SPECIES = ("C", "Si")


def test_a_dopant_is_walked_to_its_goal(tmp_path):
    bench = Sheet((12, 15), seed=1)
    goal = bench.near((16.0, 15.0))
    log = RunLog(tmp_path / "run.jsonl")
    run = bench.run(MoveDopants(bench.atoms.positions, goal), settings=RunSettings.moving(), limits=PLENTY, log=log)
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


REMOVING = RunSettings(("Si", "C"), timeout_s=200.0, maximum_electrons=1e12, aim_dose=2e4, verify_dose=2e4)


def test_removing_goes_after_the_dopant():
    """At 80 kV, where it jumps a thousand times for each time that it leaves, and several times in one exposure."""
    bench = Sheet((15, 15), seed=3, energy_ev=80e3)
    policy = RemoveDopants(bench.atoms.positions, bench.near((15, 15)), tries=6)
    run = bench.run(policy, settings=REMOVING, limits=PLENTY)
    assert run.run() == "done"
    verdicts = [a.verdict for a in run.attempts]
    assert verdicts.count(Verdict.MOVED) >= 2
    assert Verdict.ONE not in verdicts
    assert policy.missing(run.view) == [0]
    fired = [a.position for a in run.attempts]
    assert np.linalg.norm(np.diff(fired, axis=0), axis=1).max() > 1.0  # the beam went after it
    assert run.view.species_at(bench.dopants()[0]) == "Si"


def test_a_dopant_that_is_gone_is_removed():
    bench = Sheet((15, 15), seed=0)
    policy = RemoveDopants(bench.atoms.positions, bench.near((15, 15)))
    run = bench.run(policy, settings=REMOVING, limits=PLENTY)
    assert run.run() == "done"
    assert run.attempts[-1].verdict is Verdict.ONE
    assert not len(bench.dopants())
    assert not policy.missing(run.view)


def lattice():
    """Return a small honeycomb with two Si, and a view of it."""
    bench = Sheet((9, 9), (20, 20))
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
    bench = Sheet((15, 15))
    atoms = bench.atoms
    start = int(np.flatnonzero(atoms.labels == 1)[0])
    near = np.flatnonzero(np.linalg.norm(atoms.positions - atoms.positions[start], axis=1) < 1.9)
    target, other, _ = (int(k) for k in near if k != start)
    check = MoveVerification(atoms, target, outcome, "Si")
    assert check.verdict is Verdict.UNCLEAR
    labels = np.zeros(len(atoms), np.int64)
    if now_at is not None:
        labels[(start, target, other)[now_at]] = 1
    levels = {"C": 0.00147, "Si": 0.0062, "": 0.0}
    model = ColumnModel(bench.beam.probe, levels, dict.fromkeys(levels, 1e-4), 0.06)
    evidence = Evidence(model, len(atoms))
    evidence.add(Measured(np.arange(len(atoms)), model.levels[labels], np.full((len(atoms), 3), 1e-3**2)))
    check.look(evidence)
    assert check.verdict is verdict
    np.testing.assert_array_equal(check.updated().labels, labels)
    assert len(check.bystanders()) == (verdict is Verdict.ASTRAY)
