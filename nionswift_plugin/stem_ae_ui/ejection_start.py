"""Prepares runs and rehearsals. No widgets here."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import pathlib
import time
from collections.abc import Callable

import numpy as np

from stem_ae.errors import StemAeError
from stem_ae.imaging.virtual_microscope import Conditions
from stem_ae.manipulate import EjectionRun, RunLog, rehearsal
from stem_ae.manipulate.aim import Track
from stem_ae.manipulate.run import Find

from .ejection_conduct import Stoppable
from .ejection_fates import LOG_NAME, Plan
from .ejection_intent import Intent
from .ejection_news import News

REHEARSAL_NAME = "rehearsal.jsonl"
_GUESSED_DRIFT = (1 / 60, 0.0)  # Å/s in rehearsals: that of a good stage, as long as the real one is not known
_KNOWN = 0.02  # Å/s: ... better than this


@dataclasses.dataclass(frozen=True)
class Staged:
    """A run or rehearsal that is about to start.

    Parameters
    ----------
    run : EjectionRun
        The run.
    news : News
        What it tells.
    log : RunLog
        Where it is written.
    work : callable
        Carries it out, and returns why it has ended.
    runner : Stoppable, optional
        The engine that carries it out.
    """

    run: EjectionRun
    news: News
    log: RunLog
    work: Callable[[], str]
    runner: Stoppable | None = None


def staged_run(
    intent: Intent, plan: Plan, find: Find, folder: pathlib.Path, track: Track, changed: Callable[[], None]
) -> Staged:
    """Return a run on Swift's microscope.

    Parameters
    ----------
    intent : Intent
        The intent.
    plan : Plan
        All targets and their fates.
    find : callable
        Finds atoms.
    folder : path
        Of all runs.
    track : Track
        The drift, as the frames have shown it.
    changed : callable
        Called when there are news.

    Raises
    ------
    StemAeError
        If the settings of the microscope differ from those of the image.
    """
    from stem_ae.microscope.devices import Microscope  # bluesky takes half a second to import
    from stem_ae.microscope.swift import SwiftInstrument
    from stem_ae.plans import Runner
    from stem_ae.plans.eject import MicroscopeBeam, eject

    instrument = SwiftInstrument()
    frame = instrument.user_frame()
    if frame.shape != intent.atoms.shape or not np.allclose(frame.sampling, intent.atoms.known_sampling, rtol=0.01):
        raise StemAeError("The scan is not set as it was for this image: scan again, then press Run.")
    microscope = Microscope(instrument)
    beam = MicroscopeBeam(microscope, frame, intent.column.current_pa, intent.probe)
    policy = intent.carried_out_by()
    log = RunLog(_new_folder(folder) / LOG_NAME)
    plan.write(log)
    news = News(policy, plan.sites, plan.fates, plan.rest, changed, log)
    run = EjectionRun(beam, find, policy, intent.settings(), intent.limits, log, news, track=track, spent=plan.spent)
    runner = Runner(microscope, log.path.parent, changed)

    def work() -> str:
        warm_up(find)
        if not run.guard.stopped:
            runner.start(eject(microscope, run, log=str(log.path)))
        runner.wait()
        return runner.error or str(runner.result or runner.outcome or "stopped")

    return Staged(run, news, log, work, runner)


def staged_rehearsal(
    intent: Intent, plan: Plan, find: Find, folder: pathlib.Path, track: Track, changed: Callable[[], None]
) -> Staged:
    """Return the same on a virtual microscope with the atoms that were found and today's parameters."""
    policy = intent.carried_out_by()
    x, y = track.now.velocity.tolist() if track.velocity_deviation < _KNOWN else _GUESSED_DRIFT
    conditions = Conditions(drift=(x, y), source_sigma=intent.source_sigma)
    log = RunLog(_new_folder(folder) / REHEARSAL_NAME)
    news = News(policy, plan.sites, plan.fates, plan.rest, changed)
    staged = rehearsal.Rehearsal(
        intent.atoms, find, policy, intent.column, conditions, intent.settings(), intent.limits, log, news,
        seed=_seed(),
    )  # fmt: skip
    return Staged(staged.run, news, log, staged.run.run)


def _seed() -> int:
    """Return a new one for each rehearsal."""
    return int(time.time())


def warm_up(find: Find) -> None:
    """Start the process that finds atoms early, since its first find takes long and the beam would wait."""
    with contextlib.suppress(Exception):  # the run will say so
        find(np.zeros((64, 64)), 0.2)


def _new_folder(folder: pathlib.Path) -> pathlib.Path:
    return folder / f"{datetime.datetime.now():%Y-%m-%d_%H%M%S_%f}"[:-3]
