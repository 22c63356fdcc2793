"""Nion Swift's instrument as the :class:`~stem_ae.microscope.instrument.Instrument` that the devices ask for.

The kit's ways that matter here, all measured: a camera frame fetched with ``get_next_xdatas_to_finish`` was exposed at
the *previous* probe position, one acquired as a sequence of one begins after the call; ``record_immediate`` does not
move the scan context in which the probe is parked, the current frame parameters do; positions outside the context are
moved to its edge without a word.
"""

from __future__ import annotations

import contextlib
import copy
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from nion.instrumentation import camera_base, scan_base, stem_controller
from nion.utils import Geometry, Registry
from numpy.typing import NDArray

from stem_ae.errors import StemAeError
from stem_ae.imaging.scan_field import ScanField
from stem_ae.microscope.frame import CameraFrame, Frame, Image, Reading
from stem_ae.microscope.instrument import CameraName, Cancelled, ControlName

_ANGSTROM_PER_NM = 10.0
_METRES = 1e-10  # per Å
_CONTROLS: dict[ControlName, str] = {
    "defocus": "C10", "astigmatism_x": "C12.x", "astigmatism_y": "C12.y", "stage_x": "stage_position_m.x",
    "stage_y": "stage_position_m.y", "shift_x": "CSH.x", "shift_y": "CSH.y",
}  # fmt: skip
_BUSY_S = 3.0  # for an operation that was cancelled to let go
_MICRO_SCAN_PIXELS, _MICRO_SCAN_A = 8, 0.2


