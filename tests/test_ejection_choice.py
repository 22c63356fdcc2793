"""What the Eject panel lets one choose, and what it makes of that: no Swift runs here."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("nion.swift")

from nionswift_plugin.stem_ae_ui.ejection_choice import CLICK, Choice
from nionswift_plugin.stem_ae_ui.ejection_intent import MOVE, ONCE, UNTIL, Intent, measured_source
from nionswift_plugin.stem_ae_ui.ejection_news import News
from stem_ae import Atoms2D, StemAeError
from stem_ae.imaging import specimens
from stem_ae.imaging.scan_field import ScanField
from stem_ae.imaging.virtual_microscope import Beam as Column
from stem_ae.imaging.virtual_microscope import Conditions, VirtualMicroscope
from stem_ae.manipulate import Limits, RemoveDopants, rehearsal
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
        Intent.of(choice, UNTIL, 5.0, PLENTY, column)
    choice.add(choice.candidates())
    removing = Intent.of(choice, UNTIL, 5.0, PLENTY, column)
    assert isinstance(removing.carried_out_by(), RemoveDopants)
    assert removing.settings().ladder == ("Si", "C")
    assert removing.settings().dopant == ""
    assert "leave in time" in removing.cost()[0]
    once = Intent.of(choice, ONCE, 5.0, PLENTY, column)
    assert len(once.carried_out_by().sites) == 1
    moving = Intent.of(choice, MOVE, 60.0, PLENTY, column)
    assert moving.settings().dopant == "Si"
    assert "0 steps" in moving.cost()[0]
    choice.clear()
    choice.species = "C"
    choice.click(*choice.atoms.positions[choice.nearest(np.array([17.5, 15.0]))])
    moving = Intent.of(choice, MOVE, 60.0, PLENTY, column)
    steps, seconds = moving.cost()[0].split("steps of")
    assert int(steps.split()[-1]) in (2, 3)
    assert 10 < float(seconds.split()[0]) < 20
    zones = [np.array([[13.0, 13.0], [16.5, 13.0], [16.5, 17.0], [13.0, 17.0]])]
    choice.zones = zones  # the dopant is in it: nobody can come
    with pytest.raises(StemAeError, match="0 of 1"):
        Intent.of(choice, MOVE, 60.0, PLENTY, column).cost()


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
    intent = Intent(atoms, atoms.positions[[middle]], (), ladder, ONCE, 5.0, Limits(), column, measured)
    words, warning = intent.cost()
    share = float(words.split("a neighbour is lost in ")[1].split("%")[0])
    assert share == pytest.approx(0.79 if warned else 0.32, abs=0.15)  # as computed in docs/manipulation.md
    assert ("the same gun and current would make it" in warning) is warned


def test_a_rehearsal_brings_a_dopant_to_the_target_and_tells_so():
    rng = np.random.default_rng(2)
    choice = Choice()
    choice.follow(graphene(rng, (15, 15)), 0.0)
    choice.species = "C"
    choice.click(*choice.atoms.positions[choice.nearest(np.array([17.0, 15.0]))])
    intent = Intent.of(choice, MOVE, 60.0, PLENTY, Column(current_pa=150.0))
    weight, told = np.array([0.00147, 0.0062]), []

    def find(image, sampling):
        frame = staged.microscope._last_frame
        xy, names = frame.truth()
        return found(xy, names, rng, weight * frame.electrons)

    policy = intent.carried_out_by()
    news = News(policy, lambda: told.append(news.state(0)[0]))
    staged = rehearsal.Rehearsal(
        intent.atoms, find, policy, intent.column, Conditions(drift=(1 / 60, 0.0)), intent.settings(), PLENTY,
        observer=news, seed=5,
    )  # fmt: skip
    staged.run.guard.arm()
    assert staged.run.run() == "done"
    assert news.state(0)[0] == "done"
    assert {"aiming", "exposing", "verifying", "waiting", "done"} <= set(told)
    assert staged.beam.is_blanked
    silicon = staged.microscope.specimen.positions[staged.microscope.specimen.numbers == 14, :2] + 15.0 - 0.1
    assert silicon == pytest.approx(intent.sites, abs=0.4)
