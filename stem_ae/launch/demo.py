"""The demonstration: run the real Nion Swift on the simulated microscope and make a report of what it did."""

from __future__ import annotations

import json
import pathlib
import platform
import shutil
import sys
from typing import Any

import numpy as np

from stem_ae import __version__, picture, report, scoring
from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.launch import process

STAGES: list[dict[str, Any]] = [
    {"name": "graphene", "specimen": "graphene with silicon", "model": "graphene", "fov_nm": 4.0, "dwell_us": 4.0},
    {"name": "mos2", "specimen": "MoS2 with vacancies", "model": "mos2", "fov_nm": 6.0, "dwell_us": 1.0},
]
"""What is shown: a name for the files, the simulator's specimen, the model, field of view in nm, dwell in µs."""


def run(output: pathlib.Path, seconds: float) -> list[dict[str, Any]]:
    """Run every stage in Nion Swift, write the files and the report, and return a summary of each stage.

    Parameters
    ----------
    output : path
        Folder for the results.
    seconds : float
        How long each specimen is looked at.

    Raises
    ------
    StemAeError
        If Swift cannot be started or a stage fails.
    """
    shutil.rmtree(output / "swift", ignore_errors=True)  # each demonstration starts with a fresh project
    kept = process.run_scenario(
        "nionswift_plugin.stem_ae_app.demo:demonstrate",
        output / "swift",
        timeout_s=180 + 2 * len(STAGES) * seconds,
        virtual=sys.platform == "linux",
        output=str(output.absolute()),
        stages=STAGES,
        seconds=seconds,
    )
    stages = [summary(stage, answer) for stage, answer in zip(STAGES, kept, strict=True)]
    shutil.copy(output / STAGES[0]["name"] / "screen.png", output / "live_overlay.png")
    write_report(output, stages)
    return stages


def summary(stage: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """Turn what Swift left in a stage's folder into the files for the user, and say how good it is."""
    folder = pathlib.Path(answer["folder"])
    exported = sorted(path for path in folder.glob("*.csv") if path.name != "atoms.csv")  # which an earlier one left
    if not exported:
        raise StemAeError(f"The snapshot of {stage['name']} was not exported: {answer['message']}")
    provenance_path = exported[-1].with_suffix(".json")
    provenance = json.loads(provenance_path.read_text(encoding="utf-8"))
    atoms = Atoms2D.read(exported[-1])
    frame = np.load(folder / "frame.npy", allow_pickle=False)
    uncertainty = np.load(folder / "uncertainty.npy", allow_pickle=False)
    atoms.write(folder / "atoms.csv")
    atoms.write(folder / "atoms.extxyz")
    picture.save_map(folder / "uncertainty.tif", uncertainty, atoms.step)
    model = provenance["model"]
    title = f"{stage['specimen']}   model {model['name']} {model['version']}"
    picture.save(picture.found(frame, atoms, uncertainty, title), folder / "atoms.png")
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    quality = scoring.score(atoms, truth["positions"], truth["names"]).summary()
    return {
        "name": stage["name"],
        "folder": str(folder),
        "statistics": answer["statistics"],
        "counts": atoms.counts(),
        "sampling": atoms.step,
        "provenance": provenance,
        **quality,
    }


def write_report(output: pathlib.Path, stages: list[dict[str, Any]]) -> pathlib.Path:
    """Write ``report.html``."""
    sections = [_section(stage, settings) for stage, settings in zip(stages, STAGES, strict=True)]
    rows = {"stem_ae": __version__, "Python": platform.python_version(), "machine": platform.platform()}
    sections.append(report.Section("Made with", rows=rows))
    return report.write(
        output / "report.html",
        "Atoms, live in Nion Swift",
        "Nion Swift with the simulated atomic microscope: rings on the atoms of the live scan, the ensemble's "
        "uncertainty beside it, and how that compares with where the simulated atoms are.",
        sections,
    )


def _section(stage: dict[str, Any], settings: dict[str, Any]) -> report.Section:
    folder = pathlib.Path(stage["folder"])
    model = stage["provenance"]["model"]
    rows = {
        "found": ", ".join(f"{count} {name}" for name, count in stage["counts"].items()),
        "of the true columns found": f"{stage['recall']:.1%}",
        "of the found ones true": f"{stage['precision']:.1%}",
        "right class": f"{stage['accuracy']:.1%}",
        "position error (RMS, per axis)": f"{100 * stage['rmse']:.1f} pm",
        "live": stage["statistics"],
        "scan": f"256 × 256 pixels, {settings['fov_nm']:g} nm, {settings['dwell_us']:g} µs per pixel",
        "model": f"{model['name']}, version {model['version']}, {model['members']} networks",
        "files": f"{folder.name}/atoms.csv, atoms.extxyz, uncertainty.tif, uncertainty.npy, frame.npy",
    }
    pictures = [
        (folder / "screen.png", "Nion Swift, live"),
        (folder / "atoms.png", "The snapshot: rings by class, and the ensemble's uncertainty"),
    ]
    return report.Section(settings["specimen"], rows=rows, pictures=pictures)
