"""Results that can be believed are believed, steadily; wrong models, wrong scales, noise and empty fields are not."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import torch

from benchmarks.frames import frame
from stem_ae import elit
from stem_ae.atoms import Atoms2D
from stem_ae.elit import live
from stem_ae.elit.trust import Evidence, Judge, Trust, neighbour_distances, trust_in
from stem_ae.imaging import catalogue
from stem_ae.imaging.probe import AberratedProbe
from stem_ae.imaging.scan_field import ScanField
from stem_ae.imaging.virtual_microscope import Beam, Conditions, VirtualMicroscope

SIZE = (256, 256)
STEP = 0.104
DOSE = {"graphene": 1e6, "mos2": 1e5}
GRAPHENE = 2.46


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@functools.cache
def model(name: str) -> elit.Ensemble:
    return elit.load(name)


def judged(name: str, image: np.ndarray, step: float) -> Trust:
    """Return what the live view thinks of a frame by itself."""
    looking = live._Looking(model(name))
    return looking.at(live.Frame(image, (step, step))).trust


# --- on frames ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degraded", [False, True])
@pytest.mark.parametrize("name", ["graphene", "mos2"])
def test_the_right_model_at_the_right_scale_is_believed(name: str, degraded: bool) -> None:
    for seed in (11, 12):
        counts = frame(name, DOSE[name], size=SIZE, degraded=degraded, seed=seed).counts
        assert judged(name, counts, STEP) == Trust()


@pytest.mark.parametrize(
    ("name", "specimen", "doubt", "words"),
    [("graphene", "mos2", "lattice", "looks like MoS2"), ("mos2", "graphene", "lattice", "looks like graphene")],
)
def test_a_model_for_another_material_is_not_believed_and_the_material_is_named(
    name: str, specimen: str, doubt: str, words: str
) -> None:
    trust = judged(name, frame(specimen, DOSE[specimen], size=SIZE, seed=11).counts, STEP)
    assert trust.doubt == doubt
    assert words in trust.sentence
    assert "Choose a model" in trust.sentence


@pytest.mark.parametrize("factor", [0.5, 2.0, 1.2, 0.85])
@pytest.mark.parametrize("name", ["graphene", "mos2"])
def test_a_wrong_scale_is_not_believed_and_the_right_one_is_named(name: str, factor: float) -> None:
    trust = judged(name, frame(name, DOSE[name], size=SIZE, seed=11).counts, factor * STEP)
    assert trust.doubt == "lattice"
    named = [float(word.strip(",:.")) for word in trust.sentence.split() if word[:2] == "0."]
    assert min(abs(value / STEP - 1) for value in named) < 0.03
    assert min(abs(value / (factor * STEP) - 1) for value in named) < 0.03


@pytest.mark.parametrize("name", ["graphene", "mos2"])
def test_a_typed_scale_is_checked_too(name: str) -> None:
    counts = frame(name, DOSE[name], size=SIZE, seed=11).counts
    choice = live.SamplingChoice("typed", 2 * STEP)
    assert live._Looking(model(name)).at(live.Frame(counts, None, choice)).trust.doubt == "lattice"


@pytest.mark.parametrize("name", ["graphene", "mos2"])
@pytest.mark.parametrize("mean", [0.02, 1.0, 100.0])
def test_rings_on_noise_are_not_believed(name: str, mean: float) -> None:
    noise = np.random.default_rng(3).poisson(mean, SIZE).astype(np.float32)
    for step in (STEP, 0.23):
        trust = judged(name, noise, step)
        assert trust.doubt == "unfamiliar"
        assert "in view and in focus" in trust.sentence


@pytest.mark.parametrize("name", ["graphene", "mos2"])
def test_an_empty_field_is_not_believed(name: str) -> None:
    rows, columns = np.indices(SIZE)
    readout = np.random.default_rng(1).normal(0, 0.05, SIZE)
    for empty in (readout, 0.02 * rows + 0.01 * columns + readout):
        trust = judged(name, empty.astype(np.float32), STEP)
        assert not trust.believed
        assert "in view and in focus" in trust.sentence


def test_another_crystal_is_not_believed_even_when_its_scale_was_taken_from_its_own_lattice() -> None:
    """Dumbbells, such as those of Si [110], look familiar to a graphene model that was told a scale to fit."""
    rng = np.random.default_rng(5)
    a, b, pair = np.array([3.84, 0.0]), np.array([1.92, 2.715]), np.array([0.0, 0.68])
    sites = np.array([i * a + j * b + s * pair for i in range(-12, 14) for j in range(-1, 14) for s in (-1, 1)])
    sites = sites[(sites > -2).all(1) & (sites < np.array(SIZE) * STEP + 2).all(1)]
    y, x = np.indices(SIZE) * STEP
    image = sum(np.exp(-((x - sx) ** 2 + (y - sy) ** 2) / (2 * 0.4**2)) for sx, sy in sites)
    counts = rng.poisson(30 * np.asarray(image) + 2).astype(np.float32)
    value, confidence = model("graphene").estimate_sampling(counts)
    assert confidence > live.CONFIDENT_LATTICE
    by_lattice = live.Frame(counts, None, live.SamplingChoice("lattice"))
    assert not live._Looking(model("graphene")).at(by_lattice).trust.believed
    assert not judged("graphene", counts, value).believed


@pytest.mark.parametrize("name", ["graphene", "mos2"])
def test_an_unfamiliar_frame_is_to_be_adapted_to(name: str) -> None:
    counts = frame(name, DOSE[name], size=SIZE, probe=AberratedProbe(defocus=80.0), seed=11).counts
    trust = judged(name, counts, STEP)
    assert trust.doubt == "unfamiliar"
    assert "adapt the model" in trust.sentence


@pytest.mark.parametrize(
    ("specimen", "name", "fov", "dwell_us", "current_pa"),
    [
        ("graphene with silicon", "graphene", 40.0, 4.0, 200.0),
        ("graphene with silicon", "graphene", 40.0, 1.0, 30.0),  # its novelty is between 0.8 and 1.03
        ("graphene with silicon", "graphene", 60.0, 1.0, 100.0),  # between 0.59 and 1.19
        ("MoS2 with vacancies", "mos2", 60.0, 1.0, 200.0),
        ("MoS2 with vacancies", "mos2", 40.0, 0.5, 30.0),  # an occasional frame at 1.12, an occasional odd atom
    ],
)
def test_live_frames_of_the_specimen_that_fits_do_not_flicker(
    specimen: str, name: str, fov: float, dwell_us: float, current_pa: float
) -> None:
    entry = catalogue.entry(specimen)
    microscope = VirtualMicroscope(entry.make(), Conditions(damage=False, contamination=entry.contamination), 1)
    field = ScanField(fov=(fov, fov), centre=(10.0, 5.0))
    shown = microscope.begin_frame(field, SIZE, dwell_us, Beam(current_pa=current_pa))
    looking = live._Looking(model(name))
    said = [looking.at(live.Frame(shown.counts("HAADF"), (fov / 256, fov / 256))).trust.doubt for _ in range(12)]
    assert said == [None] * 12


def test_another_specimen_under_the_same_scan_is_noticed_at_once_and_the_way_back_soon() -> None:
    choice = live.SamplingChoice()  # of the channel, as in the panel
    frames = {name: frame(name, DOSE[name], size=SIZE, seed=11).counts for name in DOSE}
    looking = live._Looking(model("graphene"))

    def look(name: str) -> Trust:
        return looking.at(live.Frame(frames[name], (STEP, STEP), choice, subject="scan/a")).trust

    assert [look("graphene").believed for _ in range(3)] == [True] * 3
    assert not look("mos2").believed
    assert "looks like MoS2" in look("mos2").sentence  # the lattice is asked again, too
    way_back = [look("graphene").believed for _ in range(9)]
    assert way_back[-1]
    assert way_back == sorted(way_back)  # once believed again, it stays so


def test_novelty_is_the_same_whichever_atoms_are_asked_for() -> None:
    for probe in (AberratedProbe(), AberratedProbe(defocus=70.0)):
        counts = frame("graphene", 1e5, size=SIZE, probe=probe, seed=3).counts
        predictions = [model("graphene").predict(counts, STEP, threshold) for threshold in (0.2, 0.5, 0.8)]
        assert len({p.novelty for p in predictions}) == 1
        assert len({p.conditions for p in predictions}) == 1
        counts_found = [len(p.atoms) for p in predictions]
        assert counts_found == sorted(counts_found, reverse=True)
        assert all((p.presence > threshold).all() for p, threshold in zip(predictions, (0.2, 0.5, 0.8), strict=True))


# --- on numbers -----------------------------------------------------------------------------------------------------

USUAL = Evidence(400, 0.5, 0, 1.42, 1.39, 0.104, 0.104, 1.0)


def said(judge: Judge, evidences: list[Evidence]) -> list[bool]:
    return [judge.judge(evidence, "scan").believed for evidence in evidences]


def with_conditions(*values: float) -> list[Evidence]:
    return [dataclasses.replace(USUAL, conditions=value) for value in values]


@pytest.mark.parametrize("seed", range(5))
def test_near_the_limit_the_judge_keeps_to_what_it_said(seed: int) -> None:
    near = np.random.default_rng(seed).normal(1.0, 0.15, 300)
    verdicts = said(Judge(GRAPHENE), with_conditions(*near))
    assert sum(a != b for a, b in itertools.pairwise(verdicts)) <= 1
    alone = [trust_in(evidence, GRAPHENE).believed for evidence in with_conditions(*near)]
    assert sum(a != b for a, b in itertools.pairwise(alone)) > 50  # which it would do otherwise


def test_single_frames_beyond_the_limit_do_not_matter_but_a_series_or_a_clear_one_does() -> None:
    assert said(Judge(GRAPHENE), with_conditions(0.6, 0.6, 1.3, 0.6, 0.7, 1.2, 0.6)) == [True] * 7
    assert said(Judge(GRAPHENE), with_conditions(*[0.6] * 4, *[1.3] * 5))[-1] is False
    assert said(Judge(GRAPHENE), with_conditions(0.6, 0.6, 3.0)) == [True, True, False]
    assert said(Judge(GRAPHENE), with_conditions(1.05)) == [False]
    judge = Judge(GRAPHENE)
    assert said(judge, with_conditions(3.0, 3.0)) == [False, False]
    assert judge.judge(USUAL, "another scan").believed  # what was said of one subject is not said of the next


def test_an_odd_atom_now_and_then_does_not_matter_but_one_that_stays_does() -> None:
    odd = dataclasses.replace(USUAL, foreign=1)
    assert said(Judge(GRAPHENE), [USUAL, USUAL, USUAL, odd, USUAL, USUAL, odd, USUAL]) == [True] * 8
    stays = Judge(GRAPHENE)
    assert said(stays, [USUAL, odd, odd, odd, odd, odd])[-1] is False
    assert stays.judge(dataclasses.replace(USUAL, foreign=4), "scan").sentence.startswith("2 columns are")
    assert trust_in(odd, GRAPHENE).sentence.startswith("1 column is")


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({"atoms": 0}, "nothing"),
        ({"bond": 1.55, "nearest": 1.5}, "bonds"),
        ({"bond": 1.30, "nearest": 1.28}, "bonds"),
        ({"bond": 1.43, "nearest": 1.12}, "bonds"),
        ({"lattice": 0.12, "bond": 1.64, "nearest": 1.6}, "lattice"),
        ({"lattice": 0.12, "bond": math.nan, "nearest": math.nan}, "lattice"),
        ({"lattice": 0.12, "conditions": 1.3}, "lattice"),
        ({"lattice": 0.12}, None),  # the atoms' distances say otherwise
        ({"lattice": 0.12, "clarity": 0.5, "bond": math.nan, "nearest": math.nan}, None),  # it is hardly seen
        ({"lattice": math.nan, "clarity": math.nan, "bond": math.nan, "nearest": math.nan}, None),
        ({"bond": 1.40, "nearest": 1.32}, None),  # noise
    ],
)
def test_what_speaks_against_a_result(changes: dict[str, float], doubt: str | None) -> None:
    trust = trust_in(dataclasses.replace(USUAL, **changes), GRAPHENE)
    assert trust.doubt == doubt
    assert trust.believed == (doubt is None) == (not trust.sentence)


def test_without_a_lattice_distances_are_not_judged() -> None:
    assert trust_in(dataclasses.replace(USUAL, bond=3.0, nearest=1.0, lattice=math.nan, clarity=math.nan)).believed


def test_neighbours_of_a_honeycomb_are_a_bond_away_and_borders_do_not_count() -> None:
    bond = 1.42
    rows, columns = np.indices((12, 12)).reshape(2, -1)
    corner = np.column_stack([np.sqrt(3) * bond * (columns + rows / 2), 1.5 * bond * rows])
    xy = np.concatenate([corner, corner + np.array([0, bond])])
    xy = xy[(xy[:, 0] > 16) & (xy[:, 0] < 30) & (xy[:, 1] < 20)] - [16, 0]
    atoms = Atoms2D(
        xy, np.zeros((len(xy), 2, 2)), np.zeros(len(xy), int), ("C",), np.ones((len(xy), 1)), np.ones(len(xy)),
        (200, 140), 0.1,
    )  # fmt: skip
    assert neighbour_distances(atoms) == pytest.approx((bond, bond))
    noise = np.random.default_rng(0).normal(0, 0.05, xy.shape)
    mean, nearest = neighbour_distances(dataclasses.replace(atoms, positions=np.clip(xy + noise, 0, None)))
    assert mean == pytest.approx(bond, abs=0.01)
    assert nearest < mean - 0.02  # the nearest of three is too near: the mean is the bond
    assert all(math.isnan(value) for value in neighbour_distances(atoms[:10]))
