"""Iterative training on the running experiment: an ensemble that learns today's microscope from its frames.

No labels are needed. First the forward model is fitted again: among probes and doses, those are kept whose simulated
frames have the power spectrum of the real one. Training then goes on from the ensemble's own weights with

* specimens of the model's material, imaged with those probes and doses,
* the frames themselves, labelled by what the ensemble is sure of (the sharpened mean of its members),
* the conditions of the first training, so that what was known stays known,

and is repeated until the ensemble finds no more atoms that it is sure of.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from stem_ae.atoms import as_sampling
from stem_ae.elit import synthesis, training
from stem_ae.elit.build import familiar_to
from stem_ae.elit.ensemble import Ensemble
from stem_ae.elit.materials import MATERIALS, Material
from stem_ae.elit.network import UNet
from stem_ae.elit.preprocess import Image, as_image, grid_length, repair, resample, to_working_grid
from stem_ae.errors import StemAeError
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe, Probe

FloatArray = NDArray[np.float64]

Progress = Callable[[float, str], None]
"""Called with the fraction that is done and what is being done; raise from it to stop."""

_SIZE = 64  # working pixels per side of a training patch: smaller than at first, for more steps in the same time
_SURE = 0.8  # probability above which a found atom counts as known
_GAIN = 1.01  # another round is worth while if it found one atom in a hundred more
_KEPT_PROBES = 6
_SPECIMENS = 8  # on which each candidate is tried: some have holes or many defects, the frame may not

_CANDIDATES: tuple[Probe, ...] = (
    *(GaussianProbe(sigma) for sigma in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)),
    *(AberratedProbe(defocus=c10) for c10 in (40.0, 70.0, 100.0, 130.0, 160.0, 200.0, 250.0, 300.0)),
    *(AberratedProbe(defocus=-c10) for c10 in (70.0, 130.0)),
    *(AberratedProbe(astigmatism=(60 * np.cos(t), 60 * np.sin(t))) for t in (0.0, np.pi / 2, np.pi, 3 * np.pi / 2)),
    *(AberratedProbe(astigmatism=(120 * np.cos(t), 120 * np.sin(t))) for t in (0.0, np.pi / 2, np.pi, 3 * np.pi / 2)),
)


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much an adaptation may cost.

    Attributes
    ----------
    rounds : int
        Rounds of training at most.
    steps : int
        Gradient steps of each network in each round.
    patches : int
        Simulated patches in each round; as many again from the frames and from the first conditions.
    """

    rounds: int = 2
    steps: int = 80
    patches: int = 128


def adapt(
    ensemble: Ensemble,
    image: ArrayLike | Sequence[ArrayLike],
    sampling: float | tuple[float, float],
    progress: Progress = lambda fraction, text: None,
    effort: Effort = Effort(),
    seed: int = 0,
) -> Ensemble:
    """Return a new ensemble that has learnt the conditions of one or several frames.

    Parameters
    ----------
    ensemble : Ensemble
        Where to start; it is not changed.
    image : (H, W) array, or a sequence of them
        Frames of the running experiment.
    sampling : float or (float, float)
        Å per pixel.
    progress : callable
        See :data:`Progress`.
    effort : Effort
        Rounds and steps.
    seed : int
        Of simulation and shuffling.

    Raises
    ------
    StemAeError
        If a frame cannot be used, or the model's material is not one that can be simulated here.
    """
    material = MATERIALS.get(ensemble.description.material)
    if material is None:
        raise StemAeError(
            f"The model {ensemble.name!r} does not say of which material it is, so its images cannot be simulated: "
            f"start from one of {', '.join(MATERIALS)}."
        )
    frames = [repair(as_image(frame)) for frame in _as_frames(image)]
    step = as_sampling(sampling)
    progress(0.0, "fitting probe and dose to the frame")
    today = refit(frames[0], step, material, ensemble.sampling, seed)
    best, sure = ensemble, _count_sure(ensemble, frames, step)
    history = [sure]
    for round_ in range(effort.rounds):
        better = _one_round(best, frames, step, material, today, effort, [seed, round_], progress, round_)
        now = _count_sure(better, frames, step)
        history.append(now)
        if now < sure:
            break
        saturated = 0 < now < _GAIN * sure
        best, sure = better, now
        if saturated:
            break
    progress(1.0, f"sure of {history[0]} atoms before, {sure} now")
    return _with_provenance(best, ensemble, today, history)


