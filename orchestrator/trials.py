"""One trial of a sweep: a student trained under a candidate's values, told to Tune epoch by epoch.

A trial with one worker, or none, trains in its own process; one with more launches Ray Train.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from distill.config import Experiment
from distill.datasets import Data, load_data
from distill.loading import ConfigError
from orchestrator.candidates import MANY, Space, candidate, plain
from orchestrator.runs import VALIDATION, RunFolder
from orchestrator.students import (
    EpochEvent,
    Event,
    FailureEvent,
    StudentError,
    StudentJob,
    TeacherFacts,
)
from orchestrator.trial_files import Note, scores, trial_run

if TYPE_CHECKING:
    from orchestrator.preparation import PreparedTeacher

EPOCH = "epoch"  # epochs done, in what a trial reports; Tune's own count restarts with a process


@final
@dataclass(frozen=True, slots=True)
class Sweep:
    """What every trial of a sweep shares."""

    base: Experiment
    space: Space
    folder: Path
    seed: int
    checkpoints: Mapping[str, Path]  # of the teachers
    facts: Mapping[tuple[str, str], TeacherFacts]  # by identity key, and fingerprint of test data
    actors: Mapping[str, Any]  # live ones, by identity key, where signals are served
    handover: int  # epochs between checkpoints for other trials to continue (PBT); 0: none

    def run_of(self, number: int, values: Mapping[str, Any]) -> RunFolder:
        """The run of a trial: named by its number, for its values may change while it trains."""
        method = candidate(self.base, self.space, values).method.name
        return trial_run(self.folder.resolve(), method=method, number=number, seed=self.seed)

    def facts_of(self, teacher: PreparedTeacher, data: Data) -> TeacherFacts:
        """What the driver knows of a teacher: on other nodes it is not filed.

        Raises ConfigError for one that was not made ready.
        """
        found = self.facts.get((teacher.serving.recording.key, data.test.fingerprint))
        if found is None:
            raise ConfigError(
                f"space '{self.space.name}': nothing is recorded of teacher '{teacher.name}' under "
                "these values; give those that data, views, teachers and signals may have as "
                f"tune.choice, and at most {MANY} combinations of all choices"
            )
        return found


def run_trial(values: Mapping[str, Any], sweep: Sweep) -> None:
    """Tune's trainable: trains, and reports every epoch.

    A trial that goes on, in a new process or a resumed sweep, first reports what it has done: the
    scheduler compares trials by it. One that has ended does no more than that. A loss that diverges
    ends the trial; ``trial.json`` says why.
    """
    from ray import tune

    number = int(str(tune.get_context().get_trial_name()))
    values = {path: plain(value) for path, value in values.items()}
    run = sweep.run_of(number, values)
    if not sweep.handover:
        rows = run.metrics()
        rows = rows.assign(**{str(name): column for name, column in scores(rows).items()})
        for row in rows.to_dict("records"):
            tune.report({**row, EPOCH: int(row["epoch"]) + 1})
    if run.finished or ((before := Note.of(run)) and before.ended):
        return
    note = Note(number, values)
    note.write(run)
    job = trial_job(sweep, values, number=number)
    _take_over(run)
    best = max((accuracy for _, accuracy in run.curve(VALIDATION)), default=0.0)

    def on_event(event: Event) -> None:
        nonlocal best
        match event:
            case EpochEvent(_, epoch, row):
                best = max(best, row[VALIDATION])
                # None at the end: nobody takes it over, and while Tune saves one, an order to stop
                # that it kept from an earlier pause would end the trial before its result is filed.
                last = epoch >= job.experiment.schedule.epochs
                due = sweep.handover and not last and epoch % sweep.handover == 0
                files = tune.Checkpoint(run.path) if due else None
                told = {**row, EPOCH: epoch, "accuracy/validation_best": best}
                tune.report(told, checkpoint=files)
            case FailureEvent(_, reason):
                replace(note, ended="failed", reason=reason).write(run)
            case _:
                return

    train = _train_here if job.experiment.workers.most <= 1 else _train_on_workers
    train(job, on_event)


def trial_job(sweep: Sweep, values: Mapping[str, Any], *, number: int) -> StudentJob:
    """The run of one candidate: validated, never tested."""
    from orchestrator.jobs import student_jobs
    from orchestrator.preparation import prepare_teachers

    experiment = candidate(sweep.base, sweep.space, values)
    experiment = experiment.model_copy(update={"seeds": (sweep.seed,)})
    data = load_data(experiment.data)
    prepared = prepare_teachers(experiment, data, sweep.checkpoints)
    (job,) = student_jobs(experiment, prepared, data, facts_of=sweep.facts_of)
    folder = sweep.run_of(number, values).path
    return replace(job, folder=folder, tested=False).with_actors(sweep.actors)


def _take_over(run: RunFolder) -> None:
    """Go on from the run that Tune gives, most often another trial's (PBT): with its weights come
    the rows of the epochs that made them.
    """
    from ray import tune

    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        run.continue_from(RunFolder(Path(folder)))


def _train_here(job: StudentJob, on_event: Callable[[Event], None]) -> None:
    import torch

    from distill.memory import keep_freed_memory
    from distill.parallel import ALONE
    from orchestrator.students import run_job

    keep_freed_memory()
    torch.set_num_threads(max(1, int(job.experiment.workers.cpus)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run_job(job, ALONE, device, on_event=on_event, barrier=lambda _: None)


def _train_on_workers(job: StudentJob, on_event: Callable[[Event], None]) -> None:
    """Ray Train in a thread: Tune takes reports from the trial's own thread alone."""
    from orchestrator.students import train_students

    events: queue.Queue[Event | None] = queue.Queue()
    errors: list[BaseException] = []

    def train() -> None:
        try:
            train_students(
                [job], job.experiment.workers, storage=job.folder.parent, on_event=events.put
            )
        except BaseException as error:  # raised again in the trial's thread
            errors.append(error)
        finally:
            events.put(None)

    thread = threading.Thread(target=train, name="train", daemon=True)
    thread.start()
    while (event := events.get()) is not None:
        on_event(event)
    thread.join()
    if errors:
        raise StudentError(str(errors[0])) from errors[0]
