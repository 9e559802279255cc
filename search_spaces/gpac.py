"""GPAC: the corrector and its strength λ, and the three levels of attention's weight."""

from ray import tune

SPACE = {
    # Every stage from the first teacher; `tutelage probe` finds better assignments.
    "method": {"name": "gpac", "assignment": "s1:t0,s2:t0,s3:t0", "levels": [1.0, 0.5, 0.1]},
    "method.corrector": tune.choice(["blend", "scale", "none"]),
    "method.strength": tune.uniform(0.1, 1.0),
    "method.attention_weight": tune.loguniform(10.0, 3000.0),
    "method.levels[1]": tune.uniform(0.2, 1.5),
    "method.levels[2]": tune.uniform(0.0, 2.0),
}
