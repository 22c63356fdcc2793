"""The process that builds, estimates, submits and lists for a panel: ``python -m stem_ae.jobs.serve``.

:mod:`stem_ae.jobs.remote` is the other side. Every message names what to ``do`` and the ``queue``'s folder:

- ``build``: found atoms, ``region``, ``options`` of :func:`stem_ae.structure.build`, what to ``adsorb`` and at which
  ``site`` nearest to ``at``, a number of ``variants`` of the structure, ``tasks``, the picture's ``size``; answers
  formula, extent, cost, a warning and the picture
- ``submit``: the same, with ``title`` and ``provenance``; answers the jobs' numbers
- ``export``: the same, with ``code``, ``folder`` and ``pseudopotentials``; answers the folder
- ``engines``: answers every engine's title and what it is missing here
- ``rows``: answers the newest jobs, how many there are, and whether a worker serves them
- ``cancel``, ``retry``: of a ``job``; the latter maybe ``from_start``
- ``result``: of a ``job``; answers its summary, the simulated image, where the atoms were and are, its history, and
  what is known against temperature
- ``spots``: found atoms of the ``image`` and what to rank ``by``; answers the places to look at next
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import ase
import numpy as np

from stem_ae import processes, structure
from stem_ae.errors import StemAeError
from stem_ae.jobs.queue import Job, Queue
from stem_ae.jobs.remote import unpacked
from stem_ae.jobs.series import against_temperature
from stem_ae.simulate import engines, guidance
from stem_ae.simulate.constraints import fix, free_coordinates
from stem_ae.simulate.inputs import export
from stem_ae.simulate.result import Result
from stem_ae.simulate.tasks import Adsorption, MolecularDynamics, Relax, Task, from_dict
from stem_ae.structure.drawing import draw

Calculated = Relax | MolecularDynamics | Adsorption
Answer = tuple[dict[str, Any], processes.Arrays]
Request = Mapping[str, Any]

RELAXATION_STEPS = 40
"""Sets of forces that a relaxation takes about, for the estimate."""

SHOWN = 100
"""Newest jobs that a panel lists."""


class Server:
    """Answers one question after the other."""

    def __init__(self) -> None:
        self._queues: dict[str | None, Queue] = {}

    def answer(self, request: Request, arrays: processes.Arrays) -> Answer:
        """Return the answer to a question."""
        handlers = {
            "build": self._build, "submit": self._submit, "export": self._export, "engines": self._engines,
            "rows": self._rows, "cancel": self._cancel, "retry": self._retry, "result": self._result,
            "spots": self._spots,
        }  # fmt: skip
        return handlers[request["do"]](request, arrays)

    def _queue(self, request: Request) -> Queue:
        path = request["queue"]
        if path not in self._queues:
            self._queues[path] = Queue.open(path)
        return self._queues[path]

    def _check_in_place(self, request: Request) -> None:
        """Refuse a queue whose folder is gone, once: the next question opens it anew."""
        try:
            self._queue(request).record.open()
        except StemAeError:
            del self._queues[request["queue"]]
            raise

    # --- before -----------------------------------------------------------------------------------------------------

    def _build(self, request: Request, arrays: processes.Arrays) -> Answer:
        cell, tasks = _built(request, arrays)
        held = np.logical_not(free_coordinates(fix(cell, tasks[0].fixed)).any(axis=1))
        costs = [engines.estimate(cell, task.engine, _steps(task)) for task in tasks]
        low, high = cell.positions.min(axis=0), cell.positions.max(axis=0)
        answer = {
            "formula": cell.get_chemical_formula(), "atoms": len(cell), "extent": (high - low)[:2].tolist(),
            "periodic": bool(cell.pbc.any()), "held": int(held.sum()),
            "notes": cell.info["stem_ae"]["notes"] + _radical(cell, tasks[0]),
            "scale": float(cell.info["stem_ae"]["calibration"]["scale"]),
            "shear": float(cell.info["stem_ae"]["calibration"]["shear"]),
            "seconds": sum(cost.seconds for cost in costs) * (1 + request["variants"]),
            "gigabytes": max(cost.gigabytes for cost in costs),
            "warning": next((cost.warning for cost in costs if cost.warning), ""), "missing": _missing(tasks[0]),
        }  # fmt: skip
        return answer, {"picture": draw(cell, held, tuple(request["size"]))}

    def _submit(self, request: Request, arrays: processes.Arrays) -> Answer:
        cell, tasks = _built(request, arrays)
        self._check_in_place(request)
        queue = self._queue(request)
        told = {name: request[name] for name in ("region", "options", "adsorb", "site", "at")}
        provenance = {**request["provenance"], **told}
        submitted = _submit_all(queue, tasks, cell, request["title"], provenance)
        for number, variant in enumerate(_variants(request, arrays), start=1):
            title = f"variant {number} · {request['title']}"
            submitted += _submit_all(queue, tasks, variant, title, {**provenance, "variant": number})
        queue.start_worker()
        return {"jobs": [job.id for job in submitted]}, {}

    def _export(self, request: Request, arrays: processes.Arrays) -> Answer:
        cell, tasks = _built(request, arrays)
        if len(tasks) != 1 or isinstance(tasks[0], Adsorption):
            raise StemAeError("An input folder is for one calculation: choose a relaxation, or one temperature.")
        folder = export(
            tasks[0], cell, request["code"], request["folder"], pseudopotentials=request["pseudopotentials"]
        )
        return {"folder": str(folder)}, {}

    def _engines(self, request: Request, arrays: processes.Arrays) -> Answer:
        self._queue(request).record.open()  # now, not when somebody waits for a submission
        missing = engines.available()
        return {"engines": [[name, engines.ENGINES[name].title, missing[name] or ""] for name in missing]}, {}

    # --- meanwhile --------------------------------------------------------------------------------------------------

    def _rows(self, request: Request, arrays: processes.Arrays) -> Answer:
        queue = self._queue(request)
        total, active = queue.counts()
        answer = [
            {
                "id": row.id, "title": row.title, "state": row.state, "fraction": row.fraction, "error": row.error,
                "seconds_left": row.seconds_left, "created": row.created.timestamp(), "image": row.image,
                "progress": queue.job(row.id).progress if row.state == "running" else {},
            }
            for row in queue.rows(newest=SHOWN)
        ]  # fmt: skip
        return {"rows": answer, "total": total, "active": active, "worker": queue.worker_alive()}, {}

    def _cancel(self, request: Request, arrays: processes.Arrays) -> Answer:
        self._queue(request).cancel(request["job"])
        return {}, {}

    def _retry(self, request: Request, arrays: processes.Arrays) -> Answer:
        queue = self._queue(request)
        queue.retry(request["job"], from_start=request["from_start"])
        queue.start_worker()
        return {}, {}

    # --- afterwards -------------------------------------------------------------------------------------------------

    def _result(self, request: Request, arrays: processes.Arrays) -> Answer:
        job = self._queue(request).job(request["job"])
        result = job.result()
        history = job.calculation.history()
        answer = {"summary": dict(result.summary), "title": self._queue(request).row(job.id).title}
        answer["temperatures"] = [one.in_words() for one in against_temperature(job.queue, job)]
        found = {name: history[name] for name in ("step", "energy", "fmax", "temperature")}
        if result.frame:
            answer |= result.frame
            found |= _in_image(result)
            found["simulated"] = result.image()
        return answer, found

    def _spots(self, request: Request, arrays: processes.Arrays) -> Answer:
        atoms, by = unpacked(request, arrays), request["by"]
        if by == "uncertainty":
            scores = guidance.uncertainty(atoms)
        else:
            score = guidance.disagreement if by == "disagreement" else guidance.excess_energy
            scores = _by_image_atom(len(atoms), [(r.atoms, score(r.atoms)) for r in self._relaxed(request)])
        found = guidance.spots(atoms.positions, scores)
        return {"spots": [dataclasses.asdict(spot) for spot in found], "unit": guidance.UNITS[by]}, {}

    def _relaxed(self, request: Request) -> list[Result]:
        """Return the finished relaxations of one image."""
        queue = self._queue(request)
        rows = [row for row in queue.rows() if row.image == request["image"] and row.state == "finished"]
        results = []
        for row in rows:
            with contextlib.suppress(StemAeError):  # one that is damaged says so itself
                results.append(Result.read(queue.job(row.id).calculation.folder))
        return [result for result in results if result.summary["task"]["kind"] == "relax"]


def _built(request: Request, arrays: processes.Arrays) -> tuple[ase.Atoms, list[Calculated]]:
    """Build the structure that a message describes, and return it with the tasks."""
    cell = structure.build(
        unpacked(request, arrays), _region(request), **request["options"], provenance=request.get("provenance")
    )
    tasks = [from_dict(task) for task in request["tasks"]]
    return _adsorbed(cell, request), [task for task in tasks if isinstance(task, Calculated)]


def _region(request: Request) -> Any:
    return None if request["region"] is None else np.array(request["region"])


def _adsorbed(cell: ase.Atoms, request: Request) -> ase.Atoms:
    """Add what is to be adsorbed, if anything, where the image has been pointed at."""
    if not request["adsorb"]:
        return cell
    near = tuple(structure.from_image(cell, np.array([request["at"]]))[0]) if request["at"] else None
    return structure.adsorb(cell, request["adsorb"], request["site"], near=near)


def _variants(request: Request, arrays: processes.Arrays) -> list[ase.Atoms]:
    """Return other structures that the same image allows."""
    drawn = structure.variants(
        unpacked(request, arrays), request["variants"], _region(request), **request["options"],
        provenance=request.get("provenance"),
    )  # fmt: skip
    return [_adsorbed(cell, request) for cell in drawn]


def _submit_all(
    queue: Queue, tasks: Sequence[Calculated], cell: ase.Atoms, title: str, provenance: Mapping[str, Any]
) -> list[Job]:
    """Submit the tasks for one structure: what comes after a relaxation starts from its end."""
    submitted: list[Job] = []
    for task in tasks:
        parent = submitted[:1] if isinstance(tasks[0], Relax) else []
        name = f"{task.kind} {cell.get_chemical_formula()} · {title}"
        submitted.append(queue.submit(task, None if parent else cell, title=name, after=parent, provenance=provenance))
    return submitted


def _steps(task: Task) -> int:
    if isinstance(task, MolecularDynamics):
        return task.steps
    return RELAXATION_STEPS * (2 if isinstance(task, Adsorption) else 1)  # the whole, and the sheet alone


def _radical(cell: ase.Atoms, task: Calculated) -> list[str]:
    """Say so if what is adsorbed on has an unpaired electron, as half of all patches have."""
    added = cell.arrays.get("adsorbate", np.zeros(len(cell), bool))
    if isinstance(task, Adsorption) and int(cell.numbers[~added].sum()) % 2:
        return ["the patch has an odd number of electrons and binds more than a sheet does: move the region a little"]
    return []


def _missing(task: Calculated) -> str:
    return engines.ENGINES[task.engine or engines.DEFAULT].missing() or ""


def _by_image_atom(count: int, scored: Sequence[tuple[ase.Atoms, Any]]) -> Any:
    """Return the mean score of each atom of an image over the structures that hold it, NaN where none does."""
    total, number = np.zeros(count), np.zeros(count)
    for atoms, scores in scored:
        known = (atoms.arrays["image_atom"] >= 0) & np.isfinite(scores)
        np.add.at(total, atoms.arrays["image_atom"][known], scores[known])
        np.add.at(number, atoms.arrays["image_atom"][known], 1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _in_image(result: Result) -> processes.Arrays:
    """Return where atoms were and are in the image's Å, and how far that is in units of the stated errors.

    Turning and drifting of the whole patch are taken off (they say nothing). NaN for added hydrogen.
    """
    atoms = result.atoms
    before = structure.to_image(atoms, atoms.arrays["image_position"])
    moved = atoms.arrays["image_position"].copy()
    moved[:, :2] += np.nan_to_num(result.displacement)
    seen = atoms.arrays["image_atom"] >= 0
    after = structure.to_image(atoms, moved)
    xx, xy, yy = atoms.arrays["covariance"][seen].T
    dx, dy = result.displacement[seen].T
    squared = (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / np.maximum(xx * yy - xy**2, 1e-18)
    return {"before": before[seen], "after": after[seen], "squared": squared, "numbers": atoms.numbers[seen]}


if __name__ == "__main__":
    processes.serve(Server().answer)
