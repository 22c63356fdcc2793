"""The networks at work: all members on one frame, on the CPU or on a GPU.

On a GPU they compute in bfloat16, and their hundreds of small kernels are recorded once for each size of frame and
replayed (a CUDA graph), because launching them one by one takes longer than what they do.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from stem_ae.elit.network import MULTIPLE, UNet, fused
from stem_ae.elit.novelty import tile_features
from stem_ae.elit.preprocess import Image

Precision = Literal["float32", "bfloat16"]
_Run = Callable[[Tensor], tuple[Tensor, Tensor]]
_WHOLE = 1_500_000
"""Pixels of the working grid up to which a frame goes through the networks at once: 0.5 GB at most."""
_BAND, _HALO = 512, 64  # rows: of a larger frame's bands, and beyond them, which is farther than a network sees


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What the members say of one frame together.

    Attributes
    ----------
    mean : (1 + C, h, w) float32 array
        Mean probability of each class over the members; class 0 is the background.
    spread : (h, w) float32 array
        Largest standard deviation over the members of any class.
    deep : (M, T, F) float64 array
        Deep features of the frame's tiles, see :mod:`stem_ae.elit.novelty`.
    """

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    deep: NDArray[np.float64]


class Inference:
    """Trained networks, made ready to answer frames.

    Parameters
    ----------
    members : sequence of UNet
        They stay as they are; copies of them compute.
    device : torch.device
        Where.
    precision : str, optional
        Type of their numbers: float32 on the CPU and bfloat16 on a GPU unless it is said.
    """

    def __init__(self, members: Sequence[UNet], device: torch.device, precision: Precision | None = None) -> None:
        self._device = device
        self._type: torch.dtype = getattr(torch, precision or ("bfloat16" if device.type == "cuda" else "float32"))
        self._members = [fused(copy.deepcopy(member)).to(device, self._type) for member in members]
        self._recorded: tuple[torch.Size, _Recording] | None = None

    @torch.inference_mode()
    def answer(self, frame: Image) -> Answer:
        """Return what the members say of a frame on the working grid; only sums over them leave the device."""
        probability, features = self._answers(frame)
        spread = probability.std(0, correction=0).amax(0)
        return Answer(probability.mean(0).cpu().numpy(), spread.cpu().numpy(), tile_features(features))

    @torch.inference_mode()
    def each(self, frame: Image) -> NDArray[np.float32]:
        """Return the probabilities ``(M, 1 + C, h, w)`` of each member."""
        result: NDArray[np.float32] = self._answers(frame)[0].cpu().numpy()
        return result

    def _answers(self, frame: Image) -> tuple[Tensor, Tensor]:
        h, w = frame.shape
        pad = (0, -w % MULTIPLE, 0, -h % MULTIPLE)
        x = functional.pad(torch.from_numpy(np.ascontiguousarray(frame))[None, None], pad, mode="replicate")
        x = x.to(self._device, self._type).contiguous(memory_format=torch.channels_last)
        if h * w > _WHOLE:
            probability, features = self._in_bands(x)
        else:
            probability, features = self._replayed(x) if x.is_cuda else self._run(x)
        return probability[..., :h, :w], features

    def _in_bands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as :meth:`_run`, with the memory of a few hundred rows."""
        height, parts = x.shape[-2], []
        for top in range(0, height, _BAND):
            first, last = max(top - _HALO, 0), min(top + _BAND + _HALO, height)
            inner = slice(top - first, min(top + _BAND, height) - first)
            probability, features = self._run(x[..., first:last, :])
            deep = slice(inner.start // MULTIPLE, inner.stop // MULTIPLE)
            parts.append((probability[..., inner, :].clone(), features[..., deep, :].clone()))
        probabilities, features_of_all = zip(*parts, strict=True)
        return torch.cat(probabilities, -2), torch.cat(features_of_all, -2)

    def _run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        answers = [member.with_features(x) for member in self._members]
        logits, features = (torch.cat(parts).float() for parts in zip(*answers, strict=True))
        return torch.softmax(logits, 1), features

    def _replayed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._recorded is None or self._recorded[0] != x.shape:  # frames of a live scan are all of one size
            self._recorded = x.shape, _Recording(self._run, x)
        return self._recorded[1](x)


class _Recording:
    """The kernels that a function launches for one shape of input, as a CUDA graph.

    What it returns is overwritten by the next call.
    """

    def __init__(self, run: _Run, x: Tensor) -> None:
        self._input = x.clone()
        self._graph = torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(aside):
            for _ in range(3):  # libraries set themselves up in the first runs, which cannot be recorded
                run(self._input)
        torch.cuda.current_stream(x.device).wait_stream(aside)
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = run(self._input)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._input.copy_(x)
        self._graph.replay()
        return self._output
