"""Experiments by name or file, with dotted overrides, and mistakes explained."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from distill import plain_yaml
from distill.config import Experiment, as_method
from distill.methods import MethodConfig, config_class

_PATH = re.compile(r"[^\d.\[\]][^.\[\]]*(?:\.[^.\[\]]+|\[\d+\])*")
# What pydantic says in Python's words, in the words of YAML.
_WORDS = {
    "tuple_type": "should be a list, as in [a, b]",
    "dict_type": "should hold fields, as in {name: value}",
    "too_short": "is empty; give at least one",
    "string_pattern_mismatch": "should be of letters, digits, '_', '-' and '.', with no '.' or '-' "
    "in front",
    "path_type": "should be a path",
}


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
    raw = _read(source, ())
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"'{text}' is not an override; write a.b=value, as in seeds=[0,1]")
        apply_override(raw, path.strip(), _parse(value, subject=f"{path}: '{value}'"))
    return validate(raw)


def validate(raw: Mapping[str, Any]) -> Experiment:
    """Plain values to an Experiment. Raises ConfigError, one line a mistake."""
    values, lines = _with_methods(raw)
    try:
        experiment = Experiment.model_validate(values)
    except ValidationError as error:
        lines += _explain(error, Experiment, place=())
    else:
        if not lines:
            return experiment
    raise ConfigError("\n".join(dict.fromkeys(lines)))


def _with_methods(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Methods are validated first and apart, so that each mistake has its own line and path."""
    values, lines = dict(raw), list[str]()

    def read(value: Any, *place: str | int) -> MethodConfig:
        try:
            return as_method(value)
        except ValidationError as error:
            name = str(value["name"]) if isinstance(value, dict) else str(value)
            lines.extend(_explain(error, config_class(name), place=place))
        except ValueError as error:
            lines.append(f"{_dotted(place)}: {error}")
        return as_method("ce")  # stands in, so that the other fields are checked too

    if "method" in values:
        values["method"] = read(values["method"], "method")
    if isinstance(values.get("baselines"), list | tuple):
        values["baselines"] = [
            read(value, "baselines", i) for i, value in enumerate(values["baselines"])
        ]
    return values, lines


def apply_override(raw: dict[str, Any], path: str, value: Any) -> None:
    """Set ``teachers[0].batch_size`` (or ``teachers.0.batch_size``) in plain values, in place.

    Raises ConfigError for a path that leads nowhere.
    """
    if not _PATH.fullmatch(path):
        raise ConfigError(
            f"'{path}' is not a path to a field; write a.b=value, as in schedule.epochs=3 or "
            "teachers[0].cpus=1"
        )
    keys = [int(key) if key.isdigit() else key for key in re.findall(r"[^.\[\]]+", path)]
    node: Any = raw
    for position, key in enumerate(keys):
        _check_step(node, keys[: position + 1])
        if position == len(keys) - 1:
            node[key] = value
        else:
            node[key] = _opened(node[key] if isinstance(node, list) else node.get(key))
            node = node[key]


def _check_step(node: Any, keys: Sequence[str | int]) -> None:
    where, key = _dotted(keys), keys[-1]
    if isinstance(node, list):
        length = len(list[Any](node))
        if not isinstance(key, int) or key >= length:
            raise ConfigError(f"{where}: no such entry; the list has {length}, counted from 0")
    elif not isinstance(node, dict):
        raise ConfigError(f"{where}: '{keys[-2]}' is a value and has no fields")
    elif isinstance(key, int):
        parent = _dotted(keys[:-1])
        raise ConfigError(f"{where}: no list is given there; set it whole, as in {parent}=[…]")


def _opened(child: Any) -> Any:
    """What an override goes on from; a copy, since YAML's aliases share one value."""
    if child is None:
        return {}
    if isinstance(child, str):
        return {"name": child}  # method: kd, then method.temperature=2
    return copy.copy(child)


def _parse(text: str, *, subject: str) -> Any:
    try:
        return plain_yaml.parse(text)
    except ValueError as error:
        raise ConfigError(f"{subject} is not plain YAML: {error}") from None


def _read(source: str, extending: tuple[str, ...]) -> dict[str, Any]:
    """An experiment's plain values, on top of those of the experiment that it ``extends``."""
    if source in extending:
        chain = " -> ".join(f"'{name}'" for name in (*extending, source))
        raise ConfigError(f"extends: {chain} goes round in a circle; take one of them out")
    raw = _parse(_text(source), subject=f"experiment: '{source}'")
    if not isinstance(raw, dict):
        raise ConfigError(f"experiment: '{source}' holds no fields; see `show` for an example")
    base = raw.pop("extends", None)
    if base is None:
        return raw
    if not isinstance(base, str):
        raise ConfigError(f"extends: should be an experiment's name or file (it is {base!r})")
    if base not in shipped_experiments():  # a file is found beside the one that names it
        base = str(Path(source).parent / base)
    return _merged(_read(base, (*extending, source)), raw)


