"""How one training step updates the weights. Which learner trains a method, the method says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from distill.learners.adaptive_teacher import AdaptiveTeacherLearner
from distill.learners.base import Compute, Learner, build_optimizer
from distill.learners.bilevel import BilevelLearner
from distill.learners.standard import StandardLearner

__all__ = [
    "LEARNERS",
    "AdaptiveTeacherLearner",
    "BilevelLearner",
    "Compute",
    "Learner",
    "StandardLearner",
    "build_optimizer",
]

LEARNERS: Mapping[str, Callable[..., Learner]] = {
    "standard": StandardLearner,
    "bilevel": BilevelLearner,
    "adaptive_teacher": AdaptiveTeacherLearner,
}
