"""What the Eject panel shows and does, without any widget."""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import datetime
import functools
import pathlib
import re
import threading
import time
import typing

import numpy as np
from nion.data import Calibration, DataAndMetadata
from nion.swift import DisplayPanel, DocumentController
from nion.swift.model import DataItem, DisplayItem
from nion.utils import Geometry, ListModel, Observable, Registry
from numpy.typing import NDArray

from stem_ae.atoms import Atoms2D
from stem_ae.elit import remote
from stem_ae.errors import StemAeError
from stem_ae.imaging import damage
from stem_ae.imaging.virtual_microscope import Beam as Column
from stem_ae.imaging.virtual_microscope import Conditions
from stem_ae.manipulate import (
    Aim,
    Attempt,
    ClosedLoop,
    EjectionRun,
    Exposure,
    Limits,
    Observer,
    OpenLoop,
    Outcome,
    Policy,
    RunLog,
    RunSettings,
    Verdict,
    rehearsal,
    runlog,
    targets,
)  # fmt: skip
from stem_ae.manipulate.aim import Course, common_shift
from stem_ae.manipulate.beam import Scan
from stem_ae.manipulate.run import Find

from . import ejection_pictures, keeping
from .ejection_overlay import RADIUS, TargetMarks, targets_and_legend
from .overlay import Overlays

FloatArray = NDArray[np.float64]

PICKS = ("Click atoms", "Row: click both ends", "Area: click its corners", "Pattern: click its first atom",
         "Keep out: click corners")  # fmt: skip
CLICK, ROW, AREA, PATTERN, ZONE = range(len(PICKS))
POLICIES = ("each target once", "until the pattern stands")
LADDERS = (("S2", "S1", ""), ("C", ""), ("Si", ""))
_SURVEY_REFERENCE = "stem_ae_ejection_survey"
UPDATE_TASK = "stem_ae eject update"
GOOD, WAITING, BAD, OFF = "#1A8F3C", "#B26A00", "#C62828", "#707070"

_CLOSE = 0.9  # Å: a click this close to an atom means it; polygons end this close to their first corner
_OLDEST_S = 8.0  # the specimen moves at most half a neighbour's distance in this time
_SHOW_S = 0.1  # the trace is drawn this often
_PATCH = 10.5  # Å
_SOURCE_SIGMA = 0.30  # Å
_GUESSED_DRIFT = (1 / 60, 0.0)  # Å/s in rehearsals: that of a good stage


@dataclasses.dataclass(frozen=True)
class Texts:
    """What the panel says."""

    status: str = "No targets"
    status_color: str = OFF
    message: str = ""
    """What is wrong or was done, and what to do about it."""
    targets: str = ""
    estimate: str = ""
    armed: str = "Not armed"
    armed_color: str = OFF
    dose: str = ""
    site: str = ""


