"""The simulated cameras: EELS and CBED of the place where the beam is."""

from __future__ import annotations

import numpy
from nion.data import Calibration, DataAndMetadata
from nion.instrumentation import stem_controller
from nion.usim_device import CameraSimulator
from nion.utils import Geometry
from numpy.typing import NDArray

from nionswift_plugin.stem_ae_sim.instrument import SENSORS, AtomicInstrument
from nionswift_plugin.stem_ae_sim.scan_device import AtomicScanDevice

_DARK_RMS = 2.0  # counts per sensor pixel, with or without beam
_MRAD_PER_PIXEL = 1.0  # of the CBED camera


class AtomicCamera(CameraSimulator.CameraSimulator):
    """What both cameras share: where the beam is, gain, noise, blanking and binning."""

    camera_type = ""

    def __init__(self, instrument: AtomicInstrument, scan: AtomicScanDevice) -> None:
        sensor = Geometry.IntSize(*SENSORS[self.camera_type])
        super().__init__(instrument, self.camera_type, sensor, instrument.counts_per_electron)
        self._microscope = instrument.microscope
        self._column = instrument
        self._scan = scan
        self._rng = numpy.random.default_rng(instrument.microscope.random_seed())

    @property
    def beam_position(self) -> NDArray[numpy.float64]:
        """Where the beam is, x and y in Å on the specimen."""
        column = self._column
        if column._is_synchronized or column.probe_state == "scanning":
            field, fraction = self._scan.scanning_field, self._scan.scanning_fraction
        else:
            field, fraction = column.context_field, column.parked_fraction
        return field.moved(self._microscope.drift()).to_specimen(fraction)

    def expected_fraction(self) -> NDArray[numpy.float64]:
        """Return the expected fraction of the beam per sensor pixel."""
        raise NotImplementedError

    def get_frame_data(
        self,
        readout_area: Geometry.IntRect,
        binning_shape: Geometry.IntSize,
        exposure_s: float,
        scan_context: stem_controller.ScanContext,
        probe_position: Geometry.FloatPoint | None,
    ) -> DataAndMetadata.DataAndMetadata:
        """Return one exposure."""
        self._microscope.advance()
        counts = self._rng.normal(0.0, _DARK_RMS, tuple(self._sensor_dimensions))
        if not self._column.is_blanked:
            electrons = self._column.beam.electrons(exposure_s) * self.expected_fraction()
            counts += self._rng.poisson(electrons) * self._counts_per_electron
        part = counts[readout_area.top : readout_area.bottom, readout_area.left : readout_area.right]
        return DataAndMetadata.new_data_and_metadata(
            self._get_binned_data(part, binning_shape).astype(numpy.float32),
            intensity_calibration=Calibration.Calibration(units="counts"),
            dimensional_calibrations=self.get_dimensional_calibrations(readout_area, binning_shape),
        )


class EELSCamera(AtomicCamera):
    """Spectra, evenly spread over the rows of the sensor."""

    camera_type = "eels"

    @property
    def losses_ev(self) -> NDArray[numpy.float64]:
        """Energy loss of each column in eV."""
        controls, channels = self._column.controls, numpy.arange(float(self._sensor_dimensions[1]))
        return controls.energy_offset_eV + controls.energy_per_channel_eV * channels

    def expected_fraction(self) -> NDArray[numpy.float64]:
        """Return the spectrum of the place where the beam is."""
        rows = self._sensor_dimensions[0]
        spectrum = self._microscope.spectrum(self.beam_position, self.losses_ev, self._column.beam)
        return numpy.tile(spectrum / rows, (rows, 1))

    def get_dimensional_calibrations(
        self, readout_area: Geometry.IntRect | None, binning_shape: Geometry.IntSize | None
    ) -> list[Calibration.Calibration]:
        """Return the calibrations of an unbinned frame."""
        controls = self._column.controls
        energy = Calibration.Calibration(controls.energy_offset_eV, controls.energy_per_channel_eV, "eV")
        return [Calibration.Calibration(), energy]


class CBEDCamera(AtomicCamera):
    """Convergent-beam patterns."""

    camera_type = "ronchigram"

    def expected_fraction(self) -> NDArray[numpy.float64]:
        """Return the pattern of the place where the beam is."""
        shape = (self._sensor_dimensions[0], self._sensor_dimensions[1])
        return self._microscope.pattern(self.beam_position, shape, _MRAD_PER_PIXEL, self._column.beam)

    def get_dimensional_calibrations(
        self, readout_area: Geometry.IntRect | None, binning_shape: Geometry.IntSize | None
    ) -> list[Calibration.Calibration]:
        """Return the calibrations of an unbinned frame: angles, zero in the middle."""
        scale = _MRAD_PER_PIXEL * 1e-3
        return [Calibration.Calibration(-scale * n / 2, scale, "rad") for n in SENSORS[self.camera_type]]
