"""From configured teachers to recipes and recordings: weights loaded, needs joined, keys made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from distill.config import Experiment, Teacher
from distill.datasets import Data, cache_root
from distill.loading import ConfigError
from distill.methods import MethodConfig
from distill.models import build_model
from distill.models.base import feature_shapes
from distill.models.catalog import taps_of
from distill.models.checkpoints import load_weights, weights_digest
from distill.reductions import reduced_shape
from distill.signals import LOGITS, SignalSpec
from orchestrator.fleet import Placement
from orchestrator.identity import Identity
from orchestrator.preflight import signal_codec
from orchestrator.recording import Recording, Serving
from orchestrator.runs import write_atomically
from orchestrator.students import TeacherFacts
from orchestrator.teachers import RecordedSignal, TeacherRecipe


@final
@dataclass(frozen=True, slots=True)
class PreparedTeacher:
    """A teacher with its weights, and what all methods of the experiment ask of it."""

    serving: Serving
    parameters: int

    @property
    def name(self) -> str:
        return self.serving.recipe.name


def store_root(experiment: Experiment) -> str:
    """Where the experiment's records lie."""
    return experiment.signals.root or str(cache_root(experiment.data) / "signals")


def joint_needs(experiment: Experiment) -> Mapping[str, frozenset[SignalSpec]]:
    """What the methods together need of each teacher; a teacher that none needs is left out."""
    names = tuple(teacher.name for teacher in experiment.teachers)
    taps = taps_of(experiment.student.arch) or ()
    joint: dict[str, frozenset[SignalSpec]] = {}
    for method in experiment.methods:
        for name, specs in method.needs(names, taps).items():
            joint[name] = joint.get(name, frozenset()) | specs
    return {name: joint[name] for name in names if name in joint}


def prepare_teachers(
    experiment: Experiment, data: Data, checkpoints: Mapping[str, Path]
) -> tuple[PreparedTeacher, ...]:
    """Load every teacher's weights from its checkpoint. Raises ConfigError naming the teacher."""
    needs = joint_needs(experiment)
    return tuple(
        _prepare(teacher, experiment, data, checkpoints[teacher.name], needs[teacher.name])
        for teacher in experiment.teachers
        if teacher.name in needs
    )


def _prepare(
    teacher: Teacher,
    experiment: Experiment,
    data: Data,
    checkpoint: Path,
    specs: frozenset[SignalSpec],
) -> PreparedTeacher:
    from safetensors.torch import save

    channels, size = data.train.images.shape[1], data.train.images.shape[-1]
    taps = tuple(sorted({spec.tap for spec in specs} - {LOGITS}))
    network = build_model(
        teacher.arch,
        num_classes=data.num_classes,
        in_channels=channels,
        image_size=size,
        options=teacher.options,
        taps=taps,
    )
    try:
        load_weights(network, checkpoint)
    except ValueError as error:
        raise ConfigError(f"teacher '{teacher.name}': {error}") from None
    shapes = feature_shapes(network, in_channels=channels, image_size=size)
    mean, std = (
        (teacher.normalization.mean, teacher.normalization.std)
        if teacher.normalization
        else (tuple(data.mean.tolist()), tuple(data.std.tolist()))
    )
    recipe = TeacherRecipe(
        name=teacher.name,
        arch=teacher.arch,
        options=teacher.options,
        taps=taps,
        num_classes=data.num_classes,
        in_channels=channels,
        image_size=size,
        mean=mean,
        std=std,
        weights=save({name: value.contiguous() for name, value in network.state_dict().items()}),
        precision=experiment.signals.precision,
        batch_size=teacher.batch_size,
    )
    identity = Identity(
        architecture=teacher.arch,
        options=teacher.options,
        weights_sha256=weights_digest(network),
        mean=mean,
        std=std,
        num_classes=data.num_classes,
        split=data.train.fingerprint,
        num_samples=len(data.train),
        views=experiment.views.fingerprint_fields(),
        plan_seed=experiment.signals.plan_seed,
        precision=experiment.signals.precision,
        part_size=experiment.signals.part_size,
    )
    signals = tuple(
        RecordedSignal(spec, signal_codec(experiment, spec), reduced_shape(shapes, spec))
        for spec in sorted(specs)
    )
    recording = Recording(teacher.name, store_root(experiment), identity, signals)
    placement = Placement(teacher.actors, teacher.cpus, teacher.gpus)
    serving = Serving(recording, recipe, placement)
    return PreparedTeacher(serving, sum(p.numel() for p in network.parameters()))


def method_recordings(
    experiment: Experiment, method: MethodConfig, prepared: Sequence[PreparedTeacher]
) -> tuple[tuple[Recording, ...], tuple[TeacherRecipe, ...]]:
    """The recordings and recipes that one method reads: its own signals alone."""
    names = tuple(teacher.name for teacher in experiment.teachers)
    needs = method.needs(names, taps_of(experiment.student.arch) or ())
    recordings: list[Recording] = []
    recipes: list[TeacherRecipe] = []
    for teacher in prepared:
        if teacher.name in needs:
            whole = teacher.serving.recording
            signals = tuple(s for s in whole.signals if s.spec in needs[teacher.name])
            recordings.append(Recording(whole.teacher, whole.root, whole.identity, signals))
            recipes.append(teacher.serving.recipe)
    return tuple(recordings), tuple(recipes)


def filed_accuracy(teacher: PreparedTeacher, data: Data) -> float | None:
    """A teacher's test accuracy, if it was measured on this data before."""
    path = _accuracy_path(teacher)
    if not path.is_file():
        return None
    return json.loads(path.read_text()).get(data.test.fingerprint)


def file_accuracy(teacher: PreparedTeacher, data: Data, accuracy: float) -> None:
    """Keep a teacher's test accuracy beside its records, by the test split's fingerprint."""
    path = _accuracy_path(teacher)
    known = json.loads(path.read_text()) if path.is_file() else {}
    text = json.dumps(known | {data.test.fingerprint: accuracy}) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda draft: draft.write_text(text))


def _accuracy_path(teacher: PreparedTeacher) -> Path:
    identity = teacher.serving.recording.identity
    return Path(teacher.serving.recording.root) / identity.key / "accuracy.json"


def facts(teacher: PreparedTeacher, data: Data) -> TeacherFacts:
    """What results say of a teacher whose accuracy is filed."""
    accuracy = filed_accuracy(teacher, data)
    assert accuracy is not None
    return TeacherFacts(accuracy, teacher.parameters)
