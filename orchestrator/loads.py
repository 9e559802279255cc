"""From what is left to do and what was measured or given, to a workload in numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from distill.config import Experiment
from distill.datasets import load_data
from distill.loading import ConfigError
from orchestrator.cluster_spec import ClusterSpec, Figures
from orchestrator.estimates import epoch, exchange_s, shared
from orchestrator.fitting import a_node_holds, fit_together, nodes_of
from orchestrator.forecast import site_of
from orchestrator.planning import Agenda, Records, epochs_left, row_bytes_of
from orchestrator.speed_probe import Speeds, StudentSpeed, key_of, num_threads
from orchestrator.students import StudentJob
from orchestrator.workload import Group, RunLoad, Site, TeacherLoad, Workload

# Starting takes processes' imports, most of all: in units of what one fresh process takes, as found
# on two cores with Ray 2.60.
COMMAND, SESSION, WORKERS, END = 1.4, 1.3, 3.8, 1.2
ACTORS = 1.7  # for as many at a time as there are cores
EPOCH_S = 0.15  # an epoch's report, checkpoint and events


@final
@dataclass(frozen=True, slots=True)
class Terms:
    """An experiment's work, its speeds, and where it runs: on this machine without ``spec``."""

    agenda: Agenda
    speeds: Speeds
    spec: ClusterSpec | None = None

    @property
    def experiment(self) -> Experiment:
        return self.agenda.experiment

    @property
    def figures(self) -> Figures:
        """What is given."""
        return self.spec.figures if self.spec else Figures()

    @property
    def speed(self) -> float:
        """Over this machine's."""
        return self.spec.nodes.speed if self.spec else 1.0

    @property
    def teachers(self) -> Mapping[str, float]:
        """Images/s of one actor, by name: given, else measured."""
        measured = {name: rate * self.speed for name, rate in self.speeds.teachers.items()}
        return measured | self.figures.teachers

    @property
    def site(self) -> Site:
        on_gpus = uses_gpus(self.experiment)
        if self.spec is not None:
            return site_of(self.spec, on_gpus=on_gpus)
        cpus, gpus = self.resources
        store = self.speeds.store
        return Site(
            capacity=(gpus if on_gpus else cpus) or 1.0,
            write_bytes_s=store.write_bytes_s if store else math.inf,
            part_s=store.part_s if store else 0.0,
        )

    @property
    def resources(self) -> tuple[float, float]:
        """CPUs and GPUs, as Ray counts them."""
        if self.spec is None:
            return float(os.cpu_count() or 1), float(torch.cuda.device_count())
        nodes = self.spec.nodes
        return nodes.count * nodes.cpus, nodes.count * nodes.gpus

    @property
    def actors(self) -> tuple[Group, ...]:
        """Of each teacher."""
        placements = {t.name: t.serving.placement for t in self.agenda.teachers}
        return tuple(Group(n, p.num_actors, p.cpus, p.gpus) for n, p in placements.items())

    @property
    def students(self) -> Group:
        """A student's workers; elastic ones take the room beside actors, if there is any."""
        workers = self.experiment.workers
        group = Group("students", workers.least, workers.cpus, workers.gpus)
        beside = self.actors if self.fit(self.actors, group) else ()
        larger = (replace(group, count=n) for n in range(workers.most, workers.least, -1))
        return next((more for more in larger if self.fit(beside, more)), group)

    def fit(self, actors: Sequence[Group], students: Group) -> bool:
        """Whether all have room at one time."""
        cpus, gpus = self.resources
        if self.spec is not None:
            nodes = self.spec.nodes
            if students.count > nodes.count * a_node_holds(nodes, students):
                return False
        return fit_together((*actors, students), cpus=cpus, gpus=gpus)


def uses_gpus(experiment: Experiment) -> bool:
    """Whether GPUs are what a job keeps busy; else cores."""
    return bool(experiment.workers.gpus or any(t.gpus for t in experiment.teachers))


def workload_of(terms: Terms) -> Workload:
    """What is left of an experiment. Raises ConfigError naming a figure neither given nor known."""
    agenda, experiment = terms.agenda, terms.experiment
    actors, students = terms.actors, terms.students
    cpus, gpus = terms.resources
    beside = fit_together((*actors, students), cpus=cpus, gpus=gpus)
    group_s = 0.0
    if students.count > 0 and terms.spec is None:
        group_s = terms.speeds.process_s * WORKERS * max(1.0, students.count / cpus)
    return Workload(
        teachers=tuple(_teacher_load(terms, r) for r in agenda.records if r.missing),
        runs=tuple(_run_load(terms, job, _student(terms, job)) for job in agenda.todo),
        num_passes=experiment.num_passes,
        side_by_side=bool(agenda.records) and beside,
        is_served_apart=bool(agenda.todo) and experiment.signals.source == "served" and not beside,
        actors=actors,
        workers=students,
        store_bytes=sum(record.missing_bytes + record.found_bytes for record in agenda.records),
        ahead=experiment.signals.ahead if experiment.signals.retain == "window" else None,
        start_s=_start_s(terms),
        workers_s=group_s if agenda.todo else 0.0,
        before_s=_before(terms, workers_s=group_s),
    )


