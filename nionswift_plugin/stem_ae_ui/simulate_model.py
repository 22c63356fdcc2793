"""What the Simulate panel shows and does, without any widget."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import hashlib
import math
import time
import typing

import numpy as np
from nion.swift import DocumentController
from nion.swift.model import DataItem, DisplayItem, Graphics
from nion.utils import Geometry, Observable
from numpy.typing import NDArray

from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.jobs import remote
from stem_ae.words import counted, duration

from . import keeping
from .activities import Works
from .simulate_settings import ADSORPTION, CALIBRATIONS, CELLS, CODES, DYNAMICS, FIXED, RELAX, SITES, Settings
from .typed import TypedError, count, number

PICTURE = (250, 330)
"""Height and width of the preview in points."""
NEW_RECTANGLE = 20.0
"""Å, side of the rectangle that the panel draws."""
SAVE_TASK = "stem_ae simulate settings"

Options = dict[str, typing.Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """Atoms, and the image they were found in."""

    atoms: Atoms2D
    title: str
    provenance: dict[str, typing.Any]
    item: DataItem.DataItem | None
    """What shows the image, if anything does."""
    snapshot: keeping.Snapshot | None
    """To be kept when something is calculated with it; ``None`` if the image is kept already."""


@dataclasses.dataclass(frozen=True)
class Texts:
    """What the panel says."""

    subject: str = ""
    structure: str = ""
    cost: str = ""
    warning: str = ""
    """What speaks against calculating this."""
    message: str = ""
    """What was done, or what is wrong and what to do about it."""


WORKS = {
    "engines": "Looking for engines", "build": "Building the structure", "submit": "Submitting the calculation",
    "export": "Writing input files",
}  # fmt: skip
"""Names of the requests in Swift's Activity panel."""


def _choice(name: str) -> property:
    """Return a property whose change is shown in the preview and remembered."""

    def get(self: SimulateModel) -> typing.Any:
        return getattr(self.settings, name)

    def put(self: SimulateModel, value: typing.Any) -> None:
        if value is not None and value != get(self):
            setattr(self.settings, name, value)
            self.changed(name)

    return property(get, put)


