"""The runs of an experiment: method by method, seed by seed, each named by what it depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from distill.config import Experiment
from distill.datasets import Data
from distill.methods import MethodConfig
from orchestrator.codecs import make_codec
from orchestrator.framing import BODY_OFFSET
from orchestrator.identity import canonical_json
from orchestrator.preparation import PreparedTeacher, facts, method_recordings
from orchestrator.probe_tables import settled
from orchestrator.recording import Recording
from orchestrator.run_checkpoints import next_epoch_of
from orchestrator.runs import RunFolder
from orchestrator.students import StudentJob, TeacherFacts


def student_jobs(
    experiment: Experiment,
    prepared: Sequence[PreparedTeacher],
    data: Data,
    *,
    facts_of: Callable[[PreparedTeacher, Data], TeacherFacts] = facts,
) -> list[StudentJob]:
    """Every run of the experiment: method by method, seed by seed; equal methods are one.

    ``facts_of`` a teacher are written to results, and change nothing else.
    """
    experiment = settled(experiment, {teacher.name: teacher.taps for teacher in prepared})
    given = experiment.methods
    methods = [method for i, method in enumerate(given) if method not in given[:i]]
    jobs: list[StudentJob] = []
    for method in methods:
        recordings, recipes = method_recordings(experiment, method, prepared)
        digest = _digest(experiment, method, recordings, data)
        used = {recording.teacher for recording in recordings}
        # What moves with the student is not recorded; it comes along whole.
        read = () if method.resident else recordings
        in_worker = method.resident or experiment.signals.source == "local"
        teachers = [teacher for teacher in prepared if teacher.name in used]
        for seed in experiment.seeds:
            twin = sum(other.name == method.name for other in methods) > 1
            label = f"{method.name}-{digest}" if twin else method.name
            folder = RunFolder.at(
                experiment.output.root,
                experiment=experiment.name,
                method=method.name,
                digest=digest,
                seed=seed,
            )
            jobs.append(
                StudentJob(
                    experiment=experiment,
                    method=method,
                    digest=digest,
                    seed=seed,
                    folder=folder.path.resolve(),
                    recordings=read,
                    recipes=recipes if in_worker else (),
                    facts={teacher.name: facts_of(teacher, data) for teacher in prepared},
                    signal_bytes=sum(_num_bytes(r, experiment.num_passes) for r in read),
                    title=f"{label} seed {seed}",
                    taps={teacher.name: teacher.taps for teacher in teachers},
                    classifiers={
                        teacher.name: teacher.classifier
                        for teacher in teachers
                        if teacher.classifier and method.reads_classifiers
                    },
                )
            )
    return jobs


def next_epoch(job: StudentJob) -> int:
    """The epoch that a run goes on with: 0 for one that never ended an epoch.

    Raises StudentError naming a checkpoint that is none.
    """
    path = RunFolder(job.folder).checkpoint("last")
    return next_epoch_of(path) if path.is_file() else 0


def _digest(
    experiment: Experiment, method: MethodConfig, recordings: Sequence[Recording], data: Data
) -> str:
    """Names a configuration by what changes its outcome: 8 hex digits.

    Folders, names and the teachers' actors do not; the number of workers does, by rounding.
    """
    whole = experiment.as_dict()
    fields = {name: whole[name] for name in ("views", "student", "optimizer", "schedule")} | {
        "method": method.model_dump(mode="json"),
        "workers": whole["workers"] | {"cpus": None},
        "splits": [data.train.fingerprint, data.validation.fingerprint, data.test.fingerprint],
    }
    if recordings:
        fields["passes"] = [experiment.num_passes, experiment.signals.source]
        fields["signals"] = [
            [r.key, [[str(s.spec), s.codec] for s in r.signals]] for r in recordings
        ]
    text = canonical_json(fields, where="experiment")
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def bytes_of_a_pass(recordings: Sequence[Recording]) -> int:
    """What one pass of recordings takes on disk, at most; what teachers share is there once."""
    columns = {(r.key, signal): r.identity for r in recordings for signal in r.signals}
    # A part's footer repeats the schema that its head begins with, so it is no longer.
    overhead = 2 * BODY_OFFSET
    return sum(
        make_codec(signal.codec, signal.shape).row_bytes * identity.num_samples
        + overhead * identity.num_parts
        for (_, signal), identity in columns.items()
    )


def _num_bytes(recording: Recording, num_passes: int) -> int:
    row = sum(make_codec(s.codec, s.shape).row_bytes for s in recording.signals)
    return row * recording.identity.num_samples * num_passes
