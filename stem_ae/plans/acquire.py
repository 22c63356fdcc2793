"""Plans that look and measure where they are told: survey, zoom, list of points, raster."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
from bluesky.utils import Msg
from numpy.typing import ArrayLike

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.microscope.devices import Camera, CameraScan, Microscope, Note
from stem_ae.microscope.frame import Frame, Image
from stem_ae.plans import stubs
from stem_ae.plans.stubs import Plan

T = TypeVar("T")

POLL_S = 0.002
_BLOCK_S = 1.0  # of a raster is lost by a pause, a stop or a crash
_LOOKS = 4  # at a specimen that is not where it was expected


def survey(microscope: Microscope, frame: Frame) -> Plan:
    """Scan one frame; the run's result is the :class:`Image`."""
    return stubs.as_run(microscope, "survey", stubs.scan(microscope, frame), frame=dataclasses.asdict(frame))


def zoom(microscope: Microscope, frame: Frame, place: tuple[float, float], fov: float) -> Plan:
    """Scan the surroundings of a place of the scan plane (x, y in Å), ``fov`` Å wide, otherwise like ``frame``."""
    centre = checks.place(place, "The place")
    closer = dataclasses.replace(frame, fov=fov, centre=centre, within=None)
    return stubs.as_run(microscope, "zoom", stubs.scan(microscope, closer), frame=dataclasses.asdict(closer))


def points(
    microscope: Microscope, frame: Frame, places: ArrayLike, camera: str = "eels", exposure_s: float = 0.02,
    drift_every: int = 0, **settings: Any,
) -> Plan:
    """Scan a frame, then expose a camera at places of the scan plane.

    Parameters
    ----------
    microscope : Microscope
    frame : Frame
        The survey image. Places lie inside it.
    places : (n, 2) array
        x and y in Å.
    camera : "eels" or "diffraction"
    exposure_s : float
        Per point.
    drift_every : int
        Scan the frame again after so many points and follow the specimen; 0: do not.
    **settings
        More for the start document.
    """
    xy = checks.places(places, "The points")
    if not len(xy):
        raise StemAeError("There are no points to measure.")
    drift_every = checks.whole(drift_every, "drift_every", least=0)
    device = microscope.camera(camera)
    device.exposure_s = checks.positive(exposure_s, "The exposure", checks.MOST_S, "s")

    def plan() -> Plan:
        follow = Follower(microscope, frame, drift_every)
        yield from follow.start()
        for place in xy:
            yield from follow.measure(device, place, can_leave_out=False)

    told = {"frame": dataclasses.asdict(frame), "camera": camera, "exposure_s": exposure_s, "places": xy}
    return stubs.as_run(microscope, "points", plan(), **told, **settings)


def raster(
    microscope: Microscope, frame: Frame, shape: tuple[int, int], camera: str = "eels", exposure_s: float = 0.02,
    drift_every: int = 0,
) -> Plan:
    """Expose a camera at ``shape`` rows and columns of points, evenly over the frame.

    A camera that can clock the scan does so, some rows at a time, and each event holds one row: ``probe_x (columns,)``,
    ``eels (columns, E)``. With others, and where points are not as far apart along x as along y, the beam goes point by
    point, and each event holds one.
    """
    shape = checks.shape(shape, "The shape of a raster")
    checks.positive(exposure_s, "The exposure", checks.MOST_S, "s")
    drift_every = checks.whole(drift_every, "drift_every", least=0)
    width, height = frame.field.fov
    is_even = np.isclose(width / shape[1], height / shape[0], rtol=1e-3)
    if is_even and microscope.camera(camera).is_synchronised:
        return _rows(microscope, frame, shape, camera, exposure_s, drift_every)
    rows, columns = np.indices(shape)
    fractions = np.stack([(columns + 0.5) / shape[1], (rows + 0.5) / shape[0]], axis=-1)
    places = frame.field.to_specimen(fractions.reshape(-1, 2))
    return points(microscope, frame, places, camera, exposure_s, drift_every, shape=list(shape))


