"""Teachers: a plain class that answers for inputs. Actors are shells around it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np

from distill.config import Experiment
from distill.datasets import DataConfig, load_data
from distill.loading import ConfigError
from distill.signals import SignalSpec
from distill.views import ViewSpace, pass_views
from orchestrator.codecs import make_codec
from orchestrator.store import PartId, SignalStore

if TYPE_CHECKING:
    from distill.models.base import Normalized


@final
@dataclass(frozen=True, slots=True)
class TeacherRecipe:
    """All that makes a teacher, ready to be sent to another process or host."""

    name: str
    arch: str
    options: Mapping[str, Any]
    taps: tuple[str, ...]
    num_classes: int
    in_channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: bytes  # safetensors
    precision: str  # float32 or bfloat16
    batch_size: int

    def build(self) -> Normalized:
        """The network with its weights, in eval mode, without gradients."""
        from safetensors.torch import load

        from distill.models import build_model
        from distill.models.base import Normalized

        network = build_model(
            self.arch,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            image_size=self.image_size,
            options=self.options,
            taps=self.taps,
        )
        network.load_state_dict(load(self.weights))
        model = Normalized(network, mean=self.mean, std=self.std)
        return model.eval().requires_grad_(False)


@final
@dataclass(frozen=True, slots=True)
class InputPlan:
    """Which inputs there are: the training split's samples and their views, pass by pass."""

    data: DataConfig
    views: ViewSpace
    plan_seed: int


def input_plan(experiment: Experiment) -> InputPlan:
    """The inputs that an experiment's teachers are asked about."""
    return InputPlan(experiment.data, experiment.views, experiment.signals.plan_seed)


class AnswerError(ValueError):
    """A teacher's answer that nobody can learn from; the message names teacher and sample."""


@final
class Teacher:
    """Answers for inputs. Holds no Ray: tests and the ``local`` source use it as it is."""

    def __init__(self, recipe: TeacherRecipe, plan: InputPlan, *, num_threads: int = 0) -> None:
        import torch

        if num_threads:
            torch.set_num_threads(num_threads)
        self.recipe = recipe
        self.plan = plan
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = recipe.build().to(self.device)
        self.data = load_data(plan.data)

    def answer(
        self,
        images: np.ndarray,
        specs: tuple[SignalSpec, ...],
        *,
        samples: np.ndarray | None = None,
    ) -> dict[SignalSpec, np.ndarray]:
        """Signals, float32 [n, ...], of rendered images, uint8 [n, c, h, w].

        Batches are cut at multiples of the teacher's batch size, so the same rows give the
        same bytes whoever asks. Raises AnswerError for an answer that is not finite; ``samples``
        are the images' positions in the training split, for its message.
        """
        import torch

        from distill.reductions import reduce

        parts: dict[SignalSpec, list[np.ndarray]] = {spec: [] for spec in specs}
        bfloat16 = self.recipe.precision == "bfloat16"
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bfloat16),
        ):
            for start in range(0, len(images), self.recipe.batch_size):
                chunk = torch.from_numpy(images[start : start + self.recipe.batch_size])
                output = self.model(chunk.to(self.device))
                for spec in specs:
                    parts[spec].append(reduce(output, spec).float().cpu().numpy())
        answers = {spec: np.concatenate(arrays) for spec, arrays in parts.items()}
        self._refuse_nonfinite(answers, np.arange(len(images)) if samples is None else samples)
        return answers

    def _refuse_nonfinite(
        self, answers: Mapping[SignalSpec, np.ndarray], samples: np.ndarray
    ) -> None:
        """Here, and nowhere later: every signal, recorded or live, is answered once by this."""
        for spec, values in answers.items():
            if np.isfinite(values).all():
                continue
            row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))[0])
            raise AnswerError(
                f"teacher '{self.recipe.name}': '{spec}' of sample {samples[row]} is NaN or "
                "infinite; check the teacher's weights and normalization"
            )

    def images(self, indices: np.ndarray, views: np.ndarray) -> np.ndarray:
        """The rendered inputs ``(indices[i], views[i])``, uint8 [n, c, h, w]."""
        return self.plan.views.render(self.data.train.gather(indices)[0], views)

    def pass_signals(
        self, indices: np.ndarray, pass_index: int, specs: tuple[SignalSpec, ...]
    ) -> dict[SignalSpec, np.ndarray]:
        """Signals of samples under the views that a pass gives them."""
        views = pass_views(
            indices,
            pass_index=pass_index,
            num_views=self.plan.views.num_views,
            seed=self.plan.plan_seed,
        )
        return self.answer(self.images(indices, views), specs, samples=indices)

    def rows(
        self, indices: np.ndarray, pass_index: int, signals: tuple[RecordedSignal, ...]
    ) -> list[np.ndarray]:
        """What the store would hold of these samples: rows uint8 [n, row_bytes], by signal."""
        answers = self.pass_signals(indices, pass_index, tuple(s.spec for s in signals))
        return [make_codec(s.codec, s.shape).encode(answers[s.spec]) for s in signals]

    def test_accuracy(self) -> float:
        """Top-1 accuracy on the test split, 0..1."""
        from distill.engine import evaluate

        return evaluate(self.model, self.data.test, device=self.device)

    def record(self, job: PartJob) -> PartReport:
        """Answer for one part of one pass, and write it to the store: one file a signal."""
        started = time.perf_counter()
        signals = tuple(signal.spec for signal in job.signals)
        answers = self.pass_signals(job.indices(), job.part.pass_index, signals)
        errors: dict[str, float] = {}
        for signal in job.signals:
            column = job.store.column(signal.spec, make_codec(signal.codec, signal.shape))
            try:
                rows, error = column.encode(answers[signal.spec])
            except ValueError as problem:
                raise ValueError(
                    f"teacher '{self.recipe.name}', pass {job.part.pass_index}, samples from "
                    f"{job.indices()[0]}: {problem}"
                ) from None
            column.write(job.part, rows, error=error)
            errors[str(signal.spec)] = error
        process = f"process {os.getpid()} on {socket.gethostname()}"
        return PartReport(job, time.perf_counter() - started, errors, process)


@final
@dataclass(frozen=True, slots=True)
class RecordedSignal:
    """One signal of one teacher as the store keeps it."""

    spec: SignalSpec
    codec: str
    shape: tuple[int, ...]

    @classmethod
    def checked(cls, spec: SignalSpec, codec: str, shape: tuple[int, ...]) -> Self:
        """Raises ConfigError where the codec cannot keep samples of ``shape``."""
        try:
            make_codec(codec, shape)
        except ValueError as error:
            raise ConfigError(f"signals.codecs.{spec}: {error}") from None
        return cls(spec, codec, shape)


@final
@dataclass(frozen=True, slots=True)
class PartJob:
    """One part of one pass, with the signals of it that are missing."""

    store: SignalStore
    part: PartId
    signals: tuple[RecordedSignal, ...]

    def indices(self) -> np.ndarray:
        """The part's samples, int64."""
        rows = self.store.identity.rows_of(self.part.part_index)
        return np.arange(rows.start, rows.stop, dtype=np.int64)

    @property
    def num_images(self) -> int:
        return len(self.store.identity.rows_of(self.part.part_index))


@final
@dataclass(frozen=True, slots=True)
class PartReport:
    """What recording a part took, the largest error of each signal's codec, and who did it."""

    job: PartJob
    seconds: float
    errors: Mapping[str, float]
    process: str
