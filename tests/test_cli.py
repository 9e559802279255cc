"""The command line from outside: statuses, what is printed and imported, and how fast."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from distill import run
from distill.arguments import DEMO, make_parser
from distill.loading import load_experiment, shipped_experiments
from tests.data_files import write_arrays
from tests.helpers import prepare, two_teachers

ROOT = Path(run.__file__).resolve().parent.parent
HEAVY = {"torch", "torchvision", "ray", "pandas", "pyarrow", "matplotlib"}
TIMED = "import time:"  # how a line of python -X importtime begins


def command(*arguments: str, cwd: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """``python distill/run.py``, listing its imports on stderr."""
    return subprocess.run(
        [sys.executable, "-X", "importtime", str(root / "distill" / "run.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"COLUMNS": "100"},
    )


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of stderr that were printed for a person."""
    return [line for line in done.stderr.splitlines() if not line.startswith(TIMED)]


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Packages that the command imported."""
    timed = [line for line in done.stderr.splitlines() if line.startswith(TIMED)]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in timed}


def seconds(*arguments: str, cwd: Path, limit: float) -> float:
    """The best of up to three, since other work on the machine is not what is measured."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        command(*arguments, cwd=cwd)
        best = min(best, time.perf_counter() - start)
        if best < limit:
            break
    return best


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with an experiment on 36 images of 4 classes, and three teachers' checkpoints."""
    plain = {
        "name": "small",
        "data": {"name": "arrays", "file": str(write_arrays(tmp_path / "data.npz"))},
        "teachers": [{"arch": "cnn_m", "checkpoint": "teacher.safetensors"}],
        "student": {"arch": "cnn_xs"},
        "method": "kd",
        "schedule": {"batch_size": 16},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(plain))
    for name, num_classes in (("teacher", 4), ("seven", 7)):
        weights = {"fc.weight": np.zeros((num_classes, 8), np.float32)}
        save_file(weights, tmp_path / f"{name}.safetensors")
    content = (tmp_path / "teacher.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-5])
    return tmp_path


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.name=fashion_mnits", "data.name: unknown data set 'fashion_mnits'; did you mean fa"),
        ("data.file=none.npz", "/none.npz'; correct the path"),
        ("shedule.epochs=1", "shedule: unknown key; did you mean 'schedule'?"),
        ("method.temperature=-4", "method.temperature: should be greater than 0 (it is -4)"),
        ("method=kdd", "method: unknown method 'kdd'; did you mean 'kd'"),
        ("student.arch=resnet21", "student.arch: unknown architecture 'resnet21'; did you mean"),
        ("seeds=[0,0]", "seeds: [0, 0] repeats a seed; give distinct ones"),
        ("seeds=[0", "seeds: '[0' is not plain YAML: expected ',' or ']'"),
        ("teachers[0].checkpoint=none.pt", "teachers[0].checkpoint: no file 'none.pt'; correct"),
        ("teachers[0].checkpoint=seven.safetensors", "has 7 classes, the data has 4; say which 4"),
        ("teachers[0].checkpoint=cut.safetensors", "'cut.safetensors' is damaged or cut short"),
        ("teachers[0].normalization={mean: [0, 0], std: [1, 1]}", "2 means and 2 stds for images"),
        ("signals.codecs.stge3=int8", "signals.codecs.stge3: no teacher has tap 'stge3'; did you"),
        ("signals.codec=zip", "signals.codec: unknown codec 'zip'; codecs: float32, float16, int8"),
        (f"workers={{count: 16, cpus: {os.cpu_count()}}}", "workers.count: 16 workers of "),
        ("workers.cpus=9999", "workers.cpus: a worker of 9999 CPUs does not fit on this machine"),
        ("schedule.batch_size=37", "schedule.batch_size: 37 is more than the 36 training samples"),
        ("method={name: gpac, probes: t.json}", "'t.json'; run `tutelage probe EXPERIMENT` first"),
        ("output.root", "'output.root' is not an override; write a.b=value"),
    ],
)
def test_a_mistake_ends_with_status_2_and_one_line_before_torch_and_ray(
    override: str, says: str, small: Path
) -> None:
    before = sorted(small.iterdir())
    done = command("train", "small.yaml", "-s", override, cwd=small)
    assert done.returncode == 2
    (line,) = said(done)
    assert line.startswith("error: ")
    assert says in line
    assert done.stdout == ""
    assert not imported(done) & HEAVY
    assert sorted(small.iterdir()) == before  # no run folder either


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-s", "teachers=[]"), "teachers: there is none, so nothing to probe; add one to teach"),
        (("-s", "student={arch: 'm:f'}"), "no feature map of the student is known; name its mod"),
        (("-s", "teachers=[{arch: torchvision/vgg11}]"), "no feature map of teacher 'vgg11' is"),
        (("--output", "."), "--output: '.' is a folder; name a file in it, as probes.json"),
        (("-s", "teachers[0].checkpoint=no.pt"), "teachers[0].checkpoint: no file 'no.pt'; corr"),
    ],
)
def test_nothing_to_probe_is_a_mistake(arguments: tuple[str, str], says: str, small: Path) -> None:
    done = command("probe", "small.yaml", *arguments, cwd=small)
    assert done.returncode == 2
    assert says in said(done)[0]
    assert not imported(done) & HEAVY


