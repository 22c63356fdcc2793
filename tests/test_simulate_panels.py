"""The Simulate and Jobs panels in headless Swift: what is previewed is submitted, and comes back to its image."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
import types
import unittest

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nion.instrumentation")
pytest.importorskip("dbos")
pytest.importorskip("tblite")

from nion.data import Calibration, DataAndMetadata
from nion.swift import Facade
from nion.swift.model import DataItem, DataStructure, Graphics
from nion.swift.test import TestContext
from nion.ui import DrawingContext
from nion.utils import Geometry

import nionswift_plugin.stem_ae_ui as plugin
from nionswift_plugin.stem_ae_ui import (
    jobs_model,
    jobs_panel,
    keeping,
    simulate_model,
    simulate_overlay,
    simulate_panel,
    simulate_settings,
)
from nionswift_plugin.stem_ae_ui.fitted import SHEETS
from nionswift_plugin.stem_ae_ui.simulate_model import corners
from stem_ae import jobs, structure
from stem_ae.atoms import Atoms2D
from stem_ae.imaging import specimens
from stem_ae.jobs import remote
from stem_ae.jobs.executors import is_worked_on
from stem_ae.launch.process import run_scenario
from stem_ae.simulate import constraints, engines, guidance, inputs
from stem_ae.structure import edit

Facade.initialize()

HOME = pathlib.Path(__file__).parents[1]
SAMPLING = 0.2


def graphene(extent=24.0, noise=0.03, silicon=0.0):
    """Return true columns with position noise (Å), as a good detector finds them."""
    specimen = specimens.graphene((extent, extent), silicon=silicon, rotation=0.2, ripple=0.0, seed=1)
    xy, names = specimen.columns()
    inside = np.all((xy > 0) & (xy < extent), axis=1)
    labels = np.array([int(name == "Si") for name, kept in zip(names, inside, strict=True) if kept])
    xy = xy[inside] + np.random.default_rng(0).normal(scale=noise, size=(int(inside.sum()), 2))
    n, pixels = len(xy), int(extent / SAMPLING)
    return Atoms2D(
        xy, np.tile(np.eye(2) * noise**2, (n, 1, 1)), labels, ("C", "Si"), np.eye(2)[labels] * 0.98 + 0.01, np.ones(n),
        (pixels, pixels), (SAMPLING, SAMPLING),
    )  # fmt: skip


def keep(document, atoms, title="HAADF"):
    """Put a frame and its atoms into the project, as a snapshot of the Atoms panel does."""
    calibrations = [Calibration.Calibration(0.0, SAMPLING / 10, "nm")] * 2
    metadata = {"stem_ae": {"kind": "frame", "model": {"name": "graphene", "version": "abc123"}}}
    xdata = DataAndMetadata.new_data_and_metadata(
        np.zeros(atoms.shape, np.float32), dimensional_calibrations=calibrations, metadata=metadata
    )
    item = DataItem.new_data_item(xdata)
    item.title = title
    document.append_data_item(item)
    kept = DataStructure.DataStructure(structure_type=keeping.ATOMS_TYPE, source=item)
    for name in ("positions", "covariance", "labels", "probabilities", "intensity"):
        kept.set_property_value(name, getattr(atoms, name).tolist())
    for name in ("species", "shape", "sampling"):
        kept.set_property_value(name, list(getattr(atoms, name)))
    document.append_data_structure(kept)
    return item


class Swift:
    """Headless Swift with both models on a queue of their own."""

    def __init__(self, window, queue) -> None:
        self.queue = queue
        self.window = window
        self.document = window.document_model
        self.display = window.workspace_controller.display_panels[0]
        panels = {type(panel): panel for panel in window.workspace_controller.dock_panels}
        self.simulate = panels[simulate_panel.SimulatePanel].model
        self.jobs_handler = panels[jobs_panel.JobsPanel].handler
        self.jobs = self.jobs_handler.model

    def pump(self, condition, timeout=120.0) -> None:
        """Run the user interface thread until the condition holds."""
        end = time.monotonic() + timeout
        while not condition() and time.monotonic() < end:
            self.window.periodic()
            time.sleep(0.003)
        assert condition(), (self.simulate.texts, self.jobs.texts, self.jobs.rows)

    def show(self, item) -> None:
        self.display.set_display_panel_data_item(item)
        self.window.selected_display_panel = self.display

    def rectangle(self, item, bounds, rotation=0.0):
        graphic = Graphics.RectangleGraphic()
        graphic.bounds = bounds
        graphic.rotation = rotation
        self.document.get_display_item_for_data_item(item).add_graphic(graphic)
        return graphic

    def previewed(self) -> None:
        self.simulate.refresh()
        self.pump(lambda: self.simulate.texts.structure or self.simulate.texts.message)

    def drawn(self, kind):
        """Return the commands of one kind that the display draws."""
        canvas = self.display.display_canvas_item
        canvas.layout_immediate(Geometry.IntSize(640, 640))
        context = DrawingContext.DrawingContext()
        canvas.repaint_immediate(context, canvas.canvas_size)
        return [command for command in context.commands if command[0] == kind]


def end_worker(queue):
    """End the worker that a model has started: it outlives everything else by design."""
    for path in pathlib.Path(queue).glob("workers/*/pid"):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(path.read_text()), signal.SIGKILL)


@pytest.fixture
def swift(tmp_path, monkeypatch):
    """Headless Swift with both panels, closed and checked for leaks at the end."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    queue = tmp_path / "queue"
    for module, name in ((simulate_panel, "SimulateModel"), (jobs_panel, "JobsModel")):
        monkeypatch.setattr(module, name, functools.partial(getattr(module, name), queue=str(queue)))
    TestContext.begin_leaks()
    setup = TestContext.TestSetup(set_global=True)
    plugin.run()
    with TestContext.create_memory_context() as context:
        swift = Swift(context.create_document_controller(), queue)
        yield swift
    plugin.stop()
    swift.__dict__.clear()
    del setup
    end_worker(queue)
    TestContext.end_leaks(unittest.TestCase())


