"""The microscope's devices in bluesky's terms (``bluesky.protocols``): what plans move, trigger and read.

They hold no knowledge of an instrument's make; :class:`Microscope` builds them on any
:class:`~stem_ae.microscope.instrument.Instrument`.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.microscope.deadline import Hung, within
from stem_ae.microscope.frame import CameraFrame, Frame, Image, Reading
from stem_ae.microscope.instrument import CameraName, Cancelled, ControlName, Instrument
from stem_ae.microscope.interlock import LEASE_MORE_S, LEASE_TIMES, BeamAlarm, Interlock
from stem_ae.microscope.motion import FASTEST, Find, Motion
from stem_ae.microscope.registration import STRENGTH, Registration, register
from stem_ae.microscope.usable import (
    Unusable,
    missing,
    problem_of,
    problem_of_camera,
    problem_of_reading,
    problem_of_readings,
)

Document = OrderedDict[str, dict[str, Any]]
Result = TypeVar("Result")

_ANSWER_S = 5.0  # for what takes no time by itself
_STEP_S = 8.0  # for one step of giving the microscope back; the blanker's own deadlines are shorter
_SECURE_S = 30.0
_PATIENCE_S = 3.0  # beyond what an operation needs by itself
_FARTHEST_AHEAD = 2.0  # limit of predicting the drift, in units of the time that its measurements span
_LAST_FINDS = 12
_DISTORTION = 0.05  # Å: error of a find, added to its noise
_TOLERANCE = 0.3  # Å: unexplained shifts and distortions of scans
_TOGETHER_S = 5.0  # scans closer in time than this are summed
_CERTAIN = 5.0  # standard deviations
_LONGEST_REGISTRATION_S = 60.0
_CLIPPED = 4  # raw pixels that share the largest value: no noise does that ...
_CLIPPED_FROM = 1024.0  # ... at many counts


class Operation:
    """Work under way, with an end: bluesky's Status.

    Parameters
    ----------
    work : callable, optional
        Done in a thread of its own; what it returns is dropped, what it raises is :meth:`exception`, except that being
        cancelled is no failure. None: nothing is to be done.
    timeout_s : float
        Seconds after which the operation fails, whatever ``work`` still does.
    late : str
        What the failure then says.
    done : bool
        Without work: whether it has ended, or never will.
    """

    def __init__(
        self, work: Callable[[], object] | None = None, timeout_s: float = 60.0, late: str = "", done: bool = True
    ) -> None:
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Operation], None]] = []
        self._timer: threading.Timer | None = None
        if work is None:
            if done:
                self._finish(None)
            return
        checks.positive(timeout_s, "The time that an operation may take", checks.MOST_S, "s")
        self._timer = threading.Timer(timeout_s, self._finish, [StemAeError(late or "An operation took too long.")])
        self._timer.daemon = True
        self._timer.start()
        threading.Thread(target=self._run, args=[work], daemon=True, name="stem_ae operation").start()

    def __repr__(self) -> str:
        """Return what went wrong; documents give it as the reason of a failed run."""
        return str(self._error) if self._error is not None else f"<operation, {'done' if self.done else 'under way'}>"

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Cancelled:
            self._finish(None)
        except BaseException as error:  # whatever it is, the plan has to hear of it
            self._finish(error)
        else:
            self._finish(None)

    def _finish(self, error: BaseException | None) -> None:
        with self._lock:
            if self._finished.is_set():
                return
            self._error = error
            self._finished.set()
        if self._timer:
            self._timer.cancel()
        for callback in self._callbacks:
            callback(self)

    def add_callback(self, callback: Callable[[Operation], None]) -> None:
        """Call back at the end, or now if it was already."""
        with self._lock:
            if not self._finished.is_set():
                self._callbacks.append(callback)
                return
        callback(self)

    def exception(self, timeout: float | None = 0.0) -> BaseException | None:
        """Return what went wrong, after waiting for the end."""
        if not self._finished.wait(timeout):
            raise TimeoutError("The operation goes on.")
        return self._error

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._finished.is_set()

    @property
    def success(self) -> bool:
        """Whether it has ended well."""
        return self.done and self._error is None


class _Device:
    parent = None

    def __init__(self, instrument: Instrument, name: str) -> None:
        self.name = name
        self._instrument = instrument

    def _ask(self, work: Callable[[], Result]) -> Result:
        """Call the instrument from the engine's thread, which must neither hang with it nor end with it."""
        try:
            return within(_ANSWER_S, work)
        except Hung:
            raise StemAeError(
                f"The microscope has not answered for {_ANSWER_S:g} s ({self.name}): look at it, then start again."
            ) from None

    def read_configuration(self) -> Document:
        """Return nothing: devices say everything with each reading."""
        return OrderedDict()

    def describe_configuration(self) -> Document:
        """Return nothing."""
        return OrderedDict()

    def _key(self, shape: tuple[int, ...] = (), **more: Any) -> dict[str, Any]:
        return {
            "source": self._instrument.name, "dtype": "array" if shape else "number", "shape": list(shape), **more,
        }  # fmt: skip


