"""Attention transfer: how much it counts beside plain distillation."""

from ray import tune

SPACE = {
    "method": "at",
    "method.attention_weight": tune.loguniform(10.0, 3000.0),
    "method.kd_weight": tune.choice([0.0, 1.0]),
}
