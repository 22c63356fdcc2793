"""The pieces that plans are made of.

They send messages themselves: bluesky's own stubs note the stack of every call, some milliseconds a point.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from typing import Any

import numpy as np
from bluesky import preprocessors as bpp
from bluesky.utils import Msg
from numpy.typing import ArrayLike

from stem_ae.microscope.devices import Camera, CameraScan, Microscope, Note, NotRegistered
from stem_ae.microscope.frame import Frame, Image
from stem_ae.microscope.interlock import BeamTaken
from stem_ae.microscope.usable import Unusable, still_unusable

Plan = Generator[Msg, Any, Any]

DRIFT_SCANS = 6
"""Re-scans that are added up at most before the drift counts as unreadable."""
_POLL_S = 0.02
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 4.0  # between tries of what was not usable


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
        microscope.begin()
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

    def attempt() -> Plan:
        yield Msg("checkpoint")
        yield from move(microscope.scan, frame)
        yield from exposed(microscope, microscope.scan)

    yield from until_usable(microscope, attempt, lambda: microscope.scan.problem)
    yield from record([microscope.scan], stream)
    assert microscope.scan.image is not None
    return microscope.scan.image


def measure(
    microscope: Microscope, camera: Camera, place: ArrayLike, stream: str = "primary", note: Note | None = None
) -> Plan:
    """Expose a camera with the beam at a place of the scan plane (x, y in Å), and keep what it gave, and a note."""
    yield from until_usable(microscope, lambda: expose_at(microscope, camera, place), lambda: camera.problem)
    yield from record([microscope.probe, camera, *([note] if note else [])], stream)


def expose_at(microscope: Microscope, camera: Camera, place: ArrayLike) -> Plan:
    """Expose a camera with the beam at a place, once; look at ``camera.problem`` then, and record it."""
    yield Msg("checkpoint")
    yield from move(microscope.probe, tuple(np.asarray(place, dtype=float).tolist()))
    yield from exposed(microscope, camera)


def measure_rows(microscope: Microscope, device: CameraScan, frame: Frame, stream: str = "primary") -> Plan:
    """Scan a frame with an exposure of a camera at each pixel, and keep an event for each row."""
    yield from until_usable(microscope, lambda: expose_rows(microscope, device, frame), lambda: device.problem)
    yield from record_rows(device, stream)


def expose_rows(microscope: Microscope, device: CameraScan, frame: Frame) -> Plan:
    """Scan a frame with an exposure of a camera at each pixel, once; look at ``device.problem`` then, and record it."""
    yield Msg("checkpoint")
    yield from move(device, frame)
    yield from exposed(microscope, device)


def record_rows(device: CameraScan, stream: str = "primary") -> Plan:
    """Keep what was scanned, an event for each row."""
    assert device.frame is not None
    for row in range(device.frame.shape[0]):
        device.row = row
        yield from record([device], stream)


def exposed(microscope: Microscope, device: Any) -> Plan:
    """Trigger a device with the beam on."""
    yield from move(microscope.blanker, False)
    yield from trigger(device)
    yield from move(microscope.blanker, True)


def expose(microscope: Microscope, place: ArrayLike, stream: str = "exposure") -> Plan:
    """Let the beam rest at a place until ``microscope.exposure`` ends by itself, and keep its readings.

    Set ``microscope.exposure.decide``, ``timeout_s`` and ``reading_s`` before. After a pause the exposure begins anew.
    """
    yield Msg("checkpoint")
    yield from move(microscope.probe, tuple(np.asarray(place, dtype=float).tolist()))
    yield from trigger(microscope.exposure)
    yield from move(microscope.blanker, True)
    yield from record([microscope.probe, microscope.exposure], stream)
    if microscope.exposure.problem:  # it is not repeated: how much of it the specimen has had, nobody knows
        raise Unusable(microscope.exposure.problem)


def measure_drift(microscope: Microscope, frame: Frame) -> Generator[Msg, Any, tuple[float, float]]:
    """Re-scan a frame and return how far the specimen has moved, x and y in Å; the first re-scan is the reference.

    A scan that shows too little is repeated, :data:`DRIFT_SCANS` times at most, and they are added up.

    Raises
    ------
    NotRegistered
        If the drift cannot be read from them.
    """
    refusal: NotRegistered | None = None
    for _ in range(DRIFT_SCANS):
        image = yield from scan(microscope, frame, "drift_scan")
        yield from move(microscope.drift, image)
        refusal = microscope.drift.refusal
        if refusal is None or not refusal.is_weak:
            break
    if refusal is not None:
        raise refusal
    yield from record([microscope.drift], "drift")
    drift: tuple[float, float] = microscope.drift.last
    return drift


def until_usable(microscope: Microscope, attempt: Callable[[], Plan], problem: Callable[[], str]) -> Plan:
    """Try until what a detector gives is usable and the beam was on all the while, blanked and parked meanwhile.

    The run is *suspended*: ``microscope.suspension.reason`` says why, and an event of the stream ``suspended`` for how
    long it was.

    Parameters
    ----------
    microscope : Microscope
    attempt : callable
        Returns the messages of one try.
    problem : callable
        Returns what was wrong with it, empty if nothing was.

    Raises
    ------
    Unusable
        If it is not usable after ``microscope.suspension.patience_s``.
    """
    start, wait_s, reason = 0.0, _FIRST_WAIT_S, ""
    while True:
        try:
            yield from attempt()
            found = problem()
        except BeamTaken as error:  # in the middle of it: what was measured is dark
            found = str(error)
        if not found:
            break
        start, reason = start or time.monotonic(), found
        yield from suspended(microscope, reason, start, wait_s)
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
    if reason:
        microscope.suspension.reason = ""
        yield from noted(microscope, reason, time.monotonic() - start)


def suspended(
    microscope: Microscope, reason: str, start: float, wait_s: float, is_over: Callable[[], bool] = lambda: False
) -> Plan:
    """Wait, blanked and parked, ``wait_s`` or until something is over; raise Unusable if the patience is.

    ``start`` is when the waiting began, on ``time.monotonic()``.
    """
    patience_s = microscope.suspension.patience_s
    yield from move(microscope.blanker, True)
    yield from move(microscope.probe, None)
    now = time.monotonic()
    if now - start >= patience_s:
        microscope.suspension.reason = ""
        raise still_unusable(reason, patience_s)
    microscope.suspension.reason = reason
    end = min(now + wait_s, start + patience_s)
    while time.monotonic() < end and not is_over():
        yield Msg("checkpoint")
        yield Msg("sleep", None, _POLL_S)


def noted(microscope: Microscope, reason: str, seconds: float) -> Plan:
    """Keep why the run was suspended, and for how long."""
    if microscope.suspension.note is None:
        microscope.suspension.note = Note(microscope.instrument, "suspension", lambda: {})
    note = microscope.suspension.note
    note.values = lambda: {"suspended_s": seconds, "suspended_by": reason}
    yield from record([note], "suspended")


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
