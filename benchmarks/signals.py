"""A student's epoch by where its teachers' signals come from.

``python -m benchmarks.signals [--quick] [--json FILE]`` trains whole epochs with the engine's own
``fit``, one thread (a worker of one CPU), the same batches in every variant:

- ``cached``: from the store, which is opened anew for every epoch, as a new pass would be; its
  files are read before the clock starts, for the system may have dropped them from memory since the
  last round, and the others' signals are in memory;
- ``free``: every batch's tensors made and kept in RAM before the clock starts;
- ``local``: teachers in the training process, run for every batch;
- ``served``: live actors answer, a few batches ahead;
- ``none``: no teacher at all, by cross-entropy.

Features are a 128x7x7 float16 map of each teacher, regressed on by FitNet's hint loss beside KD.
Ratios are of images a second, for epochs of ``local`` and ``served`` are shorter than the others:
they take long. With --quick all are short, and the records are drawn numbers. With --only features
nothing but the feature maps' ratio is measured.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from benchmarks.common import (
    Results,
    Rounds,
    Target,
    arguments,
    interleaved,
    median,
    median_ratio,
    report,
)
from benchmarks.workbench import (
    FULL_DATA,
    QUICK_DATA,
    Bench,
    HintConfig,
    Silent,
    epoch_plan,
    fill,
    first_samples,
    make_bench,
)
from distill.batches import BatchPlan
from distill.config import Schedule
from distill.engine import Fit, fit
from distill.learners import Compute, Learner
from distill.memory import keep_freed_memory
from distill.methods import MethodConfig
from distill.methods.ce import Config as CEConfig
from distill.methods.kd import Config as KDConfig
from distill.parallel import ALONE
from distill.signals import Batch, LossReport, SignalSource, TeacherSignals
from distill.weight_tables import WeightTable
from orchestrator.fleet import Fleet
from orchestrator.recording import Recorder
from orchestrator.run_student import build_learner
from orchestrator.session import ray_session
from orchestrator.sources import CachedSource, LocalSource, NoSource, ServedSource
from orchestrator.teachers import Teacher

NUM_TEACHERS = (1, 2, 3, 5)
FEW = 3  # teachers of every figure that names no number
LOGIT_ARCHS = ("resnet20", "resnet14", "resnet8", "resnet14", "resnet8")
LIVE_SAMPLES = 12_800  # of the full run's epochs in which teachers answer: they take long
FEATURE_ARCHS = ("wrn_16_2",) * FEW  # their last stage gives a map of 128x7x7

TARGETS = {
    "epoch_over_free_logits": Target("at most", 1.03),
    "epoch_over_free_features": Target("at most", 1.08),
    "local_over_cached_k3": Target("at least", 5),
    "cached_growth_per_teacher": Target("at most", 1.03),
}


@final
class FreeSource:
    """Signals that cost nothing: the very tensors of each batch, gathered beforehand."""

    seconds_waited = 0.0

    def __init__(self, source: SignalSource, batches: Iterable[Batch]) -> None:
        self._ready = {batch.indices.tobytes(): source.signals(batch) for batch in batches}

    def prefetch(self, batch: Batch) -> None: ...

    def signals(self, batch: Batch) -> TeacherSignals:
        return self._ready[batch.indices.tobytes()]

    def close(self) -> None: ...


@final
@dataclass
class _Rate:
    """An observer that keeps the epoch's images a second."""

    images_per_s: float = 0.0

    def on_step(self, step: int, report: LossReport, *, lr: float) -> None: ...

    def on_weights(self, epoch: int, tables: Mapping[str, WeightTable]) -> None: ...

    def on_epoch(
        self,
        epoch: int,  # noqa: ARG002
        row: Mapping[str, float],
        learner: Learner,  # noqa: ARG002
    ) -> None:
        self.images_per_s = row["throughput/images_per_s"]


