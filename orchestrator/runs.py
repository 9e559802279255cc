"""A run is a folder; this module writes one, and finds them all.

    ROOT/EXPERIMENT/METHOD-DIGEST/seed-S/
        config.yaml  environment.json  metrics.parquet  checkpoints/  result.json
    ROOT/EXPERIMENT/tune-SPACE/trials/METHOD-TRIAL/seed-S/    the same, of a sweep's trial

``result.json`` is written last: where it is, the run is finished. Accuracies are fractions in
[0, 1]. Importing this module imports neither torch nor pandas.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    import pandas as pd

RESULT_FIELDS = (
    *("experiment", "method", "digest", "seed", "epochs", "test_accuracy", "test_accuracy_best"),
    *("best_epoch", "validation_accuracy", "seconds", "seconds_waiting", "parameters", "workers"),
    *("teachers", "signal_bytes"),
)
IDENTITY = ("experiment", "method", "digest", "seed")
_METRICS = "metrics.parquet"
VALIDATION = "accuracy/validation"  # of metrics
_RUN = re.compile(r"[^/]+-[^/]+/seed-\d+$")
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
    def sweep(self) -> str:
        """Of a sweep's trial, the name of the sweep's folder, ``tune-SPACE``; else empty."""
        above = self.path.parts[-4:-2]
        is_trial = len(above) == 2 and above[0].startswith("tune-") and above[1] == "trials"
        return above[0] if is_trial else ""

    @property
    def experiment_folder(self) -> Path:
        """The folder of all runs of the experiment, and of its sweeps."""
        return self.path.parents[3 if self.sweep else 1]

    @property
    def identity(self) -> dict[str, Any]:
        """Experiment, method, digest and seed, as the path spells them; a trial's digest is its id.

        With ``sweep``, this names a run among all.
        """
        method, _, digest = self.path.parent.name.rpartition("-")
        seed = int(self.path.name.removeprefix("seed-"))
        values = (self.experiment_folder.name, method, digest, seed)
        return dict(zip(IDENTITY, values, strict=True))

    def create(self, config: Mapping[str, Any]) -> None:
        """Make the folder and write the resolved ``config``, of plain YAML values."""
        import yaml

        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_atomically(self.path / "config.yaml", lambda draft: draft.write_text(text))
        self.checkpoint("last").parent.mkdir(exist_ok=True)

    def checkpoint(self, name: str) -> Path:
        """The path of checkpoint ``name``: ``last`` or ``best``."""
        return self.path / "checkpoints" / f"{name}.pt"

    def continue_from(self, other: RunFolder) -> None:
        """Take over another run's checkpoints and metrics: training goes on from where it was."""
        checkpoints = self.checkpoint("last").parent
        shutil.copytree(other.checkpoint("last").parent, checkpoints, dirs_exist_ok=True)
        rows = other.path / _METRICS
        write_atomically(self.path / _METRICS, lambda draft: shutil.copyfile(rows, draft))

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
        write_atomically(self.path / _METRICS, lambda draft: new.to_parquet(draft))

    def metrics(self) -> pd.DataFrame:
        """One row an epoch, in order; without a column while no epoch has ended."""
        import pandas as pd

        path = self.path / _METRICS
        # Read at once: a run that trains replaces the file meanwhile.
        return pd.read_parquet(BytesIO(path.read_bytes())) if path.exists() else pd.DataFrame()

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Every epoch, counted from 0, with one of its metrics: NaN where it was not reported."""
        import pyarrow.parquet as pq

        path = self.path / _METRICS
        if not path.exists():
            return []
        with pq.ParquetFile(path) as file:
            known = [name for name in ("epoch", metric) if name in file.schema_arrow.names]
            table = file.read(columns=known, use_threads=False)
        epochs = table["epoch"].to_pylist()
        values = table[metric].to_pylist() if metric in known else [None] * len(epochs)
        pairs = zip(epochs, values, strict=True)
        return [(epoch, math.nan if value is None else value) for epoch, value in pairs]

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
    """Every run at or below ``root``, finished or not, trials too, by path.

    Links below ``root`` are not followed. Raises ValueError without a ``root``.
    """
    if not root.is_dir():
        siblings = [path.name for path in root.parent.iterdir()] if root.parent.is_dir() else []
        near = get_close_matches(root.name, siblings, n=1)
        hint = f"did you mean '{root.parent / near[0]}'?" if near else "train something first"
        raise ValueError(f"runs: no folder '{root}'; {hint}")
    found: list[RunFolder] = []
    for folder, below, files in os.walk(root):
        if "config.yaml" in files and _RUN.search(os.path.abspath(folder)):
            found.append(RunFolder(Path(folder)))
            below.clear()  # checkpoints and events: no run lies in a run
    return sorted(found, key=lambda run: run.path)
