"""What a training step costs with each method, over a step of ``ce`` for the same student.

``python -m benchmarks.methods [--quick] [--json FILE]`` trains epochs with the engine's own
``fit``, one thread, the signals of 1, 3 and 5 teachers (with --quick, 3) read from the store. Drawn
numbers stand for the records: reading them costs the same. ``atsc`` alone has its teachers in the
worker and trains them: it is shown for what it is.

Methods that are pure loss are held to a bound together. What trains convolutions of its own
(regressors, projectors) is reported apart; AMTML-KD and CA-MKD with and without theirs. MMKD is
measured with a meta step every ``meta_every`` steps, as it is trained, and without any: the
difference is the meta step's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Results, Rounds, Target, arguments, interleaved, median_ratio, report
from benchmarks.signals import Variant, cached, variant
from benchmarks.workbench import BATCH_SIZE, FULL_DATA, QUICK_DATA, fill, make_bench
from distill.config import as_method
from distill.memory import keep_freed_memory
from orchestrator.sources import NoSource

FEW = 3  # teachers of the figures with a bound
NUM_TEACHERS = (1, FEW, 5)
ARCHS = ("resnet8", "cnn_m", "dscnn_m", "wrn_16_1", "resnet14")
STUDENT = "cnn_s"
META_EVERY = 5
NEVER = 1_000_000

PURE_LOSS: Mapping[str, Mapping[str, Any]] = {
    "kd": {},
    "dkd": {},
    "ebkd": {},
    "aekd": {},
    "camkd_logits": {"feature_weight": 0},
    "at": {},
    "sp": {},
    "rkd": {},
    "pkt": {},
    "amtml_no_hints": {"hint_groups": "none"},
    "gpac": {},  # its assignment depends on the number of teachers
}
WITH_ADAPTERS: Mapping[str, Mapping[str, Any]] = {
    "fitnet": {},
    "amtml": {},
    "camkd": {},
    "simkd": {},
    "mmkd": {"meta_every": META_EVERY},
    "mmkd_no_meta": {"meta_every": NEVER},
}
TEACHERS_TRAINED = "atsc"

TARGETS = {
    f"worst_loss_only_over_ce_k{FEW}": Target("at most", 1.35),
    "mmkd_meta_over_step": Target("at most", 12),
}


def make_variant(
    folder: Path,
    data: Mapping[str, Any],
    label: str,
    fields: Mapping[str, Any],
    *,
    num_teachers: int,
    num_steps: int,
) -> Variant:
    """A student in training by one method, its teachers' first pass in the store."""
    name = label.partition("_")[0]
    if name == "gpac":
        stages = (f"s{stage + 1}:t{stage % num_teachers}" for stage in range(3))
        fields = {**fields, "assignment": ",".join(stages)}
    method = as_method({"name": name, **fields})
    bench = make_bench(folder, data, ARCHS[:num_teachers], method, student=STUDENT)
    bench = bench.shortened(num_steps * BATCH_SIZE)
    if not bench.teachers or method.resident:
        return variant(bench, method, NoSource)
    fill(bench)
    return cached(bench, method)


def measure(
    folder: Path,
    data: Mapping[str, Any],
    *,
    num_teachers: Sequence[int],
    num_rounds: int,
    num_steps: int,
) -> Results:
    """Every method with every number of teachers, in turns; an epoch has ``num_steps``."""
    make = partial(make_variant, data=data)
    variants = {
        "ce": make(folder / "ce", label="ce", fields={}, num_teachers=1, num_steps=num_steps)
    }
    for count in num_teachers:
        for label, fields in {**PURE_LOSS, **WITH_ADAPTERS, TEACHERS_TRAINED: {}}.items():
            key = f"{label}_k{count}"
            # Its teachers' forward and backward passes take most of such an epoch.
            steps = max(2, num_steps // 8) if label == TEACHERS_TRAINED else num_steps
            variants[key] = make(
                folder / key, label=label, fields=fields, num_teachers=count, num_steps=steps
            )
    rounds = interleaved({key: v.epoch for key, v in variants.items()}, num_rounds=num_rounds)
    return summarise(rounds, num_teachers=num_teachers)


def summarise(rounds: Rounds, *, num_teachers: Sequence[int]) -> Results:
    """The figures from images a second; slower is more."""
    results = Results()

    def over_ce(key: str) -> float:
        return median_ratio(rounds, "ce", key)

    for count in num_teachers:
        for label in (*PURE_LOSS, *WITH_ADAPTERS, TEACHERS_TRAINED):
            key = f"{label}_k{count}"
            results.add(f"{label}_over_ce_k{count}", over_ce(key), _note(label))
    worst = max(PURE_LOSS, key=lambda label: over_ce(f"{label}_k{FEW}"))
    results.add(f"worst_loss_only_over_ce_k{FEW}", over_ce(f"{worst}_k{FEW}"), worst)
    apart = (label for label in WITH_ADAPTERS if not label.startswith("mmkd"))
    worst = max(apart, key=lambda label: over_ce(f"{label}_k{FEW}"))
    results.add(f"worst_with_adapters_over_ce_k{FEW}", over_ce(f"{worst}_k{FEW}"), worst)
    extra = median_ratio(rounds, f"mmkd_no_meta_k{FEW}", f"mmkd_k{FEW}") - 1
    note = "the meta step over a student step of the same method"
    results.add("mmkd_meta_over_step", META_EVERY * extra, note)
    return results


def _note(label: str) -> str:
    if label in PURE_LOSS:
        return "pure loss"
    if label == TEACHERS_TRAINED:
        return "trains its teachers, in the worker"
    if label == "mmkd":
        return f"a meta step every {META_EVERY} steps, shared out over them"
    return "with convolutions of its own"


def main(argv: Sequence[str] | None = None) -> None:
    import torch

    options = arguments(__doc__).parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()  # as every worker does
    data = QUICK_DATA if options.quick else FULL_DATA
    with tempfile.TemporaryDirectory(prefix="tutelage-") as folder:
        results = measure(
            Path(folder),
            data,
            num_teachers=(FEW,) if options.quick else NUM_TEACHERS,
            num_rounds=3 if options.quick else 5,
            num_steps=10 if options.quick else 100,
        )
    title = f"A step of {STUDENT} on {data['name']}, over one of ce"
    report(title, results, targets=TARGETS, json_file=options.json)


if __name__ == "__main__":
    main()
