"""What the Explorer panel shows and does, without any widget."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
import threading
import typing
from concurrent.futures import Future

import numpy as np
from nion.swift import DocumentController
from nion.swift.model import DataItem
from nion.utils import Geometry, ListModel, Observable
from numpy.typing import NDArray

from stem_ae import folders
from stem_ae.errors import StemAeError
from stem_ae.explore.remote import Decision, DecisionProcess
from stem_ae.explore.scalarize import Scalarizer
from stem_ae.files import output_folder
from stem_ae.microscope.frame import CameraFrame, Frame, Image
from stem_ae.words import counted

from . import preferences
from .activities import Works
from .atoms_model import BAD, BUSY, OFF, WAITING
from .beam_watch import Working
from .canvas import Overlays
from .clicks import Clicks
from .explorer_items import Items
from .explorer_overlay import WayMarks, way_and_words
from .explorer_settings import ACQUISITIONS, CAMERAS, PROPERTIES, SURROGATES, Other, Settings, bands_of, value_of
from .parts import show_in_files

if typing.TYPE_CHECKING:  # loaded when first needed: bluesky takes half a second
    from stem_ae.microscope.devices import Microscope
    from stem_ae.plans import Runner
    from stem_ae.plans.explore import Exploration

DOING = {"": "Ready", "survey": "Surveying…", "preview": "Measuring one point…", "tune": "Focusing…",
         "explore": "Exploring…"}  # fmt: skip
DONE = {"": "Done", "survey": "Survey taken", "preview": "One point measured", "tune": "Focused",
        "explore": "Done"}  # fmt: skip
BEAM = {"blanked": "beam blanked", "on": "BEAM ON", "unknown": "it is not known whether the beam is blanked"}
"""The beam as read, in words."""
UPDATE_TASK, SAVE_TASK = "stem_ae explorer update", "stem_ae explorer settings"
_TUNING_FOV, _TUNING_PIXELS, _TUNING_DWELL_US = 20.0, 128, 4.0  # Å; small and quick, fine enough to see the focus


@dataclasses.dataclass(frozen=True)
class Texts:
    """What the panel says."""

    status: str = "Ready"
    status_color: str = OFF
    message: str = ""
    """What is wrong or was done, and what to do about it."""
    value: str = ""
    """The property of the newest spectrum."""
    dose: str = ""
    progress: str = ""


def _typed(name: str) -> property:
    """Return a property that is one of the settings as typed."""

    def get(self: ExplorerModel) -> str:
        return str(getattr(self.settings, name))

    def put(self: ExplorerModel, text: str | None) -> None:
        if text is not None and text.strip() != get(self):
            setattr(self.settings, name, text.strip())
            self.settings_changed(name)

    return property(get, put)


def _chosen(name: str, choices: tuple[str, ...]) -> property:
    """Return a property that is the index of one of the settings among its choices."""

    def get(self: ExplorerModel) -> int:
        return choices.index(getattr(self.settings, name))

    def put(self: ExplorerModel, index: int | None) -> None:
        if index is not None and index != get(self):
            setattr(self.settings, name, choices[index])
            self.settings_changed(f"{name}_index")

    return property(get, put)


class OtherProperty(Observable.Observable):
    """A property beside the first one, as the panel lists it.

    Parameters
    ----------
    other : Other
    settings : Settings
    key : str
        Its own as long as it is listed.
    changed : callable
        Called after the user has changed it.
    """

    def __init__(self, other: Other, settings: Settings, key: str, changed: typing.Callable[[], None]) -> None:
        super().__init__()
        self.other, self.key = other, key
        self.names = list(PROPERTIES[settings.camera])
        self.__settings, self.__changed = settings, changed

    @property
    def name_index(self) -> int:
        """Which of the names it is."""
        return self.names.index(self.other.name)

    @name_index.setter
    def name_index(self, index: int | None) -> None:
        if index is not None and index != self.name_index:
            name = self.names[index]
            self.__change(name=name, words=self.__settings.first_words(name))

    @property
    def words(self) -> str:
        """Its bands, angles or expression."""
        return self.other.words

    @words.setter
    def words(self, words: str | None) -> None:
        self.__change(words=words)

    @property
    def weight(self) -> str:
        """How much it is looked for against the first; 0: it is only shown."""
        return self.other.weight

    @weight.setter
    def weight(self, weight: str | None) -> None:
        self.__change(weight=weight)

    def __change(self, **texts: str | None) -> None:
        changed = dataclasses.replace(self.other, **{k: text.strip() for k, text in texts.items() if text is not None})
        if changed != self.other:
            self.other = changed
            for name in ("name_index", "words", "weight"):
                self.notify_property_changed(name)
            self.__changed()


class ExplorerModel(Observable.Observable):
    """Surveys, explores, and shows what the explorer believes.

    Everything is to be used in the user interface thread; what comes from other threads is brought there. Observers are
    told with ``property_changed_event``.

    Parameters
    ----------
    window : DocumentController
        Whose project gets the results.
    """

    exposure_ms = _typed("exposure_ms")
    patch = _typed("patch")
    step = _typed("step")
    points = _typed("points")
    batch = _typed("batch")
    current_pa = _typed("current_pa")
    dose_budget = _typed("dose_budget")
    drift_every = _typed("drift_every")
    feature = _typed("feature")
    min_distance = _typed("min_distance")
    travel = _typed("travel")
    surrogate_index = _chosen("surrogate", SURROGATES)
    acquisition_index = _chosen("acquisition", ACQUISITIONS)

    def __init__(self, window: DocumentController.DocumentController) -> None:
        super().__init__()
        self.__window = window
        self.settings = Settings.load(window.ui)
        self.texts = Texts()
        self.items = Items(window)
        self.exploration: Exploration | None = None
        """The experiment under way, or the last one."""
        self.is_clicking = False
        """Whether a click on the survey forces a point."""
        self.__process = DecisionProcess()
        self.__runner: Runner | None = None
        self.__working = Working(lambda: f"Explorer · {self.texts.status}", self.stop)
        self.__works = Works()
        self.__doing = self.__did = ""
        self.__note = ""
        self.__sample: CameraFrame | None = None
        self.__image: Image | None = None
        self.__decision: Decision | None = None
        self.__candidates: NDArray[np.int64] = np.empty((0, 2), np.int64)
        self.__forced: list[tuple[int, int]] = []
        self.__objective: typing.Any = None
        self.__believed_of: dict[str, Decision] = {}
        self.__shown_of: dict[str, Decision] = {}
        self.__shown: tuple[typing.Any, ...] = (None, None, None)
        self.__trials = ""
        self.__lock = threading.Lock()
        self.__closed = False
        self.__overlays = Overlays(window, self.__marks_for, way_and_words)
        self.others: ListModel.ListModel[OtherProperty] = ListModel.ListModel()
        """What is looked at beside the first property, as listed."""
        self.__keys = itertools.count(2)
        self.__list_others()
        wanted = lambda: self.items.explored if self.is_clicking else None  # noqa: E731
        self.__listener = preferences.changed_event.listen(self.__preferences_changed)
        self.__clicks = Clicks(window, wanted, lambda x, y: self.force(y, x))
        self.__describe()

    def close(self) -> None:
        """Blank if a run is under way, and let go of everything."""
        with self.__lock:  # a thread may be about to ask for an update
            self.__closed = True
        if self.__runner:
            self.__runner.close()
        self.__working.tell(False)
        self.__works.close()
        for task in (UPDATE_TASK, SAVE_TASK):
            self.__window.clear_task(task)
        self.settings.save(self.__window.ui)
        self.items.finish()
        self.__overlays.close()
        self.__listener.close()
        self.__clicks.close()
        self.__process.close()

    # --- settings ---------------------------------------------------------------------------------------------------

    @property
    def camera_index(self) -> int:
        """Which camera measures."""
        return CAMERAS.index(self.settings.camera)

    @camera_index.setter
    def camera_index(self, index: int | None) -> None:
        if index is not None and index != self.camera_index:
            self.settings.camera = CAMERAS[index]
            self.__sample = None
            for name in ("property_names", "property_index", "property_words"):
                self.notify_property_changed(name)
            self.__list_others()
            self.settings_changed("camera_index")

    @property
    def property_names(self) -> list[str]:
        """What can be looked for with this camera."""
        return list(PROPERTIES[self.settings.camera])

    @property
    def property_index(self) -> int:
        """Which of them is looked for."""
        return self.property_names.index(self.settings.property_name)

    @property_index.setter
    def property_index(self, index: int | None) -> None:
        if index is not None and index != self.property_index:
            self.settings.properties[self.settings.camera] = self.property_names[index]
            self.notify_property_changed("property_words")
            self.settings_changed("property_index")
            self.__look_for()

    @property
    def property_words(self) -> str:
        """Bands in eV, angles in mrad, or an expression."""
        return self.settings.property_words

    @property_words.setter
    def property_words(self, words: str | None) -> None:
        if words is not None and words.strip() != self.property_words:
            self.settings.words[f"{self.settings.camera}/{self.settings.property_name}"] = words.strip()
            self.settings_changed("property_words")
            self.__look_for()

    def settings_changed(self, name: str) -> None:
        """Say that a setting has changed, and store them."""
        self.notify_property_changed(name)
        self.__note = self.__complaint()
        self.__describe()
        self.__window.add_task(SAVE_TASK, functools.partial(self.settings.save, self.__window.ui))

    @property
    def folder(self) -> str:
        """The folder of all panels' runs that was chosen; empty for the usual one."""
        return preferences.Preferences.stored().runs

    @folder.setter
    def folder(self, text: str | None) -> None:
        try:
            preferences.change("runs", text or "")
        except StemAeError as error:
            self.__say(str(error))

    def __preferences_changed(self) -> None:
        self.notify_property_changed("folder")
        self.notify_property_changed("runs_folder")

    @property
    def runs_folder(self) -> str:
        """Where runs are written to."""
        return str(folders.folder("runs"))

    def open_folder(self) -> None:
        """Show that folder in the system's file manager; it is made if it is missing."""
        try:
            show_in_files(output_folder(self.runs_folder))
        except StemAeError as error:
            self.__say(f"{error} Choose another one.")

    def __complaint(self) -> str:
        """Return one sentence if something that was typed cannot be read, else nothing."""
        try:
            self.settings.numbers()
            self.settings.objective()
        except StemAeError as error:
            return str(error)
        return ""

    def add_property(self) -> None:
        """Look at another property as well: the first one in the list that is not looked at yet."""
        taken = {self.settings.property_name, *(row.other.name for row in self.others.items)}
        name = next((one for one in self.property_names if one not in taken), self.property_names[0])
        self.others.append_item(self.__row(Other(name, self.settings.first_words(name))))
        self.__others_changed()

    def remove_property(self, row: OtherProperty) -> None:
        """Look at a property no more; its map stays as it is."""
        self.others.remove_item(self.others.items.index(row))
        self.__others_changed()

    def __row(self, other: Other) -> OtherProperty:
        return OtherProperty(other, self.settings, f"other {next(self.__keys)}", self.__others_changed)

    def __list_others(self) -> None:
        self.others.items = [self.__row(other) for other in self.settings.others]

    def __others_changed(self) -> None:
        self.settings.others = [row.other for row in self.others.items]
        self.settings_changed("others")
        self.__look_for()

    # --- what the user does -----------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether the microscope is busy with something that this panel has started."""
        return self.__runner is not None and self.__runner.state != "idle"

    @property
    def is_paused(self) -> bool:
        """Whether that is paused."""
        return self.__runner is not None and self.__runner.state == "paused"

    def survey(self) -> None:
        """Take a survey image as the user's scan is set."""
        self.__attempt("survey", self.__survey)

    def preview(self) -> None:
        """Take one spectrum in the middle of the region and show what the property is there."""
        self.__attempt("preview", self.__preview)

    def start(self) -> None:
        """Explore the region."""
        self.__attempt("explore", self.__explore)

    def tune(self) -> None:
        """Focus and correct the astigmatism at the middle of the scan."""
        self.__attempt("tune", self.__tune)

    def pause(self) -> None:
        """Blank and wait, or go on."""
        if self.__runner:
            (self.__runner.resume if self.is_paused else self.__runner.pause)()

    def stop(self) -> None:
        """Blank at once and end; what was measured stays."""
        if self.__runner:
            self.__runner.stop()

    def set_clicking(self, on: bool) -> None:
        """Let clicks on the survey force points, or not."""
        self.is_clicking = on
        self.notify_property_changed("is_clicking")

    def force(self, row: float, column: float) -> None:
        """Measure the candidate nearest to a pixel of the survey next."""
        if self.exploration is None or not self.is_running or not len(self.__candidates):
            self.__say("A point can be forced while the explorer runs: press Start first.")
            return
        nearest = self.__candidates[np.abs(self.__candidates - (row, column)).max(axis=1).argmin()]
        point = (int(nearest[0]), int(nearest[1]))
        try:
            self.exploration.force(point)
        except StemAeError as error:
            self.__say(str(error))
            return
        self.__forced.append(point)
        self.__overlays.refresh()

    # --- the runs ---------------------------------------------------------------------------------------------------

    def __attempt(self, doing: str, work: typing.Callable[[Microscope, Runner], None]) -> None:
        """Start something; what is wrong with the settings is said."""
        if self.is_running:
            return
        self.__note, self.__trials = "", ""
        try:
            runner = self.__ready()
            self.__doing = self.__did = doing
            work(runner.microscope, runner)
        except StemAeError as error:
            self.__say(str(error))

    def __ready(self) -> Runner:
        from stem_ae.microscope.devices import Microscope
        from stem_ae.microscope.swift import SwiftInstrument
        from stem_ae.plans import Runner

        # Made anew each time: Swift's instrument may be another one by now.
        self.__runner = Runner(Microscope(SwiftInstrument()), pathlib.Path(self.runs_folder), self.__ask_for_update)
        return self.__runner

    def __survey(self, microscope: Microscope, runner: Runner) -> None:
        from stem_ae.plans import acquire

        runner.start(acquire.survey(microscope, microscope.instrument.user_frame()))

    def __preview(self, microscope: Microscope, runner: Runner) -> None:
        from stem_ae.plans import acquire

        frame = microscope.instrument.user_frame()
        middle = self.items.region.center
        pixel = (middle.y * frame.shape[0] - 0.5, middle.x * frame.shape[1] - 0.5)
        self.settings.scalarizers()
        place = frame.pixels_to_plane(pixel)
        runner.start(acquire.points(microscope, frame, [place], self.settings.camera, self.settings.exposure_s))

    def __explore(self, microscope: Microscope, runner: Runner) -> None:
        from stem_ae.plans.explore import Exploration

        objective = self.settings.objective()
        settings = self.__exploration_settings(microscope.instrument.user_frame())
        self.items.finish()
        self.__decision, self.__forced, self.__image = None, [], None
        self.__objective, self.__believed_of = objective, {}
        self.exploration = Exploration(
            microscope, self.__process, settings, objective, self.__surveyed, self.__ask_for_update, self.__decided,
            self.__supposed,
        )  # fmt: skip
        runner.start(self.exploration.plan(**self.__about()))

    def __exploration_settings(self, frame: Frame) -> typing.Any:
        from stem_ae.plans.explore import Settings as ExplorationSettings

        s, numbers = self.settings, self.settings.numbers()
        self.__candidates = candidates_in(self.items.region, frame.shape, numbers.patch, numbers.step)
        explorer: dict[str, typing.Any] = {
            "surrogate": s.surrogate, "acquisition": s.acquisition, "patch": numbers.patch,
            "dose_per_point": numbers.dose_per_point, "feature": numbers.feature,
            "min_distance": numbers.min_distance, "travel": numbers.travel,
        }  # fmt: skip
        if numbers.dose_budget is not None:
            explorer["dose_budget"] = numbers.dose_budget
        return ExplorationSettings(
            frame, s.camera, numbers.exposure_s, numbers.points, numbers.batch, min(10, numbers.points),
            self.__candidates, explorer, numbers.drift_every,
        )  # fmt: skip

    def __tune(self, microscope: Microscope, runner: Runner) -> None:
        from stem_ae.plans.tune import tune

        user = microscope.instrument.user_frame()
        pixels = (_TUNING_PIXELS, _TUNING_PIXELS)
        frame = Frame(_TUNING_FOV, pixels, _TUNING_DWELL_US, user.centre, user.rotation)
        runner.start(tune(microscope, self.__process, frame, tried=self.__tried))

    def __look_for(self) -> None:
        """Look for another property: in the run under way, or in what the last one has measured."""
        try:
            objective = self.settings.objective()
            self.__show_sample(self.settings.scalarizers())
            if self.exploration is None or self.exploration.settings.camera != self.settings.camera:
                return
            self.__objective, self.__believed_of = objective, {}
            self.exploration.look_for(objective)
            if not self.is_running and len(self.exploration.frames) >= 2:
                self.exploration.believe().add_done_callback(self.__believed)
        except StemAeError as error:
            self.__say(str(error))

    def __believed(self, done: Future[Decision]) -> None:
        """Show what would have been believed. In the process's thread."""
        if done.cancelled():
            return
        if error := done.exception():
            self.__note = str(error)
        else:
            self.__decision = done.result()
        self.__ask_for_update()

    # --- from other threads -----------------------------------------------------------------------------------------

    def __surveyed(self, image: Image) -> None:
        self.__image = image
        self.__ask_for_update()

    def __decided(self, decision: Decision) -> None:
        self.__decision = decision
        self.__ask_for_update()

    def __supposed(self, number: int, decision: Decision) -> None:
        others = self.others.items
        if self.exploration and self.exploration.objective is self.__objective and number <= len(others):
            self.__believed_of[others[number - 1].key] = decision  # otherwise the list has changed since it was asked
        self.__ask_for_update()

    def __tried(self, count: int, sharpness: float) -> None:
        self.__trials = f"{counted(count, 'image')}, sharpness {sharpness:.3g}"
        self.__ask_for_update()

    def __ask_for_update(self) -> None:
        with self.__lock:
            if not self.__closed:
                self.__window.add_task(UPDATE_TASK, self.__update)

    # --- showing ----------------------------------------------------------------------------------------------------

    def __update(self) -> None:
        """Show everything as it is now."""
        exploration, runner = self.exploration, self.__runner
        if runner and runner.state == "idle" and self.__doing in ("survey", "preview"):
            self.__take_over(runner)
        image, decision, folder = self.__image, self.__decision, str(runner.run_folder) if runner else ""
        sampling = exploration.settings.frame.sampling[0] if exploration else 1.0
        frame = exploration.frames[-1] if exploration and exploration.frames and self.__doing == "explore" else None
        if image and image is not self.__shown[0]:
            self.items.show_survey(image, self.__doing == "explore")
        if frame is not None and frame is not self.__shown[1]:
            self.__sample = frame
            self.__try_to_show_sample()
        if decision and decision is not self.__shown[2] and exploration:
            self.items.show_maps(decision, self.__candidates, sampling, {"run": folder, **self.__about()})
        for row in self.others.items:
            believed = self.__believed_of.get(row.key)
            if believed and exploration and believed is not self.__shown_of.get(row.key):
                self.__shown_of[row.key] = believed
                about = {"property": row.other.name, "words": row.words, "run": folder}
                self.items.show_other(row.key, believed, self.__candidates, sampling, about)
        self.__shown = (image, frame, decision)
        if not self.is_running:
            self.items.finish()
        self.__forced = [point for point in self.__forced if exploration and point not in exploration.points]
        self.__overlays.refresh()
        self.__working.tell(self.is_running)
        self.__tell_progress()
        for name in ("is_running", "is_paused"):
            self.notify_property_changed(name)
        self.__describe()

    def __tell_progress(self) -> None:
        """Report the progress in Swift's Activity panel."""
        work = self.__works.keep("Explorer", self.is_running)
        if work is None:
            return
        if self.__doing == "explore" and self.exploration:
            total, measured = self.exploration.settings.points, len(self.exploration.points)
            told = f"{measured:,} of {counted(total, 'point')}"
            if self.__runner and self.__runner.suspended:
                work.tell(f"suspended after {told}")  # the end is unknown
            elif self.is_paused:
                work.tell(f"paused after {told}")
            else:
                work.tell_done(measured / total, told)
        else:
            work.tell(self.__trials or DOING[self.__doing].rstrip("…").lower())

    def __take_over(self, runner: Runner) -> None:
        """Take the image, and the spectrum, that a finished run has left."""
        image, doing = runner.microscope.scan.image, self.__doing
        if runner.outcome == "completed" and image:
            self.__image = image
            if doing == "preview":
                self.__sample = runner.microscope.camera(self.settings.camera).latest
                self.__try_to_show_sample()
        self.__doing = ""

    def __try_to_show_sample(self) -> None:
        try:
            self.__show_sample(self.settings.scalarizers())
        except StemAeError as error:
            self.__note = str(error)

    def __show_sample(self, scalarizers: dict[str, Scalarizer]) -> None:
        """Show the newest spectrum, the bands on it and the properties; raises what is wrong with them."""
        if self.__sample is not None:
            self.items.show_sample(self.__sample, [band for one in scalarizers.values() for band in bands_of(one)])
            if not self.is_running:
                self.items.finish()
            for one in scalarizers.values():
                value_of(one, self.__sample)
        self.__describe()

    def __about(self) -> dict[str, typing.Any]:
        """Return what is looked for, in words."""
        others = [dataclasses.asdict(other) for other in self.settings.others]
        about = {"property": self.settings.property_name, "words": self.settings.property_words}
        return {**about, "others": others} if others else about

    def __marks_for(self, item: DataItem.DataItem) -> WayMarks | None:
        exploration = self.exploration
        if exploration is None or item is not self.items.explored:
            return None
        points = np.array(exploration.points, dtype=float).reshape(-1, 2)[:, ::-1]
        forced = np.array(self.__forced, dtype=float).reshape(-1, 2)[:, ::-1]
        words = f"{len(points)} / {counted(exploration.settings.points, 'point')}"
        return WayMarks(points, forced, exploration.settings.frame.shape, words)

    # --- words ------------------------------------------------------------------------------------------------------

    def __say(self, note: str) -> None:
        self.__note = note
        self.__describe()

    def __describe(self) -> None:
        status, color, message = self.__state()
        texts = Texts(status, color, self.__note or message, self.__value_text(), self.__dose_text(), self.__progress())
        if texts != self.texts:
            self.texts = texts
            self.notify_property_changed("texts")

    def __state(self) -> tuple[str, str, str]:
        """Return status, its colour and a message."""
        runner = self.__runner
        if runner is None:
            return "Ready", OFF, ""
        interlock = runner.microscope.interlock
        if interlock.alarm:
            return "THE BEAM MAY BE ON", BAD, interlock.alarm
        beam = BEAM[interlock.state]
        if runner.state == "idle":
            if runner.outcome == "failed":
                return f"Ended · {beam}", BAD, runner.error
            ended = {"completed": DONE[self.__did], "stopped": "Stopped", "aborted": "Aborted"}.get(runner.outcome)
            if ended is None:
                return "Ready", OFF, ""
            if self.__has_no_values():
                todo = "No point gave a value: check the camera and the bands with Preview."
                return f"{ended} · nothing measured · {beam}", WAITING, todo
            return f"{ended} · {beam}", OFF, self.__result_text(runner)
        if runner.suspended:
            return f"Suspended · {beam}", WAITING, runner.suspended
        words = {"paused": f"Paused · {beam}", "pausing": "Pausing…", "ending": "Stopping…"}
        color = BUSY if runner.state == "running" else WAITING
        return words.get(runner.state, DOING[self.__doing]), color, ""

    def __has_no_values(self) -> bool:
        """Whether the finished exploration measured points but got no value."""
        values = self.exploration.values if self.exploration and self.__did == "explore" else []
        return bool(len(values)) and not np.isfinite(np.array(values, dtype=float)).any()

    def __result_text(self, runner: Runner) -> str:
        tuned = runner.result
        if hasattr(tuned, "sharpness_after"):
            gain = tuned.sharpness_after / tuned.sharpness_before if tuned.sharpness_before > 0 else 1.0
            settings = ", ".join(f"{name.replace('_', ' ')} {value:.0f} Å" for name, value in tuned.after.items())
            return f"Sharper by a factor of {gain:.1f}: {settings}."
        return runner.error

    def __value_text(self) -> str:
        if self.__sample is None:
            return "Preview shows what this gives for one spectrum."
        try:
            found = {name: value_of(one, self.__sample) for name, one in self.settings.scalarizers().items()}
            return " · ".join(f"{name} = {value:.5g}" for name, value in found.items())
        except StemAeError:  # the message says what is wrong
            return ""

    def __dose_text(self) -> str:
        try:
            dose = self.settings.dose_per_point
        except StemAeError:  # the message says what is wrong
            return ""
        spent = len(self.exploration.points) * dose if self.exploration else 0.0
        return f"{dose:.3g} million electrons a point; spent {spent:,.0f} million"

    def __progress(self) -> str:
        if self.__doing == "tune":
            return self.__trials
        exploration, decision = self.exploration, self.__decision
        if exploration is None:
            return ""
        known = np.array([value for value in exploration.values if np.isfinite(value)])
        parts = [f"{len(exploration.points):,} of {counted(exploration.settings.points, 'point')}"]
        parts += [f"best {known.max():.4g}"] if len(known) else []
        parts += [f"last decision {decision.seconds:.2f} s"] if decision else []
        parts += [f"{len(out)} left out: drifted out of the field"] if (out := exploration.left_out) else []
        parts += [f"{exploration.missing} pixels missing"] if exploration.missing else []
        return " · ".join(parts)


def candidates_in(
    region: Geometry.FloatRect, shape: tuple[int, int], patch: int, step: int
) -> NDArray[np.int64]:
    """Return row and column, ``(k, 2)``, of a grid of pixels inside a region (fractions) whose patches fit the image.

    Raises
    ------
    StemAeError
        If there are fewer than two rows or columns.
    """
    ends = ((region.top, region.bottom), (region.left, region.right))
    axes = []
    for (low, high), length in zip(ends, shape, strict=True):
        first = max(int(np.ceil(low * length)), patch // 2)
        last = min(int(np.floor(high * length)), length - patch + patch // 2 + 1)
        axes.append(np.arange(first, last, step))
    if min(len(axis) for axis in axes) < 2:
        raise StemAeError("The region is too small for the patch and the step: enlarge it, or make them smaller.")
    grid: NDArray[np.int64] = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int64)
    return grid
