"""The record store: what is written comes back, and what is damaged is named."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distill.signals import SignalSpec
from orchestrator.codecs import make_codec
from orchestrator.framing import BODY_OFFSET
from orchestrator.inventory import list_recordings
from orchestrator.mapping import join_bodies
from orchestrator.parts import read_part, verify_part
from orchestrator.store import Column, PartId, SignalStore
from tests.test_identity import make_identity

NUM_SAMPLES = 4096 + 4096 + 77
IDENTITY = make_identity(num_samples=NUM_SAMPLES)
VALUES = np.random.default_rng(1).standard_normal((NUM_SAMPLES, 10)).astype(np.float32)
LAST = PartId(0, 2)  # the short one


def logits_column(root: Path, identity=IDENTITY, codec: str = "float16") -> Column:
    return SignalStore(root, identity).column(SignalSpec("logits"), make_codec(codec, (10,)))


def record(column: Column, pass_index: int = 0, values: np.ndarray = VALUES) -> None:
    for part in column.missing([pass_index]):
        rows, error = column.encode(values[column.store.identity.rows_of(part.part_index)])
        column.write(part, rows, error=error)


@pytest.fixture
def column(tmp_path: Path) -> Column:
    made = logits_column(tmp_path / "store")
    record(made)
    return made


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("codec", ["float32", "float16", "int8", "top3"])
def test_a_recorded_pass_comes_back_as_its_codec_keeps_it(tmp_path, codec):
    column = logits_column(tmp_path, codec=codec)
    assert not column.is_complete(0)
    record(column)
    expected = column.codec.decode(column.codec.encode(VALUES))
    assert column.is_complete(0)
    np.testing.assert_array_equal(column.codec.decode(column.open_pass(0)), expected)


def test_gather_across_parts_equals_numpy(column):
    indices = np.random.default_rng(2).integers(0, NUM_SAMPLES, 500)
    batch = column.codec.decode(column.open_pass(0)[indices])
    np.testing.assert_array_equal(batch, VALUES[indices].astype(np.float16))


def test_an_open_pass_is_read_only_and_outlives_its_files(column):
    rows = column.open_pass(0)
    before = rows.copy()
    with pytest.raises(ValueError, match="WRITEABLE"):
        rows.flags.writeable = True
    column.remove_pass(0)
    assert not column.is_complete(0)
    np.testing.assert_array_equal(rows, before)


def test_dropping_the_array_unmaps_the_files(column):
    rows = column.open_pass(0)
    assert rows.shape == (NUM_SAMPLES, 20)
    assert str(column.path) in Path("/proc/self/maps").read_text()
    del rows
    assert str(column.path) not in Path("/proc/self/maps").read_text()


def test_larger_pages_read_the_same_bytes(column):
    bodies = [(column.part_path(PartId(0, i)), 4096 * 20) for i in range(2)]
    mapped, read = (join_bodies(bodies, offset=BODY_OFFSET, granularity=g) for g in (4096, 65536))
    np.testing.assert_array_equal(mapped, read)
    assert str(column.path) in Path("/proc/self/maps").read_text()
    assert not read.flags.writeable


def test_recording_again_gives_the_same_bytes(column, tmp_path):
    other = logits_column(tmp_path / "other")
    record(other)
    for part in (PartId(0, i) for i in range(3)):
        assert column.part_path(part).read_bytes() == other.part_path(part).read_bytes()


def test_any_arrow_reader_opens_a_part(column):
    with pa.ipc.open_file(column.part_path(LAST)) as reader:
        assert reader.num_record_batches == 1
        table = reader.read_all()
    rows = column.codec.encode(VALUES[8192:])
    assert table["rows"].to_pylist() == [row.tobytes() for row in rows]


def test_a_part_says_what_it_is(column):
    metadata = read_part(column.part_path(LAST)).metadata
    assert (metadata.first_row, metadata.num_rows, metadata.row_bytes) == (8192, 77, 20)
    assert metadata.teacher == IDENTITY.key
    assert 0 < metadata.error <= 2**-11


def test_file_overhead_stays_small(tmp_path):
    column = SignalStore(tmp_path, replace(IDENTITY, num_samples=4096)).column(
        SignalSpec("logits"), make_codec("float16", (100,))
    )
    record(column, values=np.zeros((4096, 100), np.float32))
    assert column.bytes_on_disk() / 4096 <= 204
    assert column.bytes_on_disk() == column.part_path(PartId(0, 0)).stat().st_size


def test_a_column_misses_what_it_lacks_and_nothing_else(column):
    column.part_path(PartId(0, 1)).unlink()
    assert column.missing([0, 2]) == [PartId(0, 1), *(PartId(2, i) for i in range(3))]
    with pytest.raises(ValueError, match=r"1 of 3 parts are not recorded, part 1 the first"):
        column.open_pass(0)
    record(column)
    assert column.missing([0]) == []


def test_signals_and_codecs_are_columns_of_their_own(column):
    codec = make_codec("int8", (4, 2, 2))
    features = column.store.column(SignalSpec("layer4.1", "pool2"), codec)
    assert len(features.missing([0])) == 3
    record(features, values=np.ones((NUM_SAMPLES, 4, 2, 2), np.float32))
    assert features.path.name == "layer4.1@pool2.int8"
    assert column.is_complete(0)


@pytest.mark.parametrize("place", [0, 7, 12, 100, 600, 3000, 4096, -1, -12, -100, -300, -530])
def test_a_flipped_byte_is_found_wherever_it_is(column, place):
    path = column.part_path(LAST)
    assert verify_part(path) is None
    flip(path, place)
    damage = verify_part(path)
    assert damage is not None
    assert damage.path == path
    assert list(column.verify(0)) == [LAST]


def test_header_noise_never_gets_past_a_value_error(column):
    path = column.part_path(LAST)
    whole = path.read_bytes()
    noise = np.random.default_rng(3)
    for _ in range(300):
        content = np.frombuffer(whole, np.uint8).copy()
        content[noise.integers(0, 700, 3)] = noise.integers(0, 256, 3)
        path.write_bytes(content)
        column.inspect(LAST)  # whatever it says, it neither raises nor allocates
        assert verify_part(path) or content.tobytes() == whole


@pytest.mark.parametrize("length", [0, 5, 4096, 5000, -1, -600])
def test_a_truncated_part_is_named(column, length):
    path = column.part_path(LAST)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"part-00002.arrow: not a whole part.*cache"):
        column.open_pass(0)


def test_a_part_that_claims_more_rows_than_its_file_has_is_refused(column):
    path = column.part_path(LAST)
    path.write_bytes(path.read_bytes().replace(b'"num_rows":77,', b'"num_rows":99,'))
    with pytest.raises(ValueError, match="not a whole part"):
        column.open_pass(0)


def test_other_arrow_files_and_other_files_are_refused(column):
    path = column.part_path(LAST)
    table = pa.table({"x": list(range(2000))})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    assert "begin at byte" in str(column.inspect(LAST))
    path.write_bytes(b"PAR1" * 4000)
    assert "does not begin with an Arrow file's header" in str(column.inspect(LAST))


OTHERS = {
    "teacher": lambda root: logits_column(root, replace(IDENTITY, weights_sha256="a" * 64)),
    "spec": lambda root: SignalStore(root, IDENTITY).column(
        SignalSpec("stage3", "gap"), make_codec("float16", (10,))
    ),
    "codec": lambda root: logits_column(root, codec="float32"),
    "shape": lambda root: SignalStore(root, IDENTITY).column(
        SignalSpec("logits"), make_codec("float16", (2, 5))
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_part_recorded_for_something_else_is_named_with_what_differs(column, tmp_path, name):
    other = OTHERS[name](tmp_path / "other")
    record(other, values=VALUES.reshape(-1, *other.codec.shape))
    shutil.copy(other.part_path(LAST), column.part_path(LAST))
    with pytest.raises(ValueError, match=rf"recorded for something else: .*{name} is '?.*, not "):
        column.open_pass(0)


def test_a_part_of_another_teacher_in_the_same_root_says_how_the_teachers_differ(column):
    other = logits_column(column.store.root, replace(IDENTITY, weights_sha256="a" * 64))
    record(other)
    shutil.copy(other.part_path(LAST), column.part_path(LAST))
    assert "weights_sha256: " in str(column.inspect(LAST))


def test_parts_of_another_pass_or_place_are_refused(column):
    record(column, 1)
    shutil.copy(column.part_path(PartId(1, 0)), column.part_path(PartId(0, 0)))
    shutil.copy(column.part_path(PartId(0, 1)), column.part_path(PartId(1, 0)))
    assert "pass_index is 1, not 0" in str(column.inspect(PartId(0, 0)))
    assert "first_row is 4096, not 0" in str(column.inspect(PartId(1, 0)))


def test_a_quarantined_part_is_kept_aside_and_recorded_anew(column):
    flip(column.part_path(LAST), 5000)
    message = column.quarantine(LAST)
    assert column.missing([0]) == [LAST]
    record(column)
    assert column.verify(0) == {}
    aside = list(column.part_path(LAST).parent.glob("part-00002.arrow.damaged-*"))
    assert len(aside) == 1
    assert aside[0].name in message


def test_a_folder_with_another_identity_is_refused(column):
    path = column.store.path / "identity.json"
    path.write_text(replace(IDENTITY, plan_seed=8).to_json())
    with pytest.raises(ValueError, match=r"identity.json: .*plan_seed: 7, not 8"):
        SignalStore(column.store.root, IDENTITY)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"identity.json: holds no identity"):
        SignalStore(column.store.root, IDENTITY)


def test_looking_at_a_store_writes_nothing(tmp_path):
    column = logits_column(tmp_path / "store")
    assert column.missing([0])
    assert column.store.bytes_on_disk() == 0
    assert list_recordings(tmp_path / "store") == []
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("tap", ["../x", "a/b", "", ".hidden", "x" * 151])
def test_names_that_lead_elsewhere_are_refused(tmp_path, tap):
    with pytest.raises(ValueError, match="no folder can have this name"):
        SignalStore(tmp_path, IDENTITY).column(SignalSpec(tap), make_codec("float16", (10,)))


@pytest.mark.parametrize("part", [PartId(-1, 0), PartId(100_000, 0), PartId(0, -1), PartId(0, 3)])
def test_numbers_that_name_no_part_are_refused(column, part):
    with pytest.raises(ValueError, match=r"passes are 0 to|parts 0 to"):
        column.part_path(part)


def test_encoding_errors_name_the_signal(column):
    with pytest.raises(ValueError, match=r"signal logits, codec float16: row 3 holds 1e\+06"):
        column.encode(np.where(np.arange(5)[:, None] == 3, 1e6, np.zeros((5, 10))))
