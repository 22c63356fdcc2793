"""Damaged files and nonsense numbers for every reader, command and public function: what may happen is one sentence.

Run as a program: ``python tests/fuzzing.py KIND COUNT [GB]`` tries so many inputs of a kind and prints as JSON
what came of it: how many were tried and refused, which failed and how, the slowest in seconds, the peak of memory
in GB. ``GB`` limits the address space.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import json
import os
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import sample_files

from stem_ae import Atoms2D, StemAeError, imageio, structure
from stem_ae.cli import main
from stem_ae.structure.files import read as read_structure
from stem_ae.structure.files import write as write_structure

HANG_S = 10

NUMBERS = [0, -1, 1, 2, 0.5, 3, 10, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"), 2**31, 2**63, 10**30,
           -0.0, 0.1, 7.5, 1e-9, 1e9]  # fmt: skip
WORDS = ["", " ", "nan", "-1", "0", "1e999", "-inf", "99999999999", "1.5", "X", "Xx", "C", "../../x", "\x1b[31m", "Å",
         "'", '"', "[", "{", "null", "true", "a" * 5000, "%s", "$(x)", "-", "--", "a/b", "1,2", ";", "1;2"]  # fmt: skip
UNITS = ["nm", "1/nm", "eV", "", None, "furlong", "Å", "s", "mrad", "px", "$\\AA$", "µm", "x" * 300, "nan"]
DTYPES = ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", ">f4", ">i2", "c8", "S3", "U2", "M8[s]", "V5", "longdouble"]


class Hang(BaseException):
    """Something took too long."""


def _alarm(*_):
    raise Hang


class Report:
    """What came of the inputs."""

    def __init__(self):
        self.outcomes = collections.Counter()
        self.failures: list[str] = []
        self.slowest = 0.0

    def attempt(self, described, action):
        """Try one input: anything but an answer or a StemAeError is a failure."""
        signal.signal(signal.SIGALRM, _alarm)
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, HANG_S)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                action()
            self.outcomes["answered"] += 1
        except StemAeError as error:
            self.outcomes["refused"] += 1
            if "\n" in str(error) or not str(error).strip():
                self._fail(described, f"no sentence: {str(error)!r}")
        except Hang:
            self._fail(described, f"no end within {HANG_S} s: {traceback.format_exc(limit=-12)}")
        except Exception:
            self._fail(described, traceback.format_exc(limit=-6))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.slowest = max(self.slowest, time.perf_counter() - start)

    def _fail(self, described, how):
        self.outcomes["failed"] += 1
        self.failures.append(f"{described}\n{how}")

    def as_dict(self):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        return {
            "tried": sum(self.outcomes.values()), **self.outcomes, "slowest_s": round(self.slowest, 2),
            "peak_gb": round(peak, 2), "failures": self.failures,
        }  # fmt: skip


# --- damage -----------------------------------------------------------------------------------------------------------


def damaged(content: bytes, rng) -> bytes:
    """Return a file's bytes with one to three kinds of damage."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        content = rng.choice(_DAMAGES)(bytearray(content), rng)
    return bytes(content)


def _place(content, rng):
    # Headers are where it matters.
    return rng.randrange(min(len(content), rng.choice([64, 512, 4096, 1 << 30])) or 1)


def _cut(content, rng):
    return content[: rng.randrange(len(content) + 1)]


def _flip(content, rng):
    for _ in range(rng.choice([1, 1, 4, 30])):
        if content:
            content[_place(content, rng)] ^= 1 << rng.randrange(8)
    return content


def _overwrite(content, rng):
    width = rng.choice([1, 2, 4, 8])
    value = rng.choice([0, 1, 2**31 - 1, 2**63 - 1, 2**64 - 1, rng.getrandbits(63), 255, 65535, 100_000])
    at = _place(content, rng)
    content[at : at + width] = (value % 256**width).to_bytes(width, rng.choice(["little", "big"]))
    return content


def _insert(content, rng):
    at = _place(content, rng)
    content[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice([1, 3, 64])))
    return content


def _remove(content, rng):
    at = _place(content, rng)
    del content[at : at + rng.choice([1, 4, 100])]
    return content


