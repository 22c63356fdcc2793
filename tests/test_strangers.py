"""Files that others have written: read correctly or refused in one sentence; nothing is guessed or lost."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import ase.build
import ase.io
import numpy as np
import pytest
import sample_files
from ase.constraints import FixAtoms
from scipy.spatial import cKDTree

from stem_ae import Atoms2D, StemAeError, simulate, structure
from stem_ae.cli import main
from stem_ae.elit.materials import crystal
from stem_ae.imaging import adf, dose, noise, probe, scattering, specimens
from stem_ae.imaging.specimens import from_ase, graphene
from stem_ae.jobs.queue import Queue
from stem_ae.occupancy import occupancy
from stem_ae.simulate import inputs
from stem_ae.simulate.running import run_folder
from stem_ae.simulate.tasks import to_dict
from stem_ae.structure.files import read
from stem_ae.structure.files import write as write_structure

SAMPLING = 0.15


def run(capsys, *words):
    """Return exit code, standard output and error of a command; refusals are one line."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as error:  # argparse's refusals
        code = int(error.code)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


# --- frames -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frame():
    """Counts of graphene with silicon, 96 x 128 pixels."""
    specimen = specimens.graphene((19.2, 14.4), silicon=0.02, rotation=11.0, seed=3)
    expected = adf.expected_fraction(
        specimen.positions[:, :2], scattering.cross_section(specimen.numbers, "HAADF"), (96, 128), SAMPLING,
        probe.GaussianProbe(0.45),
    )  # fmt: skip
    counts = noise.detect(expected, dose.electrons_for_dose(3e6, SAMPLING), np.random.default_rng(1))
    return np.rint(counts).clip(0).astype(np.uint16)


def find(capsys, path, *words, model="graphene"):
    code, out, err = run(
        capsys, "find", path, "--model", model, "--output", path.parent / "out", "--json", *words
    )
    return code, json.loads(out) if out else None, err


def counts(answer):
    return {entry["frame"]: entry["counts"] for entry in answer["frames"]}


def test_a_pedestal_or_a_tiny_unit_changes_nothing(tmp_path, frame, capsys):
    np.save(tmp_path / "a.npy", frame)
    np.save(tmp_path / "pedestal.npy", frame.astype(np.int32) + 2**30)
    np.save(tmp_path / "high.npy", frame.astype(np.float64) + 2.0**41)
    np.save(tmp_path / "picoamps.npy", frame.astype(np.float32) * 1e-15)
    found = {}
    for name in ("a", "pedestal", "high", "picoamps"):
        code, answer, _ = find(capsys, tmp_path / f"{name}.npy", "--sampling", SAMPLING)
        assert code == 0
        found[name] = Atoms2D.read(answer["frames"][0]["files"]["csv"])
        assert found[name].counts() == found["a"].counts()
        assert found[name].positions == pytest.approx(found["a"].positions, abs=1e-3)
        assert found[name].covariance == pytest.approx(found["a"].covariance, rel=0.02, abs=1e-7)
    assert len(found["a"]) > 90
    assert found["pedestal"].intensity == pytest.approx(found["a"].intensity, rel=0.02)
    assert found["picoamps"].intensity == pytest.approx(found["a"].intensity * 1e-15, rel=0.02)


@pytest.mark.parametrize("bad", [0, 1])
def test_one_bad_frame_is_named_and_left_out(tmp_path, frame, capsys, bad):
    movie = np.stack([frame, frame[::-1], frame]).astype(np.float32)
    movie[bad] = 0
    np.save(tmp_path / "movie.npy", movie)
    code, answer, err = find(capsys, tmp_path / "movie.npy")
    assert code == 1
    assert counts(answer).keys() == {0, 1, 2} - {bad}
    assert all(entry["C"] > 90 for entry in counts(answer).values())
    assert answer["sampling"]["angstrom_per_px"] == pytest.approx([SAMPLING] * 2, rel=0.03)  # from the lattice
    assert answer["skipped"] == [bad]
    assert any(text.startswith(f"frame {bad}: The image is 0 everywhere") for text in answer["warnings"])
    assert f"frame {bad}: " in err
    movie[bad] = frame
    movie[bad, 4, 5] = np.nan
    np.save(tmp_path / "movie.npy", movie)
    code, answer, err = find(capsys, tmp_path / "movie.npy", "--sampling", SAMPLING)
    assert (code, answer["skipped"]) == (1, [bad])
    assert f"frame {bad}: The image has 1 pixels that are NaN" in err


