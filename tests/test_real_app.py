"""The real Nion Swift under Xvfb: started, scanning, rings on the atoms, kept results, closed."""

import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree

from stem_ae import Atoms2D, StemAeError, imageio
from stem_ae.launch import demo, display, process
from stem_ae.launch.order import Order
from stem_ae.palette import PALETTE

GOOD, WAITING = "#1A8F3C", "#B26A00"

pytestmark = [pytest.mark.gui, pytest.mark.slow]


def run(name, folder, timeout_s=60, **options):
    return process.run_scenario(
        f"real_app_scenarios:{name}", folder, virtual=sys.platform == "linux", timeout_s=timeout_s, **options
    )


def near(picture, colour):
    """Return how many pixels have nearly the colour."""
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return int(np.all(np.abs(picture.astype(int) - wanted) < 40, axis=-1).sum())


def running_commands():
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it may end while we look
            yield path.read_text(errors="replace")


def test_the_demonstration_finds_the_simulated_atoms_and_leaves_its_files(tmp_path):
    stages = demo.run(tmp_path, seconds=2.0)
    assert [stage["name"] for stage in stages] == ["graphene", "mos2"]
    for stage in stages:
        assert stage["recall"] >= 0.98
        assert stage["precision"] >= 0.98
        assert stage["accuracy"] >= 0.95
        assert stage["rmse"] < 0.15
        folder = tmp_path / stage["name"]
        atoms = Atoms2D.read(folder / "atoms.csv")
        assert len(atoms) == len(Atoms2D.read(folder / "atoms.extxyz")) > 300
        uncertainty = imageio.read(folder / "uncertainty.tif")
        np.testing.assert_array_equal(uncertainty.frames[0], np.load(folder / "uncertainty.npy"))
        assert uncertainty.sampling == pytest.approx(atoms.sampling, rel=1e-3)
        assert stage["provenance"]["model"]["version"]
        screen = np.asarray(Image.open(folder / "screen.png").convert("RGB"))
        for colour in PALETTE[: 2 if stage["name"] == "graphene" else 3]:
            assert near(screen, colour) > 100, f"no {colour} rings on the screen of {stage['name']}"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4
    assert (tmp_path / "live_overlay.png").read_bytes() == (tmp_path / "graphene" / "screen.png").read_bytes()


