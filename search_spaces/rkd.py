"""Relational distillation: distances against angles."""

from ray import tune

SPACE = {
    "method": "rkd",
    "method.distance_weight": tune.loguniform(1.0, 100.0),
    "method.angle_weight": tune.loguniform(2.0, 200.0),
}
