"""What can be found wrong with a teacher before Ray starts: files, classes, channels, options.

Free of torch and ray, so that a mistake is answered at once.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from distill.class_maps import check_stored, class_map
from distill.config import AUTO, EMBEDDED, Teacher
from distill.datasets import DataInfo, describe
from distill.models.catalog import check_installed, check_options, suggest
from distill.models.inspection import inspect_checkpoint

SUFFIX = ".safetensors"  # of embedded weights


def checkpoint_path(teacher: Teacher) -> Path | None:
    """The file of a teacher's weights; None for one that is trained when it is needed."""
    if teacher.checkpoint == AUTO:
        return None
    if teacher.checkpoint.startswith(EMBEDDED):
        name = teacher.checkpoint.removeprefix(EMBEDDED)
        return Path(str(resources.files("distill") / "weights" / f"{name}{SUFFIX}"))
    return Path(teacher.checkpoint).expanduser()


def teacher_problems(teacher: Teacher, field: str, info: DataInfo | None) -> list[str]:
    """One line for each mistake in ``field``; ``info`` is of the data, where that is there."""
    problems = network_problems(teacher.arch, teacher.options, field)
    own, wrong = _own_info(teacher, field)
    problems += wrong
    if info:
        problems += _channels(teacher, field, info)
        if own:
            problems += _other_images(teacher, field, own, info)
    path = checkpoint_path(teacher)
    stored = None
    if path is not None:
        if not path.is_file():
            problems.append(f"{field}.checkpoint: {_no_file(teacher)}")
        else:
            try:
                stored = inspect_checkpoint(path).num_classes(teacher.arch)
            except ValueError as error:
                problems.append(f"{field}.checkpoint: {error}")
    return problems + _classes(teacher, field, info, own, stored)


def network_problems(arch: str, options: dict[str, object], field: str) -> list[str]:
    """A package that is not installed or not found, and options that the zoo does not take."""
    problems: list[str] = []
    try:
        check_installed(arch)
    except ValueError as error:
        problems.append(f"{field}.arch: {error}")
    try:
        check_options(arch, options)
    except ValueError as error:
        problems.append(f"{field}.options: {error}")
    return problems


def _channels(teacher: Teacher, field: str, info: DataInfo) -> list[str]:
    if teacher.normalization is None:
        return []
    channels = len(teacher.normalization.mean), len(teacher.normalization.std)
    if channels == (info.in_channels, info.in_channels):
        return []
    return [
        f"{field}.normalization: {channels[0]} means and {channels[1]} stds for images of "
        f"{info.in_channels} channels; give one of each a channel"
    ]


def _own_info(teacher: Teacher, field: str) -> tuple[DataInfo | None, list[str]]:
    """The data that the teacher is trained on, if it is not the experiment's."""
    if teacher.training.data is None:
        return None, []
    try:
        return describe(teacher.training.data), []
    except ValueError as error:
        return None, [f"{field}.training.data: {error}"]


def _other_images(teacher: Teacher, field: str, own: DataInfo, info: DataInfo) -> list[str]:
    """A teacher's own training images must look like those that it is asked about."""
    if (own.in_channels, own.image_size) == (info.in_channels, info.image_size):
        return []
    assert teacher.training.data is not None
    shown = "{0.in_channels} channels, {0.image_size} pixels"
    return [
        f"{field}.training.data: '{teacher.training.data.name}' has {shown.format(own)} and the "
        f"experiment's data {shown.format(info)}; give data of the same shape"
    ]


def _classes(
    teacher: Teacher, field: str, info: DataInfo | None, own: DataInfo | None, stored: int | None
) -> list[str]:
    """Outputs that answer for no class, and classes that no output answers for.

    ``stored`` is the checkpoint's number of classes. Where anything is known only later, the
    teacher's loading finds it.
    """
    if info is None or not info.class_names or (own and not own.class_names):
        return []
    try:
        found = class_map(teacher, info.class_names, own.class_names if own else None)
        if stored is not None:
            check_stored(teacher, found, stored, num_classes=info.num_classes)
    except ValueError as error:
        return [f"{field}.{error}"]
    return []


def _no_file(teacher: Teacher) -> str:
    if not teacher.checkpoint.startswith(EMBEDDED):
        return (
            f"no file '{teacher.checkpoint}'; correct the path, or train the teacher with "
            "checkpoint: auto"
        )
    files = resources.files("distill") / "weights"
    names = sorted(f.name for f in files.iterdir()) if files.is_dir() else []
    known = [EMBEDDED + n[: -len(SUFFIX)] for n in names if n.endswith(SUFFIX)]
    hint = suggest(teacher.checkpoint, known, label="embedded")
    return f"no embedded weights '{teacher.checkpoint}'; {hint}"
