"""The plan that decides where to measure next, while it measures."""

from __future__ import annotations

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np
from bluesky.utils import Msg
from numpy.typing import ArrayLike, NDArray

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.explore import path
from stem_ae.explore.objective import Objective
from stem_ae.explore.remote import Decision, DecisionProcess
from stem_ae.microscope.devices import Microscope, Note
from stem_ae.microscope.frame import CameraFrame, Frame, Image
from stem_ae.microscope.usable import filled, filled_frame, missing
from stem_ae.plans import stubs
from stem_ae.plans.acquire import Follower, wait_for
from stem_ae.plans.documents import Run
from stem_ae.plans.stubs import Plan

if TYPE_CHECKING:  # torch comes with it
    from stem_ae.explore import Explorer

Point = tuple[int, int]  # row and column in the survey image

_LEAST_SUPPOSED = 2  # measurements that a belief rests on
_FEWEST_NAN = 10  # measurements without a property, from which on there seems to be none


@dataclasses.dataclass(frozen=True, eq=False)
class Settings:
    """What to explore, and how.

    Parameters
    ----------
    frame : Frame
        The survey image.
    camera : "eels" or "diffraction"
    exposure_s : float
        Per point.
    points : int
        How many to measure; the explorer's dose budget may end it sooner.
    batch : int
        Points between two decisions. Each is made while the batch before it is measured, so it knows all but that.
    first : int
        Points that are measured before anything is decided.
    candidates : (k, 2) integer array or None
        Row and column of the pixels that may be measured.
    explorer : mapping
        Settings of :class:`~stem_ae.explore.Explorer`, as JSON can say them.
    drift_every : int
        Scan the survey again after so many points and follow the specimen; 0: do not.

    Raises
    ------
    StemAeError
        If a number is NaN, infinite or out of range.
    """

    frame: Frame
    camera: str = "eels"
    exposure_s: float = 0.02
    points: int = 100
    batch: int = 5
    first: int = 10
    candidates: NDArray[np.int64] | None = None
    explorer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    drift_every: int = 0

    def __post_init__(self) -> None:
        for name in ("points", "batch", "first"):
            object.__setattr__(self, name, checks.whole(getattr(self, name), name))  # the dataclass is frozen
        checks.positive(self.exposure_s, "The exposure", checks.MOST_S, "s")
        object.__setattr__(self, "drift_every", checks.whole(self.drift_every, "drift_every", least=0))


