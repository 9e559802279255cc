"""Decoupled distillation: the weights of its two halves."""

from ray import tune

SPACE = {
    "method": "dkd",
    "method.temperature": tune.choice([1.0, 2.0, 4.0, 8.0]),
    "method.alpha": tune.loguniform(0.25, 4.0),
    "method.beta": tune.loguniform(0.5, 16.0),
}
