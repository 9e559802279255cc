"""Commands and snippets of README and docs: run where that is cheap, else held to the parser.

Those are run, too, made small, by ``make test-documents``.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

import distill
from distill import run
from distill.config import Experiment
from distill.loading import ConfigError, load_experiment
from orchestrator.candidates import Space, check_space
from orchestrator.cluster_spec import load_spec
from orchestrator.preflight import check
from tests.doc_commands import CommandError, check_command
from tests.doc_files import DOCS, ROOT, Block, blocks, commands, pages
from tests.run_folders import make_run, make_trial
from tests.tutorial_world import TUTORIALS, furnish

LINKED = ("benchmarks", "cluster.yaml", "distill", "docs", "tests", "Makefile")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout in which the demo, a sweep and another machine's runs have ended."""
    folder = tmp_path_factory.mktemp("world")
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    for root, experiment in (("runs", "demo"), ("runs", "fmnist"), ("mnt/gpu/runs", "fmnist")):
        for seed in (0, 1):
            for method, accuracy in (("ce", 0.5), ("kd", 0.6)):
                make_run(
                    folder / root,
                    method,
                    seed,
                    accuracy=accuracy + seed / 100,
                    experiment=experiment,
                    digest="1a2b3c4d",
                    settings={"temperature": 4.0} if method == "kd" else {},
                )
    for number, temperature in enumerate((1.0, 4.0)):
        values = {"method.temperature": temperature}
        make_trial(folder / "runs", number, values, score=0.5 + number / 10, experiment="demo")
    furnish(folder)
    for name in ("phone", "trams"):
        make_run(folder / "runs", "kd", 0, accuracy=0.6, experiment=name, digest="1a2b3c4d")
    (folder / "runs/demo/probes.json").write_text(json.dumps(probe_table()))
    for block in blocks("yaml"):
        written = yaml.safe_load(block.text)
        if "nodes" in written:
            (folder / "cluster-spec.yaml").write_text(block.text)
        if {"name", "student"} <= written.keys():  # a whole experiment is a file of its name
            (folder / f"{written['name']}.yaml").write_text(block.text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.syspath_prepend(TUTORIALS)
        patch.setenv("COLUMNS", "120")
        yield folder


def probe_table() -> dict[str, object]:
    """As ``tutelage probe demo`` would write, but for the numbers."""
    teachers = [teacher.name for teacher in load_experiment("demo").teachers]
    accuracy = {name: {f"stage{i}": i / 10 for i in (1, 2, 3)} for name in teachers}
    return {"accuracy": accuracy, "teachers": dict.fromkeys(teachers, ""), "split": ""}


def inside(world: Path, words: list[str]) -> list[str]:
    """Absolute paths of the documents lie in the world."""
    return [f"{world}{word}" if word.startswith("/") else word for word in words]


@pytest.mark.parametrize("block", blocks("sh", "bash", "shell", "console"), ids=str)
def test_every_command_works(block: Block, world: Path) -> None:
    for words in commands(block):
        check_command(inside(world, words))


def test_no_command_hides_in_another_kind_of_block() -> None:
    """A fence that is marked ``sh`` is tested; one that is not must not look like a command."""
    known = ("tutelage ", "python ", "make ", "ray ", "pip ")
    for block in blocks("", "text"):
        assert not block.text.startswith(known), block


@pytest.mark.parametrize(
    "words",
    [
        *("tutelage trian demo", "tutelage train demo --sed 1", "tutelage train demo -s a.b=1"),
        *("tutelage tune demo --space kdd", "tutelage show demmo", "tutelage compare runs/none"),
        *("make dmo", "python -m benchmarks.methods --quikc", "python -m benchmarks.nothing"),
        *("ray up no.yaml", "ray upp cluster.yaml", "ray exec cluster.yaml 'tutelage compar'"),
        *("rm -r runs", "pip install no-such-package", "pip install 'tutelage[s4]'"),
        *("kubectl apply -f none.yaml", "kubectl create secret generic nobodys", "kubectl delete"),
        "ray submit cluster.yaml distill/run.py -- train demmo",
        "ray job submit --working-dir . -- python distill/run.py train demmo",
    ],
)
@pytest.mark.usefixtures("world")
def test_a_command_that_would_not_work_is_found(words: str) -> None:
    with pytest.raises((CommandError, ConfigError, ImportError, click.UsageError)):
        check_command(shlex.split(words))


@pytest.mark.parametrize("block", blocks("yaml", "yml"), ids=str)
@pytest.mark.usefixtures("world")
def test_every_yaml_snippet_is_valid(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "snippet.yaml"
    fields = yaml.safe_load(block.text)
    if "nodes" in fields:
        file.write_text(block.text)
        load_spec(file)
        return
    assert fields.keys() <= {*Experiment.model_fields, "extends"}, "neither experiment nor cluster"
    base = {} if fields.keys() & {"extends", "student"} else {"extends": "demo"}
    file.write_text(yaml.safe_dump(base | fields))
    check(load_experiment(str(file)), num_cpus=1 << 20, with_gpu=True)


@pytest.mark.parametrize("block", blocks("python", "py"), ids=str)
def test_every_python_snippet_uses_what_there_is(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for name in names:
                    importlib.import_module(name.name)
            case ast.ImportFrom(module=str(module), names=names):
                for name in names:
                    assert hasattr(importlib.import_module(module), name.name), name.name
            case ast.Attribute(value=ast.Name(id="distill"), attr=name):
                assert hasattr(distill, name), name
            case ast.Attribute(value=ast.Name(id="run"), attr=name):
                assert hasattr(distill.Run, name), name
            case _:
                pass


def cheap() -> list[Block]:
    """Snippets that train nothing; tutorials have tests of their own."""
    here = [block for block in blocks("python", "py") if block.page.parent in (ROOT, DOCS)]
    return [
        block for block in here if block.page.suffix == ".md" and "distill.train(" not in block.text
    ]


@pytest.mark.parametrize("block", cheap(), ids=str)
@pytest.mark.usefixtures("world")
def test_a_snippet_that_trains_nothing_runs(block: Block) -> None:
    names: dict[str, object] = {}
    if not Path("runs/index.parquet").is_file():
        check_command(["tutelage", "compare"])  # writes it
    exec(compile(block.text, str(block), "exec"), names)
    if "SPACE" in names:
        check_space(load_experiment("demo"), Space.of("snippet", names["SPACE"]))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "block", [b for b in blocks("", "text") if b.text.startswith("$ ")], ids=str
)
@pytest.mark.usefixtures("world")
def test_what_a_command_is_said_to_print_is_what_it_prints(
    block: Block, capsys: pytest.CaptureFixture[str]
) -> None:
    command, _, said = block.text.removeprefix("$ ").partition("\n")
    run.main(shlex.split(command)[1:])
    printed = capsys.readouterr()
    assert printed.out + printed.err == said


def test_commands_in_running_text_name_what_there_is() -> None:
    text = "\n".join(page.read_text() for page in pages())
    modules = set(re.findall(r"`python\s+-m\s+([\w.]+)", text)) - {"benchmarks.NAME"}
    targets = set(re.findall(r"`make\s+([\w./-]+)", text))
    assert len(modules) > 5
    assert len(targets) > 3
    assert [module for module in modules if not importlib.util.find_spec(module)] == []
    check_command(["make", *targets])
