"""What has become of each target, and how to read it back from the log of a run. No Swift here."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import typing

import numpy as np
from numpy.typing import NDArray

from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.manipulate import Attempt, Outcome, RunLog, Verdict, runlog
from stem_ae.manipulate.ledger import Spent

FloatArray = NDArray[np.float64]

LOG_NAME = "ejections.jsonl"
UNDER_WAY = ("aiming", "exposing", "verifying")
_LEFT = (Verdict.ONE, Verdict.MORE)
_OFFERED_FOR = datetime.timedelta(days=1)
_LOOKED_AT = 20  # folders: rehearsals lie between runs


@dataclasses.dataclass(frozen=True)
class Fate:
    """What has become of a target.

    Parameters
    ----------
    species : str
        Its class when it was chosen.
    state : str
        ``"waiting"``, ``"aiming"``, ``"exposing"``, ``"verifying"``, ``"unclear"``, ``"done"`` or ``"failed"``.
    detail : str
        What else there is to say.
    tried : bool
        Whether the beam was on it.
    left : bool
        Whether an atom has left it, or the dopant has come: to expose it again would do something else.
    """

    species: str = ""
    state: str = "waiting"
    detail: str = ""
    tried: bool = False
    left: bool = False

    def after(self, attempt: Attempt) -> Fate:
        """Return the fate after an attempt."""
        fired = attempt.exposure_s > 0
        if attempt.verdict is Verdict.ONE:
            others = len(attempt.bystanders)
            said = f"{1e3 * attempt.exposure_s:.0f} ms" + (f", {others} beside" if others else "")
            return self.now("done", said, tried=True, left=True)
        if attempt.outcome is Outcome.STOPPED and not fired:
            return self.now("waiting")
        if fired and (attempt.verdict is Verdict.UNCLEAR or attempt.outcome is Outcome.STOPPED):
            return self.unclear(f"{attempt.outcome} after {1e3 * attempt.exposure_s:.0f} ms")
        why = attempt.outcome if attempt.verdict in (Verdict.NONE, Verdict.UNCLEAR) else attempt.verdict
        return self.now("failed", str(why), tried=fired, left=attempt.verdict in _LEFT)

    def now(self, state: str, detail: str = "", tried: bool = False, left: bool = False) -> Fate:
        """Return the fate with another state; its history stays."""
        return Fate(self.species, state, detail, self.tried or tried, self.left or left)

    def unclear(self, detail: str) -> Fate:
        """Return the fate of a target that was exposed and not imaged afterwards."""
        return self.now("unclear", detail, tried=True)

    def settled(self) -> Fate:
        """Return the fate after the end of a run: nothing is being aimed at or exposed."""
        if self.state == "aiming":
            return self.now("waiting")
        return self.unclear("the run ended during its exposure") if self.state in UNDER_WAY else self


# --- in the log of a run --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The plan of a run, with all that is needed to continue it later.

    Parameters
    ----------
    atoms : Atoms2D
        The atoms as found before.
    sites : (K, 2) array
        All targets in Å in that image, those that were done already included.
    fates : tuple of Fate
        The fate of each.
    rest : tuple of int
        Which of them the run is about.
    zones : tuple of (n, 2) array
        Forbidden ones.
    options : dict
        What was typed and chosen in the panel.
    started : datetime
        When, in UTC.
    spent : Spent
        What the specimen has had in it and before.
    """

    atoms: Atoms2D
    sites: FloatArray
    fates: tuple[Fate, ...]
    rest: tuple[int, ...]
    zones: tuple[FloatArray, ...]
    options: dict[str, typing.Any]
    started: datetime.datetime
    spent: Spent = dataclasses.field(default_factory=Spent)

    @property
    def done(self) -> int:
        """How many targets are done."""
        return sum(fate.state == "done" for fate in self.fates)

    @property
    def is_complete(self) -> bool:
        """Whether all targets are finished."""
        return all(fate.left for fate in self.fates)

    def write(self, log: RunLog) -> None:
        """Write it into the log, before anything is done."""
        atoms = {name: getattr(self.atoms, name) for name in ("positions", "labels", "species", "shape", "sampling")}
        log.write(
            "plan", atoms=atoms, sites=self.sites, fates=list(self.fates), rest=list(self.rest), zones=list(self.zones),
            options=self.options, started=self.started.isoformat(),
        )  # fmt: skip

    def specimen(self) -> Atoms2D:
        """Return the atoms with their current classes; an empty class: no atom is left."""
        species = self.atoms.species if "" in self.atoms.species else (*self.atoms.species, "")
        labels = self.atoms.labels.copy()
        ladder = tuple(self.options.get("ladder", ()))
        for site, fate in zip(self.sites, self.fates, strict=True):
            atom = int(np.argmin(np.linalg.norm(self.atoms.positions - site, axis=1)))
            if fate.state == "done" and fate.species in ladder[:-1] and self.atoms.symbols[atom] == fate.species:
                after = ladder[ladder.index(fate.species) + 1]
                labels[atom] = species.index(after) if after in species else labels[atom]
        return _bare_atoms(self.atoms.positions, labels, species, self.atoms.shape, self.atoms.known_sampling)


def write_fate(log: RunLog, target: int, fate: Fate) -> None:
    """Log the fate of a target; while it is exposed, without waiting for the disk."""
    log.write("target", durable=fate.state not in UNDER_WAY, target=target, fate=fate)


def read_plan(path: pathlib.Path) -> Plan:
    """Return the plan of a run, and the fates at the end of its log, however it ended.

    Raises
    ------
    StemAeError
        If the file is not the log of a run that can be continued.
    """
    lines = runlog.read_lines(path)
    plan = next((line for line in lines if line.get("kind") == "plan"), None)
    try:
        if plan is None:
            raise KeyError("plan")
        fates = [Fate(**fate) for fate in plan["fates"]]
        for line in lines:
            if line.get("kind") == "target":
                fates[line["target"]] = Fate(**line["fate"])
        atoms = plan["atoms"]
        return Plan(
            _bare_atoms(atoms["positions"], atoms["labels"], atoms["species"], atoms["shape"], atoms["sampling"]),
            np.array(plan["sites"], float).reshape(-1, 2), tuple(fate.settled() for fate in fates), tuple(plan["rest"]),
            tuple(np.array(zone, float) for zone in plan["zones"]), dict(plan["options"]),
            datetime.datetime.fromisoformat(plan["started"]), runlog.spent(path),
        )  # fmt: skip
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise StemAeError(f"{path.parent.name}/{path.name} does not say what the run set out to do.") from error


def _bare_atoms(
    positions: typing.Any, labels: typing.Any, species: typing.Any, shape: typing.Any, sampling: typing.Any
) -> Atoms2D:
    """Return atoms with known positions and classes only."""
    labels, species, n = np.array(labels, np.int64), tuple(species), len(labels)
    return Atoms2D(
        np.array(positions, float), np.tile(np.eye(2) * 1e-2, (n, 1, 1)), labels, species,
        np.eye(len(species))[labels], np.ones(n), tuple(shape), tuple(sampling),
    )  # fmt: skip


def unfinished(folder: pathlib.Path) -> Plan | None:
    """Return the last run in a folder, if it has unfinished targets and was not long ago."""
    runs = sorted((path for path in folder.glob(f"*/{LOG_NAME}")), reverse=True)[:_LOOKED_AT]
    for path in runs:
        try:
            plan = read_plan(path)
        except StemAeError:
            continue
        age = datetime.datetime.now(datetime.UTC) - plan.started
        return plan if not plan.is_complete and age < _OFFERED_FOR else None
    return None
