"""Pickles of strangers read as data: they make numbers, text, lists and dicts, and nothing else.

A pickle is a program, and Python's reader runs it (docs.python.org/3/library/pickle.html). Here its
instructions are taken apart by pickletools, and those that put data together are carried out.
Nothing is imported or called at the file's word, and memory stays in proportion to the file: there
is no copying of what is named again, no allocation of what is only announced, no hashing of tuples.
"""

from __future__ import annotations

import pickletools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard, final

Maker = Callable[..., object]

# Instructions that push their own argument.
_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    )
)
_IGNORED = frozenset(("PROTO", "FRAME"))
_KEYS = (str, bytes, int, float, bool, type(None))  # whose hash is found in no time
_MAX_BITS = 64  # of an integer
_MAX_ARGUMENTS = 16
_STRANGE = object()  # stands for whatever the table does not have


class StandIn(ABC):
    """What a maker returns for an object that the file gives a state afterwards."""

    @abstractmethod
    def restore(self, state: object) -> None:
        """Take the state that the object was pickled with. May raise anything."""


@final
@dataclass(frozen=True, slots=True)
class Unpickled:
    """A pickle's value, and the names in it that the reader's table did not have.

    Where such names are called a placeholder stands.
    """

    value: object
    unknown: tuple[str, ...]


def read_plain(
    content: bytes, known: Mapping[str, object], *, persistent: Maker | None = None
) -> Unpickled:
    """Read a pickle. ``known`` has what each name stands for, as ``collections.OrderedDict``.

    ``persistent`` makes what the file refers to by a persistent id. Makers must neither copy nor
    allocate in proportion to their arguments. Raises ValueError for what is no whole pickle of
    data; the message does not name the file.
    """
    machine = _Machine(known, persistent)
    try:
        value = machine.run(content)
    except Exception as error:  # a damaged or hostile pickle may fail in any way
        raise ValueError(str(error) or type(error).__name__) from error
    return Unpickled(value, tuple(dict.fromkeys(machine.unknown)))


@final
class _Machine:
    """The stack machine that a pickle is a program of, without what is not data."""

    def __init__(self, known: Mapping[str, object], persistent: Maker | None) -> None:
        self.unknown: list[str] = []
        self._known, self._persistent = known, persistent
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        put, get, push = self._put, self._get, self._stack.append
        self._steps: Mapping[str, Callable[[Any], object]] = {
            "NONE": lambda _: push(None),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_TUPLE": lambda _: push(()),
            "EMPTY_DICT": lambda _: push({}),
            "MARK": lambda _: self._marks.append(len(self._stack)),
            "LIST": lambda _: push(self._from_mark()),
            "TUPLE": lambda _: push(tuple(self._from_mark())),
            "DICT": lambda _: self._begin_dict(),
            **{f"TUPLE{n}": lambda _, n=n: push(tuple(self._last(n))) for n in (1, 2, 3)},
            "APPEND": lambda _: self._extend(self._last(1)),
            "APPENDS": lambda _: self._extend(self._from_mark()),
            "SETITEM": lambda _: self._set_items(self._last(2)),
            "SETITEMS": lambda _: self._set_items(self._from_mark()),
            "MEMOIZE": lambda _: put(len(self._memo)),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), put),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), get),
            "GLOBAL": lambda name: self._look_up(*name.split(" ", 1)),
            "STACK_GLOBAL": lambda _: self._look_up(*self._last(2)),
            **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda _: self._call(*self._last(2))),
            "BUILD": lambda _: self._build(*self._last(1)),
            "BINPERSID": lambda _: self._refer(*self._last(1)),
        }

    def run(self, content: bytes) -> object:
        for instruction, argument, _ in pickletools.genops(content):
            name = instruction.name
            if name in _LITERALS:
                if isinstance(argument, int) and argument.bit_length() > _MAX_BITS:
                    raise ValueError(f"it holds a number of {argument.bit_length()} bits")
                self._stack.append(argument)
            elif name == "STOP":
                break
            elif name not in _IGNORED:
                if name not in self._steps:
                    raise ValueError(f"it holds more than plain data ({name})")
                self._steps[name](argument)
        (value,) = self._stack
        return value

    def _last(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("an instruction finds nothing to work on")
        found = self._stack[-count:]
        del self._stack[-count:]
        return found

    def _from_mark(self) -> list[Any]:
        start = self._marks.pop()
        found = self._stack[start:]
        del self._stack[start:]
        return found

    def _put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def _get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def _begin_dict(self) -> None:
        items = self._from_mark()
        self._stack.append({})
        self._set_items(items)

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif target is not _STRANGE:
            raise ValueError(f"items are added to a {type(target).__name__}")

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if target is _STRANGE:
            return
        if not isinstance(target, dict):
            raise ValueError(f"entries are added to a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in _KEYS:
                raise ValueError(f"a key is a {type(key).__name__}, not text or a number")
            target[key] = value

    def _look_up(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a name is no text")
        full = f"{module}.{name}"
        if full not in self._known:
            self.unknown.append(full)
        self._stack.append(self._known.get(full, _STRANGE))

    def _call(self, maker: object, arguments: object) -> None:
        if not isinstance(arguments, tuple) or len(arguments) > _MAX_ARGUMENTS:
            raise ValueError("something is called with more than a few arguments")
        if maker is _STRANGE:
            self._stack.append(_STRANGE)
        elif any(maker is known for known in self._known.values()) and callable(maker):
            self._stack.append(maker(*arguments))
        else:
            raise ValueError(f"a {type(maker).__name__} is called")

    def _build(self, state: object) -> None:
        """Attributes of anything else, as a state dict's ``_metadata``, are of no interest."""
        if isinstance(self._stack[-1], StandIn):
            self._stack[-1].restore(state)

    def _refer(self, name: object) -> None:
        if self._persistent is None:
            raise ValueError("it refers to something outside")
        self._stack.append(self._persistent(name))


def is_list_of(value: object, kind: type) -> TypeGuard[list[Any]]:
    """Whether a value is a flat list of one kind: a nested one may stand for far more."""
    return isinstance(value, list) and all(type(item) is kind for item in value)
