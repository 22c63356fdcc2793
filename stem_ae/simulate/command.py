"""``stem-ae build`` and ``stem-ae simulate``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pathlib

    import ase

    from stem_ae.atoms import Atoms2D
    from stem_ae.simulate.tasks import Adsorption, MolecularDynamics, Relax, Task


_MOST_PATCHES = 10_000
_SAME_ATOM = 3.0
"""Å: who means an atom to be removed points no farther from it."""
_CANDIDATES = 20
"""Random patches looked at for each one that differs most."""


def add_parsers(subparsers: Any) -> None:
    """Register the commands."""
    _add_build(subparsers)
    _add_simulate(subparsers)


def _add_build(subparsers: Any) -> None:
    build = subparsers.add_parser("build", help="make a structure of the atoms found in an image")
    build.set_defaults(run=_build)
    build.add_argument("atoms", help="atoms as 'stem-ae find' writes them (.csv, .xyz)")
    build.add_argument("-o", "--output", default="structure.json", help="format by the suffix (.json keeps all)")
    region = build.add_mutually_exclusive_group()
    region.add_argument("--region", type=float, nargs=4, metavar=("X0", "Y0", "X1", "Y1"), help="rectangle in Å")
    region.add_argument("--disc", type=float, nargs=3, metavar=("X", "Y", "RADIUS"), help="disc in Å")
    region.add_argument("--patches", type=int, metavar="N", help="N squares that differ most, one file each")
    build.add_argument("--random", action="store_true", help="--patches anywhere, not those that differ most")
    build.add_argument("--size", type=float, default=15.0, help="side of --patches, Å")
    build.add_argument("--material", metavar="FILE", help="template (JSON): which atoms a class of column stands for")
    build.add_argument("--cell", nargs="+", default=["patch"], help="patch, periodic, or 3, 6 or 9 numbers")
    build.add_argument("--vacuum", type=float, default=10.0, help="Å on every side")
    build.add_argument("--bare", action="store_true", help="leave edges without hydrogen")
    build.add_argument("--calibration", choices=["scale", "affine", "none"], default="scale")
    build.add_argument("--confidence", type=float, default=0.5, help="least probability of an atom's class")
    build.add_argument("--overlaps", choices=["resolve", "refuse", "keep"], default="resolve")
    build.add_argument("--variants", type=int, default=0, metavar="N", help="also N structures drawn from uncertainty")
    build.add_argument("--seed", type=int, default=0, help="of --variants and --patches")
    build.add_argument(
        "--remove", type=float, nargs=2, action="append", default=[], metavar=("X", "Y"),
        help="make a vacancy of the atom nearest to this point of the image, Å",
    )
    build.add_argument(
        "--adsorb", nargs=2, action="append", default=[], metavar=("WHAT", "SITE"),
        help="add an element, CH, CH2 or CH3 at the top, bridge or hollow site nearest to --at",
    )
    build.add_argument("--at", type=float, nargs=2, metavar=("X", "Y"), help="Å of the image (default: the middle)")
    build.add_argument("--json", action="store_true", help="print the report as JSON")


def _add_simulate(subparsers: Any) -> None:
    simulate = subparsers.add_parser("simulate", help="relax a structure, run dynamics, or write input for an engine")
    simulate.set_defaults(run=_simulate)
    simulate.add_argument("task", choices=["relax", "md", "adsorption", "engines"], help="what to do, or list engines")
    simulate.add_argument("structure", nargs="?", help="structure file")
    simulate.add_argument("--index", metavar="N", help="which of a file's structures: a CIF's block or a number")
    simulate.add_argument("--engine", help="default: the embedded GFN1-xTB")
    simulate.add_argument("--fixed", help="perimeter, H, xy (only z moves); joined by +")
    simulate.add_argument("--fmax", type=float, default=0.05, help="largest force at the end, eV/Å")
    simulate.add_argument("--relax-cell", action="store_true", help="relax the cell too")
    simulate.add_argument("--max-steps", type=int, default=500)
    simulate.add_argument("--temperature", type=float, nargs="+", default=[300.0], help="K; several make several jobs")
    simulate.add_argument("--steps", type=int, default=2000, help="of molecular dynamics")
    simulate.add_argument("--timestep", type=float, default=1.0, help="fs")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument(
        "--adsorbate", type=int, nargs="+", default=[], help="its atoms, counted from 0 (default: what --adsorb added)"
    )
    simulate.add_argument("--queue", metavar="FOLDER", help="the queue's folder (default: yours)")
    simulate.add_argument("--priority", type=int, default=10, help="small numbers first")
    simulate.add_argument("--title", default="")
    simulate.add_argument("--after", nargs="+", default=[], metavar="JOB", help="jobs that must finish first")
    simulate.add_argument("--export", metavar="CODE", help="write input for this engine elsewhere, do not submit")
    simulate.add_argument("-o", "--output", default="input", metavar="FOLDER", help="where --export writes")
    simulate.add_argument("--kpoints", type=int, nargs=3, default=[1, 1, 1])
    simulate.add_argument("--cutoff", type=float, default=400.0, help="plane-wave cutoff, eV")
    simulate.add_argument("--pseudopotentials", default="", metavar="FOLDER")
    simulate.add_argument("--wait", action="store_true", help="start a worker if needed, and wait for the results")
    simulate.add_argument("--json", action="store_true", help="print JSON")


def _build(arguments: argparse.Namespace) -> None:
    import pathlib

    from stem_ae import Atoms2D, StemAeError, checks, structure
    from stem_ae.structure.files import write

    found = pathlib.Path(arguments.atoms)
    atoms = Atoms2D.read(found)
    if arguments.patches is not None:
        checks.whole(arguments.patches, "--patches", 1, _MOST_PATCHES)
    for point in [*arguments.remove, *([arguments.at] if arguments.at else [])]:
        checks.place(point, "A point of the image")
    options: dict[str, Any] = {
        "cell": _cell(arguments.cell), "vacuum": arguments.vacuum, "terminate": None if arguments.bare else "H",
        "calibration": None if arguments.calibration == "none" else arguments.calibration,
        "confidence": arguments.confidence, "overlaps": arguments.overlaps, "provenance": _provenance(found),
        "material": structure.Material.read(arguments.material) if arguments.material else None,
    }  # fmt: skip
    reports = []
    for output, region in _regions(arguments, atoms):
        try:
            cell = structure.build(atoms, region, **options)
        except StemAeError as error:
            if not arguments.patches:
                raise
            print(f"stem-ae: left out {region.round(1).tolist()}: {error}", file=sys.stderr)
            continue
        variants = structure.variants(atoms, arguments.variants, region, seed=arguments.seed, **options)
        path = write(_edited(cell, arguments), output)
        for number, variant in enumerate(variants, start=1):
            write(_edited(variant, arguments), path.with_stem(f"{path.stem}-{number}"))
        reports.append({"file": str(path), "formula": cell.get_chemical_formula(), **cell.info["stem_ae"]})
    if not reports:
        raise StemAeError("No structure could be built from any of the patches: see the message for each.")
    if arguments.json:
        print(json.dumps(reports if arguments.patches else reports[0]))
        return
    for report in reports:
        print(f"{report['file']}: {report['formula']}, scale corrected by {report['calibration']['scale']:.4f}")
        for note in report["notes"]:
            print(f"  {note}", file=sys.stderr)


def _provenance(found: pathlib.Path) -> dict[str, Any]:
    """Return where atoms come from, as 'stem-ae find' and the Atoms panel write it beside them."""
    from stem_ae.errors import StemAeError
    from stem_ae.files import read_text

    beside = found.with_suffix(".json")
    known: Any = {}
    if beside.is_file():
        try:
            known = json.loads(read_text(beside))
        except (ValueError, RecursionError) as error:
            raise StemAeError(
                f"{beside.name}, which should say where {found.name} comes from, is no JSON: move it away."
            ) from error
    if not isinstance(known, dict):
        raise StemAeError(f"{beside.name} does not say where {found.name} comes from: move it away.")
    return {**known, "atoms_file": str(found.resolve())}


def _regions(arguments: argparse.Namespace, atoms: Atoms2D) -> list[tuple[pathlib.Path, Any]]:
    """Return what to build, and the files for it."""
    import pathlib

    from stem_ae import structure

    output = pathlib.Path(arguments.output)
    if not arguments.patches:
        return [(output, structure.around(*arguments.disc) if arguments.disc else arguments.region)]
    count = arguments.patches if arguments.random else _CANDIDATES * arguments.patches
    regions = structure.random_regions(atoms, arguments.size, count, seed=arguments.seed)
    if not arguments.random:
        regions = regions[structure.most_different(atoms, regions, arguments.patches)]
    return [(output.with_stem(f"{output.stem}-patch{k}"), region) for k, region in enumerate(regions, start=1)]


def _edited(cell: ase.Atoms, arguments: argparse.Namespace) -> ase.Atoms:
    """Return the structure with its vacancies and adsorbates."""
    import numpy as np

    from stem_ae import StemAeError, structure

    for point in arguments.remove:
        away = ((structure.from_image(cell, np.array([point])) - cell.positions[:, :2]) ** 2).sum(axis=1)
        away[cell.numbers == 1] = np.inf
        if not np.isfinite(away).any():
            raise StemAeError("There is no atom left to remove.")
        if away.min() > _SAME_ATOM**2:
            raise StemAeError(
                f"The nearest atom is {away.min() ** 0.5:.3g} Å from ({point[0]:g}, {point[1]:g}): give --remove the "
                "place of an atom."
            )
        cell = structure.add_vacancy(cell, int(away.argmin()))
    near = tuple(structure.from_image(cell, np.array([arguments.at]))[0]) if arguments.at else None
    for what, site in arguments.adsorb:
        cell = structure.adsorb(cell, what, site, near=near)
    return cell


def _cell(words: list[str]) -> Any:
    from stem_ae.errors import StemAeError

    if words in (["patch"], ["periodic"]):
        return words[0]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) not in (3, 6, 9):
        raise StemAeError("The cell must be patch, periodic, or 3 lengths, 3 lengths and 3 angles, or 9 components.")
    return [numbers[0:3], numbers[3:6], numbers[6:9]] if len(numbers) == 9 else numbers


def _simulate(arguments: argparse.Namespace) -> int:
    from stem_ae.errors import StemAeError
    from stem_ae.simulate import engines

    if arguments.task == "engines":
        return _print_engines(arguments.json)
    atoms = _structure(arguments)
    tasks = _tasks(arguments)
    if arguments.export:
        from stem_ae.simulate.inputs import export
        from stem_ae.simulate.tasks import Adsorption

        if atoms is None or isinstance(tasks[0], Adsorption) or len(tasks) != 1:
            raise StemAeError("--export writes one relaxation or one dynamics of a structure that is given.")
        folder = export(
            tasks[0], atoms, arguments.export, arguments.output, kpoints=arguments.kpoints, cutoff_ev=arguments.cutoff,
            pseudopotentials=arguments.pseudopotentials,
        )  # fmt: skip
        print(json.dumps({"folder": str(folder)}) if arguments.json else f"written to {folder}: see README.txt")
        return 0
    if atoms is not None:
        steps = arguments.steps if arguments.task == "md" else 40
        warning = engines.estimate(atoms, arguments.engine, steps).warning
        if warning:
            print(f"stem-ae: {warning}", file=sys.stderr)
    return _submit(arguments, tasks, atoms)


def _submit(arguments: argparse.Namespace, tasks: Sequence[Task], atoms: ase.Atoms | None) -> int:
    from stem_ae.jobs.queue import Queue
    from stem_ae.terminal import printable

    queue = Queue.open(arguments.queue)
    after = [queue.job(number) for number in arguments.after]
    jobs = [
        queue.submit(task, atoms, title=arguments.title, priority=arguments.priority, after=after) for task in tasks
    ]
    if arguments.wait:
        queue.start_worker()
        for job in jobs:
            job.wait()
    rows = [queue.row(job.id) for job in jobs]
    if arguments.json:
        print(json.dumps([row._asdict() for row in rows], default=str))
    else:
        for row in rows:
            print(printable(f"{row.id}  {row.state}  {row.title}  {row.error}", in_one_line=True))
        if not queue.worker_alive():
            print("No worker is running on this machine: start one with 'stem-ae worker'.", file=sys.stderr)
    return 1 if any(row.state in ("failed", "cancelled") for row in rows) else 0


def _structure(arguments: argparse.Namespace) -> ase.Atoms | None:
    from stem_ae.errors import StemAeError
    from stem_ae.structure.files import read

    if arguments.structure:
        return read(arguments.structure, arguments.index)
    if arguments.after:
        return None
    raise StemAeError("Give a structure file, or --after a job whose final structure is to be taken.")


def _tasks(arguments: argparse.Namespace) -> list[Relax] | list[Adsorption] | list[MolecularDynamics]:
    from stem_ae.simulate.tasks import Adsorption, MolecularDynamics, Relax

    engine, fixed = arguments.engine, arguments.fixed
    if arguments.task == "relax":
        return [Relax(engine, fixed, arguments.fmax, arguments.relax_cell, arguments.max_steps)]
    if arguments.task == "adsorption":
        return [Adsorption(tuple(arguments.adsorbate), engine, fixed, arguments.fmax, arguments.max_steps)]
    return [
        MolecularDynamics(
            kelvin, arguments.steps, arguments.timestep, engine=engine, fixed=fixed, seed=arguments.seed
        )
        for kelvin in arguments.temperature
    ]


def _print_engines(as_json: bool) -> int:
    from stem_ae.simulate import engines

    available = engines.available()
    if as_json:
        print(json.dumps({name: {"title": engines.ENGINES[name].title, "missing": m} for name, m in available.items()}))
        return 0
    for name, missing in available.items():
        print(f"{name:<8} {engines.ENGINES[name].title:<45} {missing or 'ready'}")
    return 0