class _Recorded(np.ndarray[Any, Any]):
    """An array that says little of itself: bluesky's validation of documents prints every value, and drops the text."""

    def __repr__(self) -> str:
        return f"<array {self.shape}>"


def _values(**values: Any) -> Document:
    now = time.time()
    quiet = {name: v.view(_Recorded) if isinstance(v, np.ndarray) else v for name, v in values.items()}
    return OrderedDict((name, {"value": value, "timestamp": now}) for name, value in quiet.items())


# --- where the beam is, and whether -----------------------------------------------------------------------------------


class Blanker(_Device):
    """Movable to True (blanked) and False: the interlock as a device. A pause blanks."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument, "blanked")
        self.interlock = Interlock.of(instrument)
        """What commands the beam, shared by everything in this process."""

    def set(self, value: bool) -> Operation:
        """Blank (True) or unblank (False) the beam, and read back. After :meth:`shut` unblanking does not happen.

        Raises
        ------
        BeamTaken
            On blanking, if the beam was off already because it was taken away: see :meth:`Interlock.renew`.
        """
        if value:
            self.interlock.blank()
            self.interlock.kept()
            return Operation()
        try:
            self.interlock.unblank()
        except Cancelled:  # the engine will hear shortly that the run has to pause or end
            return Operation(done=False)
        return Operation()

    def shut(self) -> None:
        """Blank the beam and let nothing unblank it until :meth:`unlock`. Returns at once: :meth:`Interlock.stop`."""
        self.interlock.stop()

    def unlock(self) -> None:
        """Let the beam be unblanked again. It stays blanked."""
        self.interlock.reopen()

    def pause(self) -> None:
        """Blank; the plan goes back to its last checkpoint before it exposes anything again."""
        self.interlock.blank()

    def resume(self) -> None:
        """Leave the unblanking to the plan."""

    def read(self) -> Document:  # noqa: D102
        return _values(blanked=int(self._ask(lambda: self._instrument.is_blanked)))

    def describe(self) -> Document:  # noqa: D102
        return OrderedDict(blanked=self._key())


class Probe(_Device):
    """Movable to a place of the scan plane (x, y in Å), or to None: parked by default."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument, "probe")
        self.place: tuple[float, float] | None = None
        self.pauses = 0
        """How often a run was paused: places aimed at before a pause have drifted afterwards."""

    def set(self, value: tuple[float, float] | None) -> Operation:
        """Let the beam rest there."""
        place = None if value is None else checks.place(value, "The probe's place")
        self._ask(lambda: self._instrument.park(place))
        self.place = place
        return Operation()

    def pause(self) -> None:
        """Count."""
        self.pauses += 1

    def resume(self) -> None:
        """Leave it to the plan."""

    def read(self) -> Document:  # noqa: D102
        x, y = self.place or (float("nan"), float("nan"))
        return _values(probe_x=x, probe_y=y)

    def describe(self) -> Document:  # noqa: D102
        return OrderedDict(probe_x=self._key(units="Å"), probe_y=self._key(units="Å"))


class Control(_Device):
    """Movable: one of the instrument's controls, in Å."""

    def __init__(self, instrument: Instrument, name: ControlName) -> None:
        super().__init__(instrument, name)
        self._control: ControlName = name

    @property
    def value(self) -> float:
        """As it is set now, in Å."""
        return self._ask(lambda: self._instrument.get(self._control))

    def set(self, value: float) -> Operation:
        """Set it."""
        wanted = checks.number(value, self.name, unit="Å")
        late = f"The microscope did not set {self.name} in time."
        return Operation(lambda: self._instrument.set(self._control, wanted), 30.0, late)

    def read(self) -> Document:  # noqa: D102
        return _values(**{self.name: self.value})

    def describe(self) -> Document:  # noqa: D102
        return OrderedDict({self.name: self._key(units="Å")})


