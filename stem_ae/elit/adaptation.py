"""Iterative training on the running experiment: an ensemble that learns today's microscope from its frames.

No labels are needed. First the forward model is fitted again: the probes and doses whose simulated frames look like the
real one. With that probe frames are refocused (:mod:`stem_ae.elit.refocus`) if the ensemble reads simulated ones better
so. Training then goes on from the ensemble's own weights with

* specimens of the model's material, imaged with those probes and doses,
* the frames themselves, labelled by what the ensemble is sure of and a Gaussian mixture of the atoms' intensities, and
  of their neighbours', agrees with,
* the conditions of the first training, so that what was known stays known,

and is repeated until the ensemble can count on no more atoms.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from stem_ae.atoms import as_sampling
from stem_ae.classify import confirmed
from stem_ae.elit import synthesis, training
from stem_ae.elit.build import familiar_to, share_right
from stem_ae.elit.ensemble import Ensemble
from stem_ae.elit.forward_model import refit
from stem_ae.elit.materials import MATERIALS, Material
from stem_ae.elit.network import UNet
from stem_ae.elit.novelty import Familiar
from stem_ae.elit.preprocess import Image, as_image, repair
from stem_ae.elit.refocus import Refocus
from stem_ae.errors import StemAeError
from stem_ae.imaging.probe import Probe

Progress = Callable[[float, str], None]
"""Called with the fraction that is done and what is being done; raise from it to stop."""

_Patches = tuple[NDArray[np.float16], NDArray[np.uint8]]  # images (N, S, S), targets (N, 1 + C, S, S) in 1/255

_SIZE = 64  # working pixels per side of a training patch: smaller than at first, for more steps in the same time
_SURE = 0.8  # probability above which a found atom counts as known
_GAIN = 1.01  # another round is worth while if it found one atom in a hundred more
_TRIED, _TRIED_EXTENT = 4, 24.0  # simulated frames that are read before, and Å
_NOISES = (0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4)  # of the refocus: that with which such frames are read best


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
        Simulated patches; half as many again of the first conditions, and after the first round of the frames.
    """

    rounds: int = 4
    steps: int = 50
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
    today = refit(frames[0], ensemble.predict(frames[0], step).atoms, material, seed)
    progress(0.1, "looking for the best refocus")
    shots = _shots(material, today, seed)
    if not all(np.ptp(shot.counts) for shot in shots):
        raise StemAeError(
            "Probe and dose cannot be fitted to this frame, since nothing in it looks like the model's material: take "
            "a frame in which atoms can be seen."
        )
    start = _refocused(ensemble, today.probes[0], shots)
    progress(0.15, "simulating today's images")
    simulated = _simulated(start, material, today, effort.patches, seed)
    best, counts = _taught(start, simulated, frames, step, effort, seed, progress)
    before, after = _counted_on(ensemble, frames, step), max(counts, default=0)
    if after * _share_right(best, shots) <= before * _share_right(ensemble, shots):
        best, after = ensemble, before
    else:
        progress(0.93, "learning what is familiar now")
        best = best.replace(familiar=familiar_to(best, material, (today, material.conditions), seed, frames=32))
        best = best.replace(familiar=_familiar_with(best, frames, step))
    progress(1.0, f"sure of {before} atoms before, {after} now")
    return _with_provenance(best, ensemble, today, [before, *counts])


