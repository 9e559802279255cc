"""Plain distillation: how soft the targets are, and how much they count."""

from ray import tune

SPACE = {
    "method": "kd",
    "method.temperature": tune.choice([1.0, 2.0, 4.0, 8.0]),
    "method.kd_weight": tune.loguniform(0.25, 4.0),
}
