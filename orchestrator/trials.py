"""One trial of a sweep: a student trained under a candidate's values, told to Tune epoch by epoch.

A trial with one worker, or none, trains in its own process; one with more launches Ray Train.
"""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from distill.config import Experiment
from distill.datasets import load_data
from orchestrator.candidates import Space, candidate
from orchestrator.runs import RunFolder
from orchestrator.students import EpochEvent, Event, FailureEvent, StudentError, StudentJob

FAILURE = "failure.txt"  # in a trial's run folder: why it has no result


@final
@dataclass(frozen=True, slots=True)
class Sweep:
    """What every trial of a sweep shares."""

    base: Experiment
    space: Space
    folder: Path
    seed: int
    checkpoints: Mapping[str, Path]  # of the teachers
    actors: Mapping[str, Any]  # live ones, by identity key, where signals are served
    hands_over: bool  # whether trials continue one another's checkpoints (PBT)
    board: Any  # where trials post their events

    def run_folder(self, method: str, trial: str) -> RunFolder:
        """A trial's run: named by the trial, for its settings may change while it trains."""
        return RunFolder.at(
            self.folder, experiment="trials", method=method, digest=trial, seed=self.seed
        )


def run_trial(values: Mapping[str, Any], sweep: Sweep) -> None:
    """Tune's trainable. A loss that diverges ends the trial, and FAILURE in its run says why."""
    from ray import tune

    job = trial_job(sweep, values, trial=str(tune.get_context().get_trial_id()))
    _take_over(job)
    failures: list[FailureEvent] = []

    def on_event(event: Event) -> None:
        sweep.board.post.remote(event)
        match event:
            case EpochEvent(_, epoch, row):
                checkpoint = (
                    tune.Checkpoint(job.folder / "checkpoints") if sweep.hands_over else None
                )
                tune.report({**row, "epoch": epoch}, checkpoint=checkpoint)
            case FailureEvent():
                failures.append(event)
            case _:
                return

    train = _train_here if job.experiment.workers.count <= 1 else _train_on_workers
    train(job, on_event)
    if failures:
        (job.folder / FAILURE).write_text(failures[0].reason + "\n")


def trial_job(sweep: Sweep, values: Mapping[str, Any], *, trial: str) -> StudentJob:
    """The run of one candidate: validated, never tested."""
    from orchestrator.jobs import student_jobs
    from orchestrator.preparation import prepare_teachers

    experiment = candidate(sweep.base, sweep.space, values)
    experiment = experiment.model_copy(update={"seeds": (sweep.seed,)})
    data = load_data(experiment.data)
    prepared = prepare_teachers(experiment, data, sweep.checkpoints)
    (job,) = student_jobs(experiment, prepared, data)
    folder = sweep.run_folder(experiment.method.name, trial).path.resolve()
    title = f"trial {trial}: {_differences(values)}"
    return replace(job, folder=folder, tested=False, title=title).with_actors(sweep.actors)


def _differences(values: Mapping[str, Any]) -> str:
    """What sets a trial apart, on one line."""
    shown = (
        (path.removeprefix("method."), f"{value:.3g}" if isinstance(value, float) else value)
        for path, value in values.items()
    )
    return ", ".join(f"{path} {value}" for path, value in shown)


def _take_over(job: StudentJob) -> None:
    """Go on from the checkpoint that Tune gives, most often another trial's (PBT)."""
    from ray import tune

    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        shutil.copytree(folder, RunFolder(job.folder).checkpoint("last").parent, dirs_exist_ok=True)


def _train_here(job: StudentJob, on_event: Callable[[Event], None]) -> None:
    import torch

    from distill.parallel import ALONE
    from orchestrator.students import run_job

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
