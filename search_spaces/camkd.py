"""Confidence weights of teachers: softness, and the weight of their features."""

from ray import tune

SPACE = {
    "method": "camkd",
    "method.temperature": tune.choice([2.0, 4.0, 8.0]),
    "method.feature_weight": tune.loguniform(1.0, 100.0),
}