def _as_frames(image: ArrayLike | Sequence[ArrayLike]) -> list[ArrayLike]:
    array = np.asarray(image)
    return list(array) if array.ndim == 3 else [array]


def _count_sure(ensemble: Ensemble, frames: Sequence[Image], sampling: tuple[float, float]) -> int:
    found = (ensemble.predict(frame, sampling, refine=False) for frame in frames)
    return sum(int((p.presence > _SURE).sum()) for p in found)


# --- the forward model ------------------------------------------------------------------------------------------------


def refit(
    image: Image, sampling: tuple[float, float], material: Material, working: float, seed: int
) -> synthesis.Conditions:
    """Return the conditions whose simulated frames look like this one in their power spectrum.

    The radially averaged power is, for each candidate probe, a multiple of that of the material without noise, plus
    white noise as the resampling passes it on. The noise is read where no lattice has signal, the multiple is fitted,
    and the candidates, each on several random specimens, are ranked by the difference of the logarithms; noise and
    multiple together give the dose.
    """
    scale = float(np.sqrt(np.prod(sampling)))
    extent = float(np.clip(min(image.shape[0] * sampling[0], image.shape[1] * sampling[1]), 16.0, 40.0))
    pixels = int(extent / scale)
    top, left = (image.shape[0] - pixels) // 2, (image.shape[1] - pixels) // 2
    observed = _spectrum(image[top : top + pixels, left : left + pixels], scale, working)
    rng = np.random.default_rng(seed)
    noise = _spectrum(rng.normal(size=(pixels, pixels)).astype(np.float32), scale, working)
    quiet = observed[_QUIET:] / noise[_QUIET:]
    variance = float(np.median(quiet))  # of each image pixel, in the image's own units squared
    ranked = []
    for probe, k in itertools.product(_CANDIDATES, range(_SPECIMENS)):
        clean = synthesis.expected(material.make_specimen, extent, scale, probe, np.random.default_rng([seed, k]))
        signal = _spectrum(clean.astype(np.float32), scale, working)
        above = observed - variance * noise
        gain2 = max(float((above * signal).sum() / (signal**2).sum()), 1e-30)
        model = gain2 * signal + variance * noise
        # counts = electrons * fraction, image = counts * gain: variance = gain^2 * electrons * mean(fraction)
        electrons = gain2 * float(clean.mean()) / max(variance, 1e-30)
        ranked.append((float(np.mean((np.log(model) - np.log(observed)) ** 2)), probe, electrons / scale**2))
    ranked.sort(key=lambda item: item[0])
    kept = [item for item in ranked if item[0] < 2 * ranked[0][0]][:_KEPT_PROBES]
    doses = [dose for _, _, dose in kept]
    return dataclasses.replace(
        material.conditions,
        probes=tuple(probe for _, probe, _ in kept),
        log_dose=(min(doses) / 2, max(doses) * 2),
        log_sampling=(0.9 * scale, 1.1 * scale),
    )


_RINGS = 50  # of 0.05 / Å
_QUIET = 34  # from here on, 1.9 / Å, probes pass no signal


def _spectrum(image: Image, sampling: float, working: float) -> FloatArray:
    """Return the radially averaged power on the working grid, in rings of 0.05 / Å up to Nyquist's frequency."""
    n = grid_length(image.shape[0], sampling, working)
    frame = resample(image, (sampling, sampling), (n, n), (working, working))
    power = np.abs(np.fft.fft2((frame - frame.mean()) * np.outer(np.hanning(n), np.hanning(n)))) ** 2
    f = np.fft.fftfreq(n, working)
    ring = (np.hypot(f[:, None], f[None, :]) / 0.05).astype(int)
    inside = (ring < _RINGS) & (ring > 3)  # slower than 5 Å there are gradients and hydrocarbon
    count = np.maximum(np.bincount(ring[inside], minlength=_RINGS), 1)
    result: FloatArray = (np.bincount(ring[inside], power[inside], _RINGS) / count)[4:]
    return result


# --- training ---------------------------------------------------------------------------------------------------------


