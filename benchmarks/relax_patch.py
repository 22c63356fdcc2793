"""The literature's 91-atom graphene patch: from an image to a relaxed structure, with CPU seconds and bond lengths.

    python benchmarks/relax_patch.py                 # simulated image, ELIT, structure, two force limits
    python benchmarks/relax_patch.py --true-atoms    # positions with 0.03 Å of noise instead of ELIT (no model needed)
    python benchmarks/relax_patch.py --frame         # a frame of 2000 atoms with GFN-FF
    python benchmarks/relax_patch.py --baseline      # ASE's BFGS on the same engine, for comparison
    python benchmarks/relax_patch.py --dft           # C24H12 with the embedded engine, and from there with PBE (CP2K)
    python benchmarks/relax_patch.py --dynamics 1000 # C91H27 at 300 and 1200 K, so many steps of 1 fs
    python benchmarks/relax_patch.py --adsorption    # H, CH3 and O on C24H12 with the embedded engine

Set OMP_NUM_THREADS=1: CPU seconds are of one core, children (xtb) included.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import tempfile
import time
from typing import Any, cast

import numpy as np

from stem_ae import Atoms2D, jobs, simulate, structure
from stem_ae.imaging import specimens
from stem_ae.simulate.running import run_folder
from stem_ae.simulate.tasks import to_dict

SAMPLING = 0.104


def cpu_seconds() -> float:
    """Return user and system time of this process and its children."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def noisy_atoms(extent: float, noise: float, silicon: float = 0.0) -> Atoms2D:
    """Return true columns with position noise (Å), as a good detector finds them."""
    specimen = specimens.graphene((extent, extent), silicon=silicon, rotation=0.2, ripple=0.0, seed=1)
    xy, names = specimen.columns()
    inside = np.all((xy > 0) & (xy < extent), axis=1)
    labels = np.array([int(name == "Si") for name, kept in zip(names, inside, strict=True) if kept])
    xy = xy[inside] + np.random.default_rng(0).normal(scale=noise, size=(int(inside.sum()), 2))
    n = len(xy)
    pixels = int(extent / SAMPLING)
    return Atoms2D(
        xy, np.tile(np.eye(2) * noise**2, (n, 1, 1)), labels, ("C", "Si"), np.eye(2)[labels] * 0.98 + 0.01, np.ones(n),
        (pixels, pixels), SAMPLING,
    )  # fmt: skip


def atoms_by_elit(extent: float, dose: float) -> Atoms2D:
    """Return what the bundled model finds in a simulated image of this dose (e/Å²)."""
    from stem_ae import elit
    from stem_ae.imaging.adf import expected_fraction
    from stem_ae.imaging.noise import detect
    from stem_ae.imaging.probe import GaussianProbe
    from stem_ae.imaging.scattering import cross_section

    specimen = specimens.graphene((extent, extent), silicon=0.0, rotation=0.2, ripple=0.0, seed=1)
    pixels = int(extent / SAMPLING)
    fraction = expected_fraction(
        specimen.positions[:, :2], cross_section(specimen.numbers), (pixels, pixels), SAMPLING, GaussianProbe(0.5)
    )
    image = detect(fraction, dose * SAMPLING**2, np.random.default_rng(0))
    return elit.load("graphene").predict(image, sampling=SAMPLING).atoms


def patch_of_91(atoms: Atoms2D) -> Any:
    """Return the disc whose structure is the literature's C91H27, or else the nearest to 91 carbon atoms."""
    best, best_cost = None, np.inf
    centre = np.array([atoms.shape[1] * atoms.sampling[1], atoms.shape[0] * atoms.sampling[0]]) / 2
    matrix = structure.calibrate(atoms.positions, atoms.covariance, 1.42).matrix
    for radius in (8.0, 8.3, 8.6):
        for dx, dy in np.random.default_rng(0).uniform(-1.4, 1.4, (20, 2)):
            region = structure.around(centre[0] + dx, centre[1] + dy, radius)
            cell = structure.build(atoms, region, calibration=matrix)
            carbon, hydrogen = int((cell.numbers == 6).sum()), int((cell.numbers == 1).sum())
            cost = 10 * abs(carbon - 91) + abs(hydrogen - 27)
            if cost < best_cost:
                best, best_cost = cell, cost
            if cost == 0:
                return best
    return best


