"""The subcommand ``plan``: mistakes first, then a probe, then tables.

Imports neither torch nor ray before it knows of an experiment that is without mistakes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from distill.loading import ConfigError, load_experiment
from orchestrator.cluster_spec import ClusterSpec, load_spec
from orchestrator.forecast import Forecast
from orchestrator.paper_jobs import forecast_job
from orchestrator.plan_report import as_json, runs_table, scale_table, summary, teachers_table
from orchestrator.preflight import check, check_data
from orchestrator.text_tables import TextTable

if TYPE_CHECKING:
    from orchestrator.planning import Agenda

_WIDTH = 120  # columns where the output is no terminal


@final
@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for."""

    experiment: str | None
    overrides: Sequence[str] = ()
    cluster: Path | None = None
    nodes: Sequence[int] = ()  # sizes of the cluster; none: the file's
    num_trials: int | None = None  # of a sweep to plan for
    seconds: float = 5.0  # of the probe
    json_file: Path | None = None


def plan(request: Request) -> int:
    """Print a plan. Returns 0, or 1 where something does not fit. Raises ConfigError."""
    spec = load_spec(request.cluster) if request.cluster else None
    _check(request, spec)
    agenda, found = None, list[tuple[int, Forecast]]()
    if request.experiment is not None:
        agenda, found = _of_experiment(request.experiment, request, spec)
        if not found:
            return 1
    elif spec is not None and spec.job is not None:
        job = spec.job
        found = _by_size(spec, request, lambda one: forecast_job(one, job))
    _print(request, agenda, found)
    if request.json_file is not None:
        content = {str(n): as_json(one, num_trials=request.num_trials) for n, one in found}
        request.json_file.write_text(json.dumps(content, indent=2) + "\n")
    return 1 if any(one.misfits for _, one in found) else 0


def _check(request: Request, spec: ClusterSpec | None) -> None:
    """Raise ConfigError for options that do not go together, or make no sense."""
    if spec is None and request.nodes:
        raise ConfigError("--nodes: goes with --cluster FILE")
    if request.experiment is None and spec is None:
        raise ConfigError("plan: give an EXPERIMENT, or --cluster FILE with a job in it")
    if request.experiment is None and spec is not None and spec.job is None:
        raise ConfigError(f"{request.cluster}: job: is missing; give it, or an EXPERIMENT")
    trials = () if request.num_trials is None else (request.num_trials,)
    for name, numbers in (("--nodes", request.nodes), ("--trials", trials)):
        for number in numbers:
            if number < 1:
                raise ConfigError(f"{name}: {number} is too few; give 1 or more")
    if request.seconds <= 0:
        raise ConfigError(f"--seconds: {request.seconds:g} is no time to measure; give 1 or more")


def _of_experiment(
    name: str, request: Request, spec: ClusterSpec | None
) -> tuple[Agenda | None, list[tuple[int, Forecast]]]:
    experiment = load_experiment(name, request.overrides)
    if spec is None:
        check(experiment)
    else:  # what fits here says nothing of what fits there
        check(experiment, num_cpus=sys.maxsize, with_gpu=True)
    check_data(experiment)

    from orchestrator.pipeline import FAILURES
    from orchestrator.plans import forecast_of, plan_experiment

    try:
        terms = plan_experiment(experiment, spec, seconds=request.seconds)
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return None, []
    if spec is None:
        if os.environ.get("RAY_ADDRESS"):
            print("planned for this machine; for the cluster at RAY_ADDRESS, give --cluster FILE")
        return terms.agenda, [(1, forecast_of(terms))]
    return terms.agenda, _by_size(spec, request, lambda one: forecast_of(replace(terms, spec=one)))


def _by_size(
    spec: ClusterSpec, request: Request, forecast: Callable[[ClusterSpec], Forecast]
) -> list[tuple[int, Forecast]]:
    counts = request.nodes or [spec.nodes.count]
    return [(count, forecast(spec.of(count))) for count in counts]


def _print(request: Request, agenda: Agenda | None, found: list[tuple[int, Forecast]]) -> None:
    from rich.console import Console

    console = Console()
    width = console.width if console.is_terminal else _WIDTH

    def show(table: TextTable) -> None:
        Console(width=width).print(table.as_rich(width=width))

    first = found[0][1]
    if agenda is not None:
        if agenda.is_done:
            print("everything is done: nothing to train, nothing to record")
        if agenda.teachers:
            show(teachers_table(agenda, first))
        show(runs_table(agenda, first))
    if len(found) > 1:
        show(scale_table(found, num_trials=request.num_trials))
        for count, one in found:
            for text in one.misfits:
                print(f"{count} nodes do not fit: {text}")
        return
    for line in summary(first, num_trials=request.num_trials):
        print(line)
