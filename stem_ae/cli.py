"""The command line: ``stem-ae COMMAND``.

Each area of the library registers its own commands in a module with ``add_parsers(subparsers)``, which calls
``subparsers.add_parser(name, ...)`` and ``parser.set_defaults(run=function)``; the function takes the parsed arguments
and returns the exit code (``None`` is 0). Only the module of the command that was asked for is imported, so that
``stem-ae --help`` does not wait for torch.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from stem_ae import __version__
from stem_ae.errors import StemAeError
from stem_ae.terminal import printable
from stem_ae.unforeseen import in_a_sentence

COMMANDS: dict[str, tuple[str, str]] = {
    "find": ("stem_ae.find", "find the atoms in an image file"),
    "demo": ("stem_ae.launch.command", "run Nion Swift with the simulated microscope and keep a report"),
    "swift": ("stem_ae.launch.command", "open Nion Swift, if wanted with the simulated microscope scanning"),
    "train": ("stem_ae.elit.command", "train a model for a structure"),
    "models": ("stem_ae.elit.command", "list, show and import models"),
    "build": ("stem_ae.simulate.command", "make a structure of the atoms found in an image"),
    "simulate": ("stem_ae.simulate.command", "relax a structure, run dynamics, or write input for an engine"),
    "jobs": ("stem_ae.jobs.command", "list, watch and cancel background jobs"),
    "worker": ("stem_ae.jobs.command", "work through the queue of background jobs"),
}
"""Each command's module and its line in ``stem-ae --help``."""


def make_parser(command: str | None) -> argparse.ArgumentParser:
    """Return the parser with the named command's own options and every other command's name."""
    parser = argparse.ArgumentParser(
        prog="stem-ae", description="Automated experiments for the scanning transmission electron microscope."
    )
    parser.add_argument("--version", action="version", version=f"stem-ae {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    if command in COMMANDS:
        importlib.import_module(COMMANDS[command][0]).add_parsers(subparsers)
    else:
        for name, (_, line) in COMMANDS.items():
            subparsers.add_parser(name, help=line)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    2 for what the user can put right, 1 for what did not work out or nobody foresaw; either with one sentence.
    """
    _speak_plainly()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = make_parser(words[0] if words else None).parse_args(words)
        run: Callable[[argparse.Namespace], Any] = arguments.run
        code = int(run(arguments) or 0)
        if sys.stdout is not None:
            sys.stdout.flush()  # a reader that has gone shows here at the latest
        return code
    except BrokenPipeError:
        # Whoever read the output has seen enough; what is still buffered must not fail once more at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        print(f"stem-ae: {printable(in_a_sentence(error), in_one_line=True)}", file=sys.stderr)
        return 2 if isinstance(error, StemAeError | OSError | ModuleNotFoundError | MemoryError | RecursionError) else 1


def _speak_plainly() -> None:
    """Let letters that the terminal does not have be replaced, not fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
