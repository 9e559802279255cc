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
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

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
from benchmarks.signal_epochs import Variant, cached, free, local, served, variant
from benchmarks.workbench import (
    FULL_DATA,
    QUICK_DATA,
    Bench,
    HintConfig,
    Silent,
    fill,
    make_bench,
)
from distill.memory import keep_freed_memory
from distill.methods.ce import Config as CEConfig
from distill.methods.kd import Config as KDConfig
from orchestrator.fleet import Fleet
from orchestrator.recording import Recorder
from orchestrator.session import ray_session
from orchestrator.sources import NoSource

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
        fleet = stack.enter_context(Fleet())
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
                num_live=192 if options.quick else LIVE_SAMPLES,
            )
    targets = {name: target for name, target in TARGETS.items() if name in results.figures}
    report(f"A student's epoch on {data['name']}", results, targets=targets, json_file=options.json)


if __name__ == "__main__":
    main()
