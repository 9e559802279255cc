"""Ray Tune around students: teachers record once, every trial reads the same records."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from distill.config import Experiment
from distill.datasets import Data
from distill.loading import ConfigError
from orchestrator.boards import events_of
from orchestrator.candidates import (
    Space,
    candidate,
    check_space,
    joint_experiments,
    plain,
    representatives,
)
from orchestrator.display import Display
from orchestrator.fleet import Fleet
from orchestrator.maintenance import record_passes
from orchestrator.pipeline import checkpoint_files, input_plan, ready_teachers
from orchestrator.preparation import PreparedTeacher
from orchestrator.progress import TrainingProgress
from orchestrator.recording import Serving, merge
from orchestrator.runs import write_atomically
from orchestrator.session import ray_session
from orchestrator.sweep_plan import Plan, check_plan, sweep_folder
from orchestrator.trials import FAILURE, Sweep, run_trial

if TYPE_CHECKING:
    from ray.tune import Result, ResultGrid
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import SearchAlgorithm, Searcher

TIME = "epoch"  # not Tune's own iteration, which restarts with a trial
RESTARTS = 2  # of a trial whose process dies: it goes on from its last epoch


@final
@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one trial."""

    name: str
    values: Mapping[str, Any]
    epochs: int
    score: float  # of its last epoch; NaN where none ended
    state: Literal["finished", "stopped", "failed"]
    reason: str = ""


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sweep leaves behind."""

    trials: tuple[Trial, ...]  # best first
    best: Experiment | None  # None where no trial has a score
    best_file: Path
    folder: Path


def run_sweep(base: Experiment, space: Space, plan: Plan, display: Display) -> Outcome:
    """Search, and write the best candidate's experiment.

    Raises ConfigError before anything starts for what cannot be, and what ``pipeline.FAILURES``
    names.
    """
    check_space(base, space)
    check_plan(base, space, plan)
    folder = sweep_folder(base, space)
    with ExitStack() as stack:
        stack.enter_context(ray_session(dashboard=base.workers.count > 1))
        board = stack.enter_context(events_of(TrainingProgress(display).on_event))
        sweep = _prepared(base, space, plan, stack, display, board=board)
        file = folder / "sweep.json"
        write_atomically(file, lambda draft: draft.write_text(json.dumps(asdict(plan))))
        results = _search(sweep, plan, display)
    trials = _trials(results, sweep, plan)
    best = next((trial for trial in trials if not math.isnan(trial.score)), None)
    best_file = folder / "best.yaml"
    chosen = None
    if best is not None:
        chosen = _best_experiment(base, space, plan, best)
        _write_yaml(best_file, chosen)
    return Outcome(trials, chosen, best_file, folder)


def _prepared(
    base: Experiment,
    space: Space,
    plan: Plan,
    stack: ExitStack,
    display: Display,
    *,
    board: Any,
) -> Sweep:
    """Teachers trained, and everything recorded that any trial may read; or actors that serve."""
    from distill.datasets import load_data

    servings: list[Serving] = []
    checkpoints: dict[str, Path] = {}
    fleet = stack.enter_context(Fleet(input_plan(base)))
    for experiment in joint_experiments(representatives(base, space)):
        data: Data = load_data(experiment.data)
        prepared = ready_teachers(experiment, data, fleet, display)
        checkpoints |= checkpoint_files(experiment, data)
        servings += _read_by(experiment, prepared)
        if experiment.signals.source == "cached" and servings:
            events = sweep_folder(base, space) / "recording"
            record_passes(merge(servings), fleet, experiment.num_passes, display, events=events)
    actors: dict[str, Sequence[Any]] = {}
    if base.signals.source == "served":
        for serving in merge(servings):
            key = serving.recording.key
            actors[key] = fleet.actors(key, serving.recipe, serving.placement)
    else:
        for serving in servings:
            fleet.release(serving.recording.key)
    return Sweep(
        base=base,
        space=space,
        folder=sweep_folder(base, space).resolve(),
        seed=base.seeds[0],
        checkpoints=checkpoints,
        actors=actors,
        hands_over=plan.scheduler == "pbt",
        board=board,
    )


def _read_by(experiment: Experiment, prepared: Sequence[PreparedTeacher]) -> list[Serving]:
    """The recordings that some method reads; a resident teacher's are none."""
    cached = [i for i, method in enumerate(experiment.methods) if not method.resident]
    return [t.serving for t in prepared if any(t.needs[i] is not None for i in cached)]


