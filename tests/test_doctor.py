"""The doctor names what is missing and the command that mends it, and leaves nothing behind."""

from __future__ import annotations

import io
import socket
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path

import pytest
import torch

from distill.loading import load_experiment
from distill.run import main
from orchestrator import doctor, installation, machine_checks
from orchestrator.findings import Finding, missing, note, well


def requiring(monkeypatch: pytest.MonkeyPatch, *requirements: str) -> list[Finding]:
    """What is found if the package declared these requirements."""
    monkeypatch.setattr(metadata, "requires", lambda _: list(requirements))
    return list(installation.packages())


def of(findings: list[Finding], state: str) -> list[Finding]:
    return [finding for finding in findings if finding.state == state]


def test_what_this_project_declares_is_installed_where_its_tests_run() -> None:
    assert not of(list(installation.packages()), "missing")


@pytest.mark.parametrize(
    ("requirement", "text", "mend"),
    [
        ("numpy<1", "numpy is ", "pip install 'numpy<1'"),
        ("no-such-package>=2", "no-such-package is not installed", "'no-such-package>=2'"),
        ('no-such-package; python_version < "3"', None, None),
    ],
)
def test_a_requirement_that_is_not_met_is_missing(
    monkeypatch: pytest.MonkeyPatch, requirement: str, text: str | None, mend: str | None
) -> None:
    found = of(requiring(monkeypatch, requirement), "missing")
    assert len(found) == (text is not None)
    if text and mend:
        assert text in found[0].text
        assert mend in found[0].mend


def test_what_is_optional_is_only_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = requiring(monkeypatch, "numpy", 'no-such-package>=1; extra == "s3"')
    assert not of(found, "missing")
    (noted,) = of(found, "note")
    assert "s3:// URLs cannot be used: no-such-package is not installed" in noted.text
    assert noted.mend == "pip install 'tutelage[s3]'"


def test_running_from_source_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "PACKAGE", "no-such-package")
    (found,) = installation.packages()
    assert found.state == "missing"
    assert "pip install -e" in found.mend


def test_another_python_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation.platform, "python_version", lambda: "3.9.1")
    (found,) = of(list(installation.packages()), "missing")
    assert "Python 3.9.1" in found.text
    assert ">=3.11" in found.text


def test_trying_a_folder_out_leaves_nothing_behind(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    paths = {"runs": there, "signals": tmp_path / "not" / "yet" / "there"}
    assert [finding.state for finding in machine_checks.folders(paths)] == ["well", "well"]
    assert list(tmp_path.rglob("*")) == [there]


def test_a_folder_that_cannot_be_made_names_the_field(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (found,) = machine_checks.folders({"signals": tmp_path / "file" / "below"})
    assert found.state == "missing"
    assert f"{tmp_path}/file/below cannot be written" in found.text
    assert "signals.root=" in found.mend


def test_a_full_disk_and_one_without_locks_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine_checks, "LITTLE_BYTES", float("inf"))
    (found,) = machine_checks.folders({"runs": tmp_path})
    assert found.state == "note"
    assert "cache --remove" in found.mend or "--remove" in found.mend

    def refuse(*_: object) -> None:
        raise OSError(machine_checks.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(machine_checks.fcntl, "flock", refuse)
    (found,) = machine_checks.folders({"runs": tmp_path})
    assert found.state == "missing"
    assert "knows no locks" in found.text
    assert not list(tmp_path.iterdir())


def test_a_temporary_folder_too_deep_for_sockets_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine_checks.tempfile, "gettempdir", lambda: str(tmp_path / ("x" * 30)))
    (found,) = machine_checks.temporary_folder()
    assert found.state == "missing"
    assert found.mend == "export TMPDIR=/tmp"


def test_a_taken_port_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        monkeypatch.setattr(machine_checks, "_HEAD_PORTS", {port: "the dashboard"})
        (found,) = machine_checks.ports()
        assert found.state == "note"
        assert f"port {port} is taken: the dashboard" in found.text
    (found,) = machine_checks.ports()
    assert found.state == "well"


def test_fewer_processors_than_ray_counts_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks.os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(machine_checks.os, "cpu_count", lambda: 64)
    found = next(machine_checks.devices())
    assert found.state == "note"
    assert "may use 1 CPUs, and Ray counts 64" in found.text


def test_a_gpu_that_pytorch_cannot_use_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine_checks, "has_gpu", lambda: True)
    *_, found = machine_checks.devices()
    assert found.state == "missing"
    assert f"shows a GPU, and PyTorch {torch.__version__} cannot use it" in found.text
    assert "https://pytorch.org/get-started" in found.mend
    monkeypatch.setattr(machine_checks, "has_gpu", lambda: False)
    *_, found = machine_checks.devices()
    assert found.state == "well"
    assert "no GPU" in found.text


