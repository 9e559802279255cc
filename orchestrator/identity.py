"""Exactly what changes the bytes of a teacher's answers, and the key made from it.

Two recordings with the same key hold the same numbers, wherever and by however many workers they
were made; so no path, device or worker count is part of an identity. Imports neither torch nor ray.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast, final

FORMAT_VERSION = 1
KEY_LENGTH = 20
PRECISIONS = ("float32", "bfloat16")
# A part's body is then a whole number of 4 KiB pages whatever a row's size, so that the parts of
# a pass can be mapped back to back (orchestrator/mapping.py).
PART_SIZE_UNIT = 4096
MAX_PARTS = 100_000  # of a pass; a part's name has five digits

_SHA256 = re.compile(r"[0-9a-f]{64}")


def canonical_json(value: object, *, where: str = "value") -> str:
    """``value`` as JSON with one spelling only: keys sorted, no spaces, floats by ``repr``.

    None, bool, int, str, finite float, list, tuple (as a list) and dict with str keys are taken.
    Anything else has no stable bytes, subclasses such as ``np.float64`` and enums included.
    Raises ValueError naming where it stands, as in ``identity.views.padding``.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return json.dumps(value)
    if kind is float:
        number = cast(float, value)
        if not math.isfinite(number):
            raise ValueError(f"{where}: {number} has no JSON; give a finite number")
        return repr(number)
    if isinstance(value, (list, tuple)):
        items = cast("list[object]", value)
        return (
            f"[{','.join(canonical_json(v, where=f'{where}[{i}]') for i, v in enumerate(items))}]"
        )
    if isinstance(value, dict):
        entries = cast("dict[object, object]", value)
        for key in entries:
            if type(key) is not str:
                raise ValueError(f"{where}: the key {key!r} is a {type(key).__name__}, not a str")
        pairs = sorted(cast("dict[str, object]", entries).items())
        texts = (f"{json.dumps(k)}:{canonical_json(v, where=f'{where}.{k}')}" for k, v in pairs)
        return f"{{{','.join(texts)}}}"
    raise ValueError(
        f"{where}: a {kind.__module__}.{kind.__qualname__} has no stable bytes; "
        "give None, a bool, int, str, finite float, list, tuple or dict"
    )


@final
@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a recording was made from: the teacher, the data, the views and the layout.

    Raises ValueError, naming the field, where a value has no stable bytes or makes no sense.
    """

    architecture: str
    options: Mapping[str, Any]  # the architecture's own settings
    weights_sha256: str  # of the loaded state dict, 64 hex digits
    mean: tuple[float, ...]  # normalisation, by channel, of pixels in [0, 1]
    std: tuple[float, ...]
    num_classes: int
    split: str  # fingerprint of the samples and of their order
    num_samples: int
    views: Mapping[str, Any]  # the view space's fingerprint: its kind and every setting
    plan_seed: int  # the passes' permutations of views derive from it
    precision: str = "float32"  # of the teacher's forward
    part_size: int = PART_SIZE_UNIT  # samples of a part
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        for field in fields(self):
            kind = {"int": int, "str": str}.get(str(field.type))
            if kind and type(getattr(self, field.name)) is not kind:
                raise ValueError(f"identity.{field.name}: not of type {field.type}")
        # A detached, normalised copy: what the caller does to its dicts later changes no key.
        for name in ("options", "views"):
            text = canonical_json(getattr(self, name), where=f"identity.{name}")
            object.__setattr__(self, name, json.loads(text))
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        if not _SHA256.fullmatch(self.weights_sha256):
            raise ValueError(
                f"identity.weights_sha256: '{self.weights_sha256}' is not 64 lower-case hex digits"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"identity.precision: '{self.precision}' is none of {', '.join(PRECISIONS)}"
            )
        if self.part_size < 1 or self.part_size % PART_SIZE_UNIT:
            raise ValueError(
                f"identity.part_size: {self.part_size} is not a multiple of {PART_SIZE_UNIT}"
            )
        if self.num_samples < 1:
            raise ValueError(f"identity.num_samples: {self.num_samples}; a split holds at least 1")
        if self.num_parts > MAX_PARTS:
            raise ValueError(
                f"identity.part_size: {self.part_size} makes {self.num_parts} parts of "
                f"{self.num_samples} samples, and {MAX_PARTS} are the most; set it higher"
            )
        self.to_json()

    def to_json(self) -> str:
        """The identity on one line, in its only spelling."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return canonical_json(values, where="identity")

    @classmethod
    def from_json(cls, text: str) -> Identity:
        """Read what ``to_json`` wrote. Raises ValueError naming fields missing or unknown."""
        values: object = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("identity: not a JSON object")
        given = cast("dict[str, Any]", values)
        odd = {field.name for field in fields(cls)} ^ given.keys()
        if odd:
            raise ValueError(f"identity: fields missing or unknown: {', '.join(sorted(odd))}")
        return cls(**given)

    @property
    def key(self) -> str:
        """The first 20 hex digits of the identity's sha256: the name of its folder."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:KEY_LENGTH]

    @property
    def num_parts(self) -> int:
        """Parts of one pass; the last may be shorter than ``part_size``."""
        return -(-self.num_samples // self.part_size)

    def rows_of(self, part_index: int) -> range:
        """The samples of a part. Raises ValueError where a pass has no such part."""
        if not 0 <= part_index < self.num_parts:
            raise ValueError(f"part {part_index}: a pass has parts 0 to {self.num_parts - 1}")
        first = part_index * self.part_size
        return range(first, min(first + self.part_size, self.num_samples))


def differences(ours: Identity, other: Identity) -> list[str]:
    """The fields that differ with both values, as ``views.padding: 4, not 2``; empty if none."""
    return list(_differences(json.loads(ours.to_json()), json.loads(other.to_json()), ""))


def _differences(ours: Any, other: Any, where: str) -> list[str]:
    same = canonical_json(ours) == canonical_json(other)
    if isinstance(ours, dict) and isinstance(other, dict):
        mine, theirs = cast("dict[str, object]", ours), cast("dict[str, object]", other)
        found: list[str] = []
        for name in sorted(mine.keys() | theirs.keys()):
            inner = f"{where}.{name}" if where else name
            found += _differences(mine.get(name), theirs.get(name), inner)
        return found
    return [] if same else [f"{where}: {_short(ours)}, not {_short(other)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:16]}…"
