"""The Simulate and Jobs panels inside the real Nion Swift: from a scanned image to a result on it."""

import asyncio
import pathlib

from nion.swift.model import Graphics
from nion.utils import Geometry

from nionswift_plugin.stem_ae_app import demo, screen
from nionswift_plugin.stem_ae_ui.atoms_panel import AtomsPanel
from nionswift_plugin.stem_ae_ui.jobs_panel import JobsPanel
from nionswift_plugin.stem_ae_ui.simulate_panel import SimulatePanel


def panel(window, kind):
    return next(p for p in screen.workspace(window).dock_panels if isinstance(p, kind))


async def scan_once(window, fov_nm=4.0, size=256, dwell_us=16.0):
    """Scan graphene with silicon, find its atoms, stop, and return the frame's data item."""
    scan = demo.simulated_scan()
    parameters = scan.get_frame_parameters(scan.selected_profile_index)
    parameters.pixel_size = Geometry.IntSize(size, size)
    parameters.fov_nm, parameters.pixel_time_us = fov_nm, dwell_us
    scan.set_frame_parameters(scan.selected_profile_index, parameters)
    item = await demo.scanning(window, scan)
    atoms = panel(window, AtomsPanel).model
    atoms.source_index, atoms.model_index = 0, atoms.model_names.index("graphene")
    atoms.start()
    await screen.wait_until(lambda: atoms.texts.status.startswith("Live"), "rings", 120)
    scan.abort_playing(sync_timeout=5.0)
    return item


async def relax_a_patch(window, pictures=""):
    """Preview, submit and get back a patch; return what the panels say, and leave pictures if a folder is given."""
    screen.fill_screen(window)
    workspace = screen.workspace(window)
    screen.show_only(window, SimulatePanel.panel_id)
    demo.beside(window)
    await asyncio.sleep(1.0)
    item = await scan_once(window)
    simulate, jobs = panel(window, SimulatePanel).model, panel(window, JobsPanel).model
    simulate.start()
    display = workspace.display_panels[0]
    display.request_focus()
    graphic = Graphics.RectangleGraphic()
    graphic.bounds = Geometry.FloatRect.from_center_and_size(
        Geometry.FloatPoint(0.5, 0.5), Geometry.FloatSize(0.32, 0.32)
    )
    window.document_model.get_display_item_for_data_item(item).add_graphic(graphic)
    simulate.fixed_index = 1
    await screen.wait_until(lambda: simulate.texts.structure, lambda: f"a preview ({simulate.texts})")
    structure = simulate.texts.structure
    workspace.display_panels[0].container.update()  # as in demo.beside
    await asyncio.sleep(1.0)
    if pictures:
        screen.grab(pathlib.Path(pictures, "simulate_panel.png"))
    screen.show_only(window, JobsPanel.panel_id)
    jobs.start()
    await screen.wait_until(lambda: jobs.texts.summary, "the list of jobs")
    for kind in range(2):
        simulate.fixed_index = kind
        simulate.export()
        await screen.wait_until(
            lambda: "Submitted" in simulate.texts.message, lambda: f"a submission ({simulate.texts})"
        )
        await screen.wait_until(lambda n=kind: len(jobs.rows) == n + 1, "the job in the list")
    done = lambda: [row for row in jobs.rows if row.state == "finished"]  # noqa: E731
    await screen.wait_until(lambda: len(done()) == 2, lambda: f"two finished jobs ({jobs.rows})", 200)
    await screen.wait_until(lambda: "C-C" in jobs.texts.details, "the result")
    frame = next(i for i in window.document_model.data_items if str(i.uuid) == jobs.rows[0].image)
    display.set_display_panel_data_item(frame)
    simulated = [i for i in window.document_model.data_items if "simulated" in i.title]
    workspace.display_panels[1].set_display_panel_data_item(simulated[-1])
    jobs.ranking_index = 1
    jobs.notify_property_changed("ranking_index")
    jobs.rank()
    await screen.wait_until(lambda: jobs.spots or jobs.texts.message, "a ranking")
    await asyncio.sleep(1.0)
    if pictures:
        screen.grab(pathlib.Path(pictures, "jobs_panel.png"))
    titles = [i.title for i in window.document_model.data_items]
    return {
        "structure": structure, "details": jobs.texts.details, "spots": jobs.spots, "titles": titles,
        "submitted": simulate.texts.message,
    }  # fmt: skip
