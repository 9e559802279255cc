"""Stores of strangers: no name and no link leads outside, and no content is taken at its word."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from distill.datasets import load_data
from distill.signals import Batch, SignalSpec
from orchestrator.inventory import list_recordings, remove, resolve_key
from orchestrator.layout import (
    StoreError,
    column_name,
    columns_named,
    is_key,
    parts_named,
    read_identity,
)
from orchestrator.listing import recordings_table
from orchestrator.preparation import file_accuracy, filed_accuracy
from orchestrator.recording import Recording
from orchestrator.sources import CachedSource
from orchestrator.store import Column, PartId, SignalStore
from orchestrator.teachers import RecordedSignal
from tests.helpers import files_below, prepare, two_teachers
from tests.hostile_files import forged_part, nested
from tests.test_store import IDENTITY, VALUES, logits_column, record

NESTED = nested(100_000).decode()
FIRST = PartId(0, 0)


# Names


@pytest.mark.parametrize(
    "name",
    [
        "../part-00000.arrow",
        "/etc/part-00000.arrow",
        "pass-00000/../../part-00000.arrow",
        "pass-00000/part-00000.arrow\0",
        "pass-00000\n/part-00000.arrow",
        "pass-00000/part-00000.arrow\n",
        "pass-0000٠/part-00000.arrow",
        "x/pass-00000/part-00000.arrow",
    ],
)
def test_names_of_parts_lead_nowhere_else(name: str) -> None:
    assert parts_named([name]) == {}
    assert columns_named([name, f"{name}.float16", "..", "../x.float16", "x\n.float16"]) == []


@pytest.mark.parametrize("tap", ["..", "../x", "/x", "x/y", "x\0y", "x\n", "x" * 200])
def test_a_signal_whose_name_leads_elsewhere_has_no_folder(tap: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no folder can have this name") as error:
        SignalStore(tmp_path, IDENTITY).column(SignalSpec(tap), logits_column(tmp_path).codec)
    assert "\0" in tap or "\n" in tap or str(error.value).isprintable()
    with pytest.raises(StoreError):
        column_name(SignalSpec("logits"), "../../x")


@pytest.mark.parametrize("key", ["../outside", "/etc", "..", "", "0" * 20 + "\n", "A" * 20])
def test_a_key_that_is_a_path_is_none(key: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "identity.json").write_text("{")
    root = tmp_path / "store"
    root.mkdir()
    assert not is_key(key)
    assert read_identity(root, key) is None
    for look_up in (resolve_key, remove):
        with pytest.raises(ValueError, match="no recording"):
            look_up(root, key)
    assert (tmp_path / "outside" / "identity.json").exists()


def test_a_part_of_a_teacher_that_is_a_path_is_damaged(tmp_path: Path) -> None:
    column = logits_column(tmp_path / "store")
    rows = np.zeros((4096, 20), np.uint8)
    forged_part(column.part_path(FIRST), rows, teacher="../../outside\x1b[2J", spec="../x")
    damage = column.inspect(FIRST)
    assert damage is not None
    assert "recorded for something else: teacher is '../../outside" in damage.reason
    assert str(damage).isprintable()


# Links, pipes


def linked(tmp_path: Path, which: str) -> tuple[Column, Path]:
    """A recorded column, a part of whose path was moved outside the store, and a link put there."""
    column = logits_column(tmp_path / "store")
    record(column)
    part = column.part_path(FIRST)
    places = {"part": part, "pass": part.parent, "column": column.path, "key": column.store.path}
    outside = tmp_path / "outside"
    outside.mkdir()
    places[which].rename(outside / "moved")
    (outside / "mine.json").write_text("mine")
    (outside / ".mine.tmp").write_text("mine")
    places[which].symlink_to(outside / "moved")
    return column, outside


ACTIONS: dict[str, Callable[[Column], object]] = {
    "open": lambda column: column.open_pass(0),
    "open one": lambda column: column.open_part(FIRST),
    "verify": lambda column: column.verify(0),
    "quarantine": lambda column: column.quarantine(FIRST),
    "write": lambda column: column.write(FIRST, np.ones((4096, 20), np.uint8), error=0.0),
    "remove": lambda column: column.remove_pass(0),
    "lock": lambda column: column.store.lock.acquire(),
    "declare": lambda column: column.store.place.consumers(IDENTITY.key).declare([0]),
}


@pytest.mark.parametrize("which", ["part", "pass", "column", "key"])
@pytest.mark.parametrize("action", ACTIONS)
def test_a_link_in_a_store_is_not_followed(which: str, action: str, tmp_path: Path) -> None:
    column, outside = linked(tmp_path, which)
    before = files_below(outside, "*")
    is_above = which == "key" or (which != "part" and action not in ("lock", "declare"))
    with suppress(StoreError) if not is_above else pytest.raises(StoreError, match="is a link"):
        ACTIONS[action](column)
    assert files_below(outside, "*") == before
    if which == "part" and action not in ("remove", "quarantine"):
        with pytest.raises(StoreError, match=r"part-00000.arrow: is a link, .* or delete it"):
            column.open_pass(0)


def test_a_store_whose_teacher_is_a_link_is_named(tmp_path: Path) -> None:
    _, outside = linked(tmp_path, "key")
    with pytest.raises(StoreError, match=rf"{IDENTITY.key}: is a link, and none is followed"):
        logits_column(tmp_path / "store")
    assert list_recordings(tmp_path / "store") == []
    assert (outside / "moved" / "identity.json").exists()


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    record(logits_column(tmp_path / "disk"))
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    assert logits_column(tmp_path / "store").open_pass(0).shape == (IDENTITY.num_samples, 20)


def test_a_pipe_for_a_part_is_damage_and_is_not_waited_for(tmp_path: Path) -> None:
    column = logits_column(tmp_path / "store")
    record(column)
    column.part_path(FIRST).unlink()
    os.mkfifo(column.part_path(FIRST))
    assert "it is no file" in column.verify(0)[FIRST].reason
    assert "moved aside as part-00000.arrow.damaged-00000000" in column.quarantine(FIRST)
    record(column)
    assert column.verify(0) == {}


# Contents


def test_a_listing_shows_no_terminals_commands(tmp_path: Path) -> None:
    identity = replace(IDENTITY, architecture="\x1b]0;evil\x07[red]x")
    record(logits_column(tmp_path, identity))
    shown = io.StringIO()
    Console(file=shown, width=300).print(recordings_table(list_recordings(tmp_path), root=tmp_path))
    assert "]0;evil" in shown.getvalue()
    assert "[red]x" in shown.getvalue()
    assert "\x1b" not in shown.getvalue()
    assert "\x07" not in shown.getvalue()


def test_rows_that_name_a_class_beyond_the_last_are_an_error_with_a_cure(tmp_path: Path) -> None:
    column = logits_column(tmp_path, codec="top3")
    for part in column.missing([0]):
        rows, _ = column.encode(VALUES[IDENTITY.rows_of(part.part_index)])
        column.write(part, np.full_like(rows, 255), error=0.0)
    signal = RecordedSignal(SignalSpec("logits"), "top3", (10,))
    source = CachedSource([Recording("t", str(tmp_path), IDENTITY, (signal,), None)])
    labels = torch.zeros(4, dtype=torch.int64)
    batch = Batch(np.arange(4), np.zeros(4, np.int64), 0, torch.zeros(4, 1, 8, 8), labels, 4)
    with pytest.raises(StoreError, match=r"logits.top3-residual: holds rows .*; delete the folder"):
        source.signals(batch)
    source.close()


def test_a_strange_table_of_accuracies_is_made_anew(fashion: Path, tmp_path: Path) -> None:
    experiment = two_teachers(fashion, tmp_path)
    data, teacher = load_data(experiment.data), prepare(experiment)[0]
    path = teacher.serving.recording.store.path / "accuracy.json"
    path.parent.mkdir(parents=True)
    for value in ("5", NESTED, "[", json.dumps({data.test.fingerprint: "\x1b"})):
        path.write_text(value)
        assert filed_accuracy(teacher, data) is None
    (tmp_path / "mine").write_text("mine")
    path.unlink()
    path.symlink_to(tmp_path / "mine")
    file_accuracy(teacher, data, 0.5)
    assert filed_accuracy(teacher, data) == 0.5
    assert (tmp_path / "mine").read_text() == "mine"