def _start_s(terms: Terms) -> float:
    """Until teachers' actors stand, where any is needed, and the command's own end."""
    agenda, one = terms.agenda, terms.speeds.process_s
    if terms.spec is not None:
        return terms.figures.start_s
    if agenda.is_done:  # found out without Ray
        return one * COMMAND
    start = one * (COMMAND + SESSION + END)
    if not agenda.unmeasured and not any(record.missing for record in agenda.records):
        return start
    actors = sum(t.serving.placement.num_actors for t in agenda.teachers)
    return start + one * ACTORS * max(1.0, actors / terms.resources[0])


def _teacher_load(terms: Terms, record: Records) -> TeacherLoad:
    placement = record.serving.placement
    on_gpus = uses_gpus(terms.experiment)
    return TeacherLoad(
        name=record.teacher,
        images_per_s=_rate(terms, record.teacher),
        actors=placement.num_actors,
        units=placement.gpus if on_gpus else num_threads(placement.cpus),
        images=record.images,
        parts=len(record.missing),
        passes=record.missing_passes,
        row_bytes=math.ceil(record.missing_bytes / record.images),
    )


def _rate(terms: Terms, teacher: str) -> float:
    rate = terms.teachers.get(teacher)
    if rate is None:
        raise ConfigError(f"figures.teachers: no images/s of '{teacher}'; give them")
    return rate


def _before(terms: Terms, *, workers_s: float) -> dict[str, float]:
    """What comes before recording: teachers trained and tested, what is on file compared."""
    agenda, site, before = terms.agenda, terms.site, dict[str, float]()
    if agenda.trainings:
        loads = [_run_load(terms, job, _measured(terms, job)) for job in agenda.trainings]
        alone = (len(load.epochs) * epoch(load, site).seconds + load.end_s for load in loads)
        before["training teachers"] = workers_s + sum(alone)
    if agenda.unmeasured:
        units = {
            t.name: float(num_threads(t.serving.placement.cpus))
            for t in agenda.teachers
            if t.name in agenda.unmeasured
        }
        alone = {name: len(agenda.data.test) / _rate(terms, name) for name in units}
        before["testing teachers"] = max(
            shared(alone, units, capacity=site.capacity).values(), default=0.0
        )
    found = sum(record.found_bytes for record in agenda.records)
    if found and terms.speeds.store:
        before["comparing records"] = found / terms.speeds.store.verify_bytes_s
    return before


def _student(terms: Terms, job: StudentJob) -> StudentSpeed:
    """One worker's speed by its method: given, else measured."""
    given = terms.figures.students.get(job.method.name)
    if given is None:
        return _measured(terms, job)
    share = job.experiment.schedule.batch_size / max(1, terms.students.count)
    known = terms.speeds.students.get(key_of(job))
    rate = share / (terms.figures.step_s + share / given)
    return StudentSpeed(rate, given, known.parameters if known else 0)


def _measured(terms: Terms, job: StudentJob) -> StudentSpeed:
    measured = terms.speeds.students.get(key_of(job))
    if measured is None:
        raise ConfigError(f"figures.students: no images/s of '{job.method.name}'; give them")
    rates = measured.images_per_s * terms.speed, measured.evaluated_per_s * terms.speed
    return StudentSpeed(*rates, measured.parameters)


def _run_load(terms: Terms, job: StudentJob, worker: StudentSpeed) -> RunLoad:
    """One run, by its workers together."""
    experiment, site = job.experiment, terms.site
    workers, data = experiment.workers, load_data(experiment.data)
    count, batch = max(1, terms.students.count), experiment.schedule.batch_size
    threads = num_threads(workers.cpus) if workers.most else torch.get_num_threads()
    units = count * (workers.gpus if uses_gpus(terms.experiment) else threads)
    together = count * (min(1.0, site.capacity / units) if units else 1.0)
    steps, rate = len(data.train) // batch, worker.images_per_s * together
    if experiment.signals.source == "served" and job.recordings:
        actors = {t.name: t.actors for t in experiment.teachers}
        answered = (_rate(terms, r.teacher) * actors[r.teacher] for r in job.recordings)
        rate = min(rate, *answered)
    group = Group(job.title, count, workers.cpus, workers.gpus)
    num_nodes = nodes_of(terms.spec.nodes, group) if terms.spec else 1
    exchange = exchange_s(
        worker.parameters, num_nodes=num_nodes, network_bytes_s=site.network_bytes_s
    )
    evaluated_s = 1 / (worker.evaluated_per_s * together)
    per_epoch = terms.figures.epoch_s if terms.spec else EPOCH_S
    return RunLoad(
        title=job.title,
        epochs=epochs_left(job),
        images=steps * batch,
        images_per_s=rate,
        exchange_s=steps * exchange,
        epoch_s=len(data.validation) * evaluated_s + per_epoch,
        end_s=2 * len(data.test) * evaluated_s,  # the last weights, and most often the best
        row_bytes=row_bytes_of(job),
        units=min(units, site.capacity),  # what is more has made images/s fewer already
        num_nodes=num_nodes,
    )
