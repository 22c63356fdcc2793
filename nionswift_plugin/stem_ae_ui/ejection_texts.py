"""What the Eject panel says. No Swift here."""

from __future__ import annotations

import dataclasses

import numpy as np
from nion.utils import Observable

from stem_ae.manipulate import EjectionRun, Exposure
from stem_ae.words import clock, counted

from .ejection_choice import Choice
from .ejection_fates import Fate, Plan
from .ejection_news import News

GOOD, WAITING, BAD, OFF = "#1A8F3C", "#B26A00", "#C62828", "#707070"
_FEW = 2  # targets that fit into the headline
REHEARSED = "#7E57C2"
"""Colour of rehearsed states."""

_ROW_COLORS = {
    "waiting": OFF, "aiming": WAITING, "exposing": BAD, "verifying": WAITING, "unclear": WAITING, "done": GOOD,
    "failed": BAD,
}  # fmt: skip
_WOULD = {"done": "would be done", "failed": "would fail", "exposing": "exposing (rehearsed)"}


@dataclasses.dataclass(frozen=True)
class Situation:
    """Everything that the texts depend on.

    Parameters
    ----------
    choice : Choice
        The targets.
    fates : list of Fate
        The text for each.
    rest : int
        How many of them a run would be about that does nothing again.
    again : bool
        Whether it does.
    armed_left_s : float
        Until the arming expires.
    run : EjectionRun or None
        What is under way.
    news : News or None
        What it tells, or the last one has told.
    is_rehearsal : bool
        Whether that is, or was, one.
    has_failed : bool
        Whether it has ended neither as planned nor by a stop.
    offer : Plan or None
        What could be gone on with.
    """

    choice: Choice
    fates: list[Fate]
    rest: int
    again: bool
    armed_left_s: float
    run: EjectionRun | None
    news: News | None
    is_rehearsal: bool
    has_failed: bool
    offer: Plan | None

    @property
    def is_rehearsed(self) -> bool:
        """Whether the states shown are from a rehearsal."""
        return self.news is not None and self.is_rehearsal

    # --- in one line ------------------------------------------------------------------------------------------------

    def status(self) -> tuple[str, str]:
        """Return the headline and its colour."""
        if self.run is not None:
            return self._status_of(self.run)
        if not self.fates:
            return "No targets", OFF
        if self.choice.elsewhere or self.choice.doubt:
            return "Where are the targets?", WAITING
        done, total = self._count("done"), len(self.fates)
        if self.is_rehearsed:
            return f"Rehearsed: {done} of {total} would be done", REHEARSED
        if self.has_failed:
            return f"Run has failed: {done} of {total} done", BAD
        if done == total:
            return "All targets done", GOOD
        if unclear := self._unclear():
            return f"Unclear: {unclear}", WAITING
        if failed := self._count("failed"):
            return f"Ready: {done} of {total} done, {failed} failed", WAITING
        return (f"Ready: {done} of {total} done", WAITING) if done else ("Ready", GOOD)

    def _status_of(self, run: EjectionRun) -> tuple[str, str]:
        name = "Rehearsal" if self.is_rehearsal else "Run"
        if run.guard.stopped:
            return f"{name}: stopping", BAD
        if run.guard.paused:
            return f"{name} paused", WAITING
        if not run.guard.armed_left_s:
            return f"{name} waits: press Arm", WAITING
        if run.suspension.reason:
            return f"{name} suspended", WAITING
        target = self.news.target if self.news else None
        what = "survey" if target is None else f"{self.fates[target].state}, target {target + 1}"
        return f"{name}: {what}", REHEARSED if self.is_rehearsal else BAD

    def armed(self) -> tuple[str, str]:
        """Return the arming in words, and its colour."""
        left = self.armed_left_s
        return (f"Armed for {clock(left)}", BAD) if left else ("Not armed", OFF)

    def suspended(self) -> str:
        """Return what the run waits for; empty if it does not wait."""
        return self.run.suspension.reason if self.run is not None else ""

    def counts(self) -> str:
        """Return the number of targets in each state."""
        if not self.fates:
            return ""
        some = f"{len(self.fates)} target{'s' * (len(self.fates) != 1)}"
        words = _WOULD if self.is_rehearsed else {}
        counts = {state: self._count(state) for state in ("done", "failed", "unclear")}
        return ", ".join([some, *(f"{n} {words.get(state, state)}" for state, n in counts.items() if n)])

    def _count(self, state: str) -> int:
        return sum(fate.state == state for fate in self.fates)

    def _unclear(self) -> str:
        """Name the targets that were exposed and not imaged afterwards; empty if there are none."""
        numbers = [str(k + 1) for k, fate in enumerate(self.fates) if fate.state == "unclear"]
        if len(numbers) > _FEW:
            return counted(len(numbers), "target")
        return f"target{'s' * (len(numbers) > 1)} {' and '.join(numbers)}" if numbers else ""

    # --- sentences --------------------------------------------------------------------------------------------------

    def doubt(self) -> str:
        """Return why a person has to check the targets before an exposure; empty if that is not needed."""
        if not self.choice.doubt:
            return ""
        return (
            f"{self.choice.doubt}: it may have moved to the next column. Look whether the circles are on the right "
            "atoms, then press “Places are right”, or choose again."
        )

    def left_out(self) -> str:
        """Return what the next run does with targets that are finished."""
        total, left_out = len(self.fates), len(self.fates) - self.rest
        if not left_out or self.run is not None:
            return ""
        if self.again:
            return f"Run exposes all {total}: another atom leaves each of the {left_out} that are finished."
        if not self.rest:
            return f"All {total} are finished: Run has nothing to do, unless you tick “Do them again”."
        return f"{left_out} of {total} are finished: Run goes on with the other {self.rest}."

    def offered(self) -> str:
        """Return which run can be continued."""
        if self.offer is None or self.fates or self.run is not None:
            return ""
        started = f"{self.offer.started.astimezone():%H:%M}"
        return f"Continue the run of {started}: {self.offer.done} of {len(self.offer.sites)} done"

    def site(self) -> str:
        """Return what is known of the aim at the target."""
        news = self.news
        if news is None or news.aim is None or news.target is None:
            return ""
        return (
            f"Target {news.target + 1} · aim ± {100 * news.aim.deviation:.0f} pm from {news.aim.neighbours} columns · "
            f"drift {60 * float(np.linalg.norm(news.aim.velocity)):.1f} Å/min{_readings(news.exposure)}"
        )

    def summary(self, reason: str, why: str, run: EjectionRun | None, log: str) -> str:
        """Return how a run or a rehearsal has ended.

        Parameters
        ----------
        reason : str
            Why: ``"done"``, ``"stopped"`` or a sentence.
        why : str
            What has stopped it, if not the button.
        run : EjectionRun or None
            The run.
        log : str
            Where its log is.
        """
        others = sum(len(a.bystanders) for a in run.attempts) + len(run.found_later) if run else 0
        name, would = ("Rehearsal", "would be ") if self.is_rehearsed else ("Run", "")
        stopped = f"was stopped ({why})" if why else "was stopped"
        ended = {"done": "is complete", "stopped": stopped}.get(reason, "has ended")
        words = f"{name} {ended}: {self._count('done')} of {len(self.fates)} targets {would}done"
        if others:
            words += f", {others} neighbouring column{'s' * (others > 1)} {would}changed"
        cause = "" if reason in ("done", "stopped") else f" {reason.removesuffix('.')}."
        if (unclear := self._unclear()) and not self.is_rehearsed:
            cause += f" The beam was on {unclear}; what that did was not verified: the list says what the image shows."
        return f"{words}.{cause} Log: {log}."


