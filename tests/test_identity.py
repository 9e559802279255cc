"""The key of a recording: everything that changes a signal's bytes, and nothing else."""

from __future__ import annotations

import enum
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from orchestrator.identity import Identity, canonical_json, differences


def make_identity(**changes: Any) -> Identity:
    values: dict[str, Any] = {
        "architecture": "resnet32x4",
        "options": {"width": 1},
        "weights_sha256": "0123456789abcdef" * 4,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "num_classes": 100,
        "split": "cifar100-train-1f2e3d",
        "num_samples": 10_000,
        "views": {"kind": "crop_flip", "padding": 4, "size": [32, 32]},
        "plan_seed": 7,
    }
    return Identity(**{**values, **changes})


CHANGES = {
    "architecture": "wrn-40-2",
    "options": {"width": 2},
    "weights_sha256": "f" * 64,
    "mean": (0.5, 0.5, 0.4),
    "std": (0.25, 0.25, 0.2),
    "num_classes": 101,
    "split": "cifar100-train-000000",
    "num_samples": 10_001,
    "views": {"kind": "crop_flip", "padding": 2, "size": [32, 32]},
    "plan_seed": 8,
    "precision": "bfloat16",
    "part_size": 8192,
    "format_version": 2,
}


@pytest.mark.parametrize("name", Identity.__dataclass_fields__)
def test_every_field_changes_the_key_and_is_named(name: str):
    ours, other = make_identity(), make_identity(**{name: CHANGES[name]})
    assert ours.key != other.key
    assert len(differences(ours, other)) == 1
    assert differences(ours, other)[0].startswith(name)


def test_key_has_20_hex_digits_and_never_changes():
    key = make_identity().key
    assert len(key) == 20
    # Recordings on disk are found by it: a change here orphans all of them.
    assert key == "f127c77bd9e8b4f8d842"


def test_order_of_dicts_and_kind_of_sequences_do_not_matter():
    turned = make_identity(views={"size": (32, 32), "padding": 4, "kind": "crop_flip"})
    assert turned.key == make_identity(mean=[0.5, 0.5, 0.5]).key == make_identity().key
    assert turned == make_identity()


def test_later_changes_of_the_callers_dict_do_not_reach_the_key():
    options = {"width": 1}
    identity = make_identity(options=options)
    options["width"] = 9
    assert identity.key == make_identity().key


def test_json_round_trip():
    identity = make_identity(mean=(0.1, 1 / 3, 1e-30))
    again = Identity.from_json(identity.to_json())
    assert (again, again.key) == (identity, identity.key)


def test_differences_name_the_nested_setting_and_both_values():
    other = make_identity(views={"kind": "crop_flip", "padding": 2, "size": [32, 32]})
    assert differences(make_identity(), other) == ["views.padding: 4, not 2"]
    assert differences(other, replace(other)) == []


def test_canonical_json_by_hand():
    value = {"b": [1, 2.5, None, True], "a": ("x", {"é": -0.125})}
    assert canonical_json(value) == '{"a":["x",{"\\u00e9":-0.125}],"b":[1,2.5,null,true]}'


class _Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    "odd",
    [{1, 2}, object(), math.nan, math.inf, np.zeros(2), np.float64(1), b"x", _Colour.RED, {1: 2}],
    ids=lambda odd: type(odd).__name__,
)
def test_values_without_stable_bytes_are_refused_by_place(odd: object):
    with pytest.raises(ValueError, match=r"^identity\.views\.padding\[1\]: "):
        make_identity(views={"padding": [4, odd]})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights_sha256", "abc"),
        ("precision", "float8"),
        ("part_size", 1000),
        ("num_samples", 0),
        ("mean", (math.nan,)),
        ("architecture", b"resnet"),
    ],
)
def test_senseless_fields_are_refused_by_name(name: str, value: object):
    with pytest.raises(ValueError, match=rf"^identity\.{name}"):
        make_identity(**{name: value})


def test_unknown_and_missing_fields_are_named():
    text = make_identity().to_json().replace('"plan_seed"', '"plan_sead"')
    with pytest.raises(ValueError, match="plan_sead, plan_seed"):
        Identity.from_json(text)


@pytest.mark.parametrize(("num_samples", "lengths"), [(1, [1]), (4096, [4096]), (4097, [4096, 1])])
def test_parts_cover_every_sample_once(num_samples: int, lengths: list[int]):
    identity = make_identity(num_samples=num_samples)
    parts = [identity.rows_of(index) for index in range(identity.num_parts)]
    assert [len(part) for part in parts] == lengths
    assert [row for part in parts for row in part] == list(range(num_samples))
    with pytest.raises(ValueError, match="parts 0 to"):
        identity.rows_of(identity.num_parts)
