"""A plan of an experiment: what is left to do, a probe of this machine, and how long that takes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import torch

from distill.config import Experiment
from distill.loading import ConfigError
from orchestrator.cluster_spec import ClusterSpec
from orchestrator.estimates import estimate
from orchestrator.fitting import misfits_beside, room_for_trials
from orchestrator.forecast import Forecast, forecast
from orchestrator.loads import Terms, uses_gpus, workload_of
from orchestrator.planning import Agenda, agenda
from orchestrator.preparation import store_root
from orchestrator.recording import Serving
from orchestrator.remote import is_remote
from orchestrator.speed_probe import PROBE_S, Speeds, measure
from orchestrator.students import StudentJob
from orchestrator.workload import Workload


def plan_experiment(
    experiment: Experiment, spec: ClusterSpec | None = None, *, seconds: float = PROBE_S
) -> Terms:
    """What is left of a checked experiment, and the speeds that ``spec`` does not give, measured.

    Writes nothing that stays, and starts no Ray. Raises ConfigError, StoreError and OSError.
    """
    found = agenda(experiment)
    servings, jobs = _unknown(found, spec)
    if uses_gpus(experiment) and not torch.cuda.is_available():
        _refuse_to_measure(servings, jobs)
    speeds = Speeds({}, {}, None)
    if servings or jobs:
        store = store_root(experiment) if found.records else None
        speeds = measure(servings, jobs, store=store, seconds=seconds)
    return Terms(found, speeds, spec)


def forecast_of(terms: Terms) -> Forecast:
    """How long what is left takes where ``terms`` says."""
    load, site = workload_of(terms), terms.site
    if terms.spec is not None:
        return forecast(load, site, terms.spec)
    cpus, gpus = terms.resources
    room = room_for_trials(load.workers, cpus=cpus, gpus=gpus)
    misfits = (*_disk(terms.experiment, load), *misfits_beside(load))
    return Forecast(load, site, estimate(load, site), misfits, room)


def _unknown(found: Agenda, spec: ClusterSpec | None) -> tuple[list[Serving], list[StudentJob]]:
    """The teachers and runs whose speeds matter and are not given."""
    teachers = set(spec.figures.teachers if spec else ())
    methods = set(spec.figures.students if spec else ())
    asked = {*found.unmeasured, *(r.teacher for r in found.records if r.missing)}
    if found.experiment.signals.source == "served":
        asked |= {recording.teacher for job in found.todo for recording in job.recordings}
    servings = [t.serving for t in found.teachers if t.name in asked - teachers]
    return servings, [*(j for j in found.todo if j.method.name not in methods), *found.trainings]


def _refuse_to_measure(servings: Sequence[Serving], jobs: Sequence[StudentJob]) -> None:
    """Raise ConfigError where something would be measured on CPUs that is to run on GPUs."""
    names = [f"teachers.{serving.recording.teacher}" for serving in servings]
    names += [f"students.{job.method.name}" for job in jobs]
    if names:
        raise ConfigError(
            "figures: this machine has no GPU to measure images/s on; give them in the file of "
            f"--cluster: {', '.join(dict.fromkeys(names))}"
        )


def _disk(experiment: Experiment, load: Workload) -> list[str]:
    """Records must fit the disk that they are to lie on; a window keeps a few passes alone."""
    root = store_root(experiment)
    if is_remote(root) or load.ahead is not None:
        return []
    place = os.path.abspath(root)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    free = shutil.disk_usage(place).free
    if load.record_bytes <= free:
        return []
    a_pass = load.store_bytes / load.num_passes
    return [
        f"signals.root: {load.record_bytes / 1e9:,.1f} GB to write, and '{place}' has "
        f"{free / 1e9:,.1f} GB free; signals.passes: {int(free / a_pass)} fit, or a codec such as "
        "top10, or retain: window"
    ]
