"""What a configuration cannot say of itself, checked before Ray starts: files, shapes, resources.

Free of torch and ray, so that a mistake is answered at once.
"""

from __future__ import annotations

import os
from pathlib import Path

from distill.config import AUTO, Experiment, Signals
from distill.datasets import Data, DataConfig, DataInfo, describe, load_data
from distill.loading import ConfigError
from distill.methods import MethodConfig
from distill.methods.base import Setting
from distill.models.catalog import suggest, taps_of
from distill.signals import LOGITS, SignalSpec, iterate_specs
from distill.taps import known_taps
from distill.views import Identity, ViewSpace
from orchestrator.codecs import codec_name, make_codec
from orchestrator.remote import RemoteError, check_remote, is_remote
from orchestrator.room import misfits_here
from orchestrator.teacher_checks import network_problems, teacher_problems

LOCAL_CPUS = os.cpu_count() or 1
# Where Linux shows GPUs: NVIDIA's, AMD's, and those of Windows' subsystem.
_GPU_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")


def has_gpu() -> bool:
    """Whether this machine shows a GPU. How many there are is Ray's to count."""
    return any(any(Path("/dev").glob(pattern)) for pattern in _GPU_DEVICES)


def check(
    experiment: Experiment, *, num_cpus: int = LOCAL_CPUS, with_gpu: bool | None = None
) -> DataInfo:
    """Everything that can be found wrong without work. Raises ConfigError, one line a mistake."""
    problems: list[str] = []
    info = None
    try:
        info = describe(experiment.data)
    except ValueError as error:
        problems.append(str(error))
    for index, teacher in enumerate(experiment.teachers):
        problems += teacher_problems(teacher, f"teachers[{index}]", info)
    problems += network_problems(experiment.student.arch, experiment.student.options, "student")
    problems += _needs(experiment)
    problems += _codecs(experiment, info)
    problems += _batch(experiment)
    problems += _views(experiment.views, info)
    problems += _location(experiment.signals)
    if not os.environ.get("RAY_ADDRESS"):  # what a cluster holds is known once it is joined
        with_gpu = has_gpu() if with_gpu is None else with_gpu
        problems += misfits_here(experiment, num_cpus=num_cpus, with_gpu=with_gpu)
    if problems or info is None:
        raise ConfigError("\n".join(problems))
    return info


