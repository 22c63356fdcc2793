"""The simulated column: Nion's controls, read as the library's :class:`Beam` and :class:`ScanField`."""

from __future__ import annotations

import contextlib
import typing

from nion.instrumentation import scan_base
from nion.usim_device import InstrumentDevice
from nion.utils import Geometry, ReferenceCounting

from stem_ae.imaging.scan_field import ScanField
from stem_ae.imaging.virtual_microscope import Beam, Rest, VirtualMicroscope
from stem_ae.microscope.link import LinkError
from stem_ae.microscope.simulated_blanker import SimulatedBlanker

ANGSTROM_PER_M = 1e10
ANGSTROM_PER_NM = 10.0

# Where the beam goes when nobody has set the probe's position: outside the frame, so that what is in view is spared.
DEFAULT_PARK = Geometry.FloatPoint(y=-0.2, x=-0.2)

SENSORS = {"ronchigram": (128, 128), "eels": (16, 1024)}  # (rows, columns): small, so that they are fast


class Controls(InstrumentDevice.ValueManager):
    """The values of all controls; the offset of the specimen includes the simulated drift."""

    def __init__(self, microscope: VirtualMicroscope, blanker: SimulatedBlanker | None) -> None:
        self._microscope = microscope
        self._blanker = blanker
        super().__init__()

    @property
    def is_blanked(self) -> bool:
        """Whether the beam is blanked, as last heard; it decides the dose of the specimen."""
        return super().is_blanked if self._blanker is None else self._blanker.is_blanked

    @is_blanked.setter
    def is_blanked(self, value: bool) -> None:
        if self._blanker is not None:
            self._blanker.set(value)
        InstrumentDevice.ValueManager.is_blanked.fset(self, value)  # type: ignore[attr-defined]

    def get_value(self, name: str) -> float | None:
        """Return a control's value; the blanker itself is asked whether the beam is blanked."""
        if name == "C_Blank" and self._blanker is not None:
            return 1.0 if self._blanker.read() else 0.0
        return super().get_value(name)

    @property
    def offset_m(self) -> Geometry.FloatPoint:
        """How far stage and beam shift displace the image, without drift; positive is right and down."""
        return self.stage_position_m - self.get_value_2d("beam_shift_m")

    @property
    def drift_offset_m(self) -> Geometry.FloatPoint:
        """How far the specimen has drifted."""
        x, y = self._microscope.drift() / ANGSTROM_PER_M
        return Geometry.FloatPoint(y=float(y), x=float(x))

    @property
    def actual_offset_m(self) -> Geometry.FloatPoint:
        """How far the image is displaced in all."""
        return self.offset_m + self.drift_offset_m


