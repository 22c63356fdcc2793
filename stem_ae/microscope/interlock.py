"""The only code that commands the blanker; it reads back the result, and raises the alarm if the beam may be on.

A microscope has one :class:`Interlock`, however many panels and scripts work with it (:meth:`Interlock.of`). The state
that it reports was read from the microscope, never inferred from a command.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol, TypeVar

from stem_ae.errors import StemAeError
from stem_ae.microscope import garbage
from stem_ae.microscope.deadline import Hung, aside, within
from stem_ae.microscope.instrument import Cancelled
from stem_ae.microscope.watchdog import Watchdog

BeamState = Literal["blanked", "on", "unknown"]

ANSWER_S = 1.0
"""A driver that has not answered after this time hangs, which is an alarm."""
TOLERANCE_S = 0.2
"""How long after a command the read-back may take to agree with it."""
TRIES = 3
STOP_WAIT_S = 0.075
"""How long :meth:`Interlock.stop` waits for the beam to be off before it returns in any case."""
_PAUSES_S = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02)  # between read-backs; the last one again and again
_AGAIN_S = 0.05  # after a command that failed at once
LEASE_S = 5.0
"""How long the beam stays on if nobody renews the lease."""
LEASE_TIMES, LEASE_MORE_S = 1.2, 2.0
"""The lease of an operation: its duration times the first number, plus the second in seconds."""
_LATER_S = 0.15  # the watchdog lets this program blank first
_KEEP_S = 0.05
_IDLE_S = 5.0
_RESCUE_S = 0.5  # between further tries while an alarm stands
STOPPED = "stop"
_ALARM = "THE BEAM MAY STILL BE ON: BLANK IT BY HAND, NOW"

Hook = TypeVar("Hook", bound=Callable[..., object])


class BeamAlarm(Exception):  # noqa: N818  (not an error that a run may handle: nothing but its end catches it)
    """The beam should be off and did not read as off. The message is :attr:`Interlock.alarm`."""


class BeamTaken(StemAeError):  # noqa: N818
    """The beam was blanked in the middle of an exposure: everything measured since then is dark."""


class NoBeam(StemAeError):  # noqa: N818
    """The beam did not come on, and was blanked again."""


class Switch(Protocol):
    """What the interlock works with: an :class:`~stem_ae.microscope.instrument.Instrument`, or a part of one.

    It may also have ``stop_scan()``, which stops whatever scans. Every call may hang or fail.
    """

    @property
    def is_blanked(self) -> bool:
        """Whether the beam is blanked, as read from the microscope."""

    def blank(self, blanked: bool) -> None:
        """Blank or unblank the beam."""

    def park(self, place: None) -> None:
        """Park the probe where it does no harm."""


class Interlock:
    """Blanks and unblanks, reads back, tries again, and latches an alarm that only a person can clear.

    All methods may be called from any thread.

    Parameters
    ----------
    switch : Switch
        The blanker to command. To get the interlock of an instrument use :meth:`of`.
    is_readable : bool
        Whether there is a read-back. Without one a command that returns counts as done, and the state is unknown.
    has_lease : bool
        Whether the beam goes off when nobody has renewed the lease; see :meth:`renew`.
    """

    def __init__(self, switch: Switch, is_readable: bool = True, has_lease: bool = False) -> None:
        self._switch, self._is_readable, self._has_lease = switch, is_readable, has_lease
        self._gate = threading.RLock()  # held briefly, never while a driver is called
        self._turn = threading.Lock()  # one sequence of command and read-back at a time
        self._moment = 0  # counts demands to blank: one that arrives during an unblanking cancels it
        self._commands = 0
        self._holds: set[object] = set()
        self.is_to_be_on = False
        """Whether the beam was unblanked and nothing has demanded blanking since."""
        self._state: BeamState = "unknown"
        self._told: BeamState = "unknown"
        self._alarm = self._taken = ""
        self._lease_until = 0.0
        self._keeper: threading.Thread | None = None
        self._watchdog: Watchdog | None = None
        self._listeners: list[Callable[[], object]] = []
        self._cancels: list[weakref.WeakMethod[Callable[[], object]]] = []

    @staticmethod
    def of(instrument: Any) -> Interlock:
        """Return the interlock of an instrument: the same one for everybody in this process.

        Instruments with the same ``identity`` (an attribute) are the same microscope.
        """
        identity = getattr(instrument, "identity", instrument)
        with _interlocks_lock:
            interlock = vars(identity).get(_ATTRIBUTE)
            if not isinstance(interlock, Interlock):
                interlock = Interlock(instrument, has_lease=True)
                vars(identity)[_ATTRIBUTE] = interlock  # stored there, it lives as long as the instrument
            interlock._switch = instrument
            if interlock._watchdog is None and (link := getattr(instrument, "blanker_link", None)):
                interlock._guarded_by(link, str(getattr(instrument, "name", "the microscope")))
        return interlock

    def _guarded_by(self, link: Mapping[str, Any], name: str) -> None:
        """Start a watchdog for the beam: a process that survives this one."""
        method = weakref.WeakMethod(self._was_taken)

        def taken(sentence: str) -> None:
            if (known := method()) is not None:
                known(sentence)

        self._watchdog = watchdog = Watchdog(link, name, taken)
        weakref.finalize(self, watchdog.close)
        aside(watchdog.start)  # so that the first unblanking need not wait for it

    # --- the state --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> BeamState:
        """The beam as last read; unknown while a command is under way or if it cannot be read."""
        return self._state

    @property
    def alarm(self) -> str:
        """The alarm's message; empty if there is none. It stands until :meth:`acknowledge`."""
        return self._alarm

    @property
    def is_shut(self) -> bool:
        """Whether unblanking is refused now."""
        return bool(self._holds or self._alarm)

    @property
    def is_stopped(self) -> bool:
        """Whether somebody has pressed Stop, which ends runs. Other holders of the beam only pause it."""
        return STOPPED in self._holds

    @property
    def moment(self) -> int:
        """A ticket for :meth:`unblank`; the next demand to blank makes it invalid."""
        return self._moment

    @property
    def watchdog(self) -> Watchdog | None:
        """What blanks if this program dies; None: nothing can, since there is no other connection to the blanker."""
        return self._watchdog

    def read(self) -> BeamState:
        """Read the beam's state now and return it; while a command is under way, return the state known so far."""
        is_busy, commands = self._turn.locked(), self._commands
        try:
            state = self._read()
        except Hung:
            state = "unknown"
        with self._gate:  # a state read before a command says nothing about its effect
            is_old = is_busy or self._turn.locked() or commands != self._commands
            if not is_old:
                self._set_state(state)
        return self._state

    def listen(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call back, in any thread, when the state, the alarm or a stop changes; returns a function that ends this."""
        with self._gate:
            self._listeners.append(callback)

        def remove() -> None:
            with self._gate, contextlib.suppress(ValueError):
                self._listeners.remove(callback)

        return remove

    def cancels(self, method: Callable[[], object]) -> None:
        """Call a bound method at every stop and alarm, to cancel what is under way; held weakly, and must be quick."""
        with self._gate:
            self._cancels = [m for m in self._cancels if m() is not None]
            self._cancels.append(weakref.WeakMethod(method))

    # --- commands ---------------------------------------------------------------------------------------------------

    def blank(self) -> None:
        """Blank the beam and return when it reads as blanked.

        Raises
        ------
        BeamAlarm
            If that failed three times, or the blanker hangs. The probe was parked away and the scan stopped then.
        """
        self._demand_darkness()
        self._blank()

    def unblank(self, moment: int | None = None) -> None:
        """Unblank and return when the beam reads as on. The first lease lasts some seconds: see :meth:`renew`.

        Parameters
        ----------
        moment : int, optional
            :attr:`moment` at which it was decided to unblank; if anything has demanded blanking since, the beam stays
            off.

        Raises
        ------
        Cancelled
            If the beam is not to be on: see :meth:`stop`, :meth:`darken`.
        NoBeam
            If it did not come on. It was blanked again.
        BeamTaken
            If the beam was taken away before, and :meth:`kept` was not called since.
        BeamAlarm
            If an alarm stands, or the beam could not be blanked again.
        """
        moment = self._moment if moment is None else moment
        self._check(moment)
        self.kept()
        if self._watchdog is not None:
            self._watchdog.start()
        with self._taking_turns() as has_turn:
            with self._gate:
                self._check(moment)
                if not has_turn:
                    raise NoBeam("The blanker is still busy with an earlier command: the beam stays off.")
                self.is_to_be_on = True
            self._hold()
            failure, hangs = self._tried(False, moment)
            with self._gate:
                if not failure and self._moment == moment:
                    return
                self.is_to_be_on = False
            if hangs:
                self._raise_alarm(failure)
            self._blank_in_turn()
        if self._moment != moment:
            raise Cancelled("The beam was switched off before it came on.")
        raise NoBeam(f"The beam did not come on ({failure}), and was blanked again: look at the blanker.")

    def stop(self, holder: object = STOPPED) -> None:
        """Blank, and refuse to unblank until :meth:`reopen`. Returns at once: check :attr:`state`.

        Another thread blanks. It has usually finished when this returns; if not, the state says so, and listeners are
        told of the result.

        Parameters
        ----------
        holder : object
            Who holds the beam off, if it is not for good.
        """
        with self._gate:
            self._holds.add(holder)
        self.darken()
        self._tell()

    def reopen(self, *holders: object) -> None:
        """Release the stops of these holders, or all stops if none is named. The beam stays blanked."""
        with self._gate:
            self._holds = self._holds.difference(holders) if holders else set()
            self._taken = "" if not holders else self._taken

    def renew(self, seconds: float = LEASE_S) -> None:
        """Extend the lease to so many seconds from now; when it runs out, the beam is blanked.

        An exposure renews it with every reading, a scan once for its whole duration; a run that hangs does not.
        """
        with self._gate:
            self._lease_until = time.monotonic() + seconds
            is_lit = self.is_to_be_on
        if is_lit and self._watchdog is not None:
            self._watchdog.lease(seconds + _LATER_S)

    def kept(self) -> None:
        """Raise BeamTaken, once, if the beam was blanked while in use: the readings since then are dark."""
        with self._gate:
            taken, self._taken = self._taken, ""
        if taken:
            raise BeamTaken(taken)

    def darken(self, wait_s: float = STOP_WAIT_S) -> bool:
        """Blank in another thread, cancel what is under way, and return whether the beam reads as blanked.

        An unblanking under way is cancelled.

        Parameters
        ----------
        wait_s : float
            How long to wait for that. If it takes longer the beam may be on, and :attr:`state` is not "blanked".
        """
        self._demand_darkness()
        done, seen = threading.Event(), list[BeamState]()

        def work() -> None:
            try:
                with self._taking_turns():
                    self._blank_in_turn()
                    seen.append(self._state)  # now: somebody may blank again, which makes it unknown for a moment
            except BeamAlarm:  # `alarm` holds it, and the listeners were told
                pass
            finally:
                done.set()

        aside(work)
        self._cancel()
        return done.wait(wait_s) and seen == ["blanked"]

    def acknowledge(self) -> None:
        """Clear the alarm: a person has checked the beam.

        Raises
        ------
        StemAeError
            If the beam still does not read as blanked; the alarm then stands.
        """
        if not self._alarm:
            return
        end = time.monotonic() + TOLERANCE_S  # a command may be under way: the rescue's, or a late one
        while (state := self.read()) == "unknown" and time.monotonic() < end:
            time.sleep(_PAUSES_S[-1])
        if state != "blanked" and self._is_readable:
            what = "is still read as on" if state == "on" else "cannot be read"
            raise StemAeError(f"The beam {what}: blank it by hand, then acknowledge.")
        with self._gate:
            self._alarm = ""
        self._tell()

    # --- blanking ---------------------------------------------------------------------------------------------------

    def _demand_darkness(self) -> None:
        with self._gate:
            self._moment += 1
            self.is_to_be_on = False

    def _blank(self) -> None:
        with self._taking_turns():
            self._blank_in_turn()

    def _blank_in_turn(self) -> None:
        failure = ""
        for k in range(TRIES):
            if k:
                time.sleep(_AGAIN_S)
            failure, hangs = self._tried(True)
            if not failure:
                if self._watchdog is not None and not self.is_to_be_on:
                    self._watchdog.off()
                return
            if hangs:
                break
        self._raise_alarm(failure)

    @contextlib.contextmanager
    def _taking_turns(self) -> Iterator[bool]:
        """Wait for the sequence under way, but not for ever: if it hangs, blanking must not wait for it."""
        has_turn = self._turn.acquire(timeout=ANSWER_S)
        try:
            yield has_turn
        finally:
            # Without a turn: the other sequence hangs and will raise the alarm soon; wait until that is known.
            if has_turn or self._turn.acquire(timeout=2 * ANSWER_S):
                self._turn.release()

    def _tried(self, blanked: bool, moment: int | None = None) -> tuple[str, bool]:
        """Command once and read back; return what went wrong, and whether the microscope hangs."""
        with self._gate:
            self._commands += 1
            self._set_state("unknown", tell=False)
        verb = "blank" if blanked else "unblank"

        def command() -> None:
            # On a busy computer its thread may begin so late that the beam is to be off again by then.
            if blanked or self._moment == moment:
                self._switch.blank(blanked)

        try:
            within(ANSWER_S, command, self._came_late)
            return self._read_back("blanked" if blanked else "on", f"the command to {verb}", moment), False
        except Hung:
            self._set_state("unknown")
            return f"the blanker has not answered for {ANSWER_S:g} s", True
        except Exception as error:  # whatever failed, the command cannot be trusted
            with contextlib.suppress(Hung):
                self._set_state(self._read())
            return f"the command to {verb} failed: {_words(error)}", False

    def _read_back(self, wanted: BeamState, what: str, moment: int | None) -> str:
        """Read until the state is as wanted; return what went wrong."""
        end = time.monotonic() + TOLERANCE_S
        pauses = iter(_PAUSES_S)
        while self._is_readable:
            state = self._read()
            if state == wanted or (moment is not None and self._moment != moment):
                self._set_state(state)
                return ""
            if not time.monotonic() < end:
                self._set_state(state)
                seen = f"the beam is read as {state}" if state != "unknown" else "the beam's state cannot be read"
                return f"{TOLERANCE_S:g} s after {what} {seen}"
            time.sleep(next(pauses, _PAUSES_S[-1]))
        return ""

    def _read(self) -> BeamState:
        """Return the state read; anything but a clear yes or no is unknown. Raises Hung."""
        if not self._is_readable:
            return "unknown"
        try:
            value = within(ANSWER_S, lambda: self._switch.is_blanked)
            if bool(value == 1):
                return "blanked"
            return "on" if bool(value == 0) else "unknown"
        except Hung:
            raise
        except Exception:  # whatever it is, it was not read
            return "unknown"

    def _came_late(self) -> None:
        """Blank again after a late command: it may have been one to unblank."""
        with self._gate:
            if self.is_to_be_on:
                return
        with contextlib.suppress(BeamAlarm):
            self._blank()

    # --- the lease --------------------------------------------------------------------------------------------------

    def _hold(self) -> None:
        """Make sure that the beam goes off if this program dies, or if nobody renews the lease."""
        if self._watchdog is not None:
            try:
                self._watchdog.on(LEASE_S + _LATER_S)
            except StemAeError:
                self.is_to_be_on = False
                raise
        if not self._has_lease:
            return
        with self._gate:
            self._lease_until = time.monotonic() + LEASE_S
            if self._keeper is None:
                garbage.put_off()
                self._keeper = threading.Thread(
                    target=_keep, args=[weakref.ref(self)], daemon=True, name="stem_ae beam lease"
                )
                self._keeper.start()

    def _was_taken(self, sentence: str) -> None:
        """Note that the beam was taken away, and blank to be sure."""
        with self._gate:
            if self.is_to_be_on:
                self._taken = sentence
        logging.getLogger(__name__).warning(sentence)
        self.darken()
        self._tell()

    # --- the alarm --------------------------------------------------------------------------------------------------

    def _raise_alarm(self, reason: str) -> None:
        """Latch the alarm, limit the harm, and raise it."""
        with self._gate:
            self.is_to_be_on = False
            self._moment += 1
            is_new = not self._alarm
            self._alarm = self._alarm or f"{_ALARM}. {reason[0].upper()}{reason[1:]}."
        self._tell()
        self._cancel()
        if is_new:
            logging.getLogger(__name__).critical(self._alarm)
            if self._watchdog is not None and self._watchdog.blank():
                with self._gate:
                    self._alarm += " The watchdog has blanked the beam through its own connection, and read it back."
            self._mitigate()
            self._tell()
            threading.Thread(
                target=_rescue, args=[weakref.ref(self)], daemon=True, name="stem_ae beam alarm"
            ).start()
        raise BeamAlarm(self._alarm)

    def _mitigate(self) -> None:
        """Park the probe and stop the scan; add what failed to the alarm."""
        steps = {"The probe could not be parked away": lambda: self._switch.park(None)}
        if stop_scan := getattr(self._switch, "stop_scan", None):
            steps["The scan could not be stopped"] = stop_scan
        for sentence, step in steps.items():
            try:
                within(ANSWER_S, step)
            except Exception as error:  # whatever it is, the next step is tried as well
                with self._gate:
                    self._alarm += f" {sentence}: {_words(error)}."

    def _cancel(self) -> None:
        for reference in list(self._cancels):
            method = reference()
            if method is not None:
                try:
                    method()
                except Exception:
                    logging.getLogger(__name__).exception("What was under way could not be cancelled")

    # --- telling ----------------------------------------------------------------------------------------------------

    def _check(self, moment: int) -> None:
        if self._alarm:
            raise BeamAlarm(self._alarm)
        if self._holds or self._moment != moment:
            raise Cancelled("The beam stays off: somebody has pressed Stop or Pause.")

    def _set_state(self, state: BeamState, tell: bool = True) -> None:
        with self._gate:
            self._state = state
            if not tell or state == self._told:
                return
            self._told = state
        self._tell()

    def _tell(self) -> None:
        for callback in list(self._listeners):
            aside(lambda callback=callback: _told(callback))  # type: ignore[misc]


_ATTRIBUTE = "_stem_ae_interlock"
_interlocks_lock = threading.Lock()


def _keep(reference: weakref.ref[Interlock]) -> None:
    """Blank when the lease has run out; ends when the beam has been off for a while."""
    try:
        _keep_until_idle(reference)
    finally:
        garbage.allow()


def _keep_until_idle(reference: weakref.ref[Interlock]) -> None:
    off_since = time.monotonic()
    while True:
        time.sleep(_KEEP_S)
        interlock = reference()
        if interlock is None:
            return
        now = time.monotonic()
        if interlock.is_to_be_on:
            off_since = now
            if not now < interlock._lease_until:
                interlock._was_taken(
                    "The beam was taken away: the run did not renew its lease of the beam, so it may hang."
                )
        elif now - off_since > _IDLE_S:
            with interlock._gate:
                if not interlock.is_to_be_on:
                    interlock._keeper = None
                    return
        del interlock


def _told(callback: Callable[[], object]) -> None:
    try:
        callback()
    except Exception:
        logging.getLogger(__name__).exception("A listener of the interlock failed")


def _rescue(reference: weakref.ref[Interlock]) -> None:
    """Keep trying to blank, and read back, while an alarm stands."""
    while True:
        time.sleep(_RESCUE_S)
        interlock = reference()
        if interlock is None or not interlock.alarm:
            return
        if interlock.read() != "blanked":
            with contextlib.suppress(BeamAlarm):
                interlock.blank()
        del interlock


def _words(error: BaseException) -> str:
    if isinstance(error, Hung):
        return "it does not answer"
    return str(error).rstrip(".") or type(error).__name__
