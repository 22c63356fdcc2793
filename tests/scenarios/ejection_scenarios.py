"""What tests/test_ejection_real_app.py does inside the real Nion Swift."""

import asyncio
import os
import pathlib
import signal
import threading
import time

import numpy as np
from nion.swift.model import Graphics  # noqa: F401  (Swift registers its graphics with it)
from nion.utils import Geometry

from nionswift_plugin import stem_ae_sim
from nionswift_plugin.stem_ae_app import demo, screen
from nionswift_plugin.stem_ae_ui.atoms_panel import AtomsPanel
from nionswift_plugin.stem_ae_ui.ejection_choice import ROW
from nionswift_plugin.stem_ae_ui.ejection_panel import EjectionPanel
from stem_ae.imaging.specimens import mos2
from stem_ae.imaging.virtual_microscope import Conditions

FOV_A, PIXELS = 40.0, 256


def panel(window, kind):
    return next(p for p in screen.workspace(window).dock_panels if isinstance(p, kind))


async def prepare(window, data):
    """Scan MoS2 at 60 pA with the Atoms panel running, and return both models and the simulator."""
    screen.fill_screen(window)
    scan, simulator = demo.simulated_scan(), stem_ae_sim.current()
    atoms, ejection = panel(window, AtomsPanel).model, panel(window, EjectionPanel).model
    os.environ["STEM_AE_RUNS"] = data
    simulator.microscope.load(mos2((60.0, 60.0), 0.02, 0.0, rotation=8.0, seed=3))
    simulator.microscope.conditions = Conditions(drift=(1 / 60, 0.0), damage=False)
    simulator.instrument.SetVal("BeamCurrent", 60e-12)
    p = scan.get_frame_parameters(scan.selected_profile_index)
    p.pixel_size, p.fov_nm, p.pixel_time_us = Geometry.IntSize(PIXELS, PIXELS), FOV_A / 10, 1.0
    scan.set_frame_parameters(scan.selected_profile_index, p)
    screen.show_only(window, EjectionPanel.panel_id)
    await demo.scanning(window, scan)
    atoms.legend = False
    atoms.uncertainty = False
    atoms.model_index = atoms.model_names.index("mos2")
    atoms.start()
    has_sulphur = lambda: atoms.newest is not None and "S2" in atoms.newest.atoms.symbols  # noqa: E731
    await screen.wait_until(has_sulphur, lambda: str(atoms.texts), 90)
    await asyncio.sleep(1.0)
    return atoms, ejection, simulator


def choose_row(atoms, model, count):
    """Choose neighbouring S2 columns across the image."""
    model.choose(True)
    found = atoms.newest.atoms
    here = found.positions[[name == "S2" for name in found.symbols]]
    start = here[np.argmin(np.linalg.norm(here - (12, 16), axis=1))]
    model.pick_index = ROW
    turn = np.deg2rad(8.0)
    model.click(*start)
    model.click(*(start + (count - 1) * 3.16 * np.array([np.cos(turn), np.sin(turn)])))
    model.choose(False)


async def eject(window, data, picture):
    """Eject one S from each of a row of columns; return what was said and what left. The screen is grabbed."""
    atoms, model, simulator = await prepare(window, data)
    choose_row(atoms, model, 6)
    chosen = len(model.sites)
    await screen.wait_until(lambda: "a neighbour is lost in" in model.texts.estimate, "the estimate")
    estimate = model.texts.estimate
    simulator.microscope.conditions = Conditions(drift=(1 / 60, 0.0))
    model.arm()
    model.run()
    await screen.wait_until(lambda: model.is_running, lambda: str(model.texts), 30)
    half = lambda: not model.is_running or model.states.count("done") >= chosen // 2  # noqa: E731
    await screen.wait_until(half, lambda: str(model.texts), 100)
    screen.grab(pathlib.Path(picture))
    await screen.wait_until(lambda: not model.is_running, lambda: str(model.texts), 100)
    await asyncio.sleep(1.0)
    screen.grab(pathlib.Path(picture).with_name("after.png"))
    return {
        "chosen": chosen, "estimate": estimate, "message": model.texts.message, "states": model.states,
        "blanked": simulator.instrument.is_blanked,
        "left": [e.symbol for e in simulator.microscope.ejections],
    }  # fmt: skip


async def die(window, data):
    """Kill Swift in the middle of an exposure, when one target is done."""
    atoms, model, simulator = await prepare(window, data)
    choose_row(atoms, model, 3)
    simulator.microscope.conditions = Conditions(drift=(1 / 60, 0.0))
    model.arm()
    model.run()
    in_second = lambda: "done" in model.states and "exposing" in model.states  # noqa: E731
    await screen.wait_until(lambda: in_second() or not model.is_running, lambda: str(model.texts), 100)
    assert model.is_running, model.texts
    os.kill(os.getpid(), signal.SIGKILL)


async def go_on(window, data, picture):
    """Continue the run that the last Swift has died in, and return what is offered and what comes of it."""
    _, model, simulator = await prepare(window, data)
    await screen.wait_until(lambda: model.texts.offer, lambda: str(model.texts), 30)
    offer = model.texts.offer
    screen.grab(pathlib.Path(picture))
    model.go_on()
    states, dose, note = model.states, model.texts.dose, model.texts.message
    model.arm()
    if model.can_confirm:
        model.confirm()
    model.run()
    await screen.wait_until(lambda: "exposing" in model.states, lambda: str(model.texts), 60)
    again = [k for k, state in enumerate(model.states) if state == "exposing"]
    screen.grab(pathlib.Path(picture).with_name("continued.png"))
    model.stop()
    await screen.wait_until(lambda: not model.is_running, lambda: str(model.texts), 30)
    await asyncio.sleep(0.5)
    screen.grab(pathlib.Path(picture).with_name("stopped.png"))
    return {
        "offer": offer, "states": states, "dose": dose, "note": note, "again": again, "status": model.texts.status,
        "color": model.texts.status_color, "blanked": simulator.instrument.is_blanked,
    }  # fmt: skip


def when_blanked(instrument):
    """Wait until the beam is off and return the time; what Stop does after that takes no part."""
    while not instrument.is_blanked:
        time.sleep(0.001)
    return time.perf_counter()


async def stop_and_close(window, data):
    """Stop in the middle of an exposure and return how long it took until the beam was off; then leave another running.

    Swift closes its window with that run under way: what the log then holds is for the test.
    """
    atoms, model, simulator = await prepare(window, data)
    choose_row(atoms, model, 3)
    model.arm()
    model.run()
    await screen.wait_until(lambda: "exposing" in model.states, lambda: str(model.texts), 60)
    seen = []
    watch = threading.Thread(target=lambda: seen.append(when_blanked(simulator.instrument)))
    watch.start()
    start = time.perf_counter()
    model.stop()
    blanked = simulator.instrument.is_blanked
    watch.join(5.0)
    seconds = seen[0] - start
    await screen.wait_until(lambda: not model.is_running, lambda: str(model.texts), 30)
    simulator.instrument.SetVal("C_Blank", 0.0)  # as the user would
    demo.simulated_scan().start_playing()
    await asyncio.sleep(3.0)
    model.arm()
    model.run()
    await screen.wait_until(lambda: "exposing" in model.states, lambda: str(model.texts), 60)
    panel(window, EjectionPanel).handler.close()  # as closing the window does
    return {"seconds": seconds, "blanked": blanked, "blanked_after_closing": simulator.instrument.is_blanked}
