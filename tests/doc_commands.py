"""Whether a command of the documents would do what it says: held against the real parsers.

What costs little is run; of the rest, everything is checked that is checked before work starts:
options, experiments with their overrides, search spaces, folders of runs, make's targets, modules.
A command that nothing here knows is a mistake.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import io
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from packaging.requirements import Requirement

from distill import run
from distill.arguments import make_parser
from distill.config import Experiment
from distill.loading import load_experiment, shipped_experiments
from distill.methods import method_names
from orchestrator.preflight import check
from tests.doc_files import DOCS, ROOT

_JOINTS = ("&&", "||", "|", ";")
_VARIABLE = re.compile(r"[A-Za-z_]\w*=.*")
_NOWHERE = "--no-such-option"
_STARTED = {"train", "tune", "plan", "cache", "probe", "verify", "show", "doctor"}


class CommandError(AssertionError):
    """A command that would not work, or that nobody here knows."""


def check_command(words: Sequence[str]) -> None:
    """Raise CommandError, or what the command itself would tell of, for one that would not work."""
    for joint in _JOINTS:
        if joint in words:
            at = list(words).index(joint)
            check_command(words[:at])
            check_command(words[at + 1 :])
            return
    words, target = redirected(words)
    while words and _VARIABLE.fullmatch(words[0]):
        words = words[1:]
    if not words:
        return
    if words[0] not in _CHECKS:
        raise CommandError(f"no check for '{words[0]}'; write one in tests/doc_commands.py")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        _CHECKS[words[0]](words[1:])
    if target is not None:
        target.write_text(printed.getvalue())


def redirected(words: Sequence[str]) -> tuple[Sequence[str], Path | None]:
    """A command without its ``> FILE``, and the file."""
    if ">" not in words:
        return words, None
    at = list(words).index(">")
    return words[:at], Path(words[at + 1])


def _tutelage(words: Sequence[str]) -> None:
    try:
        options = make_parser(run._HANDLERS).parse_args(words)
    except SystemExit as error:
        if error.code == 0:  # --help, --version
            return
        raise CommandError(f"the parser refuses: tutelage {' '.join(words)}") from None
    command = words[0] if words else "train"
    if command in _STARTED and options.experiment is not None:
        _experiment(command, options)
    if command in _FURTHER:
        _FURTHER[command](words, options)


def _experiment(command: str, options: argparse.Namespace) -> None:
    from orchestrator.probe_tables import probing_experiment

    experiment = load_experiment(options.experiment, options.set)
    if command == "probe":
        experiment = probing_experiment(experiment)
    _check_anywhere(experiment)


def _check_anywhere(experiment: Experiment) -> None:
    """As before a training, on a machine that has whatever is asked for."""
    check(experiment, num_cpus=sys.maxsize, with_gpu=True)


def _run(words: Sequence[str], options: argparse.Namespace) -> None:  # noqa: ARG001
    if run.main(list(words)) != 0:
        raise CommandError(f"tutelage {' '.join(words)} fails")


def _tune(words: Sequence[str], options: argparse.Namespace) -> None:  # noqa: ARG001
    from orchestrator.candidates import Space, check_space
    from search_spaces import load_space

    space = Space.of(Path(options.space).stem, load_space(options.space))
    check_space(load_experiment(options.experiment, options.set), space)


def _plan(words: Sequence[str], options: argparse.Namespace) -> None:
    from orchestrator.cluster_spec import load_spec

    if options.experiment is None:
        _run(words, options)
    elif options.cluster is not None:
        load_spec(options.cluster)


def _cache(words: Sequence[str], options: argparse.Namespace) -> None:
    from orchestrator.inventory import MIN_PREFIX

    if options.list:
        _run(words, options)
    for key in options.remove or ():
        if not re.fullmatch(rf"[0-9a-f]{{{MIN_PREFIX},}}", key):
            raise CommandError(f"'{key}' is no beginning of a key")


def _export(words: Sequence[str], options: argparse.Namespace) -> None:  # noqa: ARG001
    """Few runs of the documents are there; its path says what one would be of."""
    found = re.fullmatch(r"runs/(\w+)/(\w+)-[0-9a-f]{8}/seed-\d+", str(options.folder))
    known = (*shipped_experiments(), *(file.stem for file in Path.cwd().glob("*.yaml")))
    if found is None or found[1] not in known or found[2] not in method_names():
        raise CommandError(f"'{options.folder}' is no run of an experiment that there is")


def _board(words: Sequence[str], options: argparse.Namespace) -> None:  # noqa: ARG001
    from orchestrator.tensorboard_server import folder_to_open

    folder_to_open(options.runs)


_FURTHER: dict[str, Callable[[Sequence[str], argparse.Namespace], None]] = {
    "tune": _tune,
    "plan": _plan,
    "cache": _cache,
    "export": _export,
    "board": _board,
    "show": _run,
    "compare": _run,
}


def _python(words: Sequence[str]) -> None:
    if words[0] == "distill/run.py":
        _tutelage(words[1:])
    elif words[0] != "-m":
        _file(words[0])
    elif words[1].startswith(("benchmarks.", "tests.", "orchestrator.")):
        _module(words[1], words[2:])
    else:
        raise CommandError(f"no check for 'python -m {words[1]}'; write one")


def _module(name: str, words: Sequence[str]) -> None:
    """Its own parser takes the words: with one option too many, it refuses that one alone."""
    module = importlib.import_module(
        name if not (ROOT / name.replace(".", "/")).is_dir() else f"{name}.__main__"
    )
    (first, *_) = inspect.signature(module.main).parameters.values()
    if first.annotation == "str":
        inspect.signature(module.main).bind(*words)
        return
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            module.main([*words, _NOWHERE])
    except SystemExit:
        if said.getvalue().endswith(f"unrecognized arguments: {_NOWHERE}\n"):
            return
    raise CommandError(f"python -m {name} {' '.join(words)}: {said.getvalue()}")


def _make(words: Sequence[str]) -> None:
    text = (ROOT / "Makefile").read_text()
    known = {*re.findall(r"^([\w-]+):", text, re.M), ".venv/.installed"}
    for target in words:
        if target not in known and not _VARIABLE.fullmatch(target):
            raise CommandError(f"the Makefile has no target '{target}'")


def _pip(words: Sequence[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *(text for texts in extras.values() for text in texts)]
    known = {Requirement(text).name for text in listed}
    for word in words[1:]:
        if word in ("-e", "--editable", "."):
            continue
        wanted = Requirement(re.sub(r"^\.\[", "tutelage[", word))
        if wanted.name == "tutelage" and wanted.extras <= set(extras):
            continue
        if wanted.name not in known:
            raise CommandError(f"pip install {word}: pyproject.toml does not name it")


def _ray(words: Sequence[str]) -> None:
    """Ray's own parser; what is handed on to a node is a command of ours."""
    from ray.scripts.scripts import cli

    group, context = cli, click.Context(cli, info_name="ray")
    name = None
    while isinstance(group, click.Group):
        name, group, words = group.resolve_command(context, list(words))
        assert group is not None, "Ray refuses an unknown subcommand itself"
    given = group.make_context(name, list(words), parent=context).params
    if "cluster_config_file" in given:
        _file(given["cluster_config_file"])
    if "script" in given:
        _python([given["script"], *given["script_args"]])
    elif "cmd" in given:
        check_command(shlex.split(given["cmd"]))
    elif "entrypoint" in given:
        check_command(given["entrypoint"])