class TargetRow(Observable.Observable):
    """One target as the panel lists it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.__number = number
        self.text = self.state = self.color = ""

    def update(self, species: str, state: str, detail: str) -> None:
        """Say how it is."""
        new = (f"{self.__number}   {species}", f"{state}{': ' + detail if detail else ''}", _ROW_COLORS[state])
        for name, value in zip(("text", "state", "color"), new, strict=True):
            if value != getattr(self, name):
                setattr(self, name, value)
                self.notify_property_changed(name)


def _option(name: str) -> property:
    """Return a property that is one of the typed options; a change is estimated anew."""

    def get(self: EjectionModel) -> typing.Any:
        return self._options[name]

    def put(self: EjectionModel, value: typing.Any) -> None:
        if value is not None and value != get(self):
            self._options[name] = value
            self.notify_property_changed(name)
            self.estimate()

    return property(get, put)


class SurveyItem:
    """The last survey of a run as a live data item of the project. For the user interface thread."""

    def __init__(self, window: DocumentController.DocumentController) -> None:
        self.__window = window
        self.__reference = window.document_model.get_data_item_reference(_SURVEY_REFERENCE)
        self.__transaction: typing.Any = None
        self.__shown: Scan | None = None

    def is_item(self, item: DataItem.DataItem) -> bool:
        """Return whether this is it."""
        return item is self.__reference.data_item

    def show(self, scan: Scan, instead_of: DataItem.DataItem | None) -> None:
        """Show a survey, in the display panel of the image that the targets were chosen in."""
        if scan is self.__shown:
            return
        self.__shown = scan
        document_model = self.__window.document_model
        item = self.__reference.data_item or self.__make()
        first = self.__transaction is None
        self.__transaction = self.__transaction or document_model.item_transaction(item)
        calibrations = [Calibration.Calibration(0.0, scan.sampling / 10, "nm")] * 2
        xdata = DataAndMetadata.new_data_and_metadata(
            np.asarray(scan.image, np.float32), dimensional_calibrations=calibrations,
            metadata={keeping.METADATA_KEY: {"kind": "survey"}},
        )  # fmt: skip
        item.set_data_and_metadata(xdata)
        if first and instead_of is not None:
            self.__put_in_place_of(instead_of, item)

    def __put_in_place_of(self, other: DataItem.DataItem, item: DataItem.DataItem) -> None:
        display_item = self.__window.document_model.get_display_item_for_data_item(item)
        assert self.__window.workspace_controller
        for panel in self.__window.workspace_controller.display_panels:
            if panel.data_item is other:
                panel.set_display_panel_display_item(display_item)
                # Swift's paint thread may look while displays are being exchanged, and gives up until asked again.
                self.__window.event_loop.call_later(0.5, panel.update)

    def __make(self) -> DataItem.DataItem:
        item = DataItem.DataItem(np.zeros((16, 16), np.float32))
        item.title = "Survey of ejections"
        item.category = "temporary"
        self.__window.document_model.append_data_item(item)
        self.__window.document_model.setup_channel(_SURVEY_REFERENCE, item)
        return item

    def stop(self) -> None:
        """Let go of the data item, which keeps the last survey."""
        self.__shown = None
        if self.__transaction:
            self.__transaction.close()
            self.__transaction = None


class _Teller(Observer):
    """Brings what happens in the run's thread to the model."""

    def __init__(self, model: EjectionModel) -> None:
        self._model = model
        self._shown_at = 0.0

    def surveyed(self, scan: Scan, atoms: Atoms2D, drift: FloatArray) -> None:
        self._model._tell(survey=scan, drift=drift)

    def aiming(self, site: int) -> None:
        self._model._tell(site=site, state="aiming")

    def exposing(self, site: int, exposure: Exposure, course: Course) -> None:
        aim = course.at(course.time_s)
        self._model._tell(site=site, state="exposing", exposure=exposure, aim=aim, after=None)

    def counted(self, exposure: Exposure) -> None:
        now = time.perf_counter()
        if exposure.outcome is not None or now - self._shown_at > _SHOW_S:
            self._shown_at = now
            self._model._tell()

    def verifying(self, site: int, scan: Scan) -> None:
        self._model._tell(site=site, state="verifying", after=scan)

    def attempted(self, attempt: Attempt) -> None:
        self._model._tell(attempt=attempt)


