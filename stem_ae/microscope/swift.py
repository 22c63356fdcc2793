"""The border to Nion Swift: images as arrays, scan channels as streams of frames, the instrument for plans."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from nion.data import DataAndMetadata
from nion.instrumentation import HardwareSource, camera_base, scan_base, stem_controller
from nion.utils import Geometry, Registry
from numpy.typing import NDArray

from stem_ae.errors import StemAeError
from stem_ae.imaging.scan_field import ScanField
from stem_ae.microscope import link
from stem_ae.microscope.frame import CameraFrame, Frame, Image, Reading
from stem_ae.microscope.instrument import CameraName, Cancelled, ControlName

ANGSTROM_PER_UNIT = {"pm": 1e-2, "\u00c5": 1.0, "A": 1.0, "nm": 10.0, "\u03bcm": 1e4, "um": 1e4, "mm": 1e7, "m": 1e10}
"""Length units as Swift writes them (after Unicode's NFKC, which makes one letter of each of the two Å and µ), in Å."""
_ANGSTROM_PER_NM = 10.0
_METRES = 1e-10  # per Å
_CONTROLS: dict[ControlName, str] = {
    "defocus": "C10", "astigmatism_x": "C12.x", "astigmatism_y": "C12.y", "stage_x": "stage_position_m.x",
    "stage_y": "stage_position_m.y", "shift_x": "CSH.x", "shift_y": "CSH.y",
}  # fmt: skip
_BUSY_S = 3.0  # for an operation that was cancelled to let go
_MICRO_SCAN_PIXELS, _MICRO_SCAN_A = 8, 0.2


# --- images ---------------------------------------------------------------------------------------------------------


def sampling_of(xdata: DataAndMetadata.DataAndMetadata) -> tuple[float, float] | None:
    """Return the Å per pixel along (y, x) that an image states, or ``None`` if its units are not lengths."""
    values = []
    for calibration in xdata.dimensional_calibrations[-2:]:
        unit = ANGSTROM_PER_UNIT.get(unicodedata.normalize("NFKC", calibration.units or ""))
        scale = abs(float(calibration.scale))
        if unit is None or not np.isfinite(scale) or scale == 0.0:
            return None
        values.append(scale * unit)
    return (values[0], values[1]) if len(values) == 2 else None


def image_of(xdata: DataAndMetadata.DataAndMetadata) -> NDArray[Any]:
    """Return a copy of the pixels; colours become their mean, anything else stays as it is.

    Swift may go on writing into its own array, so a copy is what other threads can work on.
    """
    data: NDArray[Any] = xdata.data
    if data.dtype == np.uint8 and data.ndim == 3 and data.shape[-1] in (3, 4):
        data = data[..., :3].mean(axis=-1, dtype=np.float32)  # Swift's colour images are uint8, blue green red (alpha)
    return data.copy()


def is_whole(xdata: DataAndMetadata.DataAndMetadata | DataAndMetadata.DataMetadata) -> bool:
    """Return whether the scan has written every row of the image (true of images that no scan wrote)."""
    rows = xdata.metadata.get("scan", {}).get("valid_rows")
    return rows is None or rows >= xdata.data_shape[0]


# --- scan channels --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ScanChannel:
    """One channel of one scan."""

    hardware_source_id: str
    channel_id: str
    name: str
    """Such as ``"HAADF"``."""
    scan_name: str
    """Such as ``"Scan"``."""

    @property
    def key(self) -> str:
        """Names the channel in the settings."""
        return f"{self.hardware_source_id}/{self.channel_id}"


def scan_channels() -> Sequence[ScanChannel]:
    """Return every channel of every scan that Swift knows now."""
    return [
        ScanChannel(source.hardware_source_id, state.channel_id, state.name, source.display_name)
        for source in _scans()
        for state in (source.get_channel_state(index) for index in range(source.channel_count))
    ]


def _scans() -> list[scan_base.ScanHardwareSource]:
    sources = HardwareSource.HardwareSourceManager().hardware_sources
    return [cast(scan_base.ScanHardwareSource, source) for source in sources if source.features.get("is_scanning")]


class ScanFeed:
    """The complete frames of one scan channel, as long as its scan is there. Never starts the scan.

    Parameters
    ----------
    channel : ScanChannel
        What to listen to.
    received : callable
        Called with each complete frame and the key of the data item that shows it (see
        ``DocumentModel.get_data_item_reference``), in the *acquisition* thread: copy and return.
    changed : callable
        Called, in any thread, when the scan has started, stopped or been taken out of Swift.
    """

    def __init__(
        self,
        channel: ScanChannel,
        received: Callable[[DataAndMetadata.DataAndMetadata, str], None],
        changed: Callable[[], None],
    ) -> None:
        self.channel = channel
        self._received = received
        self._changed = changed
        manager = HardwareSource.HardwareSourceManager()
        self._source = manager.get_hardware_source_for_hardware_source_id(channel.hardware_source_id)
        self._listeners: list[Any] = [manager.hardware_source_removed_event.listen(self._source_removed)]
        if self._source:
            self._listeners.append(self._source.data_channel_updated_event.listen(self._updated))
            self._listeners.append(self._source.acquisition_state_changed_event.listen(self._state_changed))

    @property
    def is_there(self) -> bool:
        """Whether Swift (still) has the scan."""
        return self._source is not None

    @property
    def is_playing(self) -> bool:
        """Whether the scan is running."""
        return self._source is not None and self._source.is_playing

    def close(self) -> None:
        """Stop listening."""
        self._source = None  # an event that is being fired just now may still call
        self._listeners.clear()

    def _updated(
        self, update: HardwareSource.DataChannelEventArgs, xdata: DataAndMetadata.DataAndMetadata
    ) -> None:
        source = self._source
        if source is None or update.channel_id != self.channel.channel_id or update.state != "complete":
            return
        if not source.is_aborted:  # what an aborted scan leaves is called complete, too
            self._received(xdata, "_".join([self.channel.hardware_source_id, update.data_channel_id or ""]))

    def _state_changed(self, is_acquiring: bool) -> None:
        if self._source:
            self._changed()

    def _source_removed(self, source: HardwareSource.HardwareSource) -> None:
        if source is self._source:
            self.close()
            self._changed()


# --- the instrument ---------------------------------------------------------------------------------------------------


class SwiftInstrument:
    """Swift's instrument as the :class:`~stem_ae.microscope.instrument.Instrument` that the devices ask for.

    The kit's ways that matter here, all measured: a camera frame fetched with ``get_next_xdatas_to_finish`` was exposed
    at the *previous* probe position, one acquired as a sequence of one begins after the call; ``record_immediate`` does
    not move the scan context in which the probe is parked, the current frame parameters do; positions outside the
    context are moved to its edge without a word.

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
    def identity(self) -> object:
        """The microscope itself: the same for every object of this class that controls it."""
        return self._stem

    @property
    def is_blanked(self) -> bool:
        """Whether the beam is blanked, as read."""
        value = self._stem.GetVal("C_Blank")
        if value not in (0, 1):  # NaN is neither
            raise StemAeError(f"The microscope does not say whether the beam is blanked (C_Blank is {value}).")
        return value == 1

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

    @property
    def blanker_link(self) -> Mapping[str, Any] | None:
        """A connection to the blanker that does not go through Swift, for the watchdog; None: there is none."""
        return link.from_environment() or getattr(self._stem, "blanker_link", None)

    def stop_scan(self) -> None:
        """Stop whatever scans, without waiting for it."""
        self._scan.abort_recording()
        self._scan.abort_playing()

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
            end, clock_s = time.time(), time.monotonic()
        data = frames[0].data if frames and frames[0] is not None else None
        if cancel.is_set():
            raise Cancelled("The scan was cancelled.")
        if data is None or data.shape != frame.shape:
            raise StemAeError("The scan was stopped before its frame was complete: start again, and let it finish.")
        return Image(frame, np.asarray(data, dtype=np.float32).copy(), end, clock_s)

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
    there = raw[np.isfinite(raw)]
    largest = float(there.max(initial=0.0))  # whether so few are enough is judged elsewhere
    has_rows = raw.ndim % 2 == 0  # a scan adds two axes
    data = raw.sum(axis=-2) if camera == "eels" and has_rows else raw
    offset, scale = calibration.offset * factor, calibration.scale * factor
    return CameraFrame(data, exposure_s, offset, scale, unit, largest, int(np.count_nonzero(there == largest)))


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
