"""Records made ahead of time, verified, listed and removed, through the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from distill.config import Experiment
from distill.run import main
from orchestrator.inventory import list_recordings
from orchestrator.locks import FolderLock
from orchestrator.parts import read_part
from orchestrator.recording import Recording
from orchestrator.retention import Demand, Retention
from orchestrator.store import Column, PartId
from orchestrator.teachers import input_plan
from orchestrator.verification import columns_of, recorded_parts, sample_inputs
from tests.helpers import files_below, prepare, record_here, tiny, two_teachers, write_noise
from tests.test_store import flip

NUM_TRAIN = 5000  # 4,500 are not held out: two parts a pass


@pytest.fixture(scope="module")
def noise(cache: Path) -> Path:
    return write_noise(cache / "maintenance.npz", num_train=NUM_TRAIN)


@pytest.fixture
def experiment(noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.chdir(tmp_path)
    found = two_teachers(noise, tmp_path)
    Path("exp.yaml").write_text(yaml.safe_dump(found.as_dict()))
    return found


@pytest.fixture
def recordings(experiment: Experiment) -> dict[str, Recording]:
    """Both teachers' records, whole, by the teacher's name."""
    servings = [teacher.serving for teacher in prepare(experiment)]
    for serving in servings:
        record_here(serving, input_plan(experiment), range(3))
    return {serving.recording.teacher: serving.recording for serving in servings}


def with_root(experiment: Experiment, root: str) -> Experiment:
    signals = experiment.signals.model_copy(update={"root": root})
    return experiment.model_copy(update={"signals": signals})


def logits(recording: Recording) -> Column:
    (column,) = columns_of(recording).values()
    return column


@pytest.mark.ray
@pytest.mark.slow
def test_cache_records_what_train_would_read_and_a_second_time_nothing(experiment, capsys):
    assert main(["cache", "exp.yaml"]) == 0
    assert "signals: 12 parts recorded, 0 kept; " in capsys.readouterr().out
    root = Path(experiment.signals.root)
    recorded = files_below(root, "*.arrow")
    assert main(["cache", "exp.yaml"]) == 0
    out = capsys.readouterr().out
    num_bytes = sum(map(len, recorded.values()))
    assert out == f"signals: 0 parts recorded, 12 kept; {num_bytes:,} bytes in {root}\n"
    assert files_below(root, "*.arrow") == recorded
    for teacher in prepare(with_root(experiment, "here")):
        record_here(teacher.serving, input_plan(experiment), range(3))
    assert files_below(Path("here"), "*.arrow") == recorded


@pytest.mark.ray
@pytest.mark.slow
def test_cache_trains_automatic_teachers_first(noise, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    training = {"schedule": {"epochs": 1, "batch_size": 512}}
    changes = {
        "teachers": [{"arch": "cnn_xs", "training": training}],
        "method": "kd",
        "data.cache_dir": str(tmp_path / "cache"),
        "schedule.epochs": 1,
    }
    Path("exp.yaml").write_text(yaml.safe_dump(tiny(noise, changes).as_dict()))
    assert main(["verify", "exp.yaml"]) == 2
    assert "'cnn_xs' not trained yet" in capsys.readouterr().err
    assert main(["cache", "exp.yaml"]) == 0
    assert list((tmp_path / "cache" / "teachers").glob("cnn_xs-*.safetensors"))
    assert main(["verify", "exp.yaml"]) == 0


def test_whole_records_verify_with_the_errors_that_recording_measured(recordings, capsys):
    assert main(["verify", "exp.yaml", "--samples", "50"]) == 0
    out = capsys.readouterr().out
    assert "well: 12 parts as written" in out
    assert out.count(" agrees") == len(recordings)
    for column in map(logits, recordings.values()):
        parts = [read_part(column.part_path(part)) for part in recorded_parts(column)]
        assert f" {max(part.metadata.error for part in parts):.1e} " in out


@pytest.mark.parametrize(("place", "reason"), [(5000, "its checksum is"), (None, "not a whole")])
def test_damage_is_named_set_aside_and_recorded_anew(experiment, recordings, capsys, place, reason):
    part = logits(recordings["a"]).part_path(PartId(1, 0))
    whole = files_below(Path(experiment.signals.root), "*.arrow")
    if place is None:
        part.write_bytes(part.read_bytes()[:-1])
    else:
        flip(part, place)
    assert main(["verify", "exp.yaml", "--samples", "9"]) == 1
    out = capsys.readouterr().out
    assert f"{part}: damaged, moved aside as {part.name}.damaged-" in out
    assert reason in out
    assert not part.exists()
    servings = {teacher.name: teacher.serving for teacher in prepare(experiment)}
    assert record_here(servings["a"], input_plan(experiment), range(3)) == 1
    assert files_below(Path(experiment.signals.root), "*.arrow") == whole
    assert main(["verify", "exp.yaml", "--samples", "9"]) == 0


def test_records_that_are_not_the_teachers_answers_are_found(recordings, capsys):
    column = logits(recordings["b"])
    rows = column.open_pass(2)[4096:].copy()
    column.write(PartId(2, 1), np.roll(rows, 1, axis=0), error=4.9e-4)
    assert main(["verify", "exp.yaml"]) == 1
    out = capsys.readouterr().out
    assert f"{column.part_path(PartId(2, 1))}: damaged, moved aside" in out
    assert "teacher 'b' answers otherwise now" in out
    assert (out.count("DIFFERS"), out.count(" agrees")) == (1, 1)


def test_a_part_with_another_error_than_it_says_is_found(recordings, capsys):
    column = logits(recordings["b"])
    values = column.codec.decode(column.open_pass(0)).astype(np.float32)[4096:]
    largest = np.abs(values).max(axis=1, keepdims=True)
    column.write(PartId(0, 1), column.codec.encode(values + 0.02 * largest), error=4.9e-4)
    assert main(["verify", "exp.yaml"]) == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_every_codec_keeps_its_promise(noise, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for codec in ("float32", "int8", "top2-drop", "top2-uniform", "top2-residual"):
        experiment = two_teachers(noise, tmp_path, {"signals.codec": codec})
        Path("exp.yaml").write_text(yaml.safe_dump(experiment.as_dict()))
        for teacher in prepare(experiment):
            record_here(teacher.serving, input_plan(experiment), [0])
        assert main(["verify", "exp.yaml", "--samples", "20"]) == 0
        assert capsys.readouterr().out.count(" agrees") == 2


def test_verify_with_nothing_recorded_says_so_and_makes_nothing(experiment, capsys):
    assert main(["verify", "exp.yaml"]) == 1
    assert "nothing of this experiment is recorded; `cache` records it" in capsys.readouterr().out
    assert not Path(experiment.signals.root).exists()


def test_a_folder_of_another_identity_is_refused_with_what_differs(recordings, capsys):
    ours, other = (recordings[name].store for name in "ab")
    (ours.path / "identity.json").write_text((other.path / "identity.json").read_text())
    assert main(["verify", "exp.yaml"]) == 1
    assert 'architecture: "cnn_xs", not "resnet8"' in capsys.readouterr().err


def test_verify_leaves_a_store_that_is_being_recorded_alone(recordings, capsys):
    with FolderLock(recordings["a"].store.path):
        assert main(["verify", "exp.yaml"]) == 1
    assert "is recording here; wait until it has ended" in capsys.readouterr().err


def test_samples_are_spread_over_all_that_is_recorded(recordings):
    column = logits(recordings["a"])
    column.part_path(PartId(1, 0)).unlink()
    sample = sample_inputs([column], num_samples=100)
    assert list(sample) == recorded_parts(column)
    shares = {part: len(offsets) for part, offsets in sample.items()}
    total = 3 * 4500 - 4096
    for part, share in shares.items():
        size = 4096 if part.part_index == 0 else 404
        assert abs(share - 100 * size / total) <= 1
        assert (sample[part] < size).all()
    assert sum(shares.values()) == 100
    assert sum(map(len, sample_inputs([column], num_samples=10**6).values())) == total


def test_recordings_are_listed_with_all_that_names_them(
    experiment, recordings, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["cache", "--list", "--root", experiment.signals.root]) == 0
    out = capsys.readouterr().out
    for recording, arch in ((recordings["a"], "cnn_xs"), (recordings["b"], "resnet8")):
        assert f"{recording.key[:10]}  {arch}" in out
    assert out.count("logits float16") == out.count("3: 0-2") == 2
    total = sum(summary.num_bytes for summary in list_recordings(Path(experiment.signals.root)))
    assert f"{total:,} bytes in 2 recordings" in " ".join(out.split())


def test_a_listing_needs_neither_torch_nor_ray():
    code = (
        "import sys; from distill.run import main; main(['cache', '--list']);"
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True)


def test_the_default_root_is_the_one_that_experiments_use(experiment, monkeypatch, capsys):
    monkeypatch.setenv("TUTELAGE_CACHE", "elsewhere")
    serving = prepare(with_root(experiment, ""))[0].serving
    record_here(serving, input_plan(experiment), [0])
    assert main(["cache", "--list"]) == 0
    assert serving.recording.key[:10] in capsys.readouterr().out


def test_a_keys_beginning_removes_that_recording_alone(experiment, recordings, capsys):
    ours, other = recordings["a"], recordings["b"]
    (parts,) = (column.bytes_on_disk() for column in columns_of(ours).values())
    assert main(["cache", "--remove", ours.key[:6], "--root", experiment.signals.root]) == 0
    removed, freed = capsys.readouterr().out.split(": removed, ")
    assert removed == ours.key
    assert parts <= int(freed.removesuffix(" bytes freed\n").replace(",", "")) < parts + 4096
    assert not ours.store.path.exists()
    assert logits(other).is_complete(2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abc", "a key's beginning has at least 4 digits"),
        ("../../x", "no recording '../../x'"),
        ("zzzzzzzzzzzzzzzzzzzz", "there are: "),
    ],
)
def test_a_key_that_is_none_removes_nothing(experiment, recordings, capsys, text, message):
    root = experiment.signals.root
    before = files_below(Path(root), "*")
    assert main(["cache", "--remove", recordings["a"].key, text, "--root", root]) == 2
    assert message in capsys.readouterr().err
    assert files_below(Path(root), "*") == before


def test_a_mistyped_key_is_answered_with_the_likely_one(experiment, recordings, capsys):
    key = recordings["a"].key
    assert main(["cache", "--remove", f"{key[:-1]}x", "--root", experiment.signals.root]) == 2
    assert f"did you mean {key}?" in capsys.readouterr().err


def test_records_that_are_written_or_read_are_not_removed(experiment, recordings, capsys):
    recording, root = recordings["a"], experiment.signals.root
    command = ["cache", "--remove", recording.key, "--root", root]
    with FolderLock(recording.store.path):
        assert main(command) == 1
    assert "is recording here" in capsys.readouterr().err
    retention = Retention([recording], Demand({"run": 0}, num_epochs=3, num_passes=3))
    retention.register()
    assert main(command) == 1
    assert "a process reads its records here" in capsys.readouterr().err
    assert logits(recording).is_complete(2)
    retention.release()
    assert main(command) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cache"], "give either an EXPERIMENT, or --list, or --remove KEY"),
        (["cache", "exp.yaml", "--list"], "give either an EXPERIMENT"),
        (["cache", "exp.yaml", "--root", "x"], "set -s signals.root=FOLDER"),
        (["verify", "exp.yaml", "--samples", "0"], "--samples: 0 is not a number of inputs"),
        (["cache", "exp.yaml", "-s", "signals.source=local"], "'local' reads no records"),
        (["verify", "exp.yaml", "-s", "method=ce"], "no method of the experiment needs a teacher"),
    ],
)
@pytest.mark.usefixtures("experiment")
def test_a_mistake_is_named_with_its_cure(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
