"""A folder for TensorBoard to open: links to the runs' events, named by what sets runs apart.

TensorBoard names a run by its folder, and ours are named by digests. So the view has a folder for
each run, ``kd temperature=4 seed=0``, with links to that run's event files and one file of our own:
its settings for the HParams table, found first because of its name. What is said of all runs, the
table's columns and the layout of charts, lies in a folder that is named by its content:
TensorBoard keeps the first that it reads of such things, so a change needs a new place.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from distill.loading import ConfigError
from orchestrator.run_differences import Settings, run_names, settings_of
from orchestrator.run_index import DAMAGE, parse_config
from orchestrator.runs import RunFolder
from orchestrator.tensorboard_summaries import (
    columns_summary,
    events_of,
    layout_summary,
    settings_summary,
)
from orchestrator.trial_files import TUNE, Note, trial_name

# TensorBoard reads a folder's files in the order of their names; a run's own go on with a time.
_FIRST_FILE = "events.out.tfevents.0"
_LAST_S = 1e11  # runs are listed by the times at which they begin; what is no run comes last
_NOT_ENTERED = {"checkpoints"}
_SWEEP = "sweep.json"


@final
@dataclass(frozen=True, slots=True)
class Found:
    """The runs below a folder, and the event files of theirs and of others, by folder."""

    runs: tuple[RunFolder, ...]
    events: Mapping[Path, tuple[Path, ...]]


def find_events(root: Path) -> Found:
    """Look through ``root`` and what is below it; runs need not have events yet."""
    runs: list[RunFolder] = []
    events: dict[Path, tuple[Path, ...]] = {}
    for name, subfolders, files in os.walk(root):
        folder = Path(name)
        skipped = _NOT_ENTERED | ({TUNE} if _SWEEP in files else set())
        subfolders[:] = sorted(set(subfolders) - skipped)
        if "config.yaml" in files and folder.name.startswith("seed-"):
            runs.append(RunFolder(folder))
        if found := sorted(file for file in files if ".tfevents." in file):
            events[folder] = tuple(folder / file for file in found)
    return Found(tuple(runs), events)


@final
class EventsView:
    """A view of what is below ``root``, in ``folder``; ``refresh`` brings it up to date."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = root.resolve(), folder
        self._read: dict[Path, tuple[int, Any]] = {}  # files, by path and time of change
        self._seen: tuple[dict[Path, Settings], frozenset[str]] = {}, frozenset()
        self._names: dict[Path, str] = {}
        self._links: dict[Path, Path] = {}
        self._files: dict[Path, bytes] = {}

    def refresh(self) -> list[str]:
        """Follow runs that began, ended or changed; return all runs' names, in the order found."""
        found = find_events(self._root)
        runs: dict[Path, Settings] = {}
        tags: set[str] = set()
        for run in found.runs:
            settings = self._reading(run.path / "config.yaml", _read_settings)
            if settings is not None:
                runs[run.path] = settings
                tags |= set(self._reading(run.path / "metrics.parquet", _read_columns) or ())
        files = self._files
        if (runs, tags) != self._seen:
            self._seen = runs, frozenset(tags)
            self._names = view_names(self._root, runs)
            files = {Path(self._names[run]) / _FIRST_FILE: self._row(run) for run in runs}
            files |= _shared(list(runs.values()), tags) if runs else {}
        links = {
            self._place(folder) / file.name: file
            for folder, events in found.events.items()
            for file in events
        }
        self._write(links, files)
        return list(self._names.values())

    def _reading(self, path: Path, read: Callable[[Path], Any]) -> Any:
        """What ``read`` makes of a file, once for each change of it; None where there is none.

        Raises ConfigError for one that is damaged.
        """
        try:
            changed_ns = path.stat().st_mtime_ns
            if self._read.get(path, (None,))[0] != changed_ns:
                self._read[path] = changed_ns, read(path)
        except FileNotFoundError:
            return None
        except DAMAGE as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"runs: '{path}' cannot be read: {reason}; copy it once more, or delete its run"
            ) from None
        return self._read[path][1]

    def _row(self, run: Path) -> bytes:
        row = settings_summary(self._names[run], self._seen[0][run])
        return events_of([row], time_s=self._read[run / "config.yaml"][0] / 1e9)

    def _place(self, folder: Path) -> Path:
        """Where the view has what is in ``folder``: below its run, or where it is below root."""
        for above in (folder, *folder.parents):
            if above in self._names:
                return Path(self._names[above]) / folder.relative_to(above)
        return folder.relative_to(self._root)

    def _write(self, links: Mapping[Path, Path], files: Mapping[Path, bytes]) -> None:
        """Add what is new before what is gone goes; a file of ours is never written twice.

        Ours come first: TensorBoard may read between any two steps, and keeps the first it reads.
        """
        draft = self._folder / ".draft"
        for place in files.keys() - self._files.keys():
            draft.write_bytes(files[place])
            (self._folder / place).parent.mkdir(parents=True, exist_ok=True)
            draft.replace(self._folder / place)
        for place, target in links.items():
            if self._links.get(place) != target:
                path = self._folder / place
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                path.symlink_to(target)
        for place in (self._links.keys() | self._files.keys()) - (links.keys() | files.keys()):
            self._remove(place)
        self._links, self._files = dict(links), dict(files)

    def _remove(self, place: Path) -> None:
        (self._folder / place).unlink()
        for above in place.parents[:-1]:
            if any((self._folder / above).iterdir()):
                return
            (self._folder / above).rmdir()


def view_names(root: Path, runs: Mapping[Path, Settings]) -> dict[Path, str]:
    """Each run's name in a view of ``root``: below its experiment's folder, what sets it apart.

    Runs are compared within an experiment, or a sweep; where these lie tells those apart.
    """
    experiments: defaultdict[Path, dict[str, Path]] = defaultdict(dict)
    for run in runs:
        key = f"{run.parent.name}-{run.name.removeprefix('seed-')}"
        experiments[run.parent.parent][key] = run
    names: dict[Path, str] = {}
    for folder, members in experiments.items():
        above = folder.relative_to(root) if folder.is_relative_to(root) else Path()
        for key, name in run_names({key: runs[run] for key, run in members.items()}).items():
            names[members[key]] = str(above / name)
    return names


def _read_settings(path: Path) -> Settings:
    settings = settings_of(parse_config(path.read_text(encoding="utf-8")))
    note = Note.of(RunFolder(path.parent))
    return settings | ({"trial": trial_name(note.number)} if note else {})


def _read_columns(path: Path) -> Sequence[str]:
    import pyarrow.parquet as pq

    return pq.read_schema(path).names


def _shared(runs: Sequence[Settings], tags: Iterable[str]) -> dict[Path, bytes]:
    content = events_of([columns_summary(runs), layout_summary(tags)], time_s=_LAST_S)
    digest = hashlib.sha256(content).hexdigest()[:6]
    return {Path(f"~comparison-{digest}") / _FIRST_FILE: content}
