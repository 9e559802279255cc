"""Whether a cluster's nodes see the folders that a job's processes meet in."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from distill.config import Experiment
from distill.loading import ConfigError
from distill.storage import STORAGE
from orchestrator.preparation import store_root
from orchestrator.remote import is_remote

NODE_S = 120  # for a node to answer: its first worker process imports Ray
SEEN_S = 15.0  # a network file system may tell of a new file that late


def check_shared_folders(experiment: Experiment) -> None:
    """Raise ConfigError naming a folder that some node of several does not share with this one.

    What is written there would lie on that node's disk alone, or not be found. On one node nothing
    is looked at. Raises TimeoutError naming a node that does not answer.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    others = {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here
    }
    if not others:
        return
    root = store_root(experiment)
    folders = {"output.root": experiment.output.root}
    if experiment.signals.source == "cached" and not is_remote(root):
        folders["signals.root"] = Path(root)
    with ExitStack() as stack:
        marks = {field: stack.enter_context(_Mark(path)).path for field, path in folders.items()}
        found = asked(others, list(marks.values()))
    for node, seen in found.items():
        for (field, mark), sees in zip(marks.items(), seen, strict=True):
            if not sees:
                raise ConfigError(
                    f"{field}: node {others[node]} does not share the folder {mark.parent} with "
                    f"this one; name one that every node mounts, by {STORAGE} for all (cluster.yaml"
                    f" sets it on every node) or by {field} for this"
                )


class _Mark:
    """A file with a name of its own in a folder, while the context lasts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self.path = self._folder / f".seen-{uuid.uuid4().hex}"

    def __enter__(self) -> _Mark:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)


def asked(nodes: Mapping[str, str], marks: list[Path]) -> dict[str, list[bool]]:
    """Which marks each node sees; nothing of a node that is lost meanwhile.

    ``nodes`` are addresses by id. Raises TimeoutError naming a live one that does not answer, and
    what it raised where it could not look.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(visible)
    tasks = {
        node: look.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        ).remote(marks, SEEN_S)
        for node in nodes
    }
    found: dict[str, list[bool]] = {}
    for node, task in tasks.items():
        try:
            found[node] = ray.get(task, timeout=NODE_S)
        except GetTimeoutError:
            raise TimeoutError(
                f"node {nodes[node]} is alive and has not answered for {NODE_S} s whether it sees "
                f"{marks[0].parent}; a storage that hangs there does this, and so does a full "
                "machine: look at it, or take it out of the cluster by `ray stop` there"
            ) from None
        except RayTaskError:  # it is there, and could not look
            raise
        except RayError:  # it is lost, and cannot be asked to do anything else, either
            continue
    return found


def visible(paths: list[Path], patience_s: float) -> list[bool]:
    """Which of the files are there, waiting for those that are not."""
    end = time.monotonic() + patience_s
    while not all(path.exists() for path in paths) and time.monotonic() < end:
        time.sleep(0.2)
    return [path.exists() for path in paths]
