"""Tutelage in scripts and notebooks: what stands behind the command line, without it.

    import distill

    run = distill.train("demo", "schedule.epochs=3", "seeds=[0]")
    run.metrics.plot(x="epoch", y="accuracy/validation")
    run.student(images)

Mistakes raise ``distill.ConfigError``, with the field, the value and the fix. Importing ``distill``
imports neither torch nor Ray; the first use does.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from distill.config import Experiment
from distill.loading import ConfigError, load_experiment
from distill.storage import runs_folder
from orchestrator.runs import RunFolder, find_runs

if TYPE_CHECKING:
    import pandas as pd

    from distill.export import Logits


@final
@dataclass(frozen=True, slots=True)
class Run:
    """One student's training on disk: its folder is what the command line calls a RUN."""

    folder: Path

    @property
    def experiment(self) -> Experiment:
        """Everything it was trained by: one method, one seed."""
        return load_experiment(str(self.folder / "config.yaml"))

    @property
    def metrics(self) -> pd.DataFrame:
        """One row an epoch, counted from 0: losses, accuracies as fractions, seconds."""
        return RunFolder(self.folder).metrics()

    @property
    def result(self) -> Mapping[str, Any] | None:
        """Test accuracy and what else is known in the end; None for a run that has not ended."""
        return RunFolder(self.folder).result()

    @property
    def student(self) -> Logits:
        """The network of the last epoch, as ``load`` gives it."""
        return self.load()

    def load(self, weights: Literal["last", "best"] = "last") -> Logits:
        """The network that is evaluated, in eval mode on the CPU: uint8 [B, c, h, w] to logits.

        With a shared classifier where the method has one; normalisation is part of it. ``best`` is
        of the epoch with the best validation accuracy. Raises ConfigError for a run that has no
        such weights, StudentError for a damaged file.
        """
        import torch

        from distill.blueprint import MODEL_FILE, Blueprint
        from distill.export import fresh_learner, ready
        from orchestrator.run_checkpoints import restore

        file = RunFolder(self.folder).checkpoint(weights)
        if not file.is_file():
            raise ConfigError(f"{self.folder}: has no weights '{weights}'; train it first")
        try:
            blueprint = Blueprint.read(self.folder / MODEL_FILE)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        learner = fresh_learner(blueprint, self.experiment.optimizer)
        restore(file, learner, device=torch.device("cpu"))
        return ready(learner.inference_model())


def train(experiment: Experiment | str | Path, *overrides: str, quiet: bool = False) -> Run:
    """Train what is not trained yet, as ``tutelage train`` does, in this process and Ray's.

    ``experiment`` is one, or a shipped one's name, or a YAML file; ``overrides`` are written as
    after ``-s``. Returns the run of the experiment's method under its first seed; ``runs`` finds
    the others. What is finished is kept, and what was interrupted goes on.

    Raises ConfigError before any work, StudentError for a student that diverged, and what
    ``orchestrator.pipeline.FAILURES`` names.
    """
    asked = resolve(experiment, overrides)
    from orchestrator.preflight import check, check_data

    check(asked)
    check_data(asked)

    from orchestrator.display import Display
    from orchestrator.pipeline import run_experiment
    from orchestrator.students import StudentError

    with Display(io.StringIO() if quiet else None) as display:
        outcome = run_experiment(asked, display)
    if outcome.failures:
        raise StudentError("\n".join(outcome.failures))
    # Method by method, the experiment's own last, and seed by seed.
    return Run(outcome.runs[-len(asked.seeds)].path)


def resolve(experiment: Experiment | str | Path, overrides: tuple[str, ...] = ()) -> Experiment:
    """An experiment from its name or file, with overrides. Raises ConfigError."""
    if not isinstance(experiment, Experiment):
        return load_experiment(str(experiment), overrides)
    if overrides:
        raise ConfigError(
            f"'{overrides[0]}': an Experiment is taken as it is; give a name or a file to override"
        )
    return experiment


def runs(folder: str | Path | None = None) -> list[Run]:
    """Every run below a folder, sorted by path; another machine's folder will do.

    Default: where experiments are filed that name no ``output.root``.
    """
    return [Run(run.path) for run in find_runs(Path(folder) if folder else runs_folder())]
