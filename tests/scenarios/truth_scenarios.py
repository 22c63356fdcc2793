"""What the panels say in the real Nion Swift when the model fits and when it does not."""

import asyncio
import pathlib

from nion.utils import Geometry

from nionswift_plugin import stem_ae_sim
from nionswift_plugin.stem_ae_app import demo, screen
from nionswift_plugin.stem_ae_ui import jobs_model
from nionswift_plugin.stem_ae_ui.atoms_panel import AtomsPanel
from nionswift_plugin.stem_ae_ui.explorer_panel import ExplorerPanel
from nionswift_plugin.stem_ae_ui.jobs_panel import JobsPanel

GRAPHENE = {"specimen": "graphene with silicon", "model": "graphene", "fov_nm": 4.0, "dwell_us": 4.0}


def panel(window, kind):
    return next(p for p in screen.workspace(window).dock_panels if isinstance(p, kind))


async def headlines(window, pictures):
    """Look at specimens with models that fit them and that do not; return what the Atoms panel says about each."""
    folder = pathlib.Path(pictures)
    screen.fill_screen(window)
    scan, simulator = demo.simulated_scan(), stem_ae_sim.current()
    atoms = demo.show(window, scan)
    demo.beside(window)
    await demo.prepare(window, scan, GRAPHENE)
    said = {}

    async def look(name, model, condition):
        if atoms.model_names[atoms.model_index] != model:
            atoms.model_index = atoms.model_names.index(model)
        if not atoms.is_running:
            atoms.start()
        await screen.wait_until(condition, lambda: f"{name}: {atoms.texts}", 90)
        await asyncio.sleep(1.0)
        said[name] = [atoms.texts.status, atoms.texts.status_color, atoms.texts.hint]
        screen.grab(folder / f"{name}.png")

    await look("fitting", "graphene", lambda: atoms.texts.status.startswith("Live") and not atoms.texts.hint)
    said["flicker"] = await colours(atoms, 6.0)
    simulator.choose_specimen("MoS2 with vacancies")
    await look("wrong_model", "graphene", lambda: "looks like MoS2" in atoms.texts.hint)
    await look("fitting_again", "mos2", lambda: atoms.texts.status.startswith("Live") and not atoms.texts.hint)
    simulator.instrument.SetVal("C10", 10e-9)
    await look("defocused", "mos2", lambda: "adapt the model" in atoms.texts.hint)
    simulator.instrument.SetVal("C10", 0.0)
    simulator.microscope.load(simulator.microscope.specimen[:0])
    await look("empty", "mos2", lambda: "in view and in focus" in atoms.texts.hint)
    simulator.choose_specimen("MoS2 with vacancies")
    scan.subscan_region = Geometry.FloatRect.from_tlbr(0.2, 0.3, 0.7, 0.8)
    scan.subscan_enabled = True
    await look("sub_scan", "mos2", lambda: "in the sub-scan" in atoms.texts.status and not atoms.texts.hint)
    said["displayed"] = [p.data_item.title if p.data_item else "" for p in screen.workspace(window).display_panels]
    scan.subscan_enabled = False
    scan.abort_playing(sync_timeout=3.0)
    return said


async def colours(atoms, seconds):
    """Return the colours that the headline has in some seconds."""
    seen = [atoms.texts.status_color]
    remove = atoms.property_changed_event.listen(
        lambda name: seen.append(atoms.texts.status_color) if seen[-1] != atoms.texts.status_color else None
    )
    await asyncio.sleep(seconds)
    del remove
    return seen