# --- the region -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [0.0, 0.5, -1.2])
def test_corners_of_a_rectangle_are_where_swift_masks(turn):
    """Swift's own mask of a turned rectangle holds the same pixels."""
    shape, sampling = (200, 200), (0.1, 0.1)
    graphic = Graphics.RectangleGraphic()
    graphic.bounds = Geometry.FloatRect.from_center_and_size(
        Geometry.FloatPoint(0.4, 0.6), Geometry.FloatSize(0.2, 0.35)
    )
    graphic.rotation = turn
    rows, columns = np.indices(shape)
    centres = np.column_stack([columns.ravel() * 0.1, rows.ravel() * 0.1])
    n = len(centres)
    every = Atoms2D(
        centres, np.tile(np.eye(2), (n, 1, 1)), np.zeros(n, int), ("C",), np.ones((n, 1)), np.ones(n), shape, sampling
    )
    inside = structure.select(every, corners(graphic, shape, sampling)).reshape(shape)
    mask = graphic.get_mask(shape) > 0
    assert inside.sum() == pytest.approx(0.2 * 0.35 * 200 * 200, rel=0.02)
    assert np.mean(inside != mask) < 0.005  # the border only


# --- preview ----------------------------------------------------------------------------------------------------------


def test_the_preview_shows_the_atoms_of_the_rectangle(swift):
    item = keep(swift.document, graphene())
    swift.show(item)
    swift.previewed()
    assert "no rectangle" in swift.simulate.texts.message
    swift.simulate.add_rectangle()
    swift.pump(lambda: swift.simulate.texts.structure)
    whole = swift.simulate.texts.structure
    assert "C" in whole
    assert "patch" in whole
    assert swift.simulate.picture.shape == simulate_model.PICTURE
    assert len(np.unique(swift.simulate.picture)) > 20
    assert "GB" in swift.simulate.texts.cost
    assert not swift.simulate.texts.warning
    # The user drags it smaller: the preview follows without a click.
    graphic = swift.document.get_display_item_for_data_item(item).graphics[0]
    graphic.bounds = ((0.3, 0.3), (0.4, 0.4))
    swift.pump(lambda: swift.simulate.texts.structure != whole)
    # Held atoms are crossed out in red.
    red = swift.simulate.picture.copy()
    swift.simulate.fixed_index = simulate_settings.FIXED.index("perimeter")
    swift.pump(lambda: "held fixed" in swift.simulate.texts.structure)
    assert np.any(swift.simulate.picture != red)


