"""How one training step updates the weights. Which learner trains a method, the method says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import nn

from distill.config import SGD, Optimizer
from distill.methods import Method
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

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@final
class StandardLearner:
    """One optimizer updates student and method together with the gradient of the total loss."""

    def __init__(
        self, student: Normalized, method: Method, *, optimizer: Optimizer, compute: Compute
    ) -> None:
        self.compute = compute
        self.method = method
        form = torch.channels_last if compute.channels_last else torch.contiguous_format
        self._student = student.to(compute.device, memory_format=form)  # pyright: ignore[reportCallIssue]
        method.parts.to(compute.device)
        self.parameters = [*student.parameters(), *method.parts.parameters()]
        self.clip_norm = optimizer.clip_norm
        self.optimizer = build_optimizer(self.parameters, optimizer)

    @property
    def student(self) -> Normalized:
        return self._student

    def step(
        self, batch: Batch, signals: TeacherSignals, *, progress: Progress, lr: float
    ) -> tuple[LossReport, ModelOutput]:
        workers = self.compute.workers
        labels = batch.labels.to(self.compute.device, non_blocking=True)
        with self.compute.autocast():
            output = self._student(self.compute.images(batch.images))
            report = self.method.loss(
                output, self.compute.signals(signals), labels, progress=progress
            )
        self.optimizer.zero_grad(set_to_none=True)
        # Shares may differ by a sample: weighted so, the mean over workers is the global mean.
        (report.total * (len(batch) * workers.size / batch.num_global)).backward()
        workers.average_gradients(self.parameters)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        features = {tap: feature.detach() for tap, feature in output.features.items()}
        return report.detach(), ModelOutput(output.logits.detach(), features)

    def inference_model(self) -> nn.Module:
        return self.method.inference_model(self._student)

    def state_dict(self) -> dict[str, Any]:
        return {
            "student": self._student.state_dict(),
            "method": self.method.parts.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._student.load_state_dict(state["student"])
        self.method.parts.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])


def build_optimizer(parameters: list[nn.Parameter], config: Optimizer) -> torch.optim.Optimizer:
    """The optimizer that a configuration names, over ``parameters``."""
    settings = config.model_dump(exclude={"name", "clip_norm"})
    kind = torch.optim.SGD if isinstance(config, SGD) else torch.optim.AdamW
    return kind(parameters, **settings)


LEARNERS: Mapping[str, Callable[..., Learner]] = {"standard": StandardLearner}
