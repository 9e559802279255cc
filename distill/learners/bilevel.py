"""The bilevel learner: a method's weights learn from what the student becomes under them (MMKD).

Legend: B samples of a worker's batch, N entries of the hard buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call  # pyright: ignore[reportPrivateImportUsage]
from torch.nn import functional as F

from distill.config import SGD, Optimizer
from distill.learners.base import Compute, load_optimizer
from distill.learners.hard_buffer import HardBuffer, HardViews
from distill.learners.standard import StandardLearner
from distill.methods import Method
from distill.methods.base import BilevelMethod
from distill.models.base import Normalized
from distill.signals import Batch, LossReport, ModelOutput, Progress, TeacherSignals
from distill.unrolled import unroll_sgd


@final
class BilevelLearner:
    """SGD trains student and adapters; Adam trains the method's weights every few steps.

    The weights' gradient is the exact derivative of the student's cross-entropy on hard views,
    after three virtual steps of the very SGD that trains it, from its present parameters and
    momentum. A meta step leaves the student, momentum, BatchNorm's statistics and torch's random
    numbers as they are. It computes in float32, whatever the student's steps do: rounding to
    bfloat16 would not survive two derivatives.

    Every worker has a buffer and draws of its own; the weights' gradients are averaged.
    Source: Zhang, Chen, Wang 2023, MMKD (arXiv 2306.06634), algorithm 1.
    """

    def __init__(
        self, student: Normalized, method: Method, *, optimizer: Optimizer, compute: Compute
    ) -> None:
        """Raise ValueError for an optimizer other than SGD."""
        assert isinstance(method, BilevelMethod), "the method's learner is not this one"
        if not isinstance(optimizer, SGD):
            raise ValueError(
                f"optimizer.name: the bilevel learner unrolls SGD's steps, not {optimizer.name}'s; "
                "set optimizer.name: sgd"
            )
        self.compute = compute
        self.method = method
        self.settings = optimizer
        inner = [*student.parameters(), *method.adapters.parameters()]
        self._standard = StandardLearner(
            student, method, optimizer=optimizer, compute=compute, parameters=inner
        )
        meta = method.meta
        self.weights = list(method.weights.parameters())
        self.adam = torch.optim.Adam(self.weights, lr=meta.lr, weight_decay=meta.weight_decay)
        self.buffer = HardBuffer(meta.buffer_size)
        self._others: list[dict[str, Any]] = []  # ranks' buffers at the last epoch's end; rank 0's
        self._losses: list[Tensor] = []  # of this epoch's meta steps

    @property
    def student(self) -> Normalized:
        return self._standard.student

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """That of the student and the adapters."""
        return self._standard.optimizer

    def step(
        self, batch: Batch, signals: TeacherSignals, *, progress: Progress, lr: float
    ) -> tuple[LossReport, ModelOutput]:
        report, output = self._standard.step(batch, signals, progress=progress, lr=lr)
        generator = _generator(progress, self.compute.workers.rank)
        missed = output.logits.argmax(1).cpu() != batch.labels
        self.buffer.add(batch, signals, missed, generator=generator)
        done = progress.epoch * progress.steps_per_epoch + progress.step + 1
        if self.buffer.is_full and done % self.method.meta.every == 0:
            self._losses.append(self.meta_step(lr=lr, generator=generator))
        return report, output

    def meta_step(self, *, lr: float, generator: torch.Generator) -> Tensor:
        """One step of the weights on views drawn from the buffer; returns the meta loss."""
        drawn = self.buffer.draw(self.method.meta.batch_size, generator=generator)
        hard = HardViews(
            self.compute.images(drawn.images),
            drawn.labels.to(self.compute.device),
            self.compute.signals(drawn.signals),
        )
        device = self.compute.device
        # Virtual dropout must not move the random numbers of the student's own steps.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
            loss, gradients = meta_gradient(
                self.student,
                self.method,
                hard,
                self.optimizer,
                settings=self.settings,
                lr=lr,
            )
        for parameter, gradient in zip(self.weights, gradients, strict=True):
            parameter.grad = gradient
        self.compute.workers.average_gradients(self.weights)
        self.adam.step()
        return loss

    def inference_model(self) -> nn.Module:
        return self._standard.inference_model()

    def end_epoch(self) -> Mapping[str, float]:
        """``meta/loss``: the mean of the epoch's meta losses, over all workers."""
        workers = self.compute.workers
        state = self.buffer.state_dict()
        gathered = {
            name: workers.gather(column, device=self.compute.device)
            for name, column in state["columns"].items()
        }
        if workers.rank == 0:
            self._others = [
                {"count": state["count"], "columns": {name: g[k] for name, g in gathered.items()}}
                for k in range(1, workers.size)
            ]
        losses, self._losses = self._losses, []
        if not losses:
            return {}
        return {"meta/loss": float(workers.sum(torch.stack(losses).mean())) / workers.size}

    def state_dict(self) -> dict[str, Any]:
        """Rank 0's has the buffers of all ranks, the others' as of the end of an epoch."""
        return self._standard.state_dict() | {
            "adam": self.adam.state_dict(),
            "buffers": [self.buffer.state_dict(), *self._others],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._standard.load_state_dict(state)
        load_optimizer(self.adam, state["adam"])
        buffers = state["buffers"]
        # Should a run go on with more workers, the new ones begin with another's views.
        self.buffer.load_state_dict(buffers[self.compute.workers.rank % len(buffers)])


def meta_gradient(
    student: nn.Module,
    method: BilevelMethod,
    hard: HardViews,
    optimizer: torch.optim.Optimizer,
    *,
    settings: SGD,
    lr: float,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The meta loss CE(N views), detached, and its exact derivative by ``method.weights``.

    Two virtual steps go down the matching loss, one down the cross-entropy, all on the same
    views. What the weights read of the student counts as constant, in virtual steps as in real
    ones. ``optimizer`` is only read: it has the student's and the adapters' momentum.
    """
    inner = _Together(student, method.adapters)
    parameters = dict(inner.named_parameters())
    state = optimizer.state
    momenta = {
        name: state[parameter]["momentum_buffer"]
        for name, parameter in parameters.items()
        if state.get(parameter, {}).get("momentum_buffer") is not None
    }

    def at(values: Mapping[str, Tensor], loss: Callable[[ModelOutput], Tensor]) -> Tensor:
        # BatchNorm writes its running statistics into copies.
        copies = {name: buffer.clone() for name, buffer in inner.named_buffers()}
        return functional_call(inner, {**values, **copies}, (hard.images, loss))

    def matching(values: Mapping[str, Tensor]) -> Tensor:
        return at(values, lambda output: method.matching(output, hard.signals))

    def classifying(values: Mapping[str, Tensor]) -> Tensor:
        return at(values, lambda output: F.cross_entropy(output.logits, hard.labels))

    end = unroll_sgd(
        (matching, matching, classifying),
        parameters,
        momenta,
        lr=lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        clip_norm=settings.clip_norm,
    )
    loss = classifying(end.parameters)
    weights = list(method.weights.parameters())
    return loss.detach(), torch.autograd.grad(
        loss, weights, allow_unused=True, materialize_grads=True
    )


@final
class _Together(nn.Module):
    """Student and adapters under one roof, so that one call replaces the parameters of both."""

    def __init__(self, student: nn.Module, adapters: nn.Module) -> None:
        super().__init__()
        self.student, self.adapters = student, adapters

    def forward(self, images: Tensor, loss: Callable[[ModelOutput], Tensor]) -> Tensor:
        return loss(self.student(images))


def _generator(progress: Progress, rank: int) -> torch.Generator:
    """A step's own random numbers, from (the epoch's seed, epoch, step, rank): no state to save.

    The engine seeds torch anew at every epoch; that seed is read, and nothing is drawn from it.
    """
    seed = torch.initial_seed() % (1 << 64)
    words: Sequence[int] = (seed, progress.epoch, progress.step, rank)
    (state,) = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) >> 1)