# --- detectors --------------------------------------------------------------------------------------------------------


class _Cancellable(_Device):
    """Something that takes its time and can be told to stop."""

    def __init__(self, instrument: Instrument, name: str) -> None:
        super().__init__(instrument, name)
        self._cancel = threading.Event()

    def cancel(self) -> None:
        """Stop what is under way."""
        self._cancel.set()

    def _begin(self, seconds: float) -> threading.Event:
        """Take a lease for an operation of so many seconds, and return the event that cancels it."""
        self._cancel = threading.Event()
        Interlock.of(self._instrument).renew(LEASE_TIMES * seconds + LEASE_MORE_S)
        return self._cancel

    def _done(self) -> None:
        """Shorten the lease to the default: the operation has ended."""
        Interlock.of(self._instrument).renew()


class Scan(_Cancellable):
    """Triggerable: scans :attr:`frame`. Movable to another :class:`Frame`."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument, "scan")
        self.frame: Frame | None = None
        self.image: Image | None = None
        """The last one."""
        self.problem = ""
        """Why the last scan is not usable; empty if it is. See :mod:`stem_ae.microscope.usable`."""

    def set(self, value: Frame) -> Operation:
        """Choose what to scan."""
        self.frame = value
        return Operation()

    def trigger(self) -> Operation:
        """Scan one frame. The beam has to be unblanked for it."""
        if self.frame is None:
            raise StemAeError("Say what to scan first: set the scan to a Frame.")
        frame, cancel, self.image, self.problem = self.frame, self._begin(self.frame.seconds), None, ""

        def work() -> None:
            image = self._instrument.scan(frame, cancel)
            self._done()
            self.problem = problem_of(image.data, "The scan", frame.shape)
            self.image = None if self.problem else image

        late = "The scan did not finish: look at the scan unit, or scan by hand once."
        return Operation(work, 1.5 * frame.seconds + 4 * _PATIENCE_S, late)

    def read(self) -> Document:  # noqa: D102
        if self.image is None:
            raise Unusable(self.problem or "Nothing was scanned yet.")
        frame = self.image.frame
        return _values(
            scan=self.image.data, scan_missing=missing(self.image.data), scan_fov=frame.fov,
            scan_dwell_us=frame.dwell_us, scan_rotation=frame.rotation, scan_x=frame.centre[0],
            scan_y=frame.centre[1],
        )  # fmt: skip

    def describe(self) -> Document:  # noqa: D102
        shape = self.image.data.shape if self.image else ()
        return OrderedDict(
            scan=self._key(shape), scan_missing=self._key(), scan_fov=self._key(units="Å"),
            scan_dwell_us=self._key(units="µs"), scan_rotation=self._key(units="rad"), scan_x=self._key(units="Å"),
            scan_y=self._key(units="Å"),
        )  # fmt: skip


class Camera(_Cancellable):
    """Triggerable: one exposure of :attr:`exposure_s` at the place where the beam rests."""

    def __init__(self, instrument: Instrument, name: CameraName) -> None:
        super().__init__(instrument, name)
        self.camera: CameraName = name
        self.exposure_s = 0.02
        self.saturation = float("inf")
        """Counts of a raw pixel that is full, if known; clipping is noticed without it."""
        self.latest: CameraFrame | None = None
        self.problem = ""
        """Why the last frame is not usable; empty if it is. See :mod:`stem_ae.microscope.usable`."""
        self.shape: tuple[int, ...] | None = None
        """Of the run's first exposure: the others have the same."""

    @property
    def is_synchronised(self) -> bool:
        """Whether :class:`CameraScan` works with it."""
        return self._instrument.is_synchronised(self.camera)

    def trigger(self) -> Operation:
        """Expose."""
        exposure_s = checks.positive(self.exposure_s, "The exposure", checks.MOST_S, "s")
        cancel, self.latest, self.problem = self._begin(exposure_s), None, ""

        def work() -> None:
            frame = self._instrument.expose(self.camera, exposure_s, cancel)
            self._done()
            self.problem = problem_of_camera(frame, self.name, self.shape)
            if not self.problem:
                self.refuse_saturated(frame)
                self.latest, self.shape = frame, frame.data.shape

        late = (
            f"The {self.name} camera did not answer within {exposure_s + _PATIENCE_S:.1f} s: look at the camera, then "
            "start again."
        )
        return Operation(work, exposure_s + _PATIENCE_S, late)

    def refuse_saturated(self, frame: CameraFrame) -> None:
        """Raise ``StemAeError`` if pixels are full."""
        is_clipped = frame.largest >= _CLIPPED_FROM and frame.clipped >= _CLIPPED
        if frame.largest >= self.saturation or is_clipped:
            raise StemAeError(
                f"The {self.name} camera is saturated ({frame.largest:.0f} counts in a pixel): use a shorter exposure "
                f"than {frame.exposure_s:g} s or less beam current."
            )

    def read(self) -> Document:  # noqa: D102
        if self.latest is None:
            raise Unusable(self.problem or f"The {self.name} camera has not exposed anything yet.")
        return _values(**{self.name: self.latest.data, f"{self.name}_missing": missing(self.latest.data)})

    def describe(self) -> Document:  # noqa: D102
        frame = self.latest
        described = self._key(frame.data.shape, calibration=_calibration(frame)) if frame else self._key()
        return OrderedDict({self.name: described, f"{self.name}_missing": self._key()})


