"""Calculations against what is known: bonds, energies that are conserved, checkpoints, flags that engines read."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import ase
import ase.build
import ase.io
import numpy as np
import pytest
from ase.constraints import FixAtoms, FixCartesian, FixedLine, FixedPlane
from ase.units import Bohr, Hartree

from stem_ae import StemAeError, imageio, simulate
from stem_ae.simulate import engines, inputs, spin
from stem_ae.simulate.calculation import Reporter
from stem_ae.simulate.constraints import fix, free_coordinates
from stem_ae.simulate.hessian import model_hessian
from stem_ae.simulate.running import run_folder
from stem_ae.simulate.tasks import from_dict, to_dict
from stem_ae.structure import to_image
from stem_ae.structure.files import read

tblite = pytest.importorskip("tblite")


def calculate(task, atoms, folder) -> simulate.Result:
    task.check(atoms)
    assert run_folder(simulate.Calculation.create(folder, to_dict(task), atoms, {}).folder) == 0
    return simulate.Result.read(folder)


def flake() -> ase.Atoms:
    """Coronene C24H12 from ideal graphene, as a patch of an image would be."""
    from test_structure import found

    from stem_ae.imaging import specimens
    from stem_ae.structure import build

    image = found(specimens.graphene((24.0, 24.0), silicon=0.0, ripple=0.0, seed=1), noise=0.03)
    # A hexagon's centre: the mean of the six atoms around it.
    points = image.positions
    near = points[np.argsort(np.linalg.norm(points - 12, axis=1))[:3]]
    start = points[np.argsort(np.linalg.norm(points - near.mean(axis=0), axis=1))[:1]][0]
    neighbours = points[np.argsort(np.linalg.norm(points - start, axis=1))[1:4]] - start
    centre = start - neighbours[0]
    cell = build(image, np.linalg.norm(points - centre, axis=1) < 4.3, calibration=None)
    assert cell.get_chemical_formula() == "C24H12"
    return cell


def test_relaxed_coronene_has_the_bonds_of_coronene(tmp_path):
    """Spoke, rim and hub bonds: 1.35 to 1.43 Å; GFN1-xTB's mean is 1.407 Å as three other programs agree."""
    start = flake()
    result = calculate(simulate.Relax(fmax=0.01), start, tmp_path / "c")
    bonds = result.summary["bonds"]
    assert bonds["C-C"]["count"] == 30
    assert bonds["C-H"]["count"] == 12
    assert bonds["C-C"]["mean"] == pytest.approx(1.407, abs=0.003)
    assert bonds["C-C"]["min"] == pytest.approx(1.365, abs=0.005)
    assert bonds["C-H"]["mean"] == pytest.approx(1.085, abs=0.003)
    assert {size: ring["count"] for size, ring in result.summary["rings"].items()} == {"6": 7}
    assert result.summary["fmax"] < 0.01
    assert result.summary["defects"] == []
    energies = [frame.get_potential_energy() for frame in result.trajectory]
    assert energies[-1] == pytest.approx(result.energy, abs=1e-6)
    assert energies[-1] < energies[0] - 0.1
    # Position noise of 3 pm per axis: what relaxation moves is that noise and the strain of the edge.
    moved = result.displacement
    assert np.isnan(moved[result.atoms.numbers == 1]).all()
    assert result.summary["displacement"]["mean_pm"] < 8
    # The final structure knows where it is in the image, so that it can be drawn on it and imaged beside it.
    seen = result.atoms.arrays["image_atom"] >= 0
    there = to_image(result.atoms)[seen]
    assert there == pytest.approx(to_image(start)[seen], abs=0.15)
    row, column = np.round(there[0] / 0.104).astype(int)[::-1]
    picture = result.image((231, 231), 0.104, sigma=0.3)
    assert picture[row, column] > 0.8 * picture.max() > 3 * picture[0, 0]
    history = simulate.Calculation(tmp_path / "c").history()
    assert len(history) == len(energies)
    assert simulate.Calculation(tmp_path / "c").progress()["fraction"] == 1.0


