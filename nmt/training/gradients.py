"""The sum of all workers' gradients, taken while the last backward of an update goes on.

Not torch's DistributedDataParallel, for two promises that it cannot keep. It changes its buckets
after the first update, so that three workers that were resumed add in another order than three that
were never stopped (P4); here the buckets depend on the model alone. And a worker that runs out of
memory in the backward that sends gradients leaves the others waiting; here the last bucket carries
a flag, and one worker that could not go on makes all of them drop the gradient of this update.
Gradients are views into buckets, which are sent in a fixed order as soon as they are whole (Li et
al. 2020, PyTorch Distributed).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nmt.training.world import World

BUCKET_VALUES = 2**21
"""Gradients sent at once, 8 MiB: few enough to begin early, many enough to fill the wire."""


class GradientSum:
    """The gradients of some parameters, summed over all workers of an update."""

    def __init__(self, parameters: Sequence[nn.Parameter], world: World) -> None:
        """All workers must have the same parameters; their gradients begin at 0."""
        self._parameters = list(parameters)
        self._world = world
        self._buckets: list[Tensor] = []
        self._lacking: list[int] = []
        """Parameters of each bucket that the backward under way has not reached."""
        self._sizes: list[int] = []
        self._sent: list[Any] = []
        self._is_armed = False
        if world.size > 1:
            self._share()

    def arm(self) -> None:
        """The next backward is this worker's last of the update: send what it completes."""
        self._lacking = list(self._sizes)
        self._is_armed = True

    def finish(self, has_failed: bool = False) -> int:
        """Wait for the sum; all workers must ask.

        Args:
            has_failed: this worker could not do its share.

        Returns:
            How many could not; where it is not 0 the sum is void.
        """
        if self._world.size == 1:
            return int(has_failed)
        self._is_armed = False
        self._buckets[-1][-1] = float(has_failed)
        while len(self._sent) < len(self._buckets):
            self._send()
        for work in self._sent:
            work.wait()
        self._sent = []
        return int(self._buckets[-1][-1])

    def clear(self) -> None:
        """Begin an update."""
        if self._world.size == 1:
            for parameter in self._parameters:
                parameter.grad = None
        for bucket in self._buckets:
            bucket.zero_()

    def _share(self) -> None:
        """Make each gradient a view into a bucket; backward meets the last parameters first."""
        groups: list[list[nn.Parameter]] = [[]]
        for parameter in reversed(self._parameters):
            if groups[-1] and sum(p.numel() for p in groups[-1]) >= BUCKET_VALUES:
                groups.append([])
            groups[-1].append(parameter)
        for number, group in enumerate(groups):
            flag = int(group is groups[-1])
            bucket = torch.zeros(sum(p.numel() for p in group) + flag, device=self._world.device)
            start = 0
            for parameter in group:
                stop = start + parameter.numel()
                parameter.grad = bucket[start:stop].view(parameter.shape)
                hook = self._hook_of(number)
                parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
                start = stop
            self._buckets.append(bucket)
            self._sizes.append(len(group))

    def _hook_of(self, number: int) -> Any:
        def has_gradient(parameter: Tensor) -> None:
            if not self._is_armed:
                return
            self._lacking[number] -= 1
            # In the fixed order, which is that of all workers; the last one by `finish`, flag set.
            while len(self._sent) < len(self._buckets) - 1 and not self._lacking[len(self._sent)]:
                self._send()

        return has_gradient

    def _send(self) -> None:
        bucket = self._buckets[len(self._sent)]
        self._sent.append(dist.all_reduce(bucket, async_op=True))
