"""The log of a run: one JSON value per line, written as it happens, readable up to the last line whatever happened.

A run that ends by a crash leaves complete lines and perhaps a piece of one; an exposure that was under way has its
counts up to a quarter of a second before.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import pathlib
import threading
from typing import Any

import numpy as np

from stem_ae.errors import StemAeError
from stem_ae.imaging.dose import electrons_per_pixel
from stem_ae.in_place import check_in_place
from stem_ae.manipulate.exposure import Exposure
from stem_ae.manipulate.ledger import Spent

FORMAT = 1
_UNSEEN_S = 1.0  # added to an exposure that a crash cut off: counts not yet written, and the watchdog's time to blank


class RunLog:
    """Writes the log of a run.

    Parameters
    ----------
    path : path
        A new file, usually ``*.jsonl``.

    Raises
    ------
    StemAeError
        If there is such a file already, or it cannot be written.
    """

    def __init__(self, path: str | pathlib.Path) -> None:
        self.path = pathlib.Path(path)
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "x", encoding="utf-8")  # noqa: SIM115  (closed by close)
        except OSError as error:
            raise StemAeError(
                f"Cannot write the log {self.path} ({error.strerror}): choose another name or another folder."
            ) from error
        self.write("log", format=FORMAT)

    def write(self, kind: str, /, durable: bool = True, **values: Any) -> None:
        """Append one line.

        Parameters
        ----------
        kind : str
            What it tells.
        durable : bool
            Wait until it is on the disk. Lines written while the beam is on do not wait: they survive the end of this
            process, but not of the computer.
        **values
            Numbers, words, arrays, and lists and mappings of them.

        Raises
        ------
        StemAeError
            If it cannot be written, or the file is gone, which is checked for durable lines.
        """
        line = json.dumps(_finite({"kind": kind} | values), ensure_ascii=False)
        with self._lock:
            try:
                self._file.write(line + "\n")
                self._file.flush()
                if durable:
                    os.fsync(self._file.fileno())
            except OSError as error:
                raise StemAeError(
                    f"The run's log {self.path} cannot be written any more ({error.strerror}): the run ends here. Make "
                    "room on the disk, then go on with the rest."
                ) from error
            if durable:
                self._check_in_place()

    def _check_in_place(self) -> None:
        try:
            check_in_place(self._file, self.path)
        except FileNotFoundError as error:
            raise StemAeError(
                f"The run's log {self.path} was deleted, moved or replaced: the run ends here, since nothing more can "
                "be kept."
            ) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()


def _finite(value: Any) -> Any:
    """Return a value as JSON can hold it: no arrays, and null for numbers that are infinite or none at all."""
    if isinstance(value, np.ndarray | np.generic):
        return _finite(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _finite(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__} is nothing for a log")


@dataclasses.dataclass(frozen=True)
class LoggedExposure:
    """One exposure as the log has it.

    Parameters
    ----------
    facts : dict
        Site, positions, aim error, verdict, everything but the counts.
    record : dict
        What :meth:`stem_ae.manipulate.Exposure.from_dict` replays.
    complete : bool
        Whether its end was written.
    """

    facts: dict[str, Any]
    record: dict[str, Any]
    complete: bool

    def replay(self) -> Exposure:
        """Return the exposure, its counts taken in again; see :meth:`Exposure.from_dict`."""
        return Exposure.from_dict(self.record)


def read_lines(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """Return all complete lines of a log.

    Raises
    ------
    StemAeError
        If the file is no log of stem_ae's.
    """
    path = pathlib.Path(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise StemAeError(f"Cannot read {path} ({error.strerror}).") from error
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break  # the piece that a crash left
    if not lines or not isinstance(lines[0], dict) or lines[0].get("format") != FORMAT:
        raise StemAeError(f"{path.name} is no log of an eject run.")
    return lines


def exposures(path: str | pathlib.Path) -> list[LoggedExposure]:
    """Return the exposures of a log, in order; the last may be incomplete."""
    facts: dict[int, dict[str, Any]] = {}
    records: dict[int, dict[str, Any]] = {}
    complete = set()
    for line in read_lines(path):
        kind, number = line.pop("kind"), line.pop("number", None)
        if kind == "exposure":
            records[number] = {"settings": line.pop("settings"), "counts": [], "exposure_s": [], "outcome": None}
            facts[number] = line
        elif kind == "counts":
            records[number]["counts"] += line["counts"]
            lengths = line["exposure_s"]
            records[number]["exposure_s"] += lengths if isinstance(lengths, list) else [lengths] * len(line["counts"])
        elif kind in ("blanked", "exposed"):  # "exposed": the beam was not read as off
            records[number]["outcome"] = line["outcome"]
            facts[number] |= line
            complete.add(number)
        elif kind == "attempt" and number in facts:
            facts[number] |= line
    return [LoggedExposure(facts[number], records[number], number in complete) for number in facts]


def spent(path: str | pathlib.Path) -> Spent:
    """Return the dose of the specimen by the end of a log, including the earlier runs that it continues.

    A scan that a crash cut off counts in full, an exposure until the beam was certainly off.
    """
    lines = read_lines(path)
    before: dict[str, Any] = next((line["spent"] for line in lines if line["kind"] == "run" and "spent" in line), {})
    scans = [(tuple(region), dose) for region, dose in before.get("scans", ())]
    exposed = [(np.array(position), electrons) for position, electrons in before.get("exposures", ())]
    under_way: dict[str, Any] | None = None
    for line in lines:
        if line["kind"] in ("scan", "scanned"):
            under_way = line if line["kind"] == "scan" else None
            if under_way is None:
                scans.append((tuple(line["region"]), line["dose"]))
    if under_way is not None:
        scans.append((tuple(under_way["region"]), under_way["dose"]))
    for exposure in exposures(path):
        electrons = exposure.facts.get("electrons") if exposure.complete else None
        if electrons is None:
            seconds = sum(exposure.record["exposure_s"]) + _UNSEEN_S
            electrons = electrons_per_pixel(exposure.record["settings"]["current_pa"], 1e6 * seconds)
        exposed.append((np.array(exposure.facts["position"]), electrons))
    return Spent(tuple(scans), tuple(exposed))


def export_csv(path: str | pathlib.Path, target: str | pathlib.Path) -> pathlib.Path:
    """Write one row per exposure to a CSV file and return its path."""
    names = [
        "site", "species", "x_angstrom", "y_angstrom", "aim_x_angstrom", "aim_y_angstrom", "aim_deviation",
        "start_s", "exposure_s", "electrons", "outcome", "verdict", "bystanders",
    ]  # fmt: skip
    target = pathlib.Path(target)
    with open(target, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for exposure in exposures(path):
            facts = exposure.facts
            row = dict(facts, bystanders=len(facts.get("bystanders", [])))
            row |= dict(zip(("x_angstrom", "y_angstrom"), facts.get("position", ("", "")), strict=True))
            row |= dict(zip(("aim_x_angstrom", "aim_y_angstrom"), facts.get("aim", ("", "")), strict=True))
            writer.writerow(row)
    return target
