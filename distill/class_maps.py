"""Which of a teacher's outputs answer for which of the data's classes.

Free of torch: a mismatch is told before anything is built. C classes of the data, K of a teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from distill.config import Teacher
from distill.models.catalog import suggest

_NUM_SHOWN = 5


@final
@dataclass(frozen=True, slots=True)
class ClassMap:
    """A teacher's outputs for the data's classes, in the data's order."""

    outputs: tuple[int, ...] | None  # C of them; None: all, in the data's order
    num_outputs: int | None  # K; None where only the checkpoint tells


def class_map(teacher: Teacher, names: Sequence[str], own: Sequence[str] | None) -> ClassMap:
    """How a teacher's classes fit data whose classes are called ``names``.

    ``own`` are the names of the classes that it is trained on, where ``training.data`` says. They
    count by name where any of them is the data's, and else by place. Raises ValueError that begins
    with the teacher's field, where a class of the data has no output, or an output no class.
    """
    if teacher.outputs:
        num_outputs = None if own is None else len(own)
        if len(teacher.outputs) != len(names):
            raise ValueError(
                f"outputs: {len(teacher.outputs)} outputs for the {len(names)} classes of the data "
                f"({_shown(names)}); give one for each, in this order"
            )
        check_outputs(teacher.outputs, num_outputs)
        return _mapped(teacher.outputs, num_outputs)
    known = teacher.classes or own or names
    if own is not None and len(known) != len(own):
        raise ValueError(
            f"classes: {len(known)} names, and training.data has {len(own)} classes; name every "
            "one, in its order"
        )
    if tuple(known) == tuple(names):
        return ClassMap(None, len(names))
    if not teacher.classes and len(known) == len(names) and not set(known) & set(names):
        return ClassMap(None, len(names))
    for name in names:
        if name not in known:
            raise ValueError(_unknown(teacher, name, known, names))
    return _mapped(tuple(map(tuple(known).index, names)), len(known))


def check_outputs(outputs: Sequence[int], num_outputs: int | None) -> None:
    """Raise ValueError for an output beyond the last of ``num_outputs``."""
    if num_outputs is not None and max(outputs) >= num_outputs:
        raise ValueError(
            f"outputs: there is no output {max(outputs)}; the teacher has {num_outputs}, "
            f"0..{num_outputs - 1}"
        )


def check_stored(teacher: Teacher, found: ClassMap, stored: int, *, num_classes: int) -> None:
    """Hold a map against the number of outputs that the teacher's checkpoint has.

    Raises ValueError that begins with the teacher's field.
    """
    if teacher.outputs:
        check_outputs(teacher.outputs, stored)
    elif teacher.classes and len(teacher.classes) != stored:
        raise ValueError(
            f"classes: {len(teacher.classes)} names, and '{teacher.checkpoint}' has {stored} "
            "outputs; name every one, in its order"
        )
    elif found.num_outputs not in (None, stored):
        whose = "training.data" if found.outputs else "the data"
        raise ValueError(
            f"checkpoint: '{teacher.checkpoint}' has {stored} classes, {whose} has "
            f"{found.num_outputs}; say which {num_classes} of its outputs are the data's classes "
            "by outputs or classes, or give a teacher of this data"
        )


def _mapped(outputs: tuple[int, ...], num_outputs: int | None) -> ClassMap:
    is_all = num_outputs is not None and outputs == tuple(range(num_outputs))
    return ClassMap(None if is_all else outputs, num_outputs)


def _unknown(teacher: Teacher, name: str, known: Sequence[str], names: Sequence[str]) -> str:
    numbers = f"{len(known)} classes and the experiment's data {len(names)}"
    if teacher.classes:
        return (
            f"classes: the teacher has {numbers}, and none of its is called '{name}', as one of "
            f"the data's is; {_near(name, known)}"
        )
    assert teacher.training.data is not None
    return (
        f"training.data: '{teacher.training.data.name}' has {numbers}, and none of its is called "
        f"'{name}', as one of the data's is; say by outputs which of its classes, counted from 0, "
        "are the data's, or give data of the same classes"
    )


def _near(name: str, known: Sequence[str]) -> str:
    hint = suggest(name, known, label="")
    return hint if hint.startswith("did you mean") else f"it has {_shown(known)}"


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_NUM_SHOWN])
    return f"{shown}, …" if len(names) > _NUM_SHOWN else shown
