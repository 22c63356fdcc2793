"""Adapting a model in a process of its own, with progress, cancel, and what changed.

``python -m stem_ae.elit.adapting`` is that process; :class:`Adaptation` starts it and listens. The new model is in the
store when it is done, and nothing is there when it is cancelled or killed. A model whose atoms cannot be atoms, such as
one that was adapted to noise, waits beside the store until somebody says whether to keep it.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from stem_ae import processes
from stem_ae.elit.prediction import Prediction
from stem_ae.elit.wire import packed, unpacked
from stem_ae.errors import StemAeError
from stem_ae.store import models
from stem_ae.words import counted

if TYPE_CHECKING:
    from stem_ae.elit.ensemble import Ensemble

_TELLING = 0.1  # part after which the pace tells how long the rest takes
_FORGOTTEN_S = 86400.0
_WAITING = ".waiting"  # ending of a pending model, about which the user has to decide: the store does not list it


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What the adaptation changed."""

    name: str
    """Name of the new model in the store; where nothing was gained, of the model that it started from."""
    version: str
    before: Prediction
    """Of the first frame, by the model it started from."""
    after: Prediction
    sure: tuple[int, ...]
    """Atoms that the model could count on, before and after each round."""
    gained: bool
    """Whether there is another model; where training gains nothing, there is not."""
    doubt: str = ""
    """One sentence if what the new model finds cannot be atoms; empty otherwise."""

    def __str__(self) -> str:
        if not self.gained:
            sure = counted(self.sure[0], "atom")
            return f"Adapting gains nothing here: “{self.name}” stays as it is, sure of {sure}. {self.doubt}".strip()
        old, new = (len(p.atoms) for p in (self.before, self.after))
        kept = self.matched
        return (
            f"“{self.name}”: sure of {counted(self.sure[0], 'atom')} before, {max(self.sure[1:]):,} now. On this frame "
            f"{counted(new, 'atom')} instead of {old:,}: {new - kept:,} new, {old - kept:,} gone; novelty "
            f"{self.before.conditions:.1f} → {self.after.conditions:.1f}."
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
        self._started = time.monotonic()
        self._waiting: pathlib.Path | None = None
        self._changed = changed
        self._request = {"model": model, "sampling": list(sampling), "effort": effort or {}}
        self._frames = {f"frame {k}": np.asarray(frame, np.float32) for k, frame in enumerate(frames)}
        self._process = processes.Companion(
            "stem_ae.elit.adapting", "adapts the model", "free some memory and try again",
            threads=processes.chosen_threads() or os.cpu_count(),
        )  # fmt: skip
        _forget_old_questions()
        self._process.start()
        self._thread = threading.Thread(target=self._run, name="stem-ae adaptation", daemon=True)
        self._thread.start()

    @property
    def seconds_left(self) -> float | None:
        """Time left by the pace so far; it may end earlier. ``None`` while unknown."""
        if self.state != "running" or self.fraction < _TELLING:
            return None
        return (time.monotonic() - self._started) * (1 - self.fraction) / self.fraction

    @property
    def is_waiting(self) -> bool:
        """Whether the new model is not in the store yet: :meth:`keep` or :meth:`discard` it."""
        return self._waiting is not None

    def keep(self) -> None:
        """Put a pending model into the store."""
        if self._waiting and self.comparison:
            os.replace(self._waiting, models.new_path(self.comparison.name))
            self._waiting = None

    def discard(self) -> None:
        """Delete a pending model. A model in the store stays."""
        if self._waiting:
            self._waiting.unlink(missing_ok=True)
            self._waiting = None

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
                values["name"], values["version"], before, after, tuple(values["sure"]), values["gained"],
                values["doubt"],
            )  # fmt: skip
            self._waiting = pathlib.Path(values["path"]) if values["doubt"] and values["gained"] else None
            self.fraction = 1.0
            self._end("done", str(self.comparison))

    def _end(self, state: Literal["done", "failed"], text: str) -> None:
        if self.state == "running":
            self.state, self.text = state, text


def _forget_old_questions() -> None:
    """Delete pending models older than a day: the user who should decide is gone."""
    for path in models.user_folder().glob("*" + _WAITING):
        if time.time() - path.stat().st_mtime > _FORGOTTEN_S:
            path.unlink(missing_ok=True)


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

    step = tuple(request["sampling"])
    ensemble = elit.load(request["model"])
    adapted = elit.adapt(ensemble, frames, step, progress=progress, effort=Effort(**request["effort"]))
    predictions = [model.predict(frames[0], step) for model in (ensemble, adapted)]
    before, after = map(packed, predictions)
    gained = adapted.version != ensemble.version
    doubt = implausible(predictions[1], adapted, frames[0])
    path = models.new_path(adapted.name)
    if gained:
        path = adapted.save(path.with_suffix(_WAITING) if doubt else path)
    values = {
        "name": adapted.name if gained else ensemble.name,
        "version": adapted.version,
        "gained": gained,
        "sure": adapted.description.provenance["sure_atoms"],
        "doubt": doubt,
        "path": str(path),
        "before": before[0],
        "after": after[0],
    }
    arrays = {f"{when}/{n}": a for when, part in (("before", before), ("after", after)) for n, a in part[1].items()}
    return values, arrays


def implausible(prediction: Prediction, ensemble: Ensemble, frame: ArrayLike) -> str:
    """Return one sentence if what an adapted model finds in its frame cannot be atoms, else nothing.

    The novelty says nothing here: for the adapted model the frame is familiar, whatever it shows.
    """
    from stem_ae.elit.trust import CERTAIN_LATTICE, NO_LATTICE, Evidence, trust_in

    constant = ensemble.lattice_constant
    value, clarity = ensemble.estimate_sampling(frame) if constant else (math.nan, math.nan)
    evidence = Evidence.of(prediction, value if clarity >= CERTAIN_LATTICE else None, clarity)
    if clarity < NO_LATTICE and math.isnan(evidence.bond):
        return (
            f"The frame shows no lattice, and only {counted(evidence.atoms, 'atom')} in it: that may be noise."
        )
    trust = trust_in(dataclasses.replace(evidence, conditions=0.0, foreign=0), constant)
    if clarity < NO_LATTICE and trust.doubt == "bonds":
        return (
            f"The frame shows no lattice, and its {counted(evidence.atoms, 'atom')} are at random distances from "
            "each other: that may be noise."
        )
    return trust.sentence


if __name__ == "__main__":
    main()
