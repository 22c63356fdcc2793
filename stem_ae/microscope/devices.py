"""The microscope's devices in bluesky's terms (``bluesky.protocols``): what plans move, trigger and read.

They hold no knowledge of an instrument's make; :class:`Microscope` builds them on any
:class:`~stem_ae.microscope.instrument.Instrument`.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.microscope.deadline import Hung, within
from stem_ae.microscope.frame import CameraFrame, Frame, Image, Reading
from stem_ae.microscope.instrument import CameraName, Cancelled, ControlName, Instrument
from stem_ae.microscope.interlock import LEASE_MORE_S, LEASE_TIMES, BeamAlarm, Interlock
from stem_ae.microscope.registration import shift_between

Document = OrderedDict[str, dict[str, Any]]

_STEP_S = 8.0  # for one step of giving the microscope back; the blanker's own deadlines are shorter
_SECURE_S = 30.0
_PATIENCE_S = 3.0  # beyond what an operation needs by itself
_FARTHEST_AHEAD = 2.0  # drift is predicted, in times between its last two measurements
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
        """Say what went wrong: documents have this as the reason of a run that failed."""
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
        """What commands the beam, for everybody in this process."""

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
        except Cancelled:  # the engine is about to hear that the run is to wait or to end
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
        return _values(blanked=int(self._instrument.is_blanked))

    def describe(self) -> Document:  # noqa: D102
        return OrderedDict(blanked=self._key())


class Probe(_Device):
    """Movable to a place of the scan plane (x, y in Å), or to None: parked by default."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument, "probe")
        self.place: tuple[float, float] | None = None

    def set(self, value: tuple[float, float] | None) -> Operation:
        """Let the beam rest there."""
        place = None if value is None else checks.place(value, "The probe's place")
        self._instrument.park(place)
        self.place = place
        return Operation()

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
        return self._instrument.get(self._control)

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
        """Return what cancels the operation that begins; it needs the beam for so many seconds."""
        self._cancel = threading.Event()
        Interlock.of(self._instrument).renew(LEASE_TIMES * seconds + LEASE_MORE_S)
        return self._cancel

    def _done(self) -> None:
        """Need the beam for no longer than it takes to blank it."""
        Interlock.of(self._instrument).renew()


