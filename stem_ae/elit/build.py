"""Making an ensemble for a material: data, members, file. What ``stem-ae train`` runs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D
from stem_ae.elit import synthesis, training
from stem_ae.elit.ensemble import Description, Ensemble
from stem_ae.elit.likelihood import fit
from stem_ae.elit.materials import MATERIALS, Material
from stem_ae.elit.network import UNet
from stem_ae.elit.novelty import Familiar, Signs
from stem_ae.elit.posterior import Errors, Posterior, learn
from stem_ae.elit.preprocess import repair
from stem_ae.errors import StemAeError
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.scoring import score
from stem_ae.torch_device import CPU

_FRAME_EXTENT = 48.0  # Å: largest frames on which a trained ensemble is checked
_POSITIONS_EXTENT, _POSITIONS_FRAMES = 36.0, 240  # Å: those on which its positions are, and how many at most
_SMALLEST_FAMILIAR = 10.0  # Å
# Ellipses are true for a microscope in focus: what aberrations do to single atoms differs from probe to probe.
_USUAL: dict[str, Any] = {
    "probes": tuple(GaussianProbe(s, e, k) for k, (s, e) in enumerate(itertools.product((0.4, 0.5, 0.55), (0.0, 0.1)))),
    "log_sampling": (0.07, 0.16),
    "displacement": 0.05,
}
_INNER = 2.0  # Å from the edge, from where on atoms show what the usual error is
_READ, _MISREAD = 0.98, 0.9  # recall, precision and share of right classes: a frame counts as read, as read wrongly
_FEWEST_READ = 12  # atoms: a frame of fewer, nearly all of it a hole, says little about the others
_FEWEST_FAMILIAR = 12  # frames
_ATTEMPTS = 50  # at a frame that shows anything
WORKING_SAMPLING = 0.2  # Å per pixel: a probe of 0.35 Å is still two pixels wide

Report = Callable[[str, int, int, float], None]
"""Called with what is being done, how much of it is done, out of how much, and the mean loss (0 for data)."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained, and on how much.

    Attributes
    ----------
    members : int
        Networks in the ensemble.
    patches, size : int
        Training patches, and the side of each in working pixels.
    recipe : training.Recipe
        Steps and rates of each member.
    seed : int
        Of data, initial weights and shuffling.
    """

    members: int = 5
    patches: int = 4000
    size: int = 96
    recipe: training.Recipe = dataclasses.field(default_factory=training.Recipe)
    seed: int = 0


def build(
    name: str,
    material: Material,
    plan: Plan,
    path: pathlib.Path,
    device: torch.device = CPU,
    report: Report = lambda what, done, total, loss: None,
) -> Ensemble:
    """Train an ensemble and write it to ``path``, member by member.

    After each member the file holds a working ensemble of those trained so far; called again with the same plan and
    structure, it resumes the training.

    Raises
    ------
    StemAeError
        If the file holds a model of another plan or structure, or another training writes to it.
    """
    with _alone(path):
        return _built(name, material, plan, path, device, report)


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[None]:
    """Keep other trainings off a model's file."""
    lock = FileLock(path.with_name(f".{path.stem}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise StemAeError(
            f"Another training writes to {path}: wait until it has ended, or choose another --name."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _built(
    name: str, material: Material, plan: Plan, path: pathlib.Path, device: torch.device, report: Report
) -> Ensemble:
    members, losses = _finished(path, plan, material)
    if len(members) == plan.members and Ensemble.read(path).familiar is not None:
        return Ensemble.read(path)
    images, targets = synthesis.data_set(
        material.make_specimen, material.species, plan.patches, plan.size, WORKING_SAMPLING, material.conditions,
        plan.seed, lambda done: report("training images", done, plan.patches, 0.0),
    )
    for k in range(len(members), plan.members):
        last = [0.0]

        def progress(done: int, total: int, loss: float, k: int = k, last: list[float] = last) -> None:
            last[0] = loss
            report(f"network {k + 1} of {plan.members}", done, total, loss)

        checkpoint = path.with_suffix(f".member{k}.checkpoint")
        seed = 1000 * plan.seed + k
        members.append(
            training.train_member(
                images, targets, plan.recipe, seed, None, checkpoint, progress, device, _key(plan, material, k)
            )
        )
        losses.append(round(last[0], 5))
        provenance = {
            "plan": dataclasses.asdict(plan), "structure": material.digest,
            "conditions": dataclasses.asdict(material.conditions), "losses": losses,
        }  # fmt: skip
        description = Description(
            name, material.species, WORKING_SAMPLING, material.lattice_constant, plan.recipe.width,
            next((key for key, known in MATERIALS.items() if known is material), ""), provenance=provenance,
        )
        Ensemble(members, description).save(path)
    frames = int(np.clip(plan.patches // 10, 8, 120))
    ensemble = finished(Ensemble.read(path), material, plan.seed, frames, report)
    ensemble.save(path)
    return ensemble


def finished(
    ensemble: Ensemble,
    material: Material,
    seed: int,
    frames: int,
    report: Report = lambda what, done, total, loss: None,
) -> Ensemble:
    """Return the ensemble with what it can say about itself: how good its positions are, and what is familiar to it.

    Both are learnt on new simulated frames: all training conditions are familiar, and positions are judged on clean
    ones at usual settings, since the extremes would widen everybody's ellipses.
    """
    familiar = familiar_to(
        ensemble.replace(familiar=None), material, [material.conditions], seed, frames, report
    )
    posterior = weighing(ensemble, material, seed, min(frames // 2, _POSITIONS_FRAMES), report)
    provenance = ensemble.description.provenance | {"statistics": {"seed": seed, "frames": frames}}
    description = dataclasses.replace(ensemble.description, posterior=posterior, provenance=provenance)
    return ensemble.replace(description=description, familiar=familiar)


def weighing(
    ensemble: Ensemble,
    material: Material,
    seed: int,
    frames: int,
    report: Report = lambda what, done, total, loss: None,
) -> Posterior:
    """Return how the ensemble's positions and the likelihood's are to be weighed, from what both are wrong by."""
    usual = dataclasses.replace(material.conditions.clean, **_USUAL)
    errors: list[Errors] = []
    for k in range(frames):
        shot = _scene(material, lambda rng: _POSITIONS_EXTENT, usual, [seed, 2, k])
        errors.append(position_errors(ensemble, shot))
        report("position errors", k + 1, frames, 0.0)
    return learn(errors)


def familiar_to(
    ensemble: Ensemble,
    material: Material,
    conditions: Sequence[synthesis.Conditions],
    seed: int,
    frames: int,
    report: Report = lambda what, done, total, loss: None,
) -> Familiar:
    """Return what frames of a material under some conditions look like to an ensemble.

    Only frames that the ensemble reads correctly are familiar: whatever it was trained on, it does not know the others,
    and learns how these differ.

    Parameters
    ----------
    ensemble : Ensemble
        If it has an idea of what is familiar already, that is kept and all conditions but the last are new to it.
    material : Material
    conditions : sequence of Conditions
        Taken in turn.
    seed : int
    frames : int
        How many to simulate.
    """
    known: list[Signs] = []
    misread: list[Signs] = []
    today: list[Signs] = []
    for k in range(frames):
        which = k % len(conditions)
        # Small frames are familiar too, although their tiles are small and mostly border.
        shot = _scene(
            material, lambda rng: rng.uniform(_SMALLEST_FAMILIAR, _FRAME_EXTENT), conditions[which], [seed, 1, k]
        )
        shown, atoms = ensemble.look(shot.counts, shot.sampling, refocused=which < len(conditions) - 1)
        right = share_right(atoms, shot)
        if which < len(conditions) - 1:
            today += [shown] if right >= _MISREAD else []
        elif right < _MISREAD:
            misread.append(shown)
        elif right >= _READ and len(atoms) >= _FEWEST_READ:
            known.append(shown)
        report("familiar frames", k + 1, frames, 0.0)
    if len(known) < _FEWEST_FAMILIAR:  # a training that was too short to read anything: what it sees is all there is
        return Familiar.learn([*known, *today, *_unread(ensemble, material, conditions[-1], seed)])
    if ensemble.familiar is None:
        return Familiar.learn([*known, *today], misread)
    return ensemble.familiar.learn_also(known, today)


def _unread(ensemble: Ensemble, material: Material, conditions: synthesis.Conditions, seed: int) -> list[Signs]:
    """Return what a few frames show, read correctly or not."""
    shots = (
        _scene(material, lambda rng: _SMALLEST_FAMILIAR, conditions, [seed, 3, k]) for k in range(_FEWEST_FAMILIAR)
    )
    return [ensemble.look(shot.counts, shot.sampling)[0] for shot in shots]


def _scene(
    material: Material,
    extent: Callable[[np.random.Generator], float],
    conditions: synthesis.Conditions,
    seed: Sequence[int],
) -> synthesis.Scene:
    """Return a simulated frame with counts: an empty one, such as of a hole, is drawn again.

    Raises
    ------
    StemAeError
        If there is never any.
    """
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([*seed, attempt] if attempt else list(seed))
        shot = synthesis.scene(material.make_specimen, extent(rng), conditions, rng)
        if np.ptp(shot.counts) > 0:
            return shot
    raise StemAeError("Simulated images of this structure show nothing: check its atoms and its cell.")


def share_right(atoms: Atoms2D, shot: synthesis.Scene) -> float:
    """Return the least of recall, precision and the share of right classes; 0 where there is nothing to judge by."""
    if len(atoms) == 0:
        return 0.0
    result = score(atoms, shot.xy, shot.names, edge=0.8)
    return float(np.nan_to_num([result.recall, result.precision, result.accuracy]).min())


def position_errors(ensemble: Ensemble, shot: synthesis.Scene) -> Errors:
    """Return what both opinions are wrong by."""
    none = np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0, np.int64)
    atoms = ensemble.predict(shot.counts, shot.sampling, refine=False).atoms
    if len(atoms) < 20:
        return none
    result = fit(repair(shot.counts), atoms.step, atoms.positions)
    distance, nearest = cKDTree(shot.xy).query(atoms.positions)
    limit = (np.array(shot.counts.shape[::-1]) - 1) * shot.sampling
    inner = np.all((atoms.positions > _INNER) & (atoms.positions < limit - _INNER), axis=1)
    chosen = np.flatnonzero((distance < 0.5) & result.converged & inner)
    truth = shot.xy[nearest[chosen]]
    variance = np.trace(result.covariance[chosen], axis1=1, axis2=2) / 2
    return atoms.positions[chosen] - truth, result.positions[chosen] - truth, variance, atoms.labels[chosen]


def _finished(path: pathlib.Path, plan: Plan, material: Material) -> tuple[list[UNet], list[float]]:
    """Return the members that an earlier run of the same plan for the same structure left.

    Raises
    ------
    StemAeError
        If another plan or structure left them.
    """
    if not path.exists():
        return [], []
    ensemble = Ensemble.read(path)
    provenance = ensemble.description.provenance
    differs = []
    if provenance.get("structure") != material.digest:
        differs.append("another structure" if "structure" in provenance else "a structure that it does not name")
    if provenance.get("plan") != dataclasses.asdict(plan):
        differs.append("another plan (networks, steps, patches or seed)")
    if differs:
        raise StemAeError(
            f"There is already a model in {path}, of {' and '.join(differs)}: choose another --name, or remove it "
            f"first (stem-ae models remove {path.stem})."
        )
    return list(ensemble.members), list(provenance["losses"])


def _key(plan: Plan, material: Material, member: int) -> str:
    """Return the digest of the training of one member."""
    facts = {"plan": dataclasses.asdict(plan), "structure": material.digest, "member": member}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