def test_the_rectangle_is_drawn_about_the_defect_that_is_chosen(swift):
    item = keep(swift.document, graphene())
    origin = types.SimpleNamespace(title="HAADF", shown_by=lambda document: item)
    snapshot = types.SimpleNamespace(atoms=graphene(), origin=origin, provenance={}, result=None)
    for defect, centre in (((9.0, 6.0), (0.25, 0.375)), (None, (0.5, 0.5))):
        model = simulate_model.SimulateModel(
            swift.window, lambda: snapshot, lambda found=defect: found, queue=str(swift.queue)
        )
        model.add_rectangle()
        graphic = swift.document.get_display_item_for_data_item(item).graphics[-1]
        assert tuple(graphic.bounds.center) == pytest.approx(centre)
        model.close()


def test_hopeless_sizes_are_said_before_they_are_submitted(swift):
    swift.show(keep(swift.document, graphene(72.7)))
    swift.simulate.region_index = 1
    swift.pump(lambda: swift.simulate.texts.warning)
    assert "smaller region" in swift.simulate.texts.warning


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("fmax", "-1", "positive"), ("vacuum", "wide", "positive"), ("temperatures", "300, hot", "“hot”"),
        ("variants", "some", "whole number"), ("task_index", simulate_settings.ADSORPTION, "Nothing is adsorbed"),
    ],
)
def test_what_cannot_be_is_one_sentence(swift, field, value, words):
    swift.show(keep(swift.document, graphene()))
    swift.simulate.region_index = 1
    swift.simulate.task_index = 2
    swift.pump(lambda: swift.simulate.texts.structure)
    texts, picture = swift.simulate.texts, swift.simulate.picture
    setattr(swift.simulate, field, value)
    assert words in swift.simulate.texts.message
    assert "shows what was chosen before" in swift.simulate.texts.message
    swift.simulate.export()
    assert words in swift.simulate.texts.message
    np.testing.assert_array_equal(swift.simulate.picture, picture)  # a typo takes nothing away
    assert dataclasses.replace(swift.simulate.texts, message="") == dataclasses.replace(texts, message="")
    assert not (swift.queue / "jobs").exists() or not list((swift.queue / "jobs").iterdir())


def test_what_the_library_cannot_build_leaves_the_preview_too_and_is_not_submitted(swift):
    swift.show(keep(swift.document, graphene()))
    swift.simulate.region_index = 1
    swift.pump(lambda: swift.simulate.texts.structure)
    picture = swift.simulate.picture
    swift.simulate.adsorb = "Qq"
    swift.pump(lambda: swift.simulate.texts.message)
    assert "Qq" in swift.simulate.texts.message
    swift.simulate.export()
    swift.pump(lambda: "Submitting" not in swift.simulate.texts.message)
    assert "Qq" in swift.simulate.texts.message
    np.testing.assert_array_equal(swift.simulate.picture, picture)
    swift.simulate.adsorb = "Cr"
    swift.pump(lambda: "Cr" in swift.simulate.texts.structure)
    assert not swift.simulate.texts.message


def test_a_place_to_look_at_is_marked_on_the_image_that_was_ranked(swift):
    """Another image may be displayed by then, or another job chosen."""
    ranked, other = (keep(swift.document, graphene(silicon=0.02), title) for title in ("ranked", "other"))
    swift.show(ranked)
    swift.jobs.ranking_index = jobs_model.RANKINGS.index("uncertainty")
    swift.jobs.mark_spot()
    assert "Rank the places first" in swift.jobs.texts.message
    swift.jobs._JobsModel__ranked(ranked, (SAMPLING, SAMPLING), "energy", remote.Answer(
        {"spots": [{"x": 6.0, "y": 12.0, "score": 1.25}], "unit": "eV"}, {}, ""
    ))  # fmt: skip
    assert "“ranked”" in swift.jobs.texts.message
    assert swift.jobs.spot_texts == ["1.  x 6.0, y 12.0 Å   energy 1.25 eV"]
    swift.show(other)
    swift.jobs.mark_spot()
    graphics = [swift.document.get_display_item_for_data_item(item).graphics for item in (ranked, other)]
    assert [len(some) for some in graphics] == [1, 0]
    centre = graphics[0][0].bounds.center
    assert (centre.x * 24, centre.y * 24) == pytest.approx((6.0 + SAMPLING / 2, 12.0 + SAMPLING / 2))
    swift.document.remove_data_item(ranked)
    swift.jobs.mark_spot()
    assert "not in the project any more" in swift.jobs.texts.message


