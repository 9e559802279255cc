"""``tutelage export``: a run's evaluated network as files, in a folder that is whole or absent."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from distill import __version__
from distill.cards import CARD_FILE, FACTS_FILE, Card, FileCard, Latency, TeacherCard, markdown
from distill.config import Network
from distill.export import (
    ExportError,
    Logits,
    answer,
    count_parameters,
    described,
    fresh_learner,
    largest_difference,
    latencies_ms,
    ready,
    write,
)
from orchestrator.export_plan import Export
from orchestrator.run_checkpoints import restore
from orchestrator.runs import RunFolder

NUM_COMPARED = 128  # test images that a file is compared with the network on
NUM_TIMED = 50  # forward passes of one image


def export_run(export: Export) -> Card:
    """Write the files and their card: all, or none.

    Raises StudentError for a damaged checkpoint, ExportError for a network that cannot be built,
    and for a file that cannot be made or that disagrees with the network, OSError.
    """
    with _building("the student"):
        learner = fresh_learner(export.blueprint, export.experiment.optimizer)
    checkpoint = export.run.checkpoint(export.weights)
    progress = restore(checkpoint, learner, device=torch.device("cpu"))
    model, num_own = ready(learner.inference_model()), count_parameters(learner.student)
    test = export.data.test
    images, _ = test.gather(np.arange(min(NUM_COMPARED, len(test))))
    reference = answer(model, images)
    output = export.output.absolute()  # '.' has no name
    draft = output.with_name(f".{output.name}.{os.getpid()}.draft")
    draft.mkdir(parents=True)
    try:
        files = {
            form: _write_file(export, model, draft, form, images=images, reference=reference)
            for form in export.formats
        }
        num_epochs = int(progress["start_epoch"])
        card = _card(export, model, files, num_own=num_own, num_epochs=num_epochs)
        (draft / FACTS_FILE).write_text(card.as_json(), encoding="utf-8")
        (draft / CARD_FILE).write_text(markdown(card), encoding="utf-8")
        for path in draft.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        draft.rename(output)  # onto an empty folder or none: a full one is an error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return card


@contextmanager
def _building(what: str) -> Generator[None]:
    """A network of somebody's own may have changed since it was trained."""
    try:
        yield
    except ValueError as error:
        raise ExportError(f"{what} cannot be built: {error}") from error


def _write_file(
    export: Export,
    model: Logits,
    folder: Path,
    form: str,
    *,
    images: np.ndarray,
    reference: np.ndarray,
) -> FileCard:
    path = write(model, export.blueprint, folder, form=form)
    difference = largest_difference(path, reference, images, form=form)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileCard(path.name, path.stat().st_size, digest, difference, len(images))


def _card(
    export: Export,
    model: Logits,
    files: Mapping[str, FileCard],
    *,
    num_own: int,
    num_epochs: int,
) -> Card:
    experiment, blueprint, data = export.experiment, export.blueprint, export.data
    whole, result = experiment.as_dict(), export.run.result() or {}
    latency, teachers = _timed(export, model)
    tested = {"last": "test_accuracy", "best": "test_accuracy_best"}[export.weights]
    parameters = count_parameters(model)
    own = experiment.data.model_dump(mode="json", include={"name", "validation", "split_seed"})
    sizes = {"num_train": len(data.train), "num_test": len(data.test)}
    return Card(
        experiment=experiment.name,
        seed=experiment.seeds[0],
        weights=export.weights,
        epochs_trained=num_epochs,
        epochs_planned=experiment.schedule.epochs,
        tutelage=__version__,
        student=whole["student"],
        method=blueprint.method.model_dump(mode="json"),
        training={name: whole[name] for name in ("optimizer", "schedule", "views")},
        data=own | sizes,
        test_accuracy=result.get(tested),
        validation_accuracy=_validation_accuracy(export.run, epoch=num_epochs - 1),
        parameters=parameters,
        parameters_added=parameters - num_own,
        latency=latency,
        teachers=teachers,
        interface=described(blueprint),
        files=files,
    )


def _timed(export: Export, model: Logits) -> tuple[Latency, dict[str, TeacherCard]]:
    """The student's latency, and its teachers' beside it: of networks with weights of no meaning.

    Weights change no time, and the teachers' own need not be on this machine.
    """
    blueprint = export.blueprint
    networks = {"": model}
    for name, teacher in blueprint.teachers.items():
        network = Network(arch=teacher.network.arch, options=teacher.network.options)
        with _building(f"teacher '{name}', whose time the card says,"):
            networks[name] = ready(blueprint.normalized(network))
    image, _ = export.data.test.gather(np.arange(1))
    times = latencies_ms(networks, image, num_passes=NUM_TIMED)
    measured = (export.run.result() or {}).get("teachers", {})
    teachers = {
        name: TeacherCard(
            arch=teacher.network.arch,
            test_accuracy=measured.get(name, {}).get("accuracy"),
            parameters=count_parameters(networks[name]),
            latency_ms=times[name],
            times_the_student=times[name] / times[""],
        )
        for name, teacher in blueprint.teachers.items()
    }
    return Latency(
        times[""], NUM_TIMED, 1, 1, _processor(), torch.__version__.partition("+")[0]
    ), teachers


def _validation_accuracy(run: RunFolder, *, epoch: int) -> float | None:
    table = run.metrics()
    if "accuracy/validation" not in table:
        return None
    found = table.loc[table["epoch"] == epoch, "accuracy/validation"].dropna()
    return float(found.iloc[0]) if len(found) else None


def _processor() -> str:
    described = Path("/proc/cpuinfo")  # of Linux; there platform knows the architecture alone
    lines = described.read_text().splitlines() if described.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def report(export: Export, card: Card) -> None:
    """Print what was written, and what it is worth."""
    for entry in card.files.values():
        print(
            f"{entry.file}: {entry.num_bytes:,} bytes; its logits are within "
            f"{entry.largest_difference:.1e} of PyTorch's on {entry.num_compared} test images"
        )
    added = f", {card.parameters_added:,} of them the method's" if card.parameters_added else ""
    print(
        f"student: {card.parameters:,} parameters{added}; {card.latency.student_ms:.3g} ms an image"
    )
    for name, teacher in card.teachers.items():
        print(f"{name}: {teacher.times_the_student:.3g} times as long")
    print(f"card: {export.output / CARD_FILE}")
