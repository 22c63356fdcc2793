"""The command line as a user meets it, and the pictures and reports that it leaves."""

import base64
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.collections import EllipseCollection
from PIL import Image
from scipy.spatial import cKDTree

from stem_ae import Atoms2D, StemAeError, find, imageio, picture, report
from stem_ae.cli import COMMANDS, main
from stem_ae.imaging import adf, dose, noise, probe, scattering, specimens

SAMPLING = 0.12


@pytest.fixture(scope="module")
def graphene():
    """A frame of graphene with silicon at 3e5 e/Å², and where its atoms are."""
    specimen = specimens.graphene((30.0, 36.0), silicon=0.02, rotation=11.0, seed=3)
    shape = (300, 250)
    xy, names = specimen.columns()
    fraction = adf.expected_fraction(
        specimen.positions[:, :2], scattering.cross_section(specimen.numbers, "HAADF"), shape, SAMPLING,
        probe.GaussianProbe(0.45),
    )  # fmt: skip
    electrons = dose.electrons_for_dose(3e5, SAMPLING)
    return noise.detect(fraction, electrons, np.random.default_rng(1)), xy, names


def stem_ae(*words):
    return subprocess.run(
        [sys.executable, "-m", "stem_ae", *map(str, words)], capture_output=True, text=True, timeout=100
    )


