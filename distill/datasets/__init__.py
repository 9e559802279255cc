"""Samples by name: images in uint8, memory-mapped, cut into train, validation and test.

``describe`` says what a data set is like without decoding it; ``load_data`` opens it. A data set is
one file here with ``describe(config)`` and ``open_source(config)``. Nothing here imports torch.
"""

from __future__ import annotations

from distill.datasets.config import DataConfig, DataInfo, cache_root
from distill.datasets.load import Data, describe, load_data
from distill.datasets.splits import Split

__all__ = ["Data", "DataConfig", "DataInfo", "Split", "cache_root", "describe", "load_data"]
