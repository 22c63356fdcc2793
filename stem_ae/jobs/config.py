"""How one queue works: where its records are, how many processes, on which machines."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.jobs.executors import Executor, LocalExecutor, SlurmExecutor


@dataclasses.dataclass(frozen=True)
class Config:
    """Contents of ``config.json`` in the queue's folder; all of it may be left out.

    Parameters
    ----------
    slots : int
        Calculations at a time.
    threads : int
        Threads of each.
    executor : {"local", "slurm"}
        Where they run.
    slurm : tuple of str
        Options for ``sbatch``.
    database : str
        Address of a PostgreSQL database, where several machines work on one queue (which then lies on a disk they
        share); empty for the SQLite file in the queue's folder.
    """

    slots: int = 1
    threads: int = 1
    executor: str = "local"
    slurm: tuple[str, ...] = ()
    database: str = dataclasses.field(default="", repr=False)  # there may be a password in it

    def __post_init__(self) -> None:
        """Raise StemAeError for settings that cannot work.

        Raises
        ------
        StemAeError
            Saying what.
        """
        for name in ("slots", "threads"):
            checks.whole(getattr(self, name), name, 1, 10_000)
        if self.executor not in ("local", "slurm"):
            raise StemAeError(f"There is no executor {self.executor!r}: choose local or slurm.")
        if not all(isinstance(option, str) for option in self.slurm) or not isinstance(self.database, str):
            raise StemAeError("The options for Slurm are a list of words, and the database is an address.")

    @classmethod
    def read(cls, root: pathlib.Path) -> Config:
        """Read a queue's configuration.

        Raises
        ------
        StemAeError
            If the file does not hold one.
        """
        path = root / "config.json"
        if not path.exists():
            return cls(threads=max((os.cpu_count() or 2) // 2, 1))
        names = ", ".join(field.name for field in dataclasses.fields(cls))
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            options = content.get("slurm", ())
            if isinstance(options, str):
                raise TypeError("slurm is a list of words")
            return cls(**{**content, "slurm": tuple(options)})
        except StemAeError as error:
            raise StemAeError(f"{path}: {error}") from None
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise StemAeError(f"{path} is not a queue's configuration ({error}): it may set {names}.") from None

    def make_executor(self) -> Executor:
        """Return the executor it names."""
        return LocalExecutor(self.threads) if self.executor == "local" else SlurmExecutor(list(self.slurm))
