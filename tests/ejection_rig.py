"""Headless Swift with the simulated microscope and the Eject panel, for tests and benchmarks.

Atoms are found by the real networks, or, where that is not the point, taken from the simulated frame itself.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import time
import unittest.mock
from collections.abc import Iterator
from typing import Any

import numpy as np
from nion.instrumentation.test import AcquisitionTestContext
from nion.swift import Facade
from nion.swift.test import TestContext
from nion.ui import DrawingContext
from nion.utils import Geometry

import nionswift_plugin.stem_ae_ui as plugin
from nionswift_plugin.stem_ae_sim.configuration import AtomicMicroscope
from nionswift_plugin.stem_ae_ui import atoms_panel, ejection_panel
from nionswift_plugin.stem_ae_ui.beam_watch import WATCH
from stem_ae import Atoms2D, StemAeError, elit
from stem_ae.elit.prediction import Prediction
from stem_ae.imaging.specimens import mos2
from stem_ae.imaging.virtual_microscope import Conditions

Facade.initialize()

load = functools.cache(elit.load)

SPECIES = ("Mo", "S2", "S1")
WEIGHTS = np.array([0.041, 0.0168, 0.0084])


class Truth:
    """What the simulated microscope has put into its last frame, with errors of 3 pm: a finder without networks."""

    name, version, species, lattice_constant = "mos2", "truth", SPECIES, 3.16

    def __init__(self, simulator: AtomicMicroscope) -> None:
        self._simulator, self._rng = simulator, np.random.default_rng(0)
        self.fault: Exception | type[Exception] | None = None
        """Raised instead."""

    def __len__(self) -> int:
        return 1

    def predict(self, image: Any, sampling: Any, threshold: float = 0.5, classes: str = "network") -> Prediction:
        """Return the truth of the last frame; nothing of a dark one."""
        if self.fault is not None:
            raise self.fault("The model is gone.") if isinstance(self.fault, type) else self.fault
        pixels = np.asarray(getattr(image, "values", image))
        frame = self._simulator.scan_device.last_frame
        xy, names = frame.truth() if frame is not None and pixels.any() else (np.zeros((0, 2)), [])
        known = np.isin(names, SPECIES)
        xy, labels = xy[known], np.array([SPECIES.index(n) for n in np.array(names)[known]], int)
        n = len(labels)
        counts = WEIGHTS[labels] * (frame.electrons if frame is not None else 1.0)
        sampling = tuple(np.broadcast_to(sampling, 2).tolist())
        atoms = Atoms2D(
            xy + self._rng.normal(0, 0.03, xy.shape), np.tile(np.eye(2) * 9e-4, (n, 1, 1)), labels, SPECIES,
            np.eye(3)[labels], counts, pixels.shape, sampling,
        )  # fmt: skip
        return _Certain(np.ones((3, 4, 4), np.float32), np.zeros((4, 4), np.float32), sampling[0], atoms, 0.0)

    def find_defects(self, prediction: Prediction) -> list[Any]:
        """Return none."""
        return []

    def estimate_sampling(self, image: Any) -> tuple[float, float]:
        """Know nothing of it."""
        return 0.2, 0.0


class _Certain(Prediction):
    @property
    def presence(self) -> Any:
        return np.ones(len(self.atoms))


class Swift:
    """Headless Swift with the simulated microscope; the live frame's atoms are found by the real networks."""

    def __init__(self, folder: pathlib.Path, fov: float = 40.0, pixels: int = 200) -> None:
        self.fov, self.pixels = fov, pixels
        specimen = mos2((60.0, 60.0), 0.0, 0.0)
        conditions = Conditions(drift=(1 / 60, 0.0), damage=False)
        self.simulator = AtomicMicroscope(str(folder), specimen=specimen, conditions=conditions, seed=2)
        self.simulator.instrument.SetVal("BeamCurrent", 60e-12)
        self.truth = Truth(self.simulator)
        self.context = AcquisitionTestContext.test_context(self.simulator, is_both_cameras=True, is_app=True)
        self.window, self.scan = self.context.document_controller, self.context.scan_hardware_source
        panels = {panel.panel_id: panel for panel in self.window.workspace_controller.dock_panels}
        self.atoms = panels["stem-ae-atoms-panel"].model
        self.panel = panels["stem-ae-ejection-panel"]
        self.model, self.handler, self.banner = self.panel.model, self.panel.handler, self.panel.banner
        p = self.scan.get_current_frame_parameters()
        p.pixel_size, p.fov_nm, p.pixel_time_us = Geometry.IntSize(pixels, pixels), fov / 10, 1.0
        self.scan.set_current_frame_parameters(p)

    @property
    def is_blanked(self) -> bool:
        return bool(self.simulator.instrument.GetVal("C_Blank"))

    def pump(self, condition: Any, timeout: float = 60.0) -> None:
        """Let Swift work until something is so."""
        end = time.monotonic() + timeout
        while not condition() and time.monotonic() < end:
            self.window.periodic()
            time.sleep(0.003)
        assert condition(), self.model.texts

    def look(self, model: str = "mos2") -> None:
        """Scan until the atoms are known, with the scan left running."""
        self.atoms.model_index = self.atoms.model_names.index(model)
        self.atoms.start()
        self.scan.start_playing()
        self.pump(lambda: self.atoms.newest is not None)
        self.model.follow()

    def scan_item(self) -> Any:
        return self.window.document_model.get_data_item_reference(f"{self.scan.hardware_source_id}_a").data_item

    def display(self) -> Any:
        return self.window.workspace_controller.display_panels[0]

    def show(self) -> None:
        """Put the scan's image into the display."""
        self.pump(lambda: self.scan_item() is not None)
        self.display().set_display_panel_data_item(self.scan_item())

    def column(self, species: str, x: float, y: float) -> Any:
        """Return the found column of a class next to a place."""
        atoms = self.atoms.newest.atoms
        here = atoms.positions[[name == species for name in atoms.symbols]]
        return here[np.argmin(np.linalg.norm(here - (x, y), axis=1))]

    def choose(self, *places: tuple[float, float]) -> None:
        """Choose the S2 columns next to some places."""
        self.model.choose(True)
        for x, y in places:
            self.model.click(*self.column("S2", x, y))
        self.model.choose(False)

    def expose(self) -> None:
        """Arm and run until the beam is on a target."""
        self.handler.arm_clicked(None)
        self.handler.run_clicked(None)
        assert self.model.is_running, self.model.texts.message
        self.pump(lambda: "exposing" in self.model.states and not self.is_blanked)

    def drawn(self) -> list[Any]:
        display = self.display().display_canvas_item
        display.layout_immediate(Geometry.IntSize(640, 640))
        context = DrawingContext.DrawingContext()
        display.repaint_immediate(context, display.canvas_size)
        return [command for command in context.commands if command[0] in ("fillText", "arc")]


