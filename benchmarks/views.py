"""How fast views render, beside torchvision's transforms called once an image.

``python -m benchmarks.views [--quick] [--json FILE]`` prints a table of medians, all from one run,
and writes them as one flat JSON object. "torchvision" is RandomCrop(32, padding=4) and
RandomHorizontalFlip on each image, as tensors and as PIL images, stacked to a batch again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.common import Results, arguments, interleaved, median, median_ratio, report, seconds
from distill.views import CropFlip, RandomAugment, epoch_order, pass_views


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


def measure(*, batch_size: int, num_samples: int, num_rounds: int) -> Results:
    """Microseconds an image (or sample) of everything, and torchvision's over ``crop_flip``'s."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch_size, 3, 32, 32), dtype=np.uint8)
    indices = np.arange(num_samples)
    calls: dict[str, tuple[Callable[[], object], int]] = {}
    for space in (CropFlip(), RandomAugment(num_views=1000)):
        views = generator.integers(0, space.num_views, batch_size)
        calls[space.kind] = lambda s=space, v=views: s.render(images, v), batch_size
    for name, call in torchvision_calls(images).items():
        calls[name] = call, batch_size
    calls["pass_views"] = (
        lambda: pass_views(indices, pass_index=3, num_views=162, seed=0),
        num_samples,
    )
    calls["epoch_order"] = lambda: epoch_order(num_samples, seed=0, epoch=3), num_samples
    rounds = interleaved(
        {n: lambda c=call, k=count: seconds(c) / k * 1e6 for n, (call, count) in calls.items()},
        num_rounds=num_rounds,
    )
    results = Results()
    for name in calls:
        results.add(f"{name}_us", median(rounds, name), "an image (or sample)")
    for name in ("torchvision_tensor", "torchvision_pil"):
        results.add(f"{name}_over_crop_flip", median_ratio(rounds, name, "crop_flip"))
    return results


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(__doc__).parse_args(argv)
    results = measure(
        batch_size=128 if options.quick else 512,
        num_samples=10_000 if options.quick else 50_000,
        num_rounds=5 if options.quick else 21,
    )
    report("Rendering views", results, json_file=options.json)


if __name__ == "__main__":
    main()
