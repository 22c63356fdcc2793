"""Adapting a model in a process of its own, with progress, cancel, and what changed.

``python -m stem_ae.elit.adapting`` is that process; :class:`Adaptation` starts it and listens. The new model is in the
store when it is done, and nothing is there when it is cancelled or killed.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from stem_ae import processes
from stem_ae.elit.prediction import Prediction
from stem_ae.elit.wire import packed, unpacked
from stem_ae.errors import StemAeError


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What the adaptation changed."""

    name: str
    """Name of the new model in the store."""
    version: str
    before: Prediction
    """Of the first frame, by the model it started from."""
    after: Prediction
    sure: tuple[int, ...]
    """Atoms that the model could count on, before and after each round."""
    gained: bool
    """Whether it is another model; where training gains nothing, it is not."""

    def __str__(self) -> str:
        if not self.gained:
            return f"“{self.name}” is the model as it was: training found no more than its {self.sure[0]} atoms."
        old, new = (len(p.atoms) for p in (self.before, self.after))
        kept = self.matched
        return (
            f"“{self.name}”: sure of {self.sure[0]} atoms before, {max(self.sure[1:])} now. On this frame {new} atoms "
            f"instead of {old}: {new - kept} new, {old - kept} gone; novelty {self.before.novelty:.1f} → "
            f"{self.after.novelty:.1f}."
        )

    @property
    def matched(self) -> int:
        """How many atoms both models see, within 0.5 Å."""
        from scipy.spatial import cKDTree

        before, after = (p.atoms.positions for p in (self.before, self.after))
        if not len(before) or not len(after):
            return 0
        distance, nearest = cKDTree(before).query(after, distance_upper_bound=0.5)
        return len(set(nearest[np.isfinite(distance)].tolist()))


class Adaptation:
    """One adaptation under way.

    Parameters
    ----------
    model : str
        Name or path of the model to start from.
    frames : sequence of (H, W) arrays
        Of the running experiment.
    sampling : (float, float)
        Å per pixel, ``(y, x)``.
    changed : callable
        Called in another thread when :attr:`state`, :attr:`fraction` or :attr:`text` has changed. Must not block.
    effort : dict
        Fields of :class:`stem_ae.elit.adaptation.Effort` that are not to have their usual value.
    """

    def __init__(
        self,
        model: str,
        frames: Sequence[ArrayLike],
        sampling: tuple[float, float],
        changed: Callable[[Adaptation], None],
        effort: dict[str, int] | None = None,
    ) -> None:
        self.model = model
        self.state: Literal["running", "done", "failed", "cancelled"] = "running"
        self.fraction = 0.0
        self.text = "starting"
        """What is being done, or one sentence on what went wrong."""
        self.comparison: Comparison | None = None
        """What changed, once it is done."""
        self._changed = changed
        self._request = {"model": model, "sampling": list(sampling), "effort": effort or {}}
        self._frames = {f"frame {k}": np.asarray(frame, np.float32) for k, frame in enumerate(frames)}
        self._process = processes.Companion(
            "stem_ae.elit.adapting", "adapts the model", "free some memory and try again", threads=os.cpu_count()
        )
        self._process.start()
        self._thread = threading.Thread(target=self._run, name="stem-ae adaptation", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """End it now; no model is left behind. Nothing happens if it has ended."""
        if self.state == "running":
            self.state, self.text = "cancelled", "cancelled; the model is as it was"
            self._process.kill()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until it has ended."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._process.send(self._request, self._frames)
            while self.state == "running":
                self._hear(*self._process.receive())
        except StemAeError as error:
            self._end("failed", str(error))
        except processes.RemoteError as error:
            logging.getLogger(__name__).error("adaptation failed", exc_info=error)
            self._end("failed", f"The adaptation failed: {error} (the log has the details).")
        finally:
            self._process.close()
        self._changed(self)

    def _hear(self, values: dict[str, Any], arrays: processes.Arrays) -> None:
        if "fraction" in values:
            self.fraction, self.text = values["fraction"], values["text"]
            self._changed(self)
        else:
            before, after = (
                unpacked(values[when], {n.partition("/")[2]: a for n, a in arrays.items() if n.startswith(when)})
                for when in ("before", "after")
            )
            self.comparison = Comparison(
                values["name"], values["version"], before, after, tuple(values["sure"]), values["gained"]
            )
            self.fraction = 1.0
            self._end("done", str(self.comparison))

    def _end(self, state: Literal["done", "failed"], text: str) -> None:
        if self.state == "running":
            self.state, self.text = state, text


# --- the process ------------------------------------------------------------------------------------------------------


def main() -> None:
    """Adapt as the one request on standard input says; progress, then the comparison, go to standard output."""
    answers = processes.Answers()
    request, arrays = processes.receive(sys.stdin.buffer)
    _end_with_parent()

    def progress(fraction: float, text: str) -> None:
        answers.send({"fraction": fraction, "text": text})

    try:
        with answers.working():
            values, result = _adapted(request, list(arrays.values()), progress)
    except Exception as error:  # the other side must hear of it, whatever it is
        values, result = processes.failure(error), {}
    answers.send(values, result)


def _end_with_parent() -> None:
    """End this process when whoever started it is gone: its end of the pipe closes then, however it went."""

    def watch() -> None:
        sys.stdin.buffer.read(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _adapted(
    request: dict[str, Any], frames: Sequence[ArrayLike], progress: Callable[[float, str], None]
) -> tuple[dict[str, Any], processes.Arrays]:
    from stem_ae import elit
    from stem_ae.elit.adaptation import Effort
    from stem_ae.store import models

    step = tuple(request["sampling"])
    ensemble = elit.load(request["model"])
    adapted = elit.adapt(ensemble, frames, step, progress=progress, effort=Effort(**request["effort"]))
    before, after = (packed(model.predict(frames[0], step)) for model in (ensemble, adapted))
    adapted.save(models.new_path(adapted.name))
    values = {
        "name": adapted.name,
        "version": adapted.version,
        "gained": adapted.version != ensemble.version,
        "sure": adapted.description.provenance["sure_atoms"],
        "before": before[0],
        "after": after[0],
    }
    arrays = {f"{when}/{n}": a for when, part in (("before", before), ("after", after)) for n, a in part[1].items()}
    return values, arrays


if __name__ == "__main__":
    main()
