"""MMKD: the weights of logits and features, and how often the weights of teachers learn."""

from ray import tune

SPACE = {
    "method": "mmkd",
    "method.alpha": tune.loguniform(0.3, 3.0),
    "method.beta": tune.loguniform(3.0, 300.0),
    "method.meta_every": tune.choice([5, 10, 20]),
    "method.meta_lr": tune.loguniform(1e-4, 1e-2),
}
