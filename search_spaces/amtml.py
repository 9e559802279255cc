"""AMTML-KD: softness, the share of distillation, hint groups, and how long the gate learns."""

from ray import tune

SPACE = {
    "method": "amtml",
    "method.temperature": tune.choice([2.0, 5.0, 8.0]),
    "method.alpha": tune.uniform(0.3, 0.9),
    "method.angle_weight": tune.loguniform(0.1, 10.0),
    "method.hint_weight": tune.loguniform(0.1, 10.0),
    "method.hint_groups": tune.choice(["", "all", "none"]),
    "method.gate_epochs": tune.choice([2, 5, 10, 60]),
}
