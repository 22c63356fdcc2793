"""Learn again what a model says about itself, for the weights that it has: what is familiar, how good positions are.

    python scripts/learn_statistics.py graphene mos2
    python scripts/learn_statistics.py graphene mos2 --only-familiar

The bundled models' statistics were made this way, after their training. Weights stay as they are, bit by bit; the seed
and the number of frames are kept in the model's provenance.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib

import torch

from stem_ae import elit
from stem_ae.elit.build import Report, familiar_to, finished
from stem_ae.elit.materials import MATERIALS, Material
from stem_ae.store import models


def main() -> None:
    """Learn and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="+", help="names or files; written in place")
    parser.add_argument("--frames", type=int, default=700, help="simulated frames (default: 700)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-familiar", action="store_true", help="leave alone what is known of positions")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    learn = with_familiar if arguments.only_familiar else finished
    for name in arguments.model:
        ensemble = elit.load(name, device="cpu")  # the same numbers everywhere
        before = ensemble.version, weights(ensemble)
        new = learn(ensemble, MATERIALS[ensemble.description.material], arguments.seed, arguments.frames, report)
        assert weights(new) == before[1]
        new.save(models.find(name))
        print(f"{name}: weights {before[1]}, version {before[0]} -> {new.version}; {new.description.posterior}")


def with_familiar(ensemble: elit.Ensemble, material: Material, seed: int, frames: int, report: Report) -> elit.Ensemble:
    """Return the ensemble with what is familiar learnt again."""
    familiar = familiar_to(ensemble.replace(familiar=None), material, [material.conditions], seed, frames, report)
    provenance = ensemble.description.provenance | {"familiar": {"seed": seed, "frames": frames}}
    description = dataclasses.replace(ensemble.description, provenance=provenance)
    return ensemble.replace(description=description, familiar=familiar)


def weights(ensemble: elit.Ensemble) -> str:
    """Return twelve hexadecimal digits that stand for the weights alone."""
    digest = hashlib.sha256()
    for member in ensemble.members:
        for tensor in member.state_dict().values():
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def report(what: str, done: int, total: int, loss: float) -> None:
    """Say how far it is."""
    if done % 10 == 0:
        print(f"{what}: {done} of {total}", flush=True)


if __name__ == "__main__":
    main()
