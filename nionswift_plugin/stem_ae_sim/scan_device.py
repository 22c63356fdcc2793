"""The simulated scan unit; it differs from the stock one where that misplaces the beam."""

from __future__ import annotations

import time
import typing

import numpy
from nion.device_kit import ScanDevice
from nion.instrumentation import scan_base
from nion.usim_device import ScanDevice as UsimScanDevice
from nion.utils import Geometry
from numpy.typing import NDArray

from nionswift_plugin.stem_ae_sim.instrument import AtomicInstrument
from stem_ae.imaging.scan_field import ScanField
from stem_ae.imaging.scattering import Detector
from stem_ae.imaging.virtual_microscope import ScanFrame

_CHANNELS: dict[str, Detector] = {"HAADF": "HAADF", "MAADF": "MAADF"}

# The kit waits until 50 ms have passed since its last read, and the stock device returns every 5 ms, so that every
# frame costs a multiple of 50 ms. Reading on until the frame is complete gives one read, and no wait, per live frame.
_READ_S = 0.09


class ScanClock(UsimScanDevice.ScanBoxSimulator):
    """Counts pixels: by itself, or clocked by a camera, line by line with fly-back exposures first."""

    def __init__(self) -> None:
        super().__init__(typing.cast(typing.Any, None))  # the device makes its data itself
        self._ticks = 0
        self.on_reset: typing.Callable[[], None] = lambda: None

    def reset_frame(self) -> None:
        """Start a frame."""
        super().reset_frame()
        self._ticks = 0
        self.on_reset()

    @property
    def current_pixel_flat(self) -> int:
        """The pixel that the beam is on; when free-running, how many are done."""
        if not self.external_clock:
            return self._ticks
        width = self.scan_shape_pixels.width
        line, step = divmod(max(self._ticks - 1, 0), width + self.flyback_pixels)
        return min(line * width + max(step - self.flyback_pixels, 0), self.scan_shape_pixels.height * width - 1)

    @property
    def is_on_flyback(self) -> bool:
        """Whether a clocked beam is on its way to the next line."""
        return (self._ticks - 1) % (self.scan_shape_pixels.width + self.flyback_pixels) < self.flyback_pixels

    def _advance_pixel(self, n: int) -> None:
        self._ticks += n


