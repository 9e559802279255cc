"""The same distillation job in torchdistill, teachers in its loop, and in Tutelage, from records.

``python -m benchmarks.peers [--quick] [--json FILE]``. torchdistill (Matsubara, 2021) is no
dependency of Tutelage: install it into the environment that runs this benchmark. Both train the
same student with the same three teachers, loss (cross-entropy + the mean of KL at τ = 4), images,
crops and flips and batch; both train in one thread, and prepare images beside it: torchdistill in
one worker process, Tutelage in one thread. That the losses agree on one batch is checked first.
torchdistill runs its own DistillationBox, set up by its configuration.

Measured: an epoch of each, in turns; the recording of one pass; the start of Ray and the actors.
The figures for E epochs are sums of these, not runs of E epochs: start + E (recording + epoch)
against E of torchdistill's epochs. So every epoch sees new crops, as in torchdistill. The
``_passes5`` figure records 5 passes and reuses them in turn (``signals.passes: 5``).
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.common import Results, arguments, interleaved, median, median_ratio, report
from benchmarks.signals import cached
from benchmarks.torchdistill_job import make_box, their_epoch
from benchmarks.workbench import (
    BATCH_SIZE,
    FULL_DATA,
    QUICK_DATA,
    Bench,
    Silent,
    make_bench,
)
from distill.memory import keep_freed_memory
from distill.methods.kd import Config as KDConfig
from distill.signals import Progress, SignalSpec, TeacherSignals
from orchestrator.fleet import Fleet
from orchestrator.recording import Recorder
from orchestrator.session import ray_session

if TYPE_CHECKING:
    from torch import nn

ARCHS = ("resnet20", "resnet14", "resnet8")
EPOCHS = (1, 5, 30)
REUSED_PASSES = 5
SAME_LOSS = 1e-4  # relative
WHOLE = 50_000  # images of an epoch whose first steps count for nothing: it needs no warm-up
INSTALL = "pip install torchdistill"


def loss_difference(bench: Bench, student: nn.Module) -> float:
    """Relative difference of both losses on one batch of plain images: they must be one job."""
    import torch

    images, labels = bench.data.train.gather(np.arange(BATCH_SIZE))
    mean, std = (torch.tensor(v, dtype=torch.float32) for v in (bench.data.mean, bench.data.std))
    normalised = (torch.from_numpy(images) / 255 - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
    box = make_box(bench, student)
    box.student_model.eval()
    targets = torch.from_numpy(labels)
    with torch.no_grad():
        theirs = float(box.forward_process(normalised, targets=targets, supp_dict=None))
        output = student(normalised)
        signals = TeacherSignals(
            {
                serving.recording.teacher: {
                    SignalSpec("logits"): serving.recipe.build().network(normalised).logits
                }
                for serving in bench.servings
            }
        )
        method = KDConfig().build(None)
        ours = float(method.loss(output, signals, targets, progress=Progress(0, 0, 1, 1)).total)
    return abs(theirs - ours) / abs(ours)


def record_passes(bench: Bench, fleet: Fleet, passes: Sequence[int]) -> float:
    """Seconds to record so many passes; actors that stand are used, others started."""
    began = time.perf_counter()
    Recorder(bench.servings, fleet, passes, Silent()).run()
    return time.perf_counter() - began


def start_actors(bench: Bench, fleet: Fleet) -> None:
    """Actors that have answered once."""
    import ray

    ray.get(
        [
            actor.rows.remote(np.arange(8), 0, serving.recording.signals)
            for serving in bench.servings
            for actor in fleet.actors(serving)
        ]
    )


def measure(bench: Bench, *, num_rounds: int) -> Results:
    """Both trainings in turns, and what recording costs."""
    results = Results()
    with ExitStack() as stack:
        began = time.perf_counter()
        stack.enter_context(ray_session())
        fleet = stack.enter_context(Fleet())
        start_actors(bench, fleet)
        start_s = time.perf_counter() - began
        record_s = record_passes(bench, fleet, [0])
    ours = cached(bench, KDConfig())
    difference = loss_difference(bench, ours.learner.student.network)
    if difference > SAME_LOSS:
        raise RuntimeError(f"not one job: the losses of one batch differ by {difference:.2%}")
    box = make_box(bench, cached(bench, KDConfig()).learner.student.network)
    num_images = ours.plan.steps_per_epoch * BATCH_SIZE
    calls: dict[str, Callable[[], float]] = {
        "torchdistill": partial(their_epoch, box),
        "cached": lambda: num_images / ours.epoch(),
    }
    rounds = interleaved(calls, num_rounds=num_rounds, warm_up=num_images < WHOLE)
    for name in rounds:
        results.add(f"{name}_epoch_s", median(rounds, name), "median")
    results.add("record_pass_s", record_s, f"{len(ARCHS)} teachers, one pass, an actor each")
    results.add("start_s", start_s, "Ray and the actors")
    results.add(
        "torchdistill_over_cached", median_ratio(rounds, "torchdistill", "cached"), "no recording"
    )
    add_totals(results)
    return results


def add_totals(results: Results) -> None:
    """Whole jobs of E epochs, summed from what was measured."""
    figures = results.figures

    def ratio(epochs: int, passes: int) -> float:
        recording = figures["start_s"] + passes * figures["record_pass_s"]
        ours = recording + epochs * figures["cached_epoch_s"]
        return epochs * figures["torchdistill_epoch_s"] / ours

    for epochs in EPOCHS:
        note = "recording and start included, a pass an epoch; summed"
        results.add(f"torchdistill_over_ours_e{epochs}", ratio(epochs, epochs), note)
    last = EPOCHS[-1]
    note = f"the same with signals.passes: {REUSED_PASSES}"
    name = f"torchdistill_over_ours_e{last}_passes{REUSED_PASSES}"
    results.add(name, ratio(last, REUSED_PASSES), note)


def main(argv: Sequence[str] | None = None) -> int:
    import torch

    options = arguments(__doc__).parse_args(argv)
    if importlib.util.find_spec("torchdistill") is None:
        message = f"error: torchdistill is not installed; `{INSTALL}` into this environment"
        print(message, file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    keep_freed_memory()  # as every worker does; torchdistill, in this process, has it too
    data = QUICK_DATA if options.quick else FULL_DATA
    with tempfile.TemporaryDirectory(prefix="tutelage-") as folder:
        bench = make_bench(Path(folder), data, ARCHS, KDConfig())
        results = measure(bench, num_rounds=3 if options.quick else 5)
    report(f"torchdistill and Tutelage on {data['name']}", results, json_file=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