class CameraScan(_Cancellable):
    """Triggerable: scans :attr:`frame` with an exposure of a camera at each pixel. Read row by row, see :attr:`row`.

    The camera clocks the beam, which no message for each point could do as fast.
    """

    def __init__(self, instrument: Instrument, camera: Camera) -> None:
        super().__init__(instrument, f"{camera.name}_scan")
        self._camera = camera
        self.frame: Frame | None = None
        self.latest: CameraFrame | None = None
        self.problem = ""
        """Why the last frame is not usable; empty if it is. See :mod:`stem_ae.microscope.usable`."""
        self.row = 0
        """Which row of the frame is read."""

    def set(self, value: Frame) -> Operation:
        """Choose what to scan."""
        self.frame = value
        return Operation()

    def trigger(self) -> Operation:
        """Scan, and expose at every pixel. The beam has to be unblanked for it."""
        if self.frame is None:
            raise StemAeError("Say what to scan first: set the camera's scan to a Frame.")
        exposure_s = checks.positive(self._camera.exposure_s, "The exposure", checks.MOST_S, "s")
        frame, camera = self.frame, self._camera
        needed_s = 2 * frame.shape[0] * (frame.shape[1] + 2) * exposure_s  # the camera's own pauses, and flying back
        cancel, self.latest, self.problem = self._begin(needed_s), None, ""

        def work() -> None:
            frames = self._instrument.expose_scan(camera.camera, frame, exposure_s, cancel)
            self._done()
            shape = None if camera.shape is None else (*frame.shape, *camera.shape)
            self.problem = problem_of_camera(frames, camera.name, shape, frame.shape)
            if not self.problem:
                camera.refuse_saturated(frames)
                self.latest, camera.shape = frames, frames.data.shape[2:]

        late = f"The {self._camera.name} camera and the scan did not finish: look at both, then start again."
        return Operation(work, needed_s + 4 * _PATIENCE_S, late)

    def pause(self) -> None:
        """Cancel: the plan scans anew."""
        self.cancel()

    def resume(self) -> None:
        """Leave it to the plan."""

    def _row(self) -> tuple[Frame, CameraFrame]:
        if self.frame is None or self.latest is None:
            raise Unusable(self.problem or f"The {self._camera.name} camera has not scanned anything yet.")
        return self.frame, dataclasses.replace(self.latest, data=self.latest.data[self.row])

    def read(self) -> Document:  # noqa: D102
        frame, exposures = self._row()
        columns = np.arange(frame.shape[1])
        x, y = frame.pixels_to_plane(np.stack([np.full_like(columns, self.row), columns], axis=-1)).T
        name, data = self._camera.name, exposures.data
        return _values(probe_x=x, probe_y=y, **{name: data, f"{name}_missing": missing(data)})

    def describe(self) -> Document:  # noqa: D102
        frame, exposures = self._row()
        places = {name: self._key((frame.shape[1],), units="Å") for name in ("probe_x", "probe_y")}
        name, described = self._camera.name, self._key(exposures.data.shape, calibration=_calibration(exposures))
        return OrderedDict(**places, **{name: described, f"{name}_missing": self._key()})


