"""What the Eject panel shows and does, without any widget."""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import datetime
import functools
import pathlib
import threading
import time
import typing

import numpy as np
from nion.swift import DocumentController
from nion.swift.model import DataItem
from nion.utils import ListModel, Observable, Registry
from numpy.typing import NDArray

from stem_ae.atoms import Atoms2D
from stem_ae.elit import remote
from stem_ae.errors import StemAeError
from stem_ae.imaging.virtual_microscope import Beam as Column
from stem_ae.imaging.virtual_microscope import Conditions
from stem_ae.manipulate import (
    EjectionRun,
    Exposure,
    Limits,
    RunLog,
    rehearsal,
    runlog,
)  # fmt: skip
from stem_ae.manipulate.beam import Scan
from stem_ae.manipulate.run import AROUND, Find

from . import ejection_pictures, keeping
from .canvas import Overlays
from .clicks import Clicks
from .ejection_choice import Choice
from .ejection_intent import UNTIL, USUAL, Intent, measured_source, number
from .ejection_news import News
from .ejection_overlay import RADIUS, TargetMarks, targets_and_legend
from .ejection_survey import SurveyItem
from .ejection_texts import BAD, GOOD, OFF, WAITING, TargetRow, Texts

FloatArray = NDArray[np.float64]

UPDATE_TASK = "stem_ae eject update"

