"""Targets, aim, exposure: against simulation of counts with known steps."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from stem_ae import Atoms2D, StemAeError, manipulate
from stem_ae.imaging import specimens
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.manipulate import aim, step, targets

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
    chains = 600
    alarms = run_lengths(before, after, rate, exposure, before, chains, seed=1)
    # Times to false alarms are exponential: their mean is known to 4 %.
    assert 1 / (alarms.mean() * exposure) == pytest.approx(rate, rel=0.14)
    delays = run_lengths(before, after, rate, exposure, after, chains, seed=2) * exposure
    expected = step.expected_delay_s(before, after, rate, exposure)
    assert delays.mean() == pytest.approx(expected, abs=4 * delays.std() / math.sqrt(chains), rel=0.02)


def test_where_one_exposure_decides_false_alarms_are_rarer_than_asked():
    alarms = run_lengths(S2, S1, 3000.0, 1e-5, S2, 500, seed=3)
    assert 300 < 1 / (alarms.mean() * 1e-5) < 3000 * 1.1
    for exposure in (5e-4, 1e-3, 1e-2):  # nothing is searched here, and nothing lost
        nats = step.threshold(S2, S1, 1e-3, exposure)
        assert step.false_alarm_rate(S2, S1, nats, exposure) <= 1e-3
        assert step.expected_delay_s(S2, S1, 1e-3, exposure) == pytest.approx(exposure, rel=1e-6)


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
    for learn_s in (0.0, 1e-3):  # a time that is not a number would never reach the timeout
        with pytest.raises(StemAeError):
            manipulate.Exposure(settings(learn_s=learn_s)).update(counts, exposure)


# --- levels ----------------------------------------------------------------------------------------------------------


def test_levels_are_the_sum_of_the_probe_over_the_columns():
    atoms, sigma = sheet(noise=0.0), 0.6
    target = int(np.argmin(np.linalg.norm(atoms.positions - 15, axis=1) + 100 * (atoms.labels != 1)))
    weights = {"Mo": 0.05, "S2": 0.02, "S1": 0.01}
    found = manipulate.signal_levels(atoms, target, weights, 0.01, 2, GaussianProbe(sigma), 60.0, 1e-4)
    r2 = np.sum((atoms.positions - atoms.positions[target]) ** 2, axis=1)
    probe = np.exp(-r2 / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    column = np.array([weights[name] for name in atoms.symbols])
    for level, left in zip(found, (0.02, 0.01, 0.0), strict=True):
        column[target] = left
        assert level == pytest.approx(60e-12 / 1.602177e-19 * (probe @ column + 1e-4), rel=1e-3)
    with pytest.raises(StemAeError, match="fewer"):
        manipulate.signal_levels(atoms, target, weights, 0.01, 4, GaussianProbe(sigma), 60.0, 1e-4)
    with pytest.raises(StemAeError, match="Mo"):
        manipulate.signal_levels(atoms, target, {"S2": 1.0}, 0.01, 1, GaussianProbe(sigma), 60.0)


# --- one exposure ----------------------------------------------------------------------------------------------------

LEVELS = (4.43e6, 2.38e6, 0.34e6)


def settings(**changes):
    standard = {"levels": LEVELS, "current_pa": 60.0, "timeout_s": 0.01, "maximum_electrons": 1e9, "learn_s": 0.0}
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


@pytest.mark.parametrize("brightness", [0.8, 1.1])
def test_levels_follow_the_signal_at_the_start(brightness):
    rng = np.random.default_rng(10)
    exposure = manipulate.Exposure(settings(learn_s=1e-3))
    exposure.prepare(1e-5)
    for _ in range(500):
        assert exposure.update(rng.poisson(brightness * LEVELS[0] * 1e-5), 1e-5) is None
    assert exposure.scale == pytest.approx(brightness, abs=0.05)  # 1 ms: 1.6 %
    while exposure.outcome is None:
        exposure.update(rng.poisson(brightness * LEVELS[1] * 1e-5), 1e-5)
    assert len(exposure.readings) < 520
    assert exposure.outcome is manipulate.Outcome.STEP
    assert manipulate.Exposure.from_dict(exposure.to_dict()).scale == exposure.scale


def test_a_beam_beside_the_column_is_abnormal():
    exposure = manipulate.Exposure(settings(learn_s=1e-3))
    while exposure.outcome is None:
        exposure.update(round(0.5 * LEVELS[0] * 1e-5), 1e-5)
    assert exposure.outcome is manipulate.Outcome.ABNORMAL
    assert exposure.elapsed_s == pytest.approx(1e-3, rel=0.02)


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


# --- targets ---------------------------------------------------------------------------------------------------------


def sheet(rotation=7.0, extent=30.0, noise=0.05, vacancies=0.0, seed=0):
    """A MoS2 sheet as it would be found: true columns with small errors."""
    xy, names = specimens.mos2((extent, extent), vacancies, 0.0, rotation, seed=seed).columns()
    species = ("Mo", "S2", "S1")
    labels = np.array([species.index(name) for name in names])
    n, pixels = len(xy), round(extent / 0.1)
    rng = np.random.default_rng(seed)
    covariance = np.tile(np.eye(2) * noise**2, (n, 1, 1))
    found = xy + rng.normal(0, noise, xy.shape)
    return Atoms2D(found, covariance, labels, species, np.eye(3)[labels], np.ones(n), (pixels, pixels), 0.1)


def test_a_class_in_a_region():
    atoms = sheet(vacancies=0.2)
    chosen = targets.of_class(atoms, "S2", (5, 5, 20, 20))
    assert all(atoms.symbols[k] == "S2" for k in chosen)
    assert np.all((atoms.positions[chosen] >= 5) & (atoms.positions[chosen] <= 20))
    both = targets.of_class(atoms, ["S2", "S1"])
    assert len(both) == atoms.counts()["S2"] + atoms.counts()["S1"]
    with pytest.raises(StemAeError, match="Se"):
        targets.of_class(atoms, "Se")


def test_every_second_atom_of_a_row():
    atoms = sheet()
    sulphur = targets.of_class(atoms, "S2")
    a = specimens.MOS2_LATTICE
    direction = np.array([np.cos(np.deg2rad(7)), np.sin(np.deg2rad(7))])
    begin = sulphur[np.argmin(np.linalg.norm(atoms.positions[sulphur] - [6, 12], axis=1))]
    start = atoms.positions[begin]
    row = targets.along_line(atoms, sulphur, start, start + 5 * a * direction)
    assert row[0] == begin
    assert len(row) == 6
    assert np.allclose(np.diff(atoms.positions[row], axis=0), a * direction, atol=0.3)
    second = targets.along_line(atoms, sulphur, start, start + 5 * a * direction, every=2, first=1)
    assert list(second) == list(row[1::2])
    with pytest.raises(StemAeError):
        targets.along_line(atoms, sulphur, start, start)


@pytest.mark.parametrize("rotation", [0.0, 7.0, 25.0, 40.0])
def test_lattice_pattern_is_a_superlattice(rotation):
    atoms = sheet(rotation, extent=45.0, vacancies=0.1)
    s2, sulphur = targets.of_class(atoms, "S2"), targets.of_class(atoms, ["S2", "S1"])
    origin = s2[np.argmin(np.linalg.norm(atoms.positions[s2] - 22, axis=1))]
    chosen = targets.lattice_pattern(atoms, s2, origin, (3, 2), sulphur)
    assert origin in chosen
    assert all(atoms.symbols[k] == "S2" for k in chosen)
    vectors = targets.lattice_vectors(atoms.positions[sulphur])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([3.16, 3.16], rel=0.02)
    offsets = (atoms.positions[chosen] - atoms.positions[origin]) @ np.linalg.inv(vectors * [[3], [2]])
    assert np.abs(offsets - np.rint(offsets)).max() < 0.1
    assert len(chosen) == pytest.approx(len(s2) / 6, rel=0.25)


def test_forbidden_zones_are_kept():
    atoms = sheet()
    sulphur = targets.of_class(atoms, "S2")
    zone = (0, 0, 15, 30)
    allowed = targets.outside(atoms, sulphur, [zone], margin=4.0)
    inside = atoms.positions[atoms.positions[:, 0] <= 15]
    gap = np.linalg.norm(atoms.positions[allowed][:, None] - inside[None], axis=2).min()
    assert gap > 4.0
    assert 0 < len(allowed) < len(sulphur) / 2
    assert list(targets.outside(atoms, sulphur, [(100, 100, 110, 110)])) == list(sulphur)


def test_travel_is_short_and_deterministic():
    points = np.random.default_rng(3).uniform(0, 50, (7, 2))
    order = targets.shortest_path(points)
    assert sorted(order) == list(range(7))

    def length(path):
        return np.linalg.norm(np.diff(np.vstack([[0, 0], points[list(path)]]), axis=0), axis=1).sum()

    best = min(length(path) for path in itertools.permutations(range(7)))
    assert length(order) <= 1.1 * best
    assert list(order) == list(targets.shortest_path(points))


def test_plan_predicts_time_and_bystanders():
    atoms = sheet()
    probe = GaussianProbe(0.6)
    chosen = targets.of_class(atoms, "S2", (8, 8, 22, 22))
    barn = {"S2": 1.0, "S1": 0.5}
    planned = targets.plan(atoms, chosen, probe, 60.0, timeout_s=2.0, barn=barn, move_s=0.1)
    assert sorted(planned.targets) == sorted(chosen)
    # The same game, played: exponential waiting times from the peak of the Gaussian, tails on everybody else.
    rng = np.random.default_rng(4)
    rate = 1e-8 * 60e-12 / 1.602177e-19 / (2 * np.pi * 0.36)
    waits = rng.exponential(1 / rate, (4000, len(chosen)))
    assert planned.success == pytest.approx((waits < 2.0).mean(), abs=0.01)
    assert planned.time_s == pytest.approx(np.minimum(waits, 2.0).sum(1).mean() + 0.1 * len(chosen), rel=0.02)
    bystander = int(np.setdiff1d(targets.of_class(atoms, "S2"), chosen)[0])
    away = np.linalg.norm(atoms.positions[chosen] - atoms.positions[bystander], axis=1)
    dose = 60e-12 / 1.602177e-19 * planned.exposure_s * (np.exp(-(away**2) / 0.72) / (2 * np.pi * 0.36)).sum()
    assert planned.dose[bystander] == pytest.approx(dose, rel=0.05, abs=1)
    assert 0 <= planned.collateral < 0.01
    assert planned.neighbour_dose < planned.dose[chosen].min() / 10


def test_wider_tails_cost_more_bystanders():
    atoms = sheet()
    chosen = targets.of_class(atoms, "S2", (8, 8, 22, 22))
    costs = [
        targets.plan(atoms, chosen, GaussianProbe(sigma), 60.0, 2.0, {"S2": 1.0, "Mo": 0.1}).collateral
        for sigma in (0.5, 0.8, 1.1)
    ]
    assert costs == sorted(costs)
    assert costs[2] > 10 * costs[0]


def test_impossible_plans_are_refused():
    atoms = sheet()
    for wrong in ([], [1, 1]):
        with pytest.raises(StemAeError):
            targets.plan(atoms, wrong, GaussianProbe(0.6), 60.0, 1.0, {"S2": 1.0, "Mo": 1.0})
    molybdenum = targets.of_class(atoms, "Mo")
    with pytest.raises(StemAeError, match="cross section"):
        targets.plan(atoms, molybdenum, GaussianProbe(0.6), 60.0, 1.0, {"S2": 1.0})


# --- lock-on ---------------------------------------------------------------------------------------------------------


def rescan(true, target, velocity, start, rng, noise=0.08, half=6.0, line_s=0.004):
    """Atoms found in a 12 Å re-scan about the target that leaves the target out, line by line, while all drifts."""
    corner = true[target] - half
    inside = np.all(np.abs(true - true[target]) < half, axis=1) & (np.linalg.norm(true - true[target], axis=1) > 1)
    times = start + line_s * (true[inside, 1] - corner[1]) / 0.1
    positions = true[inside] + velocity * times[:, None] - corner
    found = positions + rng.normal(0, noise, positions.shape)
    covariance = np.tile(np.eye(2) * noise**2, (len(found), 1, 1))
    n = len(found)
    atoms = Atoms2D(found, covariance, np.zeros(n), ("X",), np.ones((n, 1)), np.ones(n), (120, 120), 0.1)
    return atoms, corner, times


def locked(seed, drift_per_min, scans=3, wait=2.0):
    """True position of a target at the time of firing, and the aim."""
    rng = np.random.default_rng(seed)
    reference = sheet(rotation=rng.uniform(0, 60), extent=25.0, seed=seed)
    relaxed = rng.normal(0, 0.02, reference.positions.shape)  # as the default scatter says
    true = reference.positions - rng.normal(0, 0.05, reference.positions.shape) + relaxed
    target = int(np.argmin(np.linalg.norm(reference.positions - 12.5, axis=1)))
    angle = rng.uniform(0, 2 * np.pi)
    velocity = drift_per_min / 60 * np.array([np.cos(angle), np.sin(angle)])
    lock = aim.LockOn(reference, target)
    time = 3.0
    for _ in range(scans):
        atoms, corner, times = rescan(true, target, velocity, time, rng)
        assert lock.add(atoms, corner, times) >= 10
        time = times.max() + 0.3
    at = time + wait
    return true[target] + velocity * at, lock.predict(at)


@pytest.mark.parametrize("drift_per_min", [0.5, 3.0])
def test_aim_is_within_20_pm_and_its_covariance_is_true(drift_per_min):
    errors, distances = [], []
    for seed in range(200):
        position, aimed = locked(seed, drift_per_min)
        error = aimed.position - position
        errors.append(error)
        distances.append(error @ np.linalg.solve(aimed.covariance, error))
    assert np.sqrt(np.mean(np.sum(np.square(errors), axis=1))) <= 0.2
    # The ellipses of 95 % hold 95 % of the errors: chi-squared with two degrees of freedom, 200 trials.
    assert 0.90 <= np.mean(np.array(distances) < 5.99) <= 0.995
    assert np.mean(distances) == pytest.approx(2.0, abs=0.5)


def test_uncertainty_grows_with_the_wait_until_it_refuses():
    _, soon = locked(0, 3.0, wait=0.5)
    _, late = locked(0, 3.0, wait=5.0)
    assert late.deviation > soon.deviation
    with pytest.raises(StemAeError, match="uncertain"):
        locked(0, 3.0, wait=200.0)


def test_drift_is_recovered():
    speeds = [np.linalg.norm(locked(seed, 6.0, scans=8)[1].velocity) for seed in range(20)]
    assert np.mean(speeds) * 60 == pytest.approx(6.0, rel=0.25)


def test_too_few_and_contradicting_neighbours_are_refused():
    reference = sheet(noise=0.03)
    target = int(np.argmin(np.linalg.norm(reference.positions - 15, axis=1)))
    lock = aim.LockOn(reference, target)
    with pytest.raises(StemAeError, match="neighbours"):
        lock.predict(1.0)
    near = np.flatnonzero(np.linalg.norm(reference.positions - reference.positions[target], axis=1) < 8)
    torn = dataclasses.replace(
        reference, positions=reference.positions + np.where(reference.positions[:, :1] > 15, 0.4, -0.4)
    )
    lock.add(torn[near], (0, 0), 1.0)
    with pytest.raises(StemAeError, match="as one"):
        lock.predict(1.0)
    with pytest.raises(StemAeError, match="reach"):
        aim.LockOn(reference, target, reach=1.0)
