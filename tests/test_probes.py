"""Probes of teachers' stages: what they measure, what a table chooses, and who may read it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from distill.config import Experiment
from distill.datasets import load_data
from distill.loading import load_experiment
from distill.models.base import Normalized
from distill.probes import ProbeTable, probe_accuracy
from distill.run import main
from orchestrator.consumers import LocalConsumers
from orchestrator.probe_tables import probing_experiment, teacher_digest
from orchestrator.runs import find_runs
from orchestrator.teachers import Teacher, input_plan
from tests.data_files import write_arrays
from tests.helpers import files_below, prepare, two_teachers, write_teacher
from tests.method_bench import Bench, configured

ROWS = {
    "a": {"stage1": 0.1, "stage2": 0.9, "stage3": 0.5},
    "b.1": {"stage2": 0.2, "stage3": 0.3, "stage4": 0.6},
    "c": {"stage1": 0.3, "stage2": 0.4, "stage3": 0.6},
}


def table_of(rows: dict[str, dict[str, float]], **changes: Any) -> ProbeTable:
    given = {"accuracy": rows, "teachers": dict.fromkeys(rows, "digest"), "split": "split"}
    return ProbeTable.model_validate(given | changes)


def test_gpac_takes_the_teacher_whose_probe_is_best(tmp_path: Path) -> None:
    (tmp_path / "probes.json").write_text(table_of(ROWS).to_json())
    bench, by_probe = Bench.standard(), {"probes": str(tmp_path / "probes.json")}
    chosen = bench.loss(configured("gpac", assignment="s1:t2,s2:t0,s3:t1"))
    torch.testing.assert_close(bench.loss(configured("gpac", **by_probe)).total, chosen.total)


def test_a_probe_tells_what_is_there_from_what_is_not() -> None:
    labels = torch.arange(600) % 3
    noise = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    informed = noise + 4 * F.one_hot(labels, 8)
    assert probe_accuracy(informed, labels, num_classes=3) > 0.95
    assert probe_accuracy(noise, labels, num_classes=3) < 0.5


def test_a_probe_is_measured_on_samples_that_did_not_train_it() -> None:
    """More dimensions than samples: whatever the labels, those it trains on are told apart."""
    labels = torch.arange(100) % 2
    noise = torch.randn(100, 400, generator=torch.Generator().manual_seed(0))
    assert probe_accuracy(noise, labels, num_classes=2) < 0.9


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = table_of(ROWS)
    (tmp_path / "t.json").write_text(table.to_json())
    assert ProbeTable.read(tmp_path / "t.json") == table


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "file: Invalid JSON"),
        ("{}", "accuracy: Field required"),
        (json.dumps({"a": {"stage1": 0.5}}), "accuracy: Field required"),
        (
            json.dumps({"accuracy": {"a": {"s": 1.5}}, "teachers": {}, "split": ""}),
            r"accuracy\.a\.s: Input should be less than or equal to 1",
        ),
    ],
)
def test_what_is_no_table_is_refused_with_the_command_that_makes_one(
    text: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "t.json").write_text(text)
    wrong = rf"probes: '.*t\.json' holds no probe table \({says}.*`tutelage probe EXPERIMENT`"
    with pytest.raises(ValueError, match=wrong):
        ProbeTable.read(tmp_path / "t.json")


def test_a_teacher_is_known_by_weights_and_normalization_and_by_no_view(
    fashion: Path, tmp_path: Path
) -> None:
    experiment = two_teachers(fashion, tmp_path)
    ours, other = (t.serving.recording.identity for t in prepare(experiment))
    same = replace(ours, views={"kind": "other"}, plan_seed=7, part_size=8192)
    assert teacher_digest(same) == teacher_digest(ours) != teacher_digest(other)
    for change in ({"weights_sha256": other.weights_sha256}, {"mean": (0.1,)}, {"std": (0.1,)}):
        assert teacher_digest(replace(ours, **change)) != teacher_digest(ours)


@pytest.fixture
def experiment(fashion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """GPAC by a table that is not there yet."""
    monkeypatch.chdir(tmp_path)
    method = {"name": "gpac", "probes": "tables/mine.json"}
    found = two_teachers(fashion, tmp_path, {"method": method, "schedule.epochs": 1})
    Path("exp.yaml").write_text(yaml.safe_dump(found.as_dict()))
    return found


def pooled(experiment: Experiment, name: str, tap: str) -> torch.Tensor:
    """Means over positions of one teacher's stage, of all training images as they are."""
    recipe = {t.name: t.serving.recipe for t in prepare(probing_experiment(experiment))}[name]
    network: Normalized = recipe.build()
    split = load_data(experiment.data).train
    images = torch.from_numpy(split.gather(np.arange(len(split)))[0])
    with torch.no_grad():
        return network(images).features[tap].mean((2, 3))


class Watch(io.StringIO):
    """Where a command shows what it does; looks then whether its records are declared as read."""

    def __init__(self) -> None:
        super().__init__()
        self.declared: list[bool] = []

    def write(self, text: str) -> int:
        if text.startswith("probing"):
            folders = [file.parent for file in Path("signals").glob("*/identity.json")]
            self.declared.append(all(LocalConsumers(folder).is_anybody() for folder in folders))
        return super().write(text)


