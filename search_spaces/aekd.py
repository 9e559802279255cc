"""Gradient-agreement weights of teachers: softness, and how far one may be left out."""

from ray import tune

SPACE = {
    "method": "aekd",
    "method.temperature": tune.choice([1.0, 2.0, 4.0, 8.0]),
    "method.kd_weight": tune.loguniform(0.25, 4.0),
    "method.tolerance": tune.uniform(0.4, 1.0),
}
