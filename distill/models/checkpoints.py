"""Weights to and from files, and their digest. Never unpickles anything but tensors."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from distill.models.base import Normalized, TappedModel, modules_by_path
from distill.models.hooked import HookedModel
from distill.models.inspection import PARALLEL_PREFIX, WRAPPERS, inspect_checkpoint, unwrap

_COUNTER = "num_batches_tracked"  # of BatchNorm; older checkpoints lack it
_NUM_LISTED = 4
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")  # in what torch says of a pickle that it refuses


def load_weights(model: TappedModel, path: Path) -> None:
    """Load a published or saved state into ``model``, cast to its dtype.

    Reads safetensors, or what torch.save wrote, with ``weights_only=True``: the state itself or a
    dict with it under ``model``, ``state_dict`` or ``net``; ``module.`` prefixes are dropped. The
    model is changed only if everything fits. Raises ValueError, naming the file and the missing,
    unexpected and mis-shaped tensors.
    """
    state = _rename(_read(path), model.published_prefixes)
    target = _core(model)
    own = target.state_dict()
    missing = [name for name in own if name not in state and not name.endswith(_COUNTER)]
    unexpected = sorted(name for name in state if name not in own)
    misshaped = {
        name: f"{name} {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    }
    problems = _class_mismatch(model, target, state)
    problems += _listed("missing", missing) + _listed("unexpected", unexpected)
    problems += _listed("mis-shaped", list(misshaped.values()))
    if problems:
        raise ValueError(f"checkpoint '{path}' does not fit the network: {'; '.join(problems)}")
    target.load_state_dict(state, strict=False)


def save_weights(model: nn.Module, path: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write the weights as safetensors under their published names; the same bytes each time.

    ``dtype``, if given, is that of the stored floating-point tensors. The file appears at once
    and whole, or not at all.
    """
    state = {
        name: tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        for name, tensor in _published_state(model).items()
    }
    content = save_safetensors(
        {name: tensor.cpu().contiguous().clone() for name, tensor in state.items()},
        metadata={"format": "pt"},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def weights_digest(model: nn.Module) -> str:
    """SHA-256, in hexadecimal, of the state's names, dtypes, shapes and bytes.

    The count of batches that BatchNorm has seen changes no output and is left out.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_published_state(model).items()):
        if name.endswith(_COUNTER):
            continue
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(data.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _core(model: nn.Module) -> nn.Module:
    """The module whose state a checkpoint holds, inside of our own wrappers."""
    while isinstance(model, Normalized | HookedModel):
        model = model.network
    return model


def _published_state(model: nn.Module) -> dict[str, Tensor]:
    core = _core(model)
    if not isinstance(core, TappedModel):
        return core.state_dict()
    inverse = {ours: published for published, ours in core.published_prefixes.items()}
    return _rename(core.state_dict(), inverse)


def _rename(state: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        old = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        renamed[prefixes.get(old, "") + name.removeprefix(old)] = tensor
    return renamed


def _read(path: Path) -> dict[str, Tensor]:
    header = inspect_checkpoint(path)
    try:
        if header.format == "safetensors":
            loaded: object = load_safetensors(path.read_bytes())
        else:
            with path.open("rb") as file:  # of a path, torch would believe the suffix
                loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file may fail in any way
        fix = "it must hold tensors only; save the state dict alone"
        raise ValueError(f"checkpoint '{path}' cannot be loaded: {why(error)}; {fix}") from error
    state = unwrap(loaded)
    tensors = {name: item for name, item in (state or {}).items() if isinstance(item, Tensor)}
    if not tensors:
        keys = ", ".join(f"'{key}'" for key in WRAPPERS)
        raise ValueError(f"checkpoint '{path}' holds no state dict, neither bare nor under {keys}")
    return {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in tensors.items()}


def why(error: Exception) -> str:
    """What is wrong with a file of tensors, on one line, from what its reader raised."""
    if asked := _GLOBAL.search(str(error)):
        return f"it asks for {asked[1]}, which is not data"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def stored_classes(model: TappedModel, path: Path) -> int:
    """The number of classes that a checkpoint of ``model``'s architecture has, whatever its own.

    Raises ValueError for a network that does not end in a linear layer, or a file without one.
    """
    state = _rename(_read(path), model.published_prefixes)
    _ = model.classifier  # which says so itself, where there is none
    rows = _classifier_rows(model, _core(model), state)
    if rows is None:
        raise ValueError(f"checkpoint '{path}' does not hold the network's last layer")
    return rows[0]


def _class_mismatch(
    model: TappedModel, target: nn.Module, state: Mapping[str, Tensor]
) -> list[str]:
    """What to say where the classifier alone shows that the checkpoint is for other data."""
    theirs, ours = _classifier_rows(model, target, state) or (0, 0)
    if theirs == ours:
        return []
    return [
        f"the checkpoint's classifier has {theirs} classes, the data has {ours} (of a teacher's, "
        "outputs or classes choose some)"
    ]


def _classifier_rows(
    model: TappedModel, target: nn.Module, state: Mapping[str, Tensor]
) -> tuple[int, int] | None:
    """The classifier's number of rows in the checkpoint, and the network's own."""
    for path, module in modules_by_path(target).items():
        weight = state.get(f"{path}.weight")
        if isinstance(module, nn.Linear) and module is model.classifier and weight is not None:
            return weight.shape[0], module.out_features
    return None


def _listed(label: str, items: list[str]) -> list[str]:
    if not items:
        return []
    more = f" and {len(items) - _NUM_LISTED} more" if len(items) > _NUM_LISTED else ""
    return [f"{label}: {', '.join(items[:_NUM_LISTED])}{more}"]
