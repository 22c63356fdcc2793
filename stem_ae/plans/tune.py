"""The plan that focuses and takes the astigmatism out, by looking at images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np
from bluesky import preprocessors as bpp
from bluesky.utils import Msg
from numpy.typing import ArrayLike
from scipy import ndimage

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.explore.remote import DecisionProcess
from stem_ae.microscope.devices import Control, Microscope, Note
from stem_ae.microscope.frame import Frame
from stem_ae.microscope.usable import filled
from stem_ae.plans import stubs
from stem_ae.plans.acquire import wait_for
from stem_ae.plans.stubs import Plan

RANGES = {"defocus": 150.0, "astigmatism_x": 80.0, "astigmatism_y": 80.0}
"""Å to either side of the settings at the start that are looked at."""

_DARKEST = 1e-4  # an image without any contrast, whose noise may even correlate negatively
_FARTHEST = 1e6  # Å: a tenth of a millimetre out of focus is not found by looking at sharpness
_COARSE = 3.0  # Å: what varies more slowly says nothing of the focus


def sharpness(image: ArrayLike, sampling: float) -> float:
    """Return how sharp an image is: the variance of what is finer than 3 Å, over the mean's square.

    The covariance of neighbouring pixels stands for the variance: noise, which they do not share, is not in it. Pixels
    have to be finer than the detail, 0.2 Å or less.
    """
    data = np.asarray(image, dtype=float)
    fine = data - ndimage.gaussian_filter(data, _COARSE / sampling)
    shared = 0.5 * (np.mean(fine[1:] * fine[:-1]) + np.mean(fine[:, 1:] * fine[:, :-1]))
    mean = float(data.mean())
    if not mean > 0:
        raise StemAeError("The image is dark: unblank, or scan where the specimen is, before tuning.")
    return float(shared) / mean**2


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What tuning has led to; all in Å."""

    before: dict[str, float]
    after: dict[str, float]
    sharpness_before: float
    sharpness_after: float


def tune(
    microscope: Microscope, process: DecisionProcess, frame: Frame, trials: int = 45,
    ranges: Mapping[str, float] = RANGES, seed: int = 0,
    tried: Callable[[int, float], None] = lambda count, reward: None,
) -> Plan:
    """Find defocus and astigmatism with the sharpest image; the run's result is :class:`Tuned`.

    Bayesian optimisation of the sharpness' logarithm, which falls off less steeply than the sharpness itself and so
    shows the way from far outside. The settings are as before if it is stopped, fails, or found nothing better.

    Parameters
    ----------
    microscope : Microscope
    process : DecisionProcess
    frame : Frame
        A small and quick one, with pixels of 0.2 Å or less.
    trials : int
        Images to take.
    ranges : mapping of str to float
        Å to either side of the present settings.
    seed : int
    tried : callable, optional
        Called with the number of trials and the last one's sharpness, in the engine's thread.
    """
    if frame.sampling[0] > 0.2:
        raise StemAeError(f"Tuning needs pixels of 0.2 Å or less, not {frame.sampling[0]:.2f} Å: zoom in.")
    trials = checks.whole(trials, "trials")
    for name, value in ranges.items():
        checks.positive(value, f"The range of {name}", _FARTHEST, "Å")
    known = [microscope.defocus, *microscope.astigmatism]
    controls = [control for control in known if control.name in ranges]
    start = np.array([control.value for control in controls])
    reach = np.array([ranges[control.name] for control in controls])
    note: dict[str, float] = {}
    device = Note(microscope.instrument, "tuning", lambda: note)

    def image_at(settings: ArrayLike) -> Generator[Msg, Any, float]:
        yield from _set(controls, settings)
        image = yield from stubs.scan(microscope, frame, "trial")
        reward = sharpness(filled(image.data), frame.sampling[0])
        note.update({c.name: c.value for c in controls}, sharpness=reward)
        yield from stubs.record([device], "tuning")
        return reward

    def search() -> Generator[Msg, Any, Tuned]:
        best = trial = yield from wait_for(process.tune(start - reach, start + reach, start, seed=seed))
        for count in range(1, trials + 1):
            reward = yield from image_at(trial)
            tried(count, reward)
            trial, best = yield from wait_for(process.rewarded(trial, np.log(max(reward, _DARKEST))))
        before, after = (yield from image_at(start)), (yield from image_at(best))
        if after < before:
            best, after = start, before
            yield from _set(controls, start)
        names = [control.name for control in controls]
        return Tuned(
            dict(zip(names, start.tolist(), strict=True)), dict(zip(names, np.asarray(best).tolist(), strict=True)),
            before, after,
        )  # fmt: skip

    def undo(error: BaseException) -> Plan:
        yield from stubs.move(microscope.blanker, True)
        yield from _set(controls, start)

    plan = bpp.contingency_wrapper(search(), except_plan=undo)
    return stubs.as_run(microscope, "tune", plan, frame=dataclasses.asdict(frame), trials=trials, ranges=dict(ranges))


def _set(controls: list[Control], settings: ArrayLike) -> Plan:
    for control, value in zip(controls, np.asarray(settings, dtype=float).tolist(), strict=True):
        yield from stubs.move(control, value)
