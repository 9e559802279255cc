"""What a driver shows and files of a sweep's trials, told by Tune."""

# ruff: noqa: ARG002 (Tune calls with more than is needed)

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

from ray.tune.progress_reporter import TrialProgressCallback

from orchestrator.display import Bar, Display
from orchestrator.trial_files import Note
from orchestrator.trials import EPOCH, Sweep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ray.tune.experiment import Trial


@final
class SweepProgress(TrialProgressCallback):
    """A bar for the sweep and one for every trial that trains; notes which ones were stopped.

    It takes the place of Tune's own, which prints even where Tune is to be silent.
    """

    def __init__(self, sweep: Sweep, display: Display, *, num_trials: int, metric: str) -> None:
        self._sweep, self._display, self._metric = sweep, display, metric
        self._whole = display.bar("sweep", num_trials, "trials")
        self._bars: dict[str, Bar] = {}
        self._best: tuple[float, str] | None = None
        self._ended: set[str] = set()
        self.errors: dict[int, str] = {}  # by trial: what ended it other than its own loss

    def __getstate__(self) -> dict[str, Any]:
        """Tune files its callbacks; this one is of this driver alone."""
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Begin the trial's bar; of one that starts again it goes on."""
        name = str(trial)
        if name in self._bars or name in self._ended:
            return
        epochs = self._sweep.base.schedule.epochs
        title = f"trial {name}: {differences(trial.config)}"
        self._bars[name] = self._display.bar(title, epochs, "epochs")

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        name, score = str(trial), result.get(self._metric)
        text = f"loss {result['loss/total']:.3f}"
        if score is not None:
            text += f", validation {score:.1%}"
            if self._best is None or score > self._best[0]:
                self._best = (score, name)
                self._show()
        self._bars[name].update(int(result[EPOCH]), text)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        run = self._sweep.run_of(int(str(trial)), trial.config)
        note = Note.of(run)
        reason = ""
        if note is not None and not run.finished:
            if not note.ended:
                note = replace(note, ended="stopped")
                note.write(run)
            reason = note.reason
        if reason:
            self._display.note(f"trial {trial} FAILED: {reason}")
        self._end(str(trial), "" if run.finished else note.ended if note else "")

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        self._display.note(f"trial {trial}: its process died; it goes on from its last epoch")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        lines = str(trial.get_error() or "its process died").strip().splitlines()
        reason = self.errors[int(str(trial))] = lines[-1]
        self._display.note(f"trial {trial} BROKEN OFF: {reason}")
        self._end(str(trial), "broken off")

    def _end(self, name: str, text: str) -> None:
        self._ended.add(name)
        if name in self._bars:
            self._bars[name].end(text)
        self._show()

    def _show(self) -> None:
        text = f"best so far {self._best[0]:.1%} by trial {self._best[1]}" if self._best else ""
        self._whole.update(len(self._ended), text)


def differences(values: Mapping[str, Any]) -> str:
    """What sets a trial apart, on one line."""
    shown = (
        (path.removeprefix("method."), f"{value:.3g}" if isinstance(value, float) else value)
        for path, value in values.items()
    )
    return ", ".join(f"{path} {value}" for path, value in shown)