async def adapting(window, picture):
    """Adapt to a defocused frame for a while, and cancel; return what was said and where the button was."""
    screen.fill_screen(window)
    scan = demo.simulated_scan()
    atoms = demo.show(window, scan)
    await demo.prepare(window, scan, GRAPHENE)
    stem_ae_sim.current().instrument.SetVal("C10", 8e-9)
    atoms.model_index = atoms.model_names.index("graphene")
    atoms.start()
    await screen.wait_until(lambda: "adapt the model" in atoms.texts.hint, lambda: str(atoms.texts), 90)
    scan.abort_playing(sync_timeout=3.0)
    button = panel(window, AtomsPanel).handler.adapt_button
    said, places = [], [place_of(button)]
    button.on_clicked()
    await screen.wait_until(lambda: "left" in atoms.adapting.text, lambda: atoms.adapting.text, 300)
    said.append(atoms.adapting.text)
    places.append(place_of(button))
    screen.grab(pathlib.Path(picture))
    button.on_clicked()
    await screen.wait_until(lambda: not atoms.adapting.is_running, "the cancelling", 20)
    said.append(atoms.adapting.text)
    places.append(place_of(button))
    return {"said": said, "places": places}


def place_of(widget):
    position = widget.map_to_global(Geometry.IntPoint())
    return [position.x, position.y]


async def tables(window, pictures):
    """Select a row of the Jobs panel, mistype a number in the Explorer panel; return what is said."""
    folder = pathlib.Path(pictures)
    screen.fill_screen(window)
    screen.show_only(window, JobsPanel.panel_id, ExplorerPanel.panel_id)
    jobs, explorer = panel(window, JobsPanel), panel(window, ExplorerPanel).model
    rows = tuple(
        jobs_model.Row(
            str(k), f"relax C96H24 · HAADF {state}", state, 0.4, 340.0,
            "The forces are still 0.2 eV/Å." * (state == "failed"), "", 1.7e9 - 600 * k, {},
        )
        for k, state in enumerate(("waiting", "queued", "running", "finished", "failed", "cancelled"))
    )  # fmt: skip
    await asyncio.sleep(3.0)  # the panel's own first list
    for k in range(len(rows)):
        jobs.model._JobsModel__update(jobs_model.Table(rows, len(rows), 3))
        jobs.handler.selection.set(k)
        await asyncio.sleep(0.3)
        screen.grab(folder / f"jobs_{rows[k].state}.png")
    explorer.points = "1oo"
    await asyncio.sleep(0.5)
    screen.grab(folder / "explorer_typo.png")
    return explorer.texts.message


async def start(window, model=None):
    """Do what “stem-ae swift --simulate” does; return the model at work, and choose another one for the next start."""
    await demo.live(window)
    atoms = panel(window, AtomsPanel).model
    await screen.wait_until(lambda: atoms.texts.status.startswith("Live"), lambda: str(atoms.texts), 90)
    name, status = atoms.model_names[atoms.model_index], atoms.texts.status
    if model:
        atoms.model_index = atoms.model_names.index(model)
        await asyncio.sleep(0.5)
    demo.simulated_scan().abort_playing(sync_timeout=3.0)
    return [name, status]


async def atoms_picture(window, picture):
    """Leave a picture of the Atoms panel with rings, defects and checked networks."""
    screen.fill_screen(window)
    scan = demo.simulated_scan()
    atoms = demo.show(window, scan)
    screen.show_only(window, AtomsPanel.panel_id)
    demo.beside(window)
    stem_ae_sim.current().choose_specimen("graphene with vacancies")
    stage = GRAPHENE | {"specimen": "graphene with vacancies", "fov_nm": 5.0, "dwell_us": 8.0}
    await demo.prepare(window, scan, stage)
    atoms.defects = True
    atoms.model_index = atoms.model_names.index("graphene")
    atoms.start()
    await screen.wait_until(lambda: atoms.defect_names, lambda: str(atoms.texts), 120)
    atoms.networks.check()
    await screen.wait_until(lambda: atoms.networks.networks.items, lambda: atoms.networks.text, 60)
    atoms.defect_index = 0
    await asyncio.sleep(3.0)
    screen.grab(pathlib.Path(picture))
    scan.abort_playing(sync_timeout=3.0)
    return [atoms.texts.status, atoms.networks.text]
