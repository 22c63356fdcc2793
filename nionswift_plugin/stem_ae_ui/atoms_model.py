"""What the Atoms panel shows and does, without any widget."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import math
import pathlib
import threading
import time
import typing
import weakref
import zlib

import numpy as np
from nion.data import DataAndMetadata
from nion.instrumentation import HardwareSource
from nion.swift import DocumentController
from nion.swift.model import DataItem
from nion.utils import ListModel, Observable

from stem_ae import elit
from stem_ae.atoms import Atoms2D, as_sampling
from stem_ae.elit import live, remote
from stem_ae.errors import StemAeError
from stem_ae.microscope import swift
from stem_ae.words import counted

from . import keeping, showing
from .activities import Works
from .adapting_model import AdaptingModel
from .canvas import Overlays
from .displayed import DisplayedImageFeed
from .examples_model import ExamplesModel
from .networks_model import NetworksModel
from .overlay import Marks, Spot, rings_and_legend
from .settings import Settings

if typing.TYPE_CHECKING:
    from stem_ae.classify import Classes, Way
    from stem_ae.defects import Defect

DISPLAYED = "displayed"
FIELD = (
    "fov_nm", "center_x_nm", "center_y_nm", "rotation", "subscan_fractional_size", "subscan_fractional_center",
    "subscan_rotation",
)  # fmt: skip
"""What Swift writes about where a scanned frame is."""
SAMPLING_SOURCES: tuple[typing.Literal["calibration", "typed", "lattice"], ...] = ("calibration", "typed", "lattice")
EXAMPLES = "examples"
WAYS = ("network", "intensity", "neighbours", EXAMPLES)
FROM_CALIBRATION = live.SamplingChoice()
STATISTICS_PERIOD_S = 0.25  # readable, and cheap
UPDATE_TASK, SAVE_TASK = "stem_ae atoms update", "stem_ae atoms settings"

GOOD, WAITING, BAD, BUSY, OFF = "#1A8F3C", "#B26A00", "#C62828", "#1F6FB2", "#707070"
"""Colours of headlines: a result that can be believed; doubts, or something the user has to do; failure or danger;
under way; nothing to judge."""


class AtomClass(Observable.Observable):
    """One class of atoms as the panel lists it."""

    def __init__(self, name: str, color: str, visible: bool, changed: typing.Callable[[AtomClass], None]) -> None:
        super().__init__()
        self.name = name
        self.__color = color
        self.__visible = visible
        self.__count = 0
        self.__changed = changed

    @property
    def color(self) -> str:
        """Colour of its rings, as CSS writes it."""
        return self.__color

    @color.setter
    def color(self, value: str | None) -> None:
        if value and value != self.__color:
            self.__color = value
            self.notify_property_changed("color")
            self.__changed(self)

    @property
    def visible(self) -> bool:
        """Whether its rings are drawn."""
        return self.__visible

    @visible.setter
    def visible(self, value: bool) -> None:
        if value != self.__visible:
            self.__visible = value
            self.notify_property_changed("visible")
            self.__changed(self)

    @property
    def count(self) -> str:
        """How many there are."""
        return f"{self.__count:,}"

    def set_count(self, count: int) -> None:
        """Say how many there are."""
        if count != self.__count:
            self.__count = count
            self.notify_property_changed("count")


@dataclasses.dataclass(frozen=True)
class Texts:
    """What the panel says."""

    status: str = "Stopped"
    status_color: str = OFF
    message: str = ""
    """What is wrong or was done, and what to do about it."""
    hint: str = ""
    """What to be careful about."""
    model: str = ""
    sampling: str = ""
    statistics: str = ""


def _setting(name: str) -> property:
    """Return a property that is one of the settings: setting it shows its effect and stores it."""

    def get(self: AtomsModel) -> typing.Any:
        return getattr(self.settings, name)

    def put(self: AtomsModel, value: typing.Any) -> None:
        if value is not None and value != get(self):
            setattr(self.settings, name, value)
            self.notify_property_changed(name)
            self.settings_changed()

    return property(get, put)


def _reference(feed: swift.ScanFeed) -> str:
    """Return the key of the reference to the data item that shows a scan's whole frames."""
    return "_".join([feed.channel.hardware_source_id, feed.channel.channel_id])


