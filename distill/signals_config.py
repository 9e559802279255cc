"""What an experiment says about its teachers' signals."""

from __future__ import annotations

from typing import Literal, Self, final

from pydantic import Field, PositiveInt, model_validator

from distill.frozen import Frozen
from distill.storage import AnchoredPath, AnchoredRoot, signals_root


@final
class Signals(Frozen):
    """Where teachers' signals come from, and how they are kept."""

    source: Literal["cached", "served", "local"] = "cached"
    # A folder, or a URL that fsspec opens: s3://bucket/prefix. Default: $TUTELAGE_SIGNALS, else
    # signals in $TUTELAGE_CACHE or ~/.cache/tutelage.
    root: AnchoredRoot = Field(default_factory=signals_root)
    # Of a URL, each node's copies. Default: mirrors beside signals.
    mirror: AnchoredPath | None = None
    mirror_bytes: PositiveInt | None = None  # of copies on a node; default: all are kept
    passes: PositiveInt | None = None  # passes to record, reused in turn; default: one an epoch
    plan_seed: int = 0
    ahead: PositiveInt = 2  # epochs that recording may be ahead of training, with retain: window
    retain: Literal["all", "window"] = "all"  # window: delete passes that every run has left
    part_size: PositiveInt = Field(default=4096, multiple_of=4096)
    precision: Literal["float32", "bfloat16"] = "float32"
    codec: str = "float16"
    codecs: dict[str, str] = Field(default={})  # by signal: {"logits": "top10", "stage3": "int8"}

    @model_validator(mode="after")
    def _mirrors_a_url(self) -> Self:
        if "://" in self.root:
            return self
        for name in ("mirror", "mirror_bytes"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name}: records in a folder are read in place, not mirrored; leave it out, "
                    "or set root to a URL such as s3://bucket/prefix"
                )
        return self