def _calibration(frame: CameraFrame) -> dict[str, Any]:
    return {"offset": frame.offset, "scale": frame.scale, "unit": frame.unit, "exposure_s": frame.exposure_s}


class Exposure(_Cancellable):
    """Triggerable: lets the beam rest where the probe is, hands every dark-field reading on, and ends when told to.

    The loop that reacts in milliseconds is inside this one operation. It blanks before it ends, whatever happens.
    """

    def __init__(self, instrument: Instrument, blanker: Blanker) -> None:
        super().__init__(instrument, "exposure")
        self._blanker = blanker
        self.reading_s = 1e-3
        self.timeout_s = 10.0
        self.decide: Callable[[Reading], bool] = lambda reading: False
        """Given each reading in the operation's thread; True ends the exposure at once."""
        self.readings: list[Reading] = []
        """Of the last exposure."""
        self.ended_by = ""
        """``"decision"``, ``"timeout"``, ``"cancelled"`` or ``"unusable"``."""
        self.problem = ""
        """Why the readings are not usable; empty if they are. See :mod:`stem_ae.microscope.usable`."""

    def trigger(self) -> Operation:
        """Unblank, read until the decision, the timeout or :meth:`cancel`, and blank."""
        checks.positive(self.timeout_s, "The longest exposure", checks.MOST_S, "s")
        checks.positive(self.reading_s, "The length of a reading", checks.MOST_S, "s")
        cancel = self._begin(self.reading_s)
        late = "The exposure did not end by itself: look at the detector, then start again."
        return Operation(lambda: self._expose(cancel), self.timeout_s + _PATIENCE_S, late)

    def _expose(self, cancel: threading.Event) -> None:
        self.readings, self.ended_by, self.problem = [], "cancelled", ""
        end = time.monotonic() + self.timeout_s
        try:
            if not self._blanker.set(False).done:
                return
            while not cancel.is_set() and time.monotonic() < end:
                self._blanker.interlock.renew(self.reading_s + LEASE_MORE_S)
                reading = self._instrument.read_dark_field(self.reading_s, cancel)
                self.readings.append(reading)
                self.problem = problem_of_reading(reading)
                if self.problem or self.decide(reading):
                    self._blanker.set(True)
                    self.ended_by = "decision"
                    break
            else:
                self.ended_by = "cancelled" if cancel.is_set() else "timeout"
        finally:
            self._blanker.set(True)
        self.problem = self.problem or problem_of_readings(self.readings)
        if self.problem and self.ended_by != "cancelled":
            self.ended_by = "unusable"

    def pause(self) -> None:
        """Cancel: the plan exposes anew."""
        self.cancel()

    def resume(self) -> None:
        """Leave it to the plan."""

    def read(self) -> Document:  # noqa: D102
        return _values(
            exposure_counts=np.array([r.counts for r in self.readings]),
            exposure_times=np.array([r.exposure_s for r in self.readings]),
            exposure_ended_by=self.ended_by,
        )

    def describe(self) -> Document:  # noqa: D102
        shape = (len(self.readings),)
        return OrderedDict(
            exposure_counts=self._key(shape), exposure_times=self._key(shape, units="s"),
            exposure_ended_by={"source": self._instrument.name, "dtype": "string", "shape": []},
        )  # fmt: skip


class NotRegistered(StemAeError):  # noqa: N818  (the specimen's doing)
    """The position of the specimen cannot be measured in the scans; the message says why."""

    def __init__(self, sentence: str, is_weak: bool = False) -> None:
        super().__init__(f"The drift cannot be read from these scans: {sentence}")
        self.is_weak = is_weak
        """Whether another scan may help, since scans are summed."""


