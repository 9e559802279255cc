"""The one command: train · cache · probe · verify · show · compare; without arguments, train."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # Run as a file: the folder of this file is on sys.path, the one above it is what we need.
    # Ray's workers need it, too; they would look in the working directory alone.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    paths = (sys.path[0], os.environ.get("PYTHONPATH"))
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)

from distill import __version__

if TYPE_CHECKING:
    from distill.config import Experiment

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
    added: dict[str, argparse.ArgumentParser] = {}
    for name, function, text in (
        ("train", _train, "train an experiment's students and compare them"),
        ("cache", _cache, "record an experiment's signals ahead of time; list and remove records"),
        ("probe", _probe, "find which teacher's stages tell the classes apart best (for gpac)"),
        ("verify", _verify, "check an experiment's records, and a sample against its teachers"),
        ("show", _show, "print an experiment's resolved configuration"),
    ):
        added[name] = command = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + "."
        )
        command.set_defaults(run=function)
        command.add_argument(
            "experiment",
            nargs="?" if name == "cache" else None,
            default=None,
            help="a shipped experiment's name, or a YAML file",
        )
        command.add_argument(
            "-s",
            "--set",
            action="append",
            default=[],
            metavar="a.b=value",
            help="override a field, as in -s schedule.epochs=3 -s 'seeds=[0,1]'",
        )
    _add_cache_options(added["cache"])
    added["probe"].add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the table (default: where a method reads it, else probes.json in the runs' folder)",
    )
    added["verify"].add_argument(
        "--samples",
        type=int,
        default=256,
        metavar="N",
        help="samples of each teacher (default: 256)",
    )
    compare = commands.add_parser("compare", help="compare finished runs")
    compare.set_defaults(run=_compare)
    compare.add_argument("runs", nargs="*", type=Path, help="folders of runs (default: runs)")
    compare.add_argument("--by", default="method", help="what to group by (default: method)")
    return parser


def _add_cache_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--list", action="store_true", help="show the records that there are")
    command.add_argument(
        "--remove", nargs="+", metavar="KEY", help="delete records; a key's beginning will do"
    )
    command.add_argument(
        "--root", help="where --list and --remove look: a folder or URL (default: the user's cache)"
    )


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


def _cache(options: argparse.Namespace) -> int:
    from distill.loading import ConfigError

    if (options.experiment is not None) + options.list + bool(options.remove) != 1:
        raise ConfigError("cache: give either an EXPERIMENT, or --list, or --remove KEY")
    if options.experiment is None:
        return _look_after(options)
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


def _look_after(options: argparse.Namespace) -> int:
    from rich.console import Console

    from distill.loading import ConfigError
    from orchestrator.inventory import list_recordings, remove, resolve_key
    from orchestrator.listing import default_root, open_root, recordings_table

    try:
        root = open_root(options.root) if options.root else default_root()
        if options.list:
            Console().print(recordings_table(list_recordings(root), root=root))
            return 0
        for key in dict.fromkeys([resolve_key(root, text) for text in options.remove]):
            print(f"{key}: removed, {remove(root, key):,} bytes freed", flush=True)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
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