def check_data(experiment: Experiment) -> Data:
    """Open the data, decoding it first where that was never done, and hold it against the batches.

    Raises ConfigError for data that is damaged, or too few for a batch.
    """
    data = _loaded(experiment.data)
    sizes = [("schedule.batch_size", experiment.schedule.batch_size, data)]
    for index, teacher in enumerate(experiment.teachers):
        if teacher.checkpoint == AUTO:
            training, field = teacher.training, f"teachers[{index}].training.schedule.batch_size"
            own = _loaded(training.data) if training.data else data
            sizes.append((field, training.schedule.batch_size, own))
    problems = [
        f"{field}: {size} is more than the {len(of.train)} training samples; set it lower"
        for field, size, of in sizes
        if size > len(of.train)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return data


def _loaded(config: DataConfig) -> Data:
    try:
        return load_data(config)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def signal_codec(experiment: Experiment, spec: SignalSpec) -> str:
    """The codec that an experiment keeps a signal in: by signal, by tap, or the default."""
    signals = experiment.signals
    return signals.codecs.get(str(spec), signals.codecs.get(spec.tap, signals.codec))


def _needs(experiment: Experiment) -> list[str]:
    """Taps that a method asks for and nobody has, and settings that it cannot be trained in."""
    fields = [f"baselines[{i}]" for i in range(len(experiment.baselines))] + ["method"]
    problems: list[str] = []
    for field, method in zip(fields, experiment.methods, strict=True):
        found = _unmet(method, experiment) + _requirements(method, experiment)
        problems += [f"{field}: {text}" for text in found]
    return problems


def _requirements(method: MethodConfig, experiment: Experiment) -> list[str]:
    """What a method asks of optimizer, batch and workers, and does not find."""
    setting = Setting(
        optimizer=experiment.optimizer.name,
        batch_size=experiment.schedule.batch_size,
        num_workers=max(1, experiment.workers.most),
        sync_batchnorm=experiment.workers.sync_batchnorm,
        is_elastic=experiment.workers.least < experiment.workers.most,
    )
    found = (requirement(method, setting) for requirement in method.requirements)
    return [text for text in found if text]


def _unmet(method: MethodConfig, experiment: Experiment) -> list[str]:
    teachers = {teacher.name: teacher for teacher in experiment.teachers}
    taps = {name: known_taps(teacher.arch, teacher.taps) for name, teacher in teachers.items()}
    student = known_taps(experiment.student.arch, experiment.student.taps)
    try:
        needs = method.needs(taps or {"any": student}, student)
    except ValueError as error:
        return [f"'{method.name}': {error}"]
    if not teachers:
        return [f"'{method.name}' needs a teacher; add one to teachers"] if needs else []
    problems: list[str] = []
    for name, spec in iterate_specs(needs):
        arch = teachers[name].arch
        taps = taps_of(arch)
        if taps is not None and spec.tap not in (LOGITS, *taps):
            problems.append(
                f"'{method.name}' needs tap '{spec.tap}', which teacher '{name}' ({arch}) does not "
                f"have; {suggest(spec.tap, (LOGITS, *taps), label='taps')}"
            )
    return problems


def _codecs(experiment: Experiment, info: DataInfo | None) -> list[str]:
    signals = experiment.signals
    problems = _wrong_codec("signals.codec", signals.codec)
    for text, codec in signals.codecs.items():
        field = f"signals.codecs.{text}"
        wrong = _wrong_codec(field, codec)
        try:
            spec = SignalSpec.parse(text)
            if spec.tap == LOGITS and info and not wrong:
                make_codec(codec, (info.num_classes,))
        except ValueError as error:
            wrong.append(f"{field}: {error}")
        else:
            wrong += _unknown_tap(field, spec, experiment)
        problems += wrong
    return problems


def _unknown_tap(field: str, spec: SignalSpec, experiment: Experiment) -> list[str]:
    """A codec for a tap that no teacher has would silently do nothing."""
    found = [taps_of(teacher.arch) for teacher in experiment.teachers]
    known = {LOGITS, *(tap for taps in found for tap in taps or ())}
    if spec.tap in known or None in found:
        return []
    hint = suggest(spec.tap, sorted(known), label="taps")
    return [f"{field}: no teacher has tap '{spec.tap}'; {hint}"]


def _wrong_codec(field: str, text: str) -> list[str]:
    try:
        codec_name(text)
    except ValueError as error:
        return [f"{field}: {error}"]
    return []


def _views(views: ViewSpace, info: DataInfo | None) -> list[str]:
    if info is None or isinstance(views, Identity) or views.padding < info.image_size:
        return []
    return [
        f"views.padding: {views.padding} for images of {info.image_size} pixels leaves views with "
        f"nothing of the image; set it to {info.image_size - 1} or less"
    ]


def _location(signals: Signals) -> list[str]:
    """A URL that records cannot be kept at: unknown, not installed, not there, not allowed."""
    if signals.source != "cached" or not is_remote(signals.root):
        return []
    try:
        check_remote(signals.root)
    except (ValueError, RemoteError) as error:
        return [f"signals.root: {error}"]
    return []


def _batch(experiment: Experiment) -> list[str]:
    workers, size = experiment.workers, experiment.schedule.batch_size
    if workers.most <= size:
        return []
    field = "workers.max" if workers.is_elastic else "workers.count"
    return [
        f"{field}: {workers.most} workers cannot share a batch of {size}; set {field} lower, or "
        "schedule.batch_size higher"
    ]
