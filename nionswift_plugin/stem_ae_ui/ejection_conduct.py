"""Arming, and one run or rehearsal at a time: begun, paused, stopped and ended, without ever waiting for the beam."""

from __future__ import annotations

import logging
import threading
import time
import traceback
import typing
from collections.abc import Callable

from stem_ae.errors import StemAeError
from stem_ae.manipulate import EjectionRun, Limits
from stem_ae.microscope.deadline import aside
from stem_ae.microscope.interlock import BeamAlarm

from .beam_watch import WATCH

STOP_WAIT_S = 0.08
"""How long :meth:`Conduct.stop` waits for the beam to be off before it returns in any case."""
_CLOSE_S = 3.0  # a closing window waits so long for the end of its run


class Stoppable(typing.Protocol):
    """Runs an eject run: bluesky's engine."""

    def stop(self) -> None:
        """Blank and end the run."""


class Conduct:
    """The arming, and the run under way. For the user interface thread; it is in :data:`WATCH` while armed.

    Parameters
    ----------
    describe : callable
        Returns what the run is doing, in a few words.
    """

    def __init__(self, describe: Callable[[], str]) -> None:
        self._describe = describe
        self._armed_until = -float("inf")
        self._thread: threading.Thread | None = None
        self._runner: Stoppable | None = None
        self.run: EjectionRun | None = None
        """What is under way."""
        self.is_rehearsal = False
        """Whether that is, or was, a rehearsal."""
        self.why = ""
        """Why it was stopped, if not by the button."""

    # --- arming -----------------------------------------------------------------------------------------------------

    def arm(self, limits: Limits) -> None:
        """Allow exposures for as long as the limits say."""
        self._armed_until = time.monotonic() + limits.armed_s
        if self.run and not self.is_rehearsal:
            self.run.guard.arm()
        WATCH.enter(self)

    @property
    def armed_left_s(self) -> float:
        """Seconds until the arming expires; zero if it has."""
        return max(self._armed_until - time.monotonic(), 0.0)

    @property
    def is_live(self) -> bool:
        """Whether it is armed or exposing: something that an operator must be able to stop."""
        return self.armed_left_s > 0 or (self.run is not None and not self.is_rehearsal)

    @property
    def doing(self) -> str:
        """What is going on, in a few words."""
        return self._describe()

    def tick(self) -> None:
        """Leave :data:`WATCH` when the arming has expired."""
        if not self.is_live:
            WATCH.leave(self)

    # --- running ----------------------------------------------------------------------------------------------------

    def begin(
        self, run: EjectionRun, is_rehearsal: bool, work: Callable[[], str], ended: Callable[[str], None],
        runner: Stoppable | None = None,
    ) -> None:
        """Carry out a run in another thread.

        Parameters
        ----------
        run : EjectionRun
            The run to carry out; it is armed here.
        is_rehearsal : bool
            Whether that is on the simulator.
        work : callable
            Does it, and returns why it has ended.
        ended : callable
            Called in the same thread with the result, even after a failure.
        runner : Stoppable, optional
            The engine that carries it out.
        """
        self.run, self.is_rehearsal, self.why, self._runner = run, is_rehearsal, "", runner
        run.guard.arm()
        if not is_rehearsal:
            WATCH.enter(self)

        def carry_out() -> None:
            try:
                reason = work()
            except (StemAeError, BeamAlarm) as error:
                reason = str(error)
            except BaseException as error:
                logging.getLogger(__name__).error("A run failed:\n%s", traceback.format_exc())
                reason = f"It failed unexpectedly ({type(error).__name__}: {error}); the log has the details."
            ended(reason)

        name = "stem_ae rehearsal" if is_rehearsal else "stem_ae eject"
        self._thread = threading.Thread(target=carry_out, daemon=True, name=name)
        self._thread.start()

    def end(self) -> EjectionRun | None:
        """Note that the run has ended; a live run's arming ends with it. Returns the run."""
        run, self.run, self._runner = self.run, None, None
        if not self.is_rehearsal:
            self.disarm()
        return run

    def disarm(self) -> None:
        """Disarm."""
        self._armed_until = -float("inf")
        if self.run is None or self.is_rehearsal:
            WATCH.leave(self)

    # --- interrupting -----------------------------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether the run is paused."""
        return self.run is not None and self.run.guard.paused

    def pause(self) -> None:
        """Pause with the beam blanked, or resume."""
        if self.run is None:
            return
        guard = self.run.guard
        if guard.paused:
            guard.resume()
        else:
            guard.paused = True  # seen at once, however long the blanker takes
            _promptly(guard.pause)

    def stop(self, why: str = "") -> None:
        """Blank, whatever is going on; end the run and disarm. Returns at once.

        Parameters
        ----------
        why : str
            What has happened, if it was not the button.
        """
        run, runner = self.run, self._runner
        if self.is_live and not self.why:
            self.why = why
        self._armed_until = -float("inf")
        if run is None or self.is_rehearsal:
            WATCH.leave(self)
            if not why and (interlock := WATCH.interlock):
                interlock.darken()  # a person wants the beam off, whatever has unblanked it
        if run is None:
            return

        def work() -> None:
            if runner is not None:
                runner.stop()
            run.stop()

        run.guard.stopped = True  # seen at once, however long the blanker takes
        _promptly(work)

    def close(self) -> None:
        """Stop, and wait briefly for the end."""
        if self.is_live or self.run:
            self.stop("the window was closed")
        if thread := self._thread:
            thread.join(_CLOSE_S)
        WATCH.leave(self)


def _promptly(work: Callable[[], object]) -> None:
    """Do something in another thread, and wait so briefly that nobody notices."""
    done = threading.Event()

    def do() -> None:
        try:
            work()
        except Exception:  # the run's thread, or the alarm, says what is wrong
            logging.getLogger(__name__).error("Stopping failed:\n%s", traceback.format_exc())
        finally:
            done.set()

    aside(do)
    done.wait(STOP_WAIT_S)
