"""Whether records are what they should be: every checksum, and a sample asked of the teachers anew.

Needs no Ray: the teachers answer in this process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import numpy as np

from orchestrator.codecs import make_codec
from orchestrator.display import Display
from orchestrator.missing import quarantine_damaged
from orchestrator.recording import Recording, Serving
from orchestrator.store import Column, PartId
from orchestrator.teachers import RecordedSignal, Teacher

if TYPE_CHECKING:
    from jaxtyping import Float, Int64, UInt8

# By a forward pass's precision: what its sums may differ by, between machines and batch sizes,
# over a sample's largest magnitude (a convolution in TF32 rounds to 2^-11 at each layer). The
# answer to another input, or of other weights, is tens of percent away.
ROUNDING = {"float32": 5e-3, "bfloat16": 5e-2}
_SEED = 0  # the same sample every time, so that a finding can be looked at again


@final
@dataclass(slots=True)
class Finding:
    """What was found of one signal of one teacher. Errors are of the codec's ``error_kind``."""

    teacher: str
    signal: RecordedSignal
    error_kind: str
    num_parts: int = 0  # that are whole
    num_passes: int = 0  # of which there is anything
    errors: list[float] = field(default_factory=list)  # of each sample asked anew
    promised: float = 0.0  # the largest error that the sampled parts say they have
    exceeds: bool = False  # some sample is further off than its part says

    def note(self, errors: Float[np.ndarray, " n"], *, promised: float, allowed: float) -> bool:
        """Add the samples of one part; whether they are within ``allowed``. NaN never is."""
        self.errors += errors.tolist()
        self.promised = max(self.promised, promised)
        within = bool((errors <= allowed).all())
        self.exceeds |= not within
        return within


@final
@dataclass(frozen=True, slots=True)
class Verification:
    """All findings, and one line for every part that was set aside."""

    findings: tuple[Finding, ...]
    damaged: tuple[str, ...]

    @property
    def found_nothing(self) -> bool:
        """Whether there was nothing to look at."""
        return not self.damaged and all(finding.num_parts == 0 for finding in self.findings)

    @property
    def is_well(self) -> bool:
        return not self.damaged and not self.found_nothing


def verify_servings(
    servings: Sequence[Serving], display: Display, *, num_samples: int
) -> Verification:
    """Check every part that is recorded, then ``num_samples`` inputs of each teacher.

    Damaged parts are set aside. Raises BlockingIOError while somebody records.
    """
    with ExitStack() as locks:
        for serving in servings:
            store = serving.recording.store
            if not store.place.is_local or store.path.is_dir():  # a lock would make the folder
                locks.enter_context(serving.recording.lock)
        damaged = _check_parts([serving.recording for serving in servings], display)
        columns = [columns_of(serving.recording) for serving in servings]
        samples = [sample_inputs(found.values(), num_samples=num_samples) for found in columns]
        findings = [
            _start_findings(serving.recording.teacher, found)
            for serving, found in zip(servings, columns, strict=True)
        ]
        progress = _Count(display, "asking anew", sum(map(_num_inputs, samples)), "samples")
        for serving, sample, found in zip(servings, samples, findings, strict=True):
            if sample:
                teacher = Teacher(serving.recipe, serving.inputs)
                damaged += _compare(teacher, serving.recording, found, sample, progress)
    return Verification(tuple(f for found in findings for f in found.values()), tuple(damaged))


def columns_of(recording: Recording) -> dict[RecordedSignal, Column]:
    """The columns of a recording, by signal."""
    return {
        signal: recording.store.column(signal.spec, make_codec(signal.codec, signal.shape))
        for signal in recording.signals
    }


def recorded_parts(column: Column) -> list[PartId]:
    """Every part of a column that is there, in order."""
    return column.recorded(column.passes())


