"""Training: every member of an ensemble from its own random start and shuffling, averaged at the end of its path.

The averaging is SWA (Izmailov et al., UAI 2018): the mean of the weights over the last part of the training, at a
constant learning rate, with the batch statistics measured again for it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, update_bn

from stem_ae.elit.network import UNet
from stem_ae.errors import StemAeError
from stem_ae.torch_device import CPU

Progress = Callable[[int, int, float], None]
"""Called with steps done, steps in all, and the mean loss since the last call."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How long and how hard one member is trained.

    Attributes
    ----------
    steps, batch : int
        Gradient steps, and patches in each.
    learning_rate, swa_learning_rate : float
        Peak of the one-cycle schedule, and the constant rate while weights are averaged.
    swa_share : float
        Last part of the steps that is averaged.
    width : int
        Channels of the network's first level.
    norm_batches : int
        Batches from which the averaged network's batch normalisation is learnt.
    """

    steps: int = 3000
    batch: int = 8
    learning_rate: float = 4e-3
    swa_learning_rate: float = 1e-3
    swa_share: float = 0.3
    width: int = 16
    norm_batches: int = 60


_REPORT_EVERY = 25
_AVERAGE_EVERY = 10


def train_member(
    images: NDArray[np.float16],
    targets: NDArray[np.uint8],
    recipe: Recipe,
    seed: int,
    start: UNet | None = None,
    checkpoint: pathlib.Path | None = None,
    progress: Progress = lambda done, total, loss: None,
    device: torch.device = CPU,
    belongs_to: str = "",
) -> UNet:
    """Train one network.

    Parameters
    ----------
    images : (N, S, S) array
        Normalised patches.
    targets : (N, 1 + C, S, S) array
        Target probabilities in 1/255.
    recipe : Recipe
        Steps and rates.
    seed : int
        Of the initial weights and the shuffling.
    start : UNet, optional
        Weights to start from instead of random ones (adaptation).
    checkpoint : path, optional
        Where the state is kept every few hundred steps; if it exists, training resumes from it. A damaged one
        is set aside, and training starts again.
    progress : callable
        See :data:`Progress`.
    device : torch.device
        Where to train.
    belongs_to : str
        Digest of everything that determines the training: it does not resume from the state of another one.

    Returns
    -------
    UNet
        The averaged network, on the CPU.

    Raises
    ------
    StemAeError
        If the checkpoint is of another training.
    """
    torch.manual_seed(seed)
    network = UNet(targets.shape[1] - 1, recipe.width)
    if start is not None:
        network.load_state_dict(start.state_dict())
    run = _Run(network.to(device), recipe)
    done = 0
    if checkpoint is not None and checkpoint.exists():
        done = _taken_up(run, checkpoint, belongs_to)
        if not done:  # it may hold part of a damaged state
            return train_member(images, targets, recipe, seed, start, checkpoint, progress, device, belongs_to)
    seen, wanted = torch.from_numpy(images).to(device), torch.from_numpy(targets).to(device)
    losses: list[float] = []
    for step, (image, target) in enumerate(_batches(seen, wanted, recipe, seed, skip=done), start=done + 1):
        losses.append(run.step(step, image, target))
        if step % _REPORT_EVERY == 0 or step == recipe.steps:
            progress(step, recipe.steps, float(np.mean(losses)))
            losses.clear()
        if checkpoint is not None and step % 200 == 0:
            run.save(checkpoint, step, belongs_to)
    few = dataclasses.replace(recipe, steps=recipe.norm_batches)
    averaged = run.finish(_batches(seen, wanted, few, seed + 1))
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return averaged


def _taken_up(run: _Run, checkpoint: pathlib.Path, belongs_to: str) -> int:
    """Resume from a checkpoint and return the number of steps done; a damaged one is set aside and 0 returned.

    Raises
    ------
    StemAeError
        If it is of another training.
    """
    try:
        with safe_open(checkpoint, "pt") as file:
            of = (file.metadata() or {}).get("of", "")
        if of == belongs_to:
            return run.restore(checkpoint)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        aside = checkpoint.with_suffix(".damaged")
        checkpoint.replace(aside)
        logging.getLogger(__name__).warning(
            "%s is damaged (%s) and was renamed to %s: this network is trained from its beginning.",
            checkpoint, error, aside.name,
        )  # fmt: skip
        return 0
    raise StemAeError(
        f"{checkpoint} was left by an interrupted training of another structure or plan: choose another --name, or "
        "remove it first (stem-ae models remove NAME)."
    )


class _Run:
    """The state of one training run."""

    def __init__(self, network: UNet, recipe: Recipe) -> None:
        self.network = network.train()
        self.recipe = recipe
        self.average = AveragedModel(network)
        self.optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=1e-4, fused=True)
        self.swa_start = int(recipe.steps * (1 - recipe.swa_share))

    def step(self, step: int, image: Tensor, target: Tensor) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(step)
        logits = self.network(image.contiguous(memory_format=torch.channels_last))  # a fifth faster on the CPU
        loss = -(target * torch.log_softmax(logits, 1)).sum(1).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        if step > self.swa_start and step % _AVERAGE_EVERY == 0:
            self.average.update_parameters(self.network)
        return float(loss.detach())

    def _rate(self, step: int) -> float:
        """One cycle up to the start of averaging, then constant."""
        high, low = self.recipe.learning_rate, self.recipe.swa_learning_rate
        warm = 0.1 * self.swa_start
        if step <= warm:
            return high * step / warm
        if step >= self.swa_start:
            return low
        fraction = (step - warm) / (self.swa_start - warm)
        return low + (high - low) * 0.5 * (1 + float(np.cos(np.pi * fraction)))

    def finish(self, batches: Iterator[tuple[Tensor, Tensor]]) -> UNet:
        if int(self.average.n_averaged) == 0:
            self.average.update_parameters(self.network)
        update_bn((image for image, _ in batches), self.average)
        result = self.average.module
        assert isinstance(result, UNet)
        return result.cpu().eval()

    def save(self, path: pathlib.Path, step: int, belongs_to: str) -> None:
        """Write everything that is needed to go on, so that a kill at any moment leaves the last whole state."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
        partial = path.with_suffix(".partial")
        about = {"step": json.dumps(step), "of": belongs_to}
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata=about)
        partial.replace(path)

    def restore(self, path: pathlib.Path) -> int:
        tensors = load_file(path)
        for name, module in (("network", self.network), ("average", self.average)):
            prefix = name + "."
            module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        done = int(state[0]["step"])
        if not 0 < done <= self.recipe.steps:
            raise ValueError(f"{done} steps of {self.recipe.steps}")
        return done


def _batches(
    images: Tensor, targets: Tensor, recipe: Recipe, seed: int, skip: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled batches, each turned or mirrored as a square can be."""
    rng = np.random.default_rng(seed)
    order = np.zeros(0, np.int64)
    for step in range(recipe.steps):
        while len(order) < recipe.batch:
            order = np.concatenate([order, rng.permutation(len(images))])
        chosen, order = order[: recipe.batch], order[recipe.batch :]
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        if step < skip:
            continue
        image, target = images[chosen][:, None].float(), targets[chosen].float() / 255
        target = target / target.sum(1, keepdim=True)
        image, target = torch.rot90(image, turns, (2, 3)), torch.rot90(target, turns, (2, 3))
        if mirror:
            image, target = image.flip(3), target.flip(3)
        yield image.contiguous(), target.contiguous()
