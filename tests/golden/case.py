"""One golden file, and a ledger of which of its arrays a check has read or compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

Outputs = dict[str, Tensor]


class Case:
    """A file's arrays as float64 tensors. Reading an array by any method marks it as used."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        self.hp: dict[str, float] = json.loads(str(arrays.pop("hp")))
        self.expected = {name: torch.as_tensor(array) for name, array in arrays.items()}
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        """An input. Raises ValueError if the file lacks it."""
        if name not in self.expected:
            raise ValueError(f"the file has no array '{name}', which the check reads")
        self.used.add(name)
        return self.expected[name]

    def leaf(self, name: str) -> Tensor:
        """An input with respect to which gradients will be taken."""
        return self[name].clone().requires_grad_()

    def numbered(self, stem: str) -> list[Tensor]:
        """``stem_0``, ``stem_1``, … as far as the file goes."""
        return [self[f"{stem}_{k}"] for k in range(self.count(f"{stem}_"))]

    def count(self, prefix: str) -> int:
        """How many numbers follow ``prefix`` in the arrays' names."""
        rest = [name.removeprefix(prefix) for name in self.expected if name.startswith(prefix)]
        return len({text.split(".")[0] for text in rest if text.split(".")[0].isdigit()})

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The arrays whose names begin with ``prefix``, by the rest of their names."""
        names = [name for name in self.expected if name.startswith(prefix)]
        return {name.removeprefix(prefix): self[name] for name in names}

    def unread(self, *names: str) -> None:
        """Declare inputs that the loss in question does not depend on."""
        self.used.update(names)

    def load(self, module: nn.Module, prefix: str, renames: Mapping[str, str]) -> nn.Module:
        """The module in float64, with the arrays under ``prefix``; ``renames`` maps its layers."""
        state = module.state_dict()
        for name, value in self.under(prefix).items():
            head, _, tail = name.rpartition(".")
            state[f"{renames[head]}.{tail}"] = value
        module.double().load_state_dict(state)
        return module

    def gradients(self, loss: Tensor, leaves: Mapping[str, Tensor]) -> Outputs:
        """``grad_<name>`` of a scalar for every leaf."""
        grads = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
        return {f"grad_{name}": grad for name, grad in zip(leaves, grads, strict=True)}

    def errors(self, outputs: Mapping[str, Tensor]) -> dict[str, float]:
        """Each output's relative error; infinite where shapes differ, NaN where a value is."""
        found = {name: value for name, value in outputs.items() if name in self.expected}
        self.used.update(found)
        return {name: relative_error(value, self.expected[name]) for name, value in found.items()}

    def overlooked(self) -> Sequence[str]:
        """The arrays that no one has read or compared."""
        return sorted(set(self.expected) - self.used)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest absolute expected value."""
    if actual.shape != expected.shape:
        return float("inf")
    difference = (actual.detach() - expected).abs().max()
    scale = expected.abs().max()
    return float(difference / scale if scale > 0 else difference)