def _blank(content, rng):
    at = _place(content, rng)
    length = rng.choice([4, 64, 1000])
    content[at : at + length] = bytes(len(content[at : at + length]))
    return content


def _token(content, rng):
    words = bytes(content).split(b" ")
    words[rng.randrange(len(words))] = rng.choice(WORDS).encode()
    return bytearray(b" ".join(words))


def _line(content, rng):
    lines = bytes(content).split(b"\n")
    k, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    change = rng.choice(["drop", "swap", "double", "word"])
    if change == "drop":
        del lines[k]
    elif change == "double":
        lines.insert(k, lines[other])
    elif change == "swap":
        lines[k], lines[other] = lines[other], lines[k]
    else:
        lines[k] = rng.choice(WORDS).encode()
    return bytearray(b"\n".join(lines))


_DAMAGES = [_cut, _flip, _flip, _overwrite, _overwrite, _insert, _remove, _blank, _token, _line]


@functools.cache
def samples() -> dict[str, bytes]:
    """Return valid files of every kind by their names; folders are left out."""
    folder = pathlib.Path(tempfile.mkdtemp())
    result = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, write in {**sample_files.CALIBRATED, **sample_files.PLAIN}.items():
            write(folder / name)
            if (folder / name).is_file():
                result[name] = (folder / name).read_bytes()
        with contextlib.suppress(ImportError):
            for name in ("a.dm3", "a.dm4"):
                sample_files.digital_micrograph(folder / name)
                result[name] = (folder / name).read_bytes()
    shutil.rmtree(folder)
    return result


@functools.cache
def found() -> Atoms2D:
    from stem_ae.imaging import specimens

    xy, names = specimens.graphene((19.2, 14.4), silicon=0.02, seed=3).columns()
    labels = np.array([("C", "Si").index(name) for name in names])
    covariance = np.tile([[2e-4, 3e-5], [3e-5, 4e-4]], (len(xy), 1, 1))
    return Atoms2D(
        xy, covariance, labels, ("C", "Si"), 0.98 * np.eye(2)[labels] + 0.01, np.full(len(xy), 100.0), (96, 128), 0.15
    )


@functools.cache
def tables() -> dict[str, bytes]:
    folder = pathlib.Path(tempfile.mkdtemp())
    result = {name: found().write(folder / name).read_bytes() for name in ("a.csv", "a.xyz", "a.extxyz")}
    shutil.rmtree(folder)
    return result


@functools.cache
def sheet():
    return structure.build(found(), structure.around(9, 7, 5))


@functools.cache
def structures() -> dict[str, bytes]:
    import ase.build
    import ase.io

    folder = pathlib.Path(tempfile.mkdtemp())
    crystal = ase.build.bulk("NaCl", "rocksalt", 5.64, cubic=True)
    names = ["a.json", "a.extxyz", "a.cif", "POSCAR", "a.xsf", "a.gen", "a.pdb", "a.traj", "a.in", "a.cube", "a.xyz"]
    result = {}
    for name in names:
        with contextlib.suppress(StemAeError):
            write_structure(crystal, folder / name)
            result[name] = (folder / name).read_bytes()
    ase.io.write(folder / "db.json", crystal, format="json")
    result["db.json"] = (folder / "db.json").read_bytes()
    result["mixed.cif"] = result["a.cif"].replace(b"1.0000", b"0.5000")
    write_structure(sheet(), folder / "sheet.json")
    result["sheet.json"] = (folder / "sheet.json").read_bytes()
    result["material.json"] = json.dumps(
        {"name": "BN", "columns": {"B": [["B", 0]], "N": [["N", 0.1]]}, "spacing": 1.45}
    ).encode()
    shutil.rmtree(folder)
    return result


# --- kinds of input ---------------------------------------------------------------------------------------------------


def odd_array(rng):
    """Return an array of a strange shape, type or content."""
    shape = tuple(rng.choice([0, 1, 2, 3, 8, 12, 24]) for _ in range(rng.randint(0, 5)))
    kind = np.dtype(rng.choice(DTYPES))
    array = np.zeros(shape, kind)
    if kind.kind in "iuf" and array.size:
        seeded = np.random.default_rng(rng.randrange(1000))
        array = seeded.integers(0, 100, shape).astype(kind)
        if kind.kind == "f" and rng.random() < 0.3:
            array.flat[0] = rng.choice([np.nan, np.inf, -np.inf])
    return array


