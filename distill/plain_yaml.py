"""YAML of strangers: plain values alone, no key twice, and no more of them than the text shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast, final

import yaml

MAX_BYTES = 1 << 20  # of a text; the experiments that are shipped have 2 kB
_MAX_VALUES = 100_000
_MAX_DEPTH = 100
_TOO_MANY = f"it stands for more than {_MAX_VALUES:,} values"
_MERGE = "tag:yaml.org,2002:merge"


@final
class _Loader(yaml.SafeLoader):
    """Plain values alone, and no key twice: the second would silently replace the first."""

    _merged = 0  # entries of mappings that others were put into

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"'{key.value}' is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(str(key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what ``<<`` names into a mapping, but not for ever: names may name names."""
        for key, value in node.value:
            if key.tag == _MERGE:
                for other in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if isinstance(other, yaml.MappingNode):
                        self.flatten_mapping(other)
                        self._merged += len(other.value)
                    if self._merged > _MAX_VALUES:
                        raise yaml.YAMLError(_TOO_MANY)
        super().flatten_mapping(node)


def parse(text: str) -> Any:
    """The value that a YAML text holds. Raises ValueError saying what is wrong, on one line.

    Aliases are followed and counted: nine lines of them can stand for a billion values, which
    whoever copies or prints the value would make.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} characters")
    try:
        value = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        if error.problem and error.problem_mark:
            line = error.problem_mark.line + 1
            raise ValueError(f"{error.problem} (line {line})") from None
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # of a date, a huge number
        raise ValueError(" ".join(str(error).split())) from None
    _measure(value)
    return value


def _measure(value: Any) -> None:
    """Raise ValueError for values that stand for too many, are nested too deeply, or in themselves.

    Each is looked at once, however often it is named.
    """
    sizes: dict[int, int] = {}

    def size(item: Any, depth: int) -> int:
        if depth > _MAX_DEPTH:
            raise ValueError("its values are nested too deeply")
        if not isinstance(item, dict | list | tuple):
            return 1
        if id(item) not in sizes:
            found = 1 + sum(size(child, depth + 1) for child in _children(item))
            if found > _MAX_VALUES:
                raise ValueError(_TOO_MANY)
            sizes[id(item)] = found
        return sizes[id(item)]

    size(value, 0)


def _children(item: Any) -> Iterable[Any]:
    return cast("Iterable[Any]", item.values() if isinstance(item, dict) else item)
