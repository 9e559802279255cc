"""Exported students: they answer as the network that was evaluated, and need none of our code."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import nn

from distill.blueprint import Blueprint
from distill.cards import FILES, Card
from distill.datasets import Data, load_data
from distill.export import answer, load_model, read_back, ready
from distill.learners import Compute
from distill.methods import method_names
from orchestrator.blueprints import blueprint_of
from orchestrator.run_student import build_learner
from orchestrator.runs import RunFolder
from orchestrator.students import StudentJob
from tests.export_helpers import (
    METHODS,
    export,
    forget_teachers,
    job_of,
    snippets,
    train,
)
from tests.method_bench import configured

ROOT = Path(__file__).resolve().parent.parent
# Whatever comes from us cannot be imported.
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("distill", "orchestrator", "search_spaces", "tests"):
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Refuse())
exec(sys.argv[1])
"""


@pytest.fixture(scope="module")
def jobs(fashion: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, StudentJob]:
    """A finished run of each kind of learner, whose teachers are not there any more."""
    trained: dict[str, StudentJob] = {}
    for name, changes in METHODS.items():
        folder = tmp_path_factory.mktemp(name)
        trained[name] = train(job_of(fashion, folder, changes))
        forget_teachers(folder)
    return trained


@pytest.fixture(scope="module")
def exports(
    jobs: dict[str, StudentJob], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Card]]:
    """Each run in all formats, exported from another place than the one that it was trained in."""
    made: dict[str, tuple[Path, Card]] = {}
    for name, job in jobs.items():
        folder = tmp_path_factory.mktemp(f"export-{name}")
        shutil.copytree(job.folder, folder / "run")
        _, card = export(folder / "run", folder / "out")
        made[name] = folder / "out", card
    return made


def data_of(job: StudentJob) -> Data:
    return load_data(job.experiment.data)


def evaluated(job: StudentJob, name: str = "last") -> nn.Module:
    """The network as training builds it, with its checkpoint's weights."""
    learner = build_learner(job, data_of(job), Compute(torch.device("cpu")))
    state = torch.load(RunFolder(job.folder).checkpoint(name), weights_only=True)
    learner.load_state_dict(state["learner"])
    return ready(learner.inference_model())


def images_of(job: StudentJob) -> tuple[np.ndarray, np.ndarray]:
    test = data_of(job).test
    return test.gather(np.arange(len(test)))


@pytest.mark.slow
@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("name", METHODS)
def test_a_file_answers_as_the_network_that_was_evaluated(
    name: str,
    form: str,
    jobs: dict[str, StudentJob],
    exports: dict[str, tuple[Path, Card]],
) -> None:
    images, labels = images_of(jobs[name])
    folder, card = exports[name]
    ask = read_back(folder / FILES[form], form=form)
    reference = answer(evaluated(jobs[name]), images)
    for part in (slice(0, 1), slice(1, 4), slice(0, len(images))):  # it takes any number
        np.testing.assert_allclose(ask(images[part]), reference[part], rtol=1e-4, atol=1e-4)
    hits = (ask(images).argmax(1) == labels).mean()
    result = RunFolder(jobs[name].folder).result()
    assert result is not None
    assert hits == pytest.approx(result["test_accuracy"])
    assert card.test_accuracy == result["test_accuracy"]
    assert card.files[form].largest_difference < 1e-4


@pytest.mark.parametrize("name", method_names())
def test_a_blueprint_builds_what_training_builds(name: str, fashion: Path, tmp_path: Path) -> None:
    source = {} if name == "atsc" else {"signals.source": "local"}
    settings = configured(name, num_teachers=2).model_dump(mode="json")
    job = job_of(fashion, tmp_path, {"method": settings} | source)
    learner = build_learner(job, data_of(job), Compute(torch.device("cpu")))
    made = blueprint_of(job, data_of(job), num_workers=1)
    (tmp_path / "model.json").write_text(made.model_dump_json())
    again = Blueprint.read(tmp_path / "model.json")
    assert again == made
    assert blueprint_of(job, data_of(job), num_workers=2).batch_size == made.batch_size // 2
    student, method = again.build()
    state = learner.state_dict()
    student.load_state_dict(state["student"])
    method.parts.load_state_dict(state["method"])
    images, _ = images_of(job)
    ours, theirs = (ready(m) for m in (method.inference_model(student), learner.inference_model()))
    np.testing.assert_array_equal(answer(ours, images[:8]), answer(theirs, images[:8]))


