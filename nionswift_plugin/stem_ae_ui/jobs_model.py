"""What the Jobs panel shows and does, without any widget."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import shlex
import typing

import numpy as np
from nion.data import Calibration, DataAndMetadata
from nion.swift import DocumentController
from nion.swift.model import DataItem, Graphics
from nion.utils import Geometry, Observable

from stem_ae.jobs import remote
from stem_ae.words import duration

from . import keeping, preferences, showing, simulate_overlay
from .activities import Works
from .canvas import Overlays

LOOK_BUSY_S, LOOK_IDLE_S = 1.0, 2.0
"""Seconds between looks at the queue while there is something to do, and while there is not."""
RANKINGS = ("disagreement", "energy", "uncertainty")
UNITS = {"energy": "eV"}
SPOT = 3.0
"""Å, radius of a place to look at; as :data:`stem_ae.simulate.guidance.REACH`."""
MARKED = 12.0
"""Å, side of the rectangle that marks one: a structure needs the atoms around it too."""
SURE = 5.991  # 95 % of a two-dimensional normal distribution lie within this squared distance
UPDATE_TASK = "stem_ae jobs update"
WORKS = {
    "result": "Opening the result", "spots": "Ranking places", "cancel": "Cancelling the job",
    "retry": "Queueing the job again",
}  # fmt: skip
"""Names of the requests in Swift's Activity panel."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One job as the table shows it."""

    id: str
    title: str
    state: str
    fraction: float
    seconds_left: float | None
    error: str
    image: str
    created: float
    progress: dict[str, typing.Any]

    @property
    def is_over(self) -> bool:
        """Whether nothing happens to it any more."""
        return self.state in ("finished", "failed", "cancelled")

    @property
    def time_left(self) -> str:
        """How long it will still take, in words."""
        return duration(self.seconds_left) if self.state == "running" and self.seconds_left is not None else ""


@dataclasses.dataclass(frozen=True)
class Table:
    """The newest list of jobs."""

    rows: tuple[Row, ...] = ()
    total: int = 0
    active: int = 0
    worker: bool = True
    error: str = ""

    @classmethod
    def of(cls, answer: remote.Answer) -> Table:
        """Return what the other process answered."""
        if answer.error:
            return cls(error=answer.error)
        v = answer.values
        return cls(tuple(Row(**row) for row in v["rows"]), v["total"], v["active"], v["worker"])


@dataclasses.dataclass(frozen=True)
class Texts:
    """What the panel says."""

    summary: str = ""
    details: str = ""
    """About the chosen job."""
    message: str = ""


