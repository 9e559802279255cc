"""The one command: train · show · compare. Without arguments it runs the shipped demo."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a file: the folder of this file is on sys.path, the one above it is what we need.
    # Ray's workers need it, too; they would look in the working directory alone.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    paths = (sys.path[0], os.environ.get("PYTHONPATH"))
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)

from distill import __version__

DEMO = "demo"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, 1 for a failure, 2 for a mistake."""
    options = _parser().parse_args(arguments)
    from distill.loading import ConfigError

    try:
        return options.run(options)
    except ConfigError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tutelage",
        description="Distil one small model from many large ones.",
        epilog=f"Without a subcommand: train {DEMO}.",
    )
    parser.add_argument("--version", action="version", version=f"tutelage {__version__}")
    parser.set_defaults(run=_train, experiment=DEMO, set=[])
    commands = parser.add_subparsers(title="subcommands", metavar="")
    for name, function, text in (
        ("train", _train, "train an experiment's students and compare them"),
        ("show", _show, "print an experiment's resolved configuration"),
    ):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        command.set_defaults(run=function)
        command.add_argument("experiment", help="a shipped experiment's name, or a YAML file")
        command.add_argument(
            "-s",
            "--set",
            action="append",
            default=[],
            metavar="a.b=value",
            help="override a field, as in -s schedule.epochs=3 -s 'seeds=[0,1]'",
        )
    compare = commands.add_parser("compare", help="compare finished runs")
    compare.set_defaults(run=_compare)
    compare.add_argument("runs", nargs="*", type=Path, help="folders of runs (default: runs)")
    compare.add_argument("--by", default="method", help="what to group by (default: method)")
    return parser


def _train(options: argparse.Namespace) -> int:
    from distill.loading import load_experiment
    from orchestrator.preflight import check, check_data

    experiment = load_experiment(options.experiment, options.set)
    check(experiment)
    check_data(experiment)

    from orchestrator.display import Display
    from orchestrator.pipeline import run_experiment
    from orchestrator.reporting import report
    from orchestrator.recording import RecordingError
    from orchestrator.students import StudentError

    try:
        with Display() as display:
            outcome = run_experiment(experiment, display)
    except (StudentError, RecordingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report(experiment, outcome)
    return 1 if outcome.failures else 0


def _show(options: argparse.Namespace) -> int:
    import yaml

    from distill.loading import load_experiment

    experiment = load_experiment(options.experiment, options.set)
    print(yaml.safe_dump(experiment.as_dict(), sort_keys=False, allow_unicode=True), end="")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from distill.loading import ConfigError

    roots = options.runs or [Path("runs")]
    for root in roots:
        if not root.is_dir():
            raise ConfigError(f"runs: no folder '{root}'; give the output.root of an experiment")

    from orchestrator.reporting import compare_runs

    try:
        compare_runs(roots, by=options.by)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
