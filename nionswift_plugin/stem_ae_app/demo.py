"""What ``stem-ae swift --simulate`` and ``stem-ae demo`` do in the window: scan, find atoms, keep a snapshot."""

from __future__ import annotations

import asyncio
import json
import pathlib
import typing

import numpy
from nion.instrumentation import stem_controller
from nion.swift import DocumentController
from nion.swift.model import DataItem, DisplayItem
from nion.utils import Geometry, Registry

from nionswift_plugin import stem_ae_sim
from nionswift_plugin.stem_ae_app import screen
from nionswift_plugin.stem_ae_ui.atoms_panel import AtomsPanel
from stem_ae.errors import StemAeError
from stem_ae.imaging import catalogue
from stem_ae.store import models

SNAPSHOT_KEY = "stem_ae"


async def live(window: DocumentController.DocumentController) -> None:
    """Leave the user with a scanning microscope and rings on its atoms."""
    screen.fill_screen(window)
    scan = simulated_scan()
    atoms = show(window, scan)
    beside(window)
    choose_fitting_model(atoms)
    await scanning(window, scan)
    atoms.start()


async def demonstrate(
    window: DocumentController.DocumentController, output: str, stages: list[dict[str, typing.Any]], seconds: float
) -> list[dict[str, typing.Any]]:
    """Show each specimen live for some seconds and keep a snapshot, its files and a picture of the screen.

    Parameters
    ----------
    window : DocumentController
        Swift's window.
    output : str
        Folder for the files.
    stages : list of dict
        ``name`` (for the files), ``specimen`` (of the simulator's catalogue), ``model``, ``fov_nm``, ``dwell_us``.
    seconds : float
        How long to look at each.
    """
    screen.fill_screen(window)
    scan = simulated_scan()
    atoms = show(window, scan)
    beside(window)
    answers = []
    for stage in stages:
        folder = pathlib.Path(output, stage["name"])
        folder.mkdir(parents=True, exist_ok=True)
        await prepare(window, scan, stage)
        atoms.model_index = atoms.model_names.index(stage["model"])
        atoms.start()
        await screen.wait_until(lambda: atoms.texts.status.startswith("Live"), "rings on the live image", 90)
        await asyncio.sleep(seconds)
        answers.append(await keep(window, atoms, folder))
        atoms.stop()
        scan.abort_playing(sync_timeout=3.0)
    return answers


def simulated_scan() -> typing.Any:
    """Return the scan of the microscope that Swift controls.

    Raises
    ------
    StemAeError
        If that is not the simulated one.
    """
    stem = typing.cast(stem_controller.STEMController | None, Registry.get_component("stem_controller"))
    if stem is None or stem_ae_sim.current() is None:
        raise StemAeError("The simulated microscope did not start: Swift's log says why.")
    return stem.scan_controller


def show(window: DocumentController.DocumentController, scan: typing.Any) -> typing.Any:
    """Show the panels that are needed, and return the Atoms panel's model."""
    panels = screen.workspace(window).dock_panels
    simulator = [panel.panel_id for panel in panels if "simulator" in panel.panel_id]
    screen.show_only(window, f"scan-control-panel-{scan.hardware_source_id}", AtomsPanel.panel_id, *simulator)
    return next(panel for panel in panels if isinstance(panel, AtomsPanel)).model


def choose_fitting_model(atoms: typing.Any) -> None:
    """Choose a model made for the specimen, unless the last one used is."""
    simulator = stem_ae_sim.current()
    assert simulator is not None
    material = catalogue.entry(simulator.specimen_name).material if simulator.specimen_name else ""
    chosen = atoms.model_names[atoms.model_index] if atoms.model_index is not None else ""
    if material in atoms.model_names and not (chosen and models.material(chosen) == material):
        atoms.model_index = atoms.model_names.index(material)


def beside(window: DocumentController.DocumentController) -> None:
    """Make room for the uncertainty map beside the image, once."""
    workspace = screen.workspace(window)
    if len(workspace.display_panels) == 1:
        workspace.insert_display_panel(workspace.display_panels[0], "right", new_splits=[0.66, 0.34])
        # Swift's paint thread may look between the new display and its share of the width; it then gives up for good,
        # unless the splitter is made to start again.
        if splitter := workspace.display_panels[0].container:
            window.event_loop.call_later(0.5, splitter.update)


async def scanning(window: DocumentController.DocumentController, scan: typing.Any) -> DataItem.DataItem:
    """Start the scan, put its image into the first display and return its data item."""
    scan.start_playing()
    document = window.document_model
    reference = document.get_data_item_reference(f"{scan.hardware_source_id}_a")

    def displayable() -> DisplayItem.DisplayItem | None:
        # The scan's thread refers to its new data item before that is in the document, where it gets its display.
        item = reference.data_item
        return document.get_any_display_item_for_data_item(item) if item else None

    display_item = await screen.wait_until(displayable, "the first frame of the scan")
    screen.workspace(window).display_panels[0].set_display_panel_display_item(display_item)
    return typing.cast(DataItem.DataItem, reference.data_item)


async def prepare(
    window: DocumentController.DocumentController, scan: typing.Any, stage: dict[str, typing.Any]
) -> None:
    """Put the stage's specimen under the beam and scan it."""
    simulator = stem_ae_sim.current()
    assert simulator is not None
    simulator.choose_specimen(stage["specimen"])
    parameters = scan.get_frame_parameters(scan.selected_profile_index)
    parameters.pixel_size = Geometry.IntSize(256, 256)
    parameters.fov_nm = stage["fov_nm"]
    parameters.pixel_time_us = stage["dwell_us"]
    scan.set_frame_parameters(scan.selected_profile_index, parameters)
    await scanning(window, scan)


async def keep(
    window: DocumentController.DocumentController, atoms: typing.Any, folder: pathlib.Path
) -> dict[str, typing.Any]:
    """Press Snapshot; leave its files, the frame, the uncertainty map and the truth in the folder."""
    picture = screen.grab(folder / "screen.png")
    statistics = atoms.texts.statistics
    known = set(window.document_model.data_items)
    atoms.settings.folder = str(folder)
    atoms.snapshot()
    await asyncio.sleep(0.5)
    kept = [item for item in window.document_model.data_items if item not in known]
    for item in kept:
        numpy.save(folder / f"{item.metadata[SNAPSHOT_KEY]['kind']}.npy", numpy.asarray(item.data))
    simulator = stem_ae_sim.current()
    assert simulator is not None
    positions, names = simulator.truth_in_frame()
    (folder / "truth.json").write_text(json.dumps({"positions": positions.tolist(), "names": names}), encoding="utf-8")
    return {"folder": str(folder), "screen": picture, "statistics": statistics, "message": atoms.texts.message}