_GUESSED_DRIFT = (1 / 60, 0.0)  # Å/s in rehearsals: that of a good stage, as long as the real one is not known
_MEASURED_S = 60.0  # the beam's source is taken to be the same for so long
_KNOWN = 0.02  # Å/s: ... better than this


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

    timeout = _option("timeout")
    cap = _option("cap")
    local = _option("local")
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
        self._options: dict[str, typing.Any] = {"current": "", **USUAL[UNTIL]}
        self.texts = Texts()
        self.rows: ListModel.ListModel[TargetRow] = ListModel.ListModel()
        self.species_names: list[str] = []
        self.__policy_index = UNTIL
        self.trace = ejection_pictures.no_trace()
        self.patches = ejection_pictures.before_and_after(None, None)
        self.dose_percent = 0
        self.__snapshot: keeping.Snapshot | None = None
        self.__choice = Choice()
        self.__note = self.__estimate = self.__warning = ""
        self.__source: tuple[float, Column, float] | None = None  # when it was measured, with which settings, Å
        self.__estimating = 0
        self.__lock = threading.Lock()
        self.__closed = False
        self.__run: EjectionRun | None = None
        self.__runner: typing.Any = None
        self.__is_rehearsal = False
        self.__thread: threading.Thread | None = None
        self.__limits = Limits()
        self.__armed_until = 0.0
        self.__news: News | None = None
        self.__survey_item = SurveyItem(window)
        self.__overlays = Overlays(window, self.__marks_for, targets_and_legend)
        self.__clicks = Clicks(window, self.__clickable, self.__clicked)

    def close(self) -> None:
        """Blank if a run is under way, and let go of everything."""
        self.stop()
        with self.__lock:
            self.__closed = True
        self.__window.clear_task(UPDATE_TASK)
        if thread := self.__thread:
            thread.join(5.0)
        self.__process.close()
        self.__clicks.close()
        self.__survey_item.stop()
        self.__overlays.close()

    # --- choices ----------------------------------------------------------------------------------------------------

    @property
    def pick_index(self) -> int:
        """How targets are chosen, as a place in ``PICKS``."""
        return self.__choice.pick

    @pick_index.setter
    def pick_index(self, index: int | None) -> None:
        if index is not None and index != self.__choice.pick:
            self.__choice.pick, self.__choice.drawn = index, []
            self.notify_property_changed("pick_index")
            self.__show()

    @property
    def every(self) -> str:
        """Every n-th of a row, or n x m steps of a pattern."""
        return self.__choice.every

    @every.setter
    def every(self, text: str | None) -> None:
        if text is not None and text != self.__choice.every:
            self.__choice.every = text
            self.notify_property_changed("every")

    @property
    def species_index(self) -> int | None:
        """Which class of ``species_names`` rows, areas and patterns are made of."""
        names = self.species_names
        return names.index(self.__choice.species) if self.__choice.species in names else None

    @species_index.setter
    def species_index(self, index: int | None) -> None:
        if index is not None and index < len(self.species_names) and index != self.species_index:
            self.__choice.species = self.species_names[index]
            self.notify_property_changed("species_index")

    @property
    def policy_index(self) -> int:
        """Which of ``POLICIES`` decides."""
        return self.__policy_index

    @policy_index.setter
    def policy_index(self, index: int | None) -> None:
        if index is not None and index != self.__policy_index:
            usual, self.__policy_index = USUAL[self.__policy_index], index
            for name, value in USUAL[index].items():
                if self._options[name] == usual[name]:  # nobody has typed anything else
                    self._options[name] = value
                    self.notify_property_changed(name)
            self.notify_property_changed("policy_index")
            self.estimate()

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
        return self.__choice.sites

    @property
    def states(self) -> list[str]:
        """State of each target."""
        return [self.__state_of(k)[0] for k in range(len(self.sites))]

    def __state_of(self, target: int) -> tuple[str, str]:
        return self.__news.state(target) if self.__news else ("waiting", "")

    # --- targets ----------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Take the newest frame up; targets that were chosen stay on their columns."""
        snapshot = self.__newest()
        if self.__run is not None or snapshot is None or self.__same_frame(snapshot):
            return
        if not self.__choice.follow(snapshot.atoms, _seconds(snapshot.origin.timestamp)):
            return
        self.__snapshot = snapshot
        names = self.__choice.species_names
        if names != self.species_names:
            self.species_names, self.__choice.species = names, names[0] if names else ""
            self.notify_property_changed("species_names")
            self.notify_property_changed("species_index")
        self.__show()

    def __same_frame(self, snapshot: keeping.Snapshot) -> bool:
        return self.__snapshot is not None and snapshot.result is self.__snapshot.result

    def __clickable(self) -> DataItem.DataItem | None:
        """Return the image of the newest atoms while clicks on it choose."""
        if self.__run is not None or not self.is_choosing:
            return None
        self.follow()
        return self.__shown_item()

    def __clicked(self, x: float, y: float) -> None:
        dy, dx = self.__choice.atoms.sampling
        self.__guarded(self.click, x * dx, y * dy)

    is_choosing = False
    """Whether clicks on the image choose targets."""

    def choose(self, on: bool) -> None:
        """Let clicks on the image choose targets, or not."""
        self.is_choosing, self.__choice.drawn = on, []
        self.notify_property_changed("is_choosing")
        self.follow()
        self.__guarded(self.__choice.candidates) if on else self.__show()

    def click(self, x: float, y: float) -> None:
        """Choose at a place of the newest image, in Å, as ``pick_index`` says."""
        self.__chosen(self.__choice.click(x, y))

    def choose_all(self) -> None:
        """Choose all atoms of the class."""
        self.follow()
        self.__guarded(lambda: self.__chosen(self.__choice.add(self.__choice.candidates())))

    def read(self, path: str) -> None:
        """Choose the atoms that a list names."""
        self.follow()
        self.__guarded(lambda: self.__chosen(self.__choice.read(path)))

    def clear(self) -> None:
        """Choose none, and forbid nothing."""
        self.__choice.clear()
        self.__chosen("")

    def __chosen(self, note: str) -> None:
        """Show what is chosen now; what has become of earlier targets is past."""
        self.__news = None
        self.__say(note)
        self.estimate()

    # --- what it will cost ------------------------------------------------------------------------------------------

    def estimate(self) -> None:
        """Work out time and dose of what is chosen, aside."""
        self.__estimating += 1
        self.__estimate = self.__warning = ""
        self.__show()
        if not len(self.sites):
            return
        turn, snapshot = self.__estimating, self.__snapshot
        try:
            intent = self.__intent()
        except StemAeError as error:
            self.__say(str(error))
            return

        def work() -> None:
            try:
                words, warning = dataclasses.replace(intent, source_sigma=self.__measured_source(intent)).cost()
            except StemAeError as error:
                words, warning = str(error), ""
            with self.__lock:
                if turn == self.__estimating:
                    self.__estimate, self.__warning = words, warning
            self.__ask_for_update()
            if snapshot is not None:
                self.__warm_up(snapshot.model.name)

        threading.Thread(target=work, daemon=True, name="stem_ae estimate").start()

    def __measured_source(self, intent: Intent) -> float:
        """Return the beam's source in Å, measured anew when the settings are others, or after a while."""
        now, snapshot = time.monotonic(), self.__snapshot
        known = self.__source
        if known and known[1] == intent.column and now - known[0] < _MEASURED_S:
            return known[2]
        if snapshot is None:
            return intent.source_sigma
        source = measured_source(snapshot.atoms, snapshot.result.pixels, intent.ladder, intent.column)
        self.__source = now, intent.column, source
        return source

    def __warm_up(self, name: str) -> None:
        """Start the process that finds atoms before the beam has to wait for it: the first find takes long."""
        with contextlib.suppress(StemAeError):  # the run will say so
            self.__load(name).predict(np.zeros((64, 64)), (0.2, 0.2))

    # --- today's parameters -----------------------------------------------------------------------------------------

    def __control(self, name: str, otherwise: float) -> float:
        """Return a control of Swift's instrument."""
        stem = Registry.get_component("stem_controller")
        known, value = stem.TryGetVal(name) if stem else (False, None)
        return float(value) if known and value else otherwise

    def __column(self) -> Column:
        typed = self._options["current"].strip()
        current_pa = number(typed, "beam current") if typed else 1e12 * self.__control("BeamCurrent", 60e-12)
        return Column(self.__control("EHT", 60e3), 1e3 * self.__control("ConvergenceAngle", 0.032), current_pa)

    def __intent(self) -> Intent:
        """Return what a run or a rehearsal would do now, or say what is missing."""
        options = self._options
        limits = Limits(number(options["cap"], "dose cap"), number(options["local"], "dose cap"))
        timeout_s = number(options["timeout"], "timeout")
        return Intent.of(self.__choice, self.__policy_index, timeout_s, limits, self.__column())

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
        from stem_ae.microscope.swift import SwiftInstrument
        from stem_ae.plans import Runner
        from stem_ae.plans.eject import MicroscopeBeam, eject

        if not self.armed_left_s:
            raise StemAeError("The beam is not armed: press Arm first.")
        assert self.__snapshot
        now = time.time()
        if self.__choice.is_lost(now):
            age_s = now - self.__choice.track.now.time_s
            raise StemAeError(
                f"The image is {age_s:.0f} s old; the specimen may have drifted to the next column since: let the scan "
                "run while you press Run."
            )
        self.__choice.expect(now)
        intent = self.__ready()
        instrument = SwiftInstrument()
        frame = instrument.user_frame()
        if frame.shape != intent.atoms.shape or not np.allclose(frame.sampling, intent.atoms.sampling, rtol=0.01):
            raise StemAeError("The scan is not set as it was for this image: scan again, then press Run.")
        microscope = Microscope(instrument)
        column = intent.column
        beam = MicroscopeBeam(microscope, frame, column.current_pa, intent.probe)
        folder = self.__new_folder()
        log = RunLog(folder / "ejections.jsonl")
        policy = intent.carried_out_by()
        self.__news = News(policy, self.__ask_for_update)
        run = EjectionRun(
            beam, self.__find(), policy, intent.settings(), intent.limits, log, self.__news, track=self.__choice.track
        )
        self.__begin(run, False)
        run.guard.arm()
        self.__runner = runner = Runner(microscope, folder)
        model_name = self.__snapshot.model.name

        def carry_out() -> None:
            self.__warm_up(model_name)
            try:
                if not run.guard.stopped:
                    runner.start(eject(microscope, run, log=str(log.path)))
                runner.wait()
                reason = runner.error or str(runner.result or runner.outcome or "stopped")
            except StemAeError as error:
                reason = str(error)
            self.__ended(reason, log)

        self.__thread = threading.Thread(target=carry_out, daemon=True, name="stem_ae eject")
        self.__thread.start()

    def __start_rehearsal(self) -> None:
        intent = self.__ready()
        log = RunLog(self.__new_folder() / "rehearsal.jsonl")
        track = self.__choice.track
        x, y = track.now.velocity.tolist() if track.velocity_deviation < _KNOWN else _GUESSED_DRIFT
        conditions = Conditions(drift=(x, y), source_sigma=intent.source_sigma)
        policy = intent.carried_out_by()
        self.__news = News(policy, self.__ask_for_update)
        staged = rehearsal.Rehearsal(
            intent.atoms, self.__find(), policy, intent.column, conditions, intent.settings(), intent.limits, log,
            self.__news, seed=int(time.time()),
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

    def __ready(self) -> Intent:
        """Return what is intended, if it can begin."""
        if self.__run is not None:
            raise StemAeError("A run is under way: wait for its end or stop it first.")
        intent = self.__intent()
        self.__limits = intent.limits
        return dataclasses.replace(intent, source_sigma=self.__source[2]) if self.__source else intent

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
        self.__run, self.__is_rehearsal = run, is_rehearsal
        self.is_choosing = False
        self.__note = ""
        self.notify_property_changed("is_choosing")
        self.__changed_running()
        self.__ask_for_update()

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
        others = sum(len(a.bystanders) for a in attempts) + (len(run.found_later) if run else 0)
        name = "Rehearsal" if self.__is_rehearsal else "Run"
        ended = {"done": "is complete", "stopped": "was stopped"}.get(reason, f"has ended. {reason}")
        words = f"{name} {ended}".removesuffix(".") + f": {done} of {len(self.sites)} targets done"
        if others:
            words += f", {others} neighbouring column{'s' * (others > 1)} changed"
        return f"{words}. Log: {path.parent.name}/{path.name}."

    def __changed_running(self) -> None:
        for name in ("is_running", "can_choose", "is_paused"):
            self.notify_property_changed(name)

    # --- news from the run's thread ---------------------------------------------------------------------------------

    def __ask_for_update(self) -> None:
        """Ask for an update; from any thread."""
        with self.__lock:
            if not self.__closed:
                self.__window.add_task(UPDATE_TASK, self.__update)

    def __update(self) -> None:
        news = self.__news
        if self.__run is not None and news is not None:
            if news.survey is not None:
                self.__survey_item.show(news.survey, self.__shown_item())
            before = self.__patch(news) if news.survey is not None and news.place is not None else None
            self.patches = ejection_pictures.before_and_after(before, news.after)
            self.notify_property_changed("patches")
            self.trace = ejection_pictures.trace(news.exposure) if news.exposure else ejection_pictures.no_trace()
            self.notify_property_changed("trace")
            self.__note = news.note
        self.__show()

    @staticmethod
    def __patch(news: News) -> Scan:
        """Return the surroundings of the exposed column as the survey had them."""
        survey, place = news.survey, news.place
        assert survey is not None
        assert place is not None
        step = survey.sampling
        half = round(AROUND / 2 / step)
        column, row = np.rint((place + news.drift - survey.origin) / step).astype(int)
        height, width = survey.image.shape
        top, left = np.clip([row - half, column - half], 0, np.maximum([height - 2 * half, width - 2 * half], 0))
        return dataclasses.replace(survey, image=survey.image[top : top + 2 * half, left : left + 2 * half])

    # --- showing ----------------------------------------------------------------------------------------------------

    def __shown_item(self) -> DataItem.DataItem | None:
        return self.__snapshot.origin.shown_by(self.__window.document_model) if self.__snapshot else None

    def __marks_for(self, item: DataItem.DataItem) -> TargetMarks | None:
        """Return the targets for the image that they were chosen in, or the last survey of a run."""
        if not (len(self.sites) or self.__choice.drawn or self.__choice.zones):
            return None
        is_survey = self.__survey_item.is_item(item)
        if not is_survey and (self.__run is not None or item is not self.__shown_item()):
            return None  # during a run the scan's item shows pieces of the field
        xdata, atoms = item.xdata, self.__choice.atoms
        if xdata is None or tuple(xdata.data_shape[-2:]) != atoms.shape:
            return None
        pixel = np.array(atoms.sampling[::-1])
        return TargetMarks(
            (self.sites + (self.__news.drift if is_survey and self.__news else 0.0)) / pixel,
            tuple(self.states),
            atoms.shape,
            RADIUS / float(np.sqrt(pixel.prod())),
            tuple(zone / pixel for zone in self.__choice.zones),
            np.array(self.__choice.drawn).reshape(-1, 2) / pixel,
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
        if len(self.sites) or self.is_choosing:
            self.follow()
        if self.__armed_until or self.__run is not None:
            self.__show()

    def __show(self) -> None:
        texts = self.__describe()
        if texts != self.texts:
            self.texts = texts
            self.notify_property_changed("texts")
        if len(self.rows.items) != len(self.sites):
            self.rows.items = [TargetRow(k + 1) for k in range(len(self.sites))]
        for k, row in enumerate(self.rows.items):
            row.update(self.__choice.species_at(self.sites[k]), *self.__state_of(k))
        percent = round(100 * self.__spent() / self.__limits.total_electrons)
        if percent != self.dose_percent:
            self.dose_percent = percent
            self.notify_property_changed("dose_percent")
        self.__overlays.refresh()

    def __spent(self) -> float:
        return self.__run.ledger.electrons if self.__run else 0.0

    def __describe(self) -> Texts:
        status, color = self.__state()
        left = self.armed_left_s
        counts = {state: self.states.count(state) for state in ("done", "failed")}
        some = f"{len(self.sites)} target{'s' * (len(self.sites) != 1)}"
        chosen = ", ".join([some, *(f"{n} {state}" for state, n in counts.items() if n)]) if len(self.sites) else ""
        return Texts(
            status=status,
            status_color=color,
            message=self.__note,
            targets=chosen,
            estimate=self.__estimate if not self.is_running else "",
            warning=self.__warning if not self.is_running else "",
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
        if not len(self.sites):
            return "No targets", OFF
        return ("All targets done", GOOD) if set(self.states) == {"done"} else ("Ready", GOOD)

    def __site_state(self) -> str:
        target = self.__news.target if self.__news else None
        return "survey" if target is None else f"{self.__state_of(target)[0]}, target {target + 1}"

    def __site_text(self) -> str:
        news = self.__news
        if news is None or news.aim is None or news.target is None:
            return ""
        return (
            f"Target {news.target + 1} · aim ± {100 * news.aim.deviation:.0f} pm from {news.aim.neighbours} columns · "
            f"drift {60 * float(np.linalg.norm(news.aim.velocity)):.1f} Å/min{_readings(news.exposure)}"
        )


def _readings(exposure: Exposure | None) -> str:
    """Say how long the readings really are: the test cannot stop within one."""
    taken = exposure.readings[:] if exposure else []
    return f" · readings of {1e3 * float(np.median([r.exposure_s for r in taken])):.2g} ms" if taken else ""


def _seconds(timestamp: datetime.datetime) -> float:
    """Return seconds since 1970 of Swift's timestamps: UTC without saying so."""
    return timestamp.replace(tzinfo=datetime.UTC).timestamp()
