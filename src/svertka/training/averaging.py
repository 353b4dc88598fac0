"""Weight averaging: the weights that are validated and answer, when they are not simply the last ones.

    ema        after each step   average ← d · average + (1 − d) · weights  (buffers of norms too)
    swa        after each epoch from `start` on: the plain mean (Izmailov et al. 2018), and before it is
               validated, one pass over the training images for the statistics of batch normalization
    lookahead  every k steps     slow ← slow + α (weights − slow), weights ← slow  (Zhang et al. 2019, alg. 1)

All three are `torch.optim.swa_utils.AveragedModel` with another rule and rhythm.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from svertka.models.network import Network
from svertka.optimization import Averaging


class Average:
    """The average of the weights of one network; without a `name` the network itself."""

    def __init__(self, network: Network, settings: Averaging) -> None:
        self.settings = settings
        self.model: swa_utils.AveragedModel | None = None
        if settings.name == "ema":
            rule = swa_utils.get_ema_multi_avg_fn(settings.decay)  # type: ignore[no-untyped-call]
            self.model = swa_utils.AveragedModel(network, multi_avg_fn=rule, use_buffers=True)
        elif settings.name == "swa":
            self.model = swa_utils.AveragedModel(network)
        elif settings.name == "lookahead":
            rate = settings.slow_rate

            def towards(slow: Tensor, fast: Tensor, number: Tensor | int) -> Tensor:
                return slow + rate * (fast - slow)

            self.model = swa_utils.AveragedModel(network, avg_fn=towards)
            self._count(1)  # the start counts: the first slow step is already a mean

    def after_step(self, network: Network, number: int) -> None:
        """Take in step `number` of the training, counted from 1."""
        if self.model is None or self.settings.name == "swa":
            return
        if self.settings.name == "ema":
            self.model.update_parameters(network)
        elif number % self.settings.sync_steps == 0:
            self.model.update_parameters(network)
            with torch.no_grad():
                for fast, slow in zip(network.parameters(), self.model.module.parameters(), strict=True):
                    fast.copy_(slow)

    def after_epoch(self, network: Network, done: float, images: Iterable[Tensor]) -> None:
        """Take in the end of an epoch, when the share `done` of the training is over.

        Args:
            images: the batches of a pass over the training part, asked for only if they are needed.
        """
        if self.model is not None and self.settings.name == "swa" and done > self.settings.start:
            self.model.update_parameters(network)
            swa_utils.update_bn(images, self.model.module)

    def answering(self, network: Network) -> Network:
        """What is validated and answers: the average, as soon as there is one."""
        if self.model is None or int(self.model.n_averaged) == 0:
            return network
        return cast(Network, self.model.module)

    def tensors(self) -> dict[str, Tensor]:
        """The state, for a checkpoint."""
        return {} if self.model is None else self.model.state_dict()

    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Put a state back."""
        if self.model is not None:
            self.model.load_state_dict(tensors)

    def _count(self, number: int) -> None:
        assert self.model is not None
        self.model.n_averaged.fill_(number)


def has_batch_statistics(network: nn.Module) -> bool:
    """Whether a pass for the statistics of batch normalization does anything."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
