"""What it costs to gather a batch from the store, and what a view takes on disk.

``python -m benchmarks.gather [--quick] [--json FILE]``. Each measurement walks a whole epoch in its
shuffled order, batch by batch, through a mapping that was just opened, as training does: page
faults are counted in. Beside the store lies one plain file with the same bytes, read by numpy from
one memory map. Numbers are drawn: what they say does not matter here.

"Private" memory is what the kernel calls anonymous: what the process holds for itself, beside the
page cache that all share.
"""

from __future__ import annotations

import gc
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import (
    Results,
    Target,
    arguments,
    interleaved,
    median,
    median_ratio,
    report,
)
from distill.signals import LOGITS, SignalSpec
from distill.views import epoch_order
from orchestrator.codecs import make_codec
from orchestrator.identity import Identity
from orchestrator.store import Column, PartId, SignalStore

BATCH_SIZE = 64
NUM_CLASSES = 100
MAP_SHAPE = (128, 7, 7)
GROWTH = 10
NUM_VIEWS = 60_000  # Fashion-MNIST's training images

TARGETS = {
    "gather_over_memmap": Target("at most", 1.1),
    "gather_growth_10x": Target("at most", 1.1),
    "private_growth_10x": Target("at most", 1.1),
    "bytes_per_view_top10": Target("at most", 40),
    "bytes_per_view_dense": Target("at most", 204),
}


def make_column(
    folder: Path, spec: str, shape: tuple[int, ...], codec: str, num_rows: int
) -> Column:
    """A column with one recorded pass of drawn numbers."""
    identity = Identity(
        architecture="drawn",
        options={},
        weights_sha256="0" * 64,
        mean=(0.0,),
        std=(1.0,),
        num_classes=NUM_CLASSES,
        split=spec,
        num_samples=num_rows,
        views={},
        plan_seed=0,
    )
    column = SignalStore(folder, identity).column(SignalSpec.parse(spec), make_codec(codec, shape))
    # The parts are alike, which no gather can tell, and made in a moment.
    draw = np.random.default_rng(0)
    rows, error = column.encode(
        draw.standard_normal((min(num_rows, identity.part_size), *shape), dtype=np.float32)
    )
    for index in range(identity.num_parts):
        column.write(PartId(0, index), rows[: len(identity.rows_of(index))], error=error)
    return column


def copy_plain(column: Column, file: Path) -> Callable[[], np.ndarray]:
    """Write a pass's bytes to one file; what maps them anew, for numpy to gather from.

    As an ndarray: numpy indexes that faster than its own memmap class.
    """
    rows = column.open_pass(0)
    rows.tofile(file)
    return lambda: np.asarray(np.memmap(file, np.uint8, mode="r", shape=rows.shape))


def batches(num_rows: int) -> Iterator[np.ndarray]:
    """An epoch's batches of indices."""
    order = epoch_order(num_rows, seed=0, epoch=0)
    return (order[i : i + BATCH_SIZE] for i in range(0, num_rows - BATCH_SIZE + 1, BATCH_SIZE))


def walk(open_rows: Callable[[], np.ndarray], num_rows: int) -> float:
    """Seconds a batch over an epoch, opening not counted: that is once a pass."""
    epoch = list(batches(num_rows))
    rows = open_rows()
    begin = time.perf_counter()
    for indices in epoch:
        rows[indices]
    return (time.perf_counter() - begin) / len(epoch)


def anonymous_bytes() -> int:
    """Memory of this process that is backed by no file. Linux alone says it."""
    gc.collect()
    text = Path("/proc/self/smaps_rollup").read_text()
    found = re.search(r"^Anonymous:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def private_bytes(column: Column) -> int:
    """The most anonymous memory that the process holds while it walks an epoch."""
    rows = column.open_pass(0)
    num_rows = len(rows)
    most = 0
    for step, indices in enumerate(batches(num_rows)):
        rows[indices]
        if step % max(1, num_rows // BATCH_SIZE // 8) == 0:
            most = max(most, anonymous_bytes())
    return most


def measure_gather(folder: Path, results: Results, *, num_rows: int, num_rounds: int) -> None:
    """The store beside one memory map, for rows of 200 bytes and of 12.5 KB."""
    for name, spec, shape, count in (
        ("logits", LOGITS, (NUM_CLASSES,), NUM_VIEWS),
        ("features", "stage3", MAP_SHAPE, num_rows),
    ):
        column = make_column(folder / name, spec, shape, "float16", count)
        open_plain = copy_plain(column, folder / f"{name}.bytes")
        rounds = interleaved(
            {
                "store": lambda c=column, n=count: walk(lambda: c.open_pass(0), n),
                "memmap": lambda o=open_plain, n=count: walk(o, n),
            },
            num_rounds=num_rounds,
        )
        note = f"a batch of {BATCH_SIZE} rows of {column.codec.row_bytes:,} bytes"
        results.add(f"store_{name}_us", 1e6 * median(rounds, "store"), note)
        results.add(f"memmap_{name}_us", 1e6 * median(rounds, "memmap"), note)
        ratio = median_ratio(rounds, "store", "memmap")
        results.add(f"gather_over_memmap_{name}", ratio)
    worst = max(f for n, f in results.figures.items() if n.startswith("gather_over_memmap_"))
    results.add("gather_over_memmap", worst, "the larger of the two")


def measure_growth(folder: Path, results: Results, *, num_rows: int, num_rounds: int) -> None:
    """Ten times the rows, both stores larger than any cache of the processor."""
    columns = {
        size: make_column(folder / size, "stage3", MAP_SHAPE, "float16", count)
        for size, count in (("small", num_rows), ("large", GROWTH * num_rows))
    }
    rounds = interleaved(
        {
            size: lambda c=column: walk(lambda: c.open_pass(0), c.store.identity.num_samples)
            for size, column in columns.items()
        },
        num_rounds=num_rounds,
    )
    for size, column in columns.items():
        note = f"a batch, of {column.store.identity.num_samples:,} rows"
        results.add(f"gather_{size}_us", 1e6 * median(rounds, size), note)
    results.add("gather_growth_10x", median_ratio(rounds, "large", "small"), "time a batch")
    held = interleaved(
        {size: lambda c=column: private_bytes(c) for size, column in columns.items()},
        num_rounds=num_rounds,
    )
    for size in columns:
        results.add(f"private_mib_{size}", median(held, size) / (1 << 20), "the whole process")
    results.add("private_growth_10x", median_ratio(held, "large", "small"))


def measure_bytes(folder: Path, results: Results, *, num_views: int = NUM_VIEWS) -> None:
    """All bytes of a store of 100 classes, over its views."""
    for name, codec in (("top10", "top10"), ("dense", "float16")):
        column = make_column(folder / name, LOGITS, (NUM_CLASSES,), codec, num_views)
        held = column.store.bytes_on_disk() / num_views
        results.add(f"bytes_per_view_{name}", held, f"{column.codec.name}, everything included")


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(__doc__).parse_args(argv)
    num_rounds = 5 if options.quick else 11
    results = Results()
    with tempfile.TemporaryDirectory(prefix="tutelage-") as name:
        folder = Path(name)
        num_rows = 8192 if options.quick else NUM_VIEWS
        measure_gather(folder, results, num_rows=num_rows, num_rounds=num_rounds)
        measure_growth(
            folder, results, num_rows=8192 if options.quick else 16_384, num_rounds=num_rounds
        )
        measure_bytes(folder, results)
    report("Gathering batches of 64", results, targets=TARGETS, json_file=options.json)


if __name__ == "__main__":
    main()