def test_where_nothing_was_scanned_there_are_no_atoms(tmp_path, frame, capsys):
    _, whole, _ = find(capsys, sample(tmp_path / "whole.npy", frame), "--sampling", SAMPLING)
    every = Atoms2D.read(whole["frames"][0]["files"]["csv"])
    for name, value, part in (("half", 0, np.s_[48:]), ("left", int(frame.max()) + 9, np.s_[:, :70]),
                              ("block", 7, np.s_[20:70, 40:90])):  # fmt: skip
        cut, blank = frame.copy(), np.zeros(frame.shape, bool)
        cut[part], blank[part] = value, True
        code, answer, _ = find(capsys, sample(tmp_path / f"{name}.npy", cut), "--sampling", SAMPLING)
        atoms = Atoms2D.read(answer["frames"][0]["files"]["csv"])
        assert code == 0
        column, row = np.rint(atoms.positions_px).astype(int).T
        assert not blank[row, column].any()
        column, row = np.rint(every.positions_px).astype(int).T
        assert len(atoms) == pytest.approx((~blank[row, column]).sum(), abs=6)


def sample(path, image):
    np.save(path, image)
    return path


def test_two_detectors_write_two_sets_of_files(tmp_path, frame, capsys):
    sample_files.velox(tmp_path / "two.emd", {"HAADF": frame, "BF": frame[::-1]}, pixel=(0.015, 0.015))
    for name in ("HAADF", "BF"):
        code, answer, _ = find(capsys, tmp_path / "two.emd", "--dataset", name)
        assert (code, answer["dataset"]) == (0, name)
        assert json.loads((tmp_path / f"out/two_{name}_atoms.json").read_text())["dataset"] == name
    first, second = (Atoms2D.read(tmp_path / f"out/two_{name}_atoms.csv") for name in ("HAADF", "BF"))
    assert len(first) > 90
    assert len(second) == pytest.approx(len(first), abs=3)
    np.save(tmp_path / "two_BF.npy", frame)
    code, _, err = find(capsys, tmp_path / "two_BF.npy", "--sampling", SAMPLING)
    assert code == 2
    assert "atoms of another image called two_BF" in err


@pytest.mark.parametrize("output", ["a.npy", "a.npy/x", "a.npy/x/y"])
def test_an_output_that_is_a_file_is_refused_first(tmp_path, frame, capsys, output):
    np.save(tmp_path / "a.npy", frame)
    code, out, err = run(capsys, "find", tmp_path / "a.npy", "--model", "graphene", "--output", tmp_path / output)
    assert (code, out) == (2, "")
    assert "is a file" in err


@pytest.mark.parametrize("threshold", ["nan", "0", "1", "inf", "-0.5"])
def test_thresholds_that_are_no_probabilities_are_refused(tmp_path, frame, capsys, threshold):
    np.save(tmp_path / "a.npy", frame)
    code, _, err = run(capsys, "find", tmp_path / "a.npy", "--model", "graphene", f"--threshold={threshold}")
    assert code == 2
    assert "probability" in err


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    script = "import sys; from stem_ae.cli import main; sys.exit(main(['models', 'list']))"
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([sys.executable, "-c", script], stdout=write_end, stderr=subprocess.PIPE, timeout=100)
    os.close(write_end)
    assert done.stderr == b""


def test_what_nobody_foresaw_is_one_sentence_and_a_log(tmp_path, capsys, monkeypatch):
    log = tmp_path / "errors.log"
    monkeypatch.setenv("STEM_AE_LOG", str(log))
    monkeypatch.setattr("stem_ae.find.output_folder", lambda path: {}["surprise"])
    np.save(tmp_path / "a.npy", np.eye(20))
    code, _, err = run(capsys, "find", tmp_path / "a.npy", "--model", "graphene")
    assert code == 1
    assert "KeyError: 'surprise'" in err
    assert str(log) in err
    assert err.count("\n") == 1
    assert "Traceback" in log.read_text()


# --- tables of atoms --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def atoms():
    """Atoms of graphene, every bond 1.42 Å."""
    xy, names = specimens.graphene((19.2, 14.4), silicon=0.02, seed=3).columns()
    labels = np.array([("C", "Si").index(name) for name in names])
    covariance = np.tile([[2e-4, 3e-5], [3e-5, 4e-4]], (len(xy), 1, 1))
    return Atoms2D(
        xy, covariance, labels, ("C", "Si"), 0.98 * np.eye(2)[labels] + 0.01, np.full(len(xy), 100.0), (96, 128), 0.15
    )


def same(first, second, tolerance=1e-12):
    assert first.symbols == second.symbols
    for name in ("positions", "covariance", "probabilities", "intensity"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), atol=tolerance)