def nasty(rng, depth=0):
    """Return what JSON can hold and nobody expects."""
    choice = rng.randrange(6)
    if choice == 0 and depth < 3:
        return [nasty(rng, depth + 1) for _ in range(rng.randrange(4))]
    if choice == 1 and depth < 3:
        keys = ["spatial_calibrations", "scale", "units", "datum_dimension_count", "data_source", "field_of_view_x"]
        return {rng.choice(keys): nasty(rng, depth + 1) for _ in range(rng.randrange(3))}
    if choice == 2:
        return rng.choice(WORDS)
    return rng.choice([*NUMBERS, None, True])


def image_file(folder, rng):
    """Write an image file that is damaged, or whole and strange, and return its path."""
    choice = rng.randrange(10)
    if choice < 6:
        name = rng.choice(sorted(samples()))
        other = "x." + rng.choice(["h5", "tif", "npy", "dm3", "emd", "mrc", "png"])
        path = folder / (name if rng.random() < 0.9 else other)
        content = samples()[name]
        path.write_bytes(damaged(content, rng) if rng.random() < 0.95 else content)
        return path
    data = odd_array(rng)
    if choice == 6:
        path = folder / "a.npy"
        np.save(path, data)
        if rng.random() < 0.7:
            path.with_suffix(".json").write_text(json.dumps(swift_with(rng, data)))
    elif choice == 7:
        path = folder / rng.choice(["a.ndata1", "a.h5", "a.nhdf"])
        writer = {"ndata1": sample_files.ndata, "h5": sample_files.swift_h5, "nhdf": sample_files.nhdf}[path.suffix[1:]]
        described = {"spatial_calibrations": [], **swift_with(rng, data)}
        with contextlib.suppress(TypeError, ValueError, OSError):  # what the format itself cannot hold
            writer(path, data, described)
    elif choice == 8:
        path = folder / "a.hspy"
        navigate = [rng.random() < 0.5 for _ in range(data.ndim)]
        with contextlib.suppress(Exception):
            sample_files.rosettasciio(
                "hspy", path, data, [rng.choice(NUMBERS) for _ in range(data.ndim)],
                [rng.choice(UNITS) for _ in range(data.ndim)], navigate, rng.choice(["HAADF", "", "/", "0"]),
            )  # fmt: skip
    else:
        import tifffile

        path = folder / "a.tif"
        with contextlib.suppress(Exception):
            options = {"unit": rng.choice([u for u in UNITS if u])}
            resolution = (rng.choice([0, 1, 9]), 7)
            tifffile.imwrite(path, data, imagej=rng.random() < 0.5, metadata=options, resolution=resolution)
    return path


def swift_with(rng, data):
    """Return a description of Swift's, in which something is wrong."""
    described = sample_files.swift(
        [rng.choice([u for u in UNITS if u is not None]) for _ in range(data.ndim)],
        [rng.choice(NUMBERS) for _ in range(data.ndim)], rng.randrange(4), rng.randrange(4), rng.random() < 0.3,
    )  # fmt: skip
    if rng.random() < 0.5:
        described[rng.choice(sorted(described))] = nasty(rng)
    return described


def try_images(rng, folder, report):
    path = image_file(folder, rng)
    dataset = rng.choice([None, None, None, "0", "HAADF", "nothing"])
    report.attempt(f"imageio.read {path.name} {_kept(path)}", lambda: imageio.read(path, dataset=dataset))


def try_tables(rng, folder, report):
    name = rng.choice(sorted(tables()))
    path = folder / name
    path.write_bytes(damaged(tables()[name], rng))
    report.attempt(f"Atoms2D.read {name} {_kept(path)}", lambda: Atoms2D.read(path))


