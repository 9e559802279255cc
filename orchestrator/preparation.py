"""From configured teachers to recipes and recordings: weights loaded, needs joined, keys made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, final

import numpy as np
import torch

from distill.config import Experiment, Teacher
from distill.datasets import Data, cache_root
from distill.loading import ConfigError
from distill.methods import MethodConfig
from distill.methods.base import Needs
from distill.models.base import TappedModel, feature_shapes
from distill.models.catalog import find
from distill.models.checkpoints import weights_digest
from distill.reductions import reduced_shape
from distill.signals import LOGITS, SignalSpec, Taps
from distill.storage import own_cache
from distill.taps import known_taps
from orchestrator.fleet import Placement
from orchestrator.identity import Identity
from orchestrator.mirror import Mirror
from orchestrator.preflight import signal_codec
from orchestrator.probe_tables import check_tables
from orchestrator.recording import Recording, Serving
from orchestrator.remote import is_remote
from orchestrator.runs import write_atomically
from orchestrator.students import Classifier, TeacherFacts
from orchestrator.teacher_networks import (
    build_network,
    classifier_of,
    image_shape,
    load_teacher,
    own_data,
)
from orchestrator.teachers import RecordedSignal, TeacherRecipe, input_plan


@final
@dataclass(frozen=True, slots=True)
class PreparedTeacher:
    """A teacher with its weights, and what all methods of the experiment ask of it."""

    serving: Serving
    parameters: int
    needs: tuple[frozenset[SignalSpec] | None, ...]  # of each method; None: it is not used
    taps: Taps
    classifier: Classifier | None  # where a method reads it

    @property
    def name(self) -> str:
        return self.serving.recipe.name


def store_root(experiment: Experiment) -> str:
    """Where the experiment's records lie: a folder or a URL."""
    return experiment.signals.root or str(cache_root(experiment.data) / "signals")


def store_mirror(experiment: Experiment) -> Mirror | None:
    """Where every node keeps copies of remote records; None for records in a local folder."""
    signals = experiment.signals
    if not is_remote(signals.root):
        return None
    folder = signals.mirror or (experiment.data.cache_dir or own_cache()) / "mirrors"
    return Mirror(signals.root, folder, signals.mirror_bytes)


def prepare_teachers(
    experiment: Experiment, data: Data, checkpoints: Mapping[str, Path]
) -> tuple[PreparedTeacher, ...]:
    """Load every teacher's weights from its checkpoint. Raises ConfigError naming the teacher."""
    taps = {t.name: known_taps(t.arch, t.taps) for t in experiment.teachers}
    student = known_taps(experiment.student.arch, experiment.student.taps)
    asked = _joint(_needs(experiment, taps, student))
    networks: dict[str, TappedModel] = {}
    for teacher in experiment.teachers:
        if teacher.name in asked:
            network = load_teacher(teacher, data, checkpoints[teacher.name])
            networks[teacher.name] = network
            shapes = _shapes(network, data)
            taps[teacher.name] = {tap: shapes[tap] for tap in taps[teacher.name] if tap in shapes}
    if networks or find(experiment.student.arch) is None:
        student = _student_taps(experiment, data)
    needs = _needs(experiment, taps, student)
    prepared = tuple(
        _prepare(teacher, experiment, data, networks[teacher.name], taps[teacher.name], needs)
        for teacher in experiment.teachers
        if teacher.name in networks
    )
    identities = {teacher.name: teacher.serving.recording.identity for teacher in prepared}
    check_tables(experiment.methods, identities, split=data.train.fingerprint)
    return prepared


def _needs(experiment: Experiment, teachers: Mapping[str, Taps], student: Taps) -> list[Needs]:
    """What each method needs of each teacher. Raises ConfigError naming the method."""
    needs: list[Needs] = []
    for method in experiment.methods:
        try:
            needs.append(method.needs(teachers, student))
        except ValueError as error:
            raise ConfigError(f"method '{method.name}': {error}") from None
    return needs


def _joint(needs: Sequence[Needs]) -> dict[str, frozenset[SignalSpec]]:
    """What the methods together need of each teacher; a teacher that none needs is left out."""
    joint: dict[str, frozenset[SignalSpec]] = {}
    for of_method in needs:
        for name, specs in of_method.items():
            joint[name] = joint.get(name, frozenset()) | specs
    return joint


def _student_taps(experiment: Experiment, data: Data) -> Taps:
    student = experiment.student
    taps = known_taps(student.arch, student.taps)
    with torch.random.fork_rng(devices=()):  # drawn to be measured only
        try:
            network = build_network(student.arch, student.options, data, taps=student.taps)
        except ValueError as error:
            raise ConfigError(f"student: {error}") from None
    shapes = _shapes(network, data)
    return {tap: shapes[tap] for tap in taps if tap in shapes}


