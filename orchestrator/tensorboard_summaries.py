"""What TensorBoard is told about many runs together: the HParams table and the charts' layout.

The messages are those of TensorBoard's plugins, written without TensorFlow: the HParams plugin
reads its columns from one summary and each run's values from another; custom scalars are laid out
by a third (``tensorboard/plugins/hparams/api.proto``, ``tensorboard/plugins/custom_scalar/
layout.proto``).
"""

# The classes of protocol buffers are made when their modules are imported; pyright sees none.
# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.run_differences import METHOD, SEED, Scalar, Settings, differing, labels

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

# The tag, and its heading; TensorBoard shows the first five at once.
METRICS = {
    "result/validation_accuracy": "validation accuracy (best)",
    "result/test_accuracy": "test accuracy",
    "accuracy/validation": "validation accuracy (last epoch)",
    "result/seconds": "seconds",
    "result/parameters": "parameters",
}
# Charts side by side: a heading, the tags below it, and whether it begins open.
_CATEGORIES = (
    ("Accuracy", r"accuracy/", True),
    ("Teachers' weights", r"teacher_weight(/|_entropy$)", True),
    ("Losses, mean of each epoch", r"loss/", True),
    ("Teachers' weights for features", r"feature_weight(/|_entropy$)", True),
    ("Teachers' drift", r"teacher_drift/", True),
    ("Of the method's own", r"(method|meta)/", False),
    ("Time", r"(seconds|wait|throughput)/", False),
)
_ALWAYS = ("accuracy/validation", "accuracy/train", "loss/total")


def columns_summary(runs: Sequence[Settings]) -> Summary:
    """The HParams table: a column for each setting that differs between runs, and METRICS.

    What differs between runs of one method comes first.
    """
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    first = {METHOD, SEED, *differing(runs)}
    paths = differing(runs, across_methods=True)
    paths = list(dict.fromkeys([*(path for path in (METHOD, SEED) if runs), *paths]))
    shown = labels(paths)
    columns: list[Any] = []
    for path in paths:
        values = [run[path] for run in runs if path in run]
        if values:
            column = _column(values)
            column.name, column.display_name = path, shown[path]
            column.differs = path in first
            columns.append(column)
    metrics = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=heading)
        for tag, heading in METRICS.items()
    ]
    experiment = api_pb2.Experiment(hparam_infos=columns, metric_infos=metrics)
    data = plugin_data_pb2.HParamsPluginData(experiment=experiment)
    return _hparams(metadata.EXPERIMENT_TAG, data)


def _column(values: Sequence[Scalar]) -> Any:
    """A column's type and domain: numbers from the least to the greatest, anything else listed."""
    from tensorboard.plugins.hparams import api_pb2

    numbers = [value for value in values if isinstance(value, int | float)]
    if all(isinstance(value, bool) for value in values):
        column = api_pb2.HParamInfo(type=api_pb2.DATA_TYPE_BOOL)
        column.domain_discrete.extend(sorted(set(values)))
    elif len(numbers) == len(values):
        column = api_pb2.HParamInfo(type=api_pb2.DATA_TYPE_FLOAT64)
        column.domain_interval.min_value = min(numbers)
        column.domain_interval.max_value = max(numbers)
    else:
        column = api_pb2.HParamInfo(type=api_pb2.DATA_TYPE_STRING)
        column.domain_discrete.extend(sorted({str(value) for value in values}))
    return column


def settings_summary(name: str, settings: Settings) -> Summary:
    """One run's row of the HParams table; without a ``name`` it bears the name of its folder."""
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    start = plugin_data_pb2.SessionStartInfo(group_name=name)
    for path, value in settings.items():
        if isinstance(value, bool):
            start.hparams[path].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[path].number_value = value
        else:
            start.hparams[path].string_value = value
    data = plugin_data_pb2.HParamsPluginData(session_start_info=start)
    return _hparams(metadata.SESSION_START_INFO_TAG, data)


def finished_summary() -> Summary:
    """That a run came to its end: the table can be filtered by it."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
    data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
    return _hparams(metadata.SESSION_END_INFO_TAG, data)


def _hparams(tag: str, data: Any) -> Summary:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata

    value = Summary.Value(
        tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR
    )
    return Summary(value=[value])


def layout_summary(tags: Iterable[str]) -> Summary:
    """Charts that put all runs side by side: one for each of the ``tags`` worth comparing."""
    from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    known = list(dict.fromkeys([*_ALWAYS, *sorted(tags)]))
    layout = layout_pb2.Layout()
    for title, pattern, is_open in _CATEGORIES:
        found = [tag for tag in known if re.match(pattern, tag)]
        if found:
            charts = [_chart(tag) for tag in found]
            layout.category.add(title=title, chart=charts, closed=not is_open)
    about = metadata.create_summary_metadata()
    about.data_class = DATA_CLASS_TENSOR
    tensor = TensorProto(
        dtype=DT_STRING, string_val=[layout.SerializeToString()], tensor_shape=TensorShapeProto()
    )
    value = Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, metadata=about, tensor=tensor)
    return Summary(value=[value])


def _chart(tag: str) -> Any:
    from tensorboard.plugins.custom_scalar import layout_pb2

    lines = layout_pb2.MultilineChartContent(tag=[f"{re.escape(tag)}$"])
    return layout_pb2.Chart(title=tag, multiline=lines)


def events_of(summaries: Iterable[Summary], *, time_s: float) -> bytes:
    """The content of an event file that holds some summaries, at step 0 and one time."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    file = io.BytesIO()
    writer = RecordWriter(file)
    events = [Event(wall_time=time_s, file_version="brain.Event:2")]
    events += [Event(wall_time=time_s, step=0, summary=summary) for summary in summaries]
    for event in events:
        writer.write(event.SerializeToString())
    return file.getvalue()
