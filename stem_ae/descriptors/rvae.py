"""A variational autoencoder whose latent variables do not depend on how a patch is turned or shifted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]

TURNS = 8  # starting angles among which the encoder's best is taken
SHIFT = 0.15  # standard deviation of the prior of shifts, in half patches
POSE = 0.1  # cost of knowing the pose against that of content: else content would learn the angle
WARM_UP = 0.3  # part of the training during which the latent variables' cost rises to its weight


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What the autoencoder makes of patches.

    Parameters
    ----------
    angle : (k,) array
        Radians, relative to the decoder's standing; from +x towards +y (down).
    shift : (k, 2) array
        x and y in half patches.
    content : (k, n) array
        Mean of the latent variables.
    """

    angle: FloatArray
    shift: FloatArray
    content: FloatArray


class _Encoder(nn.Module):
    """Content and pose of a patch from its turned copies: the copy that looks most upright says both.

    Turning the input first, rather than asking a network for the angle, makes the content invariant by construction
    (up to the step of 45 degrees, of which the fine angle is then learnt) and keeps training from the local optima of
    the angle that the usual encoder falls into.
    """

    def __init__(self, size: int, latent: int, hidden: int) -> None:
        super().__init__()
        self.latent = latent
        self.body = nn.Sequential(nn.Linear(size * size, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.head = nn.Linear(hidden, 1 + 2 * (3 + latent))  # uprightness; mean, log sigma of angle, shift, content

    def forward(self, turned: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log weights ``(k, TURNS)``, means and log sigmas ``(k, TURNS, 3 + latent)`` of turned copies."""
        out = self.head(self.body(turned))
        mean, log_sigma = out[..., 1:].chunk(2, dim=-1)
        return torch.log_softmax(out[..., 0], dim=-1), mean, log_sigma.clamp(-6, 2)


class _Decoder(nn.Module):
    """Intensity at a point of the upright patch, given the content (Bepler et al., spatial-VAE, NeurIPS (2019))."""

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.place, self.content = nn.Linear(2 + 16, hidden), nn.Linear(latent, hidden, bias=False)
        self.body = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))
        self.waves: Tensor
        self.register_buffer("waves", torch.randn(2, 8) * 2.5)  # Fourier features let a small network draw atoms

    def forward(self, points: Tensor, content: Tensor) -> Tensor:
        """Return intensities ``(k, P)`` at points ``(k, P, 2)``."""
        phase = points @ self.waves
        features = torch.cat([points, phase.sin(), phase.cos()], dim=-1)
        drawn: Tensor = self.body(self.place(features) + self.content(content)[:, None])[..., 0]
        return drawn


class RotationInvariantVAE:
    """Rotationally and translationally invariant variational autoencoder of square patches.

    Patches are standardised with two numbers learnt from the training set, so that a patch measured later is treated
    exactly like those.
    """

    def __init__(self, size: int, latent: int, hidden: int, centre: float, scale: float) -> None:
        self.size, self._centre, self._scale = size, centre, scale
        self._encoder, self._decoder = _Encoder(size, latent, hidden), _Decoder(latent, hidden)
        axis = (torch.arange(size) - (size - 1) / 2) / (size / 2)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self._points = torch.stack([x, y], dim=-1).reshape(-1, 2)
        self._disk = (self._points.norm(dim=-1) <= 1.0).float()  # the corners turn out of the patch

    @classmethod
    def fit(
        cls, patches: FloatArray, latent: int = 2, *, epochs: int = 30, hidden: int = 64, beta: float = 1.0,
        seed: int = 0, progress: Callable[[float], None] | None = None,
    ) -> RotationInvariantVAE:
        """Train on patches ``(k, size, size)``.

        Parameters
        ----------
        patches : (k, size, size) array
        latent : int
            Number of content variables.
        epochs, hidden, seed : int
        beta : float
            Weight of the latent variables' cost (Higgins et al., beta-VAE, ICLR (2017)), after a warm-up.
        progress : function, optional
            Called with the part done, 0 to 1.

        Raises
        ------
        StemAeError
            If the patches are not square, too few or all the same.
        """
        patches = np.asarray(patches, dtype=float)
        if patches.ndim != 3 or patches.shape[1] != patches.shape[2] or len(patches) < 16:
            raise StemAeError(f"Patches of shape {patches.shape} were given: give at least 16 square ones (k, p, p).")
        if latent < 1 or not patches.std() > 0:
            raise StemAeError("The autoencoder needs patches that differ and at least one latent variable.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self = cls(patches.shape[1], latent, hidden, float(patches.mean()), float(patches.std()))
            self._train(self._standardised(patches), epochs, beta, progress)
        return self

    def encode(self, patches: FloatArray) -> Encoding:
        """Return angle, shift and content of patches ``(k, size, size)``."""
        inputs = self._standardised(np.asarray(patches, dtype=float))
        parts = [self._encode(block) for block in torch.split(inputs, 512)]
        angle, shift, content = (torch.cat(part).double().numpy() for part in zip(*parts, strict=True))
        return Encoding((angle + math.pi) % (2 * math.pi) - math.pi, shift, content)

    def decode(self, content: FloatArray) -> FloatArray:
        """Return upright patches ``(k, size, size)`` for latent variables ``(k, n)``, in the patches' units."""
        z = torch.as_tensor(np.asarray(content), dtype=torch.float32)
        with torch.no_grad():
            drawn = self._decoder(self._points.expand(len(z), -1, -1), z)
        upright: FloatArray = drawn.double().numpy().reshape(-1, self.size, self.size)
        return upright * self._scale + self._centre

    # --- inner workings ---------------------------------------------------------------------------------------------

    def _standardised(self, patches: FloatArray) -> Tensor:
        if patches.shape[1:] != (self.size, self.size):
            raise StemAeError(f"Patches of {patches.shape[1:]} were given to an autoencoder of {self.size} pixels.")
        return torch.as_tensor((patches - self._centre) / self._scale, dtype=torch.float32)

    def _turned(self, patches: Tensor) -> Tensor:
        """Return the patches turned back by each starting angle, ``(k, TURNS, P)``, zero outside the disk."""
        out = []
        for turn in range(TURNS):
            c, s = math.cos(2 * math.pi * turn / TURNS), math.sin(2 * math.pi * turn / TURNS)
            # the value at a point of the upright copy is that of the patch at the point turned forward
            scale = self.size / (self.size - 1) if self.size > 1 else 1.0
            points = self._points @ torch.tensor([[c, s], [-s, c]]) * scale
            grid = points.reshape(1, self.size, self.size, 2).expand(len(patches), -1, -1, -1)
            out.append(nn.functional.grid_sample(patches[:, None], grid, align_corners=True, padding_mode="border"))
        turned: Tensor = torch.cat(out, dim=1).reshape(len(patches), TURNS, -1) * self._disk
        return turned

    def _train(self, patches: Tensor, epochs: int, beta: float, progress: Callable[[float], None] | None) -> None:
        turned = self._turned(patches)
        optimiser = torch.optim.Adam([*self._encoder.parameters(), *self._decoder.parameters()], lr=2e-3)
        size = min(64, len(patches))
        steps = epochs * max(len(patches) // size, 1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
        for step in range(steps):
            chosen = torch.randint(len(patches), (size,))
            weight = beta * min(step / (WARM_UP * steps + 1), 1.0)
            loss = self._loss(patches[chosen].flatten(1), turned[chosen], weight)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._encoder.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            if progress is not None:
                progress((step + 1) / steps)

    def _loss(self, patches: Tensor, turned: Tensor, weight: float) -> Tensor:
        """Return the negative evidence bound per pixel, the starting angle summed out by a draw from its weights."""
        log_weight, mean, log_sigma = self._encoder(turned)
        turn = nn.functional.gumbel_softmax(log_weight, tau=0.7, hard=True)
        mean, log_sigma = ((part * turn[..., None]).sum(1) for part in (mean, log_sigma))
        drawn = mean + log_sigma.exp() * torch.randn_like(mean)
        start = turn @ (torch.arange(TURNS) * (2 * math.pi / TURNS))
        image = self._decoder(self._upright(start + drawn[:, 0] * self._fine, drawn[:, 1:3] * SHIFT), drawn[:, 3:])
        error = ((image - patches) ** 2 * self._disk).sum(1) / self._noise
        cost = 0.5 * (mean**2 + (2 * log_sigma).exp() - 1 - 2 * log_sigma)
        latent = POSE * cost[:, :3].sum(1) + cost[:, 3:].sum(1)
        loss: Tensor = (0.5 * error + weight * latent).mean() / patches.shape[1]
        return loss

    _fine = math.pi / TURNS  # standard deviation of the angle about its start
    _noise = 0.1  # variance of a pixel about its model, in units of the patches' variance

    def _upright(self, angle: Tensor, shift: Tensor) -> Tensor:
        """Return where the patch's pixels lie in the upright frame, ``(k, P, 2)``."""
        c, s = angle.cos(), angle.sin()
        back = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)  # rows: point @ back
        return (self._points[None] - shift[:, None]) @ back

    def _encode(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            log_weight, mean, _ = self._encoder(self._turned(patches))
            best = log_weight.argmax(1)
            mean = mean[torch.arange(len(mean)), best]
            angle = best * (2 * math.pi / TURNS) + mean[:, 0] * self._fine
        return angle, mean[:, 1:3] * SHIFT, mean[:, 3:]
