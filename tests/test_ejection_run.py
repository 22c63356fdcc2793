"""Eject runs on the virtual microscope: what happens to the atoms, what is said about it, and the beam goes off."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import threading
import time

import numpy as np
import pytest

from stem_ae import Atoms2D, StemAeError
from stem_ae.imaging import specimens
from stem_ae.imaging.probe import AberratedProbe
from stem_ae.manipulate import (
    ClosedLoop,
    Do,
    EjectionRun,
    Interrupted,
    Limits,
    Observer,
    OneFromEach,
    OpenLoop,
    Outcome,
    RunLog,
    RunSettings,
    Verdict,
    View,
    rehearsal,
    runlog,
    targets,
)  # fmt: skip
from stem_ae.manipulate.aim import Track, repeat_distance
from stem_ae.manipulate.beam import NO_COUNTS
from stem_ae.manipulate.columns import ColumnModel, Evidence, Measured
from stem_ae.manipulate.guard import Guard
from stem_ae.manipulate.ledger import DoseLedger
from stem_ae.manipulate.run import AROUND
from stem_ae.manipulate.verify import Belief, Verification
from stem_ae.microscope.interlock import BeamAlarm
from stem_ae.microscope.usable import Unusable
from stem_ae.plans import eject
from tests.rigs import Disulfide

SPECIES = ("Mo", "S2", "S1")


def test_a_line_is_drawn_logged_and_replayed(tmp_path):
    bench = Disulfide(seed=1)
    row = bench.near((8, 15), (14, 15), (20, 15))
    log = RunLog(tmp_path / "run.jsonl")
    run = bench.run(ClosedLoop(row, ["S1"] * 3), log=log)
    assert run.run() == "done"
    log.close()
    assert bench.beam.is_blanked
    assert not run.policy.missing(run.view)
    assert [a.verdict for a in run.attempts] == [Verdict.ONE] * 3
    assert len(bench.microscope.ejections) == 3 + sum(len(a.bystanders) for a in run.attempts)
    exposures = runlog.exposures(log.path)
    assert [e.replay().outcome for e in exposures] == [Outcome.STEP] * 3
    assert all(e.complete for e in exposures)
    assert sum(e.facts["electrons"] for e in exposures) == pytest.approx(sum(a.electrons for a in run.attempts))
    table = runlog.export_csv(log.path, tmp_path / "run.csv").read_text(encoding="utf-8").splitlines()
    assert len(table) == 4
    assert all("one ejected" in row for row in table[1:])
    with pytest.raises(StemAeError, match="choose another name"):
        RunLog(log.path)


def test_a_log_that_a_crash_cut_off_is_read_to_its_last_line(tmp_path):
    log = RunLog(tmp_path / "run.jsonl")
    run = (bench := Disulfide(seed=2)).run(OpenLoop(bench.near((15, 15))), log=log)
    run.run()
    text = log.path.read_text(encoding="utf-8")
    cut = text[: text.index('"blanked"') + 30]
    (tmp_path / "cut.jsonl").write_text(cut, encoding="utf-8")
    (exposure,) = runlog.exposures(tmp_path / "cut.jsonl")
    assert not exposure.complete
    assert exposure.record["counts"] == runlog.exposures(log.path)[0].record["counts"]
    (tmp_path / "other.jsonl").write_text(json.dumps({"kind": "x"}), encoding="utf-8")
    with pytest.raises(StemAeError, match="no log"):
        runlog.exposures(tmp_path / "other.jsonl")


class Doing(Observer):
    """Does something when an exposure has gone on for some readings."""

    def __init__(self, deed, after=20):
        self.deed, self.left = deed, after

    def counted(self, exposure):
        self.left -= 1
        if not self.left:
            self.deed()


def fail():
    raise RuntimeError("as ordered")


@pytest.mark.parametrize("how", ["stop", "failure", "lost signal", "disarm"])
def test_however_an_exposure_ends_the_beam_is_off_and_the_log_says_why(how, tmp_path):
    bench = Disulfide(seed=3, damage=False)
    log = RunLog(tmp_path / "run.jsonl")
    deeds = {
        "stop": lambda: run.stop(), "failure": fail, "disarm": lambda: run.guard.disarm(),
        "lost signal": lambda: setattr(bench.beam, "read", lambda: NO_COUNTS),
    }  # fmt: skip
    run = bench.run(OpenLoop(bench.near((15, 15))), log=log, observer=Doing(deeds[how]))
    if how == "failure":
        with pytest.raises(RuntimeError, match="as ordered"):
            run.run()
    else:
        assert run.run() == {"stop": "stopped", "disarm": "not armed any more", "lost signal": "done"}[how]
    log.close()
    assert bench.beam.is_blanked
    assert bench.microscope._rest is None
    (exposure,) = runlog.exposures(log.path)
    assert exposure.facts["outcome"] == ("signal lost" if how in ("lost signal", "failure") else "stopped")
    assert exposure.complete
    exposure.replay()
    assert runlog.read_lines(log.path)[-1]["kind"] == "end"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is always full")
@pytest.mark.parametrize("when", ["before it", "during an exposure"])
def test_a_full_disk_ends_the_run_with_a_sentence_and_the_beam_off(when, tmp_path):
    bench = Disulfide(seed=3, damage=False)
    log = RunLog(tmp_path / "run.jsonl")

    def fill():
        log._file = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115  (the log closes it)

    run = bench.run(OpenLoop(bench.near((10, 10), (15, 15))), log=log, observer=Doing(fill))
    if when == "before it":
        fill()
    with pytest.raises(StemAeError, match=r"cannot be written any more .No space left"):
        run.run()
    assert "cannot be written" in run.reason
    with contextlib.suppress(OSError):
        log.close()
    assert len(run.attempts) <= 1
    assert bench.beam.is_blanked
    assert bench.microscope._rest is None


@pytest.mark.parametrize("timeout_s", [5.0, 6e5])
def test_an_attempt_may_take_as_long_as_its_exposure_is_allowed_to(timeout_s, monkeypatch):
    monkeypatch.setattr(eject, "_STEP_S", 1e-3)
    bench = Disulfide(seed=3, damage=False)
    run = bench.run(OpenLoop(bench.near((15, 15))), settings=RunSettings(timeout_s=timeout_s))
    attempt = eject.Ejector(run).trigger()
    assert attempt.exception(timeout=30) is None
    assert len(run.attempts) == 1
    assert bench.beam.is_blanked


def test_stop_blanks_at_once_while_others_are_at_work():
    bench = Disulfide(seed=4, damage=False)
    slow = bench.beam.read
    bench.beam.read = lambda: (time.sleep(0.002), slow())[1]
    run = bench.run(OpenLoop(bench.near((15, 15), (20, 20))))
    thread = threading.Thread(target=run.run)
    thread.start()
    while bench.beam.is_blanked:
        time.sleep(0.001)
    start = time.perf_counter()
    run.stop()
    assert bench.beam.is_blanked
    assert time.perf_counter() - start < 0.1
    thread.join(20)
    assert bench.beam.is_blanked
    assert run.reason == "stopped"


def test_a_pause_blanks_and_the_target_is_tried_again():
    bench = Disulfide(seed=5)
    site = bench.near((15, 15))
    run = bench.run(OpenLoop(site), observer=Doing(lambda: run.guard.pause(), after=3))
    run.step()
    with pytest.raises(Interrupted):
        run.step()
    assert bench.beam.is_blanked
    assert [a.outcome for a in run.attempts] == [Outcome.STOPPED]
    run.guard.resume()
    assert run.run() == "done"
    assert run.attempts[-1].outcome is not Outcome.STOPPED
    assert len(run.attempts) == 2


def test_without_arming_there_is_no_beam():
    bench = Disulfide(seed=6)
    run = bench.run(OpenLoop(bench.near((15, 15))))
    run.guard.disarm()
    opened = bench.beam.unblank
    bench.beam.unblank = fail
    assert run.run() == "not armed any more"
    bench.beam.unblank = opened
    run = bench.run(OpenLoop(bench.near((15, 15))), limits=Limits(armed_s=0.05))
    bench.clock.advance(0.06)
    assert run.run() == "not armed any more"
    assert not run.attempts


def test_dose_caps_hold():
    bench = Disulfide(seed=7, damage=False)
    site = bench.near((15, 15))
    run = bench.run(OpenLoop(site), limits=Limits(total_electrons=2e7))
    assert "total dose cap of 2e+07 electrons is reached" in run.run()  # and not "done": nobody could look again
    assert run.attempts[0].outcome is Outcome.MAXIMUM_DOSE
    assert run.ledger.electrons <= 2e7 * 1.05  # one more reading, the blanker, and the verification's refusal
    bench = Disulfide(seed=7, damage=False)
    run = bench.run(OpenLoop(site), limits=Limits(local_dose=1e7))
    run.run()
    assert run.attempts[0].outcome is Outcome.MAXIMUM_DOSE
    assert run.ledger.at(site)[0] == pytest.approx(1e7, rel=0.05)


@pytest.mark.parametrize("cap", [Limits(total_electrons=2e7), Limits(local_dose=1e7)], ids=["total", "local"])
def test_dose_caps_go_on_from_the_log_of_the_run_before(cap, tmp_path):
    bench = Disulfide(seed=7, damage=False)
    site = bench.near((15, 15))
    logs = [RunLog(tmp_path / f"{k}.jsonl") for k in range(2)]
    run = bench.run(OpenLoop(site), limits=cap, log=logs[0], observer=Doing(lambda: run.stop(), after=10))
    assert run.run() == "stopped"
    spent = runlog.spent(logs[0].path)
    assert spent.electrons == pytest.approx(run.ledger.electrons)
    before = run.ledger.at(site)[0]
    assert before > 0.1 * 1e7
    run = bench.run(OpenLoop(site), limits=cap, log=logs[1], spent=spent)
    run.run()
    assert run.attempts[0].outcome is Outcome.MAXIMUM_DOSE
    assert run.ledger.electrons <= cap.total_electrons * 1.05
    if cap.local_dose == 1e7:
        assert run.ledger.at(site)[0] == pytest.approx(1e7, rel=0.05)  # of both
    assert runlog.spent(logs[1].path).electrons == pytest.approx(run.ledger.electrons)  # of both
    for log in logs:
        log.close()


def test_what_a_crash_has_cut_off_counts_as_spent(tmp_path):
    bench = Disulfide(seed=7, damage=False)
    log = RunLog(tmp_path / "run.jsonl")
    run = bench.run(OpenLoop(bench.near((15, 15))), limits=Limits(local_dose=1e7), log=log)
    run.run()
    log.close()
    text = log.path.read_text(encoding="utf-8")
    spent = [runlog.spent(log.path).electrons]
    for last in ('{"kind": "blanked"', '{"kind": "scanned"'):  # the crash came before this line
        (tmp_path / "cut.jsonl").write_text(text[: text.index(last)], encoding="utf-8")
        spent.append(runlog.spent(tmp_path / "cut.jsonl").electrons)
    whole, in_exposure, in_scan = spent
    exposed = run.attempts[0].electrons
    assert in_exposure > exposed
    line = next(line for line in runlog.read_lines(log.path) if line["kind"] == "scanned")
    (x0, y0, x1, y1), dose = line["region"], line["dose"]
    assert in_scan == pytest.approx(dose * (x1 - x0) * (y1 - y0), rel=0.1)
    assert whole == pytest.approx(run.ledger.electrons)


def test_a_scan_that_is_stopped_counts_for_as_long_as_it_was():
    bench = Disulfide(seed=7)
    real = bench.beam.scan

    def broken(region, dose):
        real(region, dose)
        raise RuntimeError("as ordered")

    bench.beam.scan = broken
    run = bench.run(OpenLoop(bench.near((15, 15))))
    with pytest.raises(RuntimeError, match="as ordered"):
        run.run()
    planned = run._settings.aim_dose * 13.0 * 8.6
    assert run.ledger.electrons == pytest.approx(planned, rel=0.1)


@pytest.mark.parametrize("lasts", [False, True])
@pytest.mark.parametrize("where", ["survey", "aim", "verify"])
@pytest.mark.parametrize("how", ["NaN", "zero"])
def test_a_scan_that_is_no_image_suspends_the_run_or_ends_it_as_failed(where, how, lasts, monkeypatch, tmp_path):
    monkeypatch.setattr("stem_ae.manipulate.run._FIRST_WAIT_S", 0.02)
    bench, spoilt, said = Disulfide(seed=5), [], []
    log = RunLog(tmp_path / "run.jsonl")
    run = EjectionRun(bench.beam, bench.find, OpenLoop(bench.near((15, 15))), log=log)
    run.guard.arm()
    run.suspension.patience_s = 0.2
    run.suspension.changed = lambda: said.append((run.suspension.reason, bench.beam.is_blanked))

    def spoiling(real, *arguments):
        scan = real(*arguments)
        x0, _, x1, _ = scan.region
        kind = "survey" if len(arguments) == 1 else "verify" if x1 - x0 == pytest.approx(AROUND, abs=0.2) else "aim"
        if kind != where or (len(spoilt) == 2 and not lasts):
            return scan
        spoilt.append(scan)
        return dataclasses.replace(scan, image=scan.image * (np.nan if how == "NaN" else 0.0))

    for name in ("survey", "scan"):
        monkeypatch.setattr(bench.beam, name, functools.partial(spoiling, getattr(bench.beam, name)))
    if lasts:
        with pytest.raises(Unusable, match="This has lasted for"):
            run.run()
        assert "The scan gives" in run.reason
        assert [a.verdict for a in run.attempts] == [Verdict.UNCLEAR] * (where == "verify")
    else:
        assert run.run() == "done"
        assert [a.verdict for a in run.attempts] == [Verdict.ONE]
        assert len(spoilt) == 2
    log.close()
    assert "The scan gives" in said[0][0]
    assert all(was_blanked for _, was_blanked in said)
    assert said[-1][0] == ""
    assert bench.beam.is_blanked
    kinds = [line["kind"] for line in runlog.read_lines(log.path)]
    assert kinds.count("suspended") == 1
    assert kinds.count("scanned") == len(run.ledger.spent.scans) >= len(spoilt) > 1


def test_the_ledger_conserves_electrons_and_allows_what_is_left():
    probe = AberratedProbe()
    ledger = DoseLedger(probe)
    ledger.scanned((0.0, 0.0, 10.0, 20.0), 100.0)
    ledger.exposed((5.0, 5.0), 1e6)
    assert ledger.electrons == pytest.approx(100 * 200 + 1e6)
    x, y = np.meshgrid(np.arange(-3, 13, 0.1), np.arange(-3, 13, 0.1))
    grid = np.column_stack([x.ravel(), y.ravel()])
    inside = (grid[:, 0] > 0) & (grid[:, 1] > 0) & (grid[:, 0] < 10)
    tails = ledger.at(grid) - 100 * inside
    assert tails.sum() * 0.01 == pytest.approx(1e6, rel=0.03)
    site = np.array([5.0, 5.0])
    more = ledger.allowance(site, site[None], 2e6)
    ledger.exposed(site, more)
    assert ledger.at(site)[0] == pytest.approx(2e6)


class Stubborn:
    """A blanker that does not answer."""

    def now(self):
        return 0.0

    def blank(self):
        raise OSError("no answer")


def test_a_blanker_that_does_not_answer_is_shouted_about():
    with pytest.raises(BeamAlarm, match="BEAM MAY STILL BE ON"):
        Guard(Stubborn(), Limits()).blank()


def strictly(line):
    """Read a line of JSON that has nothing in it that is none: no NaN, no Infinity."""
    return json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_an_uncertain_aim_is_not_fired_at(tmp_path):
    bench = Disulfide(seed=8)
    log = RunLog(tmp_path / "run.jsonl")
    limits = Limits(total_electrons=float("inf"))
    run = bench.run(OpenLoop(bench.near((15, 15))), settings=RunSettings(aim_limit=0.01), limits=limits, log=log)
    run.run()
    lines = [strictly(line) for line in log.path.read_text(encoding="utf-8").splitlines()]
    assert [line["aim_deviation"] for line in lines if line["kind"] == "attempt"] == [None]
    assert next(line for line in lines if line["kind"] == "run")["limits"]["total_electrons"] is None
    assert run.attempts[0].outcome is Outcome.NOT_FIRED
    assert "uncertain" in run.attempts[0].reason
    assert not bench.microscope.ejections


def test_a_specimen_out_of_sight_for_long_is_not_fired_at():
    bench = Disulfide(seed=9)
    run = bench.run(OpenLoop(bench.near((15, 15))))
    bench.clock.advance(30.0)
    with pytest.raises(StemAeError, match="take a new image"):
        run.run()
    assert bench.beam.is_blanked


def test_who_knows_the_drift_may_look_away_for_longer():
    bench = Disulfide(seed=9, drift=0.05)
    known = Track()
    for t in range(10):
        known.add(float(t), np.array([0.05 * t, 0.0]))
    assert known.lost_after_s(3.16) > 60 > Track().lost_after_s(3.16)
    run = bench.run(OpenLoop(bench.near((15, 15))), track=known)
    bench.clock.advance(30.0)  # 1.5 Å: nearly half way to the next column
    run.run()
    (attempt,) = run.attempts
    assert attempt.verdict is Verdict.ONE
    left = bench.microscope.ejections[0].position + np.array([15.0, 15.0])
    assert left == pytest.approx(attempt.position, abs=0.3)


@pytest.mark.parametrize(
    ("specimen", "repeat"),
    [(specimens.graphene((40, 40), 0.01, rotation=11), 2.46), (specimens.mos2((40, 40), 0.1, 0.02), 3.16)],
)
def test_what_a_crystal_repeats_after(specimen, repeat):
    positions, names = specimen.columns()
    species = tuple(dict.fromkeys(names))
    labels = np.array([species.index(name) for name in names])
    positions = positions + np.random.default_rng(0).normal(0, 0.06, positions.shape)
    n = len(labels)
    atoms = Atoms2D(positions, np.tile(np.eye(2) * 4e-3, (n, 1, 1)), labels, species, np.eye(len(species))[labels],
                    np.ones(n), (200, 200), 0.2)  # fmt: skip
    assert repeat_distance(atoms) == pytest.approx(repeat, rel=0.02)
    assert repeat_distance(atoms[:1]) == 7.0


def test_drift_is_learnt_and_its_uncertainty_true():
    rng, misses = np.random.default_rng(0), []
    for _ in range(200):
        velocity = rng.normal(0, 0.05, 2)
        track = Track()
        for t in np.arange(0, 8, 1.0) + 1.7e9:
            track.add(t, velocity * (t - 1.7e9) + rng.normal(0, 0.08, 2))
        misses.append((track.now.velocity - velocity) / track.velocity_deviation)
    assert np.std(misses) == pytest.approx(1.0, abs=0.12)


def found(symbols, positions, sure=0.97):
    labels = np.array([SPECIES.index(name) for name in symbols])
    probabilities = np.where(np.eye(3)[labels] > 0, sure, (1 - sure) / 2)
    n = len(labels)
    return Atoms2D(
        positions, np.tile(np.eye(2) * 1e-3, (n, 1, 1)), labels, SPECIES, probabilities, np.ones(n), (60, 60), 0.2
    )


LEVELS = {"Mo": 0.041, "S2": 0.017, "S1": 0.0085, "": 0.0}
MODEL = ColumnModel(AberratedProbe(), LEVELS, dict.fromkeys(LEVELS, 2e-4), 0.06)
PLACES = np.array([[6.0, 6.0], [9.2, 6.0], [6.0, 9.2]])
LADDER = ("S2", "S1", "")


def shown(names, images=1, error=0.0025):
    """Return what images say in which each column is as bright as its class, known with this error in Å²."""
    evidence = Evidence(MODEL, len(names))
    amplitude = np.array([LEVELS[name] for name in names])
    for _ in range(images):
        evidence.add(Measured(np.arange(len(names)), amplitude, np.full((len(names), len(LEVELS)), error**2)))
    return evidence


def verification(outcome, names=("S2", "S2", "S2"), expected=1e-3):
    before = found(names, PLACES[: len(names)])
    belief = Belief.of(before, LADDER, shown(names, error=0.0015))
    return Verification(before, 0, outcome, belief, np.full(len(names), expected))


@pytest.mark.parametrize(
    ("after", "outcome", "verdict"),
    [
        ("S1", Outcome.STEP, Verdict.ONE), ("S2", Outcome.STEP, Verdict.REFILLED), ("", Outcome.STEP, Verdict.MORE),
        ("S2", Outcome.TIMEOUT, Verdict.NONE), ("", Outcome.DOUBLE, Verdict.MORE),
    ],
)  # fmt: skip
def test_verdicts(after, outcome, verdict):
    check = verification(outcome)
    assert not check.is_clear
    check.look(shown([after, "S2", "S1"], images=3))
    assert check.is_clear
    assert check.verdict is verdict
    (bystander,) = check.bystanders()
    assert (bystander.before, bystander.after) == ("S2", "S1")
    atoms, belief, kept = check.updated()
    assert atoms.counts()["S1"] == 1 + (after == "S1")
    assert len(belief.chance) == len(atoms) == kept.sum() == 3 - (after == "")


def test_what_was_said_is_not_said_again():
    check = verification(Outcome.STEP)
    check.look(shown(["S1", "S1", "S2"], images=3))
    assert len(check.bystanders()) == 1
    atoms, belief, _ = check.updated()
    later = Verification(atoms, 2, Outcome.STEP, belief, np.full(3, 1e-3))
    later.look(shown(["S1", "S1", "S1"], images=3))
    assert later.verdict is Verdict.ONE
    assert not later.bystanders()


def test_a_loss_that_one_stay_leaves_open_is_named_by_the_next():
    check = verification(Outcome.STEP)
    check.look(shown(["S1", "S1", "S2"]))
    assert not check.bystanders()
    assert not check.is_clear
    atoms, belief, _ = check.updated()
    later = Verification(atoms, 2, Outcome.STEP, belief, np.full(3, 1e-3))
    later.look(shown(["S1", "S1", "S1"], images=2))
    assert [change.position for change in later.bystanders()] == [(9.2, 6.0)]


def test_one_doubtful_image_condemns_no_bystander_and_the_dose_decides_how_doubtful_it_is():
    for expected, named in ((1e-5, 0), (0.3, 1)):
        check = verification(Outcome.STEP, expected=expected)
        check.look(shown(["S1", "S1", "S2"], error=0.0025))
        assert len(check.bystanders()) == named


def test_a_column_that_the_survey_misread_is_corrected_but_accuses_nobody():
    before = found(("S2", "S2", "S2"), PLACES)
    belief = Belief.of(before, LADDER, shown(("S2", "S1", "S2"), error=0.0015))
    check = Verification(before, 0, Outcome.STEP, belief, np.full(3, 1e-3))
    check.look(shown(["S1", "S1", "S2"], images=3))
    assert check.is_clear
    assert not check.bystanders()
    assert check.updated()[0].counts()["S1"] == 2


def test_a_doubtful_survey_does_not_undo_what_was_verified():
    """Nothing refills a column as often as one image misreads it; two images that agree are another matter."""
    check = verification(Outcome.STEP)
    check.look(shown(["S1", "S2", "S2"], images=3))
    old, belief, _ = check.updated()
    new = found(("S2", "S2", "S1"), [*PLACES[[1, 0]], [12.0, 12.0]])  # in another order, one is new
    known = belief.aged(np.full(3, 1e-6)).passed_on(old, new)
    assert (known[1].argmax(), known[2].any()) == (1, False)
    doubtful = Evidence(MODEL, 3)
    brightness = np.array([0.0170, 0.0140, 0.0085])  # the second one is nearer S2 than S1
    doubtful.add(Measured(np.arange(3), brightness, np.full((3, len(LEVELS)), 0.0025**2)))
    forgetful, mindful = (Belief.of(new, LADDER, doubtful, prior) for prior in (None, known))
    assert forgetful.now[1].argmax() == 0
    assert mindful.now[1, 1] > 0.99
    assert mindful.contradicts(new).tolist() == [False, True, False]
    refilled = Belief.of(new, LADDER, shown(("S2", "S2", "S1"), images=2, error=0.0015), known)
    assert refilled.now[1].argmax() == 0


def test_the_next_survey_reports_what_no_verification_has_looked_at():
    bench = Disulfide(seed=12, damage=False)
    far, specimen = bench.near((8, 8)) - 15.0 + 0.1, bench.microscope.specimen
    column = np.linalg.norm(specimen.positions[:, :2] - far, axis=1) < 0.5
    policy = ClosedLoop(bench.near((20, 20)), ["S1"], tries=1, surveys=2)
    run = bench.run(policy, settings=RunSettings(timeout_s=0.02, survey_dose=2e4))
    run.step()  # nothing leaves in this time
    bench.microscope._specimen = specimen[np.arange(len(specimen)) != np.flatnonzero(column)[0]]
    run.run()
    (change,) = run.found_later
    assert (change.before, change.after) == ("S2", "S1")
    assert change.position == pytest.approx(bench.near((8, 8))[0], abs=0.2)


def test_misread_columns_do_not_spoil_the_brightness_of_a_rare_class():
    bench = Disulfide(seed=13, damage=False, vacancies=0.02)
    survey, probe, weights = bench.survey, bench.beam.probe, {"Mo": 0.04, "S2": 0.015, "S1": 0.008}
    model, shown = ColumnModel.learnt(bench.atoms, survey, probe, weights, LADDER)
    labels = bench.atoms.labels.copy()
    s2 = shown.index[labels[shown.index] == 1]
    dim = s2[np.argsort(shown.amplitude[labels[shown.index] == 1])[:4]]
    labels[dim] = 2  # as networks do
    misread, _ = ColumnModel.learnt(dataclasses.replace(bench.atoms, labels=labels), survey, probe, weights, LADDER)
    np.testing.assert_allclose(misread.levels, model.levels, rtol=0.03)
    assert misread.levels[2] == pytest.approx(0.0085, rel=0.06)  # of the image model


def test_counts_tell_columns_apart_as_well_as_they_can():
    """Amplitudes of drifting images are right, and scatter as their variance says."""
    bench = Disulfide(seed=11, damage=False, vacancies=0.1, drift=0.05)
    weights = {"Mo": 0.04, "S2": 0.015, "S1": 0.008}
    model, _ = ColumnModel.learnt(bench.atoms, bench.survey, bench.beam.probe, weights, LADDER)
    molybdenum, disulfide, sulphide, nothing = model.levels
    assert (molybdenum, disulfide) == pytest.approx((0.0413, 0.0170), rel=0.03)  # of the image model
    assert sulphide == pytest.approx(0.0085, rel=0.1)  # there are few of them
    assert nothing == 0
    assert model.noise == pytest.approx(1.0, abs=0.1)
    bench.clock.advance(12.0)  # 0.6 Å
    bench.beam.unblank()
    pulls = []
    for x, y in ((10.0, 10.0), (19.0, 11.0), (12.0, 18.0), (20.0, 20.0)):
        scan = bench.beam.scan((x - 5.0, y - 5.0, x + 5.0, y + 5.0), 5e3)
        measured = model.looked_at(scan, bench.atoms, bench.atoms.positions, 1.5)
        label = bench.atoms.labels[measured.index]
        assert len(label) > 10
        away = measured.amplitude - model.levels[label]
        pulls += (away / np.sqrt(measured.variance[np.arange(len(label)), label])).tolist()
    assert np.std(pulls) == pytest.approx(1.0, abs=0.25)
    assert abs(np.mean(pulls)) < 0.4


def view(symbols, positions, tried=(), surveys=1, changed=False):
    return View(found(symbols, positions), tried, surveys, changed)


def test_closed_loop_tries_what_is_missing_and_looks_again():
    places = np.array([[2.0, 2.0], [6.0, 2.0], [10.0, 2.0]])
    policy = ClosedLoop(places, ["S1", "S1", ""], tries=2)
    assert policy.next(view(["S2", "S2", "S2"], places)) == 0
    tried = [(0, Verdict.ONE), (1, Verdict.NONE)]
    assert policy.next(view(["S1", "S2", "S1"], places, tried, changed=True)) == 2  # the one that resists comes last
    assert policy.next(view(["S1", "S1"], places[:2], tried, changed=True)) is Do.SURVEY
    assert policy.next(view(["S1", "S1"], places[:2], tried, surveys=2)) is Do.END
    assert policy.missing(view(["S1", "S2", "S2"], places)) == [1, 2]
    with pytest.raises(StemAeError, match="leads to"):
        ClosedLoop(places, ["S1", "Mo", "S1"])


def test_one_is_taken_from_each_by_what_the_survey_shows():
    places = np.array([[2.0, 2.0], [6.0, 2.0], [10.0, 2.0]])
    policy = OneFromEach(places)
    assert policy.next(view(["S2", "S1", "S2"], places)) == 0
    assert policy.loop.wanted == ("S1", "", "S1")
    tried = [(0, Verdict.ONE), (1, Verdict.ONE), (2, Verdict.ONE)]
    assert policy.next(view(["S1", "S1"], places[[0, 2]], tried, surveys=2)) is Do.END
    with pytest.raises(StemAeError, match="'Mo'"):
        OneFromEach(places).next(view(["S2", "Mo", "S2"], places))


def test_a_rehearsal_has_the_atoms_where_they_were_found():
    bench = Disulfide(seed=10, vacancies=0.1)
    specimen = rehearsal.specimen_of(bench.atoms)
    assert specimen.extent == pytest.approx((30.0, 30.0))
    columns, names = specimen.columns()
    assert sorted(names) == sorted(bench.atoms.symbols)
    order = np.lexsort(columns.T), np.lexsort(bench.atoms.positions.T)
    np.testing.assert_allclose(columns[order[0]] - 0.1, bench.atoms.positions[order[1]], atol=1e-9)


def test_lists_of_positions(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("site,y_angstrom,x_angstrom\n0,2,1\n1,4,3\n", encoding="utf-8")
    np.testing.assert_allclose(targets.read_positions(path), [[1, 2], [3, 4]])
    path.write_text("1,2\n3,4\n", encoding="utf-8")
    np.testing.assert_allclose(targets.read_positions(path), [[1, 2], [3, 4]])
    path.write_text("x,y\n1,two\n", encoding="utf-8")
    with pytest.raises(StemAeError, match="Line 2"):
        targets.read_positions(path)


@pytest.mark.parametrize(
    "text",
    ["y,x\n2,1\n4,3\n", "\ufeffX;Y\n1,0;2,0\n3,0;4,0\n", "# a\nx (nm)\ty [nm]\n0.1\t0.2\n0.3\t0.4\n",
     "site,y_px,y_angstrom,x_angstrom\n0,9,2,1\n1,9,4,3\n"],
)  # fmt: skip
def test_positions_are_taken_by_the_names_of_their_columns(tmp_path, text):
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    np.testing.assert_allclose(targets.read_positions(path), [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("text", "words"),
    [("x_px,y_px\n1,2\n", "no column of x"), ("a,b\n1,2\n", "no column of x"), ("x,x_nm,y\n1,2,3\n", "several columns"),
     ("1,2\nnan,3\n", "Line 2"), ("1,2\ninf,3\n", "Line 2"), ("x,y\n1,5,2,5\n", "Line 2"), ("", "lists no positions")],
)  # fmt: skip
def test_positions_that_may_mean_something_else_are_refused(tmp_path, text, words):
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StemAeError, match=words):
        targets.read_positions(path)
