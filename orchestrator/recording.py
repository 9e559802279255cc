"""Which parts are missing -> the fleet -> parts in the store, ahead of the students."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, final

import ray
from ray.exceptions import RayActorError, RayTaskError

from orchestrator.fleet import MAX_RESTARTS, Fleet, Placement
from orchestrator.identity import Identity
from orchestrator.locks import Lock
from orchestrator.mirror import Mirror
from orchestrator.missing import missing_jobs
from orchestrator.store import SignalStore
from orchestrator.teachers import InputPlan, PartJob, PartReport, RecordedSignal, TeacherRecipe
from orchestrator.waiting import have_no_place

POLL_S = 0.5
STALL_S = 60.0  # without a part, until it is looked whether any actor has a place
IN_FLIGHT = 2  # parts asked of an actor at a time: one runs, the next waits beside it
_Running = dict[Any, tuple[str, Any]]  # task -> teacher's key, actor


@final
@dataclass(frozen=True, slots=True)
class Recording:
    """What the store holds, or will hold, of one teacher. Small: it is sent to every worker."""

    teacher: str
    root: str
    identity: Identity
    signals: tuple[RecordedSignal, ...]
    mirror: Mirror | None = None  # of a remote root

    @property
    def key(self) -> str:
        return self.identity.key

    @property
    def store(self) -> SignalStore:
        return SignalStore(self.mirror or Path(self.root), self.identity)

    @property
    def lock(self) -> Lock:
        return self.store.lock


@final
@dataclass(frozen=True, slots=True)
class Serving:
    """A teacher to record or to ask, about which inputs, and the actors to do it with."""

    recording: Recording
    recipe: TeacherRecipe
    inputs: InputPlan  # those that the recording's identity names
    placement: Placement


@final
@dataclass(slots=True)
class RecordingReport:
    """What a recording has done so far."""

    parts_found: int = 0
    images_wanted: int = 0  # a sample, under a view, by a teacher, is one image
    images: int = 0
    busy: int = 0  # actors at work
    queued: int = 0  # parts not yet asked for
    rates: dict[str, float] = field(default_factory=dict)  # images/s of one actor, by teacher
    errors: dict[tuple[str, str], float] = field(default_factory=dict)  # by teacher and signal
    damaged: list[str] = field(default_factory=list)


class RecordingObserver(Protocol):
    """Who is told how recording goes. Called from the recorder's thread."""

    def on_wait(self, holder: str) -> None:
        """Another process records the same teacher; we wait for it."""
        ...

    def on_start(self, report: RecordingReport) -> None:
        """What is missing is known."""
        ...

    def on_stall(self, teachers: Sequence[str]) -> None:
        """No node has had room for any actor of these teachers for ``STALL_S`` and more."""
        ...

    def on_restart(self, teacher: str, process: str) -> None:
        """An actor's process died and was replaced; what it was asked is asked again."""
        ...

    def on_part(self, report: RecordingReport) -> None:
        """One more part is written."""
        ...


class RecordingError(RuntimeError):
    """A teacher cannot answer, or its answers cannot be written; the message says why."""


def ask(task: Any, teacher: str) -> Any:
    """A teacher's answer to a call. Raises RecordingError naming the teacher and the cause."""
    try:
        return ray.get(task)
    except RayTaskError as error:
        raise RecordingError(f"teacher '{teacher}' failed: {error.cause}") from error
    except RayActorError as error:
        raise RecordingError(
            f"teacher '{teacher}' failed: its actor died, or could not be reached, "
            f"{MAX_RESTARTS + 1} times; the last time: {error}"
        ) from error


def merge(servings: Iterable[Serving]) -> list[Serving]:
    """One serving a key, in order of keys: teachers with the same weights are recorded once.

    The order is the same everywhere, so two drivers that take locks never wait for each other.
    """
    by_key: dict[str, Serving] = {}
    for serving in servings:
        known = by_key.get(serving.recording.key)
        if known is not None:
            signals = dict.fromkeys((*known.recording.signals, *serving.recording.signals))
            recording = replace(known.recording, signals=tuple(signals))
            serving = replace(known, recording=recording)
        by_key[serving.recording.key] = serving
    return [by_key[key] for key in sorted(by_key)]