class AtomicInstrument(InstrumentDevice.Instrument):
    """The instrument that Swift sees; keeps the virtual microscope informed of a beam at rest."""

    def __init__(self, instrument_id: str, microscope: VirtualMicroscope, own_blanker: bool = False) -> None:
        self.blanker = SimulatedBlanker(self._blanker_changed) if own_blanker else None
        self.controls = Controls(microscope, self.blanker)
        self.controls.is_blanked = False  # as the stock simulator begins: the live scan shows something
        no_generator = typing.cast(typing.Any, None)  # our scan device makes its data itself
        super().__init__(instrument_id, self.controls, InstrumentDevice.AxisManager(), no_generator)
        self.microscope = microscope
        self.stage_size_nm = 100
        self.SetVal("EHT", 60e3)
        self.SetVal("BeamCurrent", 200e-12)
        self.SetVal("ConvergenceAngle", 0.032)
        self.SetVal("C10", 0.0)
        self.SetVal("S_VOA", 1.0)
        self.controls.energy_per_channel_eV = 1.0
        track = ReferenceCounting.weak_partial(AtomicInstrument.track_beam, self)
        self._listeners = [
            event.listen(track)
            for event in (
                self.probe_state_changed_event, self.scan_context_changed_event, self.controls.property_changed_event
            )
        ]  # fmt: skip
        self.track_beam()

    def close(self) -> None:
        """Stop listening."""
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        if self.blanker is not None:
            with contextlib.suppress(LinkError):
                self.blanker.set(True)
            self.blanker.close()
        super().close()

    @property
    def blanker_link(self) -> dict[str, typing.Any] | None:
        """How the watchdog reaches the blanker without Swift; None: it lives in this process."""
        return None if self.blanker is None else self.blanker.link

    def _blanker_changed(self) -> None:
        """Note that somebody else has blanked or unblanked."""
        self.controls.property_changed_event.fire("is_blanked")

    def camera_sensor_dimensions(self, camera_type: str) -> tuple[int, int]:
        """Return rows and columns of a camera."""
        return SENSORS[camera_type]

    def camera_readout_area(self, camera_type: str) -> tuple[int, int, int, int]:
        """Return the whole sensor: top, left, bottom, right."""
        return (0, 0, *SENSORS[camera_type])

    @property
    def counts_per_electron(self) -> int:
        """Gain of the cameras."""
        return 40

    @property
    def is_blanked(self) -> bool:
        """Whether the blanker keeps the beam from the specimen."""
        return self.controls.is_blanked

    @property
    def beam(self) -> Beam:
        """The column as it is set now."""
        astigmatism = self.GetVal2D("C12Control") * ANGSTROM_PER_M
        return Beam(
            energy_ev=self.GetVal("EHT"),
            semiangle_mrad=self.GetVal("ConvergenceAngle") * 1e3,
            current_pa=self.GetVal("BeamCurrent") * 1e12,
            defocus=self.GetVal("C10Control") * ANGSTROM_PER_M,
            cs=self.GetVal("C30Control") * ANGSTROM_PER_M,
            astigmatism=(astigmatism.x, astigmatism.y),
        )

    @property
    def context_field(self) -> ScanField:
        """The field of the scan context, in which the probe is parked; drift not included."""
        context = self.scan_context
        return self._field(context.size, context.fov_nm, context.center_nm, context.rotation_rad)

    def frame_field(self, parameters: scan_base.ScanFrameParameters) -> ScanField:
        """Return the field of a frame, or of its sub-scan if it is one; drift not included."""
        whole = self._field(parameters.pixel_size, parameters.fov_nm, parameters.center_nm, parameters.rotation_rad)
        size, centre = parameters.subscan_fractional_size, parameters.subscan_fractional_center
        if size is None:
            return whole
        centre = centre or Geometry.FloatPoint(y=0.5, x=0.5)
        return whole.part((centre.x, centre.y), (size.width, size.height), parameters.subscan_rotation)

    def _field(
        self, size: Geometry.IntSize, fov_nm: float, center_nm: Geometry.FloatPoint, rotation_rad: float
    ) -> ScanField:
        # The field of view is the longer side, as Swift's calibrations have it.
        pixel = fov_nm * ANGSTROM_PER_NM / max(size.height, size.width)
        offset = self.controls.offset_m * ANGSTROM_PER_M
        return ScanField(
            fov=(size.width * pixel, size.height * pixel),
            centre=(center_nm.x * ANGSTROM_PER_NM, center_nm.y * ANGSTROM_PER_NM),
            rotation=rotation_rad,
            offset=(offset.x, offset.y),
        )

    @property
    def parked_fraction(self) -> tuple[float, float]:
        """Where a beam at rest stands in the scan context, x and y."""
        position = self.probe_position or DEFAULT_PARK
        return position.x, position.y

    def track_beam(self, *what_changed: object) -> None:
        """Tell the microscope where the beam rests from now on, if it rests. Called after every change."""
        resting = self.probe_state == "parked" and not self.is_blanked
        self.microscope.rest(Rest(self.context_field, self.parked_fraction, self.beam) if resting else None)