# --- the frame of it all ---------------------------------------------------------------------------------------------


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(re.search(rf"^ +{name} ", text, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_has_its_own_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert f"stem-ae {name}" in capsys.readouterr().out


def test_what_the_user_can_put_right_is_one_sentence_and_exit_code_2(tmp_path):
    answer = stem_ae("find", tmp_path / "nothing.tif", "--model", "graphene")
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert re.fullmatch(r"stem-ae: There is no file .*nothing.tif\.\n", answer.stderr)


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["fnid"])
    assert "fnid" in capsys.readouterr().err


# --- find ------------------------------------------------------------------------------------------------------------


def test_find_writes_the_atoms_that_are_there(tmp_path, graphene, capsys):
    image, truth, names = graphene
    np.save(tmp_path / "frame.npy", image)
    words = ["find", str(tmp_path / "frame.npy"), "--model", "graphene", "--sampling", str(SAMPLING)]
    assert main([*words, "--output", str(tmp_path / "out"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (frame,) = answer["frames"]
    assert answer["sampling"]["angstrom_per_px"] == [SAMPLING, SAMPLING]
    assert answer["sampling"]["source"] == "given by the user"
    assert answer["sampling"]["warning"] == ""
    atoms = Atoms2D.read(frame["files"]["csv"])
    assert frame["counts"] == atoms.counts() == Atoms2D.read(frame["files"]["extxyz"]).counts()

    distance, nearest = cKDTree(atoms.positions).query(truth)
    inside = np.all((truth > 0) & (truth < np.array(image.shape[::-1]) * SAMPLING), axis=1)
    assert np.mean(distance[inside] < 0.5) >= 0.98
    assert np.mean(cKDTree(truth).query(atoms.positions)[0] < 0.5) >= 0.98
    silicon = inside & (np.array(names) == "Si")
    assert silicon.any()
    assert np.mean([atoms.symbols[k] == "Si" for k in nearest[silicon]]) >= 0.9

    uncertainty = imageio.read(frame["files"]["uncertainty"])
    assert uncertainty.frames.shape == (1, *image.shape)
    assert uncertainty.sampling == pytest.approx((SAMPLING, SAMPLING), rel=1e-3)
    assert 0 <= uncertainty.frames.min() <= uncertainty.frames.max() <= 0.5
    assert Image.open(frame["files"]["picture"]).size[0] > 600


def test_a_stated_sampling_is_checked_against_the_lattice(graphene):
    image = graphene[0]
    agreed = find.choose_sampling(image, (SAMPLING, SAMPLING), "stated in x", "graphene")
    assert agreed.value == (SAMPLING, SAMPLING)
    assert agreed.warning == ""
    wrong = find.choose_sampling(image, (0.09, 0.09), "stated in x", "graphene")
    assert wrong.value == (0.09, 0.09)
    assert "0.0900 Å/px is stated in x" in wrong.warning
    assert float(re.search(r"looks like ([\d.]+)", wrong.warning)[1]) == pytest.approx(SAMPLING, rel=0.02)
    taken = find.choose_sampling(image, (0.09, 0.09), "stated in x", "graphene", measure=True)
    assert taken.value == pytest.approx((SAMPLING, SAMPLING), rel=0.02)
    missing = find.choose_sampling(image, None, "not stated in x", "graphene")
    assert missing.value == taken.value
    assert "measured from the lattice" in missing.source


def test_without_sampling_and_lattice_the_user_is_asked():
    noise_only = np.random.default_rng(0).poisson(20.0, (200, 200)).astype(float)
    with pytest.raises(StemAeError, match=r"not stated in x.*--sampling"):
        find.choose_sampling(noise_only, None, "not stated in x", "graphene")
    with pytest.raises(StemAeError, match=r"knows no lattice.*--sampling"):
        find.choose_sampling(noise_only, None, "not stated in x", 0.0)


@pytest.mark.parametrize("text", ["", "nm", "-1", "0.1,0.2,0.3", "nan"])
def test_a_sampling_that_is_none_is_refused(text):
    with pytest.raises(StemAeError, match="Å per pixel"):
        find.parse_sampling(text)


def test_oblong_pixels_can_be_given():
    assert find.parse_sampling("0.10,0.12") == (0.10, 0.12)


def test_frames_of_a_series():
    stack = imageio.ImageStack(np.zeros((3, 8, 8)), None, "", "x")
    assert find.frame_numbers(stack, None) == [0, 1, 2]
    assert find.frame_numbers(stack, 2) == [2]
    with pytest.raises(StemAeError, match=r"no frame 3.*holds 3"):
        find.frame_numbers(stack, 3)


# --- pictures and reports --------------------------------------------------------------------------------------------


def test_rings_stand_where_the_atoms_are_whatever_the_pixels():
    """A ring's centre and size in the picture's pixels give back position and radius in Å."""
    atoms = Atoms2D(
        np.array([[2.0, 6.0], [5.0, 1.0]]), np.tile(np.eye(2), (2, 1, 1)), np.array([0, 1]), ("C", "Si"), np.eye(2),
        np.ones(2), (40, 60), (0.2, 0.1),
    )  # fmt: skip
    axes = picture.dark_figure(4, 4).subplots()
    picture.rings(axes, np.random.default_rng(0).random((40, 60)), atoms)
    circles = [item for item in axes.collections if isinstance(item, EllipseCollection)]
    centres = np.concatenate([item.get_offsets() for item in circles])
    np.testing.assert_allclose(centres * (0.1, 0.2), atoms.positions)
    for item in circles:
        assert item.get_widths() * 0.1 == pytest.approx(2 * picture.RING_RADIUS)
        assert item.get_heights() * 0.2 == pytest.approx(2 * picture.RING_RADIUS)
    assert axes.images[0].axes.get_aspect() == pytest.approx(2.0)


@pytest.mark.parametrize("width", [7.0, 40.0, 93.2, 1000.0, 9e4])
def test_the_scale_bar_is_round_and_fits(width):
    length = picture.scale_bar(width)
    assert width / 10 <= length <= width / 4
    assert f"{length:e}"[0] in "125"


def test_a_report_is_one_file_with_its_pictures_inside(tmp_path):
    Image.fromarray(np.full((4, 4), 77, np.uint8)).save(tmp_path / "a.png")
    section = report.Section("Live <b>", "R & D", {"rate": 12}, [(tmp_path / "a.png", "what it shows")])
    text = report.write(tmp_path / "report.html", "Title", "Lead", [section]).read_text(encoding="utf-8")
    assert "Live &lt;b&gt;" in text
    assert "R &amp; D" in text
    (picture_data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(picture_data) == (tmp_path / "a.png").read_bytes()
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