@contextlib.contextmanager
def headless(folder: pathlib.Path, networks: bool = True, **options: Any) -> Iterator[Swift]:
    """Run headless Swift with all panels in a folder; without ``networks`` the atoms are the frame's own."""
    made: list[Swift] = []

    def find(name: str) -> Any:
        if name != "mos2":
            raise StemAeError(f"There is no model {name!r}.")
        return made[0].truth

    patches: dict[Any, dict[str, Any]] = {
        atoms_panel: {
            "AtomsModel": functools.partial(
                atoms_panel.AtomsModel, load=load if networks else find, names=lambda: ["mos2", "graphene"]
            )
        },
        ejection_panel: {
            "EjectionModel": functools.partial(ejection_panel.EjectionModel, load=load if networks else find)
        },
    }
    with contextlib.ExitStack() as stack:
        for where, values in patches.items():
            stack.enter_context(unittest.mock.patch.multiple(where, **values))
        stack.enter_context(unittest.mock.patch.dict(os.environ, {"STEM_AE_RUNS": str(folder / "data" / "runs")}))
        stack.enter_context(contextlib.chdir(folder))
        AcquisitionTestContext.begin_leaks()
        setup = TestContext.TestSetup(set_global=True)
        plugin.run()
        try:
            swift = Swift(folder, **options)
            made.append(swift)
            with swift.context:
                yield swift
                swift.scan.abort_playing(sync_timeout=5.0)
        finally:
            plugin.stop()  # or every other test would fail after one
        assert not WATCH.armed, "somebody is armed whose window is closed"
        made.clear()
        swift.__dict__.clear()
        del setup
        AcquisitionTestContext.end_leaks(unittest.TestCase())
