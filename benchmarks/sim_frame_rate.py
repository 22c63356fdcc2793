"""Frames per second that headless Swift receives from the simulated microscope, and what one frame costs.

    python benchmarks/sim_frame_rate.py [--seconds 4]

The rate is counted on ``xdatas_available_event``, where live consumers listen; the cost is the CPU time of making one
HAADF frame (specimen, beam, counts, dose), without Swift.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

from nion.instrumentation import scan_base
from nion.instrumentation.test import AcquisitionTestContext
from nion.swift import Facade
from nion.swift.test import TestContext
from nion.utils import Geometry

from nionswift_plugin.stem_ae_sim.configuration import AtomicMicroscope

SPECIMENS = ("graphene with silicon", "MoS2 with vacancies", "NiO pillars in LSMO")
SCANS = ((256, 0.5, 4.0), (256, 0.8, 4.0), (256, 0.8, 8.0), (512, 0.5, 6.0))  # pixels, µs, nm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="per measurement")
    seconds = parser.parse_args().seconds
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    Facade.initialize()
    setup = TestContext.TestSetup()  # keeps the event loop
    simulator = AtomicMicroscope(folder)
    print(f"{'specimen':34} {'pixels':>6} {'µs':>5} {'nm':>4} {'possible/s':>10} {'frames/s':>8} {'CPU ms/frame':>12}")
    with AcquisitionTestContext.test_context(simulator) as swift:
        scan = swift.scan_hardware_source
        for name in SPECIMENS:
            simulator.choose_specimen(name)
            for pixels, dwell_us, fov_nm in SCANS:
                parameters = scan.get_current_frame_parameters()
                parameters.pixel_size = Geometry.IntSize(pixels, pixels)
                parameters.pixel_time_us, parameters.fov_nm = dwell_us, fov_nm
                scan.set_current_frame_parameters(parameters)
                possible, rate = 1e6 / (pixels**2 * dwell_us), frame_rate(scan, seconds)
                cost_ms = 1e3 * frame_cost(simulator, parameters)
                scan_settings = f"{name:34} {pixels:6} {dwell_us:5.1f} {fov_nm:4.1f}"
                print(f"{scan_settings} {possible:10.1f} {rate:8.1f} {cost_ms:12.1f}", flush=True)
    del setup


def frame_rate(scan: scan_base.ScanHardwareSource, seconds: float) -> float:
    """Return complete frames per second."""
    arrivals: list[float] = []
    listener = scan.xdatas_available_event.listen(lambda xdatas: arrivals.append(time.perf_counter()))
    scan.start_playing(sync_timeout=5.0)
    time.sleep(seconds)
    scan.abort_playing(sync_timeout=5.0)
    listener.close()
    arrivals = arrivals[2:-1]  # start and abort
    return (len(arrivals) - 1) / (arrivals[-1] - arrivals[0])


def frame_cost(simulator: AtomicMicroscope, parameters: scan_base.ScanFrameParameters, repeats: int = 10) -> float:
    """Return the CPU seconds that one frame takes to make."""
    start = time.process_time()
    for _ in range(repeats):
        frame = simulator.scan_device.begin_frame(parameters)
        frame.counts("HAADF")
        simulator.microscope.expose_scan(frame, frame.shape[0] * frame.shape[1])
    return (time.process_time() - start) / repeats


if __name__ == "__main__":
    main()
