"""What the Eject panel shows and does, without any widget."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import functools
import logging
import pathlib
import threading
import time
import typing

import numpy as np
from nion.swift import DocumentController
from nion.swift.model import DataItem
from nion.utils import ListModel, Observable
from numpy.typing import NDArray

from stem_ae import folders
from stem_ae.atoms import Atoms2D
from stem_ae.elit import remote
from stem_ae.errors import StemAeError
from stem_ae.imaging.virtual_microscope import Beam as Column
from stem_ae.manipulate import EjectionRun, Limits, runlog
from stem_ae.manipulate.aim import Track
from stem_ae.manipulate.beam import Scan
from stem_ae.manipulate.run import AROUND, Find
from stem_ae.words import counted

from . import ejection_fates, ejection_pictures, keeping
from .activities import Works
from .beam_watch import WATCH
from .canvas import Overlays
from .clicks import Clicks
from .ejection_choice import Choice
from .ejection_conduct import Conduct
from .ejection_estimate import Estimate
from .ejection_fates import Fate, Plan
from .ejection_field import Field, control
from .ejection_intent import ONCE, UNTIL, USUAL, Intent, number
from .ejection_news import News
from .ejection_overlay import RADIUS, TargetMarks, targets_and_legend
from .ejection_start import Staged, staged_rehearsal, staged_run, warm_up
from .ejection_survey import SurveyItem
from .ejection_texts import Situation, TargetRow, Texts
from .presence import Presence

FloatArray = NDArray[np.float64]

UPDATE_TASK = "stem_ae eject update"

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
        load: collections.abc.Callable[[str], typing.Any] | None = None,
    ) -> None:
        super().__init__()
        self.__window, self.__newest = window, newest
        self.__process = remote.PredictionProcess()
        self.__load = functools.cache(load or self.__process.load)
        self._options: dict[str, typing.Any] = {"current": "", **USUAL[UNTIL]}
        self.texts = Texts()
        self.rows: ListModel.ListModel[TargetRow] = ListModel.ListModel()
        self.species_names: list[str] = []
        self.__policy_index = UNTIL
        self.__again = False
        self.trace = ejection_pictures.no_trace()
        self.patches = ejection_pictures.before_and_after(None, None)
        self.dose_percent = 0
        self.__snapshot: keeping.Snapshot | None = None
        self.__seen: tuple[datetime.datetime, float] | None = None  # the newest frame's time stamp, and when it came
        self.__choice = Choice()
        self.__note = ""
        self.__lock = threading.Lock()
        self.__closed = False
        self.__estimate = Estimate(self.__ask_for_update)
        self.__conduct = Conduct(lambda: f"Eject · {self.__situation.status()[0]}")
        self.__works = Works()
        self.__limits = Limits()
        self.__news: News | None = None
        self.__has_failed = False
        self.__offer: Plan | None = None
        self.__survey_items = {False: SurveyItem(window, "survey"), True: SurveyItem(window, "rehearsal")}
        self.__presence = Presence(window, self.__is_image, lambda what: self.leave(what))
        self.__overlays = Overlays(
            window, self.__marks_for, targets_and_legend, must_show=lambda: self.__conduct.is_live
        )
        self.__clicks = Clicks(window, self.__clickable, self.__clicked)
        self.__find_offer()

    def close(self) -> None:
        """Blank if a run is under way, and let go of everything."""
        self.__conduct.close()
        self.__works.close()
        with self.__lock:
            self.__closed = True
        self.__presence.end()
        self.__window.clear_task(UPDATE_TASK)
        self.__process.close()
        self.__clicks.close()
        for survey_item in self.__survey_items.values():
            survey_item.stop()
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
    def again(self) -> bool:
        """Whether the next run exposes finished targets as well."""
        return self.__again

    @again.setter
    def again(self, again: bool | None) -> None:
        if again is not None and again != self.__again:
            self.__again = again
            self.notify_property_changed("again")
            self.estimate()

    @property
    def can_choose(self) -> bool:
        """Whether targets can be changed now."""
        return self.__run is None

    @property
    def can_confirm(self) -> bool:
        """Whether somebody has to check that the targets are on the right atoms."""
        return bool(self.__choice.doubt) and self.__run is None

    @property
    def is_running(self) -> bool:
        """Whether a run or a rehearsal is under way."""
        return self.__run is not None

    @property
    def is_paused(self) -> bool:
        """Whether it waits."""
        return self.__conduct.is_paused

    @property
    def is_live(self) -> bool:
        """Whether it is armed or exposing."""
        return self.__conduct.is_live

    @property
    def __run(self) -> EjectionRun | None:
        return self.__conduct.run

    @property
    def sites(self) -> FloatArray:
        """Targets in order, ``(K, 2)`` in Å of the newest image."""
        return self.__choice.sites

    @property
    def states(self) -> list[str]:
        """State of each target; of a rehearsal, if that was the last thing to happen."""
        return [fate.state for fate in self.__told()]

    @property
    def __is_rehearsed(self) -> bool:
        """Whether the states shown are from a rehearsal."""
        return self.__news is not None and self.__conduct.is_rehearsal

    def __told(self) -> list[Fate]:
        """Return what to say of each target."""
        news = self.__news
        if news is not None and self.__run is not None:
            return news.fates
        if news is not None and self.__is_rehearsed:
            return [fate.settled() for fate in news.fates]
        return [self.__choice.told(k) for k in range(len(self.sites))]

    # --- targets ----------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Take the newest frame up; targets that were chosen stay on their columns."""
        snapshot = self.__newest()
        if self.__is_under_way_for_real or snapshot is None or self.__same_frame(snapshot):
            return
        stamp = snapshot.origin.timestamp
        if self.__seen is None or self.__seen[0] != stamp:  # looking at a frame again does not make it newer
            self.__seen = stamp, snapshot.result.frame.ready
        was_elsewhere, was_doubtful = self.__choice.elsewhere, self.__choice.doubt
        taken = self.__choice.follow(snapshot.atoms, self.__seen[1], Field.of(snapshot))
        if (self.__choice.elsewhere, self.__choice.doubt) != (was_elsewhere, was_doubtful):
            if self.__conduct.is_live and (self.__choice.elsewhere or self.__choice.doubt):
                self.leave("the image shows something else")
            self.notify_property_changed("can_confirm")
            self.__show()
        if not taken:
            return
        self.__snapshot = snapshot
        names = self.__choice.species_names
        if names != self.species_names:
            self.species_names = names
            self.__choice.species = self.__choice.species if self.__choice.species in names else next(iter(names), "")
            self.notify_property_changed("species_names")
            self.notify_property_changed("species_index")
        self.__show()

    @property
    def __is_under_way_for_real(self) -> bool:
        return self.__run is not None and not self.__conduct.is_rehearsal

    def __same_frame(self, snapshot: keeping.Snapshot) -> bool:
        return self.__snapshot is not None and snapshot.result is self.__snapshot.result

    def __age_s(self) -> float:
        """Return the age of the newest frame: by the monotonic clock or by its time stamp, whichever is more."""
        if self.__seen is None:
            return float("inf")
        stamp, ready = self.__seen
        by_stamp = time.time() - stamp.replace(tzinfo=datetime.UTC).timestamp()
        return max(time.perf_counter() - ready, by_stamp)

    def __choose_anew(self) -> None:
        """Use the newest frame before targets are chosen; targets of another place are dropped."""
        self.follow()
        if self.__choice.elsewhere:
            self.__choice.clear()
            self.__snapshot = None
            self.follow()

    def __clickable(self) -> DataItem.DataItem | None:
        """Return the image of the newest atoms while clicks on it choose."""
        if self.__run is not None or not self.is_choosing:
            return None
        self.__choose_anew()
        return self.__shown_item()

    def __clicked(self, x: float, y: float) -> None:
        dy, dx = self.__choice.atoms.known_sampling
        self.__guarded(self.click, x * dx, y * dy)

    is_choosing = False
    """Whether clicks on the image choose targets."""

    def choose(self, on: bool) -> None:
        """Let clicks on the image choose targets, or not."""
        self.is_choosing, self.__choice.drawn = on, []
        self.notify_property_changed("is_choosing")
        if on:
            self.__choose_anew()
            self.__guarded(self.__choice.candidates)
        else:
            self.follow()
            self.__show()

    def click(self, x: float, y: float) -> None:
        """Choose at a place of the newest image, in Å, as ``pick_index`` says."""
        self.__chosen(self.__choice.click(x, y))

    def choose_all(self) -> None:
        """Choose all atoms of the class."""
        self.__choose_anew()
        self.__guarded(lambda: self.__chosen(self.__choice.add(self.__choice.candidates())))

    def read(self, path: str) -> None:
        """Choose the atoms that a list names."""
        self.__choose_anew()
        self.__guarded(lambda: self.__chosen(self.__choice.read(path)))

    def clear(self) -> None:
        """Choose none, and forbid nothing."""
        self.__choice.clear()
        self.__find_offer()
        self.__chosen("")

    def confirm(self) -> None:
        """Note that the user has confirmed that the targets are on the right atoms."""
        self.__choice.confirm()
        self.notify_property_changed("can_confirm")
        self.__say("")

    def __chosen(self, note: str) -> None:
        """Show the current choice without pictures and marks of an earlier run; finished targets stay finished."""
        self.__news = None
        self.__has_failed = False
        self.notify_property_changed("can_confirm")
        self.__say(note)
        self.estimate()

    # --- going on with an earlier run -------------------------------------------------------------------------------

    def __find_offer(self) -> None:
        """Look in another thread for a run that can be continued, since its log may be long."""

        def look() -> None:
            plan = ejection_fates.unfinished(folders.folder("runs"))
            with self.__lock:
                self.__offer = plan
            self.__ask_for_update()

        threading.Thread(target=look, daemon=True, name="stem_ae eject offer").start()

    def go_on(self) -> None:
        """Choose the targets of the last run with their states."""
        self.follow()
        self.__guarded(self.__take_up)

    def __take_up(self) -> None:
        if self.__offer is None or self.__run is not None:
            return
        note, plan = self.__choice.take_up(self.__offer), self.__offer
        for name in USUAL[UNTIL]:
            setattr(self, name, str(plan.options.get(name, self._options[name])))
        self.current = str(plan.options.get("current", ""))
        self.policy_index = plan.options.get("policy", self.__policy_index)
        if plan.options.get("species") in self.species_names:
            self.species_index = self.species_names.index(plan.options["species"])
        self.__chosen(note)

    # --- what it will cost ------------------------------------------------------------------------------------------

    def estimate(self) -> None:
        """Work out time and dose of what is chosen, aside."""
        self.__estimate.clear()
        self.__show()
        if not self.__rest():
            return
        try:
            intent = self.__intent()
        except StemAeError as error:
            self.__say(str(error))
            return
        find = self.__find()
        self.__estimate.begin(intent, self.__snapshot, lambda: warm_up(find))

    # --- today's parameters -----------------------------------------------------------------------------------------

    @staticmethod
    def __control(name: str, otherwise: float) -> float:
        """Return a control of Swift's instrument."""
        return control(name) or otherwise

    def __column(self) -> Column:
        typed = self._options["current"].strip()
        current_pa = number(typed, "beam current") if typed else 1e12 * self.__control("BeamCurrent", 60e-12)
        return Column(self.__control("EHT", 60e3), 1e3 * self.__control("ConvergenceAngle", 0.032), current_pa)

    def __intent(self) -> Intent:
        """Return what a run or a rehearsal would do now, or say what is missing."""
        options = self._options
        limits = Limits(number(options["cap"], "dose cap"), number(options["local"], "dose cap"))
        timeout_s = number(options["timeout"], "timeout")
        return Intent.of(self.__choice, self.__rest(), self.__policy_index, timeout_s, limits, self.__column())

    def __rest(self) -> list[int]:
        """Return the targets of a run that would start now."""
        return self.__choice.rest(self.__policy_index == ONCE, self.__again)

    # --- arm, run, pause, stop --------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Allow the beam to be fired, for some minutes."""
        self.__guarded(self.__arm)

    def __arm(self) -> None:
        if WATCH.alarm:
            raise StemAeError("You cannot arm while the alarm stands: blank the beam, then acknowledge.")
        if self.__is_rehearsed and self.__run is None:
            self.__news = None  # from here on the live run is shown
        self.__conduct.arm(self.__limits)
        self.__presence.begin()
        self.__watch_image()
        self.__say("")

    @property
    def armed_left_s(self) -> float:
        """Seconds until the arming expires."""
        return self.__conduct.armed_left_s

    def run(self) -> None:
        """Run the plan on the microscope, with the targets that are not finished."""
        self.follow()
        self.__guarded(self.__start_run)

    def rehearse(self) -> None:
        """Carry the plan out on a virtual microscope with the atoms that were found and today's parameters."""
        self.follow()
        self.__guarded(self.__start_rehearsal)

    def pause(self) -> None:
        """Pause with the beam blanked, or resume."""
        self.__conduct.pause()
        self.notify_property_changed("is_paused")
        self.__show()

    def stop(self, why: str = "") -> None:
        """Blank, whatever is going on; then end the run. Returns at once; the result is read and shown."""
        self.__conduct.stop(why)
        self.__show()

    def leave(self, what: str) -> None:
        """Stop if armed: something that an operator needs has gone."""
        if self.__conduct.is_live:
            was_running = self.__is_under_way_for_real
            self.stop(what)
            if not was_running:
                self.__presence.end()
                self.__say(f"Disarmed: {what}.")

    def __watch_image(self) -> None:
        """Stop when the image goes away, be it the scan's or the survey."""
        for item in (self.__shown_item(), self.__survey_items[False].item):
            self.__presence.watch(item)

    def __is_image(self, item: DataItem.DataItem) -> bool:
        return item is self.__shown_item() or self.__survey_items[False].is_item(item)

    def __start_run(self) -> None:
        if not self.armed_left_s:
            raise StemAeError("The beam is not armed: press Arm first.")
        self.__check_places()
        self.__choice.expect(time.perf_counter())
        intent = self.__ready()
        self.__begin(staged_run(*self.__with_plan(intent)), False)
        self.__presence.begin()
        self.__watch_image()

    def __start_rehearsal(self) -> None:
        intent = self.__ready()
        self.__begin(staged_rehearsal(*self.__with_plan(intent)), True)

    def __with_plan(
        self, intent: Intent
    ) -> tuple[Intent, Plan, Find, pathlib.Path, Track, collections.abc.Callable[[], None]]:
        """Return what a run or a rehearsal is made of."""
        runs = folders.folder("runs")
        return intent, self.__plan(), self.__find(), runs, self.__choice.track, self.__ask_for_update

    def __check_places(self) -> None:
        """Refuse to expose if the targets may not be at their assumed places."""
        if self.__choice.elsewhere:
            raise StemAeError(self.__choice.elsewhere)
        if self.__choice.doubt:
            raise StemAeError(self.__situation.doubt())
        age_s = self.__age_s()
        if not age_s <= self.__choice.track.lost_after_s(self.__choice.repeat):
            raise StemAeError(
                f"The image is {age_s:.0f} s old; the specimen may have drifted to the next column since: let the scan "
                "run while you press Run."
            )

    def __plan(self) -> Plan:
        """Return the plan of a run that starts now, with all that is needed to continue it later."""
        choice, rest = self.__choice, self.__rest()
        options = self._options | {
            "policy": self.__policy_index, "species": choice.species, "ladder": list(choice.ladder)
        }  # fmt: skip
        fates = list(choice.fates)
        for k in rest:  # exposed again, or for the first time: the old state does not count
            fates[k] = Fate(choice.species_at(choice.sites[k]) or fates[k].species)
        started = datetime.datetime.now(datetime.UTC)
        return Plan(
            choice.atoms, choice.sites.copy(), tuple(fates), tuple(rest), tuple(choice.zones), options, started,
            choice.spent,
        )

    def __ready(self) -> Intent:
        """Return what is intended, if it can begin."""
        if self.__run is not None:
            raise StemAeError("A run is under way: wait for its end or stop it first.")
        intent = self.__intent()
        if not len(intent.sites):
            raise StemAeError(
                f"All {len(self.sites)} targets are done: tick “Do them again” to expose them once more, which takes "
                "another atom from each, or choose others."
            )
        self.__limits = intent.limits
        return self.__estimate.with_source(intent)

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

    def __begin(self, staged: Staged, is_rehearsal: bool) -> None:
        self.__news, self.__has_failed, self.is_choosing, self.__note = staged.news, False, False, ""
        path = staged.log.path

        def ended(reason: str) -> None:
            """Note the end; called in the run's thread."""
            try:
                staged.log.close()
                runlog.export_csv(path, path.with_suffix(".csv"))
            except (OSError, StemAeError) as error:
                reason = f"{reason}. Its table could not be written: {error}"
            with self.__lock:
                if not self.__closed:
                    self.__window.queue_task(lambda: self.__ended(reason, path))

        def work() -> str:
            self.__process.renew()  # device and threads may have changed
            return staged.work()

        self.__conduct.begin(staged.run, is_rehearsal, work, ended, staged.runner)
        self.notify_property_changed("is_choosing")
        self.__changed_running()
        self.__ask_for_update()

    def __ended(self, reason: str, path: pathlib.Path) -> None:
        """Show that a run has ended, and take over its results."""
        run, news = self.__conduct.end(), self.__news
        self.__works.close()
        self.__presence.end()
        for survey_item in self.__survey_items.values():
            survey_item.stop()
        if news is not None and run is not None and not self.__conduct.is_rehearsal:
            self.__choice.fates = [fate.settled() for fate in news.fates]
            spent = run.ledger.spent
            if len(run.view.atoms):
                self.__choice.go_on_after(run.view.atoms, run.moved(), run.track, time.perf_counter(), spent)
            else:
                self.__choice.spent = spent
            self.again = False
        self.__has_failed = reason not in ("done", "stopped")
        log = f"{path.parent.name}/{path.name}"
        self.__say(self.__situation.summary(reason, self.__conduct.why, run, log))
        self.__changed_running()
        self.estimate()

    def __changed_running(self) -> None:
        for name in ("is_running", "can_choose", "is_paused", "can_confirm"):
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
            try:
                self.__show_news(news)
            except Exception as error:  # no exposure without a display of what happens
                logging.getLogger(__name__).exception("The Eject panel cannot show the run")
                self.leave(f"the panel could not show it ({type(error).__name__}: {error})")
        self.__show()

    def __show_news(self, news: News) -> None:
        if news.survey is not None:
            self.__survey_items[self.__conduct.is_rehearsal].show(news.survey, self.__shown_item())
            self.__watch_image()
        before = self.__patch(news) if news.survey is not None and news.place is not None else None
        self.patches = ejection_pictures.before_and_after(before, news.after)
        self.notify_property_changed("patches")
        self.trace = ejection_pictures.trace(news.exposure) if news.exposure else ejection_pictures.no_trace()
        self.notify_property_changed("trace")
        self.__note = news.note

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
        choice, news = self.__choice, self.__news
        survey_item = self.__survey_items[self.__conduct.is_rehearsal]
        if news is not None and survey_item.is_item(item):
            fates = news.fates if self.__run is not None else [fate.settled() for fate in news.fates]
            return self.__marks(item, news.sites + news.drift, fates, self.__is_rehearsed)
        if self.__run is not None or choice.elsewhere or item is not self.__shown_item():
            return None  # during a run the scan's item shows pieces of the field
        return self.__marks(item, choice.sites, self.__told(), self.__is_rehearsed)

    def __marks(
        self, item: DataItem.DataItem, sites: FloatArray, fates: list[Fate], is_rehearsed: bool
    ) -> TargetMarks | None:
        choice, xdata, atoms = self.__choice, item.xdata, self.__choice.atoms
        if not (len(sites) or choice.drawn or choice.zones):
            return None
        if xdata is None or tuple(xdata.data_shape[-2:]) != atoms.shape:
            return None
        pixel = np.array(atoms.known_sampling[::-1])
        return TargetMarks(
            sites / pixel, tuple(fate.state for fate in fates), atoms.shape, RADIUS / float(np.sqrt(pixel.prod())),
            tuple(zone / pixel for zone in choice.zones), np.array(choice.drawn).reshape(-1, 2) / pixel, is_rehearsed,
        )  # fmt: skip

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
        self.follow()
        self.__presence.tick()
        if self.__conduct.is_live or self.__run is not None:
            self.__show()
        else:
            self.__presence.end()
        self.__conduct.tick()
        WATCH.look()

    def __show(self) -> None:
        texts = self.__describe()
        if texts != self.texts:
            self.texts = texts
            self.notify_property_changed("texts")
        told = self.__told()
        if len(self.rows.items) != len(told):
            self.rows.items = [TargetRow(k + 1) for k in range(len(told))]
        for row, fate in zip(self.rows.items, told, strict=True):
            row.update(fate, self.__is_rehearsed)
        percent = round(100 * self.__spent() / self.__limits.total_electrons)
        if percent != self.dose_percent:
            self.dose_percent = percent
            self.notify_property_changed("dose_percent")
        self.__tell_progress()
        self.__overlays.refresh()

    def __tell_progress(self) -> None:
        """Report the run's progress in Swift's Activity panel; finished targets give the time for the others."""
        news = self.__news
        work = self.__works.keep(self.__title, self.__run is not None)
        if work and news is not None and news.rest:
            fates = news.fates
            finished = sum(fates[k].state in ("done", "failed", "unclear") for k in news.rest)
            told = f"{finished} of {counted(len(news.rest), 'target')}"
            if self.__run and (self.__run.guard.paused or self.__run.suspension.reason):
                work.tell(f"{'paused' if self.__run.guard.paused else 'suspended'} after {told}")
            else:
                work.tell_done(finished / len(news.rest), told)

    @property
    def __title(self) -> str:
        return "Rehearsing" if self.__conduct.is_rehearsal else "Ejecting"

    def __spent(self) -> float:
        return self.__run.ledger.electrons if self.__run else self.__choice.spent.electrons

    @property
    def __situation(self) -> Situation:
        rest = len(self.__choice.rest(self.__policy_index == ONCE, False))
        return Situation(
            self.__choice, self.__told(), rest, self.__again, self.armed_left_s, self.__run, self.__news,
            self.__conduct.is_rehearsal, self.__has_failed, self.__offer,
        )  # fmt: skip

    def __describe(self) -> Texts:
        now, is_running, spent = self.__situation, self.is_running, self.__spent()
        status, status_color = now.status()
        armed, armed_color = now.armed()
        return Texts(
            status=status,
            status_color=status_color,
            message=now.suspended() or self.__note or ("" if is_running else self.__choice.elsewhere or now.doubt()),
            targets=now.counts(),
            again=now.left_out(),
            offer=now.offered(),
            estimate="" if is_running else self.__estimate.words,
            warning="" if is_running else self.__estimate.warning,
            armed=armed,
            armed_color=armed_color,
            dose=f"{spent:.2e} of {self.__limits.total_electrons:.1e} electrons" if is_running or spent else "",
            site=now.site(),
        )
