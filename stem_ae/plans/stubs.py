"""The pieces that plans are made of.

They send messages themselves: bluesky's own stubs note the stack of every call, some milliseconds a point.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import numpy as np
from bluesky import preprocessors as bpp
from bluesky.utils import Msg
from numpy.typing import ArrayLike

from stem_ae.microscope.devices import Camera, CameraScan, Microscope, Note
from stem_ae.microscope.frame import Frame, Image

Plan = Generator[Msg, Any, Any]


def as_run(microscope: Microscope, name: str, plan: Plan, **settings: Any) -> Plan:
    """Make a run of a plan: documents around it, and a safe microscope after it, however it ends.

    The run's result is what the plan returns.

    Parameters
    ----------
    microscope : Microscope
    name : str
        The plan's name in the start document.
    plan : generator
        What to do.
    **settings
        What the start document is to say about it; anything JSON can hold, or arrays.
    """
    returned: list[Any] = []

    def kept() -> Plan:
        returned.append((yield from plan))

    metadata = {"plan_name": name, "settings": _plain(settings)}
    yield from bpp.run_wrapper(guarded(microscope, kept()), md=metadata)
    return returned[0]


def guarded(microscope: Microscope, plan: Plan) -> Plan:
    """Take the microscope from the user for a plan, and give it back safe: see :class:`Guard`."""

    def held() -> Plan:
        yield from move(microscope.blanker, True)
        yield from move(microscope.guard, True)
        return (yield from plan)

    result: Plan = bpp.finalize_wrapper(held(), lambda: move(microscope.guard, False))
    return result


def move(device: Any, value: Any) -> Plan:
    """Set a device and wait until it is there."""
    yield Msg("set", device, value, group=device.name)
    yield Msg("wait", None, group=device.name)


def trigger(device: Any) -> Plan:
    """Trigger a device and wait until it is done."""
    yield Msg("trigger", device, group=device.name)
    yield Msg("wait", None, group=device.name)


def scan(microscope: Microscope, frame: Frame, stream: str = "survey") -> Generator[Msg, Any, Image]:
    """Scan one frame (or sub-scan), keep it in a stream of the documents and return it."""
    yield Msg("checkpoint")
    yield from move(microscope.scan, frame)
    yield from move(microscope.blanker, False)
    yield from trigger(microscope.scan)
    yield from move(microscope.blanker, True)
    yield from record([microscope.scan], stream)
    assert microscope.scan.image is not None
    return microscope.scan.image


def measure(
    microscope: Microscope, camera: Camera, place: ArrayLike, stream: str = "primary", note: Note | None = None
) -> Plan:
    """Expose a camera with the beam at a place of the scan plane (x, y in Å), and keep what it gave, and a note."""
    yield Msg("checkpoint")
    yield from move(microscope.probe, tuple(np.asarray(place, dtype=float).tolist()))
    yield from move(microscope.blanker, False)
    yield from trigger(camera)
    yield from move(microscope.blanker, True)
    yield from record([microscope.probe, camera, *([note] if note else [])], stream)


def measure_rows(microscope: Microscope, device: CameraScan, frame: Frame, stream: str = "primary") -> Plan:
    """Scan a frame with an exposure of a camera at each pixel, and keep an event for each row."""
    yield Msg("checkpoint")
    yield from move(device, frame)
    yield from move(microscope.blanker, False)
    yield from trigger(device)
    yield from move(microscope.blanker, True)
    for device.row in range(frame.shape[0]):
        yield from record([device], stream)


def expose(microscope: Microscope, place: ArrayLike, stream: str = "exposure") -> Plan:
    """Let the beam rest at a place until ``microscope.exposure`` ends by itself, and keep its readings.

    Set ``microscope.exposure.decide``, ``timeout_s`` and ``reading_s`` before. After a pause the exposure begins anew.
    """
    yield Msg("checkpoint")
    yield from move(microscope.probe, tuple(np.asarray(place, dtype=float).tolist()))
    yield from trigger(microscope.exposure)
    yield from move(microscope.blanker, True)
    yield from record([microscope.probe, microscope.exposure], stream)


def measure_drift(microscope: Microscope, frame: Frame) -> Generator[Msg, Any, tuple[float, float]]:
    """Re-scan a frame and return how far the specimen has moved, x and y in Å; the first re-scan is the reference."""
    image = yield from scan(microscope, frame, "drift_scan")
    drift = microscope.drift.add(image)
    yield from record([microscope.drift], "drift")
    return drift


def record(devices: Iterable[Any], stream: str) -> Plan:
    """Read devices into one event of a stream."""
    yield Msg("create", name=stream)
    for device in devices:
        yield Msg("read", device)
    yield Msg("save")


def _plain(value: Any) -> Any:
    """Return what JSON can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