class Drift(_Device):
    """Where the specimen has moved since the reference, from re-scans of one frame. Readable, movable to an image.

    Give each re-scan to :meth:`add`; :meth:`at` predicts the drift. A scan that shows less than it has to is kept, and
    added to the next ones, until together they show enough.
    """

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument, "drift")
        self.fastest = FASTEST
        """Å/s: how fast the specimen may drift, a standard deviation; what the scans say soon counts for more."""
        self.clock: Callable[[], float] = time.monotonic
        """Returns the present moment in the seconds of :attr:`Image.clock_s`."""
        self.registration: Registration | None = None
        """The registration of the last re-scan with the reference."""
        self.refusal: NotRegistered | None = None
        """Why the last image that this was moved to could not be registered; None if it was."""
        self.reset()

    def reset(self) -> None:
        """Forget the reference: the next image is the new one."""
        self._reference: Image | None = None
        self._track: list[Find] = []
        self._moving: tuple[list[Find], Motion] | None = None  # and what it says
        self._kept: list[Image] = []
        self._repeat = 0.0
        self.registration, self.refusal = None, None

    def set(self, value: Image) -> Operation:
        """Register an image in another thread, since a large one takes a second. Check :attr:`refusal` afterwards."""
        self.refusal = None

        def work() -> None:
            try:
                self.add(value)
            except NotRegistered as error:
                self.refusal = error

        return Operation(work, _LONGEST_REGISTRATION_S, "The drift could not be computed in time.")

    def add(self, image: Image) -> tuple[float, float]:
        """Take an image in and return the drift (x, y in Å) that it shows; the first one is the reference.

        Its frame may be moved after the specimen, so that both show the same part of it however far it has gone.

        Raises
        ------
        NotRegistered
            If the drift cannot be read from it: the scans show nothing in common, or the specimen repeats itself and
            may have moved by half a period unseen. Another scan may help.
        StemAeError
            If it is not of the reference's frame, moved or not, or has no time.
        """
        checks.number(image.clock_s, "The time of an image", unit="s")
        if problem := problem_of(image.data, "The scan"):
            raise NotRegistered(problem[0].lower() + problem[1:])
        if self._reference is None:
            self._reference = image
            self._learn(image, (0.0, 0.0), _DISTORTION)
            return 0.0, 0.0
        self._check_frame(image)
        found = self._register(image)
        self.registration = found
        row, column = found.shift
        moved = image.frame.pixels_to_plane((row, column)) - self._reference.frame.pixels_to_plane((0.0, 0.0))
        self._repeat = found.repeat * image.frame.sampling[0]
        error = math.hypot(found.deviation * image.frame.sampling[0], _DISTORTION)
        self._learn(image, (float(moved[0]), float(moved[1])), error)
        return self._track[-1][1], self._track[-1][2]

    def _check_frame(self, image: Image) -> None:
        assert self._reference is not None
        frame, first = image.frame, self._reference.frame
        if dataclasses.replace(frame, centre=first.centre) != first:
            raise StemAeError("Drift is measured with one and the same frame: reset before another one is used.")

    def _register(self, image: Image) -> Registration:
        """Register an image, with those before it that did not show enough; raises NotRegistered."""
        assert self._reference is not None
        time_s = self._time_of(image)
        self._kept = [
            kept for kept in self._kept
            if kept.frame == image.frame and 0 <= time_s - self._time_of(kept) < _TOGETHER_S
        ] + [image]  # fmt: skip
        expected = self._motion().at(time_s)
        sampling = image.frame.sampling[0]
        origin = self._reference.frame.pixels_to_plane((0.0, 0.0)) + expected.place
        column, row = image.frame.from_plane(origin) / sampling
        deviation = math.hypot(expected.deviation, _TOLERANCE) / sampling
        together = np.mean([kept.data for kept in self._kept], axis=0)
        found = register(self._reference.data, together, (float(row), float(column)), deviation, len(self._kept))
        if found.is_weak:
            raise NotRegistered(
                f"{len(self._kept)} of them together have nothing in common with the first one above the noise "
                f"({found.strength:.1f} of {STRENGTH:g} standard deviations). Scan slower or where more is to be seen, "
                "or do not follow the drift.", is_weak=True,
            )  # fmt: skip
        if found.is_doubtful:
            self._kept = []  # noise is not the cause
            period = found.repeat * sampling
            shown = f"what they show repeats every {period:.1f} Å" if math.isfinite(period) else "they fit several ways"
            raise NotRegistered(
                f"{shown}, and the specimen, last seen {time_s - self._track[-1][0]:.1f} s ago, may be anywhere within "
                f"{2 * deviation * sampling:.1f} Å. Scan it again more often, or take a new survey."
            )
        self._kept = []
        return found

    @staticmethod
    def _time_of(image: Image) -> float:
        """Return when the middle of an image was exposed: half a frame ago."""
        return image.clock_s - image.frame.seconds / 2

    def _learn(self, image: Image, place: tuple[float, float], error: float) -> None:
        self._track = [*self._track, (self._time_of(image), *place, error)][-_LAST_FINDS:]

    def _motion(self) -> Motion:
        if self._moving is None or self._moving[0] is not self._track:
            self._moving = self._track, Motion.of(self._track, self.fastest)
        return self._moving[1]

    def at(self, time_s: float | None = None) -> tuple[float, float]:
        """Return the drift (x, y in Å) at a time (of ``time.monotonic()``, like :attr:`Image.clock_s`); None: now.

        At most twice as far ahead as the finds reach back, and never further back than the last one.

        Raises
        ------
        StemAeError
            If the time is NaN or infinite.
        """
        if time_s is not None:
            checks.number(time_s, "The time for which the drift is wanted", unit="s")
        if not self._track:
            return 0.0, 0.0
        first, last = self._track[0][0], self._track[-1][0]
        latest = last + _FARTHEST_AHEAD * max(last - first, 0.0)
        time_s = self.clock() if time_s is None else time_s
        x, y = self._motion().at(min(max(time_s, last), latest)).place.tolist()
        return x, y

    @property
    def last(self) -> tuple[float, float]:
        """Where the specimen was last found: x and y in Å."""
        return (self._track[-1][1], self._track[-1][2]) if self._track else (0.0, 0.0)

    @property
    def was_surprising(self) -> bool:
        """Whether the specimen was found where it was not expected: look again before anything relies on it."""
        return len(self._track) > 1 and self._motion().was_surprising

    @property
    def may_be_lost(self) -> bool:
        """Whether a periodic specimen may have moved nearly so far that it looks the same again."""
        if not self._track or not self._repeat > 0:
            return False
        return _CERTAIN * self._motion().at(self.clock()).deviation > self._repeat / 2

    def read(self) -> Document:  # noqa: D102
        x, y = self.last
        strength = self.registration.strength if self.registration else math.nan
        return _values(drift_x=x, drift_y=y, drift_strength=strength)

    def describe(self) -> Document:  # noqa: D102
        return OrderedDict(drift_x=self._key(units="Å"), drift_y=self._key(units="Å"), drift_strength=self._key())