def try_structures(rng, folder, report):
    name = rng.choice(sorted(structures()))
    path = folder / name
    path.write_bytes(damaged(structures()[name], rng))
    if name == "material.json":
        report.attempt(f"Material.read {_kept(path)}", lambda: structure.Material.read(path))
        return

    def use():
        from stem_ae.elit.materials import crystal

        partial = rng.random() < 0.5
        atoms = read_structure(path, rng.choice([None, None, 0, "-1", "x"]), partial=partial)
        if partial:
            zone = [rng.choice([0, 1, 1, -1, 2, 100]) for _ in range(3)]
            crystal(atoms, tuple(zone))

    report.attempt(f"structure {name} {_kept(path)}", use)


def option(rng, right, *others):
    """Return a right value for an option, or something else."""
    return right if rng.random() < 0.5 else str(rng.choice([*others, *NUMBERS, *WORDS]))


def try_commands(rng, folder, report):
    words = _command(rng, folder)
    described = "stem-ae " + " ".join(map(repr, words))

    def run():
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(words)
            except SystemExit as error:
                code = error.code
        said = err.getvalue()
        if code not in (0, 1, 2):
            raise AssertionError(f"exit code {code}")
        if "Traceback" in said or "failed unexpectedly" in said:
            raise AssertionError(f"{said}\n{_end_of_log()}")
        if code == 2:
            raise StemAeError(said.splitlines()[-1] if said.strip() else "")

    report.attempt(described, run)


def _end_of_log():
    log = pathlib.Path(os.environ["STEM_AE_LOG"])
    return log.read_text()[-2500:] if log.exists() else ""


def _command(rng, folder):
    kind = rng.choice(["find", "find", "build", "build", "build", "simulate", "simulate", "train", "models", "jobs"])
    if kind == "find":
        path = image_file(folder, rng)
        words = ["find", str(path), "--model", option(rng, "graphene", "mos2"), "--output", str(folder / "out")]
        for name, right in (("--sampling", "0.15"), ("--threshold", "0.5"), ("--frame", "0"), ("--dataset", "HAADF")):
            if rng.random() < 0.3:
                words += [f"{name}={option(rng, right)}"]
        return _clean(words)
    if kind == "build":
        name = rng.choice(sorted(tables()))
        path = folder / name
        path.write_bytes(tables()[name] if rng.random() < 0.7 else damaged(tables()[name], rng))
        if rng.random() < 0.1:
            path.with_suffix(".json").write_text(json.dumps(nasty(rng)))
        output = folder / rng.choice(["x.json", "x.extxyz", "x.cif", "x.what", "POSCAR"])
        words = ["build", str(path), "-o", str(output)]
        for name, rights in (("--disc", "9 7 5"), ("--region", "2 2 15 12"), ("--vacuum", "8"), ("--confidence", "0.5"),
                             ("--cell", "30 30 15"), ("--variants", "1"), ("--patches", "1"), ("--size", "8"),
                             ("--remove", "9 7"), ("--at", "9 7"), ("--seed", "1"), ("--calibration", "affine"),
                             ("--material", str(path)), ("--adsorb", "Cr hollow"), ("--overlaps", "keep")):  # fmt: skip
            if rng.random() < 0.12:
                words += [name, *(option(rng, right) for right in rights.split())]
        return _clean(words)
    if kind in ("simulate", "train"):
        name = rng.choice(sorted(structures()))
        path = folder / name
        path.write_bytes(structures()[name] if rng.random() < 0.6 else damaged(structures()[name], rng))
        if kind == "train":
            words = ["train", str(path), "--output", str(folder / "m.safetensors"), "--device", "cpu"]
            options = (("--zone", "0 0 1"), ("--species", "Na"), ("--members", "1"), ("--steps", "1"), ("--seed", "0"),
                       ("--patches", "1"), ("--threads", "1"), ("--index", "0"), ("--name", "x"))  # fmt: skip
        else:
            code = rng.choice(["vasp", "espresso", "gpaw", "cp2k", "dftb", "lammps", "what"])
            words = ["simulate", rng.choice(["relax", "md"]), str(path), "--export", code, "-o", str(folder / "input")]
            options = (("--kpoints", "2 2 1"), ("--cutoff", "400"), ("--fmax", "0.05"), ("--fixed", "perimeter"),
                       ("--temperature", "300"), ("--steps", "10"), ("--timestep", "1"), ("--seed", "0"),
                       ("--max-steps", "10"), ("--index", "0"), ("--pseudopotentials", str(folder)))  # fmt: skip
        for name, rights in options:
            if rng.random() < 0.15:
                words += [name, *(option(rng, right) for right in rights.split())]
        return _clean(words)
    if kind == "models":
        action = rng.choice(["list", "show", "check", "import", "remove"])
        path = image_file(folder, rng)
        target = {"list": [], "check": [option(rng, "graphene"), str(path)], "import": [str(path)]}.get(
            action, [option(rng, "graphene") if action == "show" else rng.choice(["x", "", "../x", "a/b"])]
        )
        return _clean(["models", action, *target])
    words = ["jobs", rng.choice(["list", "show", "log", "cancel", "result", "what"]), rng.choice(WORDS), "--queue",
             str(folder / rng.choice(["q", "a.npy", "what?"]))]  # fmt: skip
    return _clean(words)


