"""The student's size, under whatever method the experiment has."""

from ray import tune

SPACE = {
    "student.arch": tune.choice(["cnn_xxs", "cnn_xs", "cnn_s", "dscnn_xs", "dscnn_s"]),
    "optimizer.lr": tune.loguniform(0.01, 0.2),
}
