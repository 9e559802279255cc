"""A teacher's test accuracy is measured once, filed beside its records, and looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from orchestrator.planning import agenda
from orchestrator.preparation import doubt, file_accuracy
from tests.helpers import two_teachers


def test_accuracy_on_file_is_not_measured_again(fashion: Path, tmp_path: Path) -> None:
    experiment = two_teachers(fashion, tmp_path)
    found = agenda(experiment)
    file_accuracy(found.teachers[0], found.data, 0.5)
    assert agenda(experiment).unmeasured == ("b",)


def test_a_teacher_that_knows_no_more_than_one_class_is_doubted(
    fashion: Path, tmp_path: Path
) -> None:
    found = agenda(two_teachers(fashion, tmp_path))
    one, other = found.teachers
    most = np.bincount(found.data.test.labels).max() / len(found.data.test)
    file_accuracy(one, found.data, float(most))
    file_accuracy(other, found.data, float(most) + 0.01)
    said = doubt(one, found.data)
    assert said is not None
    assert said.startswith(f"teacher 'a' is right on {most:.1%} of the test images")
    assert doubt(other, found.data) is None
