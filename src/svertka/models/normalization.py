"""Normalisations by name: which values share a mean and a variance.

For maps (n, c, h, w), x̂ = (x − mean) / √(variance + eps), then one learned scale and shift a channel:

    batch      over n, h, w         Ioffe & Szegedy 2015; running statistics answer in eval mode
    layer      over c, h, w         Ba et al. 2016; of maps: all of an image's values at once
    instance   over h, w            Ulyanov et al. 2016
    group      over c/g, h, w       Wu & He 2018; see `groups`
    none       no layer

For vectors (n, d) batch, layer and group do the same with h = w = 1; instance would be zero and is refused.
"""

from __future__ import annotations

from torch import nn

from svertka.errors import OptionError, nearest

NORMS = ("batch", "layer", "instance", "group", "none")


def groups(channels: int) -> int:
    """Groups of group norm: the largest divisor up to 32 that leaves two channels a group, else one group.

    32 is Wu & He's number, and is kept for all channel counts that are multiples of 64.
    """
    return max((g for g in range(1, 33) if channels % g == 0 and channels // g >= 2), default=1)


def normalization(
    name: str, channels: int, *, vectors: bool = False, eps: float = 1e-5, momentum: float = 0.1
) -> nn.Module | None:
    """The normalisation `name` for maps (or vectors) of so many channels; None for `none`.

    `eps` is added to the variance; `momentum` is the share of the newest batch in the running statistics.

    Raises:
        OptionError: no such normalisation, or instance norm of vectors.
    """
    match name:
        case "batch":
            kind = nn.BatchNorm1d if vectors else nn.BatchNorm2d
            return kind(channels, eps=eps, momentum=momentum)
        case "layer":
            return nn.GroupNorm(1, channels, eps=eps)
        case "group":
            return nn.GroupNorm(groups(channels), channels, eps=eps)
        case "instance" if vectors:
            raise OptionError(
                "instance norm averages over the positions of a map; a vector has one position, so its "
                "output would always be zero. Use layer or batch norm for vectors."
            )
        case "instance":
            return nn.InstanceNorm2d(channels, eps=eps, affine=True)
        case "none":
            return None
    raise OptionError(f"there is no normalisation {name!r}: {nearest(name, NORMS)}")
