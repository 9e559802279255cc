"""Which parts are missing -> teachers' actors -> parts in the store."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import ray

from orchestrator.codecs import make_codec
from orchestrator.identity import Identity
from orchestrator.locks import RecordingLock
from orchestrator.store import SignalStore
from orchestrator.teachers import (
    InputPlan,
    PartJob,
    PartReport,
    RecordedSignal,
    Teacher,
    TeacherRecipe,
)

LOCK_POLL_S = 0.5
IN_FLIGHT = 2  # parts asked of an actor at a time: one runs, the next waits beside it


@final
@dataclass(frozen=True, slots=True)
class Recording:
    """What the store holds, or will hold, of one teacher. Small: it is sent to every worker."""

    teacher: str
    root: str
    identity: Identity
    signals: tuple[RecordedSignal, ...]


@final
@dataclass(frozen=True, slots=True)
class Serving:
    """A teacher to record, and the actors to do it with."""

    recording: Recording
    recipe: TeacherRecipe
    num_actors: int
    cpus: float
    gpus: float

    @property
    def key(self) -> str:
        return self.recording.identity.key


@final
@dataclass(slots=True)
class RecordingReport:
    """What a recording did."""

    parts_recorded: int = 0
    parts_found: int = 0
    images: int = 0  # answered by teachers: a sample, under a view, by a teacher
    seconds: float = 0.0
    errors: dict[tuple[str, str], float] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


def missing_jobs(recording: Recording, passes: Iterable[int]) -> tuple[list[PartJob], list[str]]:
    """The parts to record, in order of need, and what was found damaged and set aside.

    Every part that is there is read and its checksum compared: recordings are facts, and a student
    must not learn from a flipped bit.
    """
    store = SignalStore(Path(recording.root), recording.identity)
    store.remove_leftovers()
    wanted: dict[Any, list[RecordedSignal]] = {}
    messages: list[str] = []
    numbers = list(passes)
    for signal in recording.signals:
        column = store.column(signal.spec, make_codec(signal.codec, signal.shape))
        with ThreadPoolExecutor(4) as executor:
            damages = [d for found in executor.map(column.verify, numbers) for d in found.items()]
        messages += [f"{column.quarantine(part)} ({damage.reason})" for part, damage in damages]
        for part in column.missing(numbers):
            wanted.setdefault(part, []).append(signal)
    jobs = [
        PartJob(recording.root, recording.identity, part, tuple(signals))
        for part, signals in sorted(wanted.items())
    ]
    return jobs, messages


def record(
    servings: Sequence[Serving],
    plan: InputPlan,
    passes: Iterable[int],
    *,
    on_part: Callable[[PartReport, RecordingReport], None],
    on_start: Callable[[int, RecordingReport], None],
    on_wait: Callable[[str], None],
) -> RecordingReport:
    """Record what is missing. Another driver's recording of the same teacher is waited for.

    ``on_start`` is told the number of images to answer for, ``on_wait`` whom it waits for. Raises
    the actors' errors.
    """
    report = RecordingReport()
    passes = list(passes)
    started = time.perf_counter()
    locks = [RecordingLock(Path(s.recording.root) / s.key) for s in _in_order(servings)]
    try:
        for lock in locks:
            _acquire(lock, on_wait)
        work = [(serving, *missing_jobs(serving.recording, passes)) for serving in servings]
        for serving, jobs, messages in work:
            report.damaged += messages
            num_parts = serving.recording.identity.num_parts * len(passes)
            report.parts_found += num_parts - len(jobs)
        todo = [(serving, jobs) for serving, jobs, _ in work if jobs]
        num_images = sum(len(job.indices()) for _, jobs in todo for job in jobs)
        on_start(num_images, report)
        _dispatch(todo, plan, lambda part: _note(report, part, on_part))
    finally:
        for lock in locks:
            lock.release()
    report.seconds = time.perf_counter() - started
    return report


def _in_order(servings: Sequence[Serving]) -> list[Serving]:
    """Locks are taken in one order everywhere, so that two drivers never wait for each other."""
    by_key = {serving.key: serving for serving in servings}
    return [by_key[key] for key in sorted(by_key)]


def _acquire(lock: RecordingLock, on_wait: Callable[[str], None]) -> None:
    told = False
    while not lock.acquire():
        if not told:
            on_wait(lock.holder() or "another process")
            told = True
        time.sleep(LOCK_POLL_S)


def _note(
    report: RecordingReport,
    part: PartReport,
    on_part: Callable[[PartReport, RecordingReport], None],
) -> None:
    report.parts_recorded += 1
    report.images += len(part.job.indices())
    teacher = part.job.identity.key
    for spec, error in part.errors.items():
        report.errors[teacher, spec] = max(error, report.errors.get((teacher, spec), 0.0))
    on_part(part, report)


def _dispatch(
    todo: Sequence[tuple[Serving, list[PartJob]]],
    plan: InputPlan,
    on_part: Callable[[PartReport], None],
) -> None:
    """Keep every actor busy until no job is left; an actor without work is let go at once."""
    queues = {id(serving): deque(jobs) for serving, jobs in todo}
    actors: dict[Any, Any] = {}
    running: dict[Any, Any] = {}  # task -> actor
    try:
        for serving, jobs in todo:
            for _ in range(min(serving.num_actors, len(jobs))):
                actors[teacher_actor(serving, plan)] = queues[id(serving)]
        for _ in range(IN_FLIGHT):
            for actor, queue in actors.items():
                if queue:
                    running[actor.record.remote(queue.popleft())] = actor
        while running:
            done, _ = ray.wait(list(running), num_returns=1)
            actor = running.pop(done[0])
            report: PartReport = ray.get(done[0])
            if actors[actor]:
                running[actor.record.remote(actors[actor].popleft())] = actor
            elif actor not in running.values():
                ray.kill(actor)
            on_part(report)
    finally:
        for actor in actors:
            ray.kill(actor)


def teacher_actor(serving: Serving, plan: InputPlan) -> Any:
    """An actor around a Teacher; a process that dies is started anew and its calls repeated."""
    shell = ray.remote(Teacher).options(
        num_cpus=serving.cpus, num_gpus=serving.gpus, max_restarts=3, max_task_retries=3
    )
    return shell.remote(serving.recipe, plan, num_threads=max(1, int(serving.cpus)))