def test_model_curvature_saves_steps():
    """The optimiser has to earn its name: at most a third of ASE's steps from the same start, to the same energy."""
    from ase.optimize import BFGS
    from tblite.ase import TBLite

    from stem_ae.simulate.optimise import optimiser

    steps, energies = [], []
    for make in (optimiser, lambda atoms: BFGS(atoms, logfile=None)):
        atoms = flake()
        atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
        search = make(atoms)
        assert search.run(fmax=0.005, steps=200)
        steps.append(search.nsteps)
        energies.append(atoms.get_potential_energy())
    assert energies[0] == pytest.approx(energies[1], abs=2e-3)
    assert 3 * steps[0] <= steps[1]


def test_model_hessian_is_symmetric_positive_and_knows_translations():
    atoms = flake()
    matrix = model_hessian(atoms).toarray()
    assert matrix == pytest.approx(matrix.T)
    assert np.linalg.eigvalsh(matrix)[0] > 0
    # Moving everything costs only the floor; stretching one bond costs tens of eV/Å².
    shift = np.tile([1.0, 0, 0], len(atoms)) / np.sqrt(len(atoms))
    assert shift @ matrix @ shift == pytest.approx(2.0, rel=1e-6)


def test_fixed_parts_stay_exactly(tmp_path):
    start = flake()
    held = calculate(simulate.Relax(fixed="perimeter+H", fmax=0.05), start, tmp_path / "p").atoms
    still = start.arrays["perimeter"] | (start.numbers == 1)
    # The flat start is rippled first, so that x and y of held atoms stay to the last digit.
    assert np.abs(held.positions - start.positions)[still][:, :2].max() < 1e-7
    assert np.abs(held.positions - start.positions)[~still].max() > 1e-3
    only_z = calculate(simulate.Relax(fixed="xy", fmax=0.05), start, tmp_path / "z").atoms
    assert np.abs(only_z.positions - start.positions)[:, :2].max() < 1e-7


def test_energy_is_conserved_without_thermostat(tmp_path):
    benzene = ase.build.molecule("C6H6")
    benzene.center(vacuum=5)
    task = simulate.MolecularDynamics(temperature=300, steps=100, timestep=0.5, thermostat=None, every=20)
    calculate(task, benzene, tmp_path / "nve")
    total = simulate.Calculation(tmp_path / "nve").history()["energy"]
    assert len(total) == 101
    assert np.ptp(total) < 0.005 * len(benzene) / 12
    assert abs(np.polyfit(np.arange(101), total, 1)[0]) * 100 < 2e-3


@pytest.mark.slow
def test_thermostat_reaches_the_temperature_also_with_held_atoms(tmp_path):
    """Einstein-like copper: the mean kinetic temperature over 3 ps is the one asked for, within its fluctuation."""
    copper = ase.build.bulk("Cu", cubic=True) * (3, 2, 2)
    copper.set_constraint(FixAtoms(range(16)))
    task = simulate.MolecularDynamics(temperature=600, steps=1200, timestep=3.0, engine="emt", every=100)
    calculate(task, copper, tmp_path / "nvt")
    temperature = simulate.Calculation(tmp_path / "nvt").history()["temperature"][200:]
    # Standard error: sqrt(2 / degrees of freedom) over some tens of independent samples.
    assert temperature.mean() == pytest.approx(600, rel=0.06)
    still = simulate.Result.read(tmp_path / "nvt").atoms.positions[:16]
    assert still == pytest.approx(copper.positions[:16], abs=1e-7)