class JobsModel(Observable.Observable):
    """Lists the jobs, brings their results to the images they came from, and says where to look next.

    Everything is to be used in the user interface thread. The queue is read in a process of its own.

    Parameters
    ----------
    window : DocumentController
        Whose project keeps the results.
    queue : str or None
        The folder of the queue; the user's by default.
    """

    def __init__(self, window: DocumentController.DocumentController, queue: str | None = None) -> None:
        super().__init__()
        self.__window = window
        self.__bench = remote.Workbench(queue)
        self.__works = Works()
        self.table = Table()
        self.texts = Texts()
        self.rankings = ["Disagreement with the image", "Energy of defects", "Uncertainty of the atoms"]
        self.ranking_index = 0
        self.spots: list[dict[str, float]] = []
        self.__ranked_frame: DataItem.DataItem | None = None
        self.spot_texts: list[str] = []
        self.spot_index = 0
        self.__selected = ""
        self.__details: dict[str, str] = {}
        self.__moves: dict[str, simulate_overlay.Moves] = {}
        self.__overlays = Overlays(window, self.__moves_for, simulate_overlay.arrows_and_legend)
        self.__is_listed = False
        self.__closed = False
        self.__started = False

    def close(self) -> None:
        """Let go of everything; the jobs go on."""
        self.__closed = True
        self.__bench.close()
        self.__works.close()
        self.__window.clear_task(UPDATE_TASK)
        self.__overlays.close()

    def start(self) -> None:
        """Look at the queue from now on; called when the panel is first seen."""
        if not self.__started and not self.__closed:
            self.__started = True
            self.__look()

    # --- the table --------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> tuple[Row, ...]:
        """The newest jobs, newest first."""
        return self.table.rows

    @property
    def selected(self) -> Row | None:
        """The chosen job."""
        return next((row for row in self.rows if row.id == self.__selected), None)

    def select(self, job: str) -> None:
        """Choose a job by its number."""
        self.__selected = job
        self.__describe()

    def __look(self, after_s: float = 0.0) -> None:
        self.__bench.ask({"do": "rows"}, self.__listed, after_s=after_s)

    def __listed(self, answer: remote.Answer) -> None:
        """Take the list, in the other thread: only what is new reaches the user interface's."""
        table = Table.of(answer)
        if table != self.table and not self.__closed:
            self.__window.add_task(UPDATE_TASK, functools.partial(self.__update, table))
        self.__look(LOOK_BUSY_S if table.active else LOOK_IDLE_S)

    def __update(self, table: Table) -> None:
        if self.__closed:
            return
        over = {row.id for row in self.rows if row.is_over}
        is_first, self.__is_listed = not self.__is_listed, self.__is_listed or not table.error
        if table.error:
            table = dataclasses.replace(self.table, error=table.error)
        self.table = table
        self.notify_property_changed("rows")
        self.__describe()
        for row in table.rows:
            if row.state == "finished" and row.id not in over and not is_first and self.__image(row):
                self.open_result(row.id)

    def __image(self, row: Row) -> DataItem.DataItem | None:
        """Return the image of this project that a job's structure comes from."""
        return next((i for i in self.__window.document_model.data_items if str(i.uuid) == row.image), None)

    # --- words ------------------------------------------------------------------------------------------------------

    @property
    def can_cancel(self) -> bool:
        """Whether the chosen job can be cancelled."""
        return self.selected is not None and not self.selected.is_over

    @property
    def can_retry(self) -> bool:
        """Whether the chosen job can be tried again."""
        return self.selected is not None and self.selected.state in ("failed", "cancelled")

    @property
    def can_start_over(self) -> bool:
        """Whether the chosen job can be calculated again from the start."""
        return self.selected is not None and self.selected.is_over

    @property
    def can_open(self) -> bool:
        """Whether the chosen job has a result."""
        return self.selected is not None and self.selected.state == "finished"

    def __describe(self) -> None:
        texts = dataclasses.replace(self.texts, summary=self.__summary(), details=self.__detail())
        if texts != self.texts:
            self.texts = texts
            self.notify_property_changed("texts")
        for name in ("can_cancel", "can_retry", "can_start_over", "can_open"):
            self.notify_property_changed(name)

    def __summary(self) -> str:
        table = self.table
        if table.error:
            return table.error
        words = [f"{table.active:,} to do, {table.total:,} in all" if table.total else "There are no jobs yet."]
        if table.total > len(table.rows):
            words.append(f"the newest {len(table.rows)} are shown")
        if table.active and not table.worker:
            words.append(f"no worker is running: type “stem-ae worker{self.__queue_option}” in a terminal")
        return " · ".join(words)

    @property
    def __queue_option(self) -> str:
        """Options for a worker in a terminal, which does not know Swift's preferences."""
        usual = preferences.usual("queue")
        return "" if self.__bench.queue == usual else f" --queue {shlex.quote(self.__bench.queue)}"

    def __detail(self) -> str:
        row = self.selected
        if row is None:
            return "Click on a job."
        if row.error:
            return row.error
        p = row.progress
        if "step" not in p:
            return self.__details.get(row.id, row.title)
        kelvin = f", {p['temperature']:.0f} K" if p["temperature"] else ""
        return f"Step {p['step']}: {p['energy']:.3f} eV, largest force {p['fmax']:.3g} eV/Å{kelvin}"

    def __say(self, message: str) -> None:
        self.texts = dataclasses.replace(self.texts, message=message)
        self.notify_property_changed("texts")

    # --- what the buttons do ----------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Take the chosen job out of the queue and stop its process."""
        if self.selected:
            self.__ask({"do": "cancel", "job": self.selected.id}, self.__changed)

    def retry(self) -> None:
        """Queue the chosen job again; it goes on from its checkpoint."""
        self.__queue_again(from_start=False)

    def start_over(self) -> None:
        """Queue the chosen job again from the start; what it has written is set aside."""
        self.__queue_again(from_start=True)

    def __queue_again(self, from_start: bool) -> None:
        if self.selected:
            self.__ask({"do": "retry", "job": self.selected.id, "from_start": from_start}, self.__changed)

    def __changed(self, answer: remote.Answer) -> None:
        self.__say(answer.error)
        self.__look()

    def open_result(self, job: str = "") -> None:
        """Bring the result of a job, the chosen one by default, beside its image."""
        chosen = job or (self.selected.id if self.selected else "")
        row = next((row for row in self.rows if row.id == chosen), None)
        if row:
            self.__ask({"do": "result", "job": row.id}, functools.partial(self.__opened, row))

    # --- results ----------------------------------------------------------------------------------------------------

    def __opened(self, row: Row, answer: remote.Answer) -> None:
        if answer.error:
            self.__say(answer.error)
            return
        summary = answer.values["summary"]
        lines = answer.values["temperatures"]
        self.__details[row.id] = "\n".join([in_words(summary), *(lines if len(lines) > 1 else [])])
        metadata = {keeping.METADATA_KEY: {"kind": "result", "job": row.id, "summary": summary}}
        self.__put_history(row, answer.arrays, metadata)
        image = self.__image(row)
        if image and "simulated" in answer.arrays:
            xdata = DataAndMetadata.new_data_and_metadata(
                answer.arrays["simulated"].astype(np.float32), metadata=metadata,
                dimensional_calibrations=list(image.dimensional_calibrations),
            )  # fmt: skip
            showing.show_in_empty(self.__window, self.__put(row, "simulated image", xdata))
            self.__moves[row.image] = moves_of(answer)
            self.__overlays.refresh()
        self.select(row.id)

    def __put_history(self, row: Row, arrays: typing.Mapping[str, typing.Any], metadata: dict[str, typing.Any]) -> None:
        """Put energy or, for dynamics, temperature against the steps into the project."""
        if metadata[keeping.METADATA_KEY]["summary"]["task"]["kind"] == "md":
            name, unit, values = "temperature", "K", arrays["temperature"]
        else:
            name, unit, values = "energy above the last", "eV", arrays["energy"] - arrays["energy"][-1:]
        if len(values) > 1:
            xdata = DataAndMetadata.new_data_and_metadata(
                values.astype(np.float32), metadata=metadata,
                intensity_calibration=Calibration.Calibration(0.0, 1.0, unit),
            )  # fmt: skip
            self.__put(row, name, xdata)

    def __put(self, row: Row, what: str, xdata: DataAndMetadata.DataAndMetadata) -> DataItem.DataItem:
        """Put data into the project, in place of what an earlier opening put there."""
        title = f"{row.title} ({what})"
        for item in self.__window.document_model.data_items:
            if item.title == title and item.metadata.get(keeping.METADATA_KEY, {}).get("job") == row.id:
                item.set_xdata(xdata)
                return item
        item = DataItem.new_data_item(xdata)
        item.title = title
        self.__window.document_model.append_data_item(item)
        return item

    def __moves_for(self, item: DataItem.DataItem) -> simulate_overlay.Moves | None:
        return self.__moves.get(str(item.uuid))

    # --- where to look next -----------------------------------------------------------------------------------------

    def rank(self) -> None:
        """Rank the places of the chosen job's image, or of the displayed snapshot."""
        frame = self.__frame()
        atoms = keeping.kept_atoms(self.__window.document_model, frame) if frame else None
        if frame is None or atoms is None:
            self.__say("Choose a job whose image is in this project, or click on the frame of a snapshot.")
            return
        words, arrays = remote.packed(atoms)
        request = {"do": "spots", "by": RANKINGS[self.ranking_index], "image": str(frame.uuid), **words}
        self.__ask(request, functools.partial(self.__ranked, frame, atoms.known_sampling, request["by"]), arrays)

    def __frame(self) -> DataItem.DataItem | None:
        image = self.__image(self.selected) if self.selected else None
        panel = self.__window.selected_display_panel
        item = panel.data_item if panel else None
        return image or (item if item and keeping.is_kept_frame(item) else None)

    def __ranked(
        self, frame: DataItem.DataItem, sampling: tuple[float, float], by: str, answer: remote.Answer
    ) -> None:
        if answer.error:
            self.__say(answer.error)
            return
        self.__ranked_frame = frame
        self.spots = answer.values["spots"]
        unit = f" {UNITS[by]}" if by in UNITS else ""
        self.spot_texts = [
            f"{number}.  x {spot['x']:.1f}, y {spot['y']:.1f} Å   {by} {spot['score']:.3g}{unit}"
            for number, spot in enumerate(self.spots, start=1)
        ]
        self.notify_property_changed("spot_texts")
        needs_job = by != "uncertainty"
        nothing = "Nothing stands out" + (" in the finished relaxations of this image." if needs_job else ".")
        self.__say(f"Places on “{frame.title}”." if self.spots else nothing)
        shape = typing.cast(tuple[int, int], frame.data_shape)
        places = tuple(
            simulate_overlay.Place(
                spot["x"] / sampling[1], spot["y"] / sampling[0], SPOT / float(np.mean(sampling)), str(number)
            )
            for number, spot in enumerate(self.spots, start=1)
        )
        earlier = self.__moves.get(str(frame.uuid)) or simulate_overlay.Moves.none(shape)
        self.__moves[str(frame.uuid)] = dataclasses.replace(earlier, places=places)
        self.__overlays.refresh()

    def mark_spot(self) -> None:
        """Draw a rectangle about the chosen place: the Simulate panel takes it, or the next scan."""
        frame, document = self.__ranked_frame, self.__window.document_model
        if frame is None or not 0 <= self.spot_index < len(self.spots):
            self.__say("Rank the places first, then choose one.")
            return
        atoms = keeping.kept_atoms(document, frame) if frame in document.data_items else None
        display_item = document.get_display_item_for_data_item(frame) if atoms else None
        if atoms is None or display_item is None:
            self.__say("The image of these places is not in the project any more: rank those of another one.")
            return
        spot = self.spots[self.spot_index]
        extent = [n * step for n, step in zip(atoms.shape, atoms.known_sampling, strict=True)]
        graphic = Graphics.RectangleGraphic()
        graphic.label = f"look here {self.spot_index + 1}"
        centre = Geometry.FloatPoint(
            (spot["y"] + atoms.known_sampling[0] / 2) / extent[0], (spot["x"] + atoms.known_sampling[1] / 2) / extent[1]
        )
        size = Geometry.FloatSize(MARKED / extent[0], MARKED / extent[1])
        graphic.bounds = Geometry.FloatRect.from_center_and_size(centre, size)
        display_item.add_graphic(graphic)
        display_item.graphic_selection.set(list(display_item.graphics).index(graphic))

    # --- both sides -------------------------------------------------------------------------------------------------

    def __ask(
        self,
        values: dict[str, typing.Any],
        answered: collections.abc.Callable[[remote.Answer], None],
        arrays: typing.Mapping[str, typing.Any] | None = None,
    ) -> None:
        """Ask the other process, and have the answer brought to this thread."""
        work = self.__works.begin(WORKS.get(values["do"], "STEM AE"))

        def bring(answer: remote.Answer) -> None:
            work.end()
            self.__window.queue_task(lambda: None if self.__closed else answered(answer))

        self.__bench.ask(values, bring, arrays)


