"""Which node holds what: students' workers first, then teachers' actors in what they leave.

A sum over the cluster would not do: a third of a CPU of a teacher on each node leaves no node with
a whole one, and students would wait for ever for a place that the sum says is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

_ROUNDING = 1e-9  # Ray counts in ten-thousandths


@final
@dataclass(frozen=True, slots=True)
class Share:
    """What one process takes, or one node has left."""

    cpus: float
    gpus: float

    def holds(self, other: Share) -> bool:
        return other.cpus <= self.cpus + _ROUNDING and other.gpus <= self.gpus + _ROUNDING

    def __sub__(self, other: Share) -> Share:
        return Share(self.cpus - other.cpus, self.gpus - other.gpus)

    def __add__(self, other: Share) -> Share:
        return Share(self.cpus + other.cpus, self.gpus + other.gpus)


Hold = tuple[str | None, Share]  # what one process takes, and its node, where that is known


@final
@dataclass(frozen=True, slots=True)
class Seats:
    """What the nodes have left, by node id.

    ``gpus`` has what each GPU of a node has left: two halves of different ones hold no whole.
    """

    left: dict[str, Share]
    gpus: dict[str, tuple[float, ...]] = field(init=False)

    def __post_init__(self) -> None:
        whole = {name: (1.0,) * int(left.gpus + _ROUNDING) for name, left in self.left.items()}
        object.__setattr__(self, "gpus", whole)

    @classmethod
    def of(cls, nodes: Iterable[Mapping[str, Any]]) -> Seats:
        """All of each node that is alive, as Ray describes them."""
        resources = {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}
        return cls(
            {
                name: Share(has.get("CPU", 0.0), has.get("GPU", 0.0))
                for name, has in resources.items()
            }
        )

    @classmethod
    def of_cluster(cls) -> Seats:
        """All of every node that is alive."""
        import ray

        return cls.of(ray.nodes())

    def copy(self) -> Seats:
        """The same seats, to be taken apart."""
        copied = Seats(dict(self.left))
        copied.gpus.update(self.gpus)
        return copied

    def take(self, share: Share, *, together: bool = False) -> str | None:
        """A node that holds ``share``, which it then has less; None where none does.

        Of several it is one without GPUs, where none are asked for; then the one with the most CPUs
        left, or, of workers that should lie ``together``, with the least.
        """
        found = [name for name in self.left if self.holds(name, share)]
        if not found:
            return None

        def rank(name: str) -> tuple[float, float]:
            left = self.left[name]
            return 0 if share.gpus else left.gpus, left.cpus if together else -left.cpus

        best = min(found, key=rank)
        self.take_at(best, share)
        return best

    def holds(self, node: str, share: Share) -> bool:
        return self.left[node].holds(share) and _without(self.gpus[node], share.gpus) is not None

    def take_at(self, node: str, share: Share) -> None:
        """Seat ``share`` on this node, even where it has less left."""
        self.left[node] = self.left[node] - share
        rest = _without(self.gpus[node], share.gpus)
        self.gpus[node] = self.gpus[node] if rest is None else rest

    def give_back(self, node: str, share: Share) -> None:
        self.left[node] = self.left[node] + share
        self.gpus[node] = _with(self.gpus[node], share.gpus)


def _without(gpus: Sequence[float], asked: float) -> tuple[float, ...] | None:
    """What GPUs have left, less what is asked for, as Ray divides them: whole ones, or a part of
    the fullest that has it. None where they do not hold it.
    """
    rest = sorted(gpus)
    while asked > _ROUNDING:
        part = min(asked, 1.0)
        place = next((i for i, left in enumerate(rest) if left + _ROUNDING >= part), None)
        if place is None:
            return None
        rest[place] -= part
        asked -= part
    return tuple(rest)


def _with(gpus: Sequence[float], back: float) -> tuple[float, ...]:
    """The inverse: a part goes to the fullest GPU that it may have come from."""
    rest = sorted(gpus)
    while back > _ROUNDING:
        part = min(back, 1.0)
        place = next((i for i, left in enumerate(rest) if left + part <= 1 + _ROUNDING), None)
        if place is None:
            break
        rest[place] += part
        back -= part
    return tuple(rest)


def seat(workers: Iterable[Share], actors: Iterable[Share], seats: Seats) -> bool:
    """Whether the nodes hold all at one time; ``seats`` is what is left then."""
    for share in _largest_first(workers):
        if seats.take(share, together=True) is None:
            return False
    return all(seats.take(share) is not None for share in _largest_first(actors))


def _largest_first(shares: Iterable[Share]) -> Sequence[Share]:
    return sorted(shares, key=lambda share: (share.gpus, share.cpus), reverse=True)