class SwiftInstrument:
    """The instrument that Swift controls.

    Parameters
    ----------
    blanker_settle_s : float
        How long the beam needs after it was unblanked; the plan's exposures begin after that.

    Raises
    ------
    StemAeError
        If Swift has no STEM instrument with a scan.
    """

    def __init__(self, blanker_settle_s: float = 0.0) -> None:
        stem = Registry.get_component("stem_controller")
        if stem is None or stem.scan_controller is None:
            raise StemAeError("Swift controls no microscope with a scan: connect one, or start the simulated one.")
        self._stem: stem_controller.STEMController = stem
        self._scan: scan_base.ScanHardwareSource = stem.scan_controller
        self._blanker_settle_s = blanker_settle_s
        self.name = str(getattr(stem, "instrument_id", "") or self._scan.hardware_source_id)
        self._busy = threading.Lock()
        self._held: dict[Any, Any] | None = None
        self._played: list[Any] = []

    # --- the beam ---------------------------------------------------------------------------------------------------

    @property
    def is_blanked(self) -> bool:
        """Whether the beam is kept from the specimen."""
        return bool(self._stem.GetVal("C_Blank"))

    def blank(self, blanked: bool) -> None:
        """Blank or unblank the beam."""
        if not self._stem.SetVal("C_Blank", float(blanked)):
            raise StemAeError("The beam could not be blanked or unblanked: use the microscope's own button.")
        if not blanked and self._blanker_settle_s:
            time.sleep(self._blanker_settle_s)

    def park(self, place: tuple[float, float] | None) -> None:
        """Let the beam rest at a place of the scan plane, which has to lie inside the last frame."""
        if place is None:
            self._scan.probe_position = None
            return
        x, y = self._context().to_fraction(place).tolist()
        edge = 1e-6
        if not (-edge <= x <= 1 + edge and -edge <= y <= 1 + edge):
            raise StemAeError(
                f"The place ({place[0]:.1f}, {place[1]:.1f}) Å lies outside the last scan: take a new survey image."
            )
        self._scan.probe_position = Geometry.FloatPoint(y=y, x=x)

    def _context(self) -> ScanField:
        context = self._stem.scan_context
        pixel = context.fov_nm * _ANGSTROM_PER_NM / max(context.size)
        centre = context.center_nm * _ANGSTROM_PER_NM
        size = (context.size.width * pixel, context.size.height * pixel)
        return ScanField(size, (centre.x, centre.y), context.rotation_rad)

    # --- scanning ---------------------------------------------------------------------------------------------------

    def user_frame(self) -> Frame:
        """Return what the user's scan is set to."""
        p = self._scan.get_current_frame_parameters()
        centre = p.center_nm * _ANGSTROM_PER_NM
        return Frame(
            p.fov_nm * _ANGSTROM_PER_NM, (p.pixel_size.height, p.pixel_size.width), p.pixel_time_us,
            (centre.x, centre.y), p.rotation_rad,
        )  # fmt: skip

    def scan(self, frame: Frame, cancel: threading.Event) -> Image:
        """Scan one frame of the first enabled channel."""
        with self._exclusively("scan"):
            parameters = self._parameters(frame)
            if frame.within is None:
                self._scan.set_current_frame_parameters(parameters)  # the probe is parked in this field from now on
            with _watch(cancel, lambda: self._scan.abort_recording()):
                frames = self._scan.record_immediate(parameters)
            end = time.time()
        data = frames[0].data if frames and frames[0] is not None else None
        if cancel.is_set():
            raise Cancelled("The scan was cancelled.")
        if data is None or data.shape != frame.shape:
            raise StemAeError("The scan was stopped before its frame was complete: start again, and let it finish.")
        return Image(frame, np.asarray(data, dtype=np.float32).copy(), end)

    def _parameters(self, frame: Frame) -> scan_base.ScanFrameParameters:
        whole = frame.within or frame
        p = copy.deepcopy(self._scan.get_current_frame_parameters())
        p.pixel_size = Geometry.IntSize(*whole.shape)
        p.fov_nm = whole.fov / _ANGSTROM_PER_NM
        p.center_nm = Geometry.FloatPoint(y=whole.centre[1], x=whole.centre[0]) / _ANGSTROM_PER_NM
        p.rotation_rad = whole.rotation
        p.pixel_time_us = frame.dwell_us
        p.subscan_pixel_size = p.subscan_fractional_size = p.subscan_fractional_center = None
        p.subscan_rotation = 0.0
        if frame.within is not None:
            x, y = whole.field.to_fraction(frame.centre).tolist()
            width, height = np.divide(frame.field.fov, whole.field.fov).tolist()
            p.subscan_pixel_size = Geometry.IntSize(*frame.shape)
            p.subscan_fractional_size = Geometry.FloatSize(h=height, w=width)
            p.subscan_fractional_center = Geometry.FloatPoint(y=y, x=x)
        return p

    # --- cameras ----------------------------------------------------------------------------------------------------

    def expose(self, camera: CameraName, exposure_s: float, cancel: threading.Event) -> CameraFrame:
        """Return one exposure, begun after the call: spectra summed over the camera's rows."""
        source = self._camera(camera)
        parameters = copy.deepcopy(source.get_current_frame_parameters())
        parameters.exposure_ms, parameters.processing = 1e3 * exposure_s, None
        with self._exclusively(f"{camera} camera"), _watch(cancel, source.acquire_sequence_cancel):
            source.acquire_sequence_prepare(1)
            partial = source.acquire_sequence_begin(parameters, 1)
            while not (partial.is_complete or partial.is_canceled or cancel.is_set()):
                partial = source.acquire_sequence_continue()
            raw = np.array(partial.xdata.data[0], dtype=np.float32)
            source.acquire_sequence_end()
        if cancel.is_set() or partial.is_canceled:
            raise Cancelled(f"The {camera} camera's exposure was cancelled.")
        if self._stem.probe_state != "parked":
            raise StemAeError("The scan was started while a camera exposed a point: leave the scan alone during a run.")
        return _camera_frame(camera, raw, exposure_s, source.get_camera_calibrations(parameters)[-1])

    def is_synchronised(self, camera: CameraName) -> bool:
        """Return whether the camera's driver can be clocked together with the scan."""
        source = self._find(camera)
        begin = getattr(type(source.camera), "acquire_synchronized_begin", None) if source else None
        return begin not in (None, camera_base.CameraDevice3.acquire_synchronized_begin)

    def expose_scan(self, camera: CameraName, frame: Frame, exposure_s: float, cancel: threading.Event) -> CameraFrame:
        """Scan a frame with Swift's synchronised acquisition: the camera clocks the beam."""
        source = self._camera(camera)
        parameters = copy.deepcopy(source.get_current_frame_parameters())
        parameters.exposure_ms, parameters.processing = 1e3 * exposure_s, None
        with self._exclusively(f"{camera} camera"), _watch(cancel, self._stop_synchronised):
            try:
                grabbed = self._scan.grab_synchronized(
                    scan_frame_parameters=self._parameters(frame), camera=source, camera_frame_parameters=parameters
                )
            except RuntimeError as error:
                raise StemAeError(f"The {camera} camera and the scan do not keep time together: {error}") from error
        if cancel.is_set():
            raise Cancelled(f"The {camera} camera's exposures were cancelled.")
        if not grabbed:
            raise StemAeError("The scan was stopped before its frame was complete: start again, and let it finish.")
        raw = np.asarray(grabbed[1][0].data, dtype=np.float32)
        return _camera_frame(camera, raw, exposure_s, source.get_camera_calibrations(parameters)[-1])

    def _stop_synchronised(self) -> None:
        with contextlib.suppress(AttributeError):  # before its first one the kit does not know that there is none
            self._scan.grab_synchronized_abort()

    def _find(self, camera: CameraName) -> Any:
        return self._stem.eels_camera if camera == "eels" else self._stem.ronchigram_camera

    def _camera(self, camera: CameraName) -> Any:
        source = self._find(camera)
        if source is None:
            raise StemAeError(f"Swift has no {camera} camera: connect one, or choose another measurement.")
        return source

    # --- dark field under a resting beam ----------------------------------------------------------------------------

    def read_dark_field(self, seconds: float, cancel: threading.Event) -> Reading:
        """Return what the first channel counts under the resting beam.

        A scan unit that reads its detectors without scanning offers ``parked_counts(seconds) -> (counts, seconds)``.
        Through others a micro-scan of 0.2 Å is recorded around the place, which takes the kit some 50 ms.
        """
        if read := getattr(self._scan.scan_device, "parked_counts", None):
            with self._exclusively("dark-field detector"):
                counts, exposed = read(seconds)
            return Reading(float(counts), float(exposed))
        return self._micro_scan(seconds, cancel)

    def _micro_scan(self, seconds: float, cancel: threading.Event) -> Reading:
        position = self._scan.probe_position
        if position is None:
            raise StemAeError("Park the probe somewhere before an exposure.")
        context = self._context()
        pixel = max(context.fov) / max(self._stem.scan_context.size)
        size = tuple(self._stem.scan_context.size)
        whole = Frame(max(size) * pixel, (size[0], size[1]), 1.0, context.centre, context.rotation)
        x, y = context.to_specimen((position.x, position.y)).tolist()
        n = _MICRO_SCAN_PIXELS
        image = self.scan(whole.part((x, y), (_MICRO_SCAN_A,) * 2, (n, n), max(seconds / n**2 * 1e6, 0.1)), cancel)
        return Reading(float(image.data.sum()), image.frame.seconds)

    # --- controls ---------------------------------------------------------------------------------------------------

    def get(self, control: ControlName) -> float:
        """Return a control's value in Å."""
        known, value = self._stem.TryGetVal(_CONTROLS[control])
        if not known or value is None or not math.isfinite(value):
            raise StemAeError(f"This microscope does not know the control {_CONTROLS[control]} ({control}).")
        return value / _METRES

    def set(self, control: ControlName, value: float) -> None:
        """Set a control, in Å."""
        if not self._stem.SetVal(_CONTROLS[control], value * _METRES):
            raise StemAeError(f"The microscope did not accept {control} = {value:.1f} Å.")

    # --- the user's settings ----------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Stop what the user acquires and remember how everything was set."""
        cameras = [c for c in (self._stem.eels_camera, self._stem.ronchigram_camera) if c is not None]
        if self._held is None:
            self._held = {source: source.get_current_frame_parameters() for source in (self._scan, *cameras)}
            self._played = [source for source in self._held if source.is_playing]
        for source in (self._scan, *cameras):
            if source.is_recording:
                source.abort_recording(sync_timeout=3.0)
            if source.is_playing:
                source.abort_playing(sync_timeout=3.0)

    def release(self) -> None:
        """Set scan and cameras as :meth:`hold` found them. Those that played play again, dark: the beam is blanked."""
        held, self._held = self._held, None
        if held is None:
            return
        has_ended = self._busy.acquire(timeout=_BUSY_S)
        try:
            for source, parameters in held.items():
                if source.get_current_frame_parameters().as_dict() != parameters.as_dict():
                    source.set_current_frame_parameters(parameters)
            for source in self._played if has_ended else ():
                source.start_playing()
        finally:
            if has_ended:
                self._busy.release()
        if not has_ended:
            raise StemAeError("An acquisition of this run does not end: stop it by hand, or restart the device.")

    @contextlib.contextmanager
    def _exclusively(self, what: str) -> Iterator[None]:
        """Wait for what was cancelled to let go, and keep out what the user has started meanwhile."""
        if not self._busy.acquire(timeout=_BUSY_S):
            raise StemAeError(f"The {what} cannot start: another acquisition does not end. Stop it and start again.")
        try:
            if self._scan.is_playing or self._scan.is_recording:
                raise StemAeError("The scan was started during a run: leave the scan alone until the run has ended.")
            yield
        finally:
            self._busy.release()


def _camera_frame(camera: CameraName, raw: NDArray[np.float32], exposure_s: float, calibration: Any) -> CameraFrame:
    """Return exposures ``(..., rows, columns)`` with what is known of them; spectra summed over the camera's rows."""
    unit, factor = ("mrad", 1e3) if calibration.units == "rad" else (calibration.units, 1.0)
    largest = float(raw.max())
    has_rows = raw.ndim % 2 == 0  # a scan adds two axes
    data = raw.sum(axis=-2) if camera == "eels" and has_rows else raw
    offset, scale = calibration.offset * factor, calibration.scale * factor
    return CameraFrame(data, exposure_s, offset, scale, unit, largest, int(np.count_nonzero(raw == largest)))


@contextlib.contextmanager
def _watch(cancel: threading.Event, abort: Callable[[], object]) -> Iterator[None]:
    """Call ``abort`` when ``cancel`` is set while the block runs, until it ends: it may not have begun yet."""
    done = threading.Event()

    def watch() -> None:
        pause_s = 0.005
        while not done.wait(pause_s):
            if cancel.is_set():
                abort()
                pause_s = 0.1

    thread = threading.Thread(target=watch, daemon=True, name="stem_ae cancel")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
