"""Connections to the blanker that do not go through Nion Swift, for the watchdog when Swift is gone.

A *link* is described by plain values, which travel to the watchdog's process:

- ``{"command": ["program", "argument", ...]}``: a program that is called with one more argument, ``blank`` or ``read``.
  It ends with exit code 0; after ``read`` it has printed ``blanked`` or ``on``. On a real microscope this is a program
  of its maker, or a script that talks to the blanker's electronics. The environment variable
  ``STEM_AE_BLANKER_COMMAND`` names it.
- ``{"address": [host, port], "token": "..."}``: the process of the simulated microscope's blanker
  (:mod:`stem_ae.microscope.simulated_blanker`).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from stem_ae.errors import StemAeError

COMMAND_VARIABLE = "STEM_AE_BLANKER_COMMAND"
_ANSWER_S = 1.0
_STATES = {"blanked": True, "on": False}


class LinkError(Exception):
    """The blanker could not be reached, or did not answer with its state."""


class Link(Protocol):
    """A connection to the blanker."""

    def blank(self) -> None:
        """Blank the beam."""

    def is_blanked(self) -> bool:
        """Read whether it is blanked."""

    def close(self) -> None:
        """Close the connection."""


def from_environment() -> dict[str, Any] | None:
    """Return the link that ``STEM_AE_BLANKER_COMMAND`` describes; None if it is not set.

    Raises
    ------
    StemAeError
        If it is no command line.
    """
    text = os.environ.get(COMMAND_VARIABLE, "").strip()
    if not text:
        return None
    try:
        words = shlex.split(text, posix=os.name == "posix")
    except ValueError as error:
        raise StemAeError(f"{COMMAND_VARIABLE} is not a command line ({error}): {text}") from error
    return {"command": words}


def opened(description: Mapping[str, Any]) -> Link:
    """Return the link that is described."""
    if "command" in description:
        return CommandLink(list(description["command"]))
    host, port = description["address"]
    return SocketLink((str(host), int(port)), str(description["token"]))


class CommandLink:
    """A program that blanks, and reads.

    Parameters
    ----------
    command : list of str
        Its name and first arguments.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def _run(self, word: str) -> str:
        try:
            done = subprocess.run(
                [*self._command, word], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=_ANSWER_S, check=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise LinkError(f"{self._command[0]} {word}: {error}") from error
        return done.stdout.strip()

    def blank(self) -> None:
        """Blank the beam."""
        self._run("blank")

    def is_blanked(self) -> bool:
        """Read whether it is blanked."""
        return state_of(self._run("read"))

    def close(self) -> None:
        """Nothing to close."""


class SocketLink:
    """A line for each question, a line for each answer, to a process on this machine. Thread safe.

    Parameters
    ----------
    address : (str, int)
    token : str
        Which the process asks for: other users of this machine cannot know it.
    timeout_s : float
        For each answer.
    """

    def __init__(self, address: tuple[str, int], token: str, timeout_s: float = _ANSWER_S) -> None:
        self._lock = threading.Lock()
        try:
            self._socket = socket.create_connection(address, timeout=timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise LinkError(f"the blanker's process is not there ({error})") from error
        self._lines = self._socket.makefile("rb")
        self.ask(token)

    def ask(self, question: str) -> str:
        """Send a line and return the answer's."""
        try:
            with self._lock:
                self._socket.sendall(question.encode() + b"\n")
                answer = self._lines.readline()
        except (OSError, ValueError) as error:
            self.close()  # an answer that comes late must not be taken for the next one's
            raise LinkError(f"the blanker's process does not answer ({error})") from error
        if not answer:
            raise LinkError("the blanker's process has ended")
        return answer.decode().strip()

    def next_line(self) -> str:
        """Wait, for however long it takes, for a line that nobody has asked for; empty if there will be none."""
        self._socket.settimeout(None)
        try:
            return self._lines.readline().decode().strip()
        except (OSError, ValueError):
            return ""

    def blank(self) -> None:
        """Blank the beam."""
        self.ask("blank")

    def is_blanked(self) -> bool:
        """Read whether it is blanked."""
        return state_of(self.ask("read"))

    def close(self) -> None:
        """Close the connection; a thread that waits for a line wakes up."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def state_of(answer: str) -> bool:
    """Return whether an answer's first word says that the beam is blanked; anything but a clear answer is an error."""
    word = answer.split(maxsplit=1)[0] if answer.strip() else ""
    if word not in _STATES:
        raise LinkError(f"the blanker says {answer[:40]!r} instead of 'blanked' or 'on'")
    return _STATES[word]