def relax(cell: Any, **options: Any) -> dict[str, Any]:
    """Relax in this process and return what came out."""
    task = simulate.Relax(**options)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="relax_patch_"))
    simulate.Calculation.create(folder, to_dict(task), cell, {})
    wall, cpu = time.perf_counter(), cpu_seconds()
    code = run_folder(folder)
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    if code:
        return {"error": simulate.Calculation(folder).error(), "cpu_s": round(cpu, 2)}
    summary = simulate.Result.read(folder).summary
    return {
        "fmax_asked": task.fmax, "cpu_s": round(cpu, 2), "wall_s": round(wall, 2), "steps": summary["steps"],
        "fmax": round(summary["fmax"], 5), "energy_ev": round(summary["energy"], 4), "engine": summary["engine"],
        "bonds": {
            name: [round(bond["mean"], 4), round(bond["min"], 3), round(bond["max"], 3)]
            for name, bond in summary["bonds"].items()
        },
        "displacement_pm": summary["displacement"], "folder": str(folder),
    }  # fmt: skip


def baseline(cell: Any, fmax: float) -> dict[str, Any]:
    """Relax with ASE's BFGS on tblite as it comes."""
    from ase.optimize import BFGS
    from tblite.ase import TBLite

    atoms = cell.copy()
    atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
    cpu = cpu_seconds()
    search = BFGS(atoms, logfile=None)
    search.run(fmax=fmax, steps=400)
    return {"fmax_asked": fmax, "cpu_s": round(cpu_seconds() - cpu, 2), "steps": search.nsteps}


def _nearest_to(atoms: Atoms2D, index: int) -> int:
    return int(np.argsort(np.linalg.norm(atoms.positions - atoms.positions[index], axis=1))[1])


def coronene(vacuum: float) -> Any:
    """Return C24H12 as a patch of an image."""
    found = noisy_atoms(24.0, 0.03)
    # Where one of an atom's bonds, turned round, ends: the middle of the ring opposite.
    nearest = np.argsort(np.linalg.norm(found.positions - 12.0, axis=1))
    atom, neighbour = found.positions[nearest[0]], found.positions[_nearest_to(found, nearest[0])]
    return structure.build(found, structure.around(*(2 * atom - neighbour), 4.3), vacuum=vacuum)


def dft() -> None:
    """Print the bonds of coronene by the embedded engine, and by PBE from there."""
    cell = coronene(vacuum=4.0)
    print(cell.get_chemical_formula(), flush=True)
    embedded = relax(cell, fmax=0.01)
    print(json.dumps(embedded), flush=True)
    start = simulate.Result.read(pathlib.Path(embedded["folder"])).atoms
    true = relax(start, engine="cp2k")
    print(json.dumps(true), flush=True)
    print_side_by_side(start, simulate.Result.read(pathlib.Path(true["folder"])).atoms)


def print_side_by_side(one: Any, other: Any) -> None:
    """Print coronene's kinds of bonds, from the hub outwards, by two engines."""
    first, second, _ = structure.bonded(one)
    pairs = np.column_stack([first, second])[first < second]
    ring = np.round(np.linalg.norm(one.positions - one.positions.mean(axis=0), axis=1), 0)
    kinds: dict[tuple[float, float], list[list[float]]] = {}
    for i, j in pairs:
        lengths = [float(atoms.get_distance(i, j)) for atoms in (one, other)]
        kinds.setdefault((min(ring[i], ring[j]), max(ring[i], ring[j])), []).append(lengths)
    for (inner, outer), bonds in sorted(kinds.items()):
        here, there = np.mean(bonds, axis=0)
        print(f"{len(bonds):3d} bonds from {inner:.0f} to {outer:.0f} Å off the centre: {here:.3f} and {there:.3f} Å")


