"""The group of workers that train one student together; a group of one is no special case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn


@final
@dataclass(frozen=True, slots=True)
class Workers:
    """This worker's rank among ``size``; reductions go through torch.distributed."""

    rank: int = 0
    size: int = 1

    def share(self, num_samples: int) -> slice:
        """This rank's part of a global batch; parts differ by at most one sample."""
        first = self.rank * num_samples // self.size
        return slice(first, (self.rank + 1) * num_samples // self.size)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over all workers."""
        if self.size == 1:
            return values
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, in place, by its mean over all workers.

        One reduction a dtype: on CPUs and small networks latency outweighs overlap with backward.
        """
        if self.size == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        for group in by_dtype.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            torch.distributed.all_reduce(flat)
            flat /= self.size
            pieces = flat.split([tensor.numel() for tensor in group])
            for tensor, piece in zip(group, pieces, strict=True):
                tensor.copy_(piece.view_as(tensor))

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients over workers; a parameter without one counts as zero.

        Frozen ones stay without: even a gradient of zero lets weight decay and momentum move them.
        """
        if self.size == 1:
            return
        gradients: list[Tensor] = []
        for parameter in parameters:
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self.average(gradients)

    def gather(self, values: Tensor, *, device: torch.device) -> list[Tensor]:
        """On rank 0 every worker's ``values``, of one shape, in order; elsewhere nothing.

        They travel by way of ``device``, which the backend can read, and come back to their own.
        """
        if self.size == 1:
            return [values]
        sent = values.to(device).contiguous()
        places = [torch.empty_like(sent) for _ in range(self.size)] if self.rank == 0 else None
        torch.distributed.gather(sent, places)
        return [place.to(values.device) for place in places or ()]

    def average_buffers(self, module: nn.Module) -> None:
        """Average BatchNorm's running statistics, so that every rank evaluates one model."""
        with torch.no_grad():
            self.average(b for b in module.buffers() if b.is_floating_point())


ALONE = Workers()
