"""One exposure of one column, from the first count to a named outcome: a state machine without an instrument."""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import Any

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.imaging.dose import electrons_per_pixel
from stem_ae.manipulate.step import StepDetector, check_reading


class Outcome(enum.StrEnum):
    """How an exposure ended."""

    STEP = "one step"
    DOUBLE = "double ejection"
    ABNORMAL = "abnormal signal"
    TIMEOUT = "timeout"
    MAXIMUM_DOSE = "maximum dose"
    STOPPED = "stopped"
    SIGNAL_LOST = "signal lost"
    DRIFTED = "drift beyond limit"
    NOT_FIRED = "aim not certain"


FROM_OUTSIDE = (Outcome.STOPPED, Outcome.SIGNAL_LOST, Outcome.DRIFTED, Outcome.NOT_FIRED)
"""Outcomes that no count leads to: see :meth:`Exposure.end`."""


@dataclasses.dataclass(frozen=True)
class ExposureSettings:
    """What is expected of an exposure, and what it may cost.

    Parameters
    ----------
    levels : tuple of float
        Counts per second on the column as it is, after one ejection and, if there may be one, after a second:
        "two atoms", "one", "none". All from the same background, which is included.
    current_pa : float
        Beam current.
    timeout_s : float
        Longest exposure.
    maximum_electrons : float
        Largest number of electrons sent to the column.
    false_alarm_per_s : float
        False alarms per second of the test for the step; the tests for abnormal signals have no more.
    tolerance : float
        Relative uncertainty of the levels (one standard deviation), once they are scaled to the start.
    learn_s : float
        The first seconds, in which the signal at the start is measured: a beam beside the column's centre sees less of
        it, and all levels are scaled alike. The step is not looked for in this time. Zero: the levels are right.

    Raises
    ------
    StemAeError
        If the levels are fewer than two or do not all go the same way, or a number is NaN, infinite or out of range.
    """

    levels: tuple[float, ...]
    current_pa: float
    timeout_s: float
    maximum_electrons: float
    false_alarm_per_s: float = 1e-3
    tolerance: float = 0.03
    learn_s: float = 1e-3

    def __post_init__(self) -> None:
        levels = tuple(checks.positive(level, "A level") for level in checks.items(self.levels, "levels"))
        object.__setattr__(self, "levels", levels)  # the dataclass is frozen
        steps = [b - a for a, b in zip(self.levels, self.levels[1:], strict=False)]
        if len(self.levels) not in (2, 3) or not (all(s > 0 for s in steps) or all(s < 0 for s in steps)):
            raise StemAeError(
                f"The levels {self.levels} are no staircase: give the counts per second before, after one ejection "
                "and, if wanted, after two."
            )
        checks.positive(self.current_pa, "current_pa", checks.MOST_PA, "pA")
        checks.positive(self.timeout_s, "timeout_s", checks.MOST_S, "s")
        checks.positive(self.maximum_electrons, "maximum_electrons", checks.MOST_ELECTRONS)
        checks.positive(self.false_alarm_per_s, "false_alarm_per_s")
        checks.share(self.tolerance, "The tolerance of the levels")
        checks.number(self.learn_s, "learn_s", 0.0, checks.MOST_S, "s")


@dataclasses.dataclass(frozen=True)
class Reading:
    """Counts of one piece of the exposure.

    Parameters
    ----------
    counts : float
        Detected electrons.
    exposure_s : float
        Seconds.
    """

    counts: float
    exposure_s: float


