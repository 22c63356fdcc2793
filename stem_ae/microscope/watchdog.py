"""A process that blanks the beam when the program that unblanked it has died, hangs, or does not renew its lease.

:class:`Watchdog` starts it and talks to it through a pipe. While the beam is on, the process blanks by its own link to
the blanker (:mod:`.link`), reads back and tries again, when

- the pipe closes: the program has ended, however it ended;
- no heart-beat has come for 0.4 s: the program hangs, or was stopped;
- the lease, which an exposure renews with every reading and a scan takes for its duration, has run out: the run hangs.

It writes a record of what it did before it reports it, so that the next start can show it (:func:`untold`).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from stem_ae.errors import StemAeError
from stem_ae.microscope.link import Link, LinkError, opened

SILENCE_S = 0.4
BEAT_S = 0.04
_PING_S = 0.5  # how often the link is tested while the beam is on, if that is cheap
_ECHO_S = 1.0  # a watchdog that has answered no heart-beat for so long counts as hung
_START_S = 20.0
_AGAIN_S = 0.05
_GIVE_UP_S = 600.0  # how long it tries to blank when nobody is left to be told
_CHUNK = 4096


# --- what it leaves ---------------------------------------------------------------------------------------------------


def records_folder() -> pathlib.Path:
    """Return the folder of the records: in the user's data folder, or ``STEM_AE_WATCHDOG_RECORDS``."""
    import platformdirs

    override = os.environ.get("STEM_AE_WATCHDOG_RECORDS")
    return pathlib.Path(override) if override else platformdirs.user_data_path("stem_ae", appauthor=False) / "watchdog"


