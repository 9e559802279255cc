"""The fleet: actors around teachers, started when first asked, ended when they are done."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distill.memory import keep_freed_memory
from orchestrator.seats import Hold, Seats, Share, seat
from orchestrator.teachers import (
    InputPlan,
    PartJob,
    PartReport,
    RecordedSignal,
    Teacher,
)

if TYPE_CHECKING:
    from orchestrator.recording import Serving

MAX_RESTARTS = 3  # of an actor whose process dies; its calls are repeated as often


@final
@dataclass(frozen=True, slots=True)
class Placement:
    """How many actors serve a teacher, and what each of them takes."""

    num_actors: int
    cpus: float
    gpus: float

    @property
    def share(self) -> Share:
        return Share(self.cpus, self.gpus)


class TeacherActor:
    """The shell around a Teacher.

    The recipe comes as a pickled reference: an actor that is started anew fetches it again from the
    object store, where the fleet keeps it. (Of a plain reference Ray would say, at every start,
    that it may be lost.)
    """

    def __init__(self, recipe: bytes, plan: InputPlan, num_threads: int) -> None:
        keep_freed_memory()
        reference = cloudpickle.loads(recipe)
        self._teacher = Teacher(ray.get(reference), plan, num_threads=num_threads)

    def record(self, job: PartJob) -> PartReport:
        """Teacher.record, which see."""
        return self._teacher.record(job)

    def rows(
        self, indices: np.ndarray, pass_index: int, signals: tuple[RecordedSignal, ...]
    ) -> list[np.ndarray]:
        """Teacher.rows, which see."""
        return self._teacher.rows(indices, pass_index, signals)

    def test_accuracy(self) -> float:
        """Teacher.test_accuracy, which see."""
        return self._teacher.test_accuracy()


@final
class Fleet:
    """Actors by identity key: teachers with the same weights are one teacher, loaded once.

    Actors start on nodes that leave room for ``workers``, which come later, as long as there are
    such. A context manager: no actor outlives it.
    """

    def __init__(self, workers: Sequence[Share] = ()) -> None:
        self._actors: dict[str, list[Any]] = {}
        self._nodes: dict[Any, Hold] = {}  # where each actor was sent, and for what
        self._seats = Seats.of_cluster()
        seat(workers, (), self._seats)
        self._recipes: list[Any] = []

    def actors(self, serving: Serving) -> list[Any]:
        """The actors of a teacher, started at the first call. Does not wait for them."""
        key, placement = serving.recording.key, serving.placement
        if key not in self._actors:
            reference = ray.put(serving.recipe)
            self._recipes.append(reference)  # alive as long as the fleet: restarts need it
            pickled = cloudpickle.dumps(reference)  # pyright: ignore[reportPrivateImportUsage]
            threads = max(1, int(placement.cpus))
            self._actors[key] = [
                self._start(placement.share, pickled, serving.inputs, threads)
                for _ in range(placement.num_actors)
            ]
        return self._actors[key]

    def _start(self, share: Share, *arguments: Any) -> Any:
        """An actor where there is room for it; else where Ray thinks best, or waiting for it."""
        node = self._seats.take(share)
        # Soft: where the node has gone when the actor starts, or starts again, another will do.
        strategy = NodeAffinitySchedulingStrategy(node, soft=True) if node else "DEFAULT"
        shell = ray.remote(TeacherActor).options(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_RESTARTS,
            scheduling_strategy=strategy,
        )
        actor = shell.remote(*arguments)
        self._nodes[actor] = (node, share)
        return actor

    def _end(self, actor: Any) -> None:
        node, share = self._nodes.pop(actor)
        if node:
            self._seats.give_back(node, share)
        ray.kill(actor)

    def held(self) -> Sequence[Hold]:
        """What all actors take, and the node where each was sent; None: wherever there is room."""
        return list(self._nodes.values())

    def release(self, key: str) -> None:
        """End a teacher's actors; what they held is free for students."""
        for actor in self._actors.pop(key, ()):
            self._end(actor)

    def keep_only(self, keys: Collection[str]) -> None:
        """End the actors of all other teachers."""
        for key in self._actors.keys() - set(keys):
            self.release(key)

    def release_one(self, key: str, actor: Any) -> None:
        """End one actor of a teacher; another's that waits for its place can start."""
        self._actors[key].remove(actor)
        if not self._actors[key]:
            del self._actors[key]
        self._end(actor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if ray.is_initialized():
            self.keep_only(())


def fits(placements: Sequence[Placement], *, workers: Sequence[Share]) -> bool:
    """Whether the cluster's nodes hold all teachers' actors and students' workers at one time."""
    actors = [one.share for one in placements for _ in range(one.num_actors)]
    return seat(workers, actors, Seats.of_cluster())
