"""What the Eject panel lets one choose, and what it makes of that: no Swift runs here."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

pytest.importorskip("nion.swift")

from nionswift_plugin.stem_ae_ui.ejection_choice import CLICK, Choice
from nionswift_plugin.stem_ae_ui.ejection_fates import LOG_NAME, Fate, Plan, unfinished, write_fate
from nionswift_plugin.stem_ae_ui.ejection_intent import MOVE, ONCE, UNTIL, Intent, measured_source
from nionswift_plugin.stem_ae_ui.ejection_news import News
from stem_ae import Atoms2D, StemAeError
from stem_ae.imaging import specimens
from stem_ae.imaging.scan_field import ScanField
from stem_ae.imaging.virtual_microscope import Beam as Column
from stem_ae.imaging.virtual_microscope import Conditions, VirtualMicroscope
from stem_ae.manipulate import Attempt, Limits, Outcome, RemoveDopants, RunLog, Verdict, rehearsal
from stem_ae.manipulate.virtual import SimulatedClock

SPECIES = ("C", "Si")
PLENTY = Limits(1e13, 1e14)


def found(xy, names, rng, weight=None):
    labels = np.array([SPECIES.index(name) for name in names])
    n = len(labels)
    return Atoms2D(
        xy + rng.normal(0, 0.03, xy.shape), np.tile(np.eye(2) * 9e-4, (n, 1, 1)), labels, SPECIES, np.eye(2)[labels],
        np.ones(n) if weight is None else weight[labels], (150, 150), 0.2,
    )  # fmt: skip


def graphene(rng, *dopants):
    """Return what is found in an image of 30 Å of graphene with Si next to some places."""
    xy, _ = specimens.graphene((29.8, 29.8), 0.0, rotation=7.0).columns()
    names = np.full(len(xy), "C", "<U2")
    for place in dopants:
        names[np.argmin(np.linalg.norm(xy - place, axis=1))] = "Si"
    return found(xy, names, rng)


def nearest(choice, x, y):
    return np.argmin(np.linalg.norm(choice.atoms.positions - (x, y), axis=1))


def test_targets_and_zones_follow_the_drift_which_is_learnt():
    rng = np.random.default_rng(0)
    atoms, choice = graphene(rng), Choice()
    assert choice.follow(atoms, 1.7e9)
    choice.species, choice.pick = "C", CLICK
    choice.click(*atoms.positions[200])
    choice.zones.append(np.array([[1.0, 1.0], [3.0, 1.0], [3.0, 3.0]]))
    site, at_first = choice.sites[0].copy(), choice.track.lost_after_s(2.46)
    for t in range(1, 11):
        moved = atoms.positions + np.array([0.05 * t, 0.0])
        assert choice.follow(found(moved, atoms.symbols, rng), 1.7e9 + t)
    assert choice.sites[0] - site == pytest.approx([0.5, 0.0], abs=0.15)
    assert choice.zones[0][0] == pytest.approx([1.5, 1.0], abs=0.1)
    assert choice.track.now.velocity == pytest.approx([0.05, 0.0], abs=0.015)
    assert choice.track.lost_after_s(2.46) > 3 * at_first
    assert not choice.is_lost(1.7e9 + 30)
    assert choice.is_lost(1.7e9 + 600)
    before = choice.sites[0].copy()
    choice.expect(1.7e9 + 20)
    assert choice.sites[0] - before == pytest.approx([0.5, 0.0], abs=0.15)
    chance = rng.uniform(0, 30, (40, 2))  # what networks see in a dark frame
    assert not choice.follow(found(chance, ["C"] * 40, rng), 1.7e9 + 20.5)
    lit = choice.atoms.positions[:, 1] < 15  # the beam came on in mid-frame
    assert not choice.follow(choice.atoms[lit], 1.7e9 + 20.6)
    other_field = Atoms2D.empty(SPECIES, (64, 64), 0.5)
    assert not choice.follow(other_field, 1.7e9 + 21)
    assert len(choice.atoms) == len(atoms)
    moved = atoms.positions + np.array([1.1, 0.0])
    assert choice.follow(found(moved, atoms.symbols, rng), 1.7e9 + 22)
    assert choice.sites[0] == pytest.approx(moved[200], abs=0.15)
    for t in range(600, 606):  # after a long pause the drift is learnt anew
        assert choice.follow(found(moved + np.array([0.3, 0.0]), atoms.symbols, rng), 1.7e9 + t)
    assert choice.sites[0] == pytest.approx(moved[200] + np.array([0.3, 0.0]), abs=0.15)
    assert choice.track.now.velocity == pytest.approx([0.0, 0.0], abs=0.03)


def test_what_is_typed_decides_what_is_done():
    rng = np.random.default_rng(1)
    choice = Choice()
    choice.follow(graphene(rng, (15, 15)), 0.0)
    column = Column(current_pa=150.0)
    choice.species = "Si"
    with pytest.raises(StemAeError, match="no targets"):
        Intent.of(choice, choice.rest(False, False), UNTIL, 5.0, PLENTY, column)
    choice.add(choice.candidates())
    removing = Intent.of(choice, choice.rest(False, False), UNTIL, 5.0, PLENTY, column)
    assert isinstance(removing.carried_out_by(), RemoveDopants)
    assert removing.settings().ladder == ("Si", "C")
    assert removing.settings().dopant == ""
    assert "leave in time" in removing.cost()[0]
    once = Intent.of(choice, choice.rest(False, False), ONCE, 5.0, PLENTY, column)
    assert len(once.carried_out_by().sites) == 1
    moving = Intent.of(choice, choice.rest(False, False), MOVE, 60.0, PLENTY, column)
    assert moving.settings().dopant == "Si"
    assert "0 steps" in moving.cost()[0]
    choice.clear()
    choice.species = "C"
    choice.click(*choice.atoms.positions[nearest(choice, 17.5, 15.0)])
    moving = Intent.of(choice, choice.rest(False, False), MOVE, 60.0, PLENTY, column)
    steps, seconds = moving.cost()[0].split("steps of")
    assert int(steps.split()[-1]) in (2, 3)
    assert 10 < float(seconds.split()[0]) < 20
    zones = [np.array([[13.0, 13.0], [16.5, 13.0], [16.5, 17.0], [13.0, 17.0]])]
    choice.zones = zones  # the dopant is in it: nobody can come
    with pytest.raises(StemAeError, match="0 of 1"):
        Intent.of(choice, choice.rest(False, False), MOVE, 60.0, PLENTY, column).cost()


@pytest.mark.parametrize(("semiangle", "source", "warned"), [(32.0, 0.30, True), (40.0, 0.20, False)])
def test_the_probe_is_measured_and_who_will_lose_neighbours_is_told_before(semiangle, source, warned):
    column, rng = Column(semiangle_mrad=semiangle, current_pa=60.0), np.random.default_rng(0)
    specimen = specimens.mos2((60.0, 60.0), 0.02, 0.0, rotation=7.0)
    microscope = VirtualMicroscope(specimen, Conditions(source_sigma=source), 0, SimulatedClock())
    frame = microscope.begin_frame(ScanField((40.0, 40.0)), (256, 256), 1.0, column)
    xy, names = frame.truth()
    species = ("Mo", "S2", "S1")
    labels = np.array([species.index(name) for name in names])
    image = frame.counts("HAADF")
    atoms = Atoms2D(
        xy + rng.normal(0, 0.04, xy.shape), np.tile(np.eye(2) * 1.6e-3, (len(xy), 1, 1)), labels, species,
        np.eye(3)[labels], np.array([0.041, 0.017, 0.0085])[labels] * frame.electrons, image.shape, 40.0 / 256,
    )  # fmt: skip
    ladder = ("S2", "S1", "")
    measured = measured_source(atoms, image, ladder, column)
    assert measured == pytest.approx(source, abs=0.04)
    middle = np.argmin(np.linalg.norm(xy - 20.0, axis=1) + 100.0 * (labels != 1))
    site, none = atoms.positions[[middle]], np.zeros((0, 2))
    intent = Intent(atoms, site, none, (), ladder, ONCE, 5.0, Limits(), column, measured)
    words, warning = intent.cost()
    share = float(words.split("a neighbour is lost in ")[1].split("%")[0])
    assert share == pytest.approx(0.79 if warned else 0.32, abs=0.15)  # as computed in docs/manipulation.md
    assert ("the same gun and current would make it" in warning) is warned


def test_a_rehearsal_brings_a_dopant_to_the_target_and_tells_so():
    rng = np.random.default_rng(2)
    choice = Choice()
    choice.follow(graphene(rng, (15, 15)), 0.0)
    choice.species = "C"
    choice.click(*choice.atoms.positions[nearest(choice, 17.0, 15.0)])
    intent = Intent.of(choice, choice.rest(False, False), MOVE, 60.0, PLENTY, Column(current_pa=150.0))
    weight, told = np.array([0.00147, 0.0062]), []

    def find(image, sampling):
        frame = staged.microscope._last_frame
        xy, names = frame.truth()
        return found(xy, names, rng, weight * frame.electrons)

    policy = intent.carried_out_by()
    news = News(policy, choice.sites, choice.fates, [0], lambda: told.append(news.fates[0].state))
    staged = rehearsal.Rehearsal(
        intent.atoms, find, policy, intent.column, Conditions(drift=(1 / 60, 0.0)), intent.settings(), PLENTY,
        observer=news, seed=5,
    )  # fmt: skip
    staged.run.guard.arm()
    assert staged.run.run() == "done"
    assert news.fates[0].state == "done"
    assert {"aiming", "exposing", "verifying", "waiting", "done"} <= set(told)
    assert staged.beam.is_blanked
    silicon = staged.microscope.specimen.positions[staged.microscope.specimen.numbers == 14, :2] + 15.0 - 0.1
    assert silicon == pytest.approx(intent.sites, abs=0.4)


def attempt(outcome, verdict, exposure_s):
    place = np.zeros(2)
    return Attempt(1, 0, "S2", place, place, 0.1, 0.0, exposure_s, 1e6, outcome, verdict)


@pytest.mark.parametrize(
    ("outcome", "verdict", "exposure_s", "state", "left"),
    [
        (Outcome.STEP, Verdict.ONE, 0.3, "done", True),
        (Outcome.STEP, Verdict.MORE, 0.3, "failed", True),
        (Outcome.TIMEOUT, Verdict.NONE, 5.0, "failed", False),
        (Outcome.NOT_FIRED, Verdict.UNCLEAR, 0.0, "failed", False),
        (Outcome.STOPPED, Verdict.UNCLEAR, 0.0, "waiting", False),
        (Outcome.STOPPED, Verdict.NONE, 0.2, "unclear", False),
        (Outcome.STEP, Verdict.UNCLEAR, 0.2, "unclear", False),
    ],
)
def test_a_target_that_an_atom_may_have_left_is_not_called_waiting(outcome, verdict, exposure_s, state, left):
    fate = Fate("S2").after(attempt(outcome, verdict, exposure_s))
    assert (fate.state, fate.left) == (state, left)


def test_a_run_goes_on_with_what_is_not_done_and_looks_where_it_is_unclear():
    rng = np.random.default_rng(3)
    choice = Choice()
    choice.follow(graphene(rng), 0.0)
    choice.species = "C"
    for place in ((8, 8), (15, 15), (22, 22), (8, 22)):
        choice.click(*choice.atoms.positions[nearest(choice, *place)])
    done, unclear, failed, waiting = range(4)
    choice.fates[done] = choice.fates[done].now("done", tried=True, left=True)
    choice.fates[unclear] = choice.fates[unclear].unclear("stopped after 90 ms")
    choice.fates[failed] = choice.fates[failed].now("failed", "timeout", tried=True)
    assert choice.rest(once=False, again=False) == [unclear, failed, waiting]
    assert choice.rest(once=True, again=False) == [waiting]
    assert choice.rest(once=False, again=True) == [done, unclear, failed, waiting]
    assert "now C" in choice.told(unclear).detail
    gone = np.arange(len(choice.atoms)) != nearest(choice, *choice.sites[unclear])
    assert choice.follow(choice.atoms[gone], 1.0)
    assert choice.rest(once=False, again=False) == [failed, waiting]
    assert "no atom found here" in choice.told(unclear).detail
    fates = list(choice.fates)
    sites = choice.sites.copy()
    choice.click(*choice.atoms.positions[nearest(choice, 26, 4)])  # another one: the order changes, the fates stay
    for site, fate in zip(sites, fates, strict=True):
        assert choice.fates[int(np.argmin(np.linalg.norm(choice.sites - site, axis=1)))] == fate


def test_a_target_without_an_atom_is_not_called_by_another_ones_name():
    rng = np.random.default_rng(4)
    choice = Choice()
    choice.follow(graphene(rng, (15, 15)), 0.0)
    choice.species = "Si"
    choice.add(choice.candidates())
    dopant = nearest(choice, 15, 15)
    assert choice.follow(choice.atoms[np.arange(len(choice.atoms)) != dopant], 1.0)
    assert choice.species_at(choice.sites[0]) == ""
    assert choice.fates[0].species == "Si"
    assert choice.told(0).detail == "no atom found here"


@pytest.mark.parametrize("other", ["field", "specimen"])
def test_targets_stay_where_they_were_chosen(other):
    rng = np.random.default_rng(5)
    choice = Choice()
    atoms = graphene(rng)
    choice.follow(atoms, 0.0, "here")
    choice.species = "C"
    choice.click(*atoms.positions[200])
    turned, _ = specimens.graphene((29.8, 29.8), 0.0, rotation=20.0).columns()
    if other == "field":  # the same crystal shows the same atoms there
        assert not choice.follow(atoms, 1.0, "there")
    else:
        assert not choice.follow(found(turned, ["C"] * len(turned), rng), 1.0, "here")
    assert f"another {other}" in choice.elsewhere
    assert choice.follow(atoms, 2.0, "here")
    assert choice.elsewhere == ""
    nothing = Atoms2D.empty(SPECIES, (150, 150), 0.2)
    assert not choice.follow(nothing, 3.0, "here")
    assert choice.elsewhere == ""  # dark


def test_after_a_pause_a_perfect_crystal_may_have_moved_and_somebody_has_to_look():
    rng = np.random.default_rng(6)
    choice = Choice()
    atoms = graphene(rng)
    choice.follow(atoms, 0.0)
    choice.species = "C"
    choice.click(*atoms.positions[200])
    assert choice.follow(found(atoms.positions + 0.2, atoms.symbols, rng), 300.0)
    assert choice.doubt
    choice.confirm()
    assert not choice.doubt
    assert choice.follow(found(atoms.positions + 0.25, atoms.symbols, rng), 301.0)
    assert not choice.doubt


@pytest.mark.parametrize("cut", ["whole", "in mid-exposure", "in mid-line"])
def test_a_run_is_read_back_from_its_log_however_that_ended(tmp_path, cut):
    rng = np.random.default_rng(7)
    atoms = graphene(rng)
    sites = atoms.positions[[100, 200, 300]]
    fates = [Fate("C", "done", "6 ms", True, True), Fate("C"), Fate("C")]
    started = datetime.datetime.now(datetime.UTC)
    log = RunLog(tmp_path / "2026-11-30_140300_000" / LOG_NAME)
    Plan(atoms, sites, tuple(fates), (1, 2), (), {"ladder": ["C", ""]}, started).write(log)
    write_fate(log, 1, fates[1].now("exposing", tried=True))
    if cut != "in mid-exposure":
        write_fate(log, 1, fates[1].now("done", "9 ms", tried=True, left=True))
    log.close()
    if cut == "in mid-line":
        text = log.path.read_text(encoding="utf-8")
        log.path.write_text(text[:-20], encoding="utf-8")
    plan = unfinished(tmp_path)
    assert plan is not None
    assert (plan.done, len(plan.sites)) == ((2, 3) if cut == "whole" else (1, 3))
    assert plan.fates[1].state == ("done" if cut == "whole" else "unclear")
    choice = Choice()
    choice.follow(found(atoms.positions[np.arange(len(atoms)) != 100] + 0.3, ["C"] * (len(atoms) - 1), rng), 0.0)
    choice.take_up(plan)
    assert choice.sites == pytest.approx(sites + 0.3, abs=0.15)
    assert choice.rest(once=False, again=False) == ([2] if cut == "whole" else [1, 2])


def test_a_finished_run_is_not_offered(tmp_path):
    log = RunLog(tmp_path / "2026-11-30_140300_000" / LOG_NAME)
    atoms = graphene(np.random.default_rng(8))
    done = Fate("C", "done", "", True, True)
    now = datetime.datetime.now(datetime.UTC)
    Plan(atoms, atoms.positions[:1], (done,), (0,), (), {}, now).write(log)
    log.close()
    assert unfinished(tmp_path) is None
    log = RunLog(tmp_path / "2026-11-30_150300_000" / LOG_NAME)
    Plan(atoms, atoms.positions[:1], (Fate("C"),), (0,), (), {}, now - datetime.timedelta(days=3)).write(log)
    log.close()
    assert unfinished(tmp_path) is None