def luminance(color):
    parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(first, second):
    """Return the contrast of two colours as WCAG 2 defines it, 1 to 21; 4.5 is the least for small texts."""
    dark, light = sorted([luminance(first), luminance(second)])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("is_selected", [False, True])
@pytest.mark.parametrize("state", list(jobs_panel.COLORS))
@pytest.mark.parametrize("error", ["", "It failed."])
def test_every_text_of_a_row_can_be_read_whether_it_is_selected_or_not(state, error, is_selected, is_dark):
    row = jobs_model.Row("1", "relax C24H12 · HAADF", state, 0.4, 30.0, error, "", 1e9, {})
    context = DrawingContext.DrawingContext()
    table = jobs_panel.JobsTable(lambda row: None)
    table.is_dark = is_dark
    table.paint_item(context, row, Geometry.IntRect.from_tlbr(0, 0, 36, 340), is_selected)
    ground = "#3875D6" if is_selected else SHEETS[is_dark].ground  # what Swift draws below
    ink, path, texts = "", None, []
    for command in context.commands:
        if command[0] == "fillStyle":
            ink = command[1]
        elif command[0] == "rect":
            path = command[1:]
        elif command[0] == "fill" and path == (0, 0, 340, 36):
            ground = ink
        elif command[0] == "fillText":
            texts.append((command[1], contrast(ink, ground)))
    assert len(texts) >= 3
    assert min(ratio for _, ratio in texts) >= 4.5, texts


def test_without_atoms_and_in_empty_regions_a_sentence_says_what_to_do(swift):
    swift.simulate.refresh()
    assert "start the Atoms panel" in swift.simulate.texts.message
    atoms = graphene()
    empty = Atoms2D(**{**vars(atoms), "positions": atoms.positions * 0.3})  # all in one corner
    item = keep(swift.document, empty)
    swift.show(item)
    swift.rectangle(item, ((0.7, 0.7), (0.2, 0.2)))
    swift.simulate.refresh()
    swift.pump(lambda: "no atoms in this region" in swift.simulate.texts.message)


def test_swifts_process_imports_nothing_heavy_for_them():
    code = "import sys, stem_ae.jobs.remote; print({'ase', 'dbos', 'scipy', 'torch'} & set(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "set()"


# --- export -----------------------------------------------------------------------------------------------------------


def test_what_the_panels_repeat_is_what_the_library_says():
    """Swift's process does not import the library's heavy modules for a few words."""
    assert jobs_model.SPOT == guidance.REACH
    assert set(jobs_model.RANKINGS) == set(guidance.UNITS)
    assert tuple(simulate_settings.CODES) == inputs.CODES
    assert simulate_settings.SITES == edit.SITES
    assert set(simulate_settings.FIXED[1:]) == set(constraints.FIXABLE)


def test_an_input_folder_is_written_for_another_engine(swift, tmp_path):
    item = keep(swift.document, graphene())
    swift.show(item)
    swift.rectangle(item, ((0.3, 0.3), (0.4, 0.4)))
    swift.previewed()
    swift.simulate.destination_index = 1 + list(simulate_settings.CODES).index("vasp")
    swift.simulate.export(str(tmp_path / "vasp"))
    swift.pump(lambda: "Written" in swift.simulate.texts.message)
    assert (tmp_path / "vasp" / "POSCAR").exists()
    swift.simulate.pseudopotentials = str(tmp_path / "nowhere")
    swift.simulate.export(str(tmp_path / "again"))
    swift.pump(lambda: "pseudopotentials" in swift.simulate.texts.message)


