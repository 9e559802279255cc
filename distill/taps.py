"""Which features of student and teachers a method compares, and in what form they are recorded.

Free of torch: a configuration is checked in milliseconds. A hint pairs one of the student's taps
with one teacher's signal; methods make their hints twice, for what to record and for what to build.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

from distill.models.catalog import FINAL, POOLED, taps_of
from distill.signals import LOGITS, SignalSpec, Taps, TeacherName

Form = Literal["map", "whole", "attention"]

_STEM = "stem"
_GROUP = re.compile(r"s([1-9]\d*):t(\d+)")


@final
@dataclass(frozen=True, slots=True)
class Hint:
    """A feature of the student beside a signal of a teacher."""

    student_tap: str
    teacher: TeacherName
    spec: SignalSpec


def known_taps(arch: str, taps: Sequence[str]) -> Taps:
    """A network's taps, shapes not known: those that are given, or the zoo's own."""
    own = taps_of(arch)
    names = (*taps, POOLED) if taps else own or (POOLED,)
    return dict.fromkeys(names)


def maps_of(taps: Taps, *, network: str) -> tuple[str, ...]:
    """The taps that are maps [c, h, w], in order. Raises ValueError where none is known."""
    names = tuple(
        tap
        for tap, shape in taps.items()
        if tap not in (LOGITS, POOLED) and (shape is None or len(shape) == 3)
    )
    if not names:
        raise ValueError(
            f"no feature map of {network} is known; name its modules from the image to the "
            "classifier, as in taps: [layer2, layer3, layer4]"
        )
    return names


def last_hints(
    teachers: Mapping[TeacherName, Taps], student: Taps, *, form: Form = "map"
) -> tuple[Hint, ...]:
    """F_s beside every F_k: the last map of each network before global pooling."""
    tap = maps_of(student, network="the student")[-1]
    return tuple(
        _hint(student, tap, teachers, name, maps_of(taps, network=f"teacher '{name}'")[-1], form)
        for name, taps in teachers.items()
    )


def stage_hints(
    groups: Iterable[tuple[int, int]],
    teachers: Mapping[TeacherName, Taps],
    student: Taps,
    *,
    form: Form = "map",
) -> tuple[Hint, ...]:
    """A hint for each (stage, teacher), stages counted from 1 and teachers from 0.

    Stage i of n has its counterpart in stage ceil(i·m/n) of a teacher's m: the last stages are
    always paired, and equally deep networks stage by stage (our reading).
    Raises ValueError for a stage or teacher that is not there.
    """
    stages, names = stages_of(student, network="the student"), tuple(teachers)
    hints: list[Hint] = []
    for stage, index in groups:
        if stage > len(stages):
            raise ValueError(
                f"s{stage}: the student has {len(stages)} stages, s1 to s{len(stages)}"
            )
        if index >= len(names):
            raise ValueError(f"t{index}: there are {len(names)} teachers, t0 to t{len(names) - 1}")
        name = names[index]
        tap = counterpart(stage, teachers[name], student, network=f"teacher '{name}'")
        hints.append(_hint(student, stages[stage - 1], teachers, name, tap, form))
    return tuple(hints)


def counterpart(stage: int, teacher: Taps, student: Taps, *, network: str) -> str:
    """The teacher's tap that stands beside the student's stage, counted from 1."""
    theirs = stages_of(teacher, network=network)
    count = len(stages_of(student, network="the student"))
    return theirs[math.ceil(stage * len(theirs) / count) - 1]


def stages_of(taps: Taps, *, network: str) -> tuple[str, ...]:
    """The maps that are stages: all but the stem's and what comes after the last."""
    maps = maps_of(taps, network=network)
    return tuple(tap for tap in maps if tap not in (_STEM, FINAL)) or maps


def every_group(teachers: Mapping[TeacherName, Taps], student: Taps) -> list[tuple[int, int]]:
    """Every stage of the student with every teacher."""
    count = len(stages_of(student, network="the student"))
    return [(stage, index) for stage in range(1, count + 1) for index in range(len(teachers))]


def turn_by_turn(teachers: Mapping[TeacherName, Taps], student: Taps) -> list[tuple[int, int]]:
    """Every stage of the student with one teacher: the first with t0, the next with t1, …"""
    count = len(stages_of(student, network="the student"))
    return [(stage, (stage - 1) % len(teachers)) for stage in range(1, count + 1)]


def parse_groups(text: str) -> list[tuple[int, int]]:
    """Read ``s1:t0,s2:t1``. Raises ValueError for another form, or a pair that is given twice."""
    groups: list[tuple[int, int]] = []
    for part in text.split(","):
        match = _GROUP.fullmatch(part.strip())
        if match is None:
            raise ValueError(
                f"'{part.strip()}' is not STAGE:TEACHER; write as in s1:t0,s2:t1, stages counted "
                "from 1 and teachers from 0"
            )
        groups.append((int(match[1]), int(match[2])))
    for group in groups:
        if groups.count(group) > 1:
            raise ValueError(f"s{group[0]}:t{group[1]} is given twice; give it once")
    return groups


def pooled_hints(teachers: Mapping[TeacherName, Taps], student: Taps) -> tuple[Hint, ...]:
    """The vector that each network's classifier sees, or its last map's mean over positions.

    Where the student has no such vector, the hint's tap is its last map.
    """
    tap = POOLED if POOLED in student else maps_of(student, network="the student")[-1]
    return tuple(
        Hint(tap, name, _pooled_spec(taps, network=f"teacher '{name}'"))
        for name, taps in teachers.items()
    )


def _pooled_spec(taps: Taps, *, network: str) -> SignalSpec:
    if POOLED in taps:
        return SignalSpec(POOLED)
    return SignalSpec(maps_of(taps, network=network)[-1], "gap")


def needs_of(
    hints: Iterable[Hint], *, logits: Iterable[TeacherName] = ()
) -> dict[TeacherName, frozenset[SignalSpec]]:
    """What hints ask of each teacher, and the logits of some."""
    needs: dict[TeacherName, frozenset[SignalSpec]] = {
        name: frozenset({SignalSpec(LOGITS)}) for name in logits
    }
    for hint in hints:
        needs[hint.teacher] = needs.get(hint.teacher, frozenset()) | {hint.spec}
    return needs


def _hint(
    student: Taps,
    student_tap: str,
    teachers: Mapping[TeacherName, Taps],
    teacher: TeacherName,
    tap: str,
    form: Form,
) -> Hint:
    """The larger map is pooled to the smaller: the teacher's already where it is computed."""
    ours, theirs = student[student_tap], teachers[teacher][tap]
    size = str(ours[-1]) if ours and theirs and ours[-1] < theirs[-1] else ""
    if form == "attention":
        return Hint(student_tap, teacher, SignalSpec(tap, f"attention{size}"))
    pooled = f"pool{size}" if size and form == "map" else ""
    return Hint(student_tap, teacher, SignalSpec(tap, pooled))
