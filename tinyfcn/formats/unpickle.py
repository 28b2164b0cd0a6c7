"""The pickles of torch.save, read without running them.

A pickle is a program, and Python's unpickler runs it: it can import and call anything. `unpickle` knows the few instructions that
a state dict needs and nothing of Python: a name never becomes an object, only those in CALLS can be called, and these make
dicts, `View` and `Parameter`. No instruction makes more than one small object, so their number bounds memory.

A storage stands in the pickle as a persistent id, ("storage", class, KEY, device, elements), in legacy files with a sixth item,
None or (key, start, elements) of a part of it. A tensor is a call, _rebuild_tensor(storage, offset, size, stride), in
elements; a Parameter is a call around that, torch/_utils.py, or before 0.4 an object with a state, torch/tensor.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import BytesIO
from pickletools import genops
from typing import Any, NamedTuple

import numpy as np

from tinyfcn.errors import InputError

STEPS = 1_000_000  # instructions of a pickle; VGG's has 1500
KINDS = ("Float", "Double", "Half", "Long", "Int", "Short", "Char", "Byte", "Bool")
CODES = ("<f4", "<f8", "<f2", "<i8", "<i4", "<i2", "i1", "u1", "?")
STORAGES = {
    f"torch{cuda}.{kind}Storage": np.dtype(code) for kind, code in zip(KINDS, CODES, strict=True) for cuda in ("", ".cuda")
}
MODULES = b"ctorch.nn.modules."  # how a pickled model names its layers' classes
TO_MARK = ("TUPLE", "SETITEMS", "APPENDS")  # instructions that take all that is on the stack above the last mark
TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "SETITEM": 2, "APPEND": 1, "REDUCE": 2, "NEWOBJ": 2, "BUILD": 1, "BINPERSID": 1}


class Pickle(BytesIO):
    """The bytes of pickles; no name in them has an escape, which Python would decode, and warn of where it cannot."""

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        if b"\\" in line:
            raise InputError("damaged: a name in its pickle has a backslash")
        return line


class Name(NamedTuple):
    """A class or function that the pickle names: its name and no more."""

    text: str


class Storage(NamedTuple):
    """A storage or a part of it, in elements."""

    key: str
    dtype: np.dtype
    whole: int  # elements of the storage
    start: int
    size: int


class View(NamedTuple):
    """A tensor as the pickle describes it: nothing of it is checked."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class Parameter:
    """A Parameter, which PyTorch before 0.4 gives its state after it is made."""

    def __init__(self, data: Any = None, *_: Any) -> None:
        self.data = data

    def build(self, state: Any) -> None:
        if len(state) == 4:
            self.data = View(*state)
        elif len(state) == 5:  # data, gradient, hooks, requires_grad, volatile
            self.data = state[0]


def counts(*numbers: Any) -> bool:
    """Whether all of these are numbers of elements."""
    return all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)


def _put(target: Any, pairs: Iterable[Any]) -> None:
    if type(target) is not dict:
        raise InputError("damaged: its pickle sets an item of what is no dict")
    for key, value in pairs:
        if type(key) not in (str, int, float, bool):  # to hash a deep tuple can crash Python
            raise InputError(f"has a {type(key).__name__} for a key: not a state dict")
        if key in target:
            raise InputError(f"{key} is there twice")
        target[key] = value


def _ordered(items: Any = ()) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    if items:  # [[key, value], ...], from Python 2
        _put(result, items)
        items.clear()  # so that one list cannot fill a thousand dicts
    return result


CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "torch.Size": lambda size: size,
    "torch._utils._rebuild_tensor": View,
    "torch._utils._rebuild_tensor_v2": lambda storage, offset, size, stride, *_: View(storage, offset, size, stride),
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch.nn.parameter.Parameter": Parameter,
    **dict.fromkeys(  # scores beside the state dict: nothing is made of them
        ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "_codecs.encode", "torch.device"),
        lambda *_: None,
    ),
}


def unpickle(stream: Pickle, storages: dict[str, Storage]) -> Any:
    """Return what the pickle at the stream's position makes, and note its storages; the stream is then behind it.

    Raises InputError where it asks for more than a state dict does, and errors of many kinds where it is damaged.
    """
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks below each mark
    memo: dict[int, Any] = {}
    for step, (code, value, _) in enumerate(genops(stream)):
        if step == STEPS:
            raise InputError(f"its pickle has more than {STEPS} instructions: refused")
        arg: Any = value
        if code.name in TO_MARK:
            taken, stack = stack, below.pop()
        else:
            taken = [stack.pop() for _ in range(TAKES.get(code.name, 0))][::-1]
        match code.name:
            case "PROTO" | "STOP":
                pass
            case "NONE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(arg)
            case "BINSTRING" | "SHORT_BINSTRING":  # Python 2's str
                stack.append(arg.encode("latin-1").decode("utf-8"))
            case "NEWTRUE" | "NEWFALSE":
                stack.append(code.name == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "MARK":
                below.append(stack)
                stack = []
            case "EMPTY_TUPLE" | "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(taken))
            case "SETITEM" | "SETITEMS":
                _put(stack[-1], zip(taken[::2], taken[1::2], strict=True))
            case "APPEND" | "APPENDS":
                list.extend(stack[-1], taken)
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "GLOBAL":
                stack.append(_named(arg.replace(" ", "."), stream))
            case "REDUCE" | "NEWOBJ":
                stack.append(_call(*taken))
            case "BUILD":
                if isinstance(stack[-1], Parameter):
                    stack[-1].build(*taken)
                elif type(stack[-1]) not in (dict, type(None)):  # a dict's state is {"_metadata": ...}
                    raise InputError(f"its pickle gives a {type(stack[-1]).__name__} a state: refused")
            case "BINPERSID":
                stack.append(_storage(taken[0], storages))
            case other:
                raise InputError(f"its pickle uses {other}, which no state dict needs: refused")
    return stack.pop()


def _named(name: str, stream: Pickle) -> Name:
    if name.endswith("BFloat16Storage"):
        raise InputError(f"holds bfloat16 ({name}), which NumPy does not have: save it as float32")
    if name not in CALLS and name not in STORAGES:
        whole = MODULES in stream.getvalue()
        hint = "; it is a whole model: where it opens, torch.save(model.state_dict(), 'state.pth')" if whole else ""
        raise InputError(f"asks for {name}, which is no tensor: refused{hint}")
    return Name(name)


def _call(name: Any, arguments: Any) -> Any:
    if not isinstance(name, Name) or name.text not in CALLS or type(arguments) is not tuple or len(arguments) > 8:
        raise InputError("its pickle calls what is no function: refused")
    return CALLS[name.text](*arguments)


def _storage(identity: Any, storages: dict[str, Storage]) -> Storage:
    if type(identity) is not tuple or len(identity) not in (5, 6):
        raise InputError("its pickle asks for what is no storage: refused")
    kind, name, key, _, size, *part = identity
    if kind != "storage" or not isinstance(name, Name) or type(key) is not str or not counts(size):
        raise InputError("its pickle asks for what is no storage: refused")
    found = Storage(key, STORAGES[name.text], size, 0, size)
    if storages.setdefault(key, found) != found:
        raise InputError(f"storage {key} is described twice, and not alike")
    if not part or part[0] is None:
        return found
    _, start, length = part[0]
    if not counts(start, length) or start + length > size:
        raise InputError(f"a part of storage {key} lies outside its {size} elements")
    return found._replace(start=start, size=length)
