"""Ray Tune around students: teachers record once, every trial reads the same records."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import Experiment
from distill.loading import ConfigError
from orchestrator.candidates import Space, candidate, check_space
from orchestrator.display import Display
from orchestrator.room import check_room, grows, shares_of_workers
from orchestrator.run_locks import training_lock
from orchestrator.runs import write_atomically
from orchestrator.seats import Seats, Share, seat
from orchestrator.session import check_state_api, ray_session
from orchestrator.shared_folders import check_shared_folders
from orchestrator.sweep_plan import Plan, check_plan, file_plan, proposals, sweep_folder
from orchestrator.sweep_preparation import prepared_sweep
from orchestrator.sweep_progress import SweepProgress
from orchestrator.trial_files import TUNE, Outcome, Trial, ranked, read_trials, trial_name
from orchestrator.trials import EPOCH, Sweep, run_trial

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as TuneTrial
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import SearchAlgorithm, Searcher

RESTARTS = 2  # of a trial whose process dies: it goes on from its last epoch
DECISIONS = 8  # of a scheduler about a trial, at most


def run_sweep(base: Experiment, space: Space, plan: Plan, display: Display) -> Outcome:
    """Search, or go on searching, and write the best candidate's experiment.

    Raises ConfigError before anything starts for what cannot be, and what ``pipeline.FAILURES``
    names.
    """
    check_space(base, space)
    check_plan(base, space, plan)
    folder = sweep_folder(base, space)
    file_plan(base, space, plan)
    known = read_trials(folder, plan.metric)
    ended = [trial for trial in known if trial.state != "broken off"]
    if known:
        display.note(f"{len(ended)} of {plan.size(space)} trials have ended; kept")
    errors: Mapping[int, str] = {}
    if len(ended) < plan.size(space):
        with ExitStack() as stack:
            stack.enter_context(training_lock(folder))
            stack.enter_context(ray_session(dashboard=base.workers.most > 1))
            check_shared_folders(base)
            check_room(base, display.note)
            room = concurrency(base, at_most=plan.at_a_time)
            if base.workers.most > 1:
                check_state_api()
            display.note(f"trials at a time: {min(room, plan.size(space) - len(ended))}")
            handover = _interval(base) if plan.scheduler == "pbt" else 0
            sweep = stack.enter_context(prepared_sweep(base, space, display, handover=handover))
            errors = _search(sweep, plan, known, display, room=room)
    trials = ranked(_explained(read_trials(folder, plan.metric), errors))
    best = next((trial for trial in trials if not math.isnan(trial.score)), None)
    best_file = folder / "best.yaml"
    chosen = None
    if best is not None:
        chosen = _best_experiment(base, space, plan, best)
        _write_yaml(best_file, chosen)
    return Outcome(trials, chosen, best_file, folder)


def _explained(trials: Sequence[Trial], errors: Mapping[int, str]) -> list[Trial]:
    return [replace(trial, reason=trial.reason or errors.get(trial.number, "")) for trial in trials]


def concurrency(base: Experiment, *, at_most: int | None = None) -> int:
    """How many trials fit beside the teachers, node by node. Raises ConfigError where not one does.

    A trial is seated whole: a CPU on each of two nodes is no place for a worker of two. A cluster
    that grows is believed to hold as many as it is asked for: ``at_most``, or what it holds now.
    """
    workers, seats = base.workers, Seats.of_cluster()
    trial = shares_of_workers(base) or [Share(workers.cpus, workers.gpus)]
    cpus, gpus = sum(n.cpus for n in seats.left.values()), sum(n.gpus for n in seats.left.values())
    most = max((node.cpus for node in seats.left.values()), default=0.0)
    teachers = base.teachers if base.signals.source == "served" else ()
    held = [Share(t.cpus, t.gpus) for t in teachers for _ in range(t.actors)]
    room = 0
    if seat((), held, seats):
        while seat(trial, (), seats):
            room += 1
    if grows():
        return at_most or max(room, 1)
    if not room:
        raise ConfigError(
            f"workers: a trial of {len(trial)} × {workers.cpus:g} CPUs and {workers.gpus:g} GPUs "
            f"does not fit beside teachers that hold {sum(h.cpus for h in held):g} CPUs and "
            f"{sum(h.gpus for h in held):g} GPUs of {cpus:g} and {gpus:g}, at most {most:g} CPUs "
            "on a node; lower workers.count or workers.cpus"
        )
    return min(room, at_most or room)


def _search(
    sweep: Sweep, plan: Plan, known: Sequence[Trial], display: Display, *, room: int
) -> Mapping[int, str]:
    """Let Tune run what is missing; returns why trials broke off, by number.

    Trials that have ended are proposed again, and report at once what they did: the search and the
    scheduler go by it. (Not to a population: there they have nothing left to train.)
    """
    from ray import tune

    proposed = proposals(sweep.space, plan, {trial.number: trial.values for trial in known})
    size = plan.size(sweep.space)
    ended = {trial.number for trial in known if trial.state != "broken off"}
    if sweep.handover:
        proposed = {n: values for n, values in proposed.items() if n not in ended}
        size -= len(ended)
    progress = SweepProgress(sweep, display, num_trials=size, metric=plan.metric)
    workers = sweep.base.workers
    nested = workers.most > 1
    own = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    # Of a trial that launches workers they take all there is; Tune refuses a trial of nothing.
    taken = {"node:__internal_head__": 0.001} if nested else own
    tune.Tuner(
        tune.with_resources(partial(run_trial, sweep=sweep), taken),
        param_space=dict(sweep.space.domains),
        tune_config=tune.TuneConfig(
            metric=plan.metric,
            mode="max",
            num_samples=size,
            search_alg=_search_algorithm(plan, list(proposed.values()), room=room),
            scheduler=_scheduler(sweep, plan),
            trial_name_creator=_names(list(proposed)),
            trial_dirname_creator=str,
            reuse_actors=not nested,  # a process's start takes longer than a short trial
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=str(sweep.folder),
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            callbacks=[progress],
            verbose=0,
        ),
    ).fit()
    for handed_over in (sweep.folder / TUNE).glob("*/checkpoint_*"):
        shutil.rmtree(handed_over)  # Tune's own clean-up loses count of a population's checkpoints
    return progress.errors


def _names(numbers: Sequence[int]) -> Callable[[TuneTrial], str]:
    """Trials are named in the order in which Tune makes them: as proposed, then counting on."""
    left = list(numbers)
    following = max(numbers, default=-1) + 1

    def name(_: TuneTrial) -> str:
        nonlocal following
        if left:
            return trial_name(left.pop(0))
        following += 1
        return trial_name(following - 1)

    return name


def _search_algorithm(
    plan: Plan, points: list[Mapping[str, Any]], *, room: int
) -> Searcher | SearchAlgorithm:
    """Proposes ``points`` first; no more than ``room`` trials run at a time."""
    first = [dict(point) for point in points]
    if plan.search == "optuna":
        from ray.tune.search import ConcurrencyLimiter
        from ray.tune.search.optuna import OptunaSearch

        search = OptunaSearch(seed=plan.search_seed, points_to_evaluate=first or None)
        return ConcurrencyLimiter(search, max_concurrent=room)
    from ray.tune.search.basic_variant import BasicVariantGenerator

    return BasicVariantGenerator(points_to_evaluate=first, max_concurrent=room)


def _scheduler(sweep: Sweep, plan: Plan) -> TrialScheduler | None:
    from ray.tune.schedulers import ASHAScheduler

    from orchestrator.population import Population

    epochs = sweep.base.schedule.epochs
    match plan.scheduler:
        case "none":
            return None
        case "asha":
            # It stops a trial that reports max_t, which has still to file its result.
            grace = _interval(sweep.base)
            return ASHAScheduler(time_attr=EPOCH, max_t=epochs + 1, grace_period=grace)
        case "pbt":
            return Population(
                epochs=epochs,
                time_attr=EPOCH,
                perturbation_interval=sweep.handover,
                domains=sweep.space.domains,
            )


def _interval(base: Experiment) -> int:
    """Epochs between a scheduler's decisions."""
    return math.ceil(base.schedule.epochs / DECISIONS)


def _best_experiment(base: Experiment, space: Space, plan: Plan, best: Trial) -> Experiment:
    """The best candidate under seeds that the search did not use."""
    first = max(base.seeds) + 1
    seeds = tuple(range(first, first + plan.num_seeds))
    found = candidate(base, space, best.values)
    name = f"{base.name}-{space.name}-best"
    return found.model_copy(update={"name": name, "seeds": seeds})


def _write_yaml(path: Path, experiment: Experiment) -> None:
    import yaml

    text = yaml.safe_dump(experiment.as_dict(), sort_keys=False, allow_unicode=True)
    write_atomically(path, lambda draft: draft.write_text(text))
