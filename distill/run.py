"""The one command; without a subcommand: train demo.

train · tune · plan · cache · probe · verify · show · compare · board · export · doctor
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # Run as a file of a checkout: the folder of this file is on sys.path, the one above it is what
    # we need. Ray's workers need it, too; they would look in the working directory alone.
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "distill" / "run.py").is_file():
        sys.path[0] = str(checkout)
        paths = (sys.path[0], os.environ.get("PYTHONPATH"))
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    elif find_spec("distill") is None:  # this file alone, as `ray submit` copies it
        print(
            f"error: tutelage is not installed for {sys.executable}: `ray up cluster.yaml` does "
            "that on every node, by setup_commands; look at what they printed, or submit the whole "
            "folder by `ray job submit --working-dir .`",
            file=sys.stderr,
        )
        sys.exit(2)

from distill.arguments import make_parser

if TYPE_CHECKING:
    from distill.config import Experiment


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, 1 for a failure, 2 for a mistake."""
    options = make_parser(_HANDLERS).parse_args(arguments)
    from distill.loading import ConfigError

    try:
        return options.run(options)
    except ConfigError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resumed = " with --resume" if options.run is _tune else ""
        print(f"interrupted; the same command{resumed} goes on from here", file=sys.stderr)
        return 130


def _checked(options: argparse.Namespace) -> Experiment:
    """The experiment, with every mistake found that can be before torch and Ray are imported."""
    from distill.loading import load_experiment
    from orchestrator.preflight import check, check_data

    experiment = load_experiment(options.experiment, options.set)
    check(experiment)
    check_data(experiment)
    return experiment


def _train(options: argparse.Namespace) -> int:
    experiment = _checked(options)

    from orchestrator.display import Display
    from orchestrator.pipeline import FAILURES, run_experiment
    from orchestrator.reporting import report

    try:
        with Display() as display:
            outcome = run_experiment(experiment, display)
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report(experiment, outcome)
    return 1 if outcome.failures else 0


def _tune(options: argparse.Namespace) -> int:
    from distill.loading import ConfigError

    for name in ("trials", "at_a_time", "seeds"):
        value = getattr(options, name)
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option}: {value} is too few; give 1 or more")
    experiment = _checked(options)

    from orchestrator.candidates import Space
    from orchestrator.display import Display
    from orchestrator.pipeline import FAILURES, run_experiment
    from orchestrator.reporting import report
    from orchestrator.sweep_plan import Plan
    from orchestrator.sweep_report import report_sweep
    from orchestrator.sweeps import run_sweep
    from search_spaces import load_space

    space = Space.of(Path(options.space).stem, load_space(options.space))
    plan = Plan(
        num_trials=options.trials,
        at_a_time=options.at_a_time,
        scheduler=options.scheduler,
        search=options.search,
        metric=options.metric,
        num_seeds=options.seeds,
        resume=options.resume,
    )
    try:
        with Display() as display:
            sweep = run_sweep(experiment, space, plan, display)
            outcome = run_experiment(sweep.best, display) if sweep.best else None
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report_sweep(sweep, metric=plan.metric)
    if sweep.best is None or outcome is None:
        return 1
    report(sweep.best, outcome)
    return 1 if outcome.failures else 0


def _plan(options: argparse.Namespace) -> int:
    from orchestrator.plan_command import Request, plan

    return plan(
        Request(
            options.experiment,
            options.set,
            cluster=options.cluster,
            nodes=options.nodes,
            num_trials=options.trials,
            seconds=options.seconds,
            json_file=options.json,
        )
    )


def _cache(options: argparse.Namespace) -> int:
    from distill.loading import ConfigError

    if (options.experiment is not None) + options.list + bool(options.remove) != 1:
        raise ConfigError("cache: give either an EXPERIMENT, or --list, or --remove KEY")
    if options.experiment is None:
        from orchestrator.listing import look_after

        return look_after(options.root, shows=options.list, removed=options.remove or ())
    if options.root is not None:
        raise ConfigError("--root: goes with --list and --remove; here set -s signals.root=FOLDER")

    experiment = _checked(options)

    from orchestrator.display import Display
    from orchestrator.maintenance import record_ahead
    from orchestrator.pipeline import FAILURES

    try:
        with Display() as display:
            done = record_ahead(experiment, display)
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    parts = f"{done.parts:,} parts recorded, {done.kept:,} kept"
    print(f"signals: {parts}; {done.num_bytes:,} bytes in {done.root}")
    return 0


def _probe(options: argparse.Namespace) -> int:
    from distill.loading import load_experiment
    from orchestrator.preflight import check, check_data
    from orchestrator.probe_tables import probing_experiment, table_file

    experiment = load_experiment(options.experiment, options.set)
    table_file(experiment, options.output)
    # Not the experiment itself: what a method reads need not be there before this has made it.
    asked = probing_experiment(experiment)
    check(asked)
    check_data(asked)

    from orchestrator.display import Display
    from orchestrator.pipeline import FAILURES
    from orchestrator.probe_report import report
    from orchestrator.probing import probe

    try:
        with Display() as display:
            probed = probe(experiment, display, output=options.output)
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report(experiment, probed)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from distill.loading import ConfigError

    if options.samples < 1:
        raise ConfigError(f"--samples: {options.samples} is not a number of inputs; give 1 or more")
    experiment = _checked(options)

    from orchestrator.display import Display
    from orchestrator.listing import print_verification
    from orchestrator.maintenance import verify
    from orchestrator.pipeline import FAILURES

    try:
        with Display() as display:
            found = verify(experiment, display, num_samples=options.samples)
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_verification(found)
    return 0 if found.is_well else 1


def _export(options: argparse.Namespace) -> int:
    from orchestrator.export_plan import plan_export

    export = plan_export(
        options.folder, formats=options.format, weights=options.weights, output=options.output
    )

    from distill.export import ExportError
    from orchestrator.exporting import export_run, report
    from orchestrator.students import StudentError

    try:
        card = export_run(export)
    except (ExportError, StudentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report(export, card)
    return 0


def _show(options: argparse.Namespace) -> int:
    import yaml

    from distill.loading import load_experiment

    experiment = load_experiment(options.experiment, options.set)
    print(yaml.safe_dump(experiment.as_dict(), sort_keys=False, allow_unicode=True), end="")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from distill.loading import load_experiment
    from orchestrator.doctor import examine

    experiment = load_experiment(options.experiment, options.set)
    return 0 if examine(experiment, sys.stdout) else 1


def _compare(options: argparse.Namespace) -> int:
    from orchestrator.selection import folders_of

    folders = folders_of(options.runs)

    from orchestrator.reporting import compare_runs

    try:
        compare_runs(folders, by=options.by, output=options.output)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _board(options: argparse.Namespace) -> int:
    from orchestrator.tensorboard_server import folder_to_open, serve

    serve(folder_to_open(options.runs), host=options.host, port=options.port, opens=options.open)
    return 0


_HANDLERS = {
    "train": _train,
    "tune": _tune,
    "plan": _plan,
    "cache": _cache,
    "probe": _probe,
    "verify": _verify,
    "export": _export,
    "show": _show,
    "compare": _compare,
    "board": _board,
    "doctor": _doctor,
}

if __name__ == "__main__":
    # Of a copy, the installed package's own: another version's handlers would not fit it.
    from distill import run

    sys.exit(run.main())
