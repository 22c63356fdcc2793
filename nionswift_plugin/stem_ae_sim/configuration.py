"""The simulated microscope as Swift takes it: one object that holds and registers instrument, scan and cameras."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy
from nion.device_kit import CameraDevice
from nion.instrumentation import scan_base
from nion.utils import Registry
from numpy.typing import NDArray

from nionswift_plugin.stem_ae_sim.cameras import AtomicCamera, CBEDCamera, EELSCamera
from nionswift_plugin.stem_ae_sim.instrument import AtomicInstrument
from nionswift_plugin.stem_ae_sim.scan_device import ScanModule
from stem_ae.imaging import catalogue
from stem_ae.imaging.specimens import Specimen
from stem_ae.imaging.virtual_microscope import Conditions, VirtualMicroscope

_BASE_EXPOSURE_S = 0.02


class AtomicMicroscope:
    """The whole simulated microscope.

    It fits Swift's own headless tests, ``AcquisitionTestContext.test_context(AtomicMicroscope(folder))``, and the
    plug-in, which calls :meth:`run`. What is simulated is in :attr:`microscope`.

    Parameters
    ----------
    configuration_location : str
        Folder for the kit's configuration files; the plug-in needs none.
    specimen : Specimen or str
        What is in first, or its name in the catalogue; see :meth:`choose_specimen` and ``microscope.load``.
    conditions : Conditions, optional
        Drift, jitter, contamination, damage.
    seed : int
        Of all random numbers.
    clock : callable
        Returns seconds; drift and the dose of a parked beam go by it.
    own_blanker : bool
        Whether the blanker is a separate process, as a real one has its own electronics.
    """

    def __init__(
        self,
        configuration_location: str = "",
        *,
        specimen: Specimen | str = "graphene with silicon",
        conditions: Conditions | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        own_blanker: bool = False,
    ) -> None:
        self.configuration_location = configuration_location
        if isinstance(specimen, str):
            self.specimen_name, entry = specimen, catalogue.entry(specimen)
            specimen = entry.make()
            conditions = conditions or Conditions(contamination=entry.contamination)
        else:
            self.specimen_name = ""
        self.microscope = VirtualMicroscope(specimen, conditions, seed, clock)
        self.instrument_id = "stem_ae_sim_controller"
        self.instrument = AtomicInstrument(self.instrument_id, self.microscope, own_blanker)
        self.scan_module = ScanModule(self.instrument)
        self.scan_device = self.scan_module.device
        self.eels_camera_device_id = "stem_ae_sim_eels"
        self.ronchigram_camera_device_id = "stem_ae_sim_cbed"
        self.eels_camera_device = self._camera(self.eels_camera_device_id, "Atomic EELS", EELSCamera)
        self.ronchigram_camera_device = self._camera(self.ronchigram_camera_device_id, "Atomic CBED", CBEDCamera)
        self.eels_camera_settings, self.ronchigram_camera_settings = (
            CameraDevice.CameraSettings(camera_id, _BASE_EXPOSURE_S)
            for camera_id in (self.eels_camera_device_id, self.ronchigram_camera_device_id)
        )
        self._camera_modules = [
            CameraDevice.CameraModule(self.instrument_id, device, settings)
            for device, settings in (
                (self.ronchigram_camera_device, self.ronchigram_camera_settings),
                (self.eels_camera_device, self.eels_camera_settings),
            )
        ]
        self.instrument.controls.eels_camera = self.eels_camera_device
        self.instrument.controls.ronchigram_camera = self.ronchigram_camera_device

    def _camera(self, camera_id: str, name: str, simulator: type[AtomicCamera]) -> CameraDevice.Camera:
        camera = CameraDevice.Camera(
            camera_id, simulator.camera_type, name, simulator(self.instrument, self.scan_device), self.instrument
        )
        setattr(camera, "camera_panel_type", simulator.camera_type)  # noqa: B010  (the kit reads but does not declare it)
        return camera

    def choose_specimen(self, name: str) -> None:
        """Put a specimen of the catalogue in, with its contamination; the next frame shows it.

        Raises
        ------
        StemAeError
            If there is none of that name.
        """
        entry = catalogue.entry(name)
        self.microscope.load(entry.make())
        self.microscope.conditions = dataclasses.replace(self.microscope.conditions, contamination=entry.contamination)
        self.specimen_name = name

    def run(self) -> None:
        """Register instrument, cameras and scan with Swift."""
        Registry.register_component(self.instrument, {"instrument_controller", "stem_controller"})
        for module in self._camera_modules:
            Registry.register_component(module, {"camera_module"})
        Registry.register_component(self.scan_module, {"scan_module"})

    def stop(self) -> None:
        """Take them out again, which closes the devices."""
        for module in self._camera_modules:
            Registry.unregister_component(module, {"camera_module"})
        Registry.unregister_component(self.scan_module, {"scan_module"})
        Registry.unregister_component(self.instrument, {"instrument_controller", "stem_controller"})

    def truth_in_frame(
        self, parameters: scan_base.ScanFrameParameters | None = None
    ) -> tuple[NDArray[numpy.float64], list[str]]:
        """Return the atomic columns in a frame: positions ``(M, 2)`` in Å in the image (as in ``Atoms2D``), and names.

        Parameters
        ----------
        parameters : ScanFrameParameters, optional
            Of a frame that would start now; if not given, the frame under way or the last one is meant, with the
            drift it had.
        """
        frame = self.scan_device.last_frame if parameters is None else self.scan_device.begin_frame(parameters)
        if frame is None:
            frame = self.scan_device.begin_frame(self.scan_device.current_frame_parameters)
        return frame.truth()
