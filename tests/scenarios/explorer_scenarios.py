"""The Explorer panel inside the real Nion Swift: from a survey to maps, with a click, a pause and another property."""

import asyncio
import pathlib

import numpy as np
from nion.utils import Geometry

from nionswift_plugin import stem_ae_sim
from nionswift_plugin.stem_ae_app import demo, screen
from nionswift_plugin.stem_ae_ui.explorer_panel import ExplorerPanel


def split(window):
    """Make room: the survey on the left, two by two displays beside it."""
    workspace = screen.workspace(window)
    panels = lambda: workspace.display_panels  # noqa: E731
    workspace.insert_display_panel(panels()[0], "right", new_splits=[0.4, 0.6])
    workspace.insert_display_panel(panels()[1], "right", new_splits=[0.5, 0.5])
    for panel in panels()[1:]:
        workspace.insert_display_panel(panel, "bottom", new_splits=[0.5, 0.5])


async def explore(window, output, picture=""):
    """Explore LSMO for pillars of NiO by their plasmons, and return what the panel says and how it behaved."""
    screen.fill_screen(window)
    screen.show_only(window, ExplorerPanel.panel_id)
    split(window)
    simulator, scan = stem_ae_sim.current(), demo.simulated_scan()
    simulator.choose_specimen("NiO pillars in LSMO")
    parameters = scan.get_frame_parameters(scan.selected_profile_index)
    parameters.pixel_size, parameters.fov_nm = Geometry.IntSize(256, 256), 12.0
    parameters.pixel_time_us = 8.0
    scan.set_frame_parameters(scan.selected_profile_index, parameters)
    model = next(p for p in screen.workspace(window).dock_panels if isinstance(p, ExplorerPanel)).model
    model.folder, model.points, model.batch = output, "80", "10"
    model.step = "4"
    model.property_words = "15-45"
    model.add_property()
    model.others.items[0].words = "640-700, 15-45"
    await asyncio.sleep(1.0)
    say = lambda: str(model.texts)  # noqa: E731
    model.survey()
    await screen.wait_until(lambda: model.texts.status.startswith("Survey taken"), say, 60)
    model.preview()
    await screen.wait_until(lambda: "band integral = " in model.texts.value, say, 60)
    preview = model.texts.value
    model.start()
    await screen.wait_until(lambda: model.exploration and len(model.exploration.points) >= 20, say, 120)
    for splitter in {panel.container for panel in screen.workspace(window).display_panels}:
        splitter.update()  # as in demo.beside
    model.force(128.0, 128.0)
    model.pause()
    await screen.wait_until(lambda: model.is_paused, say)
    blanked = simulator.instrument.is_blanked
    model.pause()
    await screen.wait_until(lambda: len(model.exploration.points) >= 78, say, 200)
    await asyncio.sleep(0.3)
    if picture:
        screen.grab(pathlib.Path(picture))
    await screen.wait_until(lambda: model.texts.status.startswith("Done"), say, 120)
    measured, values = list(model.exploration.points), list(model.exploration.values)
    model.property_words = "640-700"
    (prediction,) = [item for item in window.document_model.data_items if "Prediction" in item.title]
    await screen.wait_until(lambda: prediction.metadata["stem_ae"]["words"] == model.property_words, say)
    return {
        "preview": preview, "blanked_while_paused": blanked, "blanked": simulator.instrument.is_blanked,
        "points": measured, "values": [float(v) for v in np.nan_to_num(values)], "status": model.texts.status,
        "message": model.texts.message, "titles": [item.title for item in window.document_model.data_items],
    }  # fmt: skip
