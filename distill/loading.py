"""Experiments by name or file, with dotted overrides, and mistakes explained."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from distill.config import Experiment, as_method
from distill.methods import MethodConfig, config_class


class ConfigError(ValueError):
    """A user's mistake in a configuration, one line each: field, value, fix."""


def shipped_experiments() -> tuple[str, ...]:
    """Names of the experiments inside the package."""
    folder = resources.files("distill") / "experiments"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml")))


def load_experiment(source: str, overrides: Iterable[str] = ()) -> Experiment:
    """Read a shipped experiment or a YAML file, apply ``a.b=value`` overrides, validate.

    Raises ConfigError that names field, value and fix.
    """
    raw = _read(source)
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"'{text}' is not an override; write a.b=value, as in seeds=[0,1]")
        try:
            apply_override(raw, path.strip(), yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: '{value}' is not YAML ({error})") from None
    return validate(raw)


def validate(raw: Mapping[str, Any]) -> Experiment:
    """Plain values to an Experiment. Raises ConfigError, one line a mistake."""
    values, lines = _with_methods(raw)
    try:
        experiment = Experiment.model_validate(values)
    except ValidationError as error:
        lines += [_explain(dict(item), raw) for item in error.errors(include_url=False)]
    else:
        if not lines:
            return experiment
    raise ConfigError("\n".join(dict.fromkeys(lines)))


def _with_methods(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Methods are validated first and apart, so that each mistake has its own line and path."""
    values, lines = dict(raw), list[str]()

    def read(value: Any, field: str) -> MethodConfig:
        if isinstance(value, MethodConfig):
            return value
        try:
            return as_method(value)
        except ValidationError as error:
            model = config_class(_name_of(value))
            lines.extend(
                f"{field}.{_explain(dict(item), value, model=model)}"
                for item in error.errors(include_url=False)
            )
        except ValueError as error:
            lines.append(f"{field}: {error}")
        return as_method("ce")  # stands in, so that the other fields are checked too

    if "method" in values:
        values["method"] = read(values["method"], "method")
    if isinstance(values.get("baselines"), list | tuple):
        values["baselines"] = [
            read(value, f"baselines[{i}]") for i, value in enumerate(values["baselines"])
        ]
    return values, lines


def _name_of(method: Any) -> str:
    return str(method["name"]) if isinstance(method, dict) else str(method)


def apply_override(raw: dict[str, Any], path: str, value: Any) -> None:
    """Set ``teachers[0].batch_size`` (or ``teachers.0.batch_size``) in plain values, in place."""
    keys = [key for key in re.split(r"\.|\[(\d+)\]", path) if key]
    if not keys:
        raise ConfigError(f"'{path}' names no field; write a.b=value, as in schedule.epochs=3")
    node: Any = raw
    for position, key in enumerate(keys):
        where = ".".join(keys[: position + 1])
        last = position == len(keys) - 1
        if isinstance(node, list):
            items: list[Any] = node
            if not key.isdigit() or int(key) >= len(items):
                raise ConfigError(f"{where}: no such entry; the list has {len(items)}")
            if last:
                items[int(key)] = value
            node = items[int(key)]
        elif isinstance(node, dict):
            if last:
                node[key] = value
            elif isinstance(node.get(key), str):
                node[key] = {"name": node[key]}  # method: kd, then method.temperature=2
            elif node.get(key) is None:
                node[key] = {}
            node = node[key]
        else:
            raise ConfigError(f"{where}: '{keys[position - 1]}' is a value and has no fields")


def _read(source: str) -> dict[str, Any]:
    if source in shipped_experiments():
        text = (resources.files("distill") / "experiments" / f"{source}.yaml").read_text()
    elif Path(source).is_file():
        text = Path(source).read_text()
    else:
        names = shipped_experiments()
        near = difflib.get_close_matches(Path(source).stem, names, n=2)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ConfigError(
            f"experiment: no file '{source}', and no shipped experiment of that name; "
            f"{hint}shipped: {', '.join(names)}"
        )
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"experiment: '{source}' is not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"experiment: '{source}' holds no fields; see `show` for an example")
    return raw


def _explain(
    error: dict[str, Any], raw: Mapping[str, Any], *, model: type[BaseModel] = Experiment
) -> str:
    """One line: the field, what is wrong, the value, and near misses of an unknown key."""
    keys = [key for key in error["loc"] if not _is_tag(key, error["loc"], raw)]
    field = _dotted(keys)
    value = error.get("input")
    kind = error["type"]
    if kind == "extra_forbidden":
        return f"{field}: unknown key{_near(str(keys[-1]), _siblings(keys[:-1], raw, model))}"
    if kind == "missing":
        return f"{field}: missing; add it"
    if kind == "union_tag_invalid":
        context = error["ctx"]
        tag = str(context["discriminator"]).strip("'")
        expected = [name.strip(" '") for name in str(context["expected_tags"]).split(",")]
        return f"{field}.{tag}: unknown '{context['tag']}'{_near(str(context['tag']), expected)}"
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    shown = "" if isinstance(value, dict | list) else f" (it is {value!r})"
    return f"{field}: {message}{shown}" if field else message


def _is_tag(key: str | int, loc: tuple[str | int, ...], raw: Mapping[str, Any]) -> bool:
    """Whether ``key`` is the name pydantic adds for the member of a union, not a field."""
    node: Any = raw
    for part in loc:
        if part is key:
            named = isinstance(node, dict) and key in (node.get("kind"), node.get("name"))
            return named or (key == "sgd" and isinstance(node, dict) and "name" not in node)
        node = _child(node, part)
    return False


def _child(node: Any, key: str | int) -> Any:
    if isinstance(node, dict):
        return node.get(key, node)
    if isinstance(node, list) and isinstance(key, int) and key < len(node):
        return node[key]
    return node


def _dotted(keys: Iterable[str | int]) -> str:
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.removeprefix(".")


def _siblings(keys: list[str | int], raw: Mapping[str, Any], model: type[BaseModel]) -> list[str]:
    """The fields there are where ``keys`` leads."""
    node: Any = raw
    for key in keys:
        node = _child(node, key)
        if isinstance(key, int):
            continue
        found = _model_of(model.model_fields[key].annotation, node)
        if found is None:
            return []
        model = found
    return list(model.model_fields)


def _model_of(annotation: Any, node: Any) -> type[BaseModel] | None:
    """The model that an annotation holds; of a union, the one that the values name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    members = [_model_of(part, node) for part in getattr(annotation, "__args__", ())]
    models = [model for model in members if model is not None]
    tags = {node.get("kind"), node.get("name")} if isinstance(node, dict) else set[Any]()
    for model in models:
        for tag in ("kind", "name"):
            if tag in model.model_fields and model.model_fields[tag].default in tags - {None}:
                return model
    return models[0] if models else None


def _near(name: str, names: Iterable[str]) -> str:
    known = list(names)
    near = difflib.get_close_matches(name, known, n=2)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
    return f"{hint} known: {', '.join(known)}" if known else ""
