"""Open every file of a folder in little memory: ``python -m tests.little_memory FOLDER``.

Prints a JSON object: what was said of each file, or ``accepted``. The file's name up to ``-`` says
who reads it.
"""

from __future__ import annotations

import json
import resource
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from distill.datasets import DataConfig, load_data
from distill.datasets.cifar import read_pickle
from distill.datasets.fashion_mnist import read_idx
from distill.datasets.image_folder import decode
from distill.loading import load_experiment
from distill.models import build_model
from distill.models.checkpoints import load_weights
from orchestrator.inventory import list_recordings
from orchestrator.parts import verify_part

SPARE_BYTES = 200 << 20


def _load_weights(path: Path) -> object:
    model = build_model("cnn_xs", num_classes=10, in_channels=1, image_size=8, options={})
    load_weights(model, path)
    return None


def _load_cifar(path: Path) -> object:
    return load_data(DataConfig(name="cifar10", root=path, cache_dir=path / "cache"))


READERS: dict[str, Callable[[Path], object]] = {
    "weights": _load_weights,
    "idx": read_idx,
    "arrays": lambda path: load_data(DataConfig(name="arrays", file=path)),
    "image": lambda path: decode(path, size=224),
    "cifar": lambda path: _load_cifar(path) if path.is_dir() else read_pickle(path),
    "yaml": lambda path: load_experiment(str(path)),
    "part": verify_part,
    "store": list_recordings,
}


def main() -> None:
    warnings.simplefilter("ignore")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    said: dict[str, str] = {}
    for path in sorted(Path(sys.argv[1]).iterdir()):
        try:
            found = READERS[path.stem.partition("-")[0]](path)
            said[path.name] = str(found) if path.stem.startswith("part") else "accepted"
        except ValueError as error:
            said[path.name] = str(error)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