def untold(folder: pathlib.Path | None = None) -> list[tuple[pathlib.Path, str]]:
    """Return the records that were not shown yet, each with a sentence for the user. See :func:`tell`."""
    found = []
    for path in sorted((folder or records_folder()).glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            found.append((path, f"On {record['when']} {record['sentence']}"))
        except (OSError, ValueError, KeyError, TypeError):  # not ours, or half written
            continue
    return found


def tell(path: pathlib.Path) -> None:
    """Note that a record was shown to the user."""
    with contextlib.suppress(OSError):
        path.rename(path.with_suffix(".told"))


# --- the process ------------------------------------------------------------------------------------------------------


class _Process:
    """Watches the beam for the program that writes to ``stdin``."""

    def __init__(self, order: Mapping[str, Any], pipe: int) -> None:
        self._order, self._pipe = order, pipe
        self._link: Link | None = None
        self._is_on = False
        self._beat = self._lease = self._pinged = 0.0
        self._text = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(pipe, selectors.EVENT_READ)

    def watch(self) -> None:
        """Watch until the pipe closes."""
        try:
            self._opened().is_blanked()
        except LinkError as error:
            _say("broken", str(error))
            return
        _say("ready")
        while True:
            if self._selector.select(self._patience_s()):
                data = os.read(self._pipe, _CHUNK)
                if not data:
                    break
                *lines, self._text = (self._text + data).split(b"\n")
                for line in lines:
                    self._hear(line.decode())
            if reason := self._due():
                self._take(reason)
            self._ping()
        if self._is_on:
            self._take(f"{self._order['name']}'s program has ended")

    def _patience_s(self) -> float | None:
        if not self._is_on:
            return None
        deadlines = (self._beat + float(self._order["silence_s"]), self._lease, self._pinged + _PING_S)
        return max(min(deadlines) - time.monotonic(), 0.0)

    def _hear(self, line: str) -> None:
        now = time.monotonic()
        self._beat = now
        word, *rest = line.split()
        if word in ("on", "lease"):
            if word == "on":
                self._is_on, self._pinged = True, now
            self._lease = now + float(rest[0])
        elif word == "off":
            self._is_on = False
        elif word == "blank":
            self._is_on = False
            _say("blanked" if not self._blanked(1.0) else "failed")
        elif word == "beat":
            _say("alive")

    def _due(self) -> str:
        """Return why the beam has to go off now, if it has to."""
        now = time.monotonic()
        if not self._is_on:
            return ""
        if not now - self._beat < self._order["silence_s"]:
            return f"nothing was heard of the program for {1e3 * (now - self._beat):.0f} ms"
        if not now < self._lease:
            return "the run did not renew its lease of the beam"
        return ""

    def _ping(self) -> None:
        """Try the link, so that a broken one is known while somebody else can still blank."""
        now = time.monotonic()
        if self._is_on and now - self._pinged > _PING_S and "command" not in self._order["link"]:
            self._pinged = now
            try:
                self._opened().is_blanked()
            except LinkError as error:
                self._close()
                _say("broken", str(error))

    def _take(self, reason: str) -> None:
        """Take the beam off, and leave a record of it."""
        self._is_on = False
        start = time.monotonic()
        failure = self._blanked(0.3)
        took_ms = 1e3 * (time.monotonic() - start)
        path = self._record(reason, failure, took_ms)
        _say("taken", str(path or ""), self._sentence(reason, failure, took_ms))
        if failure:
            failure = self._blanked(_GIVE_UP_S)
            self._record(reason, failure, 1e3 * (time.monotonic() - start), path)

    def _blanked(self, patience_s: float) -> str:
        """Blank until the beam is read as blanked; return what is wrong if it is not in time."""
        end = time.monotonic() + patience_s
        while True:
            try:
                link = self._opened()
                link.blank()
                if link.is_blanked():
                    return ""
                failure = "it is still read as on"
            except LinkError as error:
                failure = str(error)
                self._close()
            if time.monotonic() > end:
                return failure
            time.sleep(_AGAIN_S)

    def _opened(self) -> Link:
        if self._link is None:
            self._link = opened(self._order["link"])
        return self._link

    def _close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    @staticmethod
    def _sentence(reason: str, failure: str, took_ms: float) -> str:
        if failure:
            return f"THE BEAM MAY STILL BE ON: the watchdog could not blank it ({failure}) when {reason}."
        return f"the watchdog blanked the beam, since {reason}; {took_ms:.0f} ms later it was read as blanked."

    def _record(
        self, reason: str, failure: str, took_ms: float, path: pathlib.Path | None = None
    ) -> pathlib.Path | None:
        """Write what was done; it is on the disk before this returns. A full disk must not keep the beam on."""
        now = datetime.datetime.now()
        values = {
            "when": f"{now:%d %B %Y, %H:%M:%S}", "instrument": self._order["name"], "pid": self._order["pid"],
            "reason": reason, "blanked": not failure, "took_ms": took_ms, "monotonic_s": time.monotonic(),
            "sentence": self._sentence(reason, failure, took_ms),
        }  # fmt: skip
        try:
            folder = pathlib.Path(self._order["records"])
            folder.mkdir(parents=True, exist_ok=True)
            path = path or folder / f"{now:%Y-%m-%d_%H%M%S_%f}_{os.getpid()}.json"
            part = path.with_suffix(".part")
            with open(part, "w", encoding="utf-8") as file:
                json.dump(values, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            return None
        return path


def _say(*words: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody listens any more
        sys.stdout.write("\t".join(words) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Read the order, and watch."""
    pipe = sys.stdin.fileno()
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(pipe, 1)
        if not byte:
            return
        line += byte
    _Process(json.loads(line), pipe).watch()


# --- who starts it ----------------------------------------------------------------------------------------------------


class Watchdog:
    """Starts the process, and sends it heart-beats while the beam is on.

    Parameters
    ----------
    link : mapping
        Its way to the blanker: see :mod:`stem_ae.microscope.link`.
    name : str
        The microscope's, for the records.
    taken : callable
        Called in some thread with a sentence when it has taken the beam, or cannot watch any more.
    """

    def __init__(self, link: Mapping[str, Any], name: str, taken: Callable[[str], object]) -> None:
        self._link, self._name, self._taken = dict(link), name, taken
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready, self._answered = threading.Event(), threading.Event()
        self._answer = self._broken = ""
        self._lights = threading.Event()
        self._echo = 0.0
        self.pid = 0

    def start(self) -> None:
        """Start it, unless it runs, and return when it watches.

        Raises
        ------
        StemAeError
            If it cannot be started, or its link leads nowhere.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._launch()
            is_ready = self._is_ready
        if not is_ready.wait(_START_S) or self._broken:
            raise StemAeError(
                "The watchdog that blanks the beam if this program dies does not work "
                f"({self._broken or 'it does not start'}): check its connection to the blanker."
            )

    def _launch(self) -> None:
        from stem_ae import processes

        self._is_ready, self._broken = threading.Event(), ""
        self._process = process = subprocess.Popen(
            processes.command("stem_ae.microscope.watchdog"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=processes.environment(1), bufsize=0, **processes.detached(),
        )  # fmt: skip
        self.pid = process.pid
        order = {
            "link": self._link, "name": self._name, "pid": os.getpid(), "silence_s": SILENCE_S,
            "records": str(records_folder()),
        }  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode() + b"\n")
        os.set_blocking(process.stdin.fileno(), False)  # a watchdog that hangs must not hang who exposes
        for work in (self._listen, self._beat):
            threading.Thread(target=work, args=[process], daemon=True, name="stem_ae watchdog").start()

    def close(self) -> None:
        """Let it end; it would blank first."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()

    # --- while the beam is on ---------------------------------------------------------------------------------------

    def on(self, lease_s: float) -> None:
        """Watch from now on, for so many seconds. Raises StemAeError if there is nobody to watch."""
        self.start()
        with self._lock:
            if self._process is None:
                raise StemAeError(f"The watchdog that blanks the beam if this program dies has ended ({self._broken}).")
            self._echo = time.monotonic()
            self._lights.set()
        self._send(f"on {lease_s:.3f}")

    def lease(self, lease_s: float) -> None:
        """Watch for so many seconds from now on."""
        self._send(f"lease {lease_s:.3f}")

    def off(self) -> None:
        """Watch no more: the beam was read as blanked."""
        self._lights.clear()
        self._send("off")

    def blank(self, timeout_s: float = 1.5) -> bool:
        """Let it blank now, by its own link, and return whether it has read the beam as blanked."""
        self._lights.clear()
        self._answered.clear()
        self._send("blank")
        return self._answered.wait(timeout_s) and self._answer == "blanked"

    def _send(self, line: str) -> None:
        process = self._process
        if process is None or process.stdin is None:  # it does not run yet, or was lost, which is known then
            return
        try:
            process.stdin.write(line.encode() + b"\n")
        except (OSError, ValueError) as error:
            self._lost(process, f"it cannot be reached: {error}")

    def _beat(self, process: subprocess.Popen[bytes]) -> None:
        while self._process is process:
            if not self._lights.wait(1.0):
                continue
            self._send("beat")
            if time.monotonic() - self._echo > _ECHO_S:
                self._lost(process, "it does not answer")
            time.sleep(BEAT_S)

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            word, *rest = line.decode(errors="replace").rstrip("\n").split("\t")
            self._echo = time.monotonic()
            if word == "ready":
                self._is_ready.set()
            elif word == "broken":
                self._lost(process, rest[0] if rest else "")
            elif word in ("blanked", "failed"):
                self._answer = word
                self._answered.set()
            elif word == "taken":
                self._lights.clear()
                self._taken(rest[1][0].upper() + rest[1][1:])
                tell(pathlib.Path(rest[0]))
        process.wait()
        self._lost(process, "it has ended")

    def _lost(self, process: subprocess.Popen[bytes], why: str) -> None:
        """Say that it does not watch any more, unless that is known; the next unblanking starts another one."""
        with self._lock:
            if self._process is not process:
                return
            self._process, self._broken = None, why
            was_on = self._lights.is_set()
            self._lights.clear()
            self._is_ready.set()
        process.kill()
        if was_on:
            self._taken(f"The watchdog that blanks the beam if this program dies does not work any more ({why}).")


if __name__ == "__main__":
    main()
