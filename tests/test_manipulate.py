"""Targets, aim, exposure: against simulation of counts with known steps."""

import json
import math

import numpy as np
import pytest

from stem_ae import StemAeError, manipulate
from stem_ae.manipulate import step

S2, S1 = 4.0e6, 2.1e6  # counts per second, as at 60 pA


def run_lengths(before, after, rate, exposure, true, chains, seed, longest=200_000):
    """Exposures until the alarm of many independent tests from zero: the definition, written out once more."""
    rng = np.random.default_rng(seed)
    limit = step.threshold(before, after, rate, exposure)
    evidence, stopped = np.zeros(chains), np.zeros(chains, int)
    for n in range(1, longest):
        k = rng.poisson(true * exposure, chains)
        evidence = np.maximum(0, evidence + k * math.log(after / before) - (after - before) * exposure)
        stopped[(evidence >= limit) & (stopped == 0)] = n
        if stopped.all():
            return stopped
    raise AssertionError("no alarm")


# --- the step detector -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "exposure", "rate"),
    [
        (S2, S1, 1e-6, 500.0),  # half a nat per exposure
        (S1, S2, 1e-6, 500.0),  # upwards
        (S2, S1, 2e-7, 2000.0),  # less than one count per exposure
        (1000.0, 900.0, 2e-3, 0.5),  # a weak step
        (50.0, 30.0, 1e-3, 1.0),  # a twentieth of a count per exposure
    ],
)
def test_false_alarms_and_delay_are_those_of_simulation(before, after, exposure, rate):
    chains = 1000
    alarms = run_lengths(before, after, rate, exposure, before, chains, seed=1)
    # Times to false alarms are exponential: their mean is known to 3 %.
    assert 1 / (alarms.mean() * exposure) == pytest.approx(rate, rel=0.12)
    delays = run_lengths(before, after, rate, exposure, after, chains, seed=2) * exposure
    expected = step.expected_delay_s(before, after, rate, exposure)
    assert delays.mean() == pytest.approx(expected, abs=4 * delays.std() / math.sqrt(chains), rel=0.02)


def test_where_one_exposure_decides_false_alarms_are_rarer_than_asked():
    alarms = run_lengths(S2, S1, 3000.0, 1e-5, S2, 500, seed=3)
    assert 300 < 1 / (alarms.mean() * 1e-5) < 3000 * 1.1


def test_detector_is_the_definition():
    rng = np.random.default_rng(4)
    counts = np.concatenate([rng.poisson(S2 * 1e-6, 3000), rng.poisson(S1 * 1e-6, 200)])
    detector = manipulate.StepDetector(before=S2, after=S1, false_alarm_per_s=1e-2)
    stops = [detector.update(k, 1e-6) for k in counts]
    steps = counts * math.log(S1 / S2) + (S2 - S1) * 1e-6
    walk = np.concatenate([[0.0], np.cumsum(steps)])
    evidence = (walk - np.minimum.accumulate(walk))[1:]  # the reflected walk, without the recursion
    first = int(np.argmax(evidence >= detector.threshold))
    assert stops.index(True) == first
    assert 3000 <= first < 3200
    assert all(stops[first:]), "the decision stays"
    detector.reset()
    assert detector.statistic == 0
    assert not detector.update(4, 1e-6)


def test_exposures_of_varying_length_keep_the_false_alarm_rate():
    rng = np.random.default_rng(5)
    exposures = rng.choice([5e-7, 1e-6, 3e-6], 150_000)
    counts = rng.poisson(S2 * exposures)
    detector = manipulate.StepDetector(before=S2, after=S1, false_alarm_per_s=1500.0)
    alarms = 0
    for k, t in zip(counts, exposures, strict=True):
        if detector.update(k, t):
            alarms += 1
            detector.reset()
    expected = 1500 * exposures.sum()
    assert abs(alarms - expected) < 4 * math.sqrt(expected) + 0.1 * expected


def test_delay_reaches_the_bound_for_rare_false_alarms():
    # ln(exposures to a false alarm) / information is the leading term: the ratio tends to one.
    for rate, within in ((1e-1, 0.15), (1e-30, 0.05)):
        ratio = step.expected_delay_s(S2, S1, rate, 2e-6) / step.lorden_bound_s(S2, S1, rate, 2e-6)
        assert ratio == pytest.approx(1, abs=within)


def test_information_is_the_mean_evidence():
    rng = np.random.default_rng(6)
    k = rng.poisson(S1 * 1e-6, 200_000)
    evidence = k * math.log(S1 / S2) + (S2 - S1) * 1e-6
    assert step.information_per_s(S2, S1) * 1e-6 == pytest.approx(evidence.mean(), rel=0.02)


@pytest.mark.parametrize("wrong", [{"before": 0.0}, {"after": -1.0}, {"false_alarm_per_s": math.nan}, {"after": S2}])
def test_impossible_levels_are_refused(wrong):
    with pytest.raises(StemAeError):
        manipulate.StepDetector(**{"before": S2, "after": S1, "false_alarm_per_s": 1e-2, **wrong})


