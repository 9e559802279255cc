"""SGD's settings, under whatever method the experiment has."""

from ray import tune

SPACE = {
    "optimizer.name": "sgd",
    "optimizer.lr": tune.loguniform(0.005, 0.3),
    "optimizer.weight_decay": tune.loguniform(1e-5, 3e-3),
    "optimizer.nesterov": tune.choice([False, True]),
    "schedule.batch_size": tune.choice([32, 64, 128]),
}