def test_little_shared_memory_is_noted_with_the_size_that_ray_would_take(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine_checks, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(machine_checks, "memory_bytes", lambda: 10**18)
    (found,) = machine_checks.object_store()
    assert found.state == "note"
    assert f"free in {tmp_path}, and Ray takes 300000000.0 GB" in found.text
    assert found.mend.startswith(f"mount -o remount,size=300000000G {tmp_path}")
    assert found.mend.endswith("--shm-size=300000000g")
    monkeypatch.setattr(machine_checks, "memory_bytes", lambda: 1)
    (found,) = machine_checks.object_store()
    assert found.state == "well"
    monkeypatch.setattr(machine_checks, "_SHARED_MEMORY", tmp_path / "none")
    assert list(machine_checks.object_store()) == []


def test_a_state_api_that_does_not_answer_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a Ray of its own: the test below starts one, and can join none."""
    import ray

    monkeypatch.setattr("orchestrator.session.ray_session", lambda **_: nullcontext())
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(ray, "nodes", list)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", address)
        started, found = doctor._ray()
    assert started.state == "well"
    assert found.state == "missing"
    assert f"State API, which does not answer (Failed to make request to {address}/" in found.text
    assert "--include-dashboard=true, or set workers.count=1" in found.text


def test_a_note_is_no_fault_and_what_is_missing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = ("packages", "devices", "ports", "_ray", "_storage", "_experiment")
    for room in rooms:
        monkeypatch.setattr(doctor, room, lambda *_: iter([well("a"), note("b", "do b")]))
    output = io.StringIO()
    assert doctor.examine(load_experiment("demo"), output)
    assert "note     b\n           → do b\n" in output.getvalue()
    monkeypatch.setattr(doctor, "ports", lambda: iter([missing("c")]))
    assert not doctor.examine(load_experiment("demo"), output)
    assert "MISSING  c" in output.getvalue()


def test_an_experiment_that_does_not_fit_is_answered_as_train_would() -> None:
    experiment = load_experiment("demo", ["workers={count: 1, gpus: 1}"])
    found = list(doctor._experiment(experiment))
    assert any("workers.gpus: 1 asked for" in finding.text for finding in found)
    assert all(finding.state == "missing" for finding in found)


@pytest.mark.parametrize(
    ("root", "text"),
    [("nosuch://bucket/x", "fsspec knows no 'nosuch://'"), ("memory://bucket/x", "can be written")],
)
def test_a_url_is_tried_out(root: str, text: str) -> None:
    assert text in doctor._url(root).text


@pytest.mark.slow
def test_the_command_starts_ray_and_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    assert main(["doctor", "-s", f"output.root={tmp_path}/runs"]) == 0
    shown = capsys.readouterr().out
    assert "started here in" in shown
    assert "the State API answers" in shown
    assert "`train` would begin" in shown
    assert "MISSING" not in shown
    assert not (tmp_path / "runs").exists()

    monkeypatch.setattr(doctor, "_ray", lambda: iter(()))  # once is enough
    (tmp_path / "file").write_text("")
    assert main(["doctor", "-s", f"output.root={tmp_path}/file/runs"]) == 1
    assert "MISSING  runs: " in capsys.readouterr().out
