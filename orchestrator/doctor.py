"""``tutelage doctor``: what this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from distill.config import Experiment
from distill.datasets import cache_root
from distill.loading import ConfigError
from orchestrator.findings import Finding, missing, note, well
from orchestrator.installation import packages
from orchestrator.machine_checks import (
    devices,
    folders,
    object_store,
    ports,
    temporary_folder,
)
from orchestrator.preflight import check
from orchestrator.remote import is_remote, open_remote

_LABELS = {"well": "well   ", "note": "note   ", "missing": "MISSING"}


def examine(experiment: Experiment, output: TextIO) -> bool:
    """Look at everything that ``experiment`` needs of this machine, printing what is found.

    Returns whether nothing is missing; a note is no fault. The quick looks come first, then Ray is
    started for a moment, or joined where RAY_ADDRESS names a cluster.
    """
    rooms: dict[str, Callable[[], Iterator[Finding]]] = {
        "packages": packages,
        "devices": devices,
        "storage": lambda: _storage(experiment),
        "ports": ports,
        "Ray": _ray,
        f"experiment {experiment.name}": lambda: _experiment(experiment),
    }
    is_well = True
    for name, look in rooms.items():
        print(name, file=output, flush=True)
        for finding in look():
            is_well &= finding.state != "missing"
            print(f"  {_LABELS[finding.state]}  {finding.text}", file=output)
            if finding.mend:
                print(f"           → {finding.mend}", file=output)
            output.flush()
    return is_well


def _storage(experiment: Experiment) -> Iterator[Finding]:
    from orchestrator.preparation import store_root

    root = store_root(experiment)
    wanted = {
        "data": cache_root(experiment.data),
        "runs": experiment.output.root,
        "signals": None if is_remote(root) else Path(root),
    }
    yield from folders({what: path for what, path in wanted.items() if path is not None})
    if is_remote(root):
        yield _url(root)
    yield from temporary_folder()
    yield from object_store()


def _url(root: str) -> Finding:
    """Whether records can be kept at a URL: written, listed and removed."""
    name = f".doctor-{os.getpid()}"
    try:
        remote = open_remote(root)
        begin = time.perf_counter()
        remote.write(name, b"written by tutelage doctor")
        remote.remove(name)
    except (ValueError, OSError) as error:
        return missing(f"signals: {error}")
    milliseconds = 1e3 * (time.perf_counter() - begin)
    return well(
        f"signals: {root} can be written; a write and its removal took {milliseconds:.0f} ms"
    )


def _ray() -> Iterator[Finding]:
    """Ray as the other commands use it: started here, or the cluster that RAY_ADDRESS names."""
    from orchestrator.session import check_state_api, ray_session

    address, begin = os.environ.get("RAY_ADDRESS"), time.perf_counter()
    try:
        with ray_session(dashboard=True):
            import ray

            seconds = time.perf_counter() - begin
            how = f"joined {address}" if address else "started here"
            yield well(f"{how} in {seconds:.1f} s, with {_resources(ray.cluster_resources())}")
            for node in ray.nodes():
                if not node["Alive"]:
                    yield note(f"node {node['NodeManagerAddress']} is dead")
            try:
                check_state_api()
            except ConfigError as error:
                yield missing(str(error))
            else:
                yield well("the State API answers; sweeps may have trials of several workers")
    except Exception as error:  # bare: what Ray raises when its processes are too slow to start
        first = (str(error).strip() or repr(error)).splitlines()[0]
        yield missing(
            f"Ray cannot be {'joined' if address else 'started'}: {first}",
            f"see that `ray status --address {address}` answers, or unset RAY_ADDRESS"
            if address
            else "close programs that hold the machine's memory or CPUs, and try again",
        )


def _resources(resources: Mapping[str, float]) -> str:
    shown = {"CPU": "CPUs", "GPU": "GPUs"}
    found = [f"{resources[kind]:g} {name}" for kind, name in shown.items() if resources.get(kind)]
    memory = resources.get("object_store_memory", 0)
    return ", ".join([*found, f"{memory / 1e9:.1f} GB for objects"])


def _experiment(experiment: Experiment) -> Iterator[Finding]:
    """What the experiment itself asks for, as ``train`` would answer before it begins."""
    try:
        info = check(experiment)
    except ConfigError as error:
        yield from (missing(line) for line in str(error).splitlines())
        return
    yield well(
        f"{len(experiment.teachers)} teachers and a student for images of {info.in_channels} × "
        f"{info.image_size} × {info.image_size} in {info.num_classes} classes: `train` would begin"
    )