@pytest.mark.parametrize(("counts", "exposure"), [(-1, 1e-6), (math.nan, 1e-6), (3, 0.0), (3, math.inf)])
def test_impossible_readings_are_refused(counts, exposure):
    detector = manipulate.StepDetector(before=S2, after=S1, false_alarm_per_s=1e-2)
    with pytest.raises(StemAeError):
        detector.update(counts, exposure)


# --- one exposure ----------------------------------------------------------------------------------------------------

LEVELS = (4.43e6, 2.38e6, 0.34e6)


def settings(**changes):
    standard = {"levels": LEVELS, "current_pa": 60.0, "timeout_s": 0.01, "maximum_electrons": 1e9}
    return manipulate.ExposureSettings(**{**standard, **changes})


def play(exposure, rng, later, reading=1e-5, at=5.03e-4):
    """Counts with a change of level at a moment; one more reading comes in while the beam is being blanked."""
    start = 0.0
    while exposure.outcome is None:
        new = min(max(start + reading - at, 0.0), reading)
        exposure.update(rng.poisson(LEVELS[0] * (reading - new) + later * new), reading)
        start += reading
    exposure.confirm(rng.poisson(later * reading), reading)
    return exposure


@pytest.mark.parametrize("reading", [5e-6, 1e-5, 1e-4])
@pytest.mark.parametrize(
    ("later", "outcome", "share"),
    [
        (LEVELS[1], manipulate.Outcome.STEP, 0.97),
        (LEVELS[1] * 0.97, manipulate.Outcome.STEP, 0.97),  # levels are never known exactly
        (LEVELS[2], manipulate.Outcome.DOUBLE, 0.93),
        (LEVELS[0] * 1.25, manipulate.Outcome.ABNORMAL, 0.97),
        (LEVELS[0] * 0.78, manipulate.Outcome.ABNORMAL, 0.9),
    ],
)
def test_outcomes_are_named_rightly(later, outcome, share, reading):
    rng = np.random.default_rng(7)
    moments = 5e-4 + reading * rng.random(60)
    ends = [play(manipulate.Exposure(settings()), rng, later, reading, moment) for moment in moments]
    assert sum(e.outcome is outcome for e in ends) >= share * 60


def test_limits_end_the_exposure():
    rng = np.random.default_rng(8)
    late = play(manipulate.Exposure(settings(timeout_s=1e-3)), rng, LEVELS[0])
    assert late.outcome is manipulate.Outcome.TIMEOUT
    assert 1e-3 <= late.elapsed_s <= 1e-3 + 2.5e-5
    enough = play(manipulate.Exposure(settings(maximum_electrons=1e5)), rng, LEVELS[0])
    assert enough.outcome is manipulate.Outcome.MAXIMUM_DOSE
    assert 1e5 <= enough.electrons <= 1e5 + 3 * 60e-12 / 1.602e-19 * 1e-5


def test_a_lone_sulphur_has_no_double_ejection():
    exposure = manipulate.Exposure(settings(levels=LEVELS[1:]))
    while exposure.outcome is None:
        exposure.update(round(LEVELS[2] * 1e-5), 1e-5)
    assert exposure.outcome is manipulate.Outcome.STEP


@pytest.mark.parametrize("later", [LEVELS[1], LEVELS[2], LEVELS[0]])
def test_exposures_are_replayed_from_json(later):
    exposure = play(manipulate.Exposure(settings()), np.random.default_rng(9), later)
    record = json.loads(json.dumps(exposure.to_dict()))
    again = manipulate.Exposure.from_dict(record)
    assert again.outcome is exposure.outcome
    assert again.to_dict() == exposure.to_dict()


def test_a_record_that_was_changed_is_refused():
    record = play(manipulate.Exposure(settings()), np.random.default_rng(9), LEVELS[1]).to_dict()
    with pytest.raises(StemAeError, match="changed"):
        manipulate.Exposure.from_dict(record | {"outcome": "timeout"})
    with pytest.raises(StemAeError):
        manipulate.Exposure.from_dict({})


def test_stopping_is_recorded_once():
    exposure = manipulate.Exposure(settings())
    exposure.update(44, 1e-5)
    exposure.end(manipulate.Outcome.STOPPED)
    exposure.end(manipulate.Outcome.SIGNAL_LOST)
    assert exposure.outcome is manipulate.Outcome.STOPPED
    assert manipulate.Exposure.from_dict(exposure.to_dict()).outcome is manipulate.Outcome.STOPPED
    with pytest.raises(StemAeError):
        exposure.update(44, 1e-5)


@pytest.mark.parametrize(
    "wrong", [{"levels": (1.0,)}, {"levels": (3.0, 1.0, 2.0)}, {"timeout_s": 0.0}, {"tolerance": 2.0}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(StemAeError):
        settings(**wrong)