class AtomsModel(Observable.Observable):
    """Finds atoms in the chosen source and keeps rings, map and figures up to date.

    Everything is to be used in the user interface thread; what comes from other threads is brought there. Observers are
    told with ``property_changed_event``. It never starts a scan.

    Parameters
    ----------
    window : DocumentController
        Whose displays get the rings and whose project keeps the results.
    load : callable or None
        Returns what finds atoms by a model's name; called in the worker's thread. ``None``: a process of its own does.
    names : callable
        Returns the names of the models there are.
    """

    threshold = _setting("threshold")
    radius = _setting("radius")
    rings = _setting("rings")
    legend = _setting("legend")
    uncertainty = _setting("uncertainty")
    folder = _setting("folder")
    defects = _setting("defects")
    reconstruction = _setting("reconstruction")

    def __init__(
        self,
        window: DocumentController.DocumentController,
        load: collections.abc.Callable[[str], live.Predictor] | None = None,
        names: collections.abc.Callable[[], list[str]] = elit.available,
    ) -> None:
        super().__init__()
        self.__window = window
        self.__process = remote.PredictionProcess()
        self.__load = load or self.__process.load
        self.settings = Settings.load(window.ui)
        self.classes: ListModel.ListModel[AtomClass] = ListModel.ListModel()
        self.texts = Texts()
        self.defect_names: list[str] = []
        """What was found, the surest first."""
        self.__found: tuple[Defect, ...] = ()
        self.__chosen_defect: int | None = None
        self.__names = names
        self.model_names = names()
        self.__lock = threading.Lock()
        self.__closed = False
        self.__worker: live.LiveWorker | None = None
        self.__feed: swift.ScanFeed | DisplayedImageFeed | None = None
        self.__choices: dict[str, live.SamplingChoice] = {}
        self.__frame: live.Frame | None = None
        self.__model: live.Model | None = None
        self.__result: live.Result | None = None
        self.__is_shown = False
        self.__to_display: set[bool] = set()
        """Images that are to be displayed once they are there: whole frames (False), sub-scans (True)."""
        self.__marks: Marks | None = None
        self.__kept_marks = weakref.WeakKeyDictionary[DataItem.DataItem, Marks | None]()
        self.__works = Works()
        self.__note = ""
        self.__statistics_at = 0.0
        self.__maps = {kind.name: keeping.LiveMap(window, kind) for kind in keeping.MAP_KINDS}
        self.adapting = AdaptingModel(window, self.__adaptable, self.use)
        self.examples = ExamplesModel(window, self.__shown_result, self.__look_again)
        self.networks = NetworksModel(window, self.__at_work, self.__look_again)
        self.examples.offer(self.settings.classes == EXAMPLES)
        self.__overlays = Overlays(window, self.__marks_for, rings_and_legend)
        self.__channels: list[swift.ScanChannel] = []
        manager = HardwareSource.HardwareSourceManager()
        self.__listeners: list[typing.Any] = [
            manager.hardware_source_added_event.listen(self.__sources_changed),
            manager.hardware_source_removed_event.listen(self.__sources_changed),
        ]
        self.__sources_changed()

    def close(self) -> None:
        """Let go of everything."""
        self.stop()
        self.adapting.close()
        self.examples.close()
        self.networks.close()
        with self.__lock:  # a thread may be about to ask for an update
            self.__closed = True
        for task in (UPDATE_TASK, SAVE_TASK):
            self.__window.clear_task(task)
        self.settings.save(self.__window.ui)
        self.__overlays.close()
        self.__listeners.clear()
        self.__process.close()

    # --- source -----------------------------------------------------------------------------------------------------

    @property
    def source_names(self) -> list[str]:
        """What can be chosen as the source."""
        several = len({channel.hardware_source_id for channel in self.__channels}) > 1
        scans = [f"{c.name} (live, {c.scan_name})" if several else f"{c.name} (live scan)" for c in self.__channels]
        return [*scans, "Displayed image"]

    @property
    def source_index(self) -> int:
        """Which of them is chosen; at first the first scan channel."""
        keys = [*(channel.key for channel in self.__channels), DISPLAYED]
        return keys.index(self.settings.source) if self.settings.source in keys else 0

    @source_index.setter
    def source_index(self, index: int | None) -> None:
        if index is None or index == self.source_index:
            return
        self.settings.source = self.__channels[index].key if index < len(self.__channels) else DISPLAYED
        self.notify_property_changed("source_index")
        self.settings_changed()
        if self.is_running:
            self.__connect()

    @property
    def __channel(self) -> swift.ScanChannel | None:
        index = self.source_index
        return self.__channels[index] if index < len(self.__channels) else None

    def __sources_changed(self, *args: typing.Any) -> None:
        self.__channels = list(swift.scan_channels())
        self.notify_property_changed("source_names")
        self.notify_property_changed("source_index")

    # --- model ------------------------------------------------------------------------------------------------------

    @property
    def model_index(self) -> int | None:
        """Which of ``model_names`` is chosen."""
        if self.settings.model in self.model_names:
            return self.model_names.index(self.settings.model)
        return 0 if self.model_names else None

    @model_index.setter
    def model_index(self, index: int | None) -> None:
        if index is None or index == self.model_index:
            return
        self.settings.model = self.model_names[index]
        self.notify_property_changed("model_index")
        self.settings_changed()
        if self.is_running:
            self.start()

    def use(self, name: str) -> None:
        """Make the model of this name the one at work; it may be new."""
        self.__refresh_models()
        self.model_index = self.model_names.index(name) if name in self.model_names else None

    def __adaptable(self) -> tuple[str, live.Result] | None:
        """Return the name of the model at work and its newest result."""
        if self.model_index is None or self.__model is None or self.__result is None:
            return None
        return self.model_names[self.model_index], self.__result

    # --- classes and defects ----------------------------------------------------------------------------------------

    @property
    def classes_index(self) -> int:
        """How atoms are classified, as a place in ``WAYS``."""
        return WAYS.index(self.settings.classes) if self.settings.classes in WAYS else 0

    @classes_index.setter
    def classes_index(self, index: int | None) -> None:
        if index is None or index == self.classes_index:
            return
        self.settings.classes = WAYS[index]
        self.notify_property_changed("classes_index")
        self.examples.offer(self.settings.classes == EXAMPLES)
        self.settings_changed()
        self.__look_again()

    @property
    def __extras(self) -> frozenset[live.Extra]:
        names: tuple[live.Extra, ...] = ("defects", "reconstruction")
        return frozenset(name for name in names if getattr(self.settings, name))

    @property
    def __classes(self) -> Classes:
        way = WAYS[self.classes_index]
        return (self.examples.examples or "network") if way == EXAMPLES else typing.cast("Way", way)

    def __look_again(self) -> None:
        """Look at the newest frame anew."""
        if self.__frame and self.__worker:
            self.__frame = dataclasses.replace(self.__frame, classes=self.__classes, ready=time.perf_counter())
            self.__worker.submit(self.__frame)

    def __at_work(self) -> tuple[live.LiveWorker, live.Result] | None:
        """Return the worker and its newest result."""
        return (self.__worker, self.__result) if self.__worker and self.__result else None

    def __shown_result(self) -> live.Result | None:
        return self.__result if self.__is_shown else None

    @property
    def defect_index(self) -> int | None:
        """Which of the defects is pointed out in the image."""
        return self.__chosen_defect

    @defect_index.setter
    def defect_index(self, index: int | None) -> None:
        if index != self.__chosen_defect:
            self.__chosen_defect = index
            self.notify_property_changed("defect_index")
            self.__show_marks()

    @property
    def chosen_defect(self) -> Defect | None:
        """The defect that is pointed out in the image."""
        return None if self.__chosen_defect is None else self.__found[self.__chosen_defect]

    def __list_defects(self, result: live.Result | None) -> None:
        """List the defects of a result. The chosen one stays chosen if it is still there."""
        if not self.settings.defects or result is None:
            found: tuple[Defect, ...] = ()
        elif result.defects is None:  # they come with a later result
            return
        else:
            found = result.defects
        if found == self.__found:
            return
        chosen = self.__found[self.__chosen_defect] if self.__chosen_defect is not None else None
        self.__found = found
        self.__chosen_defect = self.__nearest(chosen) if chosen else None
        places = ["({:.1f}, {:.1f}) Å".format(*defect.position) for defect in found]
        self.defect_names = [f"{d.kind}   {d.confidence:.0%}   {place}" for d, place in zip(found, places, strict=True)]
        self.notify_property_changed("defect_names")
        self.notify_property_changed("defect_index")

    def __nearest(self, defect: Defect) -> int | None:
        """Return the place in the list of what is the same defect, in a later frame."""
        apart = [math.dist(other.position, defect.position) for other in self.__found]
        index = min(range(len(apart)), key=apart.__getitem__, default=None)
        return index if index is not None and apart[index] <= defect.radius else None

    def __refresh_models(self) -> None:
        """Take up models that were trained or removed meanwhile."""
        names = self.__names()
        if names != self.model_names:
            self.model_names = names
            self.notify_property_changed("model_names")
            self.notify_property_changed("model_index")

    # --- sampling ---------------------------------------------------------------------------------------------------

    @property
    def sampling_index(self) -> int:
        """Where the sampling of the present source comes from, as a place in ``SAMPLING_SOURCES``."""
        return SAMPLING_SOURCES.index(self.__choice.source)

    @sampling_index.setter
    def sampling_index(self, index: int | None) -> None:
        if index is not None and index != self.sampling_index:
            self.__choose_sampling(live.SamplingChoice(SAMPLING_SOURCES[index], self.__choice.typed))

    @property
    def typed_sampling(self) -> str:
        """What was typed as the sampling of the present source, in Å per pixel."""
        typed = self.__choice.typed
        return f"{typed:g}" if typed else ""

    @typed_sampling.setter
    def typed_sampling(self, text: str | None) -> None:
        if (text or "").strip() in ("", self.typed_sampling):
            return
        try:
            typed = as_sampling(float((text or "").replace(",", ".")))[0]
        except ValueError:  # of float, or a StemAeError of as_sampling
            self.__say(f"“{text}” is not a sampling: type Å per pixel, such as 0.104.")
            self.notify_property_changed("typed_sampling")
            return
        self.__choose_sampling(live.SamplingChoice("typed", typed))

    @property
    def __choice(self) -> live.SamplingChoice:
        return self.__choices.get(self.__choice_key, FROM_CALIBRATION)

    @property
    def __choice_key(self) -> str:
        if isinstance(self.__feed, DisplayedImageFeed):
            return str(self.__feed.data_item.uuid) if self.__feed.data_item else ""
        return self.__feed.channel.key if self.__feed else ""

    def __choose_sampling(self, choice: live.SamplingChoice) -> None:
        self.__note = ""
        self.__choices[self.__choice_key] = choice
        self.__choice_changed()
        if self.__frame and self.__worker:
            self.__frame = dataclasses.replace(self.__frame, choice=choice, ready=time.perf_counter())
            self.__worker.submit(self.__frame)

    def __choice_changed(self) -> None:
        self.notify_property_changed("sampling_index")
        self.notify_property_changed("typed_sampling")
        self.__describe()

    # --- start and stop ---------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether frames are being looked at, or would be if there were any."""
        return self.__worker is not None

    def start(self) -> None:
        """Load the chosen model and look at the chosen source from now on."""
        self.stop()
        self.__refresh_models()
        if self.model_index is None:
            self.__say("There is no model yet: train one with “stem-ae train”.")
            return
        self.__model = self.__result = None
        self.networks.clear()
        load = functools.partial(self.__load, self.model_names[self.model_index])
        self.__worker = live.LiveWorker(load, self.__worker_changed)
        self.__worker.extras = self.__extras
        self.__works.begin(f"Loading the model “{self.model_names[self.model_index]}”")
        self.__connect()
        self.notify_property_changed("is_running")

    def stop(self) -> None:
        """Stop looking. The rings go; the last result can still be kept."""
        if self.__worker:
            self.__worker.close()
        self.__worker = None
        self.__works.close()
        self.networks.give_up()
        self.__disconnect()
        for live_map in self.__maps.values():
            live_map.stop()
        self.__note = ""
        self.notify_property_changed("is_running")
        self.__choice_changed()

    def __connect(self) -> None:
        self.__disconnect()
        self.__note = ""
        self.__to_display = {False, True}
        if channel := self.__channel:
            self.__feed = swift.ScanFeed(channel, functools.partial(self.__scanned, channel), self.__ask_for_update)
            self.__submit_last_frame(self.__feed)
            self.__display_now(self.__feed)
        else:
            self.__feed = DisplayedImageFeed(self.__window, self.__displayed, self.__other_image)
        self.__choice_changed()

    def __disconnect(self) -> None:
        if self.__feed:
            self.__feed.close()
        self.__feed = self.__frame = None
        self.__show(None)

    def __other_image(self) -> None:
        self.__frame = None
        self.__show(None)
        self.__choice_changed()

    def __display_now(self, feed: swift.ScanFeed) -> None:
        """Show the image that the scan's frames will appear in, if there is one already."""
        item = self.__window.document_model.get_data_item_reference(_reference(feed)).data_item
        if item and showing.show(self.__window, item):
            self.__to_display.discard(False)

    def __submit_last_frame(self, feed: swift.ScanFeed) -> None:
        """Look at the frame that a scan has left, as long as it does not run."""
        reference = _reference(feed)
        item = self.__window.document_model.get_data_item_reference(reference).data_item
        xdata = item.xdata if item and not feed.is_playing else None
        if xdata and swift.is_whole(xdata):
            self.__scanned(feed.channel, xdata, reference)

    # --- frames and results, from other threads ---------------------------------------------------------------------

    def __scanned(self, channel: swift.ScanChannel, xdata: DataAndMetadata.DataAndMetadata, reference: str) -> None:
        ready = time.perf_counter()
        scan = xdata.metadata.get("scan", {})
        field = (channel.key, reference, xdata.data_shape, *(str(scan.get(name)) for name in FIELD))
        origin = keeping.Origin(channel.name, dict(xdata.metadata), xdata.timestamp, channel, reference, image=field)
        self.__submit(xdata, origin, channel.key, ready)

    def __displayed(self, xdata: DataAndMetadata.DataAndMetadata, item: DataItem.DataItem) -> None:
        ready = time.perf_counter()
        # Other data, of another slice perhaps, are another image, unless they come live.
        data = None if item.is_live else zlib.crc32(np.ascontiguousarray(xdata.data).data)
        image = (item.uuid, xdata.data_shape, data)
        origin = keeping.Origin(item.title, dict(item.metadata), xdata.timestamp, data_item=item, image=image)
        self.__submit(xdata, origin, str(item.uuid), ready)

    def __submit(self, xdata: DataAndMetadata.DataAndMetadata, origin: keeping.Origin, key: str, ready: float) -> None:
        choice = self.__choices.get(key, FROM_CALIBRATION)
        image, calibration = swift.image_of(xdata), swift.sampling_of(xdata)
        frame = live.Frame(image, calibration, choice, ready, key, origin, self.__classes)
        self.__frame = frame
        if worker := self.__worker:
            worker.submit(frame)

    def __worker_changed(self, worker: live.LiveWorker) -> None:
        if self.settings.uncertainty and (result := worker.result):
            result.prediction.uncertainty  # noqa: B018  (is worked out when first asked for: here, not later)
        self.__ask_for_update()

    def __drawn(self, worker: live.LiveWorker, result: live.Result) -> None:
        worker.shown(result)
        self.__ask_for_update()  # the figures have changed

    def __ask_for_update(self) -> None:
        with self.__lock:
            if not self.__closed:
                self.__window.add_task(UPDATE_TASK, self.__update)  # the last one wins

    # --- showing ----------------------------------------------------------------------------------------------------

    def __update(self) -> None:
        worker = self.__worker
        if worker and worker.state != "loading":
            self.__works.close()
        if worker and worker.model and worker.model is not self.__model:
            self.__model = worker.model
            self.__list_classes(worker.model.species)
        result = worker.result if worker else None
        if worker and worker.error:
            self.__show(None)
        elif result and result is not self.__result and self.__is_current(result.frame.origin):
            self.__show(result)
        if (frame := self.__frame) and self.__is_current(frame.origin):
            self.__display(frame.origin)
        self.__describe()

    def __is_current(self, origin: keeping.Origin) -> bool:
        if isinstance(self.__feed, DisplayedImageFeed):
            return origin.data_item is not None and origin.data_item is self.__feed.data_item
        return self.__feed is not None and origin.channel == self.__feed.channel

    def __list_classes(self, species: tuple[str, ...]) -> None:
        if [item.name for item in self.classes.items] != list(species):
            hidden = self.settings.hidden
            self.classes.items = [
                AtomClass(name, self.settings.color(name, index), name not in hidden, self.__class_changed)
                for index, name in enumerate(species)
            ]

    def __class_changed(self, item: AtomClass) -> None:
        if item.color != self.settings.color(item.name, list(self.classes.items).index(item)):
            self.settings.colors[item.name] = item.color
        self.settings.hidden = [c.name for c in self.classes.items if not c.visible]
        self.settings_changed()

    def settings_changed(self) -> None:
        """Show the effect of the settings on the last result, and store them. The net does not run again."""
        self.__kept_marks.clear()
        if self.__worker:
            self.__worker.extras = self.__extras
        self.__list_defects(self.__result if self.__is_shown else None)
        self.__show_marks()
        self.__show_maps(self.__result if self.__marks else None)
        self.__describe()
        self.__window.add_task(SAVE_TASK, functools.partial(self.settings.save, self.__window.ui))

    def __show(self, result: live.Result | None) -> None:
        """Show a result, or clear the display but remember the last one for a snapshot."""
        self.__is_shown = result is not None
        self.__list_defects(result)
        if result:
            self.__result = result
            self.__display(result.frame.origin)
            self.networks.looked_at(result.frame.origin.image)
            self.__list_classes(result.prediction.atoms.species)
            self.__show_maps(result)
        self.__show_marks()

    def __display(self, origin: keeping.Origin) -> None:
        """Show the image that is worked on, once after each start: later the user may have put it away."""
        item = origin.shown_by(self.__window.document_model)
        if item and origin.is_part in self.__to_display and showing.show(self.__window, item):
            self.__to_display.remove(origin.is_part)

    def __show_maps(self, result: live.Result | None) -> None:
        """Bring those maps up to date that are wanted, and let go of the others."""
        for name, live_map in self.__maps.items():
            if not getattr(self.settings, name):
                live_map.stop()
            elif result:
                live_map.show(result)

    def __show_marks(self) -> None:
        worker, result = self.__worker, self.__result
        if worker and result and self.__is_shown:
            atoms = result.atoms(self.settings.threshold)
            drawn = functools.partial(self.__drawn, worker, result)
            self.__marks = self.__marks_of(atoms, drawn, self.__found, self.__chosen_defect)
        else:
            self.__marks = None
        for index, item in enumerate(self.classes.items):
            item.set_count(self.__marks.counts[index] if self.__marks else 0)
        self.__overlays.refresh()

    def __marks_of(
        self,
        atoms: Atoms2D,
        drawn: collections.abc.Callable[[], None] | None = None,
        defects: tuple[Defect, ...] = (),
        chosen: int | None = None,
    ) -> Marks:
        settings = self.settings
        return Marks.of(
            atoms,
            colors={name: settings.color(name, index) for index, name in enumerate(atoms.species)},
            hidden=settings.hidden,
            radius=settings.radius,
            rings=settings.rings,
            legend=settings.legend,
            drawn=drawn,
            spots=tuple(Spot(d.kind, d.position, d.radius, k == chosen) for k, d in enumerate(defects)),
        )

    def __marks_for(self, item: DataItem.DataItem) -> Marks | None:
        """Return the marks of the newest frame, or those that were kept with a snapshot."""
        if self.__marks and self.__result:
            origin: keeping.Origin = self.__result.frame.origin
            if item is origin.shown_by(self.__window.document_model):
                return self.__marks
        if not keeping.is_kept_frame(item):
            return None
        if item not in self.__kept_marks:
            atoms = keeping.kept_atoms(self.__window.document_model, item)
            self.__kept_marks[item] = self.__marks_of(atoms) if atoms else None
        return self.__kept_marks[item]

    # --- keeping ----------------------------------------------------------------------------------------------------

    @property
    def newest(self) -> keeping.Snapshot | None:
        """The newest frame and what was found in it, if there is one; it stays when the panel is stopped."""
        if not (self.__result and self.__model):
            return None
        return keeping.Snapshot(self.__result, self.__model, self.settings.threshold)

    def snapshot(self) -> None:
        """Keep the newest frame with its atoms, uncertainty and provenance; export them if a folder is set."""
        snapshot = self.newest
        if snapshot is None:
            self.__say("There is nothing to keep yet: press Start and wait for the rings.")
            return
        item = snapshot.keep(self.__window.document_model)
        words = f"Kept “{item.title}” in the project"
        if self.settings.folder:
            try:
                words += f" and {snapshot.export(pathlib.Path(self.settings.folder))[0].name} in the export folder"
            except StemAeError as error:
                words += f", but not exported. {error}"
        self.__say(words.removesuffix(".") + ".")

    # --- words ------------------------------------------------------------------------------------------------------

    def __say(self, note: str) -> None:
        self.__note = note
        self.__describe()

    def __describe(self) -> None:
        status, color, message = self.__state()
        texts = Texts(
            status=status,
            status_color=color,
            message=self.__note or message,
            hint=self.__hint(),
            model=self.__model_text(),
            sampling=self.__sampling_text(),
            statistics=self.__statistics_text(),
        )
        if texts != self.texts:
            self.texts = texts
            self.notify_property_changed("texts")

    def __state(self) -> tuple[str, str, str]:
        """Return status, its colour and a message."""
        worker, feed = self.__worker, self.__feed
        if worker is None:
            return "Stopped", OFF, ""
        if worker.state == "failed":
            return "The model cannot be used", BAD, worker.error
        if isinstance(feed, swift.ScanFeed) and not feed.is_there:
            return "The scan is gone", BAD, "Swift no longer has this scan: choose another source."
        if worker.state == "loading":
            return "Loading the model…", BUSY, ""
        if worker.error and self.__frame:
            status, color = ("Sampling unknown", WAITING) if worker.lacks_sampling else ("No rings", BAD)
            return status, color, worker.error
        if self.__marks is None:
            if isinstance(feed, swift.ScanFeed):
                todo = f"Start the scan with {feed.channel.name} switched on; the panel never starts it by itself."
                return "Waiting for a frame", WAITING, "" if feed.is_playing else todo
            return "Waiting for an image", WAITING, "" if self.__frame else "Click on an image to choose it."
        return self.__found_state(sum(self.__marks.counts))

    def __found_state(self, count: int) -> tuple[str, str, str]:
        """Return the headline and its colour for so many atoms: green only if they can be believed."""
        assert self.__result
        is_believed = self.__result.trust.believed
        total = counted(count, "atom") + (" in the sub-scan" if self.__result.frame.origin.is_part else "")
        total += "" if is_believed or not count else " · doubtful"
        color, message = (GOOD, "") if is_believed and count else (WAITING, "")
        if not count and is_believed:
            hidden = counted(len(self.__result.prediction.atoms), "atom")
            message = f"Confidence hides {hidden} that are less probable: lower it to see them."
        feed = self.__feed
        if isinstance(feed, swift.ScanFeed):
            if not feed.is_playing:
                return f"Scan stopped · {total}", OFF if color == GOOD else color, message
            total = f"Live · {total}"
        return total, color, message

    def __hint(self) -> str:
        if not (self.__result and self.__marks):
            return ""
        trust = self.__result.trust
        if trust.doubt != "foreign":
            return trust.sentence
        where = "See “unknown” in the list of defects." if self.defects else "Tick Defects to list them."
        return f"{trust.sentence} {where}"

    def __model_text(self) -> str:
        return f"version {self.__model.version}, {counted(self.__model.members, 'network')}" if self.__model else ""

    def __sampling_text(self) -> str:
        return str(self.__result.sampling) if self.__result and self.__marks else ""

    def __statistics_text(self) -> str:
        if self.__worker is None:
            return ""
        now = time.perf_counter()
        if self.texts.statistics and now - self.__statistics_at < STATISTICS_PERIOD_S:
            return self.texts.statistics
        self.__statistics_at = now
        s = self.__worker.statistics
        speed = [f"{s.rate:.1f} frames/s"] if s.rate else []
        speed += [f"{1e3 * s.latency_s:.0f} ms from frame to rings"] if s.latency_s else []
        seen = f"{counted(s.seen, 'frame')} seen, {s.skipped:,} skipped for newer ones"
        return "\n".join(filter(None, [" · ".join([*self.__novelty_text(), *speed]), seen]))

    def __novelty_text(self) -> list[str]:
        return [f"novelty {self.__result.prediction.conditions:.1f}"] if self.__result and self.__marks else []