def _clean(words):
    """Return words as a shell could pass them on."""
    return [word.replace("\0", "") for word in words]


# --- public functions -------------------------------------------------------------------------------------------------


def number(rng, right):
    return right if rng.random() < 0.6 else rng.choice(NUMBERS)


def point(rng, x=9.0, y=7.0):
    return (number(rng, x), number(rng, y))


def _atoms(rng):
    choice = rng.randrange(4)
    if choice < 2:
        return found()
    if choice == 2:
        return found()[: rng.randrange(8)]
    import dataclasses

    field = rng.choice(["positions", "covariance", "probabilities", "intensity"])
    values = getattr(found(), field).copy()
    values[rng.randrange(len(values))] = rng.choice(NUMBERS)
    return dataclasses.replace(found(), **{field: values})


def _sheet(rng):
    atoms = sheet().copy()
    if rng.random() < 0.3:
        atoms = atoms[: rng.randrange(len(atoms))]
    if rng.random() < 0.3:
        k = rng.randrange(max(len(atoms), 1))
        if len(atoms):
            change = rng.choice(["nan", "same", "dummy"])
            if change == "nan":
                atoms.positions[k] = rng.choice([np.nan, np.inf, 1e300])
            elif change == "same":
                atoms.positions[k] = atoms.positions[0]
            else:
                atoms.numbers[k] = 0
    if rng.random() < 0.2:
        atoms.set_cell([rng.choice([0, 0.01, 5, 30, np.nan]) for _ in range(3)])
    if rng.random() < 0.2:
        atoms.set_pbc([rng.random() < 0.5 for _ in range(3)])
    return atoms


def _region(rng):
    return rng.choice([
        None, structure.around(9, 7, 5), (number(rng, 2), number(rng, 2), number(rng, 15), number(rng, 12)),
        np.ones(len(found()), bool), [point(rng), point(rng, 3, 3), point(rng, 12, 3)], [], "x", np.zeros(3),
    ])  # fmt: skip


