"""Making an ensemble for a material: data, members, file. What ``stem-ae train`` runs."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

from stem_ae.elit import synthesis, training
from stem_ae.elit.ensemble import Description, Ensemble
from stem_ae.elit.materials import Material
from stem_ae.elit.network import UNet

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
    device: str = "cpu",
    report: Report = lambda what, done, total, loss: None,
) -> Ensemble:
    """Train an ensemble and write it to ``path``, member by member.

    After each member the file holds a working ensemble of those trained so far; called again with the same plan,
    training goes on where it was.
    """
    members, losses = _finished(path, plan)
    if len(members) == plan.members:
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
            training.train_member(images, targets, plan.recipe, seed, None, checkpoint, progress, device)
        )
        losses.append(round(last[0], 5))
        provenance = {
            "plan": dataclasses.asdict(plan), "conditions": dataclasses.asdict(material.conditions), "losses": losses,
        }
        description = Description(
            name, material.species, WORKING_SAMPLING, material.lattice_constant, plan.recipe.width,
            provenance=provenance,
        )
        ensemble = Ensemble(members, description)
        ensemble.save(path)
    return ensemble


def _finished(path: pathlib.Path, plan: Plan) -> tuple[list[UNet], list[float]]:
    """Return the members that an earlier run of the same plan left."""
    if not path.exists():
        return [], []
    ensemble = Ensemble.read(path)
    provenance = ensemble.description.provenance
    if provenance.get("plan") != dataclasses.asdict(plan):
        return [], []
    return list(ensemble.members), list(provenance["losses"])