def _taught(
    ensemble: Ensemble,
    simulated: Sequence[_Patches],
    frames: Sequence[Image],
    sampling: tuple[float, float],
    effort: Effort,
    seed: int,
    progress: Progress,
) -> tuple[Ensemble, list[int]]:
    """Train until nothing more is found, and return the best ensemble and what could be counted on after each round."""
    best, counts = ensemble, list[int]()
    for round_ in range(effort.rounds):
        # Labels come from a model that has learnt something.
        labelled = [_labelled(ensemble, frame, sampling) for frame in frames] if round_ and counts[-1] else []
        patches = [*simulated, *_cut(labelled, effort.patches // 2, np.random.default_rng([seed, round_]))]
        ensemble = _trained(ensemble, patches, effort, [seed, round_], progress)
        counts.append(_counted_on(ensemble, frames, sampling))
        if counts[-1] == max(counts):
            best = ensemble
        if round_ and counts[-1] < _GAIN * counts[-2]:
            break
    return best, counts


def _as_frames(image: ArrayLike | Sequence[ArrayLike]) -> list[ArrayLike]:
    array = np.asarray(image)
    return list(array) if array.ndim == 3 else [array]


def _familiar_with(ensemble: Ensemble, frames: Sequence[Image], sampling: tuple[float, float]) -> Familiar | None:
    """Return what is familiar to an ensemble once these frames are: no simulation has all that a microscope does."""
    looks = [ensemble.look(frame, sampling)[0] for frame in frames]
    return ensemble.familiar and ensemble.familiar.with_frames(looks)


def _counted_on(ensemble: Ensemble, frames: Sequence[Image], sampling: tuple[float, float]) -> int:
    """Return how many atoms are to be expected where the ensemble sees one; those that are smeared count in part."""
    found = (ensemble.predict(frame, sampling, refine=False) for frame in frames)
    return round(sum(float(p.presence.sum()) for p in found))


def _shots(material: Material, today: synthesis.Conditions, seed: int) -> list[synthesis.Scene]:
    """Return simulated frames of today."""
    seeds = (np.random.default_rng([seed, 7, k]) for k in range(_TRIED))
    return [synthesis.scene(material.make_specimen, _TRIED_EXTENT, today, rng) for rng in seeds]


def _share_right(ensemble: Ensemble, shots: Sequence[synthesis.Scene]) -> float:
    """Return how much of simulated frames of today the ensemble reads rightly."""
    looks = (ensemble.look(shot.counts, shot.sampling, refocused=True)[1] for shot in shots)
    return float(np.mean([share_right(atoms, shot) for atoms, shot in zip(looks, shots, strict=True)]))


def _refocused(ensemble: Ensemble, probe: Probe, shots: Sequence[synthesis.Scene]) -> Ensemble:
    """Return the ensemble with the refocus with which it reads simulated frames of today best."""
    choices = dict.fromkeys([ensemble.description.refocus, None, *(Refocus(probe, noise) for noise in _NOISES)])
    return max((_with_refocus(ensemble, refocus) for refocus in choices), key=lambda e: _share_right(e, shots))


def _with_refocus(ensemble: Ensemble, refocus: Refocus | None) -> Ensemble:
    return ensemble.replace(description=dataclasses.replace(ensemble.description, refocus=refocus))


# --- training ---------------------------------------------------------------------------------------------------------


def _simulated(
    ensemble: Ensemble, material: Material, today: synthesis.Conditions, count: int, seed: int
) -> list[_Patches]:
    """Return so many patches of today's conditions, as the ensemble refocuses them, and half as many of the first."""
    refocus = ensemble.description.refocus
    number = int(np.random.SeedSequence([seed, 0]).generate_state(1)[0])
    jobs = [(today, refocus), (today, refocus), (material.conditions, None)]
    with _one_thread_each(len(jobs)) as pool:
        sets = [
            pool.submit(
                synthesis.data_set, material.make_specimen, ensemble.species, count // 2, _SIZE, ensemble.sampling,
                conditions, number + k, refocus=through,
            )
            for k, (conditions, through) in enumerate(jobs)
        ]  # fmt: skip
        return [one.result() for one in sets]


def _cut(frames: Sequence[_Patches], count: int, rng: np.random.Generator) -> list[_Patches]:
    """Return patches of labelled frames, as one set; nothing if there are no frames."""
    if not frames:
        return []
    images, targets = [], []
    for _ in range(count):
        image, target = frames[int(rng.integers(len(frames)))]
        y, x = (int(rng.integers(n - _SIZE + 1)) for n in image.shape)
        images.append(image[y : y + _SIZE, x : x + _SIZE])
        targets.append(target[:, y : y + _SIZE, x : x + _SIZE])
    return [(np.stack(images), np.stack(targets))]


def _trained(
    ensemble: Ensemble, patches: Sequence[_Patches], effort: Effort, seed: Sequence[int], progress: Progress
) -> Ensemble:
    """Return the ensemble after one round of training."""
    images, targets = (np.concatenate(arrays) for arrays in zip(*patches, strict=True))
    recipe = training.Recipe(
        steps=effort.steps, batch=8, learning_rate=2e-3, swa_learning_rate=7e-4, swa_share=0.4,
        width=ensemble.description.width, norm_batches=12,
    )
    round_, count = seed[-1], len(ensemble.members)
    share = 0.7 / effort.rounds
    number = int(np.random.SeedSequence([*seed, 1]).generate_state(1)[0])
    done = np.zeros(count)
    lock = threading.Lock()

    def train(k: int) -> UNet:
        def report(step: int, steps: int, loss: float) -> None:
            with lock:
                done[k] = step / steps
                fraction = 0.22 + share * (round_ + float(done.mean()))
                progress(fraction, f"round {round_ + 1}: training {count} networks, loss {loss:.3f}")

        return training.train_member(
            images, targets, recipe, number + k, ensemble.members[k], progress=report, device=ensemble.device
        )

    with _one_thread_each(count) as pool:
        return ensemble.replace(members=list(pool.map(train, range(count))))


@contextlib.contextmanager
def _one_thread_each(tasks: int) -> Iterator[concurrent.futures.Executor]:
    """Run tasks side by side, each on one core: networks this small hardly gain from several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            threadpool_limits(limits=1, user_api="blas"),
            concurrent.futures.ThreadPoolExecutor(min(tasks, threads)) as pool,
        ):
            yield pool
    finally:
        torch.set_num_threads(threads)


def _labelled(ensemble: Ensemble, frame: Image, sampling: tuple[float, float]) -> _Patches:
    """Return a frame and its labels: the members' mean, and a firm blob for each atom that the ensemble is sure of."""
    image = ensemble.seen(frame, sampling)
    prediction = ensemble.predict(frame, sampling)
    sure = (prediction.presence > _SURE) & confirmed(prediction.atoms)
    atoms = prediction.atoms[sure]
    firm = synthesis.target(atoms.positions, atoms.symbols, ensemble.species, image.shape, ensemble.sampling)[1:]
    soft = np.maximum(prediction.working_probability, firm)
    soft /= np.maximum(soft.sum(0), 1.0)
    label = np.concatenate([1 - soft.sum(0, keepdims=True), soft])
    padding = [(0, max(0, _SIZE - n)) for n in image.shape]
    image, label = np.pad(image, padding), np.pad(label, [(0, 0), *padding], mode="edge")
    return image.astype(np.float16), np.rint(label * 255).astype(np.uint8)


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
    return adapted.replace(description=description)