class EjectionModel(Observable.Observable):
    """Chooses targets on the newest atoms, says what it will cost, and lets the run be armed, run, paused and stopped.

    Everything is to be used in the user interface thread. Observers are told with ``property_changed_event``.

    Parameters
    ----------
    window : DocumentController
        Whose displays show image and targets.
    newest : callable
        Returns what the Atoms panel has found last.
    folder : path
        Where each run's log and documents are kept.
    load : callable or None
        Returns what finds atoms by a model's name; ``None``: a process of its own does.
    """

    every = _option("every")
    timeout = _option("timeout")
    cap = _option("cap")
    current = _option("current")

    def __init__(
        self,
        window: DocumentController.DocumentController,
        newest: collections.abc.Callable[[], keeping.Snapshot | None],
        folder: pathlib.Path,
        load: collections.abc.Callable[[str], typing.Any] | None = None,
    ) -> None:
        super().__init__()
        self.__window, self.__newest, self.__folder = window, newest, folder
        self.__process = remote.PredictionProcess()
        self.__load = functools.cache(load or self.__process.load)
        self._options: dict[str, typing.Any] = {"every": "1", "timeout": "5", "cap": "1e10", "current": ""}
        self.texts = Texts()
        self.rows: ListModel.ListModel[TargetRow] = ListModel.ListModel()
        self.species_names: list[str] = []
        self.__species_index, self.__pick_index, self.__policy_index = 0, CLICK, 1
        self.trace = ejection_pictures.no_trace()
        self.patches = ejection_pictures.before_and_after(None, None)
        self.dose_percent = 0
        self.__snapshot: keeping.Snapshot | None = None
        self.__atoms = Atoms2D.empty(("",), (1, 1), 1.0)
        self.__sites: FloatArray = np.zeros((0, 2))
        self.__drawn: list[FloatArray] = []
        self.__zones: list[FloatArray] = []
        self.__note = self.__estimate = ""
        self.__estimating = 0
        self.__lock = threading.Lock()
        self.__closed = False
        self.__run: EjectionRun | None = None
        self.__runner: typing.Any = None
        self.__is_rehearsal = False
        self.__thread: threading.Thread | None = None
        self.__limits = Limits()
        self.__armed_until = 0.0
        self.__reset_news()
        self.__survey_item = SurveyItem(window)
        self.__overlays = Overlays(window, self.__marks_for, targets_and_legend)
        manager = DisplayPanel.DisplayPanelManager()
        self.__listeners: list[typing.Any] = [manager.image_display_clicked_event.listen(self.__clicked)]

    def close(self) -> None:
        """Blank if a run is under way, and let go of everything."""
        self.stop()
        with self.__lock:
            self.__closed = True
        self.__window.clear_task(UPDATE_TASK)
        if thread := self.__thread:
            thread.join(5.0)
        self.__process.close()
        self.__listeners.clear()
        self.__survey_item.stop()
        self.__overlays.close()

    def __reset_news(self) -> None:
        self.__states: dict[int, tuple[str, str]] = {}
        self.__survey: Scan | None = None
        self.__drift = np.zeros(2)
        self.__exposure: Exposure | None = None
        self.__aim: tuple[int, Aim] | None = None
        self.__after: Scan | None = None
        self.__site: int | None = None

    # --- choices ----------------------------------------------------------------------------------------------------

    @property
    def pick_index(self) -> int:
        """How targets are chosen, as a place in ``PICKS``."""
        return self.__pick_index

    @pick_index.setter
    def pick_index(self, index: int | None) -> None:
        if index is not None and index != self.__pick_index:
            self.__pick_index = index
            self.__drawn = []
            self.notify_property_changed("pick_index")
            self.__show()

    @property
    def species_index(self) -> int | None:
        """Which class of ``species_names`` rows, areas and patterns are made of."""
        return self.__species_index if self.species_names else None

    @species_index.setter
    def species_index(self, index: int | None) -> None:
        if index is not None and index != self.__species_index:
            self.__species_index = index
            self.notify_property_changed("species_index")

    @property
    def policy_index(self) -> int:
        """Which of ``POLICIES`` decides."""
        return self.__policy_index

    @policy_index.setter
    def policy_index(self, index: int | None) -> None:
        if index is not None and index != self.__policy_index:
            self.__policy_index = index
            self.notify_property_changed("policy_index")

    @property
    def can_choose(self) -> bool:
        """Whether targets can be changed now."""
        return self.__run is None

    @property
    def is_running(self) -> bool:
        """Whether a run or a rehearsal is under way."""
        return self.__run is not None

    @property
    def is_paused(self) -> bool:
        """Whether it waits."""
        return self.__run is not None and self.__run.guard.paused

    @property
    def sites(self) -> FloatArray:
        """Targets in order, ``(K, 2)`` in Å of the newest image."""
        return self.__sites

    @property
    def states(self) -> list[str]:
        """State of each target."""
        return [self.__states.get(k, ("waiting", ""))[0] for k in range(len(self.__sites))]

    # --- targets ----------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Take the newest frame up; targets that were chosen stay on their columns."""
        snapshot = self.__newest()
        if self.__run is not None or snapshot is None or self.__same_frame(snapshot):
            return
        before, after = self.__atoms, snapshot.atoms
        if len(self.__sites) and (after.shape != before.shape or not len(after)):
            return  # another field, or dark: targets stay in the image they were chosen in
        self.__snapshot, self.__atoms = snapshot, after
        names = [name for name in after.species if any(name in ladder[:-1] for ladder in LADDERS)]
        if names != self.species_names:
            self.species_names, self.__species_index = names, 0
            self.notify_property_changed("species_names")
            self.notify_property_changed("species_index")
        if len(self.__sites):
            shift = common_shift(after.positions, before.positions, 2 * _CLOSE)
            self.__sites = np.array([_snapped(after, site + shift) for site in self.__sites])
            self.__zones = [zone + shift for zone in self.__zones]
        self.__show()

    def __same_frame(self, snapshot: keeping.Snapshot) -> bool:
        return self.__snapshot is not None and snapshot.result is self.__snapshot.result

    def __ladder(self) -> tuple[str, ...]:
        """Return the ladder of the chosen class."""
        name = self.species_names[self.__species_index] if self.species_names else ""
        ladder = next((ladder for ladder in LADDERS if name in ladder[:-1]), None)
        if ladder is None:
            raise StemAeError("No class that atoms can be ejected from was found: choose another model.")
        return ladder

    def __candidates(self) -> NDArray[np.int64]:
        if not len(self.__atoms):
            raise StemAeError("There are no atoms yet: press Start in the Atoms panel.")
        self.__ladder()
        return targets.of_class(self.__atoms, self.species_names[self.__species_index])

    def __clicked(
        self,
        panel: DisplayPanel.DisplayPanel,
        item: DisplayItem.DisplayItem,
        position: Geometry.FloatPoint,
        modifiers: typing.Any,
    ) -> bool:
        """Choose with a click on the image of the newest atoms; other clicks are Swift's."""
        if panel.document_controller is not self.__window or self.__run is not None or not self.is_choosing:
            return False
        self.follow()
        shown = self.__shown_item()
        if shown is None or item.data_item is not shown:
            return False
        dy, dx = self.__atoms.sampling
        self.__guarded(self.click, (position.x - 0.5) * dx, (position.y - 0.5) * dy)
        return True

    is_choosing = False
    """Whether clicks on the image choose targets."""

    def choose(self, on: bool) -> None:
        """Let clicks on the image choose targets, or not."""
        self.is_choosing = on
        self.__drawn = []
        self.notify_property_changed("is_choosing")
        self.follow()
        self.__guarded(self.__candidates) if on else self.__show()

    def click(self, x: float, y: float) -> None:
        """Choose at a place of the newest image, in Å, as ``pick_index`` says."""
        point = np.array([x, y])
        self.__states.clear()
        if self.__pick_index == CLICK:
            self.__toggle(point)
        elif self.__pick_index == PATTERN:
            origin = self.__atom_at(point)
            ladder = [name for name in self.__ladder() if name in self.__atoms.species]
            period = self.__period()
            lattice = targets.of_class(self.__atoms, ladder)
            self.__add(targets.lattice_pattern(self.__atoms, self.__candidates(), origin, period, lattice))
        elif self.__pick_index == ROW and self.__drawn:
            start, self.__drawn = self.__drawn[0], []
            self.__add(
                targets.along_line(self.__atoms, self.__candidates(), start, point, every=self.__period()[0])
            )
        elif len(self.__drawn) > 2 and np.linalg.norm(point - self.__drawn[0]) < 2 * _CLOSE:
            self.__end_polygon()
        else:
            self.__drawn.append(point)
            more = "its other end" if self.__pick_index == ROW else "the next corner; the first one again to end"
            self.__say(f"Now click {more}.")

    def __end_polygon(self) -> None:
        corners, self.__drawn = np.array(self.__drawn), []
        if self.__pick_index == ZONE:
            self.__zones.append(corners)
            self.__set_sites(self.__sites)
            return
        species = self.species_names[self.__species_index]
        self.__add(targets.of_class(self.__atoms, species, corners))

    def __toggle(self, point: FloatArray) -> None:
        position = self.__atoms.positions[self.__atom_at(point)]
        away = np.linalg.norm(self.__sites - position, axis=1)
        if np.any(away < _CLOSE):
            self.__set_sites(self.__sites[away >= _CLOSE])
        else:
            self.__set_sites(np.vstack([self.__sites, position]))

    def __atom_at(self, point: FloatArray) -> int:
        candidates = self.__candidates()
        away = np.linalg.norm(self.__atoms.positions[candidates] - point, axis=1)
        if away.min() > _CLOSE:
            raise StemAeError(f"There is no {self.species_names[self.__species_index]} here: click on one.")
        return int(candidates[away.argmin()])

    def __period(self) -> tuple[int, int]:
        numbers = [int(number) for number in re.findall(r"\d+", self._options["every"])]
        if not numbers or min(numbers) < 1:
            raise StemAeError("“Every” is to be a number such as 2, or two such as 3 x 2.")
        return numbers[0], numbers[-1]

    def choose_all(self) -> None:
        """Choose all atoms of the class."""
        self.follow()
        self.__guarded(lambda: self.__add(self.__candidates()))

    def read(self, path: str) -> None:
        """Choose the atoms that a list names."""

        def add() -> None:
            self.__candidates()
            positions = targets.read_positions(path)
            self.__set_sites(np.vstack([self.__sites, [_snapped(self.__atoms, p, strict=True) for p in positions]]))

        self.follow()
        self.__guarded(add)

    def clear(self) -> None:
        """Choose none, and forbid nothing."""
        self.__zones, self.__drawn = [], []
        self.__states.clear()
        self.__set_sites(np.zeros((0, 2)))

    def __add(self, chosen: NDArray[np.int64]) -> None:
        new = self.__atoms.positions[chosen]
        if len(self.__sites):
            new = new[np.linalg.norm(new[:, None] - self.__sites, axis=2).min(axis=1) > _CLOSE]
        self.__set_sites(np.vstack([self.__sites, new]))

    def __set_sites(self, sites: FloatArray) -> None:
        """Take these as the targets, without those in forbidden zones, in the shortest order."""
        kept = np.asarray(sites, float).reshape(-1, 2)
        if len(kept):
            atoms = self.__atoms
            index = np.array([int(np.argmin(np.linalg.norm(atoms.positions - site, axis=1))) for site in kept])
            kept = kept[np.isin(index, targets.outside(atoms, index, self.__zones))]
        self.__sites = kept[targets.shortest_path(kept)] if len(kept) else kept
        left_out = len(sites) - len(kept)
        self.__say(f"{left_out} in forbidden zones left out." if left_out else "")
        self.estimate()

    # --- what it will cost ------------------------------------------------------------------------------------------

    def estimate(self) -> None:
        """Work out time and dose of what is chosen, aside."""
        self.__estimating += 1
        self.__estimate = ""
        self.__show()
        if not len(self.__sites):
            return
        turn, atoms, sites, snapshot = self.__estimating, self.__atoms, self.__sites.copy(), self.__snapshot

        def work() -> None:
            try:
                words = self.__cost(atoms, sites)
            except StemAeError as error:
                words = str(error)
            with self.__lock:
                if turn == self.__estimating:
                    self.__estimate = words
            self._tell()
            if snapshot is not None:
                self.__warm_up(snapshot.model.name)

        threading.Thread(target=work, daemon=True, name="stem_ae estimate").start()

    def __warm_up(self, name: str) -> None:
        """Start the process that finds atoms before the beam has to wait for it."""
        with contextlib.suppress(StemAeError):  # the run will say so
            self.__load(name)

    def __cost(self, atoms: Atoms2D, sites: FloatArray) -> str:
        column, settings = self.__column(), self.__settings()
        index = np.array([int(np.argmin(np.linalg.norm(atoms.positions - site, axis=1))) for site in sites])
        barn = _cross_sections(atoms, column.energy_ev)
        plan = targets.plan(
            atoms, index, column.probe(_SOURCE_SIGMA), column.current_pa, settings.timeout_s, barn, move_s=0.6
        )
        return (
            f"About {_duration(plan.time_s)}, {plan.exposure_s:.2f} s on each · {plan.dose[index].max():.1e} e/Å² on "
            f"targets, {plan.neighbour_dose:.1e} beside · {plan.success:.0%} leave in time · {plan.collateral:.2f} "
            "others expected to be lost"
        )

    # --- today's parameters -----------------------------------------------------------------------------------------

    def __control(self, name: str, otherwise: float) -> float:
        """Return a control of Swift's instrument."""
        stem = Registry.get_component("stem_controller")
        known, value = stem.TryGetVal(name) if stem else (False, None)
        return float(value) if known and value else otherwise

    def __column(self) -> Column:
        typed = self._options["current"].strip()
        current_pa = _number(typed, "beam current") if typed else 1e12 * self.__control("BeamCurrent", 60e-12)
        return Column(self.__control("EHT", 60e3), 1e3 * self.__control("ConvergenceAngle", 0.032), current_pa)

    def __settings(self) -> RunSettings:
        return RunSettings(self.__ladder(), timeout_s=_number(self._options["timeout"], "timeout"))

    def __policy(self) -> Policy:
        if not len(self.__sites):
            raise StemAeError("There are no targets: choose some atoms.")
        if self.__policy_index == 0:
            return OpenLoop(self.__sites)
        ladder = self.__ladder()
        after = {name: ladder[k + 1] for k, name in enumerate(ladder[:-1])}
        now = [self.__atoms.symbols[_nearest(self.__atoms, site)] for site in self.__sites]
        return ClosedLoop(self.__sites, tuple(after.get(name, name) for name in now), ladder)

    # --- arm, run, pause, stop --------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Allow the beam to be fired, for some minutes."""
        self.__armed_until = time.monotonic() + self.__limits.armed_s
        if self.__run and not self.__is_rehearsal:
            self.__run.guard.arm()
        self.__say("")

    @property
    def armed_left_s(self) -> float:
        """Seconds until the arming expires."""
        return max(self.__armed_until - time.monotonic(), 0.0)

    def run(self) -> None:
        """Carry the plan out on the microscope."""
        self.follow()
        self.__guarded(self.__start_run)

    def rehearse(self) -> None:
        """Carry the plan out on a virtual microscope with the atoms that were found and today's parameters."""
        self.follow()
        self.__guarded(self.__start_rehearsal)

    def pause(self) -> None:
        """Blank and wait; or go on."""
        if self.__run is None:
            return
        guard = self.__run.guard
        guard.resume() if guard.paused else guard.pause()
        self.__show()

    def stop(self) -> None:
        """Blank, at once, whatever is going on; then end the run."""
        self.__armed_until = 0.0
        if self.__run is not None:
            self.__run.stop()
        if self.__runner is not None:
            self.__runner.stop()
        self.__show()

    def __start_run(self) -> None:
        from stem_ae.microscope.devices import Microscope  # bluesky takes half a second to import
        from stem_ae.microscope.swift_instrument import SwiftInstrument
        from stem_ae.plans import Runner
        from stem_ae.plans.eject import MicroscopeBeam, eject

        policy, settings, column = self.__ready()
        if not self.armed_left_s:
            raise StemAeError("The beam is not armed: press Arm first.")
        assert self.__snapshot
        age_s = (_utc_now() - self.__snapshot.origin.timestamp).total_seconds()
        if age_s > _OLDEST_S:
            raise StemAeError(f"The image is {age_s:.0f} s old: let the scan run while you press Run.")
        instrument = SwiftInstrument()
        frame = instrument.user_frame()
        atoms = self.__atoms
        if frame.shape != atoms.shape or not np.allclose(frame.sampling, atoms.sampling, rtol=0.01):
            raise StemAeError("The scan is not set as it was for this image: scan again, then press Run.")
        microscope = Microscope(instrument)
        beam = MicroscopeBeam(microscope, frame, column.current_pa, column.probe(_SOURCE_SIGMA))
        folder = self.__new_folder()
        log = RunLog(folder / "ejections.jsonl")
        self.__begin(EjectionRun(beam, self.__find(), policy, settings, self.__limits, log, _Teller(self)), False)
        assert self.__run
        self.__run.guard.arm()
        self.__runner = runner = Runner(microscope, folder)
        runner.start(eject(microscope, self.__run, log=str(log.path)))

        def wait() -> None:
            runner.wait()
            self.__ended(runner.error or str(runner.result or runner.outcome), log)

        self.__thread = threading.Thread(target=wait, daemon=True, name="stem_ae eject")
        self.__thread.start()

    def __start_rehearsal(self) -> None:
        policy, settings, column = self.__ready()
        folder = self.__new_folder()
        log = RunLog(folder / "rehearsal.jsonl")
        conditions = Conditions(drift=_GUESSED_DRIFT, source_sigma=_SOURCE_SIGMA)
        staged = rehearsal.Rehearsal(
            self.__atoms, self.__find(), policy, column, conditions, settings, self.__limits, log, _Teller(self),
            seed=int(time.time()),
        )  # fmt: skip
        self.__begin(staged.run, True)
        staged.run.guard.arm()

        def perform() -> None:
            try:
                reason = staged.run.run()
            except StemAeError as error:
                reason = str(error)
            self.__ended(reason, log)

        self.__thread = threading.Thread(target=perform, daemon=True, name="stem_ae rehearsal")
        self.__thread.start()

    def __ready(self) -> tuple[Policy, RunSettings, Column]:
        """Return what a run needs, or say what is missing."""
        if self.__run is not None:
            raise StemAeError("A run is under way: wait for its end or stop it first.")
        self.__limits = Limits(total_electrons=_number(self._options["cap"], "dose cap"))
        return self.__policy(), self.__settings(), self.__column()

    def __find(self) -> Find:
        """Return what finds atoms in the run's thread: the model of the Atoms panel, in a process of its own."""
        assert self.__snapshot
        threshold = self.__snapshot.threshold
        name = self.__snapshot.model.name

        def find(image: FloatArray, sampling: float) -> Atoms2D:
            prediction = self.__load(name).predict(image, (sampling, sampling))
            found: Atoms2D = prediction.atoms[prediction.presence >= threshold]
            return found

        return find

    def __new_folder(self) -> pathlib.Path:
        return self.__folder / f"{datetime.datetime.now():%Y-%m-%d_%H%M%S_%f}"[:-3]

    def __begin(self, run: EjectionRun, is_rehearsal: bool) -> None:
        self.__reset_news()
        self.__run, self.__is_rehearsal = run, is_rehearsal
        self.is_choosing = False
        self.__note = ""
        self.notify_property_changed("is_choosing")
        self.__changed_running()
        self._tell()

    def __ended(self, reason: str, log: RunLog) -> None:
        """End a run; called in its thread."""
        log.close()
        runlog.export_csv(log.path, log.path.with_suffix(".csv"))

        def show() -> None:
            run, self.__run, self.__runner = self.__run, None, None
            self.__survey_item.stop()
            if not self.__is_rehearsal:
                self.__armed_until = 0.0
            self.__say(self.__summary(run, reason, log.path))
            self.__changed_running()

        with self.__lock:
            if not self.__closed:
                self.__window.queue_task(show)

    def __summary(self, run: EjectionRun | None, reason: str, path: pathlib.Path) -> str:
        attempts = run.attempts if run else []
        done = sum(state == "done" for state in self.states)
        others = sum(len(a.bystanders) for a in attempts)
        name = "Rehearsal" if self.__is_rehearsal else "Run"
        ended = {"done": "is complete", "stopped": "was stopped"}.get(reason, f"has ended. {reason}")
        words = f"{name} {ended}".removesuffix(".") + f": {done} of {len(self.__sites)} targets done"
        if others:
            words += f", {others} neighbouring column{'s' * (others > 1)} changed"
        return f"{words}. Log: {path.parent.name}/{path.name}."

    def __changed_running(self) -> None:
        for name in ("is_running", "can_choose", "is_paused"):
            self.notify_property_changed(name)

    # --- news from the run's thread ---------------------------------------------------------------------------------

    def _tell(self, **news: typing.Any) -> None:
        """Take news in and ask for an update; from any thread."""
        with self.__lock:
            if "survey" in news:
                self.__survey, self.__drift = news["survey"], news["drift"]
            if "site" in news:
                self.__site = news["site"]
                self.__states[news["site"]] = (news["state"], "")
            if "exposure" in news:
                self.__exposure, self.__aim = news["exposure"], (news["site"], news["aim"])
            if "after" in news:
                self.__after = news["after"]
            if "attempt" in news:
                attempt = news["attempt"]
                self.__states[attempt.site] = _state_after(attempt)
                if attempt.reason:
                    self.__note = f"Target {attempt.site + 1} was not fired at. {attempt.reason}"
            if not self.__closed:
                self.__window.add_task(UPDATE_TASK, self.__update)

    def __update(self) -> None:
        with self.__lock:
            exposure, survey, after, site = self.__exposure, self.__survey, self.__after, self.__site
        if self.__run is not None and survey is not None:
            self.__survey_item.show(survey, self.__shown_item())
        if self.__run is not None:
            before = self.__patch(survey, site) if survey is not None and site is not None else None
            self.patches = ejection_pictures.before_and_after(before, after)
            self.notify_property_changed("patches")
            self.trace = ejection_pictures.trace(exposure) if exposure else ejection_pictures.no_trace()
            self.notify_property_changed("trace")
        self.__show()

    def __patch(self, survey: Scan, site: int) -> Scan:
        """Return the surroundings of a target as the survey had them."""
        step = survey.sampling
        half = round(_PATCH / 2 / step)
        column, row = np.rint((self.__sites[site] + self.__drift - survey.origin) / step).astype(int)
        height, width = survey.image.shape
        top, left = np.clip([row - half, column - half], 0, np.maximum([height - 2 * half, width - 2 * half], 0))
        return dataclasses.replace(survey, image=survey.image[top : top + 2 * half, left : left + 2 * half])

    # --- showing ----------------------------------------------------------------------------------------------------

    def __shown_item(self) -> DataItem.DataItem | None:
        return self.__snapshot.origin.shown_by(self.__window.document_model) if self.__snapshot else None

    def __marks_for(self, item: DataItem.DataItem) -> TargetMarks | None:
        """Return the targets for the image that they were chosen in, or the last survey of a run."""
        if not (len(self.__sites) or self.__drawn or self.__zones):
            return None
        is_survey = self.__survey_item.is_item(item)
        if not is_survey and (self.__run is not None or item is not self.__shown_item()):
            return None  # during a run the scan's item shows pieces of the field
        xdata, atoms = item.xdata, self.__atoms
        if xdata is None or tuple(xdata.data_shape[-2:]) != atoms.shape:
            return None
        pixel = np.array(atoms.sampling[::-1])
        return TargetMarks(
            (self.__sites + (self.__drift if is_survey else 0.0)) / pixel,
            tuple(self.states),
            atoms.shape,
            RADIUS / float(np.sqrt(pixel.prod())),
            tuple(zone / pixel for zone in self.__zones),
            np.array(self.__drawn).reshape(-1, 2) / pixel,
        )

    def __guarded(self, work: collections.abc.Callable[..., object], *arguments: typing.Any) -> None:
        """Do something, or say why it cannot be done."""
        try:
            work(*arguments)
        except StemAeError as error:
            self.__note = str(error)
        self.__show()

    def __say(self, note: str) -> None:
        self.__note = note
        self.__show()

    def tick(self) -> None:
        """Follow the newest frame, and bring the arming's countdown up to date. Cheap if nothing has changed."""
        if len(self.__sites) or self.is_choosing:
            self.follow()
        if self.__armed_until or self.__run is not None:
            self.__show()

    def __show(self) -> None:
        texts = self.__describe()
        if texts != self.texts:
            self.texts = texts
            self.notify_property_changed("texts")
        if len(self.rows.items) != len(self.__sites):
            self.rows.items = [TargetRow(k + 1) for k in range(len(self.__sites))]
        for k, row in enumerate(self.rows.items):
            row.update(self.__species_at(k), *self.__states.get(k, ("waiting", "")))
        percent = round(100 * self.__spent() / self.__limits.total_electrons)
        if percent != self.dose_percent:
            self.dose_percent = percent
            self.notify_property_changed("dose_percent")
        self.__overlays.refresh()

    def __species_at(self, site: int) -> str:
        atoms = self.__atoms
        return atoms.symbols[_nearest(atoms, self.__sites[site])] if len(atoms) else ""

    def __spent(self) -> float:
        return self.__run.ledger.electrons if self.__run else 0.0

    def __describe(self) -> Texts:
        status, color = self.__state()
        left = self.armed_left_s
        counts = {state: self.states.count(state) for state in ("done", "failed")}
        some = f"{len(self.__sites)} target{'s' * (len(self.__sites) != 1)}"
        chosen = ", ".join([some, *(f"{n} {state}" for state, n in counts.items() if n)]) if len(self.__sites) else ""
        return Texts(
            status=status,
            status_color=color,
            message=self.__note,
            targets=chosen,
            estimate=self.__estimate if not self.is_running else "",
            armed=f"Armed for {left // 60:.0f}:{left % 60:02.0f}" if left else "Not armed",
            armed_color=BAD if left else OFF,
            dose=f"{self.__spent():.2e} of {self.__limits.total_electrons:.1e} electrons" if self.is_running else "",
            site=self.__site_text(),
        )

    def __state(self) -> tuple[str, str]:
        if self.__run is not None:
            name = "Rehearsal" if self.__is_rehearsal else "Run"
            if self.__run.guard.stopped:
                return f"{name}: stopping, beam blanked", BAD
            if self.__run.guard.paused:
                return f"{name} paused, beam blanked", WAITING
            if not self.__run.guard.armed_left_s:
                return f"{name} waits: press Arm", WAITING
            return f"{name}: {self.__site_state()}", WAITING if self.__is_rehearsal else BAD
        if not len(self.__sites):
            return "No targets", OFF
        return ("All targets done", GOOD) if set(self.states) == {"done"} else ("Ready", GOOD)

    def __site_state(self) -> str:
        if self.__site is None:
            return "survey"
        return f"{self.__states.get(self.__site, ('surveying', ''))[0]}, target {self.__site + 1}"

    def __site_text(self) -> str:
        if self.__aim is None:
            return ""
        site, aim = self.__aim
        return (
            f"Target {site + 1} · aim ± {100 * aim.deviation:.0f} pm from {aim.neighbours} columns · "
            f"drift {60 * float(np.linalg.norm(aim.velocity)):.1f} Å/min"
        )


