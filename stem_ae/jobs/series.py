"""What several jobs say together: bonds and rings of one structure against temperature."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from stem_ae.errors import StemAeError
from stem_ae.jobs.queue import Job, Queue


@dataclasses.dataclass(frozen=True)
class Temperature:
    """What one dynamics at constant temperature gave, averaged over its second half."""

    job: str
    asked: float
    """K."""
    mean: float
    """K, as reached."""
    bonds: dict[str, dict[str, float]]
    """By elements: ``mean``, ``std``, ``min`` and ``max`` in Å, and how many."""
    rings: dict[str, dict[str, float]]
    """By number of members: how many ``per_frame``, their mean ``bond`` in Å and its ``std``."""

    def in_words(self) -> str:
        """Return one line of a table."""
        bonds = [f"{name} {bond['mean']:.3f} ± {bond['std']:.3f} Å" for name, bond in self.bonds.items()]
        rings = [f"{ring['per_frame']:.1f} × {size}" for size, ring in self.rings.items()]
        return f"{self.asked:.0f} K: {', '.join(bonds)}; rings {', '.join(rings) or 'none'}"


def against_temperature(queue: Queue, job: Job) -> list[Temperature]:
    """Return the finished dynamics that follow a relaxation, or that began with the same structure; coldest first."""
    origin = job.id if _kind(job) == "relax" else _origin(job)
    image = queue.row(job.id).image
    found = []
    for row in queue.rows():
        if row.state != "finished" or row.image != image:
            continue
        other = queue.job(row.id)
        with contextlib.suppress(StemAeError):  # one that is damaged says so itself
            if _kind(other) != "md" or _origin(other) != origin:
                continue
            summary = other.result().summary
            averages = summary["averages"]
            found.append(
                Temperature(
                    other.id, summary["task"]["temperature"], averages["temperature"], averages["bonds"],
                    averages["rings"],
                )
            )  # fmt: skip
    return sorted(found, key=lambda one: one.asked)


def _kind(job: Job) -> str:
    return str(job.calculation.input["task"]["kind"])


def _origin(job: Job) -> Any:
    """Return what a job started from: another job, or else the digest of its structure."""
    provenance = job.calculation.input["provenance"]
    return provenance.get("parent") or provenance["hashes"]["structure"]