def _one_round(
    ensemble: Ensemble,
    frames: Sequence[Image],
    sampling: tuple[float, float],
    material: Material,
    today: synthesis.Conditions,
    effort: Effort,
    seed: Sequence[int],
    progress: Progress,
    round_: int,
) -> Ensemble:
    start = round_ / effort.rounds
    share = 1 / effort.rounds
    number = int(np.random.SeedSequence(list(seed)).generate_state(1)[0])
    progress(start, f"round {round_ + 1}: simulating today's images")
    parts = [_simulated(ensemble, material, today, effort.patches, number)]
    parts.append(_simulated(ensemble, material, material.conditions, effort.patches // 2, number + 1))
    if round_:  # the first round's labels come from a model that may not see much yet
        parts.append(_from_frames(ensemble, frames, sampling, effort.patches // 2, np.random.default_rng(number)))
    images, targets = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    recipe = training.Recipe(
        steps=effort.steps, batch=8, learning_rate=2e-3, swa_learning_rate=7e-4, swa_share=0.4,
        width=ensemble.description.width, norm_batches=12,
    )
    count = len(ensemble.members)
    done = np.zeros(count)
    lock = threading.Lock()

    def train(k: int) -> UNet:
        def report(step: int, steps: int, loss: float) -> None:
            with lock:
                done[k] = step / steps
                fraction = start + share * (0.1 + 0.85 * float(done.mean()))
                progress(fraction, f"round {round_ + 1}: training {count} networks, loss {loss:.3f}")

        return training.train_member(images, targets, recipe, number + k, ensemble.members[k], progress=report)

    with _one_thread_each(count) as pool:
        members = list(pool.map(train, range(count)))
    result = Ensemble(members, ensemble.description, ensemble.familiar)
    conditions = (today, material.conditions)
    return Ensemble(members, ensemble.description, familiar_to(result, material, conditions, number, frames=32))


@contextlib.contextmanager
def _one_thread_each(tasks: int) -> Iterator[concurrent.futures.Executor]:
    """Run tasks side by side, each on one core: networks this small hardly gain from several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with concurrent.futures.ThreadPoolExecutor(min(tasks, threads)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _simulated(
    ensemble: Ensemble, material: Material, conditions: synthesis.Conditions, count: int, seed: int
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    return synthesis.data_set(
        material.make_specimen, ensemble.species, count, _SIZE, ensemble.sampling, conditions, seed
    )


def _from_frames(
    ensemble: Ensemble, frames: Sequence[Image], sampling: tuple[float, float], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Return patches of the frames, labelled by the ensemble: its mean, and firm blobs where it is sure of an atom."""
    images, targets = [], []
    for _ in range(count):
        frame = frames[int(rng.integers(len(frames)))]
        working = to_working_grid(frame, sampling, ensemble.sampling)
        prediction = ensemble.predict(frame, sampling, refine=False)
        sure = prediction.presence > _SURE
        xy, names = prediction.atoms.positions[sure], prediction.atoms[sure].symbols
        firm = synthesis.target(xy, names, ensemble.species, working.shape, ensemble.sampling)[1:]
        soft = np.maximum(prediction.working_probability, firm)
        soft /= np.maximum(soft.sum(0), 1.0)
        label = np.concatenate([1 - soft.sum(0, keepdims=True), soft])
        padding = [(0, max(0, _SIZE - n)) for n in working.shape]
        working, label = np.pad(working, padding), np.pad(label, [(0, 0), *padding], mode="edge")
        y, x = (int(rng.integers(n - _SIZE + 1)) for n in working.shape)
        images.append(working[y : y + _SIZE, x : x + _SIZE].astype(np.float16))
        targets.append(np.rint(label[:, y : y + _SIZE, x : x + _SIZE] * 255).astype(np.uint8))
    return np.stack(images), np.stack(targets)


def _with_provenance(
    adapted: Ensemble, parent: Ensemble, today: synthesis.Conditions, history: Sequence[int]
) -> Ensemble:
    now = datetime.datetime.now(datetime.UTC)
    provenance = {
        "adapted_from": {"name": parent.name, "version": parent.version},
        "adapted_at": now.isoformat(timespec="seconds"),
        "conditions": {"log_dose": today.log_dose, "probes": [repr(probe) for probe in today.probes]},
        "sure_atoms": list(history),
        "parent": parent.description.provenance,
    }
    name = f"{parent.description.material}-{now:%Y%m%d-%H%M%S}"
    description = dataclasses.replace(adapted.description, name=name, provenance=provenance)
    return Ensemble(adapted.members, description, adapted.familiar)
