"""What a learner is, where it computes, and the pieces that learners share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from distill.config import SGD, Optimizer
from distill.losses.precision import widened
from distill.models.base import Normalized
from distill.parallel import ALONE, Workers
from distill.signals import Batch, LossReport, ModelOutput, Progress, TeacherSignals


@final
@dataclass(frozen=True, slots=True)
class Compute:
    """Where and in what arithmetic a step runs."""

    device: torch.device
    workers: Workers = ALONE
    bfloat16: bool = False
    channels_last: bool = False

    def autocast(self) -> AbstractContextManager[Any]:
        """bfloat16 for forward passes, if asked for; gradients and weights stay float32."""
        if not self.bfloat16:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Move a batch of images to the device, in the memory format of the model."""
        form = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.to(self.device, non_blocking=True).contiguous(memory_format=form)

    def signals(self, signals: TeacherSignals) -> TeacherSignals:
        """Move recorded signals to the device and widen them to float32, in that order."""
        return TeacherSignals(
            {
                teacher: {
                    spec: value.to(self.device, non_blocking=True).float()
                    for spec, value in values.items()
                }
                for teacher, values in signals.values.items()
            }
        )


def answer(student: nn.Module, images: torch.Tensor) -> ModelOutput:
    """What the student says. Its logits are wide under autocast, too: losses are made of them."""
    output = student(images)
    return ModelOutput(widened(output.logits), output.features)


class Learner(Protocol):
    """A student in training, with its method and optimizers."""

    @property
    def student(self) -> Normalized: ...

    def step(
        self, batch: Batch, signals: TeacherSignals, *, progress: Progress, lr: float
    ) -> tuple[LossReport, ModelOutput]:
        """Train on one batch; what it returns is detached."""
        ...

    def inference_model(self) -> nn.Module:
        """What is evaluated and exported."""
        ...

    def end_epoch(self) -> Mapping[str, float]:
        """What the epoch's row gains; called on every rank, before ``state_dict`` on rank 0.

        Here ranks agree on whatever of their own has to be saved.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def build_optimizer(parameters: Sequence[nn.Parameter], config: Optimizer) -> torch.optim.Optimizer:
    """The optimizer that a configuration names, over ``parameters``."""
    settings = config.model_dump(exclude={"name", "clip_norm"})
    kind = torch.optim.SGD if isinstance(config, SGD) else torch.optim.AdamW
    return kind(parameters, **settings)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """What the optimizer has learnt (momenta, counts), but not its settings.

    Those are the configuration's: a trial that takes over another's checkpoint has its own.
    """
    settings = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(dict(state))
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def descend(
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    *,
    lr: float,
    clip_norm: float | None,
    workers: Workers,
    share: float,
) -> None:
    """One step down the gradient of a worker's mean loss, averaged over workers.

    ``share`` is the worker's part of the global batch times the number of workers: parts may
    differ by a sample, and weighted so, the mean over workers is the global mean.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    (loss * share).backward()
    workers.average_gradients(parameters)
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()


def share_of(batch: Batch, workers: Workers) -> float:
    """How much a worker's batch counts beside the others', 1 for an even share."""
    return len(batch) * workers.size / batch.num_global


def place(module: nn.Module, compute: Compute) -> None:
    """Move a module to the device, in the memory format that is asked for; in place."""
    form = torch.channels_last if compute.channels_last else torch.contiguous_format
    module.to(compute.device, memory_format=form)  # pyright: ignore[reportCallIssue]


def detached(output: ModelOutput) -> ModelOutput:
    """The same output, without its graph."""
    features = {tap: feature.detach() for tap, feature in output.features.items()}
    return ModelOutput(output.logits.detach(), features)