def _rows(
    microscope: Microscope, frame: Frame, shape: tuple[int, int], camera: str, exposure_s: float, drift_every: int
) -> Plan:
    """Return the raster that the camera clocks."""
    device = microscope.eels_scan if camera == "eels" else microscope.diffraction_scan
    microscope.camera(camera).exposure_s = exposure_s
    least = max(1, int(_BLOCK_S / (exposure_s * shape[1])))
    step = min(least, max(1, drift_every // shape[1])) if drift_every else least

    def plan() -> Plan:
        follow = Follower(microscope, frame, drift_every)
        yield from follow.start()
        for first in range(0, shape[0], step):
            count = min(step, shape[0] - first)
            yield from follow.measure_rows(
                device, count * shape[1], functools.partial(_part, frame, shape, first, count, exposure_s, follow)
            )

    told = {"frame": dataclasses.asdict(frame), "camera": camera, "exposure_s": exposure_s, "shape": list(shape)}
    return stubs.as_run(microscope, "raster", plan(), **told)


def _part(frame: Frame, shape: tuple[int, int], first: int, count: int, exposure_s: float, follow: Follower) -> Frame:
    """Return the frame of some rows of a raster, where they are by now."""
    middle = frame.field.to_specimen((0.5, (first + count / 2) / shape[0]))
    pixel = frame.field.fov[0] / shape[1]
    return Frame(pixel * max(count, shape[1]), (count, shape[1]), 1e6 * exposure_s, follow.now(middle), frame.rotation)


class Follower:
    """Moves places with the specimen, which is scanned again every so many points.

    It is scanned again sooner where a crystal may otherwise be mistaken for itself one period further: at once after
    the survey, as nothing is known of the drift then, and after whatever took long. The frame is moved, too, so that
    the specimen does not leave it.

    Parameters
    ----------
    microscope : Microscope
    frame : Frame
        What is scanned.
    every : int
        Points between two scans; 0: no scan but the first.
    """

    def __init__(self, microscope: Microscope, frame: Frame, every: int) -> None:
        self._microscope, self._frame, self._every = microscope, frame, every
        self._since = 0
        self.image: Image | None = None

    def start(self) -> Generator[Msg, Any, Image]:
        """Scan the survey image."""
        self._microscope.drift.reset()
        self.image = yield from stubs.scan(self._microscope, self._frame)
        if self._every:
            self._microscope.drift.add(self.image)
            yield from self._rescan()
        return self.image

    # --- measuring --------------------------------------------------------------------------------------------------

    def measure(
        self, camera: Camera, place: ArrayLike, note: Note | None = None, can_leave_out: bool = True
    ) -> Generator[Msg, Any, bool]:
        """Expose a camera where a place of the survey image is by now, and keep what it gave, and a note.

        Parameters
        ----------
        camera : Camera
        place : (float, float)
            Of the survey image, in the scan plane.
        note : Note, optional
        can_leave_out : bool
            Return False if the place cannot be reached, because the specimen has carried it away. Otherwise that is an
            error.
        """
        reached: list[tuple[float, float] | None] = []

        def attempt() -> Plan:
            yield from self._again()
            reached.append((yield from self._reach(place)))
            if reached[-1] is None and can_leave_out:
                return
            yield from stubs.expose_at(self._microscope, camera, reached[-1] or self.now(place))

        def problem() -> str:
            return "" if reached[-1] is None and can_leave_out else camera.problem

        yield from self._undisturbed(attempt, problem)
        if reached[-1] is None and can_leave_out:
            return False
        yield from stubs.record([self._microscope.probe, camera, *([note] if note else [])], "primary")
        self._since += 1
        return True

    def measure_rows(self, device: CameraScan, points: int, frame: Callable[[], Frame]) -> Plan:
        """Measure some rows of a raster, so many points, in a frame that follows the specimen."""

        def attempt() -> Plan:
            yield from self._again()
            yield from stubs.expose_rows(self._microscope, device, frame())

        yield from self._undisturbed(attempt, lambda: device.problem)
        yield from stubs.record_rows(device)
        self._since += points

    def _undisturbed(self, attempt: Callable[[], Plan], problem: Callable[[], str]) -> Plan:
        """Try until it is usable, and was not paused: the specimen is somewhere else after a pause."""
        while True:
            pauses = self._microscope.probe.pauses
            yield from stubs.until_usable(self._microscope, attempt, problem)
            if not self._every or pauses == self._microscope.probe.pauses:
                return
            self.expire()

    # --- following --------------------------------------------------------------------------------------------------

    def watch(self, future: Future[T]) -> Generator[Msg, Any, T]:
        """Wait for a future, and scan again meanwhile if the specimen is lost out of sight otherwise."""
        while not future.done():
            if self._is_due():
                yield from self._rescan()
            yield Msg("checkpoint")
            yield Msg("sleep", None, POLL_S)
        return future.result()

    def expire(self) -> None:
        """Scan again before the next point, however few there were: much time has passed."""
        self._since = self._every

    def _is_due(self) -> bool:
        return bool(self._every) and self._microscope.drift.may_be_lost

    def _again(self) -> Plan:
        """Scan again if it is time."""
        if self._every and (self._since >= self._every or self._is_due()):
            yield from self._rescan()

    def _reach(self, place: ArrayLike) -> Generator[Msg, Any, tuple[float, float] | None]:
        """Return where a place of the survey image is by now, None if it cannot be reached.

        If it is about to leave the last scan, the specimen is scanned again first, which brings it back.
        """
        reached = self.now(place)
        if self._every and not self._is_inside(reached):
            yield from self._rescan()
            reached = self.now(place)
            return reached if self._is_inside(reached) else None
        return reached

    def _rescan(self) -> Plan:
        """Scan again; if the specimen is not where it was expected, until it is."""
        for _ in range(_LOOKS):
            # A sub-scan stays where the whole frame has it.
            moved = self._frame if self._frame.within else dataclasses.replace(
                self._frame, centre=self.now(self._frame.centre)
            )
            yield from stubs.measure_drift(self._microscope, moved)
            if not self._microscope.drift.was_surprising:
                break
        self._since = 0

    def _is_inside(self, place: tuple[float, float]) -> bool:
        image = self._microscope.scan.image
        fractions = image.frame.field.to_fraction(place) if image else np.zeros(2)
        return bool(np.all((fractions >= 0) & (fractions <= 1)))

    def now(self, place: ArrayLike) -> tuple[float, float]:
        """Return where a place of the survey image is by now."""
        moved = self._microscope.drift.at() if self._every else (0.0, 0.0)
        x, y = np.add(np.asarray(place, dtype=float), moved)
        return float(x), float(y)


def wait_for(future: Future[T]) -> Generator[Msg, Any, T]:
    """Wait for a future without holding the engine up: stop, pause and abort act at once."""
    while not future.done():
        yield Msg("checkpoint")
        yield Msg("sleep", None, POLL_S)
    return future.result()
