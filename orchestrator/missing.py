"""Which parts of a teacher's recordings are missing, and which are damaged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from orchestrator.codecs import make_codec
from orchestrator.store import Column, PartId
from orchestrator.teachers import PartJob, RecordedSignal

if TYPE_CHECKING:
    from orchestrator.recording import Recording


def missing_jobs(recording: Recording, passes: Sequence[int]) -> tuple[list[PartJob], list[str]]:
    """The parts to record, in order of need, and what was found damaged and set aside.

    Every part that is there is read and its checksum compared: recordings are facts, and a student
    must not learn from a flipped bit. Of a remote store every node reads what it downloads, once,
    and here nothing is. Only for the holder of the recording's lock.
    """
    store = recording.store
    store.remove_leftovers()
    order = {pass_index: rank for rank, pass_index in enumerate(passes)}
    wanted: dict[PartId, list[RecordedSignal]] = {}
    messages: list[str] = []
    for signal in recording.signals:
        column = store.column(signal.spec, make_codec(signal.codec, signal.shape))
        if store.place.is_local:
            messages += quarantine_damaged(column, passes)
        for part in column.missing(passes):
            wanted.setdefault(part, []).append(signal)
    parts = sorted(wanted, key=lambda part: (order[part.pass_index], part.part_index))
    return [PartJob(store, part, tuple(wanted[part])) for part in parts], messages


def quarantine_damaged(column: Column, passes: Iterable[int]) -> list[str]:
    """Read every recorded part of ``passes``, set the damaged aside, and say which and why.

    Only for the holder of the recording's lock.
    """
    with ThreadPoolExecutor(4) as executor:
        damages = [d for found in executor.map(column.verify, passes) for d in found.items()]
    return [f"{column.quarantine(part)} ({damage.reason})" for part, damage in damages]