class Exploration:
    """One experiment: its plan, what it has measured, and what the user may still change.

    Parameters
    ----------
    microscope : Microscope
    process : DecisionProcess
    settings : Settings
    look_for : callable or Objective
        The property looked for, from one exposure of the camera; or several.
    surveyed : callable, optional
        Called with the survey image, in the engine's thread.
    measured : callable, optional
        Called after each point, in the engine's thread.
    decided : callable, optional
        Called with each decision, in the engine's thread.
    supposed : callable, optional
        Called in some thread with the number of a property that is not the first, and what is believed of it.
    """

    def __init__(
        self, microscope: Microscope, process: DecisionProcess, settings: Settings,
        look_for: Callable[[CameraFrame], float] | Objective[CameraFrame],
        surveyed: Callable[[Image], None] = lambda image: None, measured: Callable[[], None] = lambda: None,
        decided: Callable[[Decision], None] = lambda decision: None,
        supposed: Callable[[int, Decision], None] = lambda number, decision: None,
    ) -> None:
        microscope.camera(settings.camera)  # there is one, or nothing is exposed
        self.settings = settings
        self.points: list[Point] = []
        """Measured, in order."""
        self.frames: list[CameraFrame] = []
        """What the camera gave there."""
        self.numbers: list[tuple[float, ...]] = []
        """The properties there."""
        self.left_out: list[Point] = []
        """Not measured, because the specimen has carried them out of the field of view."""
        self.missing = 0
        """Pixels of all these frames that were NaN or infinite; the nearest one's value stands in for them."""
        self.objective = Objective.of(look_for)
        self._columns = ["property", *(f"property_{k}" for k in range(2, len(self.objective.properties) + 1))]
        self._microscope, self._process = microscope, process
        self._surveyed, self._measured, self._decided, self._supposed = surveyed, measured, decided, supposed
        self._forced: collections.deque[Point] = collections.deque()
        self._told = 0
        self._supposing: list[Future[Decision]] = []
        self._next: Objective[CameraFrame] | None = None
        self._at: Point = (0, 0)
        self._note = Note(microscope.instrument, "property", self._describe_point)

    @property
    def values(self) -> list[float]:
        """What is looked for, at each point."""
        return [float(value) for value in self.objective.values(self.numbers, self.settings.first)]

    # --- what the user may do meanwhile, from any thread --------------------------------------------------------------

    def force(self, point: Point) -> None:
        """Measure a candidate next, whatever the explorer thinks.

        Raises
        ------
        StemAeError
            If it was exposed already, or lies too near to a place that was.
        """
        wanted = (int(point[0]), int(point[1]))
        if self._is_exposed(wanted):
            raise StemAeError(
                f"The beam has been there: points stay {self._apart:g} Å apart. Choose another place, or a smaller "
                "distance for the next run."
            )
        self._forced.append(wanted)

    def look_for(self, look_for: Callable[[CameraFrame], float] | Objective[CameraFrame]) -> None:
        """Look for another property, or others, from now on; what was measured is valued anew."""
        self._next = Objective.of(look_for)

    def believe(self) -> Future[Decision]:
        """Return what is believed of all that was measured, the property looked for last. For after the run's end."""
        believed = self._ask(0)
        self._suppose()
        return believed

    # --- the plan ---------------------------------------------------------------------------------------------------

    def plan(self, **more: Any) -> Plan:
        """Return the run; its result is the last :class:`Decision`. ``more`` goes into the start document."""
        told = dataclasses.asdict(self.settings)
        return stubs.as_run(self._microscope, "explore", self._explore(), **told, **more)

    def _explore(self) -> Generator[Msg, Any, Decision]:
        settings, process = self.settings, self._process
        follow = Follower(self._microscope, settings.frame, settings.drift_every)
        yield from wait_for(process.ready())  # before the survey, which grows old meanwhile
        image = yield from follow.start()
        self._surveyed(image)
        given = {} if settings.candidates is None else {"candidates": settings.candidates}
        yield from follow.watch(
            process.explore(filled(image.data), {"sampling": settings.frame.sampling, **settings.explorer}, **given)
        )
        decision = yield from follow.watch(process.step(batch=min(settings.first, settings.points)))
        follow.expire()  # describing a large image takes seconds, too
        while len(decision.points):
            batch = [(int(row), int(column)) for row, column in decision.points]
            left = settings.points - len(self.points) - len(batch)
            deciding = self._ask(min(settings.batch, left), batch) if self.points and left > 0 else None
            if all(future.done() for future in self._supposing):
                self._suppose()  # behind the decision, which must not wait; nor must the next one
            yield from self._measure(batch, follow)
            yield from self._until_there_is_a_property()
            left = settings.points - len(self.points)
            if deciding is None and left <= 0:
                break
            decision = yield from follow.watch(deciding or self._ask(min(settings.batch, left)))
            self._decided(decision)
        return (yield from self._conclude())

    def _ask(self, batch: int, pending: ArrayLike = ()) -> Future[Decision]:
        """Tell what is new, and ask for so many points."""
        self._value_anew()
        points, values = self.points[self._told :], self.values[self._told :]
        self._told = len(self.points)
        under_way = [*np.asarray(pending, np.int64).reshape(-1, 2).tolist(), *self.left_out]
        return self._process.step(points, values, batch, under_way)

    def _value_anew(self) -> None:
        """Look for what the user wants to look for by now."""
        following, self._next = self._next, None
        if following:
            self.objective = following
            self.numbers = [following.numbers(frame) for frame in self.frames]
            if self._told:
                self._process.revalue(self.values[: self._told])

    def _until_there_is_a_property(self) -> Plan:
        """If no exposure has the property that is looked for, wait for the user to look for another one."""
        start, reason = time.monotonic(), ""
        while len(self.values) >= _FEWEST_NAN and not np.isfinite(self.values).any():
            reason = (
                f"The property is not a number at any of the {len(self.values)} places measured: choose another "
                "property, or another band for this one."
            )
            is_chosen = lambda: self._next is not None  # noqa: E731
            wait_s = self._microscope.suspension.patience_s
            yield from stubs.suspended(self._microscope, reason, start, wait_s, is_chosen)
            self._value_anew()
        if reason:
            self._microscope.suspension.reason = ""
            yield from stubs.noted(self._microscope, reason, time.monotonic() - start)

    def _suppose(self) -> list[Future[Decision]]:
        """Ask what is believed of the properties beside the first."""
        futures = []
        for number in range(1, len(self.objective.properties)) if self._told >= _LEAST_SUPPOSED else ():
            future = self._process.suppose([row[number] for row in self.numbers[: self._told]], number)
            future.add_done_callback(functools.partial(self._tell_supposed, number, self.objective))
            futures.append(future)
        self._supposing = futures
        return futures

    def _tell_supposed(self, number: int, of: Objective[CameraFrame], done: Future[Decision]) -> None:
        if done.cancelled() or done.exception():  # a decision that fails is noticed by who waits for one
            return
        if of is self.objective:
            self._supposed(number, done.result())

    def _measure(self, batch: list[Point], follow: Follower) -> Plan:
        microscope, settings = self._microscope, self.settings
        camera = microscope.camera(settings.camera)
        camera.exposure_s = settings.exposure_s
        queue = collections.deque(batch)
        while queue or self._forced:
            self._at = self._forced.popleft() if self._forced else queue.popleft()
            if self._is_exposed(self._at):  # by what was forced meanwhile
                continue
            if not (yield from follow.measure(camera, settings.frame.pixels_to_plane(self._at), self._note)):
                self.left_out.append(self._at)
                continue
            assert camera.latest is not None
            self.missing += missing(camera.latest.data)
            frame = filled_frame(camera.latest)
            self.points.append(self._at)
            self.frames.append(frame)
            self.numbers.append(self.objective.numbers(frame))
            self._measured()

    @property
    def _apart(self) -> float:
        """Å between two points, at least."""
        return float(self.settings.explorer.get("min_distance", path.APART))

    def _is_exposed(self, point: Point) -> bool:
        sampling = self.settings.frame.sampling
        places = np.reshape(self.points, (-1, 2)) * sampling
        return bool(path.within(np.multiply([point], sampling), places, self._apart)[0])

    def _describe_point(self) -> dict[str, float]:
        frame = self._microscope.camera(self.settings.camera).latest
        assert frame is not None
        numbers = [*self.objective.numbers(filled_frame(frame)), *[float("nan")] * len(self._columns)]
        named = dict(zip(self._columns, numbers, strict=False))  # a stream's columns stay, whatever is looked for later
        return {"row": self._at[0], "column": self._at[1], **named}

    def _conclude(self) -> Generator[Msg, Any, Decision]:
        """Learn from the last points too, and keep the maps with the run."""
        decision = yield from wait_for(self._ask(0))
        self._decided(decision)
        maps = {"mean": decision.mean, "std": decision.std, "acquisition": decision.acquisition}
        for number, future in enumerate(self._suppose(), 2):
            supposed = yield from wait_for(future)
            maps |= {f"mean_{number}": supposed.mean, f"std_{number}": supposed.std}
        yield from stubs.record([Note(self._microscope.instrument, "maps", lambda: maps)], "maps")
        return decision


