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
    "doctor": "say what an experiment needs of this machine and does not find, and what mends it",
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
    commands = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND")
    added: dict[str, argparse.ArgumentParser] = {}
    for name, text in _COMMANDS.items():
        added[name] = command = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + "."
        )
        command.set_defaults(run=handlers[name])
        command.add_argument(
            "experiment",
            nargs="?" if name in ("cache", "plan", "doctor") else None,
            default=DEMO if name == "doctor" else None,
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
    text = "write a run's student as files that others load, with a model card"
    export = commands.add_parser("export", help=text, description=f"{text}.".capitalize())
    export.set_defaults(run=handlers["export"])
    _add_export_options(export)
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
    text = "compare finished runs, or a sweep's trials: a table, and pictures"
    compare = commands.add_parser("compare", help=text, description=f"{text}.".capitalize())
    compare.set_defaults(run=handlers["compare"])
    _add_compare_options(compare)
    board = commands.add_parser("board", help="open TensorBoard on runs, named by their settings")
    board.set_defaults(run=handlers["board"])
    _add_board_options(board)
    return parser


def _add_export_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="RUN", type=Path, help="the folder of a run")
    command.add_argument(
        "--format",
        action="append",
        required=True,
        choices=("onnx", "safetensors", "torch"),
        help="repeat it for several; onnx needs tutelage[export]",
    )
    command.add_argument(
        "--weights",
        choices=("last", "best"),
        default="last",
        help="of the last epoch, or those best on validation data (default: last)",
    )
    command.add_argument(
        "--output", type=Path, metavar="FOLDER", help="default: export/WEIGHTS in the run"
    )


def _add_tune_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--space", required=True, help="a shipped search space's name, or a .py file"
    )
    command.add_argument(
        "--trials", type=int, metavar="N", help="default: 8; with --search grid: every point"
    )
    command.add_argument(
        "--at-a-time",
        type=int,
        metavar="N",
        help="trials that run at one time at most (default: what the cluster holds now)",
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


def _add_board_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "runs",
        nargs="?",
        metavar="EXPERIMENT|FOLDER",
        help="an experiment's name or YAML file, or a folder of runs (default: runs)",
    )
    command.add_argument("--port", type=int, metavar="N", help="default: the first free from 6006")
    command.add_argument(
        "--host",
        default="localhost",
        help="the address to listen at (default: %(default)s, which no other machine reaches)",
    )
    command.add_argument("--open", action="store_true", help="open the page in a browser, too")


def _add_compare_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "runs",
        nargs="*",
        help="folders of runs, experiments or sweeps, or any above them; a shipped experiment's "
        "name or a YAML file, for its runs (default: runs)",
    )
    command.add_argument(
        "--by",
        metavar="COLUMN",
        help="what to group by: method, experiment, seed, or any setting, as method.temperature "
        "(default: method; of a sweep, each trial)",
    )
    command.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where tables and pictures go (default: comparison, beside the runs)",
    )
