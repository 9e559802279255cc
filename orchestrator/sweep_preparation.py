"""What all trials of a sweep share: trained teachers, and their records or live actors."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from distill.config import Experiment
from distill.datasets import load_data
from orchestrator.candidates import Space, joint_experiments, representatives
from orchestrator.display import Display
from orchestrator.fleet import Fleet
from orchestrator.maintenance import recorded_passes
from orchestrator.pipeline import check_mirror, checkpoint_files, ready_teachers
from orchestrator.preparation import PreparedTeacher, facts
from orchestrator.recording import Serving, merge
from orchestrator.room import shares_of_workers
from orchestrator.students import TeacherFacts
from orchestrator.sweep_plan import sweep_folder
from orchestrator.trials import Sweep


@contextmanager
def prepared_sweep(
    base: Experiment, space: Space, display: Display, *, handover: int
) -> Generator[Sweep]:
    """Teachers trained, and everything recorded that any trial may read; or actors that serve.

    Raises ConfigError, StudentError, RecordingError and OSError.
    """
    servings: list[Serving] = []
    checkpoints: dict[str, Path] = {}
    known: dict[tuple[str, str], TeacherFacts] = {}
    with ExitStack() as stack:
        fleet = stack.enter_context(Fleet(workers=shares_of_workers(base)))
        for experiment in joint_experiments(representatives(base, space)):
            data = load_data(experiment.data)
            prepared = ready_teachers(experiment, data, fleet, display)
            check_mirror(experiment, prepared)
            checkpoints |= checkpoint_files(experiment, data)
            for teacher in prepared:
                key = teacher.serving.recording.key
                known[key, data.test.fingerprint] = facts(teacher, data)
            read = _read_by(experiment, prepared)
            servings += read
            if experiment.signals.source == "cached" and read:
                events = sweep_folder(base, space) / "recording"
                passes = experiment.num_passes
                recorded = recorded_passes(merge(read), fleet, passes, display, events=events)
                stack.enter_context(recorded)  # until the last trial has read them
            fleet.keep_only(())  # that measured: others may need their place
        served = merge(servings) if base.signals.source == "served" else ()
        actors: dict[str, Sequence[Any]] = {s.recording.key: fleet.actors(s) for s in served}
        yield Sweep(
            base=base,
            space=space,
            folder=sweep_folder(base, space).resolve(),
            seed=base.seeds[0],
            checkpoints=checkpoints,
            facts=known,
            actors=actors,
            handover=handover,
        )


def _read_by(experiment: Experiment, prepared: Sequence[PreparedTeacher]) -> list[Serving]:
    """The recordings that some method reads; a resident teacher's are none."""
    cached = [i for i, method in enumerate(experiment.methods) if not method.resident]
    return [t.serving for t in prepared if any(t.needs[i] is not None for i in cached)]