def test_from_the_image_to_a_result_on_the_image(swift):
    """What comes back are the relaxed atoms, on the image they came from."""
    item = keep(swift.document, graphene())
    swift.show(item)
    swift.rectangle(item, ((0.3, 0.3), (0.38, 0.38)))
    swift.jobs.start()
    swift.previewed()
    assert "C" in swift.simulate.texts.structure
    swift.simulate.export()
    swift.pump(lambda: "Submitted" in swift.simulate.texts.message)
    swift.simulate.fixed_index = 1 - swift.simulate.fixed_index
    before = swift.simulate.texts.structure
    swift.pump(lambda: swift.simulate.texts.structure != before)  # drawn anew, which takes no news away
    assert "Submitted" in swift.simulate.texts.message
    swift.pump(lambda: swift.jobs.rows)
    assert swift.jobs.rows[0].image == str(item.uuid)
    swift.jobs.select(swift.jobs.rows[0].id)
    swift.pump(lambda: swift.jobs.rows[0].state == "finished")
    swift.pump(lambda: "C-C" in swift.jobs.texts.details)  # opened by itself, as its image is in this project
    job = jobs.Queue.open(swift.queue).job(swift.jobs.rows[0].id)
    provenance = job.result().summary["provenance"]
    assert provenance["model"] == {"name": "graphene", "version": "abc123"}
    assert provenance["image"] == str(item.uuid)
    simulated = next(i for i in swift.document.data_items if "simulated" in i.title)
    assert simulated.data_shape == item.data_shape
    assert simulated.dimensional_calibrations[1].scale == pytest.approx(SAMPLING / 10)
    # The brightest pixel of the simulated image is an atom of the structure.
    row, column = np.unravel_index(np.argmax(simulated.data), simulated.data_shape)
    distance = np.linalg.norm(graphene().positions - [column * SAMPLING, row * SAMPLING], axis=1)
    assert distance.min() < 2 * SAMPLING
    swift.pump(lambda: swift.drawn("strokeStyle"))
    colors = {command[1] for command in swift.drawn("strokeStyle")}
    assert {simulate_overlay.AGREES, simulate_overlay.DIFFERS} & colors
    command = ["jobs", "next", job.id, "--by", "energy", "--json", "--queue", str(swift.queue)]
    said = subprocess.run(
        [sys.executable, "-m", "stem_ae", *command], cwd=HOME, capture_output=True, text=True, check=True
    )
    assert all(0 <= spot["x"] <= 24 and 0 <= spot["y"] <= 24 for spot in json.loads(said.stdout))
    # Opening it again replaces what is there.
    count = len(swift.document.data_items)
    swift.jobs.open_result()
    swift.pump(lambda: not swift.jobs.texts.message)
    assert len(swift.document.data_items) == count
    # The places to look at lie on the image; the first one can be marked for the next structure.
    for index, ranking in enumerate(swift.jobs.rankings):
        swift.jobs.ranking_index, swift.jobs.spots = index, []
        swift.jobs.rank()
        swift.pump(lambda: swift.jobs.spots or "Nothing" in swift.jobs.texts.message)
        assert all(0 <= spot["x"] <= 24 and 0 <= spot["y"] <= 24 for spot in swift.jobs.spots), ranking


@pytest.mark.slow
def test_dynamics_after_a_relaxation_are_jobs_that_wait(swift):
    item = keep(swift.document, graphene())
    swift.show(item)
    swift.rectangle(item, ((0.35, 0.35), (0.3, 0.3)))
    swift.simulate.task_index, swift.simulate.temperatures, swift.simulate.steps = 2, "300, 1200", "20"
    swift.jobs.start()
    swift.simulate.export()
    swift.pump(lambda: "3 jobs" in swift.simulate.texts.message)
    swift.pump(lambda: len(swift.jobs.rows) == 3)
    kinds = [row.title.split()[0] for row in swift.jobs.rows]
    assert sorted(kinds) == ["md", "md", "relax"]
    swift.pump(lambda: all(row.state == "finished" for row in swift.jobs.rows))
    temperatures = {
        jobs.Queue.open(swift.queue).job(row.id).result().summary["task"].get("temperature") for row in swift.jobs.rows
    }
    assert temperatures == {None, 300.0, 1200.0}
    # Opening one shows them side by side, the colder one first.
    swift.jobs.select(swift.jobs.rows[0].id)
    swift.jobs.open_result()
    swift.pump(lambda: "1200 K: C-C" in swift.jobs.texts.details)
    assert "300 K: C-C" in swift.jobs.texts.details.split("1200 K: C-C")[0]


def point(swift, item, x, y):
    """Draw a point on an image, at x and y in Å."""
    graphic = Graphics.PointGraphic()
    height, width = item.data_shape
    graphic.position = ((y / SAMPLING + 0.5) / height, (x / SAMPLING + 0.5) / width)
    swift.document.get_display_item_for_data_item(item).add_graphic(graphic)


