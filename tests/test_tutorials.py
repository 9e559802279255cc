"""The phone's tutorial: what its page names can be built."""

from __future__ import annotations

import yaml

from tests.networks import build
from tests.tutorial_world import CLASSES, phone_yaml


def test_the_teachers_of_the_page_can_be_built() -> None:
    page = yaml.safe_load(phone_yaml())
    size = page["data"]["image_size"]
    widths = [
        build(
            teacher["arch"], num_classes=len(teacher.get("classes", CLASSES)), image_size=size
        ).classifier.out_features
        for teacher in page["teachers"]
    ]
    assert widths == [3, 3, 5]