def _search(sweep: Sweep, plan: Plan, display: Display) -> ResultGrid:
    from ray import tune

    workers = sweep.base.workers
    nested = workers.count > 1
    own: dict[str, float] = {"CPU": workers.cpus}
    if workers.gpus:
        own["GPU"] = workers.gpus
    # Of a trial that launches workers they take all there is; Tune refuses a trial of nothing.
    taken = {"node:__internal_head__": 0.001} if nested else own
    trainable = tune.with_resources(partial(run_trial, sweep=sweep), taken)
    name = "ray"
    storage = sweep.folder
    if plan.resume:
        tuner = tune.Tuner.restore(
            str(storage / name), trainable, resume_unfinished=True, restart_errored=True
        )
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=_param_space(sweep.space, plan),
            tune_config=tune.TuneConfig(
                metric=plan.metric,
                mode="max",
                num_samples=1 if plan.search == "grid" else plan.num_trials,
                search_alg=_search_algorithm(plan),
                scheduler=_scheduler(sweep, plan),
                max_concurrent_trials=_concurrency(sweep, display),
                reuse_actors=not nested,  # a process's start takes longer than a short trial
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(storage),
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
                verbose=0,
            ),
        )
    return tuner.fit()


def _concurrency(sweep: Sweep, display: Display) -> int:
    """How many trials fit beside the teachers. Raises ConfigError where not one does."""
    import ray

    workers = sweep.base.workers
    count = max(1, workers.count)
    needed = {"CPU": count * workers.cpus, "GPU": count * workers.gpus}
    held = {"CPU": 0.0, "GPU": 0.0}
    if sweep.actors:
        for teacher in sweep.base.teachers:
            held["CPU"] += teacher.actors * teacher.cpus
            held["GPU"] += teacher.actors * teacher.gpus
    total = ray.cluster_resources()
    rooms = [
        math.floor((total.get(kind, 0.0) - held[kind]) / amount + 1e-9)
        for kind, amount in needed.items()
        if amount
    ]
    room = min(rooms)
    if room < 1:
        raise ConfigError(
            f"workers: a trial of {count} × {workers.cpus:g} CPUs and {workers.gpus:g} GPUs does "
            f"not fit beside teachers that hold {held['CPU']:g} CPUs and {held['GPU']:g} GPUs of "
            f"{total.get('CPU', 0):g} and {total.get('GPU', 0):g}; lower workers.count or cpus"
        )
    display.note(f"trials at a time: {room}")
    return room


def _param_space(space: Space, plan: Plan) -> dict[str, Any]:
    from ray import tune

    if plan.search == "grid":
        return {path: tune.grid_search(values) for path, values in space.choices().items()}
    return dict(space.domains)


def _search_algorithm(plan: Plan) -> Searcher | SearchAlgorithm:
    if plan.search == "optuna":
        from ray.tune.search.optuna import OptunaSearch

        return OptunaSearch(seed=plan.search_seed)
    from ray.tune.search.basic_variant import BasicVariantGenerator

    return BasicVariantGenerator(random_state=plan.search_seed)


def _scheduler(sweep: Sweep, plan: Plan) -> TrialScheduler | None:
    from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining

    epochs = sweep.base.schedule.epochs
    match plan.scheduler:
        case "none":
            return None
        case "asha":
            grace = max(1, epochs // 8)
            return ASHAScheduler(time_attr=TIME, max_t=epochs, grace_period=grace)
        case "pbt":
            return PopulationBasedTraining(
                time_attr=TIME,
                perturbation_interval=max(1, epochs // 8),
                hyperparam_mutations=dict(sweep.space.domains),
                seed=plan.search_seed,
            )


def _trials(results: ResultGrid, sweep: Sweep, plan: Plan) -> tuple[Trial, ...]:
    trials = [_trial(result, sweep, plan) for result in results]
    return tuple(
        sorted(trials, key=lambda t: (t.state != "finished", math.isnan(t.score), -t.score))
    )


def _trial(result: Result, sweep: Sweep, plan: Plan) -> Trial:
    metrics = result.metrics or {}
    values = {path: plain(value) for path, value in (result.config or {}).items()}
    experiment = candidate(sweep.base, sweep.space, values)
    name = str(metrics.get("trial_id", Path(result.path).name))
    run = sweep.run_folder(experiment.method.name, name)
    epochs = int(metrics.get(TIME, 0))
    reason = ""
    if (run.path / FAILURE).is_file():
        reason = (run.path / FAILURE).read_text().strip()
    elif result.error is not None:
        reason = str(result.error).strip().splitlines()[-1]
    state: Literal["finished", "stopped", "failed"] = "failed" if reason else "stopped"
    if not reason and epochs >= experiment.schedule.epochs:
        state = "finished"
    score = math.nan if reason else float(metrics.get(plan.metric, math.nan))
    return Trial(name, values, epochs, score, state, reason)


def _best_experiment(base: Experiment, space: Space, plan: Plan, best: Trial) -> Experiment:
    """The best candidate under seeds that the search did not use, beside the base's baselines."""
    first = max(base.seeds) + 1
    seeds = tuple(range(first, first + plan.num_seeds))
    found = candidate(base, space, best.values)
    name = f"{base.name}-{space.name}-best"
    return found.model_copy(update={"name": name, "seeds": seeds})


def _write_yaml(path: Path, experiment: Experiment) -> None:
    import yaml

    text = yaml.safe_dump(experiment.as_dict(), sort_keys=False, allow_unicode=True)
    write_atomically(path, lambda draft: draft.write_text(text))
