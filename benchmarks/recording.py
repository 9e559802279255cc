"""How much of a teacher's bare speed its recording keeps, and what a second actor adds.

``python -m benchmarks.recording [--quick] [--json FILE]`` records pass after pass through the
product's own recorder and actors, one thread an actor, and takes turns with a bare loop: the same
forward passes on images rendered beforehand, in a plain process that neither knows Ray nor writes.
Actors stand before the clock starts: how long Ray and they take to start is a line of its own.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import final

import numpy as np

from benchmarks.common import (
    Results,
    Rounds,
    Target,
    arguments,
    interleaved,
    median,
    median_ratio,
    report,
    seconds,
)
from benchmarks.workbench import FULL_DATA, QUICK_DATA, Bench, make_bench
from distill.memory import keep_freed_memory
from distill.methods.kd import Config as KDConfig
from distill.views import pass_views
from orchestrator.fleet import Fleet, Placement
from orchestrator.recording import Recorder, RecordingReport, Serving
from orchestrator.session import ray_session
from orchestrator.teachers import InputPlan, Teacher, TeacherRecipe

TARGETS = {
    "recording_over_bare": Target("at least", 0.92),
    "two_actors_speedup": Target("at least", 1.7),
}


@final
class Turns:
    """Lets a recorder go a few passes at a time, and takes the time of each turn."""

    def __init__(self, images_per_pass: int, *, passes_per_turn: int) -> None:
        self._per_turn = passes_per_turn
        self._images_per_turn = images_per_pass * passes_per_turn
        self._num_turns = 0
        self._began_s = self._ended_s = 0.0
        self._ended = threading.Event()

    def may_record(self, pass_index: int) -> bool:
        """Asked by the recorder before it dispatches a part."""
        if pass_index >= self._num_turns * self._per_turn:
            return False
        self._began_s = self._began_s or time.perf_counter()
        return True

    def on_wait(self, holder: str) -> None:
        raise RuntimeError(f"the benchmark's own records are locked by {holder}")

    def on_start(self, report: RecordingReport) -> None: ...

    def on_stall(self, teachers: Sequence[str]) -> None:
        raise RuntimeError(f"this machine has no room for {', '.join(teachers)}")

    def on_restart(self, teacher: str, process: str) -> None:
        raise RuntimeError(f"{process} of {teacher} died: its time says nothing")

    def on_part(self, report: RecordingReport) -> None:
        if report.images >= self._num_turns * self._images_per_turn:
            self._ended_s = time.perf_counter()
            self._ended.set()

    def take(self, recorder: Recorder) -> float:
        """Images/s of the next turn, from its first dispatch to its last part on disk."""
        self._began_s = 0.0
        self._ended.clear()
        self._num_turns += 1
        while not self._ended.wait(1.0):
            if recorder.error is not None:
                raise recorder.error
        return self._images_per_turn / (self._ended_s - self._began_s)


def bare_loop(recipe: TeacherRecipe, inputs: InputPlan, num_images: int) -> float:
    """Images/s of the forward passes alone, in the teacher's own batches.

    To be run in a process of its own, as an actor is, which no thread of Ray's shares.
    """
    import torch

    keep_freed_memory()  # as an actor does, so that only Ray and the store make a difference
    teacher = Teacher(recipe, inputs, num_threads=1)
    indices = np.arange(len(teacher.data.train))
    views = pass_views(indices, pass_index=0, num_views=inputs.views.num_views, seed=0)
    chunks = torch.from_numpy(teacher.images(indices, views)).split(recipe.batch_size)

    def forward() -> None:
        for _ in range(num_images // len(indices)):
            for chunk in chunks:
                teacher.model(chunk)

    with torch.inference_mode():
        teacher.model(chunks[0])  # the first pass of a process is slower
        return num_images / seconds(forward)


def measure(bench: Bench, folder: Path, *, num_rounds: int, passes_per_turn: int) -> Results:
    """Bare loop, one actor and two actors in turns. Takes over this machine's Ray session."""
    # Half a turn of several passes says as much of a loop that has nothing to share out.
    num_images = len(bench.data.train) * max(1, passes_per_turn // 2)
    passes = range(passes_per_turn * (num_rounds + 1))
    results = Results()
    with ExitStack() as stack:
        began = time.perf_counter()
        stack.enter_context(ray_session())
        lanes: dict[str, tuple[Turns, Recorder]] = {}
        for num_actors in (1, 2):
            turns = Turns(len(bench.data.train), passes_per_turn=passes_per_turn)
            fleet = stack.enter_context(Fleet())
            serving = _serving(bench.servings[0], folder / str(num_actors), num_actors)
            recorder = Recorder([serving], fleet, passes, turns, may_record=turns.may_record)
            recorder.start()
            stack.callback(recorder.finish)
            lanes[f"actors_{num_actors}"] = turns, recorder
        for turns, recorder in lanes.values():
            turns.take(recorder)
        results.add("start_s", time.perf_counter() - began, "Ray, 3 actors and a first turn each")
        plain = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
        args = bench.servings[0].recipe, bench.servings[0].inputs, num_images
        rounds = interleaved(
            {
                "bare": lambda: plain.submit(bare_loop, *args).result(),
                **{
                    name: partial(turns.take, recorder) for name, (turns, recorder) in lanes.items()
                },
            },
            num_rounds=num_rounds,
            warm_up=False,
        )
    _add_rates(results, rounds)
    return results


def _serving(serving: Serving, root: Path, num_actors: int) -> Serving:
    """The same teacher, recorded elsewhere by so many actors of one thread each."""
    recording = replace(serving.recording, root=str(root))
    return replace(serving, recording=recording, placement=Placement(num_actors, 0.25, 0.0))


def _add_rates(results: Results, rounds: Rounds) -> None:
    for name in rounds:
        results.add(f"{name}_images_per_s", median(rounds, name), "median")
    results.add(
        "recording_over_bare", median_ratio(rounds, "actors_1", "bare"), "images/s, one actor"
    )
    results.add("two_actors_speedup", median_ratio(rounds, "actors_2", "actors_1"), "images/s")


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(__doc__).parse_args(argv)
    arch = "resnet8" if options.quick else "resnet20"
    data = QUICK_DATA if options.quick else FULL_DATA
    # The quick run's images fill one part: four passes a turn share out evenly.
    passes_per_turn = 4 if options.quick else 1
    with tempfile.TemporaryDirectory(prefix="tutelage-") as folder:
        bench = make_bench(Path(folder), data, [arch], KDConfig())
        results = measure(
            bench,
            Path(folder),
            num_rounds=3 if options.quick else 5,
            passes_per_turn=passes_per_turn,
        )
    title = f"Recording {arch}'s logits on {data['name']}"
    report(title, results, targets=TARGETS, json_file=options.json)


if __name__ == "__main__":
    main()