class SimulateModel(Observable.Observable):
    """Takes atoms from the image, shows the structure they make and what it costs to calculate, and submits it.

    Everything is to be used in the user interface thread. Structures are built, drawn and estimated in a process of
    their own.

    Parameters
    ----------
    window : DocumentController
        Whose displays show the images.
    newest : callable
        Returns what the Atoms panel has found last.
    defect : callable
        Returns where the defect is that is chosen in the Atoms panel, x and y in Å, or None.
    queue : str or None
        The folder of the queue; the user's by default.
    """

    region_index = _choice("region_index")
    cell_index = _choice("cell_index")
    vacuum = _choice("vacuum")
    hydrogen = _choice("hydrogen")
    calibration_index = _choice("calibration_index")
    adsorb = _choice("adsorb")
    site_index = _choice("site_index")
    task_index = _choice("task_index")
    fixed_index = _choice("fixed_index")
    fmax = _choice("fmax")
    relax_cell = _choice("relax_cell")
    temperatures = _choice("temperatures")
    steps = _choice("steps")
    variants = _choice("variants")
    destination_index = _choice("destination_index")
    pseudopotentials = _choice("pseudopotentials")

    def __init__(
        self,
        window: DocumentController.DocumentController,
        newest: collections.abc.Callable[[], keeping.Snapshot | None],
        defect: collections.abc.Callable[[], tuple[float, float] | None] = lambda: None,
        queue: str | None = None,
    ) -> None:
        super().__init__()
        self.__window = window
        self.__newest = newest
        self.__defect = defect
        self.__bench = remote.Workbench(queue)
        self.__works = Works()
        self.settings = Settings.load(window.ui)
        self.engines: list[list[str]] = []
        self.engine_names: list[str] = ["…"]
        self.picture: NDArray[np.uint32] = np.zeros(PICTURE, np.uint32)
        self.texts = Texts()
        self.__subject: Subject | None = None
        self.__kept: tuple[typing.Any, DataItem.DataItem] | None = None
        self.__news = ""
        self.__listeners: list[typing.Any] = []
        self.__watched: DisplayItem.DisplayItem | None = None
        self.__closed = False
        self.__started = False

    def close(self) -> None:
        """Let go of everything; what was submitted goes on."""
        self.__closed = True
        self.__window.clear_task(SAVE_TASK)
        self.settings.save(self.__window.ui)
        self.__listeners.clear()
        self.__bench.close()
        self.__works.close()

    def start(self) -> None:
        """Get ready; called when the panel is first seen."""
        if not self.__started and not self.__closed:
            self.__started = True
            self.__ask({"do": "engines"}, self.__engines_known)

    def __engines_known(self, answer: remote.Answer) -> None:
        if answer.error:
            self.__say(message=answer.error)
            return
        self.engines = answer.values["engines"]
        self.engine_names = [f"{title}{' (not installed)' if missing else ''}" for _, title, missing in self.engines]
        remembered = self.settings.engine
        self.notify_property_changed("engine_names")
        self.settings.engine = remembered  # a combo box with new items takes its first one for chosen
        self.notify_property_changed("engine_index")

    def changed(self, name: str) -> None:
        """Show the effect of a setting, and remember it."""
        self.notify_property_changed(name)
        self.__window.add_task(SAVE_TASK, functools.partial(self.settings.save, self.__window.ui))
        self.refresh()

    @property
    def engine_index(self) -> int:
        """Which of the engines calculates."""
        names = [name for name, _, _ in self.engines]
        return names.index(self.settings.engine) if self.settings.engine in names else 0

    @engine_index.setter
    def engine_index(self, index: int | None) -> None:
        if index is not None and index != self.engine_index and index < len(self.engines):
            self.settings.engine = self.engines[index][0]
            self.changed("engine_index")

    @property
    def destination_names(self) -> list[str]:
        """Where a calculation can go."""
        return ["Queue: in the background", *(f"Input files for {title}" for title in CODES.values())]

    # --- atoms and region -------------------------------------------------------------------------------------------

    def __take(self) -> Subject:
        """Return the atoms to work with: those of a displayed snapshot, or else the newest of the Atoms panel."""
        panel = self.__window.selected_display_panel
        item = panel.data_item if panel else None
        if item and keeping.is_kept_frame(item):
            atoms = keeping.kept_atoms(self.__window.document_model, item)
            if atoms is not None:
                return Subject(atoms, item.title, dict(item.metadata[keeping.METADATA_KEY]), item, None)
        if snapshot := self.__newest():
            shown = snapshot.origin.shown_by(self.__window.document_model)
            return Subject(snapshot.atoms, snapshot.origin.title, snapshot.provenance, shown, snapshot)
        raise StemAeError("There are no atoms yet: start the Atoms panel, or click on the frame of a snapshot.")

    def __region(self, subject: Subject) -> list[list[float]] | None:
        """Return the corners of the rectangle in Å of the image, None for the whole frame."""
        if self.region_index == 1:
            return None
        rectangles = [g for g in self.__graphics(subject) if isinstance(g, Graphics.RectangleGraphic)]
        if not rectangles:
            raise StemAeError(
                f"There is no rectangle on “{subject.title}”: draw one over the atoms, or choose the whole frame."
            )
        return corners(rectangles[-1], subject.atoms.shape, subject.atoms.known_sampling)

    def __point(self, subject: Subject) -> list[float] | None:
        """Return where a point is drawn on the image, x and y in Å; None if there is no point."""
        points = [g for g in self.__graphics(subject) if isinstance(g, Graphics.PointGraphic)]
        if not points:
            return None
        (height, width), (dy, dx) = subject.atoms.shape, subject.atoms.known_sampling
        position = points[-1].position
        return [(position.x * width - 0.5) * dx, (position.y * height - 0.5) * dy]

    def __graphics(self, subject: Subject) -> list[Graphics.Graphic]:
        """Return the graphics on the image, selected ones last."""
        display_item = self.__display_item(subject)
        if display_item is None:
            return []
        selected = display_item.selected_graphics
        return [g for g in display_item.graphics if g not in selected] + list(selected)

    def __display_item(self, subject: Subject) -> DisplayItem.DisplayItem | None:
        return self.__window.document_model.get_display_item_for_data_item(subject.item) if subject.item else None

    def add_rectangle(self) -> None:
        """Draw a rectangle about the defect that is chosen in the Atoms panel, or else in the middle of the image."""
        try:
            subject = self.__take()
        except StemAeError as error:
            self.__say(message=str(error))
            return
        display_item = self.__display_item(subject)
        if display_item is None:
            self.__say(message=f"“{subject.title}” is not in the project any more: keep a snapshot of it.")
            return
        height, width = (n * step for n, step in zip(subject.atoms.shape, subject.atoms.known_sampling, strict=True))
        size = Geometry.FloatSize(min(NEW_RECTANGLE / height, 1.0), min(NEW_RECTANGLE / width, 1.0))
        graphic = Graphics.RectangleGraphic()
        graphic.label = "structure"
        defect = self.__defect() if subject.snapshot else None
        x, y = (defect[0] / width, defect[1] / height) if defect else (0.5, 0.5)
        graphic.bounds = Geometry.FloatRect.from_center_and_size(Geometry.FloatPoint(y, x), size)
        display_item.add_graphic(graphic)
        display_item.graphic_selection.set(list(display_item.graphics).index(graphic))
        self.region_index = 0
        self.refresh()

    def __watch(self, display_item: DisplayItem.DisplayItem | None) -> None:
        """Show another preview when the rectangles change."""
        if display_item is not self.__watched:
            self.__watched = display_item
            self.__listeners = []
            if display_item:
                self.__listeners = [
                    display_item.graphics_changed_event.listen(lambda selection: self.__graphics_changed())
                ]

    def __graphics_changed(self) -> None:
        if not self.__closed and self.region_index == 0:
            self.__window.add_task("stem_ae simulate preview", self.refresh)  # many a second while it is dragged

    # --- what to do -------------------------------------------------------------------------------------------------

    @property
    def has_dynamics(self) -> bool:
        """Whether temperatures and steps matter."""
        return bool(RELAX < self.task_index < ADSORPTION)

    @property
    def has_relaxation(self) -> bool:
        """Whether the force limit matters."""
        return bool(self.task_index != DYNAMICS)

    @property
    def has_cell(self) -> bool:
        """Whether there is a cell that can be relaxed too."""
        return bool(self.has_relaxation and self.task_index != ADSORPTION and CELLS[self.cell_index] == "periodic")

    def __tasks(self) -> list[Options]:
        common = {"engine": self.settings.engine or None, "fixed": FIXED[self.fixed_index]}
        tasks: list[Options] = []
        if self.task_index == ADSORPTION:
            if not self.adsorb.strip():
                raise TypedError("Nothing is adsorbed yet: type an element, such as Cr, or CH, CH2 or CH3.")
            tasks.append({"kind": "adsorption", **common, "fmax": number(self.fmax, "The force limit")})
        elif self.has_relaxation:
            cell = bool(self.has_cell and self.relax_cell)
            tasks.append({"kind": "relax", **common, "fmax": number(self.fmax, "The force limit"), "cell": cell})
        if self.has_dynamics:
            steps = int(number(self.steps, "The number of steps"))
            kelvins = [number(word, "A temperature") for word in self.temperatures.replace(";", ",").split(",")]
            tasks += [{"kind": "md", **common, "temperature": kelvin, "steps": steps} for kelvin in kelvins]
        return tasks

    def __request(self, subject: Subject) -> tuple[Options, typing.Mapping[str, typing.Any]]:
        words, arrays = remote.packed(subject.atoms)
        options = {
            "cell": CELLS[self.cell_index], "vacuum": number(self.vacuum, "The vacuum"),
            "terminate": "H" if self.hydrogen else None, "calibration": CALIBRATIONS[self.calibration_index],
        }  # fmt: skip
        return {
            **words, "region": self.__region(subject), "options": options, "tasks": self.__tasks(),
            "adsorb": self.adsorb.strip(), "site": SITES[self.site_index], "at": self.__point(subject),
            "variants": count(self.variants, "The number of variants"), "size": list(PICTURE),
        }, arrays  # fmt: skip

    # --- preview ----------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show the structure as it is chosen now, of the newest atoms."""
        for name in ("has_dynamics", "has_relaxation", "has_cell", "needs_folder"):
            self.notify_property_changed(name)
        try:
            subject = self.__take()
            self.__watch(self.__display_item(subject))
            request, arrays = self.__request(subject)
        except TypedError as error:
            self.__warn(error)
            return
        except StemAeError as error:
            self.__clear(str(error))
            return
        self.__subject = subject
        self.__ask({"do": "build", **request}, functools.partial(self.__built, subject), arrays)

    def __built(self, subject: Subject, answer: remote.Answer) -> None:
        if subject is not self.__subject:
            return
        if answer.error:
            self.__warn(answer.error)
            return
        v = answer.values
        self.__show_picture(answer.arrays["picture"])
        x, y = v["extent"]
        kind = "periodic" if v["periodic"] else "patch"
        held = f" · {v['held']} held fixed" if v["held"] else ""
        bent = f", distortion by {v['shear']:.2%}" if v["shear"] else ""
        structure = f"{v['formula']} · {counted(v['atoms'], 'atom')} · {x:.1f} × {y:.1f} Å, {kind}{held}"
        self.texts = Texts(
            subject=f"{counted(len(subject.atoms), 'atom')} of “{subject.title}”",
            structure="\n".join([structure, f"image scale corrected by {v['scale']:.4f}{bent}", *v["notes"]]),
            cost=f"About {duration(v['seconds'])} on one core, {v['gigabytes']:.1f} GB",
            warning=v["missing"] or v["warning"],
            message=self.__news,
        )
        self.notify_property_changed("texts")

    def __show_picture(self, picture: NDArray[np.uint8]) -> None:
        pixels = np.full((*picture.shape[:2], 4), 255, np.uint8)
        pixels[..., :3] = picture[..., ::-1]
        self.picture = pixels.view(np.uint32)[..., 0]
        self.notify_property_changed("picture")

    def __warn(self, error: object) -> None:
        """Say what is wrong with the choice. The preview stays: it is of what was chosen before."""
        self.__news = ""
        still = " The preview shows what was chosen before." if self.texts.structure else ""
        self.__say(message=f"{error}{still}")

    def __clear(self, message: str) -> None:
        self.__subject = None
        self.__news = ""
        self.picture = np.zeros(PICTURE, np.uint32)
        self.notify_property_changed("picture")
        self.texts = Texts(message=message)
        self.notify_property_changed("texts")

    # --- export -----------------------------------------------------------------------------------------------------

    @property
    def needs_folder(self) -> bool:
        """Whether a folder is to be chosen for the export."""
        return bool(self.destination_index > 0)

    def export(self, folder: str = "") -> None:
        """Submit what the preview shows, or write it as an input folder, which the queue does not need."""
        start = time.perf_counter()
        try:
            subject = self.__subject or self.__take()
            request, arrays = self.__request(subject)
        except TypedError as error:
            self.__warn(error)
            return
        except StemAeError as error:
            self.__clear(str(error))
            return
        if self.needs_folder:
            if folder:
                code = list(CODES)[self.destination_index - 1]
                request |= {
                    "do": "export", "code": code, "folder": folder, "pseudopotentials": self.pseudopotentials.strip()
                }  # fmt: skip
                self.__ask(request, self.__exported, arrays)
            return
        item = self.__keep(subject)
        provenance = {
            **subject.provenance, "image": str(item.uuid),
            "image_sha256": hashlib.sha256(np.ascontiguousarray(item.data).data).hexdigest(),
        }  # fmt: skip
        request |= {"do": "submit", "title": subject.title, "provenance": provenance}
        self.__tell("Submitting…")
        self.__ask(request, functools.partial(self.__submitted, start), arrays)

    def __keep(self, subject: Subject) -> DataItem.DataItem:
        """Return the image as the project keeps it: results refer to it, and a live one will have changed by then."""
        if subject.snapshot is None:
            assert subject.item
            return subject.item
        if self.__kept is None or self.__kept[0] is not subject.snapshot.result:
            self.__kept = subject.snapshot.result, subject.snapshot.keep(self.__window.document_model)
        return self.__kept[1]

    def __submitted(self, start: float, answer: remote.Answer) -> None:
        jobs = answer.values.get("jobs", [])
        names = f"job {jobs[0]}" if len(jobs) == 1 else counted(len(jobs), "job")
        done = f"Submitted {names} in {time.perf_counter() - start:.2f} s: the Jobs panel shows how far it is."
        self.__ended(answer, done)

    def __exported(self, answer: remote.Answer) -> None:
        self.__ended(answer, f"Written to {answer.values.get('folder')}: README.txt says how to start it.")

    def __ended(self, answer: remote.Answer, done: str) -> None:
        """Say what became of an export. What is wrong is not said again once the choice is another one."""
        self.__tell("" if answer.error else done)
        if answer.error:
            self.__say(message=answer.error)

    # --- both sides -------------------------------------------------------------------------------------------------

    def __ask(
        self,
        values: Options,
        answered: collections.abc.Callable[[remote.Answer], None],
        arrays: typing.Mapping[str, typing.Any] | None = None,
    ) -> None:
        """Ask the other process, and have the answer brought to this thread."""
        work = self.__works.begin(WORKS.get(values["do"], "STEM AE"))

        def bring(answer: remote.Answer) -> None:
            work.end()
            self.__window.queue_task(lambda: None if self.__closed else answered(answer))

        self.__bench.ask(values, bring, arrays)

    def __tell(self, news: str) -> None:
        """Say what became of the last export; it stays when the preview is drawn anew."""
        self.__news = news
        self.__say(message=news)

    def __say(self, message: str) -> None:
        self.texts = dataclasses.replace(self.texts, message=message)
        self.notify_property_changed("texts")


def corners(
    rectangle: Graphics.RectangleGraphic, shape: tuple[int, int], sampling: tuple[float, float]
) -> list[list[float]]:
    """Return the corners of a rectangle graphic, x and y in Å from the centre of the top-left pixel."""
    size = np.array([shape[1], shape[0]])
    bounds = rectangle.bounds
    centre = np.array([bounds.center.x, bounds.center.y]) * size
    half = np.array([bounds.width, bounds.height]) * size / 2
    # Swift turns anticlockwise on the screen, where y points down.
    c, s = math.cos(rectangle.rotation), math.sin(rectangle.rotation)
    offsets = half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    turned = offsets @ np.array([[c, -s], [s, c]])
    return ((centre + turned - 0.5) * np.array(sampling[::-1])).tolist()  # type: ignore[no-any-return]