@final
@dataclass(frozen=True, slots=True)
class Variant:
    """A student in training, and how to open the source of its signals."""

    bench: Bench
    plan: BatchPlan
    learner: Learner
    open_source: Callable[[], SignalSource]
    cpu_s: list[float] = field(default_factory=list)  # of this thread, epoch by epoch

    def epoch(self) -> float:
        """Images a second of one epoch; the source is opened and closed within it."""
        began = time.thread_time()
        rate = _Rate()
        task = Fit(
            plan=self.plan,
            schedule=Schedule(epochs=1, batch_size=self.plan.batch_size),
            lr=self.bench.experiment.optimizer.lr,
            validation=first_samples(self.bench.data.validation, 0),
            device=_cpu().device,
        )
        source = self.open_source()
        try:
            fit(task, self.learner, source, rate)
        finally:
            source.close()
        self.cpu_s.append(time.thread_time() - began)
        return rate.images_per_s


def _cpu() -> Compute:
    import torch

    return Compute(torch.device("cpu"))


def variant(
    bench: Bench,
    method: MethodConfig,
    open_source: Callable[[], SignalSource],
) -> Variant:
    learner = build_learner(bench.job(method), bench.data, _cpu())
    return Variant(bench, epoch_plan(bench), learner, open_source)


def cached(bench: Bench, method: MethodConfig) -> Variant:
    """From the store. The source maps a pass when its first batch is asked for."""

    def open_source() -> SignalSource:
        for recording in bench.recordings:
            for file in Path(recording.root, recording.key).rglob("*.arrow"):
                file.read_bytes()
        return CachedSource(bench.recordings)

    return variant(bench, method, open_source)


def free(bench: Bench, method: MethodConfig) -> Variant:
    """From tensors in RAM."""
    store = CachedSource(bench.recordings)
    source = FreeSource(store, epoch_plan(bench).batches(0, ALONE))
    return variant(bench, method, lambda: source)


def local(bench: Bench, method: MethodConfig) -> Variant:
    """From teachers in this process."""
    teachers = {
        serving.recording.teacher: (
            Teacher(serving.recipe, bench.inputs),
            tuple(signal.spec for signal in serving.recording.signals),
        )
        for serving in bench.servings
    }
    return variant(bench, method, lambda: LocalSource(teachers))


def served(bench: Bench, method: MethodConfig, fleet: Fleet) -> Variant:
    """From one live actor a teacher."""
    actors = {
        serving.recording.key: fleet.actors(
            serving.recording.key, serving.recipe, serving.placement
        )
        for serving in bench.servings
    }
    return variant(bench, method, lambda: ServedSource(bench.recordings, actors))


def measure(
    logits: Bench,
    features: Bench,
    fleet: Fleet,
    *,
    num_rounds: int,
    num_samples: int | None = None,
    num_live: int | None = None,
) -> Results:
    """Every variant in turns; both benches' first pass is recorded already.

    An epoch has ``num_samples``, and ``num_live`` where teachers answer while it runs.
    """
    kd = KDConfig()
    live = logits.shortened(num_live)
    logits = logits.shortened(num_samples)
    few = logits.first(FEW)
    variants = {"none": variant(few, CEConfig(), NoSource), "free_logits": free(few, kd)}
    for count in NUM_TEACHERS:
        variants[f"cached_k{count}"] = cached(logits.first(count), kd)
        variants[f"local_k{count}"] = local(live.first(count), kd)
    variants |= feature_variants(features.shortened(num_samples))
    variants["served"] = served(live.first(FEW), kd, fleet)
    rounds, cpu_rounds = train(variants, num_rounds=num_rounds, warm_up=num_samples is not None)
    return summarise(rounds, cpu_rounds)


def feature_variants(features: Bench) -> dict[str, Variant]:
    hint = HintConfig()
    return {"free_features": free(features, hint), "cached_features": cached(features, hint)}


