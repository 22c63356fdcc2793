"""Explorer and tuner in a process of their own, asked without waiting for the answer.

A decision takes tenths of a second of computing, which inside Nion Swift would stall the user interface and be slowed
tenfold by it; beside it, the beam goes on measuring meanwhile.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_ae import processes

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
    """Where to measure next, and what is believed."""

    points: IntArray
    """``(k, 2)`` row and column; none: the experiment is over, or nothing was asked for."""
    mean: NDArray[np.float32]
    """Maps, in the shape of the candidates' grid."""
    std: NDArray[np.float32]
    acquisition: NDArray[np.float32]
    measured: int
    """How many measurements it rests on."""
    seconds: float
    """What it took."""


class DecisionProcess:
    """A Python process that decides. Every method returns a future at once; requests are answered in turn.

    It is started when first needed and ends with this one or when closed. If it dies, the futures raise ``StemAeError``
    and a new experiment starts a new one.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stem_ae decision")
        self._process = processes.Companion(
            "stem_ae.explore.serve", "decides where to measure",
            "start the experiment again; if it happens again, free some memory",
        )  # fmt: skip

    def close(self) -> None:
        """End the process, in the middle of a decision if need be."""
        self._process.kill()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._process.close()

    def ready(self) -> Future[None]:
        """Start the process, which takes seconds; the answer comes when it is there."""

        def work() -> None:
            self._process.ask({"do": "nothing"}, {})

        return self._thread.submit(work)

    # --- exploring --------------------------------------------------------------------------------------------------

    def explore(self, image: ArrayLike, settings: Mapping[str, Any], **arrays: ArrayLike) -> Future[IntArray]:
        """Begin an experiment; the answer are its candidates.

        Parameters
        ----------
        image : (H, W) array
        settings : mapping
            Of :class:`~stem_ae.explore.Explorer`, what JSON can say; unless it names a device, ``STEM_AE_DEVICE`` does.
        **arrays
            ``candidates`` or ``features``.
        """
        given = {name: np.asarray(array) for name, array in {"image": image, **arrays}.items()}
        request = {"do": "explore", "settings": dict(settings)}

        def work() -> IntArray:
            self._process.renew()  # device and threads may have changed
            return self._process.ask(request, given)[1]["candidates"]

        return self._thread.submit(work)

    def step(
        self, points: ArrayLike = (), values: ArrayLike = (), batch: int = 0, pending: ArrayLike = ()
    ) -> Future[Decision]:
        """Tell what was measured, and ask for ``batch`` points while the ``pending`` ones are measured."""
        arrays = {"points": _places(points), "values": np.asarray(values, float), "pending": _places(pending)}
        return self._thread.submit(self._decide, {"do": "step", "batch": batch}, arrays)

    def revalue(self, values: ArrayLike) -> Future[Decision]:
        """Give all measurements so far other values, as if another property had been looked for."""
        return self._thread.submit(self._decide, {"do": "revalue"}, {"values": np.asarray(values, float)})

    def suppose(self, values: ArrayLike, number: int = 1) -> Future[Decision]:
        """Return what is believed of another property, with these values at all measurements so far.

        The experiment goes on as it was. Properties with different numbers are learnt side by side.
        """
        request = {"do": "suppose", "number": number}
        return self._thread.submit(self._decide, request, {"values": np.asarray(values, float)})

    def _decide(self, request: dict[str, Any], arrays: processes.Arrays) -> Decision:
        start = time.perf_counter()
        values, maps = self._process.ask(request, arrays)
        return Decision(**maps, measured=values["measured"], seconds=time.perf_counter() - start)

    # --- tuning -----------------------------------------------------------------------------------------------------

    def tune(self, low: ArrayLike, high: ArrayLike, start: ArrayLike, **settings: Any) -> Future[FloatArray]:
        """Begin to tune; the answer are the first settings to try. See :class:`~stem_ae.explore.tuner.Tuner`."""
        arrays = {name: np.asarray(a, float) for name, a in {"low": low, "high": high, "start": start}.items()}
        return self._thread.submit(lambda: self._process.ask({"do": "tune", "settings": settings}, arrays)[1]["trial"])

    def rewarded(self, trial: ArrayLike, reward: float) -> Future[tuple[FloatArray, FloatArray]]:
        """Tell a trial's reward; the answer are the settings to try next, and the best by now."""

        def work() -> tuple[FloatArray, FloatArray]:
            arrays = self._process.ask({"do": "rewarded", "reward": reward}, {"trial": np.asarray(trial, float)})[1]
            return arrays["trial"], arrays["best"]

        return self._thread.submit(work)


def _places(points: ArrayLike) -> IntArray:
    return np.asarray(points, dtype=np.int64).reshape(-1, 2)
