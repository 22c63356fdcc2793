"""Targets, aim, exposure: against simulation of counts with known steps."""

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


# --- the step detector ---------------------------------------------------------------------------------------------------


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
    ratios = [
        step.expected_delay_s(S2, S1, rate, 2e-6) / step.lorden_bound_s(S2, S1, rate, 2e-6) for rate in (1e-1, 1e-8, 1e-30)
    ]
    assert abs(ratios[2] - 1) < abs(ratios[0] - 1) + 0.02
    assert ratios[2] == pytest.approx(1, abs=0.05)


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
