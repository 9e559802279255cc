"""Probe tables around an experiment: what is recorded for one, who reads it, what it was made of.

Free of torch and ray, so that a mistake is answered at once. GPAC's; our reading of Neural
Networks 164, 2023.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill.config import Experiment
from distill.loading import ConfigError
from distill.methods import MethodConfig, config_class
from distill.probes import ProbedConfig, ProbeTable
from distill.signals import Taps
from distill.taps import counterpart, known_taps, stages_of
from distill.views import Identity as OneView
from orchestrator.identity import Identity, canonical_json
from orchestrator.runs import RunFolder, write_atomically

if TYPE_CHECKING:
    from orchestrator.students import StudentJob

FILE = "probes.json"
Marks = dict[tuple[str, str], list[int]]  # (teacher, tap) -> the student's stages it is chosen for


def probing_experiment(experiment: Experiment) -> Experiment:
    """The experiment that asks every teacher about every training image as it is, once.

    Raises ConfigError where there is nothing to probe.
    """
    if not experiment.teachers:
        raise ConfigError("teachers: there is none, so nothing to probe; add one to teachers")
    student = experiment.student
    try:
        stages_of(known_taps(student.arch, student.taps), network="the student")
        for teacher in experiment.teachers:
            taps = known_taps(teacher.arch, teacher.taps)
            stages_of(taps, network=f"teacher '{teacher.name}'")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    # Without augmentation, whatever the student's views are. No method is trained; `kd` reads
    # logits of every teacher, so that each is loaded.
    signals = experiment.signals.model_copy(
        update={"source": "cached", "retain": "all", "passes": 1}
    )
    changes = {"views": OneView(), "method": config_class("kd")(), "baselines": ()}
    return experiment.model_copy(update=changes | {"signals": signals})


def table_file(experiment: Experiment, output: Path | None) -> Path:
    """Where the table goes: ``output``, or where a method reads it, or the folder of runs.

    Raises ConfigError for an ``output`` that is a folder.
    """
    if output is not None:
        if output.is_dir():
            raise ConfigError(f"--output: '{output}' is a folder; name a file in it, as {FILE}")
        return output
    for method in reversed(experiment.methods):  # the method before its baselines
        if isinstance(method, ProbedConfig) and method.probes:
            return Path(method.probes).expanduser()
    return experiment.output.root / experiment.name / FILE


def teacher_digest(identity: Identity) -> str:
    """Names a teacher by all that its features of an image depend on: 20 hex digits."""
    names = ("architecture", "options", "weights_sha256", "mean", "std")
    text = canonical_json({name: getattr(identity, name) for name in names}, where="teacher")
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def check_tables(
    methods: Sequence[MethodConfig], teachers: Mapping[str, Identity], *, split: str
) -> None:
    """Raise ConfigError where a table that a method reads was made of something else."""
    digests = {name: teacher_digest(identity) for name, identity in teachers.items()}
    for method in methods:
        if not isinstance(method, ProbedConfig) or not method.reads_table:
            continue
        try:
            ProbeTable.read(Path(method.probes)).check_made_of(digests, split)
        except ValueError as error:
            raise ConfigError(f"method '{method.name}': {error}") from None


def settled(experiment: Experiment, teachers: Mapping[str, Taps]) -> Experiment:
    """The same experiment with the tables' choices written into its methods.

    So a run is named by what it does, not by a path, and its workers read no file of the driver's.
    """
    student = known_taps(experiment.student.arch, experiment.student.taps)

    def settle(method: MethodConfig) -> MethodConfig:
        if not isinstance(method, ProbedConfig) or not method.reads_table:
            return method
        table = ProbeTable.read(Path(method.probes))
        return method.with_choice(table.best_groups(teachers, student))

    baselines = tuple(settle(method) for method in experiment.baselines)
    return experiment.model_copy(
        update={"method": settle(experiment.method), "baselines": baselines}
    )


def file_tables(
    experiment: Experiment, teachers: Mapping[str, Taps], jobs: Sequence[StudentJob]
) -> None:
    """Copy the table that chose a run's teachers into its folder, beside what came of it."""
    choices = settled(experiment, teachers).methods
    for method, chosen in zip(experiment.methods, choices, strict=True):
        if not isinstance(method, ProbedConfig) or not method.reads_table:
            continue
        text = ProbeTable.read(Path(method.probes)).to_json()
        for job in jobs:
            if job.method == chosen and not RunFolder(job.folder).finished:
                write_atomically(job.folder / FILE, lambda draft, text=text: draft.write_text(text))


def marks_of(
    groups: Sequence[tuple[int, int]], teachers: Mapping[str, Taps], student: Taps
) -> Marks:
    """Which entries of a table were chosen, and for which of the student's stages."""
    names, marks = tuple(teachers), Marks()
    for stage, index in groups:
        name = names[index]
        tap = counterpart(stage, teachers[name], student, network=f"teacher '{name}'")
        marks.setdefault((name, tap), []).append(stage)
    return marks