def _merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """``top`` over ``base``, field by field; what bears another name or kind replaces the whole."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and _alike(below, value):
            value = _merged(below, value)
        merged[key] = value
    return merged


def _alike(base: Mapping[str, Any], top: Mapping[str, Any]) -> bool:
    return all(base.get(tag) == top.get(tag, base.get(tag)) for tag in ("name", "kind"))


def _text(source: str) -> str:
    names = shipped_experiments()
    file = resources.files("distill") / "experiments" / f"{source}.yaml"
    if source not in names:
        file = Path(source)
        if not file.is_file():
            hint = _near(file.stem, names, label="shipped")
            raise ConfigError(
                f"experiment: no file '{source}', and no shipped experiment of that name{hint}"
            )
    try:
        with file.open(encoding="utf-8") as stream:
            return stream.read(plain_yaml.MAX_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"experiment: cannot read '{source}' as text: {error}") from None


def _explain(
    error: ValidationError, model: type[BaseModel], *, place: tuple[str | int, ...]
) -> list[str]:
    """One line a mistake: the field, what is wrong, the value, and near misses of a key.

    ``place`` is where in the experiment the model stands.
    """
    lines: list[str] = []
    for item in error.errors(include_url=False):
        details = dict(item)
        # A list of wrong values is called too short, too, once they are taken out.
        if item["type"] == "too_short" and details["input"]:
            continue
        lines.append(_explain_one(details, model, place))
    return lines


def _explain_one(
    error: dict[str, Any], model: type[BaseModel], place: tuple[str | int, ...]
) -> str:
    loc, kind, value = error["loc"], error["type"], error["input"]
    keys, models = _walk(loc, model)
    field = _dotted((*place, *keys))
    if kind == "extra_forbidden":
        return f"{field}: unknown key{_near(str(keys[-1]), _fields(_walk(loc[:-1], model)[1]))}"
    if kind == "missing":
        return f"{field}: missing; add it"
    if kind == "union_tag_not_found":
        tags = ", ".join(tag for member in models for tag in _tags(member))
        return f"{field}.{error['ctx']['discriminator'][1:-1]}: missing; choose from {tags}"
    if kind == "union_tag_invalid":
        tag = str(error["ctx"]["tag"])
        known = [tag for member in models for tag in _tags(member)]
        return f"{field}.{error['ctx']['discriminator'][1:-1]}: unknown '{tag}'{_near(tag, known)}"
    message = _WORDS.get(kind, str(error["msg"]).removeprefix("Input "))
    if kind in ("model_type", "model_attributes_type"):
        known = _fields(models)
        first = "arch" if "arch" in known else known[0]  # what a single word most likely means
        example = f", as in {{{first}: {value}}}" if isinstance(value, str) else ""
        message = f"should hold fields{example}; known: {', '.join(known)}"
    message = message.removeprefix("Value error, ")
    first, colon, rest = message.partition(": ")
    if colon and first in _fields(models):  # a check of several fields names the one to change
        field, message = f"{field}.{first}", rest
    shown = "null" if value is None else repr(value)
    hidden = isinstance(value, dict | list | tuple) or f"'{value}'" in message
    return f"{field}: {message}" + ("" if hidden else f" (it is {shown})")


def _walk(
    loc: Sequence[str | int], model: type[BaseModel]
) -> tuple[list[str | int], list[type[BaseModel]]]:
    """The fields that lead to an error's place, and the models that may stand there.

    pydantic puts the name of a union's member into the place: ``optimizer.sgd.lr``.
    """
    keys, models = list[str | int](), [model]
    for key in loc:
        chosen = [member for member in models if len(models) > 1 and key in _tags(member)]
        if chosen:
            models = chosen
            continue
        keys.append(key)
        if isinstance(key, str):
            info = models[0].model_fields.get(key) if models else None
            models = _members(info.annotation) if info else []
    return keys, models


def _members(annotation: Any) -> list[type[BaseModel]]:
    """The models in an annotation: a union's members, a list's entries."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [member for part in get_args(annotation) for member in _members(part)]


def _tags(model: type[BaseModel]) -> list[str]:
    """What a union calls this member: the value of its ``kind`` or ``name``."""
    fields = [model.model_fields[name] for name in ("kind", "name") if name in model.model_fields]
    return [tag for field in fields for tag in get_args(field.annotation)]


def _fields(models: Iterable[type[BaseModel]]) -> list[str]:
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def _dotted(keys: Iterable[str | int]) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".")


def _near(name: str, names: Iterable[str], *, label: str = "known") -> str:
    known = list(names)
    near = difflib.get_close_matches(name, known, n=2)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
    return f"{hint} {label}: {', '.join(known)}" if known else ""