def test_columns_of_a_table_are_taken_by_their_names(tmp_path, atoms):
    lines = atoms.write(tmp_path / "a.csv").read_text().splitlines()
    order = [2, 5, 0, 8, 1, 3, 7, 4, 6]
    moved = [",".join(line.split(",")[k] for k in order) for line in lines[1:]]
    (tmp_path / "reordered.csv").write_text("\n".join([lines[0], *moved, "", "  "]))
    same(Atoms2D.read(tmp_path / "reordered.csv"), atoms)
    (tmp_path / "bom.csv").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    same(Atoms2D.read(tmp_path / "bom.csv"), atoms)
    # What a table program makes of it where ; parts cells and numbers have commas.
    quoted = ['"' + lines[0].replace('"', '""') + '"' + ";" * 8]
    rows = [line.replace(",", ";").replace(".", ",") for line in lines[1:]]
    (tmp_path / "german.csv").write_text("\n".join(quoted + rows))
    same(Atoms2D.read(tmp_path / "german.csv"), atoms)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [("x_angstrom", "nan", "line 5: its position is not finite"), ("y_angstrom", "inf", "line 5: its position"),
     ("var_x", "-0.001", "line 5: its covariance is not possible"), ("cov_xy", "1", "line 5: its covariance"),
     ("var_y", "nan", "line 5: its covariance is not finite"), ("intensity", "bright", "line 5: intensity is 'bright'"),
     ("p_C", "-3", "line 5: its probabilities"), ("species", "Xx", "line 5: the class 'Xx'")],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused_with_their_line(tmp_path, atoms, capsys, column, value, words):
    lines = atoms.write(tmp_path / "a.csv").read_text().splitlines()
    cells = lines[4].split(",")
    cells[lines[1].split(",").index(column)] = value
    (tmp_path / "a.csv").write_text("\n".join([*lines[:4], ",".join(cells), *lines[5:]]))
    code, _, err = run(capsys, "build", tmp_path / "a.csv", "-o", tmp_path / "x.json", "--variants", 2)
    assert code == 2
    assert words in err


def test_what_ase_makes_of_our_extended_xyz_is_read(tmp_path, atoms):
    written = ase.io.read(atoms.write(tmp_path / "atoms.extxyz"))
    ase.io.write(tmp_path / "subset.extxyz", written[:40])
    same(Atoms2D.read(tmp_path / "subset.extxyz"), atoms[:40], tolerance=1e-7)
    # Whoever writes other columns first is understood too.
    ase.io.write(tmp_path / "moved.extxyz", written, columns=["label_name", "probabilities", "symbols", "intensity",
                                                             "positions", "covariance"])  # fmt: skip
    same(Atoms2D.read(tmp_path / "moved.extxyz"), atoms, tolerance=1e-7)


@pytest.mark.parametrize("count", [10**11, 999, -3])
def test_more_atoms_than_there_are_lines_are_refused_at_once(tmp_path, atoms, count):
    lines = atoms.write(tmp_path / "a.xyz").read_text().splitlines()
    (tmp_path / "a.xyz").write_text("\n".join([str(count), *lines[1:]]))
    for reader in (Atoms2D.read, read):
        with pytest.raises(StemAeError, match=r"states -?\d+ atoms"):
            reader(tmp_path / "a.xyz")
    (tmp_path / "a.xyz").write_text("\n".join(["5", *lines[1:]]))
    with pytest.raises(StemAeError, match="more atoms are there than stated"):
        Atoms2D.read(tmp_path / "a.xyz")


def test_atoms_of_an_image_are_no_structure(tmp_path, atoms, capsys):
    for name, path in (("ours", atoms.write(tmp_path / "a.extxyz")), ("ASE's", tmp_path / "b.extxyz")):
        if not path.exists():
            ase.io.write(path, ase.io.read(tmp_path / "a.extxyz"))
        code, _, err = run(capsys, "simulate", "relax", path, "--queue", tmp_path / "queue")
        assert (code, "stem-ae build" in err) == (2, True), name


@pytest.mark.parametrize("report", ["x", 5, {"provenance": 5}, {"frame": "x", "calibration": 1}])
def test_a_strange_report_in_a_structure_is_dropped(tmp_path, report):
    copper = ase.build.bulk("Cu", cubic=True)
    copper.info["stem_ae"] = report
    ase.io.write(tmp_path / "a.extxyz", copper)
    assert "stem_ae" not in read(tmp_path / "a.extxyz").info
    queue = Queue.open(tmp_path / "queue")
    assert queue.submit(simulate.Relax("emt"), copper).calculation.input["provenance"].keys() <= {"hashes"}


def test_groups_of_equal_brightness_are_not_iodine(tmp_path, atoms):
    names = ("I1", "I2")
    grouped = dataclasses.replace(atoms, species=names)
    path = grouped.write(tmp_path / "a.extxyz")
    assert set(ase.io.read(path).symbols) == {"X"}
    assert Atoms2D.read(path).symbols == grouped.symbols
    iodine = dataclasses.replace(atoms, species=("I", "Pb")).write(tmp_path / "b.extxyz")
    assert set(ase.io.read(iodine).symbols) == {"I", "Pb"}


def test_positions_in_pixels_are_called_so(tmp_path, atoms):
    text = dataclasses.replace(atoms, sampling=None).write(tmp_path / "a.csv").read_text(encoding="utf-8")
    assert text.splitlines()[1].split(",")[1:3] == ["x_px", "y_px"]