def moves_of(answer: remote.Answer) -> simulate_overlay.Moves:
    """Return what a result says about the atoms of its image. Dynamics moves atoms by heat: nothing to compare."""
    shape = typing.cast(tuple[int, int], tuple(answer.values["shape"]))
    if answer.values["summary"]["task"]["kind"] == "md":
        return simulate_overlay.Moves.none(shape)
    sampling = np.array(answer.values["sampling"])[::-1]
    return simulate_overlay.Moves(
        answer.arrays["before"] / sampling, answer.arrays["after"] / sampling, answer.arrays["squared"] > SURE, shape
    )


def in_words(summary: dict[str, typing.Any]) -> str:
    """Return what came out, for a few lines in the panel."""
    if "bonds" not in summary:
        return "Finished."
    averages = summary.get("averages", summary)
    lines = [f"{summary['engine']}: {summary['energy']:.3f} eV, largest force {summary['fmax']:.3g} eV/Å"]
    if "temperature" in averages:
        lines[0] += f", {averages['temperature']:.0f} K on average"
    lines += [f"{name}: {b['mean']:.3f} Å ({b['min']:.3f} to {b['max']:.3f})" for name, b in averages["bonds"].items()]
    if moved := summary["displacement"]:
        within = f", {moved['within_95']:.0%} within their 95 % ellipse" if "within_95" in moved else ""
        lines.append(f"moved {moved['mean_pm']:.1f} pm on average, {moved['max_pm']:.0f} at most{within}")
    if "adsorption_energy" in summary:
        lines.append(f"adsorption energy {summary['adsorption_energy']:.3f} eV (positive: bound)")
    kinds = [str(defect["kind"]) for defect in summary["defects"]]
    lines += [f"defects: {', '.join(kinds[:6])}{' …' if len(kinds) > 6 else ''}"] if kinds else []
    return "\n".join(lines)
