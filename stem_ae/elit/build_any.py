"""Training of the model "any", as run by ``scripts/train_any.py``.

It differs from a material's model (:mod:`stem_ae.elit.build`) in its training images and in the network that reads the
scale; networks, training, and what the ensemble learns of its own errors are the same.
"""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from stem_ae.elit import build, posterior, random_columns, scale_network, synthesis, training
from stem_ae.elit.build import WORKING_SAMPLING, Plan, Report
from stem_ae.elit.ensemble import Description, Ensemble
from stem_ae.elit.network import UNet
from stem_ae.elit.novelty import Familiar, Signs
from stem_ae.elit.preprocess import Image, repair, to_working_grid
from stem_ae.elit.scale_network import ScaleNet
from stem_ae.elit.synthesis import Scene

_READ, _MISREAD = 0.95, 0.8  # recall and precision: a frame counts as read, as misread
_FEWEST_READ = 12  # columns
_SURE = 0.99  # columns that must be found, by which a frame is judged
_FRAME_EXTENT = (12.0, 48.0)  # units
_USUAL_WIDTH, _USUAL_SAMPLING = (0.42, 0.58), (0.07, 0.2)  # units: where positions are judged


def build_any(
    path: pathlib.Path,
    plan: Plan,
    squares: int = 10000,
    scale_steps: int = 2200,
    frames: int = 240,
    report: Report = lambda what, done, total, loss: None,
) -> Ensemble:
    """Train the ensemble and its scale network and write them to ``path``; a second call resumes the training.

    Parameters
    ----------
    path : path
        Of the model; checkpoints are kept beside it until it is done.
    plan : Plan
        Members, patches, steps and seed.
    squares, scale_steps : int
        Training of the scale network.
    frames : int
        Simulated frames from which novelty and position errors are learnt.
    report : callable
        See :data:`stem_ae.elit.build.Report`.
    """
    scale = _scale_network(path.with_suffix(".scale"), squares, scale_steps, plan.seed, report)
    members = _members(path, plan, report)
    provenance = {"plan": dataclasses.asdict(plan), "squares": squares, "scale_steps": scale_steps, "frames": frames}
    species = (random_columns.COLUMN,)
    description = Description("any", species, WORKING_SAMPLING, 0.0, plan.recipe.width, provenance=provenance)
    ensemble = Ensemble(members, description)  # without the scale network: training frames come at the right scale
    familiar = _familiar(ensemble, plan.seed, frames, report)
    weights = _position_errors(ensemble, plan.seed, frames, report)
    description = dataclasses.replace(description, posterior=weights)
    finished = ensemble.replace(description=description, familiar=familiar, scale=scale)
    finished.save(path)
    for left in path.parent.glob(f"{path.stem}.*"):
        if left != path and left.suffix in (".scale", ".member"):
            left.unlink()
    return finished


def _scale_network(path: pathlib.Path, squares: int, steps: int, seed: int, report: Report) -> ScaleNet:
    if path.exists():
        network = ScaleNet()
        network.load_state_dict(load_file(path))
        return network
    images = np.empty((squares, scale_network.SQUARE, scale_network.SQUARE), np.float16)
    widths = np.empty(squares)
    for k in range(squares):
        images[k], widths[k] = scale_network.example(np.random.default_rng([seed, 4, k]))
        report("squares", k + 1, squares, 0.0)
    network = scale_network.train(
        images, widths, steps, seed, lambda done, total, loss: report("scale network", done, total, loss)
    )
    save_file(network.state_dict(), path)
    return network


def _members(path: pathlib.Path, plan: Plan, report: Report) -> list[UNet]:
    """Return the trained networks; each is kept when it is done."""
    kept = [path.with_suffix(f".{k}.member") for k in range(plan.members)]
    if not all(file.exists() for file in kept):
        images, targets = _patches(plan, report)
    members = []
    for k, file in enumerate(kept):
        if not file.exists():
            progress = lambda done, total, loss, k=k: report(f"network {k + 1}", done, total, loss)  # noqa: E731
            checkpoint = path.with_suffix(f".{k}.checkpoint")
            seed = 1000 * plan.seed + k
            member = training.train_member(images, targets, plan.recipe, seed, None, checkpoint, progress)
            save_file({name: tensor.contiguous() for name, tensor in member.state_dict().items()}, file)
        network = UNet(1, plan.recipe.width)
        network.load_state_dict(load_file(file))
        members.append(network.eval())
    return members


def _patches(plan: Plan, report: Report) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Return training pairs, as :func:`stem_ae.elit.synthesis.data_set` does."""
    images = np.empty((plan.patches, plan.size, plan.size), np.float16)
    targets = np.empty((plan.patches, 2, plan.size, plan.size), np.uint8)
    for k in range(plan.patches):
        image, target = _patch(plan.size, np.random.default_rng([plan.seed, k]))
        images[k], targets[k] = image, np.rint(target * 255)
        report("training images", k + 1, plan.patches, 0.0)
    return images, targets


def _patch(size: int, rng: np.random.Generator) -> tuple[Image, Image]:
    shot = random_columns.scene(size * WORKING_SAMPLING, rng)
    image = to_working_grid(repair(shot.counts), shot.sampling, WORKING_SAMPLING)[:size, :size]
    shape = (size, size)
    return image, synthesis.target(shot.xy, shot.names, (random_columns.COLUMN,), shape, WORKING_SAMPLING, shot.heights)


def _familiar(ensemble: Ensemble, seed: int, frames: int, report: Report) -> Familiar:
    """Return statistics of the frames that the ensemble reads correctly, and how those that it misreads differ."""
    known: list[Signs] = []
    misread: list[Signs] = []
    for k in range(frames):
        rng = np.random.default_rng([seed, 1, k])
        shot = _certain(random_columns.scene(rng.uniform(*_FRAME_EXTENT), rng))
        shown, atoms = ensemble.look(shot.counts, shot.sampling)
        right = build.share_right(atoms, shot)
        if right < _MISREAD:
            misread.append(shown)
        elif right >= _READ and len(atoms) >= _FEWEST_READ:
            known.append(shown)
        report("familiar frames", k + 1, frames, 0.0)
    return Familiar.learn(known, misread)


def _certain(shot: Scene) -> Scene:
    """Return a scene whose list holds only the columns that must be found."""
    assert shot.heights is not None
    sure = shot.heights > _SURE
    names = [name for name, is_sure in zip(shot.names, sure, strict=True) if is_sure]
    return dataclasses.replace(shot, xy=shot.xy[sure], names=names, heights=shot.heights[sure])


def _position_errors(ensemble: Ensemble, seed: int, frames: int, report: Report) -> posterior.Posterior:
    """Return the weights of the networks' and the likelihood's positions, from the errors of both."""
    errors = []
    for k in range(frames):
        rng = np.random.default_rng([seed, 2, k])
        shot = random_columns.scene(36.0, rng, rng.uniform(*_USUAL_WIDTH), rng.uniform(*_USUAL_SAMPLING))
        errors.append(build.position_errors(ensemble, _certain(shot)))
        report("position errors", k + 1, frames, 0.0)
    return posterior.learn(errors)