class Scan(_Cancellable):
    """Triggerable: scans :attr:`frame`. Movable to another :class:`Frame`."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument, "scan")
        self.frame: Frame | None = None
        self.image: Image | None = None
        """The last one."""

    def set(self, value: Frame) -> Operation:
        """Choose what to scan."""
        self.frame = value
        return Operation()

    def trigger(self) -> Operation:
        """Scan one frame. The beam has to be unblanked for it."""
        if self.frame is None:
            raise StemAeError("Say what to scan first: set the scan to a Frame.")
        frame, cancel, self.image = self.frame, self._begin(self.frame.seconds), None

        def work() -> None:
            self.image = self._instrument.scan(frame, cancel)
            self._done()

        late = "The scan did not finish: look at the scan unit, or scan by hand once."
        return Operation(work, 1.5 * frame.seconds + 4 * _PATIENCE_S, late)

    def read(self) -> Document:  # noqa: D102
        if self.image is None:
            raise StemAeError("Nothing was scanned yet.")
        frame = self.image.frame
        return _values(
            scan=self.image.data, scan_fov=frame.fov, scan_dwell_us=frame.dwell_us, scan_rotation=frame.rotation,
            scan_x=frame.centre[0], scan_y=frame.centre[1],
        )  # fmt: skip

    def describe(self) -> Document:  # noqa: D102
        shape = self.image.data.shape if self.image else ()
        return OrderedDict(
            scan=self._key(shape), scan_fov=self._key(units="Å"), scan_dwell_us=self._key(units="µs"),
            scan_rotation=self._key(units="rad"), scan_x=self._key(units="Å"), scan_y=self._key(units="Å"),
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

    @property
    def is_synchronised(self) -> bool:
        """Whether :class:`CameraScan` works with it."""
        return self._instrument.is_synchronised(self.camera)

    def trigger(self) -> Operation:
        """Expose."""
        exposure_s = checks.positive(self.exposure_s, "The exposure", checks.MOST_S, "s")
        cancel, self.latest = self._begin(exposure_s), None

        def work() -> None:
            frame = self._instrument.expose(self.camera, exposure_s, cancel)
            self._done()
            self.refuse_saturated(frame)
            self.latest = frame

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
            raise StemAeError(f"The {self.name} camera has not exposed anything yet.")
        return _values(**{self.name: self.latest.data})

    def describe(self) -> Document:  # noqa: D102
        frame = self.latest
        if frame is None:
            return OrderedDict({self.name: self._key()})
        return OrderedDict({self.name: self._key(frame.data.shape, calibration=_calibration(frame))})


class CameraScan(_Cancellable):
    """Triggerable: scans :attr:`frame` with an exposure of a camera at each pixel. Read row by row, see :attr:`row`.

    The camera clocks the beam, which no message for each point could do as fast.
    """

    def __init__(self, instrument: Instrument, camera: Camera) -> None:
        super().__init__(instrument, f"{camera.name}_scan")
        self._camera = camera
        self.frame: Frame | None = None
        self.latest: CameraFrame | None = None
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
        frame = self.frame
        needed_s = 2 * frame.shape[0] * (frame.shape[1] + 2) * exposure_s  # the camera's own pauses, and flying back
        cancel, self.latest = self._begin(needed_s), None

        def work() -> None:
            frames = self._instrument.expose_scan(self._camera.camera, frame, exposure_s, cancel)
            self._done()
            self._camera.refuse_saturated(frames)
            self.latest = frames

        late = f"The {self._camera.name} camera and the scan did not finish: look at both, then start again."
        return Operation(work, needed_s + 4 * _PATIENCE_S, late)

    def pause(self) -> None:
        """Cancel: the plan scans anew."""
        self.cancel()

    def resume(self) -> None:
        """Leave it to the plan."""

    def _row(self) -> tuple[Frame, CameraFrame]:
        if self.frame is None or self.latest is None:
            raise StemAeError(f"The {self._camera.name} camera has not scanned anything yet.")
        return self.frame, dataclasses.replace(self.latest, data=self.latest.data[self.row])

    def read(self) -> Document:  # noqa: D102
        frame, exposures = self._row()
        columns = np.arange(frame.shape[1])
        x, y = frame.pixels_to_plane(np.stack([np.full_like(columns, self.row), columns], axis=-1)).T
        return _values(probe_x=x, probe_y=y, **{self._camera.name: exposures.data})

    def describe(self) -> Document:  # noqa: D102
        frame, exposures = self._row()
        places = {name: self._key((frame.shape[1],), units="Å") for name in ("probe_x", "probe_y")}
        return OrderedDict(
            **places, **{self._camera.name: self._key(exposures.data.shape, calibration=_calibration(exposures))}
        )


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
        """``"decision"``, ``"timeout"`` or ``"cancelled"``."""

    def trigger(self) -> Operation:
        """Unblank, read until the decision, the timeout or :meth:`cancel`, and blank."""
        checks.positive(self.timeout_s, "The longest exposure", checks.MOST_S, "s")
        checks.positive(self.reading_s, "The length of a reading", checks.MOST_S, "s")
        cancel = self._begin(self.reading_s)
        late = "The exposure did not end by itself; the beam is blanked."
        return Operation(lambda: self._expose(cancel), self.timeout_s + _PATIENCE_S, late)

    def _expose(self, cancel: threading.Event) -> None:
        self.readings, self.ended_by = [], "cancelled"
        end = time.monotonic() + self.timeout_s
        try:
            if not self._blanker.set(False).done:
                return
            while not cancel.is_set() and time.monotonic() < end:
                self._blanker.interlock.renew(self.reading_s + LEASE_MORE_S)
                reading = self._instrument.read_dark_field(self.reading_s, cancel)
                self.readings.append(reading)
                if self.decide(reading):
                    self._blanker.set(True)
                    self.ended_by = "decision"
                    return
            self.ended_by = "cancelled" if cancel.is_set() else "timeout"
        finally:
            self._blanker.set(True)

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


class Drift(_Device):
    """Where the specimen has moved since the reference, from re-scans of one frame. Readable.

    Give each re-scan to :meth:`add`; :meth:`at` predicts the drift from the last ones.
    """

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument, "drift")
        self._reference: Image | None = None
        self._track: list[tuple[float, float, float]] = []

    def reset(self) -> None:
        """Forget the reference: the next image is the new one."""
        self._reference, self._track = None, []

    def add(self, image: Image) -> tuple[float, float]:
        """Take an image in and return the drift (x, y in Å) that it shows; the first one is the reference.

        Its frame may be moved after the specimen, so that both show the same part of it however far it has gone.

        Raises
        ------
        StemAeError
            If it is not of the reference's frame, moved or not.
        """
        if self._reference is None:
            self._reference = image
        frame, first = image.frame, self._reference.frame
        if dataclasses.replace(frame, centre=first.centre) != first:
            raise StemAeError("Drift is measured with one and the same frame: reset before another one is used.")
        row, column = shift_between(self._reference.data, image.data)
        moved = frame.pixels_to_plane((row, column)) - first.pixels_to_plane((0.0, 0.0))
        # The middle of the frame was exposed half a frame ago.
        self._track.append((image.clock_s - frame.seconds / 2, float(moved[0]), float(moved[1])))
        return self._track[-1][1], self._track[-1][2]

    def at(self, time_s: float) -> tuple[float, float]:
        """Return the drift (x, y in Å) at a time (seconds of ``time.monotonic()``, like :attr:`Image.clock_s`).

        A line through the last two measurements, no further ahead than twice the time between them: two that lie close
        together say little of the velocity. No further back than the earlier one, either.
        """
        if not self._track:
            return 0.0, 0.0
        (t0, x0, y0), (t1, x1, y1) = self._track[-2] if len(self._track) > 1 else self._track[-1], self._track[-1]
        ahead = min(max((time_s - t1) / (t1 - t0), -1.0), _FARTHEST_AHEAD) if t1 > t0 else 0.0
        return x1 + ahead * (x1 - x0), y1 + ahead * (y1 - y0)

    def read(self) -> Document:  # noqa: D102
        x, y = self._track[-1][1:] if self._track else (0.0, 0.0)
        return _values(drift_x=x, drift_y=y)

    def describe(self) -> Document:  # noqa: D102
        return OrderedDict(drift_x=self._key(units="Å"), drift_y=self._key(units="Å"))


class Note(_Device):
    """Readable: whatever the plan wants to have in an event. One per stream: bluesky tells devices apart by identity.

    Parameters
    ----------
    instrument : Instrument
    name : str
    values : callable
        Returns numbers or arrays by name, when the event is made.
    """

    def __init__(self, instrument: Instrument, name: str, values: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__(instrument, name)
        self._values = values

    def read(self) -> Document:  # noqa: D102
        return _values(**self._values())

    def describe(self) -> Document:  # noqa: D102
        return OrderedDict((name, self._key(np.shape(value))) for name, value in self._values().items())


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
        self.interlock.cancels(self.cancel)

    def camera(self, name: str) -> Camera:
        """Return a camera by its name, ``"eels"`` or ``"diffraction"``."""
        cameras = {camera.name: camera for camera in (self.eels, self.diffraction)}
        if name not in cameras:
            raise StemAeError(f"There is no camera {name!r}: choose {' or '.join(cameras)}.")
        return cameras[name]

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
