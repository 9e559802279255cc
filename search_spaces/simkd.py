"""The teacher's classifier on a projected student: how wide the projector's middle is."""

from ray import tune

SPACE = {
    "method": "simkd",
    "method.factor": tune.choice([1, 2, 4]),
    "method.feature_weight": tune.loguniform(0.3, 10.0),
}