@final
class Recorder:
    """Records what is missing of some passes, in the order in which they are needed.

    ``run`` does it in this thread. ``start`` and ``finish`` do it beside the students: a student
    then waits for the pass it needs, and for no other. ``may_record`` holds passes back that are
    too far ahead.
    """

    def __init__(
        self,
        servings: Iterable[Serving],
        fleet: Fleet,
        passes: Sequence[int],
        observer: RecordingObserver,
        *,
        may_record: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self.report = RecordingReport()
        self._servings = merge(servings)
        self._fleet = fleet
        self._passes = passes
        self._observer = observer
        self._may_record = may_record
        self._processes: dict[Any, str] = {}  # of actors: Ray replaces them without a word
        self._stopped = threading.Event()
        self._checked = threading.Event()
        self._thread = threading.Thread(target=self._run_beside, name="recorder", daemon=True)
        self.error: BaseException | None = None

    def run(self) -> RecordingReport:
        """Record until nothing is missing. Raises the actors' errors."""
        locks = [serving.recording.lock for serving in self._servings]
        try:
            for lock in locks:
                if not self._acquire(lock):
                    return self.report
            self._record()
        finally:
            for lock in locks:
                lock.release()
        return self.report

    def start(self) -> None:
        """Begin to record in a thread of its own, and wait until nothing damaged can be read.

        That is, until this recorder has checked what is there. It does not wait for another one.
        """
        self._thread.start()
        self._checked.wait()

    def finish(self) -> None:
        """Stop at the parts in flight, whether or not something is still missing."""
        self._stopped.set()
        if self._thread.ident is not None:  # else it was never started
            self._thread.join()

    def _run_beside(self) -> None:
        try:
            self.run()
        except BaseException as error:  # raised again by the driver, in its own thread
            self.error = error
        finally:
            self._checked.set()

    def _acquire(self, lock: Lock) -> bool:
        if lock.acquire():
            return True
        self._observer.on_wait(lock.holder() or "another process")
        self._checked.set()  # by that one
        while not self._stopped.wait(POLL_S):
            if lock.acquire():
                return True
        return False

    def _record(self) -> None:
        report = self.report
        queues: dict[str, deque[PartJob]] = {}
        for serving in self._servings:
            jobs, damaged = missing_jobs(serving.recording, self._passes)
            queues[serving.recording.key] = deque(jobs)
            report.damaged += damaged
            wanted = serving.recording.identity.num_parts * len(self._passes)
            report.parts_found += wanted - len(jobs)
            report.images_wanted += sum(job.num_images for job in jobs)
        self._checked.set()
        self._observer.on_start(report)
        for serving in self._servings:
            if not queues[serving.recording.key]:
                self._fleet.release(serving.recording.key)
        self._dispatch(queues)

    def _dispatch(self, queues: dict[str, deque[PartJob]]) -> None:
        """Keep every actor busy until no job is left; one without work makes place for others."""
        actors = {
            serving.recording.key: self._fleet.actors(serving)
            for serving in self._servings
            if queues[serving.recording.key]
        }
        running: _Running = {}
        moved_s, is_told = time.monotonic(), False
        while not self._stopped.is_set():
            for depth in range(1, IN_FLIGHT + 1):  # dealt round: few parts are shared out evenly
                for key, group in actors.items():
                    for actor in group:
                        self._feed(key, actor, queues[key], running, depth)
            for key, group in actors.items():
                if not queues[key]:
                    self._release_idle(key, group, running)
            if not running:
                if not any(queues.values()):
                    return
                self._stopped.wait(POLL_S)  # everything that is missing is too far ahead
                continue
            done, _ = ray.wait(list(running), timeout=POLL_S)
            if done:
                moved_s, is_told = time.monotonic(), False
            elif not is_told and time.monotonic() - moved_s > STALL_S:
                is_told = have_no_place(actor for _, actor in running.values())
                if is_told:
                    names = {self._name(key) for key, _ in running.values()}
                    self._observer.on_stall(sorted(names))
            for task in done:
                key, actor = running.pop(task)
                self._note(ask(task, self._name(key)), actor, queues, running)

    def _name(self, key: str) -> str:
        return next(s.recording.teacher for s in self._servings if s.recording.key == key)

    def _feed(  # an actor's next part, unless it has ``depth`` already
        self, key: str, actor: Any, queue: deque[PartJob], running: _Running, depth: int
    ) -> None:
        in_flight = sum(busy is actor for _, busy in running.values())
        if queue and in_flight < depth and self._may_record(queue[0].part.pass_index):
            running[actor.record.remote(queue.popleft())] = key, actor

    def _release_idle(self, key: str, group: Sequence[Any], running: _Running) -> None:
        """End the actors for which nothing is left, and those that never got anything."""
        busy = {actor for _, actor in running.values()}
        for actor in [actor for actor in group if actor not in busy]:
            self._fleet.release_one(key, actor)

    def _note(
        self,
        part: PartReport,
        actor: Any,
        queues: dict[str, deque[PartJob]],
        running: _Running,
    ) -> None:
        report = self.report
        report.images += part.job.num_images
        report.busy = len({id(actor) for _, actor in running.values()})
        report.queued = sum(map(len, queues.values()))
        name = self._name(part.job.store.identity.key)
        before = self._processes.get(actor, part.process)
        self._processes[actor] = part.process
        if before != part.process:
            self._observer.on_restart(name, before)
        report.rates[name] = part.job.num_images / part.seconds
        for spec, error in part.errors.items():
            report.errors[name, spec] = max(error, report.errors.get((name, spec), 0.0))
        self._observer.on_part(report)