def sample_inputs(
    columns: Iterable[Column], *, num_samples: int
) -> dict[PartId, Int64[np.ndarray, " n"]]:
    """Samples of one teacher's parts, as offsets into each, spread evenly over all that there is.

    One is drawn from each of ``num_samples`` equal shares of the recorded inputs.
    """
    columns = list(columns)
    parts = sorted({part for column in columns for part in recorded_parts(column)})
    if not parts:
        return {}
    identity = columns[0].store.identity
    sizes = np.array([len(identity.rows_of(part.part_index)) for part in parts])
    ends = np.cumsum(sizes)
    count = min(num_samples, int(ends[-1]))
    draws = np.random.default_rng(_SEED).random(count)
    positions = ((np.arange(count) + draws) * (ends[-1] / count)).astype(np.int64)
    owners = np.searchsorted(ends, positions, side="right")
    offsets = positions - (ends - sizes)[owners]
    return {parts[owner]: offsets[owners == owner] for owner in np.unique(owners).tolist()}


def _check_parts(recordings: Iterable[Recording], display: Display) -> list[str]:
    """Read every part there is; those that are damaged are set aside and named."""
    columns = [column for recording in recordings for column in columns_of(recording).values()]
    passes = [(column, pass_index) for column in columns for pass_index in column.passes()]
    total = sum(map(len, map(recorded_parts, columns)))
    progress = _Count(display, "reading", total, "parts")
    damaged: list[str] = []
    for column, pass_index in passes:
        num_parts = len(column.recorded([pass_index]))
        damaged += quarantine_damaged(column, [pass_index])
        progress.add(num_parts)
    return damaged


@final
class _Count:
    """A bar that is told how much was done since the last time; none for no work."""

    def __init__(self, display: Display, name: str, total: int, unit: str) -> None:
        self._bar = display.bar(name, total, unit) if total else None
        self._done = 0

    def add(self, count: int) -> None:
        assert self._bar is not None
        self._done += count
        self._bar.update(self._done)


def _num_inputs(sample: Mapping[PartId, np.ndarray]) -> int:
    return sum(map(len, sample.values()))


def _start_findings(
    teacher: str, columns: Mapping[RecordedSignal, Column]
) -> dict[RecordedSignal, Finding]:
    return {
        signal: Finding(
            teacher,
            signal,
            column.codec.error_kind,
            num_parts=len(recorded_parts(column)),
            num_passes=len(column.passes()),
        )
        for signal, column in columns.items()
    }


def _compare(
    teacher: Teacher,
    recording: Recording,
    findings: Mapping[RecordedSignal, Finding],
    sample: Mapping[PartId, Int64[np.ndarray, " n"]],
    progress: _Count,
) -> list[str]:
    """Ask the teacher anew and note every error; parts that are further off are set aside."""
    columns = columns_of(recording)
    held = {signal: set(recorded_parts(column)) for signal, column in columns.items()}
    rounding = ROUNDING[teacher.recipe.precision]
    damaged: list[str] = []
    for part, offsets in sample.items():
        signals = [signal for signal in columns if part in held[signal]]
        first = recording.identity.rows_of(part.part_index).start
        specs = tuple(dict.fromkeys(signal.spec for signal in signals))
        answers = teacher.pass_signals(first + offsets, part.pass_index, specs)
        for signal in signals:
            column = columns[signal]
            rows, promised = column.open_part(part)
            errors = _errors(column, answers[signal.spec], rows[offsets])
            if not findings[signal].note(errors, promised=promised, allowed=promised + rounding):
                damaged.append(
                    f"{column.quarantine(part)} (teacher '{teacher.recipe.name}' answers "
                    f"otherwise now: an error of {errors.max():.1e}, where {promised:.1e} was "
                    "recorded)"
                )
        progress.add(len(offsets))
    return damaged


def _errors(
    column: Column, answers: np.ndarray, rows: UInt8[np.ndarray, "n row_bytes"]
) -> Float[np.ndarray, " n"]:
    """The codec's error of each sample by itself."""
    one = (slice(i, i + 1) for i in range(len(rows)))
    return np.array([column.codec.error(answers[i], rows[i]) for i in one])
