"""What a run reports while it trains: TensorBoard events and the metrics table, kept in step.

Everything is drawn over the number of optimiser steps. One axis for steps and epochs alike is
what lets TensorBoard purge, when a run resumes, exactly what came after its checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from orchestrator.run_differences import flatten
from orchestrator.runs import RunFolder
from orchestrator.tensorboard_summaries import finished_summary, settings_summary
from orchestrator.weights_by_class import WeightLog

if TYPE_CHECKING:
    from distill.weight_tables import WeightTable


@final
class RunTracker:
    """Writes what one run reports; to be used by one process (rank 0) at a time.

    ``start_epoch`` is the first epoch that will be reported: above 0, the run resumes, and
    whatever was reported of that epoch or later ones is superseded. ``class_names`` has a name for
    each label.
    """

    def __init__(
        self,
        run: RunFolder,
        config: Mapping[str, Any],
        start_epoch: int = 0,
        *,
        num_epochs: int,
        class_names: Sequence[str],
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._run = run
        self._config = config
        self._step = _last_step(run, start_epoch)  # the last step of the last epoch kept
        self._writer = SummaryWriter(str(run.path), purge_step=self._step + 1)
        self._weights = WeightLog(
            run,
            self._writer,
            class_names=class_names,
            num_epochs=num_epochs,
            start_epoch=start_epoch,
        )

    def on_step(self, global_step: int, terms: Mapping[str, float], lr: float) -> None:
        """Record one optimiser step, counted over the whole run; some may be left out."""
        self._step = global_step
        for name, value in terms.items():
            self._writer.add_scalar(f"step/loss/{name}", value, global_step)
        self._writer.add_scalar("step/loss/total", sum(terms.values()), global_step)
        self._writer.add_scalar("step/learning_rate", lr, global_step)

    def on_weights(self, epoch: int, tables: Mapping[str, WeightTable], *, step: int) -> None:
        """Record how much the teachers counted, by kind, in an epoch that ended at a global step.

        Call it before the epoch's ``on_epoch``, which flushes.
        """
        self._weights.add(epoch, tables, step=step)

    def on_epoch(self, epoch: int, row: Mapping[str, float], *, step: int) -> None:
        """Record one epoch, counted from 0, that ended at a global step: every value of ``row``.

        The metrics table gains the row, ``epoch`` and ``global_step``.
        """
        self._step = step
        for name, value in {**row, "epoch": epoch}.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
        self._run.append_metrics({"epoch": epoch, "global_step": step, **row})

    def close(self, result: Mapping[str, Any] | None = None) -> None:
        """End the events; with a ``result``, hyperparameters and its numbers go in as HParams."""
        if result is not None:
            self._write_hparams(result)
        self._writer.close()

    def _write_hparams(self, result: Mapping[str, Any]) -> None:
        """The run's row of the HParams table; columns are a matter of all runs, not of one.

        What was not measured, as the test accuracy of a sweep's trial, is left out.
        """
        metrics = {
            f"result/{name}": float(value)
            for name, value in result.items()
            if isinstance(value, int | float) and name != "seed" and math.isfinite(value)
        }
        # SummaryWriter.add_hparams would open a second run in a folder of its own, and declare
        # this run's settings as every run's columns.
        file_writer = self._writer.file_writer
        assert file_writer is not None, "the tracker is closed"
        file_writer.add_summary(settings_summary("", flatten(self._config)))
        file_writer.add_summary(finished_summary())
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, self._step)


def _last_step(run: RunFolder, start_epoch: int) -> int:
    rows = run.metrics().to_dict("records")
    kept = [int(row["global_step"]) for row in rows if row["epoch"] < start_epoch]
    return max(kept, default=-1)
