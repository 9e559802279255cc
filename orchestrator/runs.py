"""A run is a folder; this module writes one, finds them all and indexes them.

    ROOT/EXPERIMENT/METHOD-DIGEST/seed-S/
        config.yaml  environment.json  metrics.parquet  checkpoints/  result.json

``result.json`` is written last: where it is, the run is finished. Accuracies are fractions in
[0, 1]. Importing this module imports neither torch nor pandas.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    import pandas as pd

RESULT_FIELDS = (
    *("experiment", "method", "digest", "seed", "epochs", "test_accuracy", "test_accuracy_best"),
    *("best_epoch", "validation_accuracy", "seconds", "seconds_waiting", "parameters", "workers"),
    *("teachers", "signal_bytes"),
)
_IDENTITY = ("experiment", "method", "digest", "seed")
_PACKAGES = ("tutelage", "torch", "torchvision", "ray", "numpy", "pandas", "pyarrow")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a neighbouring file, then rename it to ``path``: all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        write(draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@final
@dataclass(frozen=True)
class RunFolder:
    """One run's folder. Nothing is read or written until a method is called."""

    path: Path

    @classmethod
    def at(cls, root: Path, *, experiment: str, method: str, digest: str, seed: int) -> RunFolder:
        """The folder of a run below ``root``; it need not be there yet."""
        return cls(root / experiment / f"{method}-{digest}" / f"seed-{seed}")

    @property
    def identity(self) -> dict[str, Any]:
        """Experiment, method, digest and seed, as the path spells them."""
        method, _, digest = self.path.parent.name.rpartition("-")
        seed = int(self.path.name.removeprefix("seed-"))
        experiment = self.path.parent.parent.name
        return dict(zip(_IDENTITY, (experiment, method, digest, seed), strict=True))

    def create(self, config: Mapping[str, Any]) -> None:
        """Make the folder and write the resolved ``config``, of plain YAML values."""
        import yaml

        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_atomically(self.path / "config.yaml", lambda draft: draft.write_text(text))
        self.checkpoint("last").parent.mkdir(exist_ok=True)

    def checkpoint(self, name: str) -> Path:
        """The path of checkpoint ``name``: ``last`` or ``best``."""
        return self.path / "checkpoints" / f"{name}.pt"

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """Add the row of epoch ``row["epoch"]``, in place of that epoch's and all later rows.

        So a run that resumes from an earlier checkpoint leaves no epoch twice. Columns may grow;
        what an epoch did not report is NaN.
        """
        import pandas as pd

        kept = self.metrics()
        new = pd.DataFrame([{name: float(value) for name, value in row.items()}])
        if len(kept):
            new = pd.concat([kept[kept["epoch"] < row["epoch"]], new], ignore_index=True)
        new["epoch"] = new["epoch"].astype("int64")
        write_atomically(self.path / "metrics.parquet", lambda draft: new.to_parquet(draft))

    def metrics(self) -> pd.DataFrame:
        """One row an epoch, in order; without a column while no epoch has ended."""
        import pandas as pd

        path = self.path / "metrics.parquet"
        return pd.read_parquet(path) if path.exists() else pd.DataFrame()

    def write_environment(self) -> None:
        """Record versions, machine, commit and command line in ``environment.json``."""
        self._write_json("environment.json", _environment())

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Declare the run finished; ``result`` holds at least RESULT_FIELDS. NaN becomes null."""
        missing = [name for name in RESULT_FIELDS if name not in result]
        assert not missing, f"a result without {', '.join(missing)}"
        self._write_json("result.json", result)

    def result(self) -> dict[str, Any] | None:
        """What ``write_result`` wrote; None while the run is not finished."""
        return json.loads((self.path / "result.json").read_text()) if self.finished else None

    @property
    def finished(self) -> bool:
        return (self.path / "result.json").exists()

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        text = json.dumps(_without_nan(value), indent=2, allow_nan=False) + "\n"
        write_atomically(self.path / name, lambda draft: draft.write_text(text))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    # NaN and infinity are not JSON; readers other than Python's refuse the whole file.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _environment() -> dict[str, Any]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "versions": versions,
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "hostname": platform.node(),
        "commit": _commit(Path(__file__).resolve().parents[1]),
        "argv": sys.argv,
    }


def _commit(checkout: Path) -> str | None:
    """The commit of this code (``-dirty`` where files differ); None outside a checkout."""
    # An installed copy may lie inside a user's own checkout, whose commit says nothing of it.
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        answer = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def find_runs(root: Path) -> list[RunFolder]:
    """Every run below ``root``, finished or not, by path. Raises ValueError without a ``root``."""
    if not root.is_dir():
        siblings = [path.name for path in root.parent.iterdir()] if root.parent.is_dir() else []
        near = get_close_matches(root.name, siblings, n=1)
        hint = f"did you mean '{root.parent / near[0]}'?" if near else "train something first"
        raise ValueError(f"runs: no folder '{root}'; {hint}")
    return [RunFolder(path.parent) for path in sorted(root.glob("**/seed-*/config.yaml"))]


def index(runs: Iterable[RunFolder]) -> pd.DataFrame:
    """One row a run: identity, path, ``finished`` and RESULT_FIELDS (NaN while not finished).

    ``teachers`` is JSON text, so that the index is a flat Parquet table.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for run in runs:
        result = run.result() or {"epochs": len(run.metrics())}
        known = {name: result.get(name) for name in RESULT_FIELDS} | run.identity
        known["teachers"] = json.dumps(result.get("teachers") or {}, sort_keys=True)
        rows.append({"path": str(run.path), "finished": run.finished} | known)
    table = pd.DataFrame(rows, columns=["path", "finished", *RESULT_FIELDS])
    numeric = [name for name in RESULT_FIELDS if name not in (*_IDENTITY, "teachers")]
    return table.astype(dict.fromkeys(numeric, "float64") | {"seed": "int64"})