def test_the_adsorption_energy_of_hydrogen_where_a_point_is_drawn(swift):
    """H on top of the carbon pointed at: a bond of about an electronvolt, at that place, and no defect of the sheet."""
    item = keep(swift.document, graphene())
    swift.show(item)
    swift.rectangle(item, ((0.35, 0.35), (0.3, 0.3)))
    target = graphene().positions[np.argmin(np.linalg.norm(graphene().positions - [13.0, 11.5], axis=1))]
    point(swift, item, *(target + 0.2))
    swift.previewed()
    bare = swift.simulate.texts.structure
    swift.simulate.adsorb = "H"
    swift.pump(lambda: swift.simulate.texts.structure not in (bare, ""))
    without = swift.simulate.texts.structure
    swift.simulate.task_index = simulate_settings.ADSORPTION
    swift.pump(lambda: swift.simulate.texts.structure != without or "odd" not in swift.simulate.texts.structure)
    swift.jobs.start()
    swift.simulate.export()
    swift.pump(lambda: "Submitted" in swift.simulate.texts.message)
    swift.pump(lambda: swift.jobs.rows and swift.jobs.rows[0].is_over)
    swift.jobs.select(swift.jobs.rows[0].id)
    swift.pump(lambda: "adsorption energy" in swift.jobs.texts.details)
    result = jobs.Queue.open(swift.queue).job(swift.jobs.rows[0].id).result()
    assert "defects" not in swift.jobs.texts.details
    # DFT has 0.7 to 0.9 eV on graphene; where the patch itself is a radical it is more, and the panel says so.
    radical = int(result.atoms.numbers[~result.atoms.arrays["adsorbate"]].sum()) % 2
    assert ("odd number of electrons" in swift.simulate.texts.structure) == bool(radical)
    assert 0.5 < result.summary["adsorption_energy"] < (2.5 if radical else 1.5)
    added = result.atoms.arrays["adsorbate"]
    assert added.sum() == 1
    assert structure.to_image(result.atoms)[added][0] == pytest.approx(target, abs=0.4)
    # What came with the image is in the result: image, model, atoms, structure, calculation.
    provenance = result.summary["provenance"]
    assert provenance["model"]["version"] == "abc123"
    assert provenance["adsorb"] == "H"
    digests = [provenance["image_sha256"], provenance["atoms_sha256"], *provenance["hashes"].values()]
    assert {len(digest) for digest in digests} == {64}


def test_variants_of_the_structure_are_calculated_beside_it(swift):
    """Their energies differ before they are relaxed, as their atoms are where else the image allows them."""
    item = keep(swift.document, graphene())
    swift.show(item)
    swift.rectangle(item, ((0.4, 0.4), (0.2, 0.2)))
    swift.simulate.variants = "2"
    swift.jobs.start()
    swift.simulate.export()
    swift.pump(lambda: "3 jobs" in swift.simulate.texts.message)
    swift.pump(lambda: len(swift.jobs.rows) == 3 and all(row.is_over for row in swift.jobs.rows))
    queue = jobs.Queue.open(swift.queue)
    first = [queue.job(row.id).calculation.history()["energy"][0] for row in swift.jobs.rows]
    last = [queue.job(row.id).result().energy for row in swift.jobs.rows]
    assert len(set(np.round(first, 3))) == 3
    assert np.ptp(last) < 0.2 * np.ptp(first)
    assert sum("variant" in row.title for row in swift.jobs.rows) == 2


def test_what_was_chosen_is_remembered(swift, monkeypatch):
    """In the next start of Swift, also an engine that is listed only later; nonsense is not taken."""
    kept = {}
    ui = swift.window.ui
    monkeypatch.setattr(ui, "get_persistent_string", lambda key, default=None: kept.get(key, default))
    monkeypatch.setattr(ui, "set_persistent_string", kept.__setitem__)
    swift.simulate.start()
    swift.pump(lambda: swift.simulate.engines)
    swift.simulate.fmax, swift.simulate.fixed_index, swift.simulate.adsorb = "0.01", 2, "CH3"
    swift.simulate.engine_index = [name for name, _, _ in swift.simulate.engines].index("gfn2")
    swift.simulate.close()
    again = simulate_model.SimulateModel(swift.window, lambda: None, queue=str(swift.queue))
    try:
        assert (again.fmax, again.fixed_index, again.adsorb) == ("0.01", 2, "CH3")
        again.start()
        swift.pump(lambda: again.engines)
        assert again.engines[again.engine_index][0] == "gfn2"
    finally:
        again.close()
    nonsense = '{"fixed_index": 17, "fmax": 3, "cell_index": 1, "colour": "red"}'
    ui.set_persistent_string(simulate_settings.KEY, nonsense)
    assert simulate_settings.Settings.load(ui) == simulate_settings.Settings(cell_index=1)


