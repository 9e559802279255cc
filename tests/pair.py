"""What each of two worker processes does; light to import, since every process does so anew."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from distill.parallel import Workers
from distill.signals import LossReport
from distill.weight_tables import WeightSums
from tests import meta, residents


def weigh(rows: slice, workers: Workers) -> dict[str, Any]:
    """The table of some samples' weights, added up over ``workers``."""
    drawn = torch.randn(2, 100, generator=torch.Generator().manual_seed(0)).softmax(0)[:, rows]
    sums = WeightSums(torch.device("cpu"))
    report = LossReport({}, weights={"teacher_weight": {"a": drawn[0], "b": drawn[1]}})
    sums.add(report, (torch.arange(100) % 7)[rows], num_classes=7)
    table = asdict(sums.tables(workers)["teacher_weight"])
    return {name: torch.as_tensor(value) for name, value in table.items() if name != "teachers"}


def work(rank: int, address: str, folder: str) -> None:
    """Join the other process, train by either learner, and write down what came of it."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    results = {
        "bilevel": meta.work(rank),
        "adaptive_teacher": residents.work(rank),
        "weights": weigh(slice(rank, None, 2), Workers(rank, 2)),
    }
    torch.save(results, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
