"""How fast views render, beside torchvision's transforms called once an image.

``python -m benchmarks.views [--quick] [--json FILE]`` prints a table of medians, all from one run,
and writes them as one flat JSON object. "torchvision" is RandomCrop(32, padding=4) and
RandomHorizontalFlip on each image, as tensors and as PIL images, stacked to a batch again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from distill.views import CropFlip, RandomAugment, epoch_order, pass_views


def median_us(call: Callable[[], object], *, num_items: int, num_repeats: int) -> float:
    """Median microseconds an item over ``num_repeats`` calls, after one call to warm up."""
    call()
    seconds: list[float] = []
    for _ in range(num_repeats):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds) / num_items * 1e6


def torchvision_calls(images: np.ndarray) -> dict[str, Callable[[], object]]:
    """The same augmentation by torchvision, image by image: on tensors and on PIL images."""
    import torch
    from PIL import Image
    from torchvision import transforms

    size = images.shape[-1]
    flow = transforms.Compose(
        [transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip()]
    )
    tensors = torch.from_numpy(images)
    pictures = [Image.fromarray(np.ascontiguousarray(i.transpose(1, 2, 0))) for i in images]
    return {
        "torchvision_tensor": lambda: torch.stack([flow(tensor) for tensor in tensors]),
        "torchvision_pil": lambda: np.stack([np.asarray(flow(p)) for p in pictures]),
    }


def measure(*, batch_size: int, num_samples: int, num_repeats: int) -> dict[str, float]:
    """Microseconds an image (or sample) of everything, and torchvision's over ``crop_flip``'s."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch_size, 3, 32, 32), dtype=np.uint8)
    indices = np.arange(num_samples)
    calls: dict[str, Callable[[], object]] = {}
    for space in (CropFlip(), RandomAugment(num_views=1000)):
        views = generator.integers(0, space.num_views, batch_size)
        calls[space.kind] = lambda space=space, views=views: space.render(images, views)
    calls |= torchvision_calls(images)
    results = {
        f"{name}_us": median_us(call, num_items=batch_size, num_repeats=num_repeats)
        for name, call in calls.items()
    }
    plans: dict[str, Callable[[], object]] = {
        "pass_views": lambda: pass_views(indices, pass_index=3, num_views=162, seed=0),
        "epoch_order": lambda: epoch_order(num_samples, seed=0, epoch=3),
    }
    for name, call in plans.items():
        cost = median_us(call, num_items=num_samples, num_repeats=num_repeats)
        results[f"{name}_us"] = cost
    for name in ("torchvision_tensor", "torchvision_pil"):
        results[f"{name}_over_crop_flip"] = results[f"{name}_us"] / results["crop_flip_us"]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats and samples")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    results = measure(
        batch_size=128 if arguments.quick else 512,
        num_samples=10_000 if arguments.quick else 50_000,
        num_repeats=5 if arguments.quick else 21,
    )
    for name, value in results.items():
        unit = "times" if name.endswith("_over_crop_flip") else "µs an image (or sample)"
        print(f"{name:36} {value:10.2f} {unit}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
