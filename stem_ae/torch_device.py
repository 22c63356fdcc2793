"""Where PyTorch computes."""

from __future__ import annotations

import os
from typing import Literal

import torch

from stem_ae.errors import StemAeError

DeviceName = Literal["cpu", "cuda", "auto"]

CPU = torch.device("cpu")


def device_of(name: str) -> torch.device:
    """Return the device of a name; "auto" is what ``STEM_AE_DEVICE`` says, or else a GPU if PyTorch can use one.

    Raises
    ------
    StemAeError
        If there is none of this name.
    """
    name = os.environ.get("STEM_AE_DEVICE") or name if name == "auto" else name
    usable = torch.cuda.is_available()
    if name not in ("cpu", "cuda", "auto") or (name == "cuda" and not usable):
        raise StemAeError(f"PyTorch cannot compute on {name!r} here: choose the device cpu{', cuda' * usable} or auto.")
    return torch.device("cuda" if usable and name != "cpu" else "cpu")