def _readings(exposure: Exposure | None) -> str:
    """State the real length of the readings: the test cannot stop within one."""
    taken = exposure.readings[:] if exposure else []
    return f" · readings of {1e3 * float(np.median([r.exposure_s for r in taken])):.2g} ms" if taken else ""


@dataclasses.dataclass(frozen=True)
class Texts:
    """What the panel says."""

    status: str = "No targets"
    status_color: str = OFF
    message: str = ""
    """What is wrong or was done, and what to do about it."""
    targets: str = ""
    again: str = ""
    """What a run does with finished targets."""
    offer: str = ""
    """Which run can be continued."""
    estimate: str = ""
    warning: str = ""
    """What to consider before arming."""
    armed: str = "Not armed"
    armed_color: str = OFF
    dose: str = ""
    site: str = ""


class TargetRow(Observable.Observable):
    """One target as the panel lists it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.__number = number
        self.text = self.state = self.color = ""

    def update(self, fate: Fate, is_rehearsed: bool) -> None:
        """Say how it is."""
        detail = f": {fate.detail}" if fate.detail else ""
        words, color = state_words(fate, is_rehearsed) + detail, row_color(fate, is_rehearsed)
        new = (f"{self.__number}   {fate.species}", words, color)
        for name, value in zip(("text", "state", "color"), new, strict=True):
            if value != getattr(self, name):
                setattr(self, name, value)
                self.notify_property_changed(name)


def state_words(fate: Fate, is_rehearsed: bool) -> str:
    """Return a target's state in words; rehearsed states are named as such."""
    return _WOULD.get(fate.state, fate.state) if is_rehearsed else fate.state


def row_color(fate: Fate, is_rehearsed: bool) -> str:
    """Return the colour of a target's state."""
    if is_rehearsed and fate.state != "waiting":
        return REHEARSED
    return WAITING if fate.state == "waiting" and fate.detail else _ROW_COLORS[fate.state]
