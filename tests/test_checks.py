"""Impossible settings are refused, whichever class holds them: above all NaN, which would limit nothing."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.explore import Explorer
from stem_ae.explore.objective import Objective, Property
from stem_ae.explore.scalarize import BandIntegral, DiskStrain, EdgeArea, PeakPosition, Reciprocal, VirtualDetector
from stem_ae.explore.tuner import Tuner
from stem_ae.imaging.virtual_microscope import Beam, Conditions
from stem_ae.manipulate import ClosedLoop, ExposureSettings, Limits, LockOn, RunSettings, StepDetector
from stem_ae.manipulate.aim import Track
from stem_ae.manipulate.moves import RemoveDopants
from stem_ae.manipulate.policy import OpenLoop
from stem_ae.microscope.frame import Frame
from stem_ae.plans.explore import Settings
from tests.rigs import Disulfide

SITES = np.array([[1.0, 2.0], [5.0, 6.0]])
IMAGE = np.random.default_rng(0).normal(size=(32, 32))
GIVEN = {
    Frame: {"fov": 40.0, "shape": (64, 64)},
    ExposureSettings: {"levels": (4e6, 2e6), "current_pa": 60.0, "timeout_s": 1.0, "maximum_electrons": 1e9},
    ClosedLoop: {"sites": SITES, "wanted": ("S1", "S1")},
    RemoveDopants: {"sites": SITES, "dopants": SITES[:1]},
    Explorer: {"image": IMAGE, "patch": 8, "surrogate": "gp"},
    Property: {"value_of": float},
}
NO_LIMIT = {(Limits, "total_electrons"), (Limits, "local_dose"), (Explorer, "dose_budget")}
ANY_SIGN = {(Property, "weight"), (Frame, "rotation"), (Beam, "defocus"), (Beam, "cs")}
UNCHECKED = {"seed", "length_scale"}  # checked by what uses them


def numbers_of(cls):
    """Return the parameters of a class that are one number."""
    return [
        name for name, parameter in inspect.signature(cls).parameters.items()
        if str(parameter.annotation) in ("float", "int") and name not in UNCHECKED
    ]  # fmt: skip


CLASSES = (Limits, RunSettings, ExposureSettings, ClosedLoop, RemoveDopants, Track, Frame, Beam, Conditions, Explorer,
           Property)  # fmt: skip


@pytest.mark.parametrize(("cls", "name"), [(cls, name) for cls in CLASSES for name in numbers_of(cls)])
def test_no_setting_may_be_nan_infinite_or_negative(cls, name):
    given = GIVEN.get(cls, {})
    cls(**given)  # is right as it is
    wrong = [math.nan, np.float32("nan"), -math.inf, "many", None, True, np.True_]
    wrong += [] if (cls, name) in NO_LIMIT else [math.inf]
    wrong += [] if (cls, name) in ANY_SIGN else [-1.0]
    for value in wrong:
        with pytest.raises(StemAeError) as refusal:
            cls(**given | {name: value})
        sentence = str(refusal.value)
        assert sentence.endswith(".")
        assert "give" in sentence
        assert f" is {value:g}" in sentence if isinstance(value, float) else f" is {value}" in sentence


def test_the_sweep_has_found_the_limits_that_it_is_about():
    found = {(cls, name) for cls in CLASSES for name in numbers_of(cls)}
    assert {(RunSettings, "aim_limit"), (ExposureSettings, "learn_s"), (Explorer, "dose_budget")} <= found
    assert {(Frame, "dwell_us"), (Limits, "armed_s"), (Conditions, "contamination")} <= found
    assert len(found) > 40


@pytest.mark.parametrize("make", [
    lambda: RunSettings(aim_limit=5.0),
    lambda: Limits(armed_s=1e9),
    lambda: Frame(40.0, (64, 10**6)),
    lambda: Frame(1e12, (8, 8)),
    lambda: Frame(40.0, (64, 64), centre=(math.nan, 0.0)),
    lambda: Frame(40.0, (64.5, 64)),
    lambda: RunSettings(ladder=("S2",)),
    lambda: RunSettings(aim_scans=0),
    lambda: ClosedLoop(SITES, ("S1", "S1"), tries=0),
    lambda: ExposureSettings((math.nan, 2e6), 60.0, 1.0, 1e9),
    lambda: ExposureSettings((math.inf, 2e6), 60.0, 1.0, 1e9),
    lambda: OpenLoop([[1.0, math.nan]]),
    lambda: Conditions(drift=(math.nan, 0.0)),
    lambda: Conditions(contamination=2.0),
    lambda: Objective((Property(float, math.nan),)),
    lambda: Tuner([0.0], [math.inf]),
    lambda: Tuner([math.nan], [1.0]),
    lambda: Tuner([0.0], [1.0], start=[math.nan]),
    lambda: DiskStrain(((0, 0), (0, 9), (9, 0)), math.nan),
    lambda: Reciprocal(math.nan),
    lambda: Reciprocal(1.0, (math.nan, 0.0)),
    lambda: Explorer(IMAGE, patch=8, feature=1.0),
    lambda: Explorer(IMAGE, patch=8, seed=-1),
    lambda: Explorer(IMAGE, patch=8, seed="5"),
    lambda: Tuner([0.0], [1.0], seed=math.nan),
    lambda: Limits(total_electrons=np.array([1, 2])),
    lambda: OpenLoop([[10**400, 1.0]]),
    lambda: RunSettings(ladder="S2"),
    lambda: RunSettings(ladder=None),
    lambda: RunSettings(ladder=(1, 2)),
    lambda: RunSettings(dopant=3),
    lambda: Frame(40.0, 64),
    lambda: Frame(40.0, "64"),
    lambda: Frame(40.0, (64, 64, 64)),
    lambda: ExposureSettings(4e6, 60.0, 1.0, 1e9),
    lambda: StepDetector("4e6", 2e6, 1e-3),
    lambda: StepDetector(4e6, True, 1e-3),
    lambda: StepDetector(4e6, None, 1e-3),
])  # fmt: skip
def test_absurd_settings_are_refused(make):
    with pytest.raises(StemAeError) as refusal:
        make()
    assert str(refusal.value).endswith(".")


@pytest.mark.parametrize("scalarizer", [
    BandIntegral((math.nan, 5.0)), BandIntegral((1.0, math.inf)), PeakPosition((2.0, math.nan)),
    EdgeArea((math.nan, 20.0), (30.0, 40.0)),
])  # fmt: skip
def test_a_band_that_is_none_is_refused(scalarizer):
    with pytest.raises(StemAeError):
        scalarizer(np.ones(100), np.arange(100.0))
    with pytest.raises(StemAeError):
        VirtualDetector(math.nan, 3.0)(np.ones((8, 8)), Reciprocal(1.0))


def test_an_aim_whose_uncertainty_is_unknown_is_not_fired_at():
    bench = Disulfide(seed=3)
    target = int(np.argmin(np.linalg.norm(bench.atoms.positions - 15, axis=1)))
    lock = LockOn(bench.atoms, target)
    lock.add(bench.atoms, (0.0, 0.0), 1.0)
    assert lock.predict(1.0).neighbours > 4
    for limit in (math.nan, math.inf, -1.0):
        with pytest.raises(StemAeError, match="uncertainty"):
            lock.predict(1.0, limit)
    for name in ("reach", "drift", "distortion", "scatter"):
        with pytest.raises(StemAeError, match=name):
            LockOn(bench.atoms, target, **{name: math.nan})
    with pytest.raises(StemAeError):
        lock.predict(math.nan)
    with pytest.raises(StemAeError, match="time"):
        Track().add(math.nan, np.zeros(2))
    with pytest.raises(StemAeError, match="drift"):
        Track().add(1.0, np.array([math.nan, 0.0]))


@pytest.mark.parametrize(("electrons", "attempts"), [(1e3, 0), (9.5e6, 1), (3e7, 2)])
def test_a_total_dose_cap_that_is_too_small_is_the_reason_of_the_end(electrons, attempts):
    """Whether the cap is met while aiming, exposing or looking again, the run does not call itself done."""
    bench = Disulfide(seed=7, damage=False)
    policy = ClosedLoop(bench.near((9, 9), (21, 9), (9, 21), (21, 21)), ("S1",) * 4)
    run = bench.run(policy, limits=Limits(total_electrons=electrons))
    run.ledger.electrons = 0.0  # the survey is not what is tested here
    reason = run.run()
    assert "total dose cap" in reason
    assert run.reason == reason
    assert len(run.attempts) <= attempts
    assert run.ledger.electrons <= 1.1 * electrons + 1e6
    assert bench.beam.is_blanked


def test_checks_return_plain_numbers():
    assert checks.whole(np.int64(3), "n") == 3
    assert type(checks.positive(np.float32(2), "n")) is float
    assert checks.place((np.float64(1), 2), "p") == (1.0, 2.0)
    np.testing.assert_array_equal(checks.places([[1, 2]], "p"), [[1.0, 2.0]])
    assert checks.budget(math.inf, "n") == math.inf
    for wrong in (0.5, True, "3", math.nan, 10**400):
        with pytest.raises(StemAeError, match="whole"):
            checks.whole(wrong, "n")
    with pytest.raises(StemAeError, match="number 2 has no position"):
        checks.places([[1, 2], [math.nan, 2]], "The points")


def test_whole_numbers_that_were_written_as_others_count():
    """A run would stumble over 2.0 in the middle, with the beam's dose spent."""
    frame = Frame(40.0, np.array([64.0, 32.0]))
    assert frame.shape == (64, 32)
    assert np.zeros(frame.shape).shape == (64, 32)
    settings = RunSettings(aim_scans=2.0, verify_scans=np.float64(3))
    explored = Settings(frame, points=8.0, batch=2.0, first=4.0, drift_every=np.int64(3))
    policy = ClosedLoop(SITES, ("S1", "S1"), tries=2.0)
    whole = [settings.aim_scans, settings.verify_scans, explored.points, explored.batch, explored.first,
             explored.drift_every, policy.tries]  # fmt: skip
    assert whole == [2, 3, 8, 2, 4, 3, 2]
    assert {type(number) for number in whole} == {int}
    tuner = Tuner([0.0], [1.0], first=2.0)
    assert tuner.ask().shape == (1,)


@pytest.mark.parametrize(("value", "number"), [
    (2, 2.0), (True, 1.0), (np.float32(0.5), 0.5), (math.inf, None), (None, None), ("3", None), (1j, None),
    (np.ones(3), None), (1e300, None),
])  # fmt: skip
def test_what_a_property_gives_is_a_number_or_none(value, number):
    found = Property(lambda exposure: value)(None)
    assert found == number if number is not None else math.isnan(found)


def test_a_property_that_cannot_be_computed_is_said():
    def broken(exposure):
        raise ZeroDivisionError("no counts")

    with pytest.raises(StemAeError, match=r"cannot be computed .*no counts"):
        Property(broken)(None)
