"""What each of two worker processes does; light to import, since every process does so anew."""

from __future__ import annotations

from pathlib import Path

import torch

from tests import meta, residents


def work(rank: int, address: str, folder: str) -> None:
    """Join the other process, train by either learner, and write down what came of it."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    results = {"bilevel": meta.work(rank), "adaptive_teacher": residents.work(rank)}
    torch.save(results, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
