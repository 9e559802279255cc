"""ATSC: how fast everything learns, and how far teachers may move."""

from ray import tune

SPACE = {
    "method": "atsc",
    "method.penalty": tune.loguniform(0.1, 100.0),
    "method.feature_weight": tune.loguniform(0.3, 10.0),
    "optimizer.lr": tune.loguniform(0.003, 0.1),
}
