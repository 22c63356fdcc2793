"""What tests/test_real_app.py does inside the real Nion Swift."""

import asyncio
import pathlib

import numpy as np

from nionswift_plugin.stem_ae_app import screen
from nionswift_plugin.stem_ae_ui.atoms_panel import AtomsPanel


def atoms_model(window):
    return next(p for p in screen.workspace(window).dock_panels if isinstance(p, AtomsPanel)).model


async def fail(window):
    raise ValueError("as ordered")


async def hang(window):
    await asyncio.sleep(1000)


async def panels(window):
    return [panel.panel_id for panel in screen.workspace(window).dock_panels]


async def set_threshold(window, value):
    atoms_model(window).settings.threshold = value
    atoms_model(window).settings_changed()
    await asyncio.sleep(0.5)


async def get_threshold(window):
    return atoms_model(window).settings.threshold


async def unusable_images(window, images):
    """Display each image with the Atoms panel running and return what the panel says about it."""
    from nion.swift.model import DataItem

    model = atoms_model(window)
    model.source_index = len(model.source_names) - 1  # the displayed image
    model.model_index = model.model_names.index("graphene")
    display = screen.workspace(window).display_panels[0]
    model.start()
    said = [""]
    for path in images:
        item = DataItem.DataItem(np.load(path))
        window.document_model.append_data_item(item)
        display.set_display_panel_data_item(item)
        display.request_focus()
        is_answered = lambda: model.texts.message not in said  # noqa: E731
        await screen.wait_until(is_answered, f"an answer to {path}")
        said.append(model.texts.message)
    model.stop()
    return said[1:]


async def rings_on_an_image(window, image, picture):
    """Display an image without a calibration, press Start, and return what was chosen and found."""
    from nion.swift.model import DataItem

    screen.fill_screen(window)
    model = atoms_model(window)
    model.source_index = len(model.source_names) - 1  # the displayed image
    display = screen.workspace(window).display_panels[0]
    item = DataItem.DataItem(np.load(image))
    window.document_model.append_data_item(item)
    display.set_display_panel_data_item(item)
    display.request_focus()
    model.start()
    await screen.wait_until(lambda: model.newest, lambda: str(model.texts))
    await asyncio.sleep(1.0)
    screen.grab(pathlib.Path(picture))
    atoms = model.newest.atoms
    chosen, sampling = model.model_names[model.model_index], model.texts.sampling
    model.stop()
    return {"model": chosen, "sampling": sampling, "known": atoms.sampling, "positions": atoms.positions.tolist()}
