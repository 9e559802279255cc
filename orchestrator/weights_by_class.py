"""What a run says of its teachers' weights: histograms, heat maps, and ``weights.parquet``.

The table has a row for each epoch, kind of weights, teacher and class that has samples: ``epoch``,
``kind``, ``teacher``, ``class`` (a label), ``class_name``, ``weight`` (the mean) and ``samples``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from orchestrator.heat_maps import draw_weights
from orchestrator.runs import RunFolder, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa
    from torch.utils.tensorboard import SummaryWriter

    from distill.weight_tables import WeightTable

MAX_PICTURES = 10  # a run; TensorBoard keeps as many of each tag


@final
class WeightLog:
    """Writes one run's weights by class; a run that resumes at ``start_epoch`` leaves none twice.

    ``class_names`` has a name for each label.
    """

    def __init__(
        self,
        run: RunFolder,
        writer: SummaryWriter,
        *,
        class_names: Sequence[str],
        num_epochs: int,
        start_epoch: int,
    ) -> None:
        self._path = weights_path(run)
        self._writer = writer
        self._class_names = tuple(class_names)
        self._drawn = picture_epochs(num_epochs)
        self._rows = _rows_before(self._path, start_epoch)

    def add(self, epoch: int, tables: Mapping[str, WeightTable], *, step: int) -> None:
        """Record one epoch, counted from 0, that ended at a global step."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for kind, table in tables.items():
            self._add_histograms(kind, table, step)
            if epoch in self._drawn:
                picture = draw_weights(
                    table.by_class(),
                    teachers=table.teachers,
                    classes=self._class_names,
                    title=f"{kind}, epoch {epoch + 1}",
                )
                self._writer.add_image(f"{kind}_by_class", picture, step, dataformats="HWC")
        new = [self._long(epoch, kind, table) for kind, table in tables.items()]
        self._rows = pa.concat_tables([*([self._rows] if self._rows is not None else []), *new])
        write_atomically(self._path, lambda draft: pq.write_table(self._rows, draft))

    def _add_histograms(self, kind: str, table: WeightTable, step: int) -> None:
        for place, teacher in enumerate(table.teachers):
            counts = table.histogram[place]
            edges = np.linspace(0, 1, len(counts) + 1)
            filled = np.flatnonzero(counts)
            # TensorBoard draws from min to max: what lies beyond the filled bins must not be given.
            first, last = int(filled[0]), int(filled[-1])
            self._writer.add_histogram_raw(
                f"{kind}_histogram/{teacher}",
                min=float(edges[first]),
                max=float(edges[last + 1]),
                num=int(counts.sum()),
                sum=float(table.sums[place].sum()),
                sum_squares=float(table.squares[place]),
                bucket_limits=edges[first + 1 : last + 2].tolist(),
                bucket_counts=counts[first : last + 1].tolist(),
                global_step=step,
            )

    def _long(self, epoch: int, kind: str, table: WeightTable) -> pa.Table:
        import pyarrow as pa

        teachers, classes = np.meshgrid(
            range(len(table.teachers)), np.flatnonzero(table.counts), indexing="ij"
        )
        teachers, classes = teachers.ravel(), classes.ravel()
        columns: dict[str, Any] = {
            "epoch": np.full(len(classes), epoch, dtype=np.int64),
            "kind": [kind] * len(classes),
            "teacher": [table.teachers[k] for k in teachers],
            "class": classes,
            "class_name": [self._class_names[c] for c in classes],
            "weight": table.by_class()[teachers, classes],
            "samples": table.counts[classes].astype(np.int64),
        }
        return pa.table(columns)


def weights_path(run: RunFolder) -> Path:
    """Where a run's table of weights is, if its method weighs teachers and an epoch has ended."""
    return run.path / "weights.parquet"


def picture_epochs(num_epochs: int) -> frozenset[int]:
    """The epochs to draw: at most MAX_PICTURES, evenly spread, the first and the last among them.

    Of one epoch alone, that one.
    """
    count = min(num_epochs, MAX_PICTURES)
    return frozenset(np.linspace(num_epochs - 1, 0, count).round().astype(int).tolist())


def _rows_before(path: Path, epoch: int) -> pa.Table | None:
    import pyarrow.parquet as pq

    return pq.read_table(path, filters=[("epoch", "<", epoch)]) if path.exists() else None