class Note(_Device):
    """Readable: whatever the plan wants to have in an event. One per stream: bluesky tells devices apart by identity.

    Parameters
    ----------
    instrument : Instrument
    name : str
    values : callable
        Returns numbers, arrays or words by name, when the event is made.
    """

    def __init__(self, instrument: Instrument, name: str, values: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__(instrument, name)
        self.values = values

    def read(self) -> Document:  # noqa: D102
        return _values(**self.values())

    def describe(self) -> Document:  # noqa: D102
        return OrderedDict((name, self._described(value)) for name, value in self.values().items())

    def _described(self, value: Any) -> dict[str, Any]:
        return self._key() | {"dtype": "string"} if isinstance(value, str) else self._key(np.shape(value))


# --- together ---------------------------------------------------------------------------------------------------------


class Guard(_Device):
    """Movable to True: the run has the microscope; to False: the microscope is safe and the user's again.

    "Safe" is: beam blanked, everything cancelled, probe parked, the user's scan settings back.
    """

    def __init__(self, instrument: Instrument, microscope: Microscope) -> None:
        super().__init__(instrument, "guard")
        self._microscope = microscope
        self.complaint = ""
        """What could not be done when the microscope was given back; it must not hide why the run has ended."""

    def set(self, value: bool) -> Operation:
        """Take the microscope, or give it back."""
        self.complaint = ""
        if value:
            return Operation(self._instrument.hold, 10.0, "The scan could not be stopped: stop it by hand.")
        return Operation(self._give_back, _SECURE_S, "The microscope could not be given back in time.")

    def _give_back(self) -> None:
        try:
            self._microscope.secure()
        except StemAeError as error:
            self.complaint = str(error)

    def read(self) -> Document:  # noqa: D102
        return OrderedDict()

    def describe(self) -> Document:  # noqa: D102
        return OrderedDict()


class Suspension:
    """Why a run is suspended, and for how long it waits."""

    def __init__(self) -> None:
        self.patience_s = 20.0
        """Seconds after which the run ends as failed."""
        self.changed: Callable[[], object] = lambda: None
        """Called, in any thread, when :attr:`reason` changes."""
        self.note: Note | None = None
        """What writes it into the documents; one for each run."""
        self._reason = ""

    @property
    def reason(self) -> str:
        """A sentence; empty while the run is not suspended."""
        return self._reason

    @reason.setter
    def reason(self, reason: str) -> None:
        is_news, self._reason = reason != self._reason, reason
        if is_news:
            self.changed()


class Microscope:
    """All devices of one instrument."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self.blanker = Blanker(instrument)
        self.interlock = self.blanker.interlock
        """The state of the beam, and the alarm: shared with whoever else works with this instrument."""
        self.probe = Probe(instrument)
        self.scan = Scan(instrument)
        self.eels = Camera(instrument, "eels")
        self.diffraction = Camera(instrument, "diffraction")
        self.eels_scan, self.diffraction_scan = (CameraScan(instrument, c) for c in (self.eels, self.diffraction))
        self.exposure = Exposure(instrument, self.blanker)
        self.drift = Drift(instrument)
        self.defocus = Control(instrument, "defocus")
        self.astigmatism = (Control(instrument, "astigmatism_x"), Control(instrument, "astigmatism_y"))
        self.stage = (Control(instrument, "stage_x"), Control(instrument, "stage_y"))
        self.beam_shift = (Control(instrument, "shift_x"), Control(instrument, "shift_y"))
        self.guard = Guard(instrument, self)
        self.suspension = Suspension()
        self.interlock.cancels(self.cancel)

    def camera(self, name: str) -> Camera:
        """Return a camera by its name, ``"eels"`` or ``"diffraction"``."""
        cameras = {camera.name: camera for camera in (self.eels, self.diffraction)}
        if name not in cameras:
            raise StemAeError(f"There is no camera {name!r}: choose {' or '.join(cameras)}.")
        return cameras[name]

    def begin(self) -> None:
        """Forget the last run: the shape of its frames and its suspension."""
        self.eels.shape = self.diffraction.shape = None
        self.suspension.reason, self.suspension.note = "", None

    def cancel(self) -> None:
        """Cancel what is under way. The interlock does so at every stop and alarm."""
        scans = (self.scan, self.eels_scan, self.diffraction_scan)
        for device in (self.eels, self.diffraction, self.exposure, *scans):
            device.cancel()

    def secure(self) -> None:
        """Leave the microscope safe: beam blanked, probe parked, the user's settings restored. Can be repeated.

        Every step is tried, whatever fails before it, and waited for no longer than some seconds.

        Raises
        ------
        BeamAlarm
            If the beam is not read as blanked at the end.
        StemAeError
            Whatever else failed, a sentence each.
        """
        steps: dict[str, Callable[[], object]] = {
            "": self.interlock.blank,  # its alarm says enough
            "What was under way could not be cancelled": self.cancel,
            "The probe could not be parked": lambda: self.probe.set(None),
            "The scan's settings could not be restored": self.instrument.release,
            "The beam could not be checked": self._check_blanked,
        }
        failures: list[str] = []
        alarm: BeamAlarm | None = None
        for sentence, step in steps.items():
            try:
                within(_STEP_S, step)
            except BeamAlarm as error:
                alarm = error
            except StemAeError as error:
                failures.append(str(error))
            except Hung:
                failures.append(f"{sentence}: the microscope does not answer.")
            except Exception as error:  # whatever it is, the next step is tried as well
                failures.append(f"{sentence}: {str(error) or type(error).__name__}.")
        if alarm is not None:
            raise BeamAlarm(" ".join([self.interlock.alarm or str(alarm), *failures])) from alarm
        if failures:
            raise StemAeError(" ".join(dict.fromkeys(failures)))

    def _check_blanked(self) -> None:
        if self.interlock.read() != "blanked":
            self.interlock.blank()