def test_a_job_can_be_cancelled_and_tried_again(swift):
    swift.show(keep(swift.document, graphene(40.0)))
    swift.simulate.region_index, swift.simulate.fmax = 1, "0.0001"
    swift.jobs.start()
    swift.simulate.export()
    swift.pump(lambda: swift.jobs.rows and swift.jobs.rows[0].state == "running")
    swift.jobs.select(swift.jobs.rows[0].id)
    assert swift.jobs.can_cancel
    assert not swift.jobs.can_retry
    assert not swift.jobs.can_open
    swift.jobs.cancel()
    swift.pump(lambda: swift.jobs.rows[0].state == "cancelled")
    assert swift.jobs.can_retry
    assert swift.jobs.can_start_over
    swift.jobs.retry()
    swift.pump(lambda: swift.jobs.rows[0].state in ("queued", "running"))
    assert not swift.jobs.can_start_over
    swift.jobs.cancel()
    swift.pump(lambda: swift.jobs.rows[0].state == "cancelled")
    folder = swift.queue / "jobs" / swift.jobs.rows[0].id
    swift.pump(lambda: not is_worked_on(folder))
    (folder / "history.csv").write_bytes(b"what it wrote")  # it may not have come to its first step
    swift.jobs.start_over()
    swift.pump(lambda: swift.jobs.rows[0].state in ("queued", "running"))
    assert [path.read_bytes() for path in (folder / "set_aside").rglob("history.csv")] == [b"what it wrote"]
    swift.jobs.cancel()
    swift.pump(lambda: swift.jobs.rows[0].state == "cancelled")


def test_a_killed_process_is_said_and_started_again(swift):
    swift.show(keep(swift.document, graphene()))
    swift.simulate.region_index = 1
    swift.pump(lambda: swift.simulate.texts.structure)
    bench = swift.simulate._SimulateModel__bench
    os.kill(bench._process.pid, signal.SIGKILL)
    swift.previewed()
    swift.pump(lambda: swift.simulate.texts.structure)  # the next question starts another one


def test_a_queue_that_cannot_be_read_is_a_sentence_in_the_panel(swift):
    swift.queue.mkdir(parents=True)
    (swift.queue / "config.json").write_text("not JSON")
    swift.jobs.start()
    swift.pump(lambda: "config.json" in swift.jobs.texts.summary)


# --- the panels as widgets --------------------------------------------------------------------------------------------


def test_the_table_draws_every_state_in_little_time(swift):
    """A thousand jobs, all of them new: the user interface thread is held for a few milliseconds."""
    states = ["running", "queued", "waiting", "finished", "failed", "cancelled"]
    rows = [
        {
            "id": f"{k}", "title": f"relax C91H27 · frame {k}", "state": states[k % 6], "fraction": 0.5, "image": "",
            "error": "It failed." if states[k % 6] == "failed" else "", "seconds_left": 30.0, "created": 0.0,
            "progress": {"step": k, "energy": -1.0, "fmax": 0.1, "temperature": 0.0} if k % 6 == 0 else {},
        }
        for k in range(100)
    ]  # fmt: skip
    times = []
    for shift in range(20):
        answer = remote.Answer({"rows": rows[shift:], "total": 1000, "active": 500, "worker": False})
        swift.jobs._JobsModel__listed(answer)
        swift.jobs.select(rows[shift]["id"])
        start = time.thread_time()
        swift.window.periodic()
        times.append(time.thread_time() - start)
        assert len(swift.jobs.rows) == 100 - shift
    assert "stem-ae worker" in swift.jobs.texts.summary
    assert np.median(times) < 0.005
    context = DrawingContext.DrawingContext()
    table = swift.jobs_handler.table
    for index, row in enumerate(table.items[:6]):
        table.paint_item(context, row, Geometry.IntRect.from_tlbr(36 * index, 0, 36 * index + 36, 340), False)
    drawn = [command[1] for command in context.commands if command[0] == "fillText"]
    assert set(states) <= set(drawn)
    assert table.item_tool_tip(next(k for k, row in enumerate(table.items) if row.error)) == "It failed."


