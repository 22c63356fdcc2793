"""The network: a small U-Net that works on a grid of half the sampling.

Two by two pixels are folded into channels before the first convolution and unfolded after the last, which costs a
quarter of the arithmetic; atoms are still located on the fine grid.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

MULTIPLE = 8  # sides of the input must divide by it: two by folding, four by the two poolings


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        convolution = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1, inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """U-Net with three levels.

    Parameters
    ----------
    classes : int
        Classes besides the background, which is class 0 of the output.
    width : int
        Channels of the first level; each deeper level has twice as many.
    """

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        self.down1 = _double(4, width)
        self.down2 = _double(width, 2 * width)
        self.bottom = _double(2 * width, 4 * width)
        self.up2 = _double(6 * width, 2 * width)
        self.up1 = _double(3 * width, width)
        self.head = nn.Conv2d(width, 4 * (classes + 1), 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(B, 1 + classes, h, w)`` for images ``(B, 1, h, w)``."""
        return self.with_features(image)[0]

    def with_features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, and the deepest features ``(B, 4 width, h / 8, w / 8)``."""
        first = self.down1(functional.pixel_unshuffle(image, 2))
        second = self.down2(functional.max_pool2d(first, 2))
        bottom = self.bottom(functional.max_pool2d(second, 2))
        second = self.up2(torch.cat([_twice(bottom), second], 1))
        first = self.up1(torch.cat([_twice(second), first], 1))
        return functional.pixel_shuffle(self.head(first), 2), bottom


def _twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def fused(network: UNet) -> UNet:
    """Return the network for inference: batch normalisation folded into the convolutions, channels last."""
    network = network.eval()
    for block in (network.down1, network.down2, network.bottom, network.up2, network.up1):
        for k in (0, 3):
            convolution, norm = cast(nn.Conv2d, block[k]), cast(nn.BatchNorm2d, block[k + 1])
            block[k] = nn.utils.fusion.fuse_conv_bn_eval(convolution, norm)
            block[k + 1] = nn.Identity()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return network
