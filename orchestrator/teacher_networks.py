"""A teacher's network with its weights, and with the data's classes as its only ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from distill.class_maps import check_stored, class_map
from distill.config import Experiment, Teacher
from distill.datasets import Data, load_data
from distill.loading import ConfigError
from distill.models import build_model
from distill.models.base import TappedModel, evaluating
from distill.models.catalog import find
from distill.models.checkpoints import load_weights, stored_classes
from distill.models.class_subset import cut_classes
from distill.signals import Taps
from distill.taps import maps_of
from orchestrator.students import Classifier
from orchestrator.teacher_checks import checkpoint_path


def own_data(teacher: Teacher, data: Data) -> Data:
    """What a teacher is trained on; ``data`` is the experiment's."""
    return load_data(teacher.training.data) if teacher.training.data else data


def image_shape(data: Data) -> tuple[int, int]:
    """Channels, and pixels a side."""
    return data.train.images.shape[1], data.train.images.shape[-1]


def build_network(
    arch: str,
    options: Mapping[str, Any],
    data: Data,
    *,
    taps: Sequence[str] = (),
    num_classes: int | None = None,
) -> TappedModel:
    """A fresh network for the data's images and, unless ``num_classes`` says otherwise, classes."""
    channels, size = image_shape(data)
    return build_model(
        arch,
        num_classes=data.num_classes if num_classes is None else num_classes,
        in_channels=channels,
        image_size=size,
        options=options,
        taps=taps,
    )


def load_teacher(teacher: Teacher, data: Data, checkpoint: Path) -> TappedModel:
    """The network with its weights; its classes are the data's. Raises ConfigError naming it."""
    try:
        return _load(teacher, data, checkpoint)
    except ValueError as error:
        raise ConfigError(f"teacher '{teacher.name}': {error}") from None


def _load(teacher: Teacher, data: Data, checkpoint: Path) -> TappedModel:
    """What is cut is loaded into a network of C classes: so actors and workers build it, too."""
    own = own_data(teacher, data).class_names if teacher.training.data else None
    found = class_map(teacher, data.class_names, own)
    network = build_network(teacher.arch, teacher.options, data, taps=teacher.taps)
    if found.outputs is None:
        load_weights(network, checkpoint)
        return network
    stored = stored_classes(network, checkpoint)
    check_stored(teacher, found, stored, num_classes=data.num_classes)
    whole = build_network(
        teacher.arch, teacher.options, data, taps=teacher.taps, num_classes=stored
    )
    load_weights(whole, checkpoint)
    channels, size = image_shape(data)
    cut_classes(whole, found.outputs, in_channels=channels, image_size=size)
    try:
        network.load_state_dict(whole.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"'{teacher.arch}' is another network for {data.num_classes} classes than for "
            f"{stored} with its last layer cut: {error}"
        ) from error
    return network


def check_networks(experiment: Experiment, data: Data) -> None:
    """Build what only building tells to be wrong, and load what is on file; all is dropped again.

    For the time before teachers are trained. Raises ConfigError.
    """
    with torch.random.fork_rng(devices=()):
        for teacher in experiment.teachers:
            file = checkpoint_path(teacher)
            if file is not None:
                load_teacher(teacher, data, file)
            elif find(teacher.arch) is None:
                _try(f"teacher '{teacher.name}'", teacher.arch, teacher.options, data, teacher.taps)
        student = experiment.student
        if find(student.arch) is None:
            _try("student", student.arch, student.options, data, student.taps)


def _try(who: str, arch: str, options: Mapping[str, Any], data: Data, taps: Sequence[str]) -> None:
    try:
        build_network(arch, options, data, taps=taps)
    except ValueError as error:
        raise ConfigError(f"{who}: {error}") from None


def classifier_of(teacher: Teacher, network: TappedModel, taps: Taps, data: Data) -> Classifier:
    """The last layer, held against the network itself: it must read its last map's mean.

    Raises ConfigError where it does not: on projected features it would answer nonsense.
    """
    try:
        linear = network.classifier
    except ValueError as error:
        raise ConfigError(f"teacher '{teacher.name}': {error}") from None
    last = maps_of(taps, network=f"teacher '{teacher.name}'")[-1]
    channels, size = image_shape(data)
    noise = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    with evaluating(network):
        output = network(noise)
        pooled = output.features[last].mean((2, 3))
        fits = pooled.shape[1] == linear.in_features
        if not fits or not torch.allclose(linear(pooled), output.logits, rtol=1e-3, atol=1e-3):
            raise ConfigError(
                f"teacher '{teacher.name}' ({teacher.arch}): its classifier does not read the mean "
                f"of its last map '{last}', as the method needs; end its taps with the map "
                "before global pooling, or take a teacher that has one"
            )
    bias = None if linear.bias is None else linear.bias.detach().numpy()  # pyright: ignore[reportUnnecessaryComparison]
    return Classifier(linear.weight.detach().numpy(), bias)