@pytest.mark.slow
def test_a_killed_calculation_goes_on_where_it_was(tmp_path):
    """Killed in the middle, the dynamics ends exactly as the one that was not: positions, momenta, thermostat."""
    copper = ase.build.bulk("Cu", cubic=True) * (2, 2, 2)
    task = simulate.MolecularDynamics(temperature=300, steps=400, timestep=2.0, engine="emt", every=10, seed=3)
    whole = calculate(task, copper, tmp_path / "whole")
    broken = simulate.Calculation.create(tmp_path / "broken", to_dict(task), copper, {})
    script = (
        "import stem_ae.simulate.calculation as c, stem_ae.simulate.running as r, pathlib, sys\n"
        "c.Reporter.due = lambda self: True\n"
        "sys.exit(r.run_folder(pathlib.Path(sys.argv[1])))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(broken.folder)])
    while not (broken.folder / "checkpoint.npz").exists() or broken.progress().get("step", 0) < 60:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not broken.finished
    kept = int(np.load(broken.folder / "checkpoint.npz")["steps"])
    assert 0 < kept < 400
    assert run_folder(broken.folder) == 0
    resumed = simulate.Result.read(broken.folder)
    assert resumed.atoms.positions == pytest.approx(whole.atoms.positions, abs=1e-9)
    assert len(resumed.trajectory) == len(whole.trajectory) == 41
    assert broken.history()["step"].tolist() == list(range(401))
    assert run_folder(broken.folder) == 0  # a finished one is left alone


def test_adsorption_energy_has_the_stated_sign(tmp_path):
    """E_system + E_adsorbate - E_whole: positive for a bond. A hydrogen on a CH3 radical: its bond energy, ~4.5 eV."""
    methane = ase.build.molecule("CH4")
    methane.center(vacuum=5)
    result = calculate(simulate.Adsorption(adsorbate=(4,)), methane, tmp_path / "a")
    energy = result.summary["adsorption_energy"]
    parts = result.summary["parts"]
    assert energy == pytest.approx(parts["system"] + parts["adsorbate"] - parts["whole"])
    assert result.summary["unpaired_electrons"] == {"whole": 0, "system": 1, "adsorbate": 1}
    assert energy == pytest.approx(4.8, abs=0.5)  # experiment: 4.54 eV, and 0.3 eV of zero-point vibration


def test_atoms_have_the_spins_of_hund(tmp_path):
    """Lone atoms and molecules whose ground states are known; engines without spins leave them alone."""
    gfn1 = engines.get("gfn1")
    lone = [("H", 1), ("C", 2), ("N", 3), ("O", 2), ("Cr", 6)]
    for atoms, expected in [*((ase.Atoms(s), n) for s, n in lone), (ase.build.molecule("CH3"), 1),
                            (ase.build.molecule("C6H6"), 0)]:  # fmt: skip
        every = np.arange(len(atoms))
        chosen = spin.with_lowest_spin(atoms, every, spin.most_unpaired(atoms), gfn1, tmp_path)
        assert spin.unpaired(chosen) == expected, atoms
        assert spin.with_lowest_spin(atoms, every, 6, engines.get("emt"), tmp_path) is atoms
    hydrogen = spin.with_lowest_spin(ase.Atoms("H"), np.arange(1), 1, gfn1, tmp_path)
    molecule = ase.build.molecule("H2")
    for atoms in (hydrogen, molecule):
        atoms.calc = gfn1.make(atoms, tmp_path)
    bond = 2 * hydrogen.get_potential_energy() - molecule.get_potential_energy()
    assert bond == pytest.approx(4.75, abs=0.5)  # experiment, zero-point vibration taken off


def test_periodic_graphene_relaxes_with_its_cell(tmp_path):
    sheet = ase.build.graphene("C2", a=2.40, size=(3, 3, 1), vacuum=8)
    sheet.pbc = [True, True, False]
    result = calculate(simulate.Relax(cell=True, fmax=0.03), sheet, tmp_path / "g")
    assert result.summary["bonds"]["C-C"]["mean"] == pytest.approx(1.42, abs=0.02)
    assert result.atoms.cell.lengths()[2] == pytest.approx(sheet.cell.lengths()[2])


def test_failures_are_one_sentence(tmp_path):
    atoms = ase.Atoms("Cu2", [(0, 0, 0), (0, 0, 2.6)])
    task = simulate.Relax(engine="emt", fmax=1e-12, max_steps=2)
    calculation = simulate.Calculation.create(tmp_path / "f", to_dict(task), atoms, {})
    assert run_folder(calculation.folder) == 1
    assert "after 2 steps" in calculation.error()
    assert "\n" not in calculation.error()
    with pytest.raises(StemAeError, match="no result"):
        simulate.Result.read(calculation.folder)
    with pytest.raises(StemAeError, match="does not know the task 'cook'"):
        from_dict({"kind": "cook"})
    assert "does not know" in simulate.estimate(ase.Atoms("Og"), "gfn1", 1).warning
    assert "days" in simulate.estimate(ase.Atoms("C2000"), "gfn1", 1000).warning
    assert simulate.estimate(ase.Atoms("C91H27"), "gfn1", 40).warning == ""


def test_tasks_survive_json():
    for task in (
        simulate.Relax(fixed="xy", fmax=1e-3), simulate.MolecularDynamics(temperature=900.0),
        simulate.Adsorption(adsorbate=(3, 4)), simulate.Command("true"),
    ):  # fmt: skip
        assert from_dict(json.loads(json.dumps(to_dict(task)))) == task


def test_constraints_along_axes_are_understood_and_others_refused():
    atoms = ase.build.molecule("C6H6")
    atoms.set_constraint([FixAtoms([0]), FixCartesian([1], mask=[True, False, False]), FixedLine([2], [0, 0, 1]),
                          FixedPlane([3], [0, 1, 0])])  # fmt: skip
    free = free_coordinates(atoms)
    assert free[:5].tolist() == [
        [False, False, False], [False, True, True], [False, False, True], [True, False, True], [True, True, True],
    ]  # fmt: skip
    assert free_coordinates(fix(atoms, "H"))[6:].any() == False  # noqa: E712
    assert np.array_equal(free_coordinates(fix(atoms, None)), free)
    atoms.set_constraint(FixedLine([2], [0, 1, 1]))
    with pytest.raises(StemAeError, match="not along the axes"):
        free_coordinates(atoms)


# --- input sets -----------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed() -> ase.Atoms:
    """Benzene with its elements interleaved, one carbon held in x only."""
    benzene = ase.build.molecule("C6H6")[[0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]]
    benzene.center(vacuum=6)
    benzene.set_constraint([FixCartesian([4], mask=[True, False, False])])
    return benzene


def wanted(mixed, order):
    """Which coordinates are free, in the order of the files, for fixed='H'."""
    return free_coordinates(fix(mixed, "H"))[order]


def order_of(folder) -> list[int]:
    return json.loads((folder / "atoms.json").read_text())["order"]


def test_vasp_flags_and_order_are_read_back_by_ase(mixed, tmp_path):
    folder = inputs.export(simulate.Relax(fixed="H", fmax=1e-3), mixed, "vasp", tmp_path)
    order = order_of(folder)
    assert sorted(order) == list(range(12)) != order
    back = ase.io.read(folder / "POSCAR")
    assert back.get_chemical_symbols() == mixed[order].get_chemical_symbols()
    assert back.positions == pytest.approx(mixed.positions[order])
    assert np.array_equal(free_coordinates(back), wanted(mixed, order))
    incar = dict(line.split(" = ") for line in (folder / "INCAR").read_text().splitlines())
    assert float(incar["EDIFFG"]) == -1e-3
    assert float(incar["ENCUT"]) == 400
    assert "H/POTCAR" in (folder / "README.txt").read_text()
    # Results come back on the right atoms.
    assert inputs.restore(folder, back.positions + 1.0).positions == pytest.approx(mixed.positions + 1.0)


def test_espresso_flags_are_read_back_by_ase(mixed, tmp_path):
    folder = inputs.export(simulate.Relax(fixed="H"), mixed, "espresso", tmp_path)
    back = ase.io.read(folder / "pw.in", format="espresso-in")
    order = order_of(folder)
    assert np.array_equal(free_coordinates(back), wanted(mixed, order))
    assert back.positions == pytest.approx(mixed.positions[order])


def test_dftb_geometry_is_read_back_by_ase(mixed, tmp_path):
    folder = inputs.export(simulate.Relax(fixed="H"), mixed, "dftb", tmp_path)
    order = order_of(folder)
    back = ase.io.read(folder / "geo.gen")
    assert back.positions == pytest.approx(mixed.positions[order])
    text = (folder / "dftb_in.hsd").read_text()
    moved = {int(k) - 1 for k in text.split("MovedAtoms = ")[1].splitlines()[0].split()}
    free = wanted(mixed, order)
    assert moved == set(np.flatnonzero(free.any(axis=1)))
    held = int(np.flatnonzero(free.any(axis=1) & ~free.all(axis=1))[0])
    assert f"{held + 1} 1.0 0.0 0.0" in text
    assert "H-C.skf" in (folder / "README.txt").read_text()


def test_gpaw_script_holds_the_same_atoms(mixed, tmp_path):
    folder = inputs.export(simulate.Relax(fixed="H"), mixed, "gpaw", tmp_path)
    script = (folder / "run.py").read_text()
    compile(script, "run.py", "exec")
    line = next(line for line in script.splitlines() if line.startswith("atoms.set_constraint"))
    atoms = ase.io.read(folder / "structure.extxyz")
    exec(line, {"atoms": atoms, "FixAtoms": FixAtoms, "FixCartesian": FixCartesian})
    assert np.array_equal(free_coordinates(atoms), wanted(mixed, order_of(folder)))


@pytest.mark.parametrize("task", [simulate.Relax(fixed="H", fmax=1e-3), simulate.MolecularDynamics(fixed="H", steps=5)])
@pytest.mark.skipif(not shutil.which("lmp"), reason="LAMMPS is not installed")
def test_lammps_runs_its_input_and_holds_the_atoms(mixed, tmp_path, task, monkeypatch):
    potentials = pathlib.Path("/usr/share/lammps/potentials")
    if potentials.exists():
        monkeypatch.setenv("LAMMPS_POTENTIALS", str(potentials))
    folder = inputs.export(task, mixed, "lammps", tmp_path)
    done = subprocess.run(["lmp", "-in", "in.lammps"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-800:]
    lines = (folder / "final.lammpstrj").read_text().splitlines()
    rows = np.array([line.split() for line in lines[lines.index("ITEM: ATOMS id type x y z") + 1 :]], float)
    moved = rows[:, 2:] - mixed.positions[order_of(folder)]
    free = wanted(mixed, order_of(folder))
    assert np.abs(moved[~free]).max() < 1e-4
    assert np.abs(moved[free]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("gpaw"), reason="GPAW is not installed")
@pytest.mark.parametrize(
    "task", [simulate.Relax(fmax=0.1), simulate.MolecularDynamics(temperature=300, steps=2, every=1)]
)
def test_gpaw_runs_its_script(tmp_path, task):
    """PBE's bond of H2 is 0.75 Å; the held coordinates stay."""
    hydrogen = ase.Atoms("H2", [(0, 0, 0), (0, 0, 0.8)])
    hydrogen.center(vacuum=2.5)
    hydrogen.set_constraint(FixCartesian([0], mask=[True, True, False]))
    folder = inputs.export(task, hydrogen, "gpaw", tmp_path, cutoff_ev=300)
    done = subprocess.run([sys.executable, "run.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    final = ase.io.read(folder / "final.extxyz")
    assert final.positions[0, :2] == pytest.approx(hydrogen.positions[0, :2], abs=1e-6)
    if task.kind == "relax":
        assert final.get_distance(0, 1) == pytest.approx(0.755, abs=0.01)


@pytest.mark.parametrize("task", [simulate.Relax(fixed="H"), simulate.MolecularDynamics(fixed="H")])
@pytest.mark.skipif(not shutil.which("cp2k.psmp"), reason="CP2K is not installed")
def test_cp2k_accepts_its_input(mixed, tmp_path, task):
    folder = inputs.export(task, mixed, "cp2k", tmp_path, vdw=True)
    done = subprocess.run(
        ["cp2k.psmp", "--check", "cp2k.inp"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert "SUCCESS" in done.stdout
    text = (folder / "cp2k.inp").read_text()
    hydrogen = [k + 1 for k, z in enumerate(mixed.numbers[order_of(folder)]) if z == 1]
    assert f"LIST {hydrogen[0]}..{hydrogen[-1]}" in text
    assert "COMPONENTS_TO_FIX X\n" in text


@pytest.mark.skipif(not shutil.which("pw.x"), reason="Quantum ESPRESSO is not installed")
def test_espresso_reads_its_input_up_to_the_missing_pseudopotential(mixed, tmp_path):
    folder = inputs.export(simulate.MolecularDynamics(), mixed, "espresso", tmp_path)
    done = subprocess.run(["pw.x", "-in", "pw.in"], cwd=folder, capture_output=True, text=True, check=False)
    assert "H.upf not found" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "options", "message"),
    [
        ("abinit", {}, "no input writer for 'abinit'"),
        ("vasp", {"pseudopotentials": "/nowhere"}, "/nowhere does not exist"),
        ("vasp", {"pseudopotentials": "EMPTY"}, "no POTCAR for H"),
        ("espresso", {"pseudopotentials": "EMPTY"}, "no pseudopotential for H"),
        ("dftb", {"pseudopotentials": "EMPTY"}, "Slater-Koster"),
    ],
)
def test_bad_exports_are_one_sentence(mixed, tmp_path, code, options, message):
    options = {k: str(tmp_path) if v == "EMPTY" else v for k, v in options.items()}
    with pytest.raises(StemAeError, match=message):
        inputs.export(simulate.Relax(), mixed, code, tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def test_units_of_the_force_limit():
    """0.05 eV/Å in each code's own unit."""
    from stem_ae.simulate.inputs import cp2k, dftb

    assert pytest.approx(Bohr / Hartree, rel=1e-6) == 1 / cp2k._HARTREE_PER_BOHR
    assert pytest.approx(Bohr / Hartree, rel=1e-6) == dftb._AU_PER_EV_ANGSTROM


def test_a_relaxation_goes_on_where_it_was(tmp_path, monkeypatch):
    """Ended right after its third checkpoint, it takes the steps that it would have taken, and reports each once."""
    whole = calculate(simulate.Relax(fmax=0.005), flake(), tmp_path / "whole")
    checkpoint, kept = Reporter.checkpoint, []

    def ending(self, **arrays):
        checkpoint(self, **arrays)
        kept.append(arrays["steps"])
        if len(kept) == 3:
            raise SystemExit

    task = to_dict(simulate.Relax(fmax=0.005))
    broken = simulate.Calculation.create(tmp_path / "broken", task, flake(), {})
    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "due", lambda self: True)
        patch.setattr(Reporter, "checkpoint", ending)
        with pytest.raises(SystemExit):
            run_folder(broken.folder)
    assert not broken.finished
    assert run_folder(broken.folder) == 0
    resumed = simulate.Result.read(broken.folder)
    assert broken.history()["step"].tolist() == list(range(resumed.summary["steps"] + 1))
    assert len(resumed.trajectory) == resumed.summary["steps"] + 1
    assert resumed.energy == pytest.approx(whole.energy, abs=1e-4)
    assert abs(resumed.summary["steps"] - whole.summary["steps"]) <= 2


@pytest.fixture
def cli(tmp_path):
    """The command line in a folder with the atoms of an image, and where they come from."""
    from test_structure import found

    from stem_ae.imaging import specimens

    found(specimens.graphene((24.0, 24.0), silicon=0.0, seed=1), noise=0.02).write(tmp_path / "atoms.csv")
    (tmp_path / "atoms.json").write_text('{"image": "frame.tif", "model": {"name": "graphene", "version": "1"}}')

    def run(*words):
        return subprocess.run(
            [sys.executable, "-c", "import sys; from stem_ae.cli import main; sys.exit(main(sys.argv[1:]))", *words],
            cwd=tmp_path, env={"PYTHONPATH": str(pathlib.Path(__file__).parents[1]), "PATH": "/usr/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_command_line_builds_what_the_library_does(cli, tmp_path):
    disc = ("--disc", "12", "12", "5")
    said = cli("build", "atoms.csv", *disc, "-o", "cr.json", "--adsorb", "Cr", "hollow", "--at", "13", "12", "--json")
    assert said.returncode == 0, said.stderr
    cell = read(tmp_path / "cr.json")
    assert np.hypot(*(to_image(cell)[cell.symbols == "Cr"][0] - [13, 12])) < 1.5
    assert cell.arrays["adsorbate"].sum() == 1
    assert json.loads(said.stdout)["provenance"]["model"]["version"] == "1"
    assert cli("build", "atoms.csv", *disc, "-o", "v.json", "--remove", "12", "12", "--variants", "2").returncode == 0
    carbon = [(read(tmp_path / name).numbers == 6).sum() for name in ("v.json", "v-1.json", "v-2.json")]
    assert len(set(carbon)) == 1 == (cell.numbers == 6).sum() - carbon[0]
    patches = json.loads(cli("build", "atoms.csv", "--patches", "3", "--size", "9", "--json").stdout)
    assert len({report["file"] for report in patches}) == 3
    assert all((tmp_path / report["file"]).exists() for report in patches)
    nothing = cli("build", "atoms.csv", *disc, "--adsorb", "Cr", "beside")
    assert nothing.returncode == 2
    assert "choose top, bridge or hollow" in nothing.stderr
    bare = cli("simulate", "adsorption", "v.json")
    assert (bare.returncode, "Nothing is adsorbed" in bare.stderr) == (2, True)


@pytest.mark.slow
def test_command_line_from_atoms_to_bonds_against_temperature(cli, tmp_path):
    """A relaxation, dynamics at three temperatures after it, a table, an image and the places to look at next."""
    assert cli("build", "atoms.csv", "--disc", "12", "12", "4.5", "-o", "cell.json").returncode == 0
    queue = ("--queue", "queue")
    relaxed = cli("simulate", "relax", "cell.json", *queue, "--wait", "--json")
    (row,) = json.loads(relaxed.stdout)
    kelvins = ("3000", "300", "1200")
    words = ("simulate", "md", "--after", row["id"], "--temperature", *kelvins, "--steps", "60", *queue, "--wait")
    assert cli(*words).returncode == 0
    table = json.loads(cli("jobs", "temperatures", row["id"], *queue, "--json").stdout)
    assert [line["asked"] for line in table] == [300, 1200, 3000]
    spread = [line["bonds"]["C-C"]["std"] for line in table]
    assert spread == sorted(spread)
    assert all(line["rings"]["6"]["per_frame"] > 0 for line in table[:2])
    lines = cli("jobs", "temperatures", table[0]["job"], *queue).stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["300 K", "1200 K", "3000 K"]
    assert "±" in lines[0]
    assert cli("jobs", "image", row["id"], *queue, "-o", "adf.tif").returncode == 0
    adf = imageio.read(tmp_path / "adf.tif")
    assert adf.sampling == pytest.approx((0.104, 0.104), rel=1e-3)
    bright = np.unravel_index(np.argmax(adf.frames[0]), adf.frames[0].shape)
    assert np.hypot(*(np.array(bright) * 0.104 - 12)) < 5
    spots = json.loads(cli("jobs", "next", "atoms.csv", "--by", "uncertainty", "--json").stdout)
    assert all(0 <= spot["x"] <= 24 for spot in spots)
    for pid in (tmp_path / "queue").glob("workers/*/pid"):
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_command_line_from_atoms_to_input(cli, tmp_path):
    built = cli("build", "atoms.csv", "--disc", "12", "12", "6", "-o", "cell.json", "--json")
    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout)["calibration"]["scale"] == pytest.approx(1.0, abs=0.01)
    assert cli("simulate", "relax", "cell.json", "--export", "vasp", "-o", "vasp").returncode == 0
    assert (tmp_path / "vasp" / "POSCAR").exists()
    empty = cli("build", "atoms.csv", "--disc", "100", "100", "6")
    assert (empty.returncode, empty.stderr.strip()) == (
        2, "stem-ae: There are no atoms in this region: draw it over the atoms."
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cp2k_shell.psmp"), reason="CP2K is not installed")
def test_true_dft_agrees_with_the_embedded_engine_on_methane(tmp_path):
    """PBE's C-H bond in methane is 1.096 Å (experiment 1.087), GFN1-xTB's within 2 % of it."""
    methane = ase.build.molecule("CH4")
    methane.center(vacuum=4)
    folder = tmp_path / "a folder's name that is too long for CP2K, which knows no path of more than 80 characters"
    dft = calculate(simulate.Relax(engine="cp2k", fmax=0.1), methane, folder)
    embedded = calculate(simulate.Relax(fmax=0.05), methane, tmp_path / "embedded")
    length = dft.summary["bonds"]["C-H"]["mean"]
    assert length == pytest.approx(1.096, abs=0.004)
    assert embedded.summary["bonds"]["C-H"]["mean"] == pytest.approx(length, rel=0.02)


def test_the_largest_force_is_that_of_the_atoms_that_may_move(tmp_path):
    """Forces on the held perimeter remain, and are no sign that the relaxation is not at its end."""
    result = calculate(simulate.Relax(fixed="perimeter", fmax=0.05), flake(), tmp_path / "c")
    held = result.atoms.arrays["perimeter"].astype(bool)
    forces = np.linalg.norm(result.atoms.get_forces(apply_constraint=False), axis=1)
    assert result.summary["fmax"] <= 0.05
    assert result.summary["fmax"] == pytest.approx(forces[~held].max(), rel=1e-3)
    assert forces[held].max() > 0.05
    assert result.atoms.arrays["atom_energy"].sum() == pytest.approx(result.energy, rel=1e-6)