def _shapes(network: TappedModel, data: Data) -> dict[str, tuple[int, ...]]:
    return feature_shapes(network, *image_shape(data))


def _normalization(teacher: Teacher, data: Data) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a teacher expects: those of the data that trained it."""
    if teacher.normalization:
        return teacher.normalization.mean, teacher.normalization.std
    known = own_data(teacher, data)
    return tuple(known.mean.tolist()), tuple(known.std.tolist())


def _prepare(
    teacher: Teacher,
    experiment: Experiment,
    data: Data,
    network: TappedModel,
    known: Taps,
    needs: Sequence[Needs],
) -> PreparedTeacher:
    from safetensors.torch import save

    specs = _joint(needs)[teacher.name]
    channels, size = image_shape(data)
    # A resident teacher's taps are read in the worker, where no signal names them.
    taps = tuple(sorted({*teacher.taps, *(spec.tap for spec in specs)} - {LOGITS}))
    shapes = _shapes(network, data)
    mean, std = _normalization(teacher, data)
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
        RecordedSignal.checked(spec, signal_codec(experiment, spec), reduced_shape(shapes, spec))
        for spec in sorted(specs)
    )
    recording = Recording(
        teacher.name, store_root(experiment), identity, signals, store_mirror(experiment)
    )
    placement = Placement(teacher.actors, teacher.cpus, teacher.gpus)
    serving = Serving(recording, recipe, input_plan(experiment), placement)
    asked = zip(experiment.methods, needs, strict=True)
    reads = any(method.reads_classifiers and teacher.name in of for method, of in asked)
    return PreparedTeacher(
        serving,
        parameters=sum(p.numel() for p in network.parameters()),
        needs=tuple(of_method.get(teacher.name) for of_method in needs),
        taps=known,
        classifier=classifier_of(teacher, network, known, data) if reads else None,
    )


def method_recordings(
    experiment: Experiment, method: MethodConfig, prepared: Sequence[PreparedTeacher]
) -> tuple[tuple[Recording, ...], tuple[TeacherRecipe, ...]]:
    """The recordings and recipes that one method reads: its own signals alone."""
    position = experiment.methods.index(method)
    recordings: list[Recording] = []
    recipes: list[TeacherRecipe] = []
    for teacher in prepared:
        specs = teacher.needs[position]
        if specs is not None:
            whole = teacher.serving.recording
            signals = tuple(s for s in whole.signals if s.spec in specs)
            recordings.append(replace(whole, signals=signals))
            recipes.append(teacher.serving.recipe)
    return tuple(recordings), tuple(recipes)


def filed_accuracy(teacher: PreparedTeacher, data: Data) -> float | None:
    """A teacher's test accuracy, if it was measured on this data before."""
    return _filed(_accuracy_path(teacher)).get(data.test.fingerprint)


def file_accuracy(teacher: PreparedTeacher, data: Data, accuracy: float) -> None:
    """Keep a teacher's test accuracy beside its records, by the test split's fingerprint."""
    path = _accuracy_path(teacher)
    text = json.dumps(_filed(path) | {data.test.fingerprint: accuracy}) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda draft: draft.write_text(text))


def doubt(teacher: PreparedTeacher, data: Data) -> str | None:
    """What to look at of a teacher that knows no more than the most frequent class; else None."""
    accuracy = filed_accuracy(teacher, data)
    counts = np.bincount(data.test.labels)
    if accuracy is None or accuracy > counts.max() / counts.sum():
        return None
    return (
        f"teacher '{teacher.name}' is right on {accuracy:.1%} of the test images, no more than "
        "naming one class every time; look at its checkpoint, its normalization and the order of "
        "its classes"
    )


def _filed(path: Path) -> dict[str, float]:
    """Accuracies by test split; none of a file that holds something else: they are found anew."""
    try:
        with path.open("rb") as file:
            values: object = json.loads(file.read(1 << 20))
    except (OSError, ValueError, RecursionError):
        return {}
    found = cast("dict[str, object]", values) if isinstance(values, dict) else {}
    return {name: v for name, v in found.items() if isinstance(v, float) and 0 <= v <= 1}


def _accuracy_path(teacher: PreparedTeacher) -> Path:
    return teacher.serving.recording.store.path / "accuracy.json"


def facts(teacher: PreparedTeacher, data: Data) -> TeacherFacts:
    """What results say of a teacher whose accuracy is filed."""
    accuracy = filed_accuracy(teacher, data)
    assert accuracy is not None
    return TeacherFacts(accuracy, teacher.parameters)