def _image(rng):
    if rng.random() < 0.5:
        return odd_array(rng)
    seeded = np.random.default_rng(rng.randrange(100))
    image = seeded.poisson(20, (rng.choice([8, 40, 80]), rng.choice([8, 60]))).astype(float)
    if rng.random() < 0.3:
        image.flat[0] = rng.choice(NUMBERS)
    if rng.random() < 0.2:
        image[: len(image) // 2] = rng.choice([0, 5, 1e30])
    return np.ma.masked_less(image, rng.choice([0, 15])) if rng.random() < 0.1 else image


def functions():
    """Return the public functions, each as a name and what is called with a source of random numbers."""
    from stem_ae import simulate
    from stem_ae.classify import classified
    from stem_ae.elit.calibrate import estimate_sampling
    from stem_ae.elit.preprocess import as_image, repair, to_working_grid, without_blank
    from stem_ae.explore.scalarize import BandIntegral, PeakMaximum, PeakPosition, PeakRatio, scalarize
    from stem_ae.imaging import specimens
    from stem_ae.simulate import inputs
    from stem_ae.structure import drawing
    from stem_ae.structure.rings import defects

    def band(rng):
        return (number(rng, 10.05), number(rng, 20.0))

    def spectrum(rng):
        energy = np.arange(64) * 0.5
        if rng.random() < 0.3:
            energy = np.full(rng.choice([0, 1, 3, 64]), rng.choice(NUMBERS), float)
        kind = rng.choice([BandIntegral, PeakMaximum, PeakPosition])
        prop = kind(band(rng)) if rng.random() < 0.8 else PeakRatio(band(rng), band(rng))
        return scalarize(np.random.default_rng(0).poisson(9, (3, 64)), energy, {"p": prop})

    def export(rng):
        task = simulate.Relax(fmax=number(rng, 0.05), max_steps=number(rng, 10)) if rng.random() < 0.5 else (
            simulate.MolecularDynamics(number(rng, 300), number(rng, 10), number(rng, 1), damping=number(rng, 100))
        )
        with tempfile.TemporaryDirectory() as folder:
            inputs.export(task, _sheet(rng), rng.choice(inputs.CODES), folder, cutoff_ev=number(rng, 400),
                          kpoints=[number(rng, 1) for _ in range(3)])  # fmt: skip

    def atoms2d(rng):
        n = rng.randrange(4)
        return Atoms2D(
            np.full((n, 2), number(rng, 1.0)), np.full((n, 2, 2), number(rng, 1.0)), np.zeros(rng.choice([n, n, 2])),
            ("C",), np.ones((n, 1)), np.ones(n), (number(rng, 5), 5), rng.choice([0.1, (0.1, 0.2), "x", np.nan, None]),
        )  # fmt: skip

    def build(rng):
        nowhere = np.full((2, 2), np.nan)
        return structure.build(
            _atoms(rng), _region(rng), vacuum=number(rng, 8.0), confidence=number(rng, 0.5),
            terminate=rng.choice(["H", None, "Xx", 3]),
            cell=rng.choice(["patch", "periodic", [30, 30, 15], "x", [0, 1], [number(rng, 9)] * 3]),
            calibration=rng.choice(["scale", "affine", None, "x", np.eye(2), nowhere]),
            overlaps=rng.choice(["resolve", "keep", "x"]),
        )  # fmt: skip

    def material(rng):
        return structure.Material("m", {"C": ((rng.choice(["C", "Xx", "X"]), number(rng, 0.0)),)}, number(rng, 1.42),
                                  rng.choice([None, number(rng, 3.0)]))  # fmt: skip

    return {
        "Atoms2D": atoms2d,
        "structure.build": build,
        "structure.variants": lambda rng: structure.variants(
            _atoms(rng), number(rng, 1), _region(rng), seed=number(rng, 0)
        ),
        "structure.Material": material,
        "structure.select": lambda rng: structure.select(_atoms(rng), _region(rng)),
        "structure.around": lambda rng: structure.around(number(rng, 9), number(rng, 7), number(rng, 5)),
        "structure.random_regions": lambda rng: structure.random_regions(_atoms(rng), number(rng, 8), number(rng, 2)),
        "structure.calibrate": lambda rng: structure.calibrate(
            found().positions * number(rng, 1), found().covariance, number(rng, 1.42), rng.choice(["scale", "affine"])
        ),
        "structure.add_adatom": lambda rng: structure.add_adatom(
            _sheet(rng), rng.choice(["Cr", "Xx", "X", ""]), rng.choice(["top", "bridge", "hollow", "x"]),
            near=point(rng), height=rng.choice([None, number(rng, 2.0)]),
        ),
        "structure.add_group": lambda rng: structure.add_group(
            _sheet(rng), rng.choice(["CH", "CH3", "X"]), near=point(rng)
        ),
        "structure.add_vacancy": lambda rng: structure.add_vacancy(_sheet(rng), number(rng, 0)),
        "structure.sites": lambda rng: structure.sites(_sheet(rng), rng.choice(["top", "bridge", "hollow", "x"])),
        "structure.rings": lambda rng: defects(_sheet(rng)),
        "structure.bond_lengths": lambda rng: structure.bond_lengths(_sheet(rng)),
        "structure.to_image": lambda rng: structure.to_image(_sheet(rng)),
        "structure.from_image": lambda rng: structure.from_image(_sheet(rng), np.array([point(rng)])),
        "structure.draw": lambda rng: drawing.draw(
            (atoms := _sheet(rng)), np.zeros(len(atoms), bool), (rng.choice([1, 50]), rng.choice([1, 60]))
        ),
        "imaging.graphene": lambda rng: specimens.graphene(
            (number(rng, 10), number(rng, 12)), number(rng, 0.1), number(rng, 0.1), number(rng, 5), number(rng, 0.1),
        ),
        "imaging.from_ase": lambda rng: specimens.from_ase(
            _sheet(rng), (number(rng, 10), number(rng, 12)), [rng.choice([0, 1, -3, 500]) for _ in range(3)],
            number(rng, 5),
        ),
        "as_image": lambda rng: to_working_grid(
            without_blank(repair(as_image(_image(rng))), (0.1, 0.1))[0], rng.choice([0.1, number(rng, 0.2)]), 0.2
        ),
        "estimate_sampling": lambda rng: estimate_sampling(
            _image(rng), rng.choice(["graphene", "x", number(rng, 2.46)])
        ),
        "classified": lambda rng: classified(
            _atoms(rng), rng.choice(["network", "intensity", "neighbours", "x", None]), np.zeros((96, 128))
        ),
        "scalarize": spectrum,
        "simulate.export": export,
        "simulate.Relax.check": lambda rng: simulate.Relax(
            "emt", rng.choice([None, "H", "x"]), number(rng, 0.05)
        ).check(_sheet(rng)),
        "simulate.MolecularDynamics.check": lambda rng: simulate.MolecularDynamics(
            number(rng, 300), number(rng, 10), number(rng, 1), engine="emt", every=number(rng, 10), seed=number(rng, 0)
        ).check(_sheet(rng)),
        "Ensemble.predict": lambda rng: _ensemble().predict(
            _image(rng), rng.choice([0.15, number(rng, 0.2), (0.1, number(rng, 0.2)), "x"]), threshold=number(rng, 0.5),
            classes=rng.choice(["network", "network", "intensity", "x"]),
        ),
    }


@functools.cache
def _ensemble():
    from stem_ae import elit

    return elit.load("graphene", device="cpu").subset([0])


def try_functions(rng, folder, report):
    table = functions_once()
    name = rng.choice(sorted(table))
    report.attempt(name, lambda: table[name](rng))


functions_once = functools.cache(functions)


def _kept(path):
    """Keep a failing file's bytes in the description if it is small."""
    content = path.read_bytes() if path.is_file() else b""
    return content[:300]


KINDS = {
    "images": try_images, "tables": try_tables, "structures": try_structures, "commands": try_commands,
    "functions": try_functions,
}  # fmt: skip


def run(kind: str, count: int) -> dict:
    """Try so many inputs of a kind; the same ones every time."""
    report = Report()
    attempt = KINDS[kind]
    tried = 0

    @settings(
        max_examples=count, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**64))
    def one(seed):
        nonlocal tried
        import random

        rng = random.Random(seed * 1_000_003 + tried)  # Hypothesis likes small numbers, over and over
        tried += 1
        folder = pathlib.Path(tempfile.mkdtemp(dir=base))
        before = os.getcwd()
        os.chdir(folder)
        try:
            attempt(rng, folder, report)
        finally:
            os.chdir(before)
            shutil.rmtree(folder, ignore_errors=True)

    with tempfile.TemporaryDirectory() as base:
        os.environ |= {"STEM_AE_LOG": f"{base}/errors.log", "STEM_AE_MODELS": f"{base}/models", "XDG_DATA_HOME": base}
        one()
    return report.as_dict()


if __name__ == "__main__":
    if len(sys.argv) > 3:  # the address space is limited, so that what asks for too much fails
        resource.setrlimit(resource.RLIMIT_AS, (int(float(sys.argv[3]) * 1e9),) * 2)
    if sys.argv[1] == "commands":
        import stem_ae.elit.build

        def _enough(*_, **__):
            raise StemAeError("The training itself is not tried here.")

        stem_ae.elit.build.build = _enough
    with contextlib.redirect_stdout(sys.stderr):  # RosettaSciIO's writers log there
        answer = run(sys.argv[1], int(sys.argv[2]))
    print(json.dumps(answer))