def test_each_mistake_has_its_line(small: Path) -> None:
    overrides = ("method.temperature=-4", "schedule.epochs=0", "workers.count=-1")
    done = command("train", "small.yaml", *(f"--set={text}" for text in overrides), cwd=small)
    assert done.returncode == 2
    assert [line.split(": ")[:2] for line in said(done)] == [
        ["error", "method.temperature"],
        ["error", "schedule.epochs"],
        ["error", "workers.count"],
    ]


def test_a_mistake_is_answered_within_three_seconds(small: Path) -> None:
    override = "schedule.batch_size=37"  # found last, after the data were opened
    assert seconds("train", "small.yaml", "-s", override, cwd=small, limit=3.0) < 3.0


def test_help_answers_within_a_second_and_lists_every_subcommand(tmp_path: Path) -> None:
    assert seconds("--help", cwd=tmp_path, limit=1.0) < 1.0
    done = command("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert not imported(done) & (HEAVY | {"pydantic", "numpy"})
    (names,) = [action.choices for action in make_parser(run._HANDLERS)._actions if action.choices]
    assert {"train", "probe", "show", "compare"} <= set(names)
    assert all(f"\n    {name} " in done.stdout for name in names)


def test_a_python_object_in_an_experiment_is_never_made(small: Path) -> None:
    (small / "evil.yaml").write_text(
        'output: !!python/object/apply:os.system ["touch made"]\n'
        + (small / "small.yaml").read_text()
    )
    for arguments in (("evil.yaml",), ("small.yaml", "-s", "seeds=!!python/name:os.system ''")):
        done = command("train", *arguments, cwd=small)
        assert done.returncode == 2
        assert "could not determine a constructor for the tag" in said(done)[0]
    assert not (small / "made").exists()


@pytest.mark.parametrize("subcommand", ["train", "cache", "verify"])
def test_records_of_something_else_end_it_with_status_1_and_one_line(
    subcommand: str, fashion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = two_teachers(fashion, tmp_path)
    for teacher in prepare(experiment):
        identity = teacher.serving.recording.identity
        other = replace(identity, plan_seed=identity.plan_seed + 1)
        folder = tmp_path / "signals" / identity.key
        folder.mkdir(parents=True)
        (folder / "identity.json").write_text(other.to_json())
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(experiment.as_dict()))
    assert run.main([subcommand, str(tmp_path / "e.yaml")]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"error: .*/identity.json: not the identity .* plan_seed: 0, not 1.*\n", said
    )


@pytest.mark.parametrize("name", shipped_experiments())
def test_show_prints_yaml_that_is_the_experiment_again(name: str, tmp_path: Path) -> None:
    done = command("show", name, "-s", "seeds=[7]", cwd=tmp_path)
    assert done.returncode == 0
    assert said(done) == []
    assert not imported(done) & HEAVY
    (tmp_path / "shown.yaml").write_text(done.stdout)
    assert load_experiment(str(tmp_path / "shown.yaml")) == load_experiment(name, ["seeds=[7]"])


def test_the_file_finds_its_own_packages_from_any_folder(tmp_path: Path) -> None:
    house, elsewhere = tmp_path / "house", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(ROOT / "distill", house / "distill", ignore=shutil.ignore_patterns("*.npz"))
    text = (house / "distill" / "experiments" / "demo.yaml").read_text()
    text = text.replace("name: demo", "name: only_here")
    (house / "distill" / "experiments" / "only_here.yaml").write_text(text)
    done = command("show", "only_here", cwd=elsewhere, root=house)
    assert done.stdout.startswith("name: only_here\n")
    assert command("show", "only_here", cwd=elsewhere).returncode == 2


def test_processes_that_it_starts_find_the_packages_too(tmp_path: Path) -> None:
    code = (
        "import contextlib, runpy, subprocess, sys\n"
        "with contextlib.suppress(SystemExit):\n"
        "    runpy.run_path(sys.argv[1], run_name='__main__')\n"
        "sys.exit(subprocess.call([sys.executable, '-c', 'import distill.run, orchestrator']))"
    )
    file = str(ROOT / "distill" / "run.py")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    arguments = [sys.executable, "-c", code, file, "--version"]
    assert subprocess.run(arguments, cwd=tmp_path, env=clean, check=False).returncode == 0


def test_without_a_subcommand_the_demo_is_trained() -> None:
    parse = make_parser(run._HANDLERS).parse_args
    assert vars(parse([])) == vars(parse(["train", DEMO]))
    assert DEMO in shipped_experiments()


def test_wrong_usage_ends_with_status_2(tmp_path: Path) -> None:
    for arguments in (("trian", "demo"), ("train",), ("train", "demo", "--sett", "a=1")):
        done = command(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert "error: " in said(done)[-1]
    done = command("trian", cwd=tmp_path)
    assert "argument SUBCOMMAND: invalid choice: 'trian'" in said(done)[-1]
    done = command("compare", "none", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = said(done)
    assert line.startswith("error: compare: 'none' is no folder, experiment or YAML file; ")
    assert not imported(done) & HEAVY
