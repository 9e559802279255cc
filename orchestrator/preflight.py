"""What a configuration cannot say of itself, checked before any work: files, shapes, resources.

Free of torch and ray, so that a mistake is answered at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from distill.config import AUTO, EMBEDDED, Experiment, Teacher
from distill.datasets import DataInfo, describe
from distill.loading import ConfigError
from distill.models.catalog import check_options, taps_of
from distill.models.inspection import inspect_checkpoint
from distill.signals import LOGITS, SignalSpec, iterate_specs
from orchestrator.codecs import codec_name, make_codec

LOCAL_CPUS = os.cpu_count() or 1


def check(experiment: Experiment, *, num_cpus: int = LOCAL_CPUS) -> DataInfo:
    """Everything that can be found wrong without work. Raises ConfigError, one line a mistake."""
    problems: list[str] = []
    info = None
    try:
        info = describe(experiment.data)
    except ValueError as error:
        problems.append(str(error))
    for index, teacher in enumerate(experiment.teachers):
        problems += _teacher(teacher, f"teachers[{index}]", info)
    problems += _options(experiment.student.arch, experiment.student.options, "student")
    problems += _needs(experiment)
    problems += _codecs(experiment)
    problems += _resources(experiment, num_cpus)
    if problems or info is None:
        raise ConfigError("\n".join(problems))
    return info


def checkpoint_path(teacher: Teacher) -> Path | None:
    """The file of a teacher's weights; None for one that is trained when it is needed."""
    if teacher.checkpoint == AUTO:
        return None
    if teacher.checkpoint.startswith(EMBEDDED):
        name = teacher.checkpoint.removeprefix(EMBEDDED)
        return Path(str(resources.files("distill") / "weights" / f"{name}.safetensors"))
    return Path(teacher.checkpoint)


def signal_codec(experiment: Experiment, spec: SignalSpec) -> str:
    """The codec that an experiment keeps a signal in: by signal, by tap, or the default."""
    signals = experiment.signals
    return signals.codecs.get(str(spec), signals.codecs.get(spec.tap, signals.codec))


def _teacher(teacher: Teacher, field: str, info: DataInfo | None) -> list[str]:
    problems = _options(teacher.arch, teacher.options, field)
    if info and teacher.normalization:
        channels = len(teacher.normalization.mean), len(teacher.normalization.std)
        if channels != (info.in_channels, info.in_channels):
            problems.append(
                f"{field}.normalization: {channels[0]} means and {channels[1]} stds for images of "
                f"{info.in_channels} channels; give one of each a channel"
            )
    path = checkpoint_path(teacher)
    if path is None:
        return problems
    if not path.is_file():
        return [*problems, f"{field}.checkpoint: {_no_file(teacher)}"]
    try:
        num_classes = inspect_checkpoint(path).num_classes(teacher.arch)
    except ValueError as error:
        return [*problems, f"{field}.checkpoint: {error}"]
    if info and num_classes not in (None, info.num_classes):
        problems.append(
            f"{field}.checkpoint: '{teacher.checkpoint}' has {num_classes} classes, the data has "
            f"{info.num_classes}; give a teacher of this data, or other data"
        )
    return problems


def _no_file(teacher: Teacher) -> str:
    if teacher.checkpoint.startswith(EMBEDDED):
        folder = resources.files("distill") / "weights"
        names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".safetensors"))
        known = ", ".join(EMBEDDED + name.removesuffix(".safetensors") for name in names)
        return f"no embedded weights '{teacher.checkpoint}'; there are {known}"
    return (
        f"no file '{teacher.checkpoint}'; correct the path, or train the teacher with "
        "checkpoint: auto"
    )


def _options(arch: str, options: dict[str, object], field: str) -> list[str]:
    try:
        check_options(arch, options)
    except ValueError as error:
        return [f"{field}.options: {error}"]
    return []


def _needs(experiment: Experiment) -> list[str]:
    """Taps that a method asks for and a teacher or the student does not have."""
    problems: list[str] = []
    teachers = {teacher.name: teacher for teacher in experiment.teachers}
    student_taps = taps_of(experiment.student.arch) or ()
    for method in experiment.methods:
        if method.name != "ce" and not teachers:
            problems.append(f"teachers: method '{method.name}' needs at least one; add a teacher")
            continue
        try:
            needs = method.needs(tuple(teachers), student_taps)
        except ValueError as error:
            problems.append(f"method '{method.name}': {error}")
            continue
        for name, spec in iterate_specs(needs):
            taps = taps_of(teachers[name].arch)
            if taps is not None and spec.tap not in (LOGITS, *taps):
                problems.append(
                    f"method '{method.name}': teacher '{name}' ({teachers[name].arch}) has no tap "
                    f"'{spec.tap}'; taps: {', '.join((LOGITS, *taps))}"
                )
    return problems


def _codecs(experiment: Experiment) -> list[str]:
    signals = experiment.signals
    problems = _try((("signals.codec", signals.codec),))
    for text, codec in signals.codecs.items():
        field = f"signals.codecs.{text}"
        problems += _try(((field, codec),))
        try:
            spec = SignalSpec.parse(text)
            if spec.tap == LOGITS and not problems:
                make_codec(codec, (describe(experiment.data).num_classes,))
        except ValueError as error:
            problems.append(f"{field}: {error}")
    return problems


def _try(codecs: Iterable[tuple[str, str]]) -> list[str]:
    problems: list[str] = []
    for field, text in codecs:
        try:
            codec_name(text)
        except ValueError as error:
            problems.append(f"{field}: {error}")
    return problems


def _resources(experiment: Experiment, num_cpus: int) -> list[str]:
    """What one machine cannot place. A cluster may grow, so there Ray itself decides."""
    problems: list[str] = []
    workers = experiment.workers
    size = experiment.schedule.batch_size
    if workers.count > size:
        problems.append(
            f"workers.count: {workers.count} workers cannot share a batch of {size}; set "
            "workers.count lower, or schedule.batch_size higher"
        )
    if os.environ.get("RAY_ADDRESS"):
        return problems
    if workers.count * workers.cpus > num_cpus:
        fits = int(num_cpus / workers.cpus)
        problems.append(
            f"workers.count: {workers.count} workers of {workers.cpus:g} CPUs need "
            f"{workers.count * workers.cpus:g}, this machine has {num_cpus}; set workers.count "
            f"to {fits} or less, or RAY_ADDRESS to a cluster's address"
        )
    for index, teacher in enumerate(experiment.teachers):
        if teacher.cpus > num_cpus:
            problems.append(
                f"teachers[{index}].cpus: an actor of {teacher.cpus:g} CPUs does not fit on this "
                f"machine, which has {num_cpus}; set it to {num_cpus} or less"
            )
    return problems