def test_numbers_with_commas_between_commas_are_refused(tmp_path, atoms):
    lines = atoms.write(tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    several = [lines[1] + ",x_angstrom", *(line + ",1" for line in lines[2:])]
    decimal = [lines[1], *(line.replace(".", ",") for line in lines[2:])]
    far = lines[2].split(",")
    far[1] = "1e6"
    for name, changed, words in (
        ("a", decimal, "line 3 has"), ("b", several, "several columns x_angstrom"),
        ("c", [lines[1], ",".join(far), *lines[3:]], "line 3: its position is outside the image"),
    ):  # fmt: skip
        (tmp_path / f"{name}.csv").write_text("\n".join([lines[0], *changed]), encoding="utf-8")
        with pytest.raises(StemAeError, match=words):
            Atoms2D.read(tmp_path / f"{name}.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.extxyz", "s.json", "POSCAR"])
def test_a_full_disk_leaves_the_older_file(tmp_path, atoms, name):
    import resource

    path = tmp_path / name
    crystal = ase.build.bulk("Cu", cubic=True).repeat(2)
    write = (lambda: atoms.write(path)) if name.startswith("a") else (lambda: write_structure(crystal, path))
    write()
    older = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # no file may be longer: writing fails as on a full disk
    try:
        with pytest.raises(StemAeError, match=f"Cannot write .*{name}"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == older
    assert os.listdir(tmp_path) == [name]


def test_nothing_far_from_the_structure_is_meant(tmp_path, atoms, capsys):
    path = atoms.write(tmp_path / "a.csv")
    for words in (["--remove", "1e6", "3"], ["--adsorb", "H", "top", "--at", "9", "1e6"]):
        code, _, err = run(capsys, "build", path, "-o", tmp_path / "s.json", *words)
        assert (code, "nearest" in err, (tmp_path / "s.json").exists()) == (2, True, False)
    code, _, err = run(capsys, "build", path, "-o", tmp_path)
    assert (code, "is a folder" in err) == (2, True)
    with pytest.raises(StemAeError, match="two atoms in one place"):
        structure.Material("x", {"C": (("C", 0.0), ("C", 0.1))}, spacing=1.42)


def test_positions_in_another_unit_are_refused_with_the_unit(atoms):
    for factor, words in ((0.1, "in nm instead of Å"), (100, "in pm"), (1 / 0.529, "in Bohr radii"), (1.4, "sampling")):
        moved = Atoms2D(
            atoms.positions * factor, atoms.covariance * factor**2, atoms.labels, atoms.species, atoms.probabilities,
            atoms.intensity, atoms.shape, 0.15 * factor,
        )  # fmt: skip
        with pytest.raises(StemAeError, match=words):
            structure.build(moved)
    slightly = Atoms2D(
        atoms.positions * 1.1, atoms.covariance, atoms.labels, atoms.species, atoms.probabilities, atoms.intensity,
        atoms.shape, 0.165,
    )  # fmt: skip
    assert structure.build(slightly).info["stem_ae"]["calibration"]["scale"] == pytest.approx(1 / 1.1, abs=2e-3)


@pytest.mark.parametrize(
    "words",
    [words.split() for words in (
        "--vacuum inf", "--vacuum nan", "--remove nan nan", "--at nan 0", "--confidence nan", "--disc 9 7 nan",
        "--disc 9 7 -1", "--region nan 0 1 1", "--patches 0", "--variants=-1", "--cell nan 1 1",
        "--size nan --patches 2", "--seed=-1 --variants 1",
    )],
)  # fmt: skip
def test_numbers_that_are_none_do_not_build(tmp_path, atoms, capsys, words):
    path = atoms.write(tmp_path / "a.csv")
    code, _, err = run(capsys, "build", path, "-o", tmp_path / "x.json", *words)
    assert code == 2, err


def test_a_bad_description_beside_the_atoms_is_said(tmp_path, atoms, capsys):
    path = atoms.write(tmp_path / "a.csv")
    for text in ("{not json", "[1, 2]", "[" * 100_000, "\xff"):
        path.with_suffix(".json").write_text(text, encoding="latin-1")
        code, _, err = run(capsys, "build", path, "-o", tmp_path / "x.extxyz")
        assert code == 2
        assert "a.json" in err


# --- crystals ---------------------------------------------------------------------------------------------------------


def strontium_titanate():
    return ase.Atoms("SrTiO3", scaled_positions=[[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
                     cell=[3.905] * 3, pbc=True)  # fmt: skip


def test_atoms_outside_the_cell_are_those_inside():
    inside = strontium_titanate()
    whole = len(from_ase(inside, (40.0, 40.0)))
    for shift in ([5, 0, 0], [0, 0, 100], [-7, 300, 2]):
        moved = inside.copy()
        moved.positions[1:] += np.array(shift) @ inside.cell.array
        first, second = (from_ase(a, (40.0, 40.0)) for a in (inside, moved))
        assert len(second) == whole
        distance, nearest = cKDTree(first.positions).query(second.positions)
        assert distance.max() < 1e-6
        assert (first.numbers[nearest] == second.numbers).all()


CIF = """data_x
_cell_length_a 3.905
_cell_length_b 3.905
_cell_length_c 3.905
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_occupancy
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
"""


def cif(path, *sites):
    path.write_text(CIF + "\n".join(f"{element}{k} {element} {share} {where}" for k, (element, share, where)
                                    in enumerate(sites)) + "\n")  # fmt: skip
    return path


@pytest.mark.parametrize("lanthanum", [0.5, 0.3])
def test_mixed_sites_are_drawn_by_their_occupancies(tmp_path, lanthanum):
    path = cif(tmp_path / "a.cif", ("La", lanthanum, "0 0 0"), ("Sr", 1 - lanthanum, "0 0 0"), ("Mn", 1, ".5 .5 .5"),
               ("Au", 0.05, ".25 .25 .5"), ("Ag", 0, ".75 .75 .5"), ("O", 1, ".5 .5 0"))  # fmt: skip
    material = crystal(read(path, partial=True), (0, 0, 1))
    assert set(material.species) == {"La", "Sr", "Mn", "Au"}
    rng = np.random.default_rng(0)
    numbers = np.concatenate([from_ase(read(path, partial=True), (60.0, 60.0), rng=rng).numbers for _ in range(8)])
    la, sr, au, ag = (int((numbers == z).sum()) for z in (57, 38, 79, 47))
    assert ag == 0
    assert la / (la + sr) == pytest.approx(lanthanum, abs=4 * np.sqrt(0.25 / (la + sr)))
    assert au / (la + sr) == pytest.approx(0.05, abs=0.02)
    with pytest.raises(StemAeError, match=r"only partly occupied \(La"):
        read(path)


def test_an_atom_of_occupancy_zero_is_not_there(tmp_path):
    path = cif(tmp_path / "a.cif", ("Sr", 1, "0 0 0"), ("Ti", 1, ".5 .5 .5"), ("Au", 0, ".25 .25 .5"))
    assert read(path).get_chemical_symbols() == ["Sr", "Ti"]
    assert crystal(read(path, partial=True), (0, 0, 1)).species == ("Sr", "Ti")
    cif(path, ("Sr", 0.8, "0 0 0"), ("La", 0.8, "0 0 0"))
    with pytest.raises(StemAeError, match=r"add up to 1\.6"):
        crystal(read(path, partial=True), (0, 0, 1))


def test_several_structures_are_chosen_from(tmp_path, capsys):
    frames = [ase.build.molecule(name, vacuum=4) for name in ("H2O", "CH4", "NH3")]
    ase.io.write(tmp_path / "a.extxyz", frames)
    (tmp_path / "b.cif").write_text(
        cif(tmp_path / "c.cif", ("Sr", 1, "0 0 0")).read_text().replace("data_x", "data_first")
        + cif(tmp_path / "c.cif", ("Ti", 1, "0 0 0")).read_text().replace("data_x", "data_second")
    )
    with pytest.raises(StemAeError, match=r"holds 3 structures.*0: H2O; 1: CH4; 2: H3N"):
        read(tmp_path / "a.extxyz")
    assert str(read(tmp_path / "a.extxyz", "1").symbols) == str(frames[1].symbols)
    assert str(read(tmp_path / "a.extxyz", -1).symbols) == str(frames[2].symbols)
    assert str(read(tmp_path / "b.cif", "second").symbols) == "Ti"
    with pytest.raises(StemAeError, match="no structure 'third'"):
        read(tmp_path / "b.cif", "third")
    words = ["simulate", "relax", tmp_path / "a.extxyz", "--export", "cp2k", "-o", tmp_path / "out"]
    assert run(capsys, *words)[0] == 2
    assert run(capsys, *words, "--index", "0")[0] == 0


def test_the_json_that_ase_writes_is_read(tmp_path):
    atoms = ase.build.molecule("C6H6", vacuum=4)
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    ase.io.write(tmp_path / "fix3.json", atoms)
    again = read(tmp_path / "fix3.json")
    assert again.positions == pytest.approx(atoms.positions)
    assert again.constraints[0].index.tolist() == [0, 1, 2]


def broken(change):
    atoms = ase.build.molecule("C6H6", vacuum=5)
    change(atoms)
    return atoms


IMPOSSIBLE = {
    "nan": (lambda a: a.positions.__setitem__(0, np.nan), r"atoms without a position \(counted from 0: 0 C\)"),
    "dummy": (lambda a: a.numbers.__setitem__(3, 0), r"no element \(counted from 0: 3 X\)"),
    "coincident": (lambda a: a.positions.__setitem__(5, a.positions[0]), r"in one place: \d \(C\) and \d \(C\)"),
    "flat": (lambda a: (a.set_cell([9, 9, 0.1]), a.set_pbc(True)), "only 0.1 Å thick"),
    "in one plane": (lambda a: (a.set_cell([[9, 0, 0], [0, 9, 0], [4, 4, 0]]), a.set_pbc(True)), "a cell that is flat"),
    "parallel": (lambda a: (a.set_cell([[9, 0, 0], [0, 9, 0], [9, 0, 1e-9]]), a.set_pbc(True)), "a cell that is flat"),
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_structures_that_cannot_be_are_refused(tmp_path, kind):
    change, words = IMPOSSIBLE[kind]
    atoms = broken(change)
    ase.io.write(tmp_path / "a.extxyz", atoms)
    with pytest.raises(StemAeError, match=words):
        read(tmp_path / "a.extxyz")
    for code in inputs.CODES:
        with pytest.raises(StemAeError, match=words):
            inputs.export(simulate.Relax(), atoms, code, tmp_path / "x")
    with pytest.raises(StemAeError, match=words):
        simulate.Relax(engine="emt").check(atoms)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("number", [-1, 119, 255, 2**31])
def test_numbers_of_no_element_are_refused_in_every_sentence(tmp_path, number):
    atoms = broken(lambda a: a.numbers.__setitem__(3, number))
    ase.io.write(tmp_path / "one.traj", atoms)
    ase.io.write(tmp_path / "two.traj", [broken(lambda a: None), atoms])
    with pytest.raises(StemAeError, match=rf"no element \(counted from 0: 3 number {number}\)"):
        read(tmp_path / "one.traj")
    with pytest.raises(StemAeError, match="holds 2 structures: choose one"):
        read(tmp_path / "two.traj")
    assert len(read(tmp_path / "two.traj", 0)) == 12
    with pytest.raises(StemAeError, match="no element"):
        read(tmp_path / "two.traj", 1)


@pytest.mark.parametrize("stated", [{"0": {"C": "x"}}, {"0": {"Qq": 1.0}}, {"0": [1.0]}, {"0": {"C": None}}, ["C"], 7])
def test_occupancies_that_are_none_are_refused(stated):
    atoms = broken(lambda a: None)
    atoms.info["occupancy"] = stated
    atoms.set_array("spacegroup_kinds", np.zeros(len(atoms), int))
    with pytest.raises(StemAeError, match="occupancies of this structure cannot be read"):
        occupancy(atoms)


@pytest.mark.parametrize("spacing", [1e200, 1e-200, float("nan"), 0.0])
def test_a_spacing_that_cannot_be_is_refused(spacing):
    sheet = graphene((30.0, 30.0), silicon=0.0).positions[:, :2]
    with pytest.raises(StemAeError, match="The spacing of a material's columns is"):
        structure.calibrate(sheet, np.full((len(sheet), 3), 1e-6), spacing)


def test_an_area_that_fills_the_memory_is_refused():
    for extent in ((1e200, 1.0), (1e5, 1e5)):
        with pytest.raises(StemAeError, match="has too many atoms"):
            graphene(extent)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_a_cif_of_an_old_program_is_read(tmp_path, encoding):
    ase.io.write(tmp_path / "a.cif", ase.build.bulk("NaCl", "rocksalt", 5.64))
    text = (tmp_path / "a.cif").read_text(encoding="utf-8")
    (tmp_path / "b.cif").write_text(text + "# Müller, Ångström\n", encoding=encoding)
    assert read(tmp_path / "b.cif").symbols.formula == read(tmp_path / "a.cif").symbols.formula


@pytest.mark.parametrize(
    ("name", "text"),
    [("POSCAR", "x\n1.0\n3 0 0\n0 3 0\n0 0 3\nC\n100000000000\nDirect\n0 0 0\n"),
     ("a.cube", "x\ny\n99999999999 0 0 0\n1 1 0 0\n1 0 1 0\n1 0 0 1\n"), ("a.gen", "99999999999 C\nC\n1 1 0 0 0\n"),
     ("a.cif", "data_\nloop_\n_atom_site_label"), ("a.cif", "\x00\xff" * 50), ("a.json", "{" * 5000), ("a.json", "[1]"),
     ("a.xyz", "2\n\nC 0 0\nC 1 1\n"), ("a.pdb", "ATOM" * 99), ("a.traj", "- of Ulm"), ("a.unheard", "?")],
)  # fmt: skip
def test_broken_structures_are_one_sentence(tmp_path, capsys, name, text):
    (tmp_path / name).write_text(text, encoding="latin-1")
    path = tmp_path / name
    for words in (["train", path, "--output", tmp_path / "m.safetensors"], ["simulate", "relax", path]):
        code, _, err = run(capsys, *words)
        assert code == 2
        assert err.count("\n") == 1


# --- exports ----------------------------------------------------------------------------------------------------------


def left_handed():
    atoms = ase.build.graphene(size=(3, 3, 1), vacuum=6)
    atoms.pbc = True
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    return atoms


def test_a_left_handed_cell_becomes_right_handed(tmp_path):
    atoms = left_handed()
    folder = inputs.export(simulate.Relax(), atoms, "vasp", tmp_path, kpoints=(3, 5, 1))
    written = ase.io.read(folder / "POSCAR")
    assert np.linalg.det(written.cell.array) > 0
    assert written.cell.array == pytest.approx(atoms.cell.array[[1, 0, 2]])
    assert written.positions == pytest.approx(atoms.positions)
    assert (folder / "KPOINTS").read_text().splitlines()[3] == "5 3 1"
    final = written.positions + 0.01
    again = inputs.restore(folder, final, written.cell.array)
    assert again.cell.array == pytest.approx(atoms.cell.array)
    assert again.positions == pytest.approx(atoms.positions + 0.01)


def test_flags_go_with_the_vectors(tmp_path):
    box = ase.build.bulk("Cu", cubic=True) * (2, 1, 1)
    box.set_cell(box.cell.array[[1, 0, 2]])  # y, x, z
    box.set_constraint(ase.constraints.FixCartesian(range(8), mask=[True, False, False]))  # x is held
    lines = (inputs.export(simulate.Relax(), box, "vasp", tmp_path) / "POSCAR").read_text().splitlines()
    vectors = np.array([line.split() for line in lines[2:5]], float)
    along_x = int(np.argmax(vectors[:, 0]))
    flags = np.array([line.split()[3:] for line in lines[9:17]])
    assert (flags[:, along_x] == "F").all()
    assert (np.delete(flags, along_x, axis=1) == "T").all()


@pytest.mark.parametrize("code", ["vasp", "lammps"])
def test_atoms_outside_the_box_are_moved_in_and_come_back(tmp_path, code):
    atoms = ase.build.molecule("C6H6")
    atoms.set_cell([12, 12, 12])  # about the origin: half of it lies outside
    folder = inputs.export(simulate.Relax(), atoms, code, tmp_path)
    format_ = {"vasp": ("POSCAR", "vasp"), "lammps": ("data.lammps", "lammps-data")}[code]
    options = {"atom_style": "atomic"} if code == "lammps" else {}
    written = ase.io.read(folder / format_[0], format=format_[1], **options)
    assert written.positions.min() > 0
    assert written.positions.max() < 12
    assert inputs.restore(folder, written.positions).positions == pytest.approx(atoms.positions, abs=1e-9)
    atoms.set_cell([3, 12, 12])
    with pytest.raises(StemAeError, match="more than the cell"):
        inputs.export(simulate.Relax(), atoms, code, tmp_path)


def radical():
    atoms = ase.build.molecule("CH3", vacuum=5)
    atoms.set_initial_magnetic_moments([1, 0, 0, 0])
    return atoms


def test_charge_and_spin_are_written_or_refused(tmp_path):
    atoms = radical()
    assert "MAGMOM = 1 0 0 0" in _written(atoms, "vasp", "INCAR", tmp_path) or "MAGMOM = 0 0 0 1" in _written(
        atoms, "vasp", "INCAR", tmp_path
    )
    assert "tot_magnetization = 1" in _written(atoms, "espresso", "pw.in", tmp_path)
    assert "MULTIPLICITY 2" in _written(atoms, "cp2k", "cp2k.inp", tmp_path)
    assert "spinpol=True" in _written(atoms, "gpaw", "run.py", tmp_path)
    for code in ("dftb", "lammps"):
        with pytest.raises(StemAeError, match="unpaired"):
            _written(atoms, code, "", tmp_path)
    ion = ase.build.molecule("C6H6", vacuum=5)
    ion.set_initial_charges([1 / 6] * 6 + [0] * 6)
    assert "tot_charge = 1" in _written(ion, "espresso", "pw.in", tmp_path)
    assert "CHARGE 1" in _written(ion, "cp2k", "cp2k.inp", tmp_path)
    assert "Charge = 1" in _written(ion, "dftb", "dftb_in.hsd", tmp_path)
    assert "charge=1," in _written(ion, "gpaw", "run.py", tmp_path)
    with pytest.raises(StemAeError, match="POTCARs"):
        _written(ion, "vasp", "INCAR", tmp_path)
    for element, electrons in (("C", 4), ("H", 1)):
        (tmp_path / "pots" / element).mkdir(parents=True)
        (tmp_path / "pots" / element / "POTCAR").write_text(f"POMASS = 1; ZVAL = {electrons}.000\n")
    options = {"pseudopotentials": str(tmp_path / "pots")}
    assert "NELECT = 29" in _written(ion, "vasp", "INCAR", tmp_path, **options)
    ion.set_initial_charges([0.4] + [0] * 11)
    with pytest.raises(StemAeError, match="no whole number"):
        _written(ion, "espresso", "", tmp_path)


def _written(atoms, code, name, folder, task=None, **options):
    made = inputs.export(task or simulate.Relax(), atoms, code, folder / code, **options)
    return (made / name).read_text()


def test_isotopes_are_written_for_dynamics_or_refused(tmp_path):
    heavy = ase.build.molecule("CH4", vacuum=5)
    heavy.set_masses([12.011, *[2.014] * 4])
    md = simulate.MolecularDynamics()
    assert "H 2.0140" in _written(heavy, "espresso", "pw.in", tmp_path, md)
    assert "MASS 2.0140" in _written(heavy, "cp2k", "cp2k.inp", tmp_path, md)
    assert "2.0140  # H" in _written(heavy, "lammps", "data.lammps", tmp_path, md)
    assert "POMASS = 2.0140 12.0110" in _written(heavy, "vasp", "INCAR", tmp_path, md)
    assert "POMASS" not in _written(heavy, "vasp", "INCAR", tmp_path)
    heavy.set_masses([12.011, 1.008, *[2.014] * 3])
    with pytest.raises(StemAeError, match="isotopes side by side"):
        _written(heavy, "espresso", "pw.in", tmp_path, md)


@pytest.mark.parametrize(
    "options",
    [{"kpoints": (0, 1, 1)}, {"kpoints": (1, -3, 1)}, {"kpoints": (1, 1)}, {"kpoints": (1, 1, 10**6)},
     {"kpoints": (1, 1, np.nan)}, {"cutoff_ev": np.nan}, {"cutoff_ev": 0}, {"cutoff_ev": np.inf}, {"cutoff_ev": -400}],
)  # fmt: skip
def test_nonsense_grids_and_cutoffs_are_refused(tmp_path, options):
    with pytest.raises(StemAeError, match=r"k points|cutoff"):
        inputs.export(simulate.Relax(), left_handed(), "vasp", tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "task",
    [*(simulate.Relax(**{k: v}) for k, v in (("fmax", np.nan), ("fmax", np.inf), ("max_steps", 0), ("ripple", np.nan))),
     *(simulate.MolecularDynamics(**{k: v}) for k, v in (
         ("temperature", np.nan), ("temperature", np.inf), ("timestep", 1e6), ("damping", 0), ("seed", -1),
         ("steps", np.nan), ("thermostat", "fridge"),
     ))],
)  # fmt: skip
def test_nonsense_tasks_are_refused(task):
    with pytest.raises(StemAeError):
        task.check(ase.build.bulk("Cu", cubic=True))


def calculate(task, atoms, folder):
    code = run_folder(simulate.Calculation.create(folder, to_dict(task), atoms, {}).folder)
    return code, simulate.Calculation(folder).error()


def test_dynamics_that_fly_apart_do_not_finish(tmp_path):
    copper = ase.build.bulk("Cu", cubic=True) * (2, 2, 2)
    copper.positions[0] += [1.9, 0.3, 0.1]  # almost in its neighbour
    task = simulate.MolecularDynamics(temperature=300, steps=200, timestep=20, engine="emt", thermostat=None)
    code, sentence = calculate(task, copper, tmp_path / "a")
    assert code == 1
    assert "fly apart" in sentence


def test_a_lone_atom_has_no_temperature_and_two_have():
    with pytest.raises(StemAeError, match="no temperature"):
        simulate.MolecularDynamics(engine="emt").check(ase.Atoms("Cu", cell=[9] * 3))
    pair = ase.Atoms("Cu2", [[5, 5, 5], [7.2, 5, 5]], cell=[12] * 3)
    simulate.MolecularDynamics(engine="emt").check(pair)
    assert simulate.MolecularDynamics._degrees_of_freedom(pair) == 1
    assert simulate.MolecularDynamics._degrees_of_freedom(ase.build.molecule("CO2")) == 4
    assert simulate.MolecularDynamics._degrees_of_freedom(ase.build.molecule("H2O")) == 3


def test_two_atoms_keep_their_temperature(tmp_path):
    """One vibration, equipartition: the mean kinetic energy is that of one degree of freedom."""
    pair = ase.Atoms("Cu2", [[5, 5, 5], [7.2, 5, 5]], cell=[12] * 3)
    task = simulate.MolecularDynamics(temperature=300, steps=400, timestep=2, engine="emt", every=400)
    assert calculate(task, pair, tmp_path / "a") == (0, "")
    temperatures = simulate.Calculation(tmp_path / "a").history()["temperature"]
    assert np.isfinite(temperatures).all()
    assert temperatures.max() > 10
