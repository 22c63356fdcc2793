"""The simulated microscope's blanker: a separate process, as a real blanker has its own electronics.

Its state outlives whoever commands it, so that it can be shown what happens when Nion Swift dies in mid-exposure. It
goes away some seconds after its last client has gone, once the beam is blanked.

``python -P -m stem_ae.microscope.simulated_blanker`` prints where it listens, as a link (:mod:`.link`). It listens on
this machine only, asks for a token, and knows these words, a line each: ``blank``, ``unblank``, ``read`` (each answered
with the state and the number of changes so far), ``watch`` (every change is sent from now on), ``history`` (JSON:
seconds of the monotonic clock and state of each change), and, to try what happens then, ``stick`` (it stays as it is,
whatever it is told), ``free``, ``hang 8`` (seconds).
"""

from __future__ import annotations

import contextlib
import json
import secrets
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from stem_ae.microscope.link import LinkError, SocketLink, state_of

_LINGER_S = 3.0
"""How long it runs on without a client."""
_ABANDONED_S = 60.0
"""The same while the beam is on, since nobody will blank it."""
_LINE = 256
_START_S = 30.0


# --- the process ------------------------------------------------------------------------------------------------------


class _Client:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.waiting = b""
        self.is_known = self.watches = False


class _Server:
    def __init__(self) -> None:
        self._token = secrets.token_hex(16)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._clients: list[_Client] = []
        self._is_blanked = True
        self._sticks = False
        self._changes = 0
        self._history: list[tuple[float, str]] = []

    @property
    def link(self) -> dict[str, Any]:
        """Where it is found."""
        return {"address": list(self._listener.getsockname()[:2]), "token": self._token}

    @property
    def _state(self) -> str:
        return "blanked" if self._is_blanked else "on"

    @property
    def _said(self) -> str:
        return f"{self._state} {self._changes}"

    def serve(self) -> None:
        """Answer until there has been no client for a while."""
        alone_since = time.monotonic()
        while True:
            for key, _ in self._selector.select(0.5):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._hear(key.data)
            if self._clients:
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > (_LINGER_S if self._is_blanked else _ABANDONED_S):
                return

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(1.0)
            client = _Client(connection)
            self._clients.append(client)
            self._selector.register(connection, selectors.EVENT_READ, client)

    def _hear(self, client: _Client) -> None:
        try:
            data = client.connection.recv(_LINE)
        except OSError:
            data = b""
        client.waiting += data
        *lines, client.waiting = client.waiting.split(b"\n")
        if not data or len(client.waiting) > _LINE:
            self._drop(client)
            return
        for line in lines:
            answer = self._answer(client, line.decode(errors="replace").strip())
            if answer is None:
                self._drop(client)
                return
            self._send(client, answer)

    def _answer(self, client: _Client, word: str) -> str | None:
        """Do what a line says and return what to answer; None: nothing, ever."""
        if not client.is_known:
            client.is_known = secrets.compare_digest(word.encode(), self._token.encode())
            return "welcome" if client.is_known else None
        if word in ("blank", "unblank"):
            self._set(word == "blank")
        elif word == "watch":
            client.watches = True
        elif word == "history":
            return json.dumps(self._history)
        elif word in ("stick", "free"):
            self._sticks = word == "stick"
        elif word.startswith("hang "):
            time.sleep(min(float(word.removeprefix("hang ")), 60.0))
        elif word != "read":
            return f"what is {word!r}?"
        return self._said

    def _set(self, blanked: bool) -> None:
        if self._sticks or blanked == self._is_blanked:
            return
        self._is_blanked = blanked
        self._changes += 1
        self._history = [*self._history, (time.monotonic(), self._state)][-2000:]
        for client in list(self._clients):
            if client.watches:
                self._send(client, self._said)

    def _send(self, client: _Client, line: str) -> None:
        try:
            client.connection.sendall(line.encode() + b"\n")
        except OSError:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._selector.unregister(client.connection)
            client.connection.close()


# --- who uses it ------------------------------------------------------------------------------------------------------


class SimulatedBlanker:
    """Starts the process, commands it, and is told of every change, whoever made it.

    Parameters
    ----------
    changed : callable
        Called in some thread after a change that this object has not made.
    """

    def __init__(self, changed: Callable[[], object] = lambda: None) -> None:
        from stem_ae import processes

        process = subprocess.Popen(
            processes.command("stem_ae.microscope.simulated_blanker"), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=processes.environment(1), **processes.detached(),
        )  # fmt: skip
        assert process.stdout is not None
        with process.stdout as stdout:
            self.link: dict[str, Any] = json.loads(stdout.readline())
        """How others find it: see :mod:`stem_ae.microscope.link`."""
        self.pid = process.pid
        self._process = process
        self._changed = changed
        self._commands = self._connected()
        self._news = self._connected()
        self._lock = threading.Lock()
        self._changes = -1
        self.is_blanked = True
        """The last state heard, without asking: good enough for the dose of the simulated specimen."""
        self._note(self._news.ask("watch"))
        threading.Thread(target=self._follow, daemon=True, name="stem_ae simulated blanker").start()

    def _connected(self) -> SocketLink:
        host, port = self.link["address"]
        return SocketLink((host, port), self.link["token"])

    def set(self, blanked: bool) -> None:
        """Blank or unblank. Raises LinkError."""
        self._note(self._commands.ask("blank" if blanked else "unblank"))

    def read(self) -> bool:
        """Ask whether it is blanked. Raises LinkError."""
        return self._commands.is_blanked()

    def ask(self, line: str) -> str:
        """Ask for anything else. Raises LinkError."""
        return self._commands.ask(line)

    def history(self) -> list[tuple[float, str]]:
        """Return when it has changed (seconds of ``time.monotonic()``, the system's), and to what."""
        return [(float(t), str(state)) for t, state in json.loads(self.ask("history"))]

    def close(self) -> None:
        """Disconnect; the process ends by itself."""
        self._commands.close()
        self._news.close()

    def _note(self, said: str) -> bool:
        """Note a message, unless a later one is known; return whether the state changed."""
        blanked, number = state_of(said), int(said.split()[1])
        with self._lock:
            if number < self._changes:
                return False
            changed, self.is_blanked, self._changes = blanked != self.is_blanked, blanked, number
        return changed

    def _follow(self) -> None:
        while line := self._news.next_line():
            with contextlib.suppress(LinkError):
                if self._note(line):
                    self._changed()
        self._process.wait()


def main() -> None:
    """Say where it listens, and serve."""
    server = _Server()
    sys.stdout.write(json.dumps(server.link) + "\n")
    sys.stdout.flush()
    sys.stdout.close()
    server.serve()


if __name__ == "__main__":
    main()