def test_the_best_weights_are_those_of_their_epoch(fashion: Path, tmp_path: Path) -> None:
    job = job_of(fashion, tmp_path, METHODS["kd"])
    run = RunFolder(job.folder)
    with pytest.raises(KeyboardInterrupt):
        train(job, until=1)
    early = run.checkpoint("last").read_bytes()
    train(job)
    run.checkpoint("best").write_bytes(early)
    plan, card = export(job.folder, None, ["safetensors"], weights="best")
    images, _ = images_of(job)
    logits = answer(load_model(plan.output), images)
    np.testing.assert_array_equal(logits, answer(evaluated(job, "best"), images))
    assert not np.array_equal(logits, answer(evaluated(job), images))
    metrics, result = run.metrics(), run.result()
    assert result is not None
    assert (card.epochs_trained, card.epochs_planned) == (1, 2)
    assert card.validation_accuracy == metrics["accuracy/validation"][0]
    assert card.test_accuracy == result["test_accuracy_best"]


# --- cards


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_card_tells_where_it_comes_from_and_what_it_costs(
    name: str, jobs: dict[str, StudentJob], exports: dict[str, tuple[Path, Card]]
) -> None:
    folder, _ = exports[name]
    card = json.loads((folder / "card.json").read_text())
    job, result = jobs[name], RunFolder(jobs[name].folder).result()
    assert result is not None
    assert card["method"] == job.method.model_dump(mode="json")
    assert (card["parameters"], card["parameters_added"]) == (
        result["parameters"],
        result["parameters_added"],
    )
    assert (card["parameters_added"] > 0) == (name in ("simkd", "atsc"))
    assert list(card["teachers"]) == ["a", "b"]
    student_ms = card["latency"]["student_ms"]
    for teacher in card["teachers"].values():
        assert teacher["test_accuracy"] == 0.5
        assert teacher["times_the_student"] == pytest.approx(teacher["latency_ms"] / student_ms)
    assert card["teachers"]["b"]["latency_ms"] > card["teachers"]["a"]["latency_ms"]
    assert card["interface"]["class_names"] == list(data_of(job).class_names)
    assert card["interface"]["input"]["mean"] == data_of(job).mean.tolist()
    for entry in card["files"].values():
        content = (folder / entry["file"]).read_bytes()
        assert entry["num_bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.slow
def test_the_card_says_in_words_what_its_facts_are(exports: dict[str, tuple[Path, Card]]) -> None:
    folder, card = exports["simkd"]
    text = (folder / "README.md").read_text()
    assert f"{100 * (card.test_accuracy or 0):.2f} %" in text
    assert f"{card.parameters:,}" in text
    assert f"{card.parameters_added:,} were added" in text
    for entry in card.files.values():
        assert f"{entry.num_bytes:,} bytes" in text
    for name, teacher in card.teachers.items():
        assert f"| {name} | `{teacher.arch}` | 50.00 % | {teacher.parameters:,} |" in text


@pytest.mark.slow
@pytest.mark.parametrize("form", FILES)
def test_the_cards_snippet_runs_without_our_code(
    form: str, exports: dict[str, tuple[Path, Card]]
) -> None:
    folder, _ = exports["simkd"]
    code = snippets((folder / "README.md").read_text())[FILES[form]]
    command = [sys.executable, "-I", "-c", ALONE, code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    ours = [sys.executable, "-I", "-c", ALONE, "import distill"]
    assert subprocess.run(ours, cwd=ROOT, capture_output=True, timeout=60).returncode == 1


@pytest.mark.slow
def test_every_file_knows_its_classes_and_no_path_of_this_machine(
    exports: dict[str, tuple[Path, Card]],
) -> None:
    folder, card = exports["simkd"]
    names = card.interface["class_names"]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    found = [session.get_modelmeta().custom_metadata_map["class_names"]]
    assert [(x.name, x.shape[0]) for x in session.get_inputs()] == [("images", "batch")]
    assert [(x.name, x.shape[0]) for x in session.get_outputs()] == [("logits", "batch")]
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        found.append(file.metadata()["class_names"])
    notes = {"class_names": ""}
    torch.export.load(folder / "model.pt2", extra_files=notes)
    found.append(notes["class_names"])
    assert [json.loads(text) for text in found] == [names] * 3
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        contents = [archive.read(entry) for entry in archive.namelist()]
    contents += [path.read_bytes() for path in folder.iterdir()]
    for place in (str(ROOT), sys.prefix, str(Path(torch.__file__).parent), "/tmp/"):
        assert not any(place.encode() in content for content in contents), place
