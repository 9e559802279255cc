"""Similarity-preserving distillation: how much it counts beside plain distillation."""

from ray import tune

SPACE = {
    "method": "sp",
    "method.similarity_weight": tune.loguniform(30.0, 10000.0),
    "method.kd_weight": tune.choice([0.0, 1.0]),
}
