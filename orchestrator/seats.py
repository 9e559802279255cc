"""Which node holds what: students' workers first, then teachers' actors in what they leave.

A sum over the cluster would not do: a third of a CPU of a teacher on each node leaves no node with
a whole one, and students would wait for ever for a place that the sum says is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

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


@final
@dataclass(frozen=True, slots=True)
class Seats:
    """What the nodes have left, by node id."""

    left: dict[str, Share]

    @classmethod
    def of_cluster(cls) -> Seats:
        """All of every node that is alive."""
        import ray

        return cls(
            {
                node["NodeID"]: Share(
                    node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)
                )
                for node in ray.nodes()
                if node["Alive"]
            }
        )

    def take(self, share: Share, *, together: bool = False) -> str | None:
        """A node that holds ``share``, which it then has less; None where none does.

        Of several it is one without GPUs, where none are asked for; then the one with the most CPUs
        left, or, of workers that should lie ``together``, with the least.
        """
        found = [name for name, left in self.left.items() if left.holds(share)]
        if not found:
            return None

        def rank(name: str) -> tuple[float, float]:
            left = self.left[name]
            return 0 if share.gpus else left.gpus, left.cpus if together else -left.cpus

        best = min(found, key=rank)
        self.left[best] = self.left[best] - share
        return best

    def give_back(self, node: str, share: Share) -> None:
        self.left[node] = self.left[node] + share


def seat(workers: Iterable[Share], actors: Iterable[Share], seats: Seats) -> bool:
    """Whether the nodes hold all at one time; ``seats`` is what is left then."""
    for share in _largest_first(workers):
        if seats.take(share, together=True) is None:
            return False
    return all(seats.take(share) is not None for share in _largest_first(actors))


def _largest_first(shares: Iterable[Share]) -> Sequence[Share]:
    return sorted(shares, key=lambda share: (share.gpus, share.cpus), reverse=True)