class Exposure:
    """Takes in counts until something ends the exposure, and names it.

    Three tests run on the counts: for the step; for a signal half a step beyond the level at the start (another atom,
    the beam on a neighbour); for one half-way to the next level (the beam slips off the column). When the step's test
    stops, the counts since the most likely moment of the step decide: the hypothesis with the larger likelihood names
    the outcome, and if they fit neither it is abnormal. They fit within four standard deviations of counting and
    ``tolerance`` together. The reading in which the step fell is left out, unless there is no other: whether one atom
    left or two is then uncertain until :meth:`confirm` has another reading.

    Parameters
    ----------
    settings : ExposureSettings
        Levels and limits.
    """

    _DEVIATIONS = 4.0
    _ACCEPTED = (0.7, 1.2)  # signal at the start, over what is expected
    _SCALE_STEP = 0.02
    _COARSE = 0.2  # readings in Python are never equally long

    def __init__(self, settings: ExposureSettings) -> None:
        self.settings = settings
        self.readings: list[Reading] = []
        """What was taken in, in order."""
        self.outcome: Outcome | None = None
        """None while the beam is to stay on."""
        self.elapsed_s = 0.0
        self.scale = 1.0
        """Signal at the start over what was expected; multiplies all levels."""
        self._learning = settings.learn_s > 0
        self._since = 0  # index of the reading in which the step, if there was one, most likely happened
        before, after = settings.levels[:2]
        half = (after - before) / 2
        self.step = StepDetector(before, after, settings.false_alarm_per_s, self._COARSE)
        """The test for the step: its ``statistic`` over ``threshold`` is what a live trace shows."""
        self._beyond = StepDetector(before, max(before - half, before / 2), settings.false_alarm_per_s, self._COARSE)
        # A step also counts as evidence for half a step: a higher threshold lets the step's own test be first.
        self._between = StepDetector(before, before + half, settings.false_alarm_per_s / 100, self._COARSE)

    @property
    def electrons(self) -> float:
        """Electrons sent so far."""
        return electrons_per_pixel(self.settings.current_pa, self.elapsed_s * 1e6)

    def prepare(self, shortest_s: float, longest_s: float | None = None) -> None:
        """Compute the thresholds for readings of these lengths, before the beam is on: a moment, the first time."""
        low, high = self._ACCEPTED if self._learning else (1.0, 1.0)
        length, last = shortest_s * low, (longest_s or shortest_s) * high
        while length < last * (1 + self._COARSE):
            for detector in (self.step, self._beyond, self._between):
                detector.threshold_for(min(length, last))
            length *= 1 + self._COARSE

    def update(self, counts: float, exposure_s: float) -> Outcome | None:
        """Take in one reading; anything but None means: blank now.

        Parameters
        ----------
        counts : float
            Detected electrons.
        exposure_s : float
            Seconds since the last reading.

        Raises
        ------
        StemAeError
            If the exposure has ended, or the reading is impossible.
        """
        if self.outcome is not None:
            raise StemAeError(f"This exposure has ended ({self.outcome}): start another one.")
        if self._learning:
            self._keep(counts, exposure_s)
            self.outcome = self._learn() or self._limit()
        else:
            self.outcome = self._test(counts, exposure_s) or self._limit()
        return self.outcome

    def _learn(self) -> Outcome | None:
        """Scale the levels to the signal at the start, once it is known."""
        if self.elapsed_s < self.settings.learn_s:
            return None
        measured = sum(r.counts for r in self.readings) / self.elapsed_s / self.settings.levels[0]
        low, high = self._ACCEPTED
        if not low <= measured <= high:
            return Outcome.ABNORMAL
        self.scale = round(measured / self._SCALE_STEP) * self._SCALE_STEP
        self._learning = False
        self._since = len(self.readings)
        return None

    def _test(self, counts: float, exposure_s: float) -> Outcome | None:
        # Levels that are all higher by a factor are the same as a clock that is faster by it.
        clock_s = exposure_s * self.scale
        # The reading in which the step falls lies between the levels: only the next one can say that it was none.
        slipped = self._between.stopped
        self._between.update(counts, clock_s)
        stepped = self.step.update(counts, clock_s)
        strange = self._beyond.update(counts, clock_s)
        self._keep(counts, exposure_s)
        if self.step.statistic == 0:
            self._since = len(self.readings)
        if stepped:
            return self._name_step()
        return Outcome.ABNORMAL if strange or slipped else None

    def _limit(self) -> Outcome | None:
        if not self.electrons < self.settings.maximum_electrons:
            return Outcome.MAXIMUM_DOSE
        return None if self.elapsed_s < self.settings.timeout_s else Outcome.TIMEOUT

    def has_lasted(self, seconds: float) -> None:
        """State how long the beam was on at most: time without a reading counts as exposed, too."""
        self.elapsed_s = max(self.elapsed_s, seconds)

    def confirm(self, counts: float, exposure_s: float) -> Outcome:
        """Take in a reading that was complete before the beam was blanked, and name the step again.

        Raises
        ------
        StemAeError
            If the exposure has not ended.
        """
        if self.outcome is None:
            raise StemAeError("This exposure goes on: confirm takes the readings after its end.")
        self._keep(counts, exposure_s)
        if self.step.stopped:
            self.outcome = self._name_step()
        return self.outcome

    def end(self, outcome: Outcome) -> None:
        """End the exposure from outside, by one of ``FROM_OUTSIDE``; an outcome that is there already stays."""
        if self.outcome is None:
            self.outcome = outcome

    def _keep(self, counts: float, exposure_s: float) -> None:
        check_reading(counts, exposure_s)
        self.readings.append(Reading(float(counts), float(exposure_s)))
        self.elapsed_s += exposure_s

    def _name_step(self) -> Outcome:
        before, *later = (level * self.scale for level in self.settings.levels)
        readings = self.readings[self._since + 1 :] or self.readings[self._since :]
        counts, seconds = sum(r.counts for r in readings), sum(r.exposure_s for r in readings)
        # A lone reading may hold up to its length of the old level.
        mixed = abs(before - later[0]) * seconds if len(self.readings) - self._since == 1 else 0.0
        likelihood = {}
        for outcome, level in zip((Outcome.STEP, Outcome.DOUBLE), later, strict=False):
            expected = level * seconds
            deviation = math.sqrt(expected + (self.settings.tolerance * expected) ** 2)
            if abs(counts - expected) <= self._DEVIATIONS * deviation + mixed:
                likelihood[outcome] = counts * math.log(level) - expected
        return max(likelihood, key=lambda outcome: likelihood[outcome]) if likelihood else Outcome.ABNORMAL

    # --- the log ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and words, for JSON."""
        return {
            "settings": dataclasses.asdict(self.settings) | {"levels": list(self.settings.levels)},
            "counts": [r.counts for r in self.readings],
            "exposure_s": [r.exposure_s for r in self.readings],
            "electrons": self.electrons,
            "outcome": None if self.outcome is None else str(self.outcome),
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Exposure:
        """Replay the counts that :meth:`to_dict` wrote.

        Raises
        ------
        StemAeError
            If the record is incomplete, or the counts do not lead to its outcome.
        """
        try:
            settings = {**record["settings"], "levels": tuple(record["settings"]["levels"])}
            exposure = cls(ExposureSettings(**settings))
            for counts, exposure_s in zip(record["counts"], record["exposure_s"], strict=True):
                (exposure.update if exposure.outcome is None else exposure.confirm)(counts, exposure_s)
            outcome = None if record["outcome"] is None else Outcome(record["outcome"])
        except (KeyError, TypeError, ValueError) as error:
            raise StemAeError(f"This is no record of an exposure that stem_ae wrote ({error}).") from error
        if outcome in FROM_OUTSIDE:
            exposure.end(outcome)
        if exposure.outcome is not outcome:
            raise StemAeError(
                f"The record says {record['outcome']!r}, but its counts lead to {exposure.outcome!s}: it was changed."
            )
        return exposure
