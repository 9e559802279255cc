"""Probabilistic knowledge transfer: how much it counts beside plain distillation."""

from ray import tune

SPACE = {
    "method": "pkt",
    "method.transfer_weight": tune.loguniform(300.0, 100000.0),
    "method.kd_weight": tune.choice([0.0, 1.0]),
}