def train(
    variants: Mapping[str, Variant], *, num_rounds: int, warm_up: bool
) -> tuple[Rounds, Rounds]:
    """Images a second, and the training thread's CPU seconds, of every variant's epochs."""
    epochs = {name: variant.epoch for name, variant in variants.items()}
    # A whole epoch needs no warm-up: its first steps are few.
    rounds = interleaved(epochs, num_rounds=num_rounds, warm_up=warm_up)
    return rounds, {name: v.cpu_s[-num_rounds:] for name, v in variants.items()}


def summarise(rounds: Rounds, cpu_rounds: Rounds) -> Results:
    """The figures from images a second and from the training thread's CPU seconds."""
    results = Results()
    for name in rounds:
        results.add(f"{name}_images_per_s", median(rounds, name), "median")
    add_over_free(results, rounds, cpu_rounds, "logits", f"cached_k{FEW}")
    add_over_free(results, rounds, cpu_rounds, "features", "cached_features")
    for count in NUM_TEACHERS:
        ratio = median_ratio(rounds, f"cached_k{count}", f"local_k{count}")
        results.add(f"local_over_cached_k{count}", ratio, "time")
    first, last = NUM_TEACHERS[0], NUM_TEACHERS[-1]
    growth = median_ratio(rounds, f"cached_k{first}", f"cached_k{last}") - 1
    results.add(
        "cached_growth_per_teacher",
        1 + growth / (last - first),
        f"time, each teacher from {first} to {last}",
    )
    results.add("cached_over_none", median_ratio(rounds, f"cached_k{FEW}", "none"), "images/s")
    results.add("served_over_none", median_ratio(rounds, "served", "none"), "images/s")
    return results


def add_over_free(
    results: Results, rounds: Rounds, cpu_rounds: Rounds, kind: str, ours: str
) -> None:
    ratio = median_ratio(rounds, f"free_{kind}", ours)
    results.add(f"epoch_over_free_{kind}", ratio, f"time, {FEW} teachers")
    ratio = median_ratio(cpu_rounds, ours, f"free_{kind}")
    note = "the training thread's CPU time: other processes count less"
    results.add(f"epoch_over_free_{kind}_cpu", ratio, note)


def measure_features(features: Bench, *, num_rounds: int) -> Results:
    """The feature maps' ratio alone."""
    results = Results()
    rounds = train(feature_variants(features), num_rounds=num_rounds, warm_up=False)
    add_over_free(results, *rounds, "features", "cached_features")
    return results


def record(bench: Bench, fleet: Fleet) -> None:
    """The first pass, by the teachers themselves."""
    Recorder(bench.servings, fleet, [0], Silent()).run()


def main(argv: Sequence[str] | None = None) -> None:
    import torch

    parser = arguments(__doc__)
    parser.add_argument("--only", choices=("features",), help="measure no other ratio")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()  # as every worker does
    data = QUICK_DATA if options.quick else FULL_DATA
    num_rounds = 3 if options.quick else 5
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tutelage-")))
        logits = make_bench(folder / "logits", data, LOGIT_ARCHS, KDConfig())
        features = make_bench(folder / "features", data, FEATURE_ARCHS, HintConfig())
        stack.enter_context(ray_session())
        fleet = stack.enter_context(Fleet(logits.inputs))
        for bench in (features,) if options.only else (logits, features):
            if options.quick:
                fill(bench)
            else:
                record(bench, fleet)
        if options.only:
            results = measure_features(features, num_rounds=num_rounds)
        else:
            results = measure(
                logits,
                features,
                fleet,
                num_rounds=num_rounds,
                num_samples=1536 if options.quick else None,
                num_live=256 if options.quick else LIVE_SAMPLES,
            )
    targets = {name: target for name, target in TARGETS.items() if name in results.figures}
    report(f"A student's epoch on {data['name']}", results, targets=targets, json_file=options.json)


if __name__ == "__main__":
    main()