def explorer_of(run: Run, look_for: Callable[[CameraFrame], float] | Objective[CameraFrame] | None = None) -> Explorer:
    """Return the explorer of a run that was written, with all that it has measured.

    Parameters
    ----------
    run : Run
        Of :class:`Exploration`.
    look_for : callable or Objective, optional
        What to look for instead, in the exposures that are stored: what would have been believed, and asked for next.

    Raises
    ------
    StemAeError
        If the run is another plan's.
    """
    from stem_ae.explore import Explorer

    settings, measured, survey = run.start.get("settings", {}), run.events(), run.events("survey")
    if run.start.get("plan_name") != "explore" or not survey:
        raise StemAeError(f"The run in {run.folder} explored nothing: choose one that did.")
    points = np.array([(event["row"], event["column"]) for event in measured]).reshape(-1, 2)
    sampling = settings["frame"]["fov"] / max(settings["frame"]["shape"])
    explorer = Explorer(
        filled(survey[0]["scan"]), candidates=settings["candidates"], **{"sampling": sampling, **settings["explorer"]}
    )
    if look_for is None:
        explorer.tell(points, [event["property"] for event in measured])
        return explorer
    objective, camera = Objective.of(look_for), settings["camera"]
    calibration = run.descriptor("primary")["data_keys"][camera]["calibration"]
    frames = [
        CameraFrame(filled(event[camera]), **calibration, largest=float("nan"), clipped=0) for event in measured
    ]
    explorer.tell(points, objective.values([objective.numbers(frame) for frame in frames], settings["first"]))
    return explorer