def adsorption() -> None:
    """Print adsorption energies on coronene."""
    for what, site in (("H", "top"), ("CH3", "top"), ("O", "bridge")):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="relax_patch_adsorption_"))
        cell = structure.adsorb(coronene(vacuum=10.0), what, cast(Any, site))
        simulate.Calculation.create(folder, to_dict(simulate.Adsorption(fixed="perimeter")), cell, {})
        cpu = cpu_seconds()
        if run_folder(folder):
            print(simulate.Calculation(folder).error())
            return
        summary = simulate.Result.read(folder).summary
        said = {name: summary[name] for name in ("adsorption_energy", "unpaired_electrons")}
        print(json.dumps({"adsorbed": what, "site": site, "cpu_s": round(cpu_seconds() - cpu, 1), **said}), flush=True)


def dynamics(cell: Any, steps: int) -> None:
    """Print bond lengths at two temperatures, averaged over the second half."""
    start = simulate.Result.read(pathlib.Path(relax(cell)["folder"])).atoms
    for kelvin in (300.0, 1200.0):
        task = simulate.MolecularDynamics(temperature=kelvin, steps=steps)
        folder = pathlib.Path(tempfile.mkdtemp(prefix="relax_patch_md_"))
        simulate.Calculation.create(folder, to_dict(task), start, {})
        cpu = cpu_seconds()
        if run_folder(folder):
            print(simulate.Calculation(folder).error())
            return
        averages = simulate.Result.read(folder).summary["averages"]
        print(json.dumps({"asked_K": kelvin, "cpu_s": round(cpu_seconds() - cpu, 1), **averages}), flush=True)


def submission(atoms: Atoms2D, region: Any) -> str:
    """Return the time from found atoms to a durable job; the second time, when everything is imported."""
    queue = jobs.Queue.open(tempfile.mkdtemp(prefix="relax_patch_queue_"))
    for _ in range(2):
        wall, cpu = time.perf_counter(), time.process_time()
        queue.submit(simulate.Relax(), structure.build(atoms, region))
    return f"{time.perf_counter() - wall:.3f} s, {time.process_time() - cpu:.3f} CPU-s"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--true-atoms", action="store_true")
    parser.add_argument("--frame", action="store_true")
    parser.add_argument("--baseline", action="store_true")
    parser.add_argument("--dft", action="store_true")
    parser.add_argument("--dynamics", type=int, default=0, metavar="STEPS")
    parser.add_argument("--adsorption", action="store_true")
    parser.add_argument("--dose", type=float, default=1e6, help="e/Å² of the simulated image")
    arguments = parser.parse_args()
    if arguments.frame:
        frame = structure.build(noisy_atoms(72.7, 0.03, silicon=0.011))
        print(frame.get_chemical_formula(), flush=True)
        outcome = relax(frame, engine="gfnff", fmax=0.05)
        outcome["memory_gb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        print(json.dumps(outcome, indent=1))
        return
    if arguments.dft:
        dft()
        return
    if arguments.adsorption:
        adsorption()
        return
    atoms = noisy_atoms(40.0, 0.03) if arguments.true_atoms else atoms_by_elit(40.0, arguments.dose)
    cell = patch_of_91(atoms)
    print(cell.get_chemical_formula(), cell.info["stem_ae"]["calibration"], flush=True)
    if arguments.baseline:
        for fmax in (0.05, 1e-3):
            print(json.dumps(baseline(cell, fmax)), flush=True)
        return
    if arguments.dynamics:
        dynamics(cell, arguments.dynamics)
        return
    for fmax in (0.05, 1e-3):
        print(json.dumps(relax(cell, fmax=fmax)), flush=True)
    print(f"atoms to submitted job, patch: {submission(atoms, structure.around(20, 20, 8.3))}")
    whole = noisy_atoms(72.7, 0.03)
    print(f"atoms to submitted job, {len(whole)} atoms: {submission(whole, None)}")


if __name__ == "__main__":
    main()