@pytest.mark.gui
@pytest.mark.slow
def test_in_the_real_application_a_scanned_dopant_comes_back_relaxed(tmp_path, monkeypatch):
    """From a scan of the simulated microscope through the networks to a relaxation, drawn on its frame."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    try:
        said = run_scenario(
            "simulate_scenarios:relax_a_patch", tmp_path / "swift", virtual=sys.platform == "linux", timeout_s=280,
            pictures=str(tmp_path),
        )  # fmt: skip
    finally:
        end_worker(tmp_path / "stem_ae" / "queue")
    assert "held fixed" in said["structure"]
    assert "C-Si" in said["details"]
    assert "dopant Si" in said["details"]
    assert sum("simulated image" in title for title in said["titles"]) == 2
    spot = said["spots"][0]  # the strained place is at the silicon in the patch
    assert np.hypot(spot["x"] - 16.2, spot["y"] - 17.8) < guidance.REACH
    picture = np.asarray(Image.open(tmp_path / "jobs_panel.png").convert("RGB")).astype(int)
    differs = [int(simulate_overlay.DIFFERS[k : k + 2], 16) for k in (1, 3, 5)]
    assert np.all(np.abs(picture - differs) < 40, axis=-1).sum() > 30


# --- ranking ----------------------------------------------------------------------------------------------------------


def test_the_uncertain_place_is_ranked_first():
    atoms = graphene(40.0)
    odd = int(np.argmin(np.linalg.norm(atoms.positions - [12.0, 27.0], axis=1)))
    atoms.covariance[odd] *= 30
    spot = guidance.spots(atoms.positions, guidance.uncertainty(atoms))[0]
    assert np.hypot(spot.x - 12.0, spot.y - 27.0) < guidance.REACH + 1.0
    assert spot.score == pytest.approx(math.log(30), rel=1e-6)  # ½ ln det, two dimensions


def test_spots_are_apart_and_never_of_nothing():
    xy = np.random.default_rng(0).uniform(0, 50, (300, 2))
    found = guidance.spots(xy, np.random.default_rng(1).normal(size=300))
    assert 1 <= len(found) <= 5
    scores = [spot.score for spot in found]
    assert scores == sorted(scores, reverse=True)
    for k, one in enumerate(found):
        assert all(np.hypot(one.x - other.x, one.y - other.y) > 2 * guidance.REACH for other in found[:k])
    assert guidance.spots(xy, -np.ones(300)) == []
    assert guidance.spots(np.empty((0, 2)), np.empty(0)) == []
    assert guidance.spots(xy, np.full(300, np.nan)) == []


def test_disagreement_is_where_theory_contradicts_the_image():
    """An atom that the image has 0.5 Å off is found; its edge and its hydrogen do not count."""
    relaxed = structure.build(graphene(noise=0.03), structure.around(12.0, 12.0, 6.0))
    wrong = int(np.argmin(np.linalg.norm(relaxed.positions[:, :2] - relaxed.positions[:, :2].mean(axis=0), axis=1)))
    relaxed.arrays["image_position"][wrong, 0] += 0.5
    scores = guidance.disagreement(relaxed)
    assert np.nanargmax(scores) == wrong
    assert scores[wrong] == pytest.approx(0.5**2 / (0.03**2 + 0.02**2) / 2 - 1, rel=0.1)
    assert np.isnan(scores[relaxed.numbers == 1]).all()
    assert np.isnan(scores[relaxed.arrays["perimeter"]]).all()


def test_excess_energy_is_that_of_strained_atoms():
    """Of a stretched bond's two atoms, by the engine's own partition."""
    patch = structure.build(graphene(noise=0.0), structure.around(12.0, 12.0, 6.0))
    assert np.isnan(guidance.excess_energy(patch)).all()  # nothing was calculated
    centre = patch.positions[:, :2].mean(axis=0)
    moved = int(np.argmin(np.linalg.norm(patch.positions[:, :2] - centre, axis=1)))
    patch.positions[moved, 0] += 0.3
    patch.calc = engines.get("gfn1").make(patch, pathlib.Path())
    patch.set_array("atom_energy", patch.get_potential_energies())
    assert patch.arrays["atom_energy"].sum() == pytest.approx(patch.get_potential_energy(), rel=1e-6)
    scores = guidance.excess_energy(patch)
    xy = structure.to_image(patch)
    spot = guidance.spots(xy, scores)[0]
    assert np.hypot(*(xy[moved] - [spot.x, spot.y])) < guidance.REACH
    assert spot.score > 0.5
