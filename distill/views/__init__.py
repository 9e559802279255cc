"""A view is an integer: enumerable, replayable augmentations, and the plan of what a pass shows.

``(sample, view)`` names an input for ever, so that a teacher's answer to it can be recorded once.
Nothing here imports torch; everything is a pure function of its arguments on every machine.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from distill.views.augment import RandomAugment
from distill.views.plan import epoch_order, pass_views
from distill.views.spaces import CropFlip, Identity

ViewSpace = Annotated[Identity | CropFlip | RandomAugment, Field(discriminator="kind")]

__all__ = ["CropFlip", "Identity", "RandomAugment", "ViewSpace", "epoch_order", "pass_views"]