def _kubectl(words: Sequence[str]) -> None:
    """Files that are applied are there; a secret that is made is one that some file asks for."""
    if words[:3] == ["create", "secret", "generic"]:
        files = (DOCS / "clusters").glob("*.yaml")
        if not any(words[3] in file.read_text() for file in files):
            raise CommandError(f"no file in docs/clusters asks for a secret '{words[3]}'")
    elif words[:2] == ["apply", "-f"]:
        _file(words[2])
    else:
        raise CommandError(f"no check for 'kubectl {' '.join(words)}'; write one")


def _file(name: str) -> None:
    if not Path(name).is_file():
        raise CommandError(f"no file '{name}'")


def _cd(words: Sequence[str]) -> None:
    if not Path(words[0]).is_dir():
        raise CommandError(f"no folder '{words[0]}'")


def _export_variable(words: Sequence[str]) -> None:
    for word in words:
        if not _VARIABLE.fullmatch(word):
            raise CommandError(f"export {word}: write NAME=VALUE")


_CHECKS: dict[str, Callable[[Sequence[str]], None]] = {
    "tutelage": _tutelage,
    "python": _python,
    "make": _make,
    "pip": _pip,
    "ray": _ray,
    "kubectl": _kubectl,
    "cd": _cd,
    "export": _export_variable,
}
