"""Hints: which stage gives them, and how much they count."""

from ray import tune

SPACE = {
    "method": "fitnet",
    "method.stage": tune.choice([1, 2, 3]),
    "method.hint_weight": tune.loguniform(1.0, 300.0),
}
