"""Where the user's files are kept: runs, the queue of calculations, and models."""

from __future__ import annotations

import os
import pathlib
from typing import Literal

import platformdirs

Kind = Literal["runs", "queue", "models"]

VARIABLES: dict[Kind, str] = {"runs": "STEM_AE_RUNS", "queue": "STEM_AE_QUEUE", "models": "STEM_AE_MODELS"}
"""Environment variables that choose other folders, for this process and those that it starts."""


def folder(kind: Kind) -> pathlib.Path:
    """Return where something is kept: where its variable says, or in the user's data folder."""
    chosen = os.environ.get(VARIABLES[kind])
    return pathlib.Path(chosen) if chosen else usual(kind)


def usual(kind: Kind) -> pathlib.Path:
    """Return where something is kept if nothing else was chosen."""
    return platformdirs.user_data_path("stem_ae", appauthor=False) / kind
