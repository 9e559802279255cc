"""The index of runs: ``ROOT/index.parquet``, a row a run, so that only what changed is read again.

It can be deleted at any time: what it says is read from the runs' folders, and is held against
their files' sizes and times whenever it is used. Paths in it are relative to ROOT, so a folder of
runs that was copied from another machine brings its index along. Importing this module imports
neither torch nor pandas.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from distill import plain_yaml
from distill.loading import ConfigError
from orchestrator.run_differences import flatten
from orchestrator.runs import IDENTITY, RESULT_FIELDS, VALIDATION, RunFolder, write_atomically
from orchestrator.trial_files import Note

if TYPE_CHECKING:
    import pandas as pd

INDEX = "index.parquet"
LAST_VALIDATION = "last_validation_accuracy"
COLUMNS = (
    *("path", "stamp", "sweep", "finished", *RESULT_FIELDS),
    *(LAST_VALIDATION, "state", "reason", "tried", "config"),
)
_NUMBERS = (
    *(name for name in RESULT_FIELDS if name not in (*IDENTITY, "teachers")),
    LAST_VALIDATION,
)
_VERSION_KEY, _VERSION = b"tutelage.index", b"1"
_READ = ("config.yaml", "metrics.parquet", "result.json", "trial.json")
_SIMPLE = 10_000  # characters: a resolved configuration has 3,000
DAMAGE = (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError)
_LOCK, _LOCK_S = ".index.lock", 10.0

Row = dict[str, Any]


def index(runs: Iterable[RunFolder]) -> pd.DataFrame:
    """One row a run, each once, in the order given; the index of each run's ROOT is brought up.

    Columns: ``path`` (absolute), ``stamp`` (of its files), ``sweep`` (of a trial: ``tune-SPACE``),
    ``finished``, RESULT_FIELDS (of a run that is not finished, only ``epochs`` and
    ``validation_accuracy`` so far; ``teachers`` is JSON), ``last_validation_accuracy`` (of the last
    epoch), ``state`` and its ``reason``, ``tried`` (JSON: a trial's values by path) and ``config``
    (JSON: dotted paths to scalars). A state is ``finished`` or ``unfinished``; of a trial
    ``finished``, ``stopped``, ``failed`` or ``broken off``. Raises ConfigError naming a run that is
    damaged.
    """
    asked = dict.fromkeys(RunFolder(run.path.resolve()) for run in runs)
    by_root: dict[Path, list[RunFolder]] = defaultdict(list)
    for run in asked:
        by_root[run.experiment_folder.parent].append(run)
    rows: dict[Path, Row] = {}
    for root, members in by_root.items():
        known = _refreshed(root, members)
        rows |= {run.path: known[_relative(run, root)] for run in members}
    return _as_table([rows[run.path] | {"path": str(run.path)} for run in asked])


def config_of(row: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """A run's settings by dotted path, as ``method.temperature`` or ``teachers.0.arch``."""
    return json.loads(row["config"])


def _relative(run: RunFolder, root: Path) -> str:
    return run.path.relative_to(root).as_posix()


def _refreshed(root: Path, runs: Iterable[RunFolder]) -> dict[str, Row]:
    """The rows of a root by relative path, those of ``runs`` as they are now."""
    known = _load(root / INDEX)
    fresh: dict[str, Row] = {}
    for run in runs:
        path, stamp = _relative(run, root), _stamp(run)
        if path not in known or known[path]["stamp"] != stamp:
            fresh[path] = _read(run) | {"path": path, "stamp": stamp}
    gone = {path for path in known if not (root / path / "config.yaml").exists()}
    if fresh or gone:
        _publish(root, fresh)
    return known | fresh


def _stamp(run: RunFolder) -> str:
    """Changes whenever a file changes that a row is made of: all are replaced, never mended."""
    parts: list[str] = []
    for name in _READ:
        try:
            status = os.stat(run.path / name)
        except FileNotFoundError:
            parts.append("-")
        else:
            parts.append(f"{status.st_mtime_ns}:{status.st_size}")
    return " ".join(parts)


def _read(run: RunFolder) -> Row:
    try:
        result = run.result() or {}
        curve = run.curve(VALIDATION)
        note = Note.of(run)
        config = flatten(parse_config((run.path / "config.yaml").read_text(encoding="utf-8")))
        row: Row = {name: result.get(name) for name in RESULT_FIELDS}
        for name in set(row).intersection(_NUMBERS):
            if not isinstance(row[name], int | float | None):
                raise TypeError(f"result.json: {name}: {row[name]!r} is not a number")
    except DAMAGE as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"runs: '{run.path}' cannot be read: {reason}; copy it once more, or delete it"
        ) from None
    known = [accuracy for _, accuracy in curve if not math.isnan(accuracy)]
    if not result:
        row |= {"epochs": len(curve), "validation_accuracy": max(known, default=None)}
    row["teachers"] = json.dumps(result.get("teachers") or {}, sort_keys=True)
    row |= {"finished": bool(result), LAST_VALIDATION: curve[-1][1] if curve else None}
    row["state"] = "finished" if result else "unfinished"
    if note and not result:
        row["state"] = note.ended or "broken off"
    row |= {"reason": note.reason if note else "", "config": json.dumps(config)}
    row["tried"] = json.dumps(dict(note.values) if note else {})
    return row | {"sweep": run.sweep} | run.identity


def parse_config(text: str) -> Any:
    """What a run's ``config.yaml`` says. Raises one of DAMAGE."""
    # libyaml reads a configuration in 4 ms, Python's own parser in 60. But libyaml follows aliases
    # and brackets without end, and runs may be a stranger's.
    if len(text) <= _SIMPLE and "&" not in text:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return plain_yaml.parse(text)


def _load(path: Path) -> dict[str, Row]:
    """The rows of an index by path; none of a damaged one, or one of another version."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata: Mapping[bytes, bytes] = file.schema_arrow.metadata or {}
            names = file.schema_arrow.names
            if metadata.get(_VERSION_KEY) != _VERSION or set(names) != set(COLUMNS):
                return {}
            rows: list[Row] = file.read(use_threads=False).to_pylist()
    except (OSError, pa.ArrowException):
        return {}  # nothing is lost: the runs themselves are read again
    return {row["path"]: row for row in rows}


def _publish(root: Path, fresh: Mapping[str, Row]) -> None:
    """Put the ``fresh`` rows among those that are on file by now; take out runs that vanished."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from filelock import FileLock

    def write(draft: Path) -> None:
        rows = {**_load(root / INDEX), **fresh}
        kept = [rows[path] for path in sorted(rows) if (root / path / "config.yaml").exists()]
        table = pa.Table.from_pandas(_as_table(kept), preserve_index=False)
        metadata = (table.schema.metadata or {}) | {_VERSION_KEY: _VERSION}
        pq.write_table(table.replace_schema_metadata(metadata), draft, write_page_checksum=True)

    try:
        with FileLock(root / _LOCK, timeout=_LOCK_S):
            write_atomically(root / INDEX, write)
    except OSError:
        # A folder that cannot be written, as an archive's, can be compared all the same: what was
        # read is returned. A lock that does not come raises TimeoutError, an OSError.
        return


def _as_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame(list(rows), columns=list(COLUMNS))
    texts = [name for name in COLUMNS if name not in (*_NUMBERS, "seed", "finished")]
    types = dict.fromkeys(_NUMBERS, "float64") | dict.fromkeys(texts, "object")
    return table.astype(types | {"seed": "int64", "finished": "bool"})
