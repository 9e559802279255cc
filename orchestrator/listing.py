"""Records as tables for people. Imports neither torch nor ray, so that it is there at once."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill.loading import ConfigError
from distill.storage import cache_folder, own_cache, signals_root
from orchestrator.identity import Identity
from orchestrator.inventory import RecordingSummary, list_recordings, remove, resolve_key
from orchestrator.mirror import Mirror
from orchestrator.remote import check_remote, is_remote

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.verification import Verification

_KEY_SHOWN = 10  # digits: more than --remove needs
_DATA = "data and views"
_FOLDED = (_DATA, "signal")  # columns that give way on a narrow terminal
_NONE = "–"
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def look_after(root: str | None, *, shows: bool, removed: Sequence[str]) -> int:
    """``cache --list`` and ``cache --remove``; returns the exit status. Raises ConfigError."""
    from rich.console import Console

    try:
        place = open_root(root or default_root())
        if shows:
            Console().print(recordings_table(list_recordings(place), root=place))
            return 0
        for key in dict.fromkeys([resolve_key(place, text) for text in removed]):
            print(f"{key}: removed, {remove(place, key):,} bytes freed", flush=True)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def default_root() -> str:
    """Where records lie unless ``signals.root`` or ``data.cache_dir`` say otherwise."""
    return signals_root() or str(cache_folder() / "signals")


def open_root(text: str) -> Path | Mirror:
    """A store's root by its folder or URL. Raises ValueError and RemoteError for a wrong URL."""
    if not is_remote(text):
        return Path(text)
    check_remote(text)
    return Mirror(text, own_cache() / "mirrors")


def recordings_table(recordings: Sequence[RecordingSummary], *, root: Path | Mirror) -> Table:
    """One row a signal, a teacher's first with its key, data, bytes and last use."""
    table = _table(("key", "teacher", _DATA, "signal", "passes", "bytes", "last use"))
    for recording in recordings:
        identity = recording.identity
        described = f"{describe_data(identity)}\n{describe_views(identity)}"
        used = time.strftime("%Y-%m-%d", time.localtime(recording.last_used_s))
        whole = (recording.key[:_KEY_SHOWN], identity.architecture, described)
        for column in recording.columns or (None,):
            signal = f"{column.spec} {column.codec}" if column else _NONE
            passes = describe_passes(column.passes) if column else _NONE
            first = column is None or column is recording.columns[0]
            size = f"{recording.num_bytes:,}" if first else ""
            _add(table, *(whole if first else ("", "", "")), signal, passes, size, used * first)
    total = sum(recording.num_bytes for recording in recordings)
    table.caption = f"{total:,} bytes in {len(recordings)} recordings in {root}"
    return table


def describe_data(identity: Identity) -> str:
    """``4,500 samples 1a2b3c4d``: the digits begin the split's fingerprint."""
    return f"{identity.num_samples:,} samples {identity.split[:8]}"


def describe_views(identity: Identity) -> str:
    """``crop_flip flip=true padding=2 seed=0``, the seed being the passes'."""
    settings = {name: value for name, value in identity.views.items() if name != "kind"}
    shown = "".join(f" {name}={json.dumps(value)}" for name, value in sorted(settings.items()))
    return f"{identity.views.get('kind', '')}{shown} seed={identity.plan_seed}"


def describe_passes(passes: Sequence[int]) -> str:
    """Whole passes with their ranges: ``5: 0-3 7``."""
    if not passes:
        return "0"
    ranges: list[list[int]] = []
    for index in passes:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    texts = (f"{first}" if first == last else f"{first}-{last}" for first, last in ranges)
    return f"{len(passes)}: {' '.join(texts)}"


def print_verification(verification: Verification) -> None:
    """The table of findings, a line for each part that was set aside, and the verdict."""
    from rich.console import Console

    findings = verification.findings
    Console().print(findings_table(verification))
    for line in verification.damaged:
        print(line)
    num_parts = sum(finding.num_parts for finding in findings)
    if verification.damaged:
        num_damaged = len(verification.damaged)
        print(f"damaged: {num_damaged} parts set aside; `cache` records them anew")
    elif verification.found_nothing:
        print("nothing of this experiment is recorded; `cache` records it")
    else:
        num_samples = max(len(finding.errors) for finding in findings)
        print(
            f"well: {num_parts:,} parts as written, and up to {num_samples:,} samples of each "
            "signal as its teacher answers now"
        )


def findings_table(verification: Verification) -> Table:
    """One row a signal: what there is, and how far the teacher's answers of today are from it."""
    headings = ("teacher", "signal", "parts", "samples", "largest", "mean", "promised", "")
    table = _table(headings)
    for finding in verification.findings:
        errors = finding.errors
        numbers = (max(errors), sum(errors) / len(errors), finding.promised) if errors else ()
        shown = [f"{number:.1e}" for number in numbers] or [_NONE] * 3
        verdict = "DIFFERS" if finding.exceeds else "agrees" if errors else "not recorded"
        signal = f"{finding.signal.spec} {finding.signal.codec}"
        counts = (f"{finding.num_parts:,}", f"{len(errors):,}")
        _add(table, finding.teacher, signal, *counts, *shown, verdict)
    kinds = dict.fromkeys(finding.error_kind for finding in verification.findings)
    table.caption = f"errors: {'; '.join(kinds)}"
    return table


def _table(headings: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        right = heading in ("bytes", "parts", "samples", "largest", "mean", "promised")
        table.add_column(
            heading,
            justify="right" if right else "left",
            no_wrap=heading not in _FOLDED,
            overflow="fold",
        )
    return table


def _add(table: Table, *cells: str) -> None:
    from rich.text import Text

    # As they are, for a name may look like markup; but a stranger's may hold a terminal's commands.
    table.add_row(*(Text(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", cell)) for cell in cells))
