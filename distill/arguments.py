"""What the command line takes. Importing this imports neither torch nor Ray."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from distill import __version__

DEMO = "demo"
Handler = Callable[[argparse.Namespace], int]
# Subcommands that take an experiment, and what --help says of them.
_COMMANDS = {
    "train": "train an experiment's students and compare them",
    "tune": "search a space for the best settings, over records that are made once",
    "plan": "say what is left to do, how long it takes, and what limits it; do nothing",
    "cache": "record an experiment's signals ahead of time; list and remove records",
    "probe": "find which teacher's stages tell the classes apart best (for gpac)",
    "verify": "check an experiment's records, and a sample against its teachers",
    "show": "print an experiment's resolved configuration",
}


def make_parser(handlers: Mapping[str, Handler]) -> argparse.ArgumentParser:
    """The parser of every subcommand; ``run`` of what it returns is the subcommand's handler."""
    parser = argparse.ArgumentParser(
        prog="tutelage",
        description="Distil one small model from many large ones.",
        epilog=f"Without a subcommand: train {DEMO}.",
    )
    parser.add_argument("--version", action="version", version=f"tutelage {__version__}")
    parser.set_defaults(run=handlers["train"], experiment=DEMO, set=[])
    commands = parser.add_subparsers(title="subcommands", metavar="")
    added: dict[str, argparse.ArgumentParser] = {}
    for name, text in _COMMANDS.items():
        added[name] = command = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + "."
        )
        command.set_defaults(run=handlers[name])
        command.add_argument(
            "experiment",
            nargs="?" if name in ("cache", "plan") else None,
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
    _add_tune_options(added["tune"])
    _add_cache_options(added["cache"])
    _add_plan_options(added["plan"])
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
    compare.set_defaults(run=handlers["compare"])
    compare.add_argument("runs", nargs="*", type=Path, help="folders of runs (default: runs)")
    compare.add_argument("--by", default="method", help="what to group by (default: method)")
    return parser


def _add_tune_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--space", required=True, help="a shipped search space's name, or a .py file"
    )
    command.add_argument(
        "--trials", type=int, metavar="N", help="default: 8; with --search grid: every point"
    )
    command.add_argument("--scheduler", choices=("none", "asha", "pbt"), default="none")
    command.add_argument("--search", choices=("random", "grid", "optuna"), default="random")
    command.add_argument(
        "--metric",
        choices=("accuracy/validation", "accuracy/validation_best"),
        default="accuracy/validation",
        help="what to select by: of a trial's last epoch, or of its best (default: %(default)s)",
    )
    command.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="K",
        help="fresh seeds that the best settings are trained with and tested (default: 3)",
    )
    command.add_argument("--resume", action="store_true", help="go on with a sweep")


def _add_plan_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--cluster",
        type=Path,
        metavar="FILE",
        help="plan for a cluster that a YAML file describes; without EXPERIMENT, for its job",
    )
    command.add_argument(
        "--nodes", type=int, nargs="+", default=[], metavar="N", help="sizes of it to compare"
    )
    command.add_argument(
        "--trials", type=int, metavar="N", help="and a sweep of so many trials like the last run"
    )
    command.add_argument(
        "--seconds",
        type=float,
        default=5.0,
        metavar="S",
        help="what to spend on measuring (default: %(default)g)",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")


def _add_cache_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--list", action="store_true", help="show the records that there are")
    command.add_argument(
        "--remove", nargs="+", metavar="KEY", help="delete records; a key's beginning will do"
    )
    command.add_argument(
        "--root", help="where --list and --remove look: a folder or URL (default: the user's cache)"
    )