@pytest.mark.ray
@pytest.mark.slow
def test_probe_then_train(experiment: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "exp.yaml"]) == 2
    missing = "method: 'gpac': probes: no file 'tables/mine.json'; run `tutelage probe EXPERIMENT`"
    assert missing in capsys.readouterr().err

    assert main(["probe", "exp.yaml"]) == 0
    table = ProbeTable.read(Path("tables/mine.json"))
    labels = torch.from_numpy(load_data(experiment.data).train.labels)
    for name, row in table.accuracy.items():
        assert list(row) == ["stage1", "stage2", "stage3"]
        for tap, accuracy in row.items():
            features = pooled(experiment, name, tap).half().float()  # as the store keeps them
            expected = probe_accuracy(features, labels, num_classes=10)
            assert accuracy == pytest.approx(expected, abs=1.5 / 36)  # a sample may fall over
    best = [
        max((0, 1), key=lambda i: list(table.accuracy.values())[i][f"stage{s}"]) for s in (1, 2, 3)
    ]
    shown = capsys.readouterr().out
    assert ", ".join(f"s{s} from {'ab'[i]}" for s, i in zip((1, 2, 3), best, strict=True)) in shown
    assert "-s method.probes=tables/mine.json" in shown
    assert Path("tables/mine.png").read_bytes()[1:4] == b"PNG"
    assert list(Path("runs/tiny/probes").glob("events.*"))

    recorded, made = files_below(Path("signals"), "*.arrow"), Path("tables/mine.json").read_text()
    assert sorted({Path(path).parts[1] for path in recorded}) == [
        f"stage{stage}@gap.float16" for stage in (1, 2, 3)
    ]
    watch = Watch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", watch)
        assert main(["probe", "exp.yaml", "--output", "again.json"]) == 0
    assert "nothing to record" in watch.getvalue()
    assert set(watch.declared) == {True}  # at every line that says how far probing is
    assert files_below(Path("signals"), "*.arrow") == recorded
    assert Path("again.json").read_text() == made

    assert main(["train", "exp.yaml"]) == 0
    (run,) = find_runs(Path("runs"))
    assert run.finished
    assert (run.path / "probes.json").read_text() == made
    assignment = ",".join(f"s{s}:t{i}" for s, i in zip((1, 2, 3), best, strict=True))
    Path("tables/mine.json").unlink()  # what was chosen is in the run's own configuration
    method = load_experiment(str(run.path / "config.yaml")).method
    assert method == configured("gpac", assignment=assignment)


def made_of(experiment: Experiment, **changes: Any) -> None:
    """A table that fits the experiment, but for ``changes``."""
    identities = {
        t.name: t.serving.recording.identity for t in prepare(probing_experiment(experiment))
    }
    row = {"stage1": 0.2, "stage2": 0.3, "stage3": 0.4}
    table = table_of(
        dict.fromkeys(identities, row),
        teachers={name: teacher_digest(of) for name, of in identities.items()},
        split=load_data(experiment.data).train.fingerprint,
    )
    file = Path("tables/mine.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(table.model_copy(update=changes).to_json())


def test_a_table_of_other_weights_or_other_data_is_refused(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    made_of(experiment)
    prepare(experiment)  # as it is, the table is taken
    assert main(["train", "exp.yaml", "-s", "data.validation=0.2"]) == 2
    assert "probes: the table was made of other training samples" in capsys.readouterr().err
    assert main(["train", "exp.yaml", "-s", "teachers[1].normalization=null"]) == 2
    assert "made of another teacher 'b' (its network, weights" in capsys.readouterr().err
    write_teacher(Path("a.safetensors"), experiment, "cnn_xs", seed=9)
    assert main(["train", "exp.yaml"]) == 2
    error = capsys.readouterr().err
    assert "method 'gpac': probes: the table was made of another teacher 'a'" in error
    assert "`tutelage probe EXPERIMENT`" in error
    assert main(["train", "exp.yaml", "-s", "teachers[0].name=z"]) == 2
    assert "the table has no entry for 'stage1' of teacher 'z'" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["assignment=s1:t0,s2:t1,s3:t0", "attention_weight=0"])
def test_a_table_that_nothing_reads_is_not_looked_for(experiment: Experiment, setting: str) -> None:
    found = load_experiment("exp.yaml", [f"method.{setting}"])
    assert len(prepare(found)) == len(experiment.teachers)


@pytest.mark.ray
@pytest.mark.slow
def test_probe_trains_automatic_teachers_under_their_own_views_first(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = {"arch": "cnn_xs", "training": {"schedule": {"epochs": 1, "batch_size": 64}}}
    changes = {
        "teachers": [teacher],
        "data": experiment.as_dict()["data"] | {"cache_dir": str(tmp_path / "c")},
    }
    Path("auto.yaml").write_text(yaml.safe_dump(experiment.as_dict() | changes))
    assert main(["probe", "auto.yaml"]) == 0
    assert "teachers to train first: cnn_xs" in capsys.readouterr().err
    assert main(["train", "auto.yaml"]) == 0
    assert "teachers to train first" not in capsys.readouterr().err


def test_a_handful_of_samples_is_refused(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = np.zeros((8, 6, 6), np.uint8), np.arange(8)
    names = np.array([str(label) for label in range(10)])
    arrays = {"train_images": images, "train_labels": labels, "class_names": names}
    changes = {"file": str(write_arrays(tmp_path / "few.npz", **arrays)), "validation": 0}
    few = experiment.as_dict() | {"data": experiment.as_dict()["data"] | changes}
    Path("few.yaml").write_text(yaml.safe_dump(few))
    assert main(["probe", "few.yaml", "-s", "schedule.batch_size=4"]) == 2
    assert "data: 8 training samples are too few to probe" in capsys.readouterr().err


def test_records_are_of_the_training_images_as_they_are(experiment: Experiment) -> None:
    asked = probing_experiment(experiment)
    teacher = Teacher(prepare(asked)[0].serving.recipe, input_plan(asked))
    samples = np.arange(5)
    views = np.zeros(5, np.int64)
    split = load_data(experiment.data).train
    assert asked.num_passes == 1
    np.testing.assert_array_equal(teacher.images(samples, views), split.gather(samples)[0])
