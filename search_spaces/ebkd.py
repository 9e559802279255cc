"""Entropy-based weights of teachers: softness, and how much they count."""

from ray import tune

SPACE = {
    "method": "ebkd",
    "method.temperature": tune.choice([1.0, 2.0, 4.0, 8.0]),
    "method.kd_weight": tune.loguniform(0.25, 4.0),
}