_ROW_COLORS = {
    "waiting": OFF, "aiming": WAITING, "exposing": BAD, "verifying": WAITING, "done": GOOD, "failed": BAD,
}  # fmt: skip


def _state_after(attempt: Attempt) -> tuple[str, str]:
    """Return a target's state after an attempt, and what there is to say."""
    if attempt.verdict is Verdict.ONE:
        others = len(attempt.bystanders)
        return "done", f"{1e3 * attempt.exposure_s:.0f} ms" + (f", {others} beside" if others else "")
    if attempt.outcome is Outcome.STOPPED:
        return "waiting", ""
    why = str(attempt.outcome) if attempt.verdict in (Verdict.NONE, Verdict.UNCLEAR) else str(attempt.verdict)
    return "failed", why


def _cross_sections(atoms: Atoms2D, energy_ev: float) -> dict[str, float]:
    """Return the ejection cross section of each class in barn, as the simulator has it."""
    specimen = rehearsal.specimen_of(atoms)
    barn = damage.ejection_cross_sections(specimen, energy_ev)
    shift = np.array(atoms.sampling[::-1]) / 2
    nearest = [_nearest(atoms, xy - shift) for xy in specimen.positions[:, :2]]
    of_column = np.bincount(nearest, barn, len(atoms))
    return {
        name: float(np.median(of_column[atoms.labels == k]))
        for k, name in enumerate(atoms.species)
        if np.any(atoms.labels == k)
    }


def _nearest(atoms: Atoms2D, position: FloatArray) -> int:
    return int(np.argmin(np.linalg.norm(atoms.positions - position, axis=1)))


def _snapped(atoms: Atoms2D, position: FloatArray, strict: bool = False) -> FloatArray:
    """Return the position of the atom that is meant; the position itself if there is none."""
    atom = _nearest(atoms, position)
    if np.linalg.norm(atoms.positions[atom] - position) < _CLOSE:
        found: FloatArray = atoms.positions[atom]
        return found
    if strict:
        raise StemAeError(f"There is no atom at ({position[0]:.1f}, {position[1]:.1f}) Å: check the list.")
    return position


def _number(text: str, what: str) -> float:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = 0.0
    if not (np.isfinite(value) and value > 0):
        raise StemAeError(f"“{text}” is no {what}: type a positive number.")
    return value


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _utc_now() -> datetime.datetime:
    """Return the time as Swift's timestamps have it: UTC without saying so."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