def test_settings_and_project_survive_a_restart_and_the_users_own_stay_untouched(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    run("set_threshold", tmp_path / "swift", value=0.73)
    projects = list((tmp_path / "swift").rglob("*.nsproj"))
    assert run("get_threshold", tmp_path / "swift") == pytest.approx(0.73)
    assert list((tmp_path / "swift").rglob("*.nsproj")) == projects
    assert not list(home.rglob("*.nsproj"))


def test_without_being_asked_for_the_simulator_is_not_there_but_the_panel_is(tmp_path):
    panels = run("panels", tmp_path, simulate=False)
    assert "scan-control-panel-usim_scan_device" in panels
    assert "stem-ae-atoms-panel" in panels
    assert not [panel for panel in panels if "stem_ae_sim" in panel or "stem-ae-simulator" in panel]


def test_unusable_images_get_a_sentence_in_the_panel(tmp_path):
    images = {"blank": np.full((64, 64), 3.0), "volume": np.zeros((4, 4, 64)), "uncalibrated": np.eye(64) * 5.0}
    for name, data in images.items():
        np.save(tmp_path / f"{name}.npy", data)
    said = run("unusable_images", tmp_path / "swift", images=[str(tmp_path / f"{name}.npy") for name in images])
    assert len(set(said)) == 3
    assert all(sentence.endswith(".") or sentence.endswith("?") for sentence in said)
    assert "sampling" in said[2]


def test_somebody_elses_image_without_a_sampling_gets_rings_with_the_first_choice(tmp_path):
    y, x = (place.ravel() for place in np.mgrid[20:390:23, 20:390:31].astype(float))
    truth = np.column_stack([x, y])
    rows, columns = np.mgrid[:400, :400]
    image = sum(np.exp(-((rows - b) ** 2 + (columns - a) ** 2) / (2 * 5.0**2)) for a, b in truth)
    image = np.random.default_rng(0).poisson(60 * image + 12)
    np.save(tmp_path / "image.npy", image.astype(np.float32))
    said = run(
        "rings_on_an_image", tmp_path / "swift", image=str(tmp_path / "image.npy"), picture=str(tmp_path / "any.png")
    )
    assert said["model"] == "any"
    assert said["known"] is None
    assert "pixels" in said["sampling"]
    distance, _ = cKDTree(said["positions"]).query(truth)
    assert (distance < 1.0).mean() > 0.98
    assert len(said["positions"]) < 1.02 * len(truth)


def test_a_scenario_that_fails_or_hangs_is_an_error_and_nothing_is_left_running(tmp_path):
    with pytest.raises(StemAeError, match="ValueError: as ordered"):
        run("fail", tmp_path / "fail")
    with pytest.raises(StemAeError, match="did not finish within 12 s"):
        run("hang", tmp_path / "hang", timeout_s=12)
    if sys.platform == "linux":
        assert not [command for command in running_commands() if str(tmp_path) in command]


def test_an_order_survives_its_file(tmp_path):
    order = Order(tmp_path, "a.b:c", {"n": 1, "text": "Å"}, close=True, result=tmp_path / "result.json")
    assert Order.read(order.write(tmp_path / "order.json")) == order
    empty = Order()
    assert dataclasses.asdict(Order.read(empty.write(tmp_path / "empty.json"))) == dataclasses.asdict(empty)
    assert json.loads((tmp_path / "empty.json").read_text())["folder"] is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has Xvfb")
def test_without_xvfb_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(StemAeError, match="apt-get install xvfb"), display.virtual_display():
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has Xvfb")
def test_two_virtual_displays_do_not_meet():
    with display.virtual_display() as first, display.virtual_display() as second:
        assert first != second


# --- what the panels say --------------------------------------------------------------------------------------------


def said_by(name, folder, **options):
    return process.run_scenario(
        f"truth_scenarios:{name}", folder, virtual=sys.platform == "linux", timeout_s=500, **options
    )


def test_headlines_are_green_for_the_model_that_fits_and_amber_with_a_reason_otherwise(tmp_path):
    said = said_by("headlines", tmp_path / "swift", pictures=str(tmp_path))
    for name in ("fitting", "fitting_again", "sub_scan"):
        assert said[name][1:] == [GOOD, ""], said[name]
    assert said["flicker"] == [GOOD]
    for name in ("wrong_model", "defocused", "empty"):
        assert said[name][1] == WAITING, said[name]
    assert said["wrong_model"][0].endswith("doubtful")
    assert "Choose a model for MoS2" in said["wrong_model"][2]
    assert said["empty"][2].endswith("in view and in focus.")
    assert any("Sub" in title for title in said["displayed"])
    screen = np.asarray(Image.open(tmp_path / "wrong_model.png").convert("RGB"))
    assert near(screen, WAITING) > 300


def test_adapting_says_how_long_and_cancel_stays_where_it_is(tmp_path):
    answer = said_by("adapting", tmp_path / "swift", picture=str(tmp_path / "adapting.png"))
    assert re.search(r"at most \d+ (s|min) left", answer["said"][0])
    assert "Cancelled" in answer["said"][1]
    assert answer["places"][0] == answer["places"][1] == answer["places"][2]


def test_a_second_start_has_the_model_that_fits_the_specimen(tmp_path):
    first = said_by("start", tmp_path / "swift", model="mos2")
    assert first[0] == "graphene"
    again = said_by("start", tmp_path / "swift")
    assert again[0] == "graphene"
    assert "doubtful" not in again[1]