class AtomicScanDevice(ScanDevice.Device):
    """The scan device that Swift sees."""

    def __init__(self, device_id: str, device_name: str, instrument: AtomicInstrument) -> None:
        self._clock = ScanClock()
        self._instrument = instrument
        self._frame: ScanFrame | None = None
        self._frame_is_due = True
        self._is_cancelled = False
        self._field = ScanField(fov=(1.0, 1.0))
        self._exposed = 0
        self._pixels_read = 0
        self._clocked_exposure_s = 0.0
        super().__init__(device_id, device_name, instrument, self._clock)
        self._clock.on_reset = self._start_frame
        self.priority = 20

    # --- frames -----------------------------------------------------------------------------------------------------

    @property
    def last_frame(self) -> ScanFrame | None:
        """The frame under way, or the last one, with its ground truth."""
        return self._frame

    def begin_frame(self, parameters: scan_base.ScanFrameParameters) -> ScanFrame:
        """Return what a frame with these parameters would be if it started now."""
        size = parameters.scan_size
        return self._instrument.microscope.begin_frame(
            self._instrument.frame_field(parameters),
            (size.height, size.width),
            parameters.pixel_time_us,
            self._instrument.beam,
        )

    def get_scan_data(
        self, frame_parameters: scan_base.ScanFrameParameters, channel: int | ScanDevice.Channel
    ) -> NDArray[typing.Any]:
        """Return one detector's counts for the frame that starts; all detectors share its drift and jitter."""
        if self._frame_is_due or self._frame is None:
            self._frame = self.begin_frame(frame_parameters)
            self._frame_is_due = False
        frame = self._frame
        name = channel.name if isinstance(channel, ScanDevice.Channel) else self.get_channel_name(channel)
        if name in _CHANNELS:
            counts = frame.counts(_CHANNELS[name])
        else:  # an input with no detector on it
            counts = frame.dark_counts(frame.shape[0] * frame.shape[1]).reshape(frame.shape)
        return counts.astype(numpy.float32)

    def _start_frame(self) -> None:
        self._field = self._instrument.frame_field(self.current_frame_parameters)
        self._frame_is_due = True
        self._is_cancelled = False
        self._exposed = 0

    def cancel(self) -> None:
        """Abort the frame under way."""
        self._is_cancelled = True
        super().cancel()

    def read_partial(self, frame_number: int | None, pixels_to_skip: int) -> typing.Any:
        """Read on until the frame is complete or the time for one read is over."""
        start = time.perf_counter()
        result = self._read_slice(frame_number, pixels_to_skip)
        first_row = result[3][0][0]
        while not result[1] and not self._is_clocked and time.perf_counter() - start < _READ_S:
            result = self._read_slice(result[4], result[5])
        elements, complete, bad, area, number, skip = result
        if complete and self._is_cancelled:  # an aborted frame ends where the beam is; the stock device fills it up
            complete, area = False, ((0, 0), (self._pixels_read // area[1][1], area[1][1]))
        if not complete:
            rows = area[0][0] + area[1][0] - first_row
            area = ((first_row, 0), (rows, area[1][1]))
        return elements, complete, bad, area, number, skip

    def _read_slice(self, frame_number: int | None, pixels_to_skip: int) -> typing.Any:
        """Read a few milliseconds, which are dark if the beam is blanked meanwhile, and dose the specimen if not."""
        before = self._clock.current_pixel_flat if frame_number is not None else 0
        blanked = self._instrument.is_blanked
        result = super().read_partial(frame_number, pixels_to_skip)
        frame, after = self._frame, self._clock.current_pixel_flat
        self._pixels_read = before if self._is_cancelled else after
        if frame is None or self._is_clocked:
            return result
        if blanked:
            for element in result[0]:
                element["data"].reshape(-1)[before:after] = frame.dark_counts(max(after - before, 0))
        else:
            self._exposed += max(after - before, 0)
        if result[1]:
            self._instrument.microscope.expose_scan(frame, self._exposed)
        return result

    # --- where the beam is ------------------------------------------------------------------------------------------

    @property
    def _is_clocked(self) -> bool:
        return bool(self.current_frame_parameters.get_parameter("external_clock_mode", 0))

    @property
    def scanning_fraction(self) -> tuple[float, float]:
        """Where the scanning beam is, as a fraction (x, y) of the field that is scanned."""
        size = self._clock.scan_shape_pixels
        if not size.width:
            return 0.5, 0.5
        row, column = divmod(self._clock.current_pixel_flat, size.width)
        return (column + 0.5) / size.width, (row + 0.5) / size.height

    @property
    def scanning_field(self) -> ScanField:
        """The field that is scanned; drift not included. It outlives the frame: a camera may still expose its end."""
        return self._field

    @property
    def current_probe_position(self) -> Geometry.FloatPoint:
        """Where the scanning beam is, as a fraction of the scan context."""
        point = self._instrument.context_field.to_fraction(self._field.to_specimen(self.scanning_fraction))
        return Geometry.FloatPoint(y=float(point[1]), x=float(point[0]))

    # --- detectors under a beam at rest -----------------------------------------------------------------------------

    def parked_counts(self, seconds: float) -> tuple[float, float]:
        """Return what the first detector counts under the resting beam, and in how many seconds (at least these)."""
        microscope, clock = self._instrument.microscope, self._instrument.microscope.clock
        start = clock()
        time.sleep(seconds)
        exposed = clock() - start or seconds  # a clock that stands still was made for a test
        counts = microscope.resting_counts(_CHANNELS[self.get_channel_name(0)], exposed)
        return counts, exposed

    # --- clocked by a camera ----------------------------------------------------------------------------------------

    def prepare_synchronized_scan(
        self, scan_frame_parameters: scan_base.ScanFrameParameters, *, camera_exposure_ms: float, **kwargs: typing.Any
    ) -> None:
        """Get ready to be clocked by a camera."""
        self._clocked_exposure_s = camera_exposure_ms / 1e3
        super().prepare_synchronized_scan(scan_frame_parameters, camera_exposure_ms=camera_exposure_ms, **kwargs)

    def advance_pixel(self, do_sync: bool = False) -> None:
        """Go to the next pixel, which the camera now exposes; the beam is blanked on its way to the next line."""
        super().advance_pixel(do_sync)
        if not (self._instrument.is_blanked or self._clock.is_on_flyback):
            self._instrument.microscope.expose_point(
                self._field, self.scanning_fraction, self._instrument.beam, self._clocked_exposure_s
            )


class ScanModule(scan_base.ScanModule):
    """Device and settings, as the kit registers them."""

    def __init__(self, instrument: AtomicInstrument) -> None:
        self.stem_controller_id = instrument.instrument_id
        self.device = AtomicScanDevice("stem_ae_sim_scan", "Atomic scan", instrument)
        modes = tuple(
            scan_base.ScanSettingsMode(
                name,
                name.lower(),
                ScanDevice.ScanFrameParameters(pixel_size=(pixels, pixels), pixel_time_us=dwell_us, fov_nm=fov_nm),
            )
            for name, pixels, dwell_us, fov_nm in (
                ("Fast", 256, 0.8, 4.0), ("Slow", 512, 4.0, 5.0), ("Record", 1024, 8.0, 8.0)
            )
        )  # fmt: skip
        self.settings = scan_base.ScanSettings(
            self.device.scan_device_id, modes, lambda values: ScanDevice.ScanFrameParameters(values), 0, 2
        )
