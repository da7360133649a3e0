"""What an object is made of, as plain values: equal descriptions are of objects that train alike."""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import marshal
import types
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..tasks.blocked_task import fingerprint

DEEPEST = 8  # of objects within objects; what lies deeper counts as changed
PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device, enum.Enum)
FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)


def described(value: Any, *, instead: Mapping[int, str] | None = None, depth: int = 0) -> Any:
    """A description in plain values that changes whenever the object's content, or a function's code, does.

    Tensors and data sets are hashed, functions stand by their byte code, defaults and closures, objects by their class
    and attributes, tokenizers by their vocabulary. What none of this fits gets a description that never occurs again:
    it counts as changed.

    Args:
        value: The object.
        instead: By ``id``, descriptions of objects that are not to be looked into.
        depth: Objects that this one lies within.

    Example:
        >>> described({"weights": [1.0, 2.0]})
        {'weights': [1.0, 2.0]}
        >>> described(object()) == described(object())
        False
    """
    inner = functools.partial(described, instead=instead, depth=depth + 1)
    if id(value) in (instead or {}):
        return (instead or {})[id(value)]
    if isinstance(value, PLAIN):
        return value if isinstance(value, bool | int | float | str | None) else repr(value)
    if depth > DEEPEST:
        return uuid.uuid4().hex
    if isinstance(value, torch.Tensor | np.ndarray):
        array = value.detach().cpu().float().numpy() if isinstance(value, torch.Tensor) else value
        return [str(array.dtype), list(array.shape), _digest(array.tobytes())]
    if isinstance(value, Mapping):
        return {str(name): inner(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [inner(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(str(inner(one)) for one in value)
    if isinstance(value, Dataset):
        return fingerprint(value)
    if isinstance(value, PreTrainedTokenizerBase):  # its padding and truncation change whenever it is used
        return [type(value).__qualname__, _digest(repr(sorted(value.get_vocab().items())).encode())]
    if isinstance(value, FUNCTIONS):
        return [inner(one) for one in _parts(value)]
    if isinstance(value, type):
        return [value.__qualname__, *(_digest(marshal.dumps(one.__code__)) for one in _methods(value))]
    if isinstance(value, types.BuiltinFunctionType | np.ufunc):
        return repr(value.__name__)
    content = value.state_dict() if isinstance(value, nn.Module) else getattr(value, "__dict__", None)
    return uuid.uuid4().hex if content is None else [inner(type(value)), inner(content)]


def stored_names(*classes: type) -> set[str]:
    """Names of the attributes that the methods of some classes set, on whatever object."""
    codes = [method.__code__ for one in classes for method in _methods(one)]
    for code in codes:  # nested functions are appended as they are met
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return {str(step.argval) for code in codes for step in dis.get_instructions(code) if step.opname == "STORE_ATTR"}


def _parts(function: Any) -> list[Any]:
    """What decides on what a function does."""
    if isinstance(function, functools.partial):
        return [function.func, function.args, function.keywords]
    if isinstance(function, types.MethodType):
        return [function.__func__, function.__self__]
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return [_digest(marshal.dumps(function.__code__)), function.__defaults__, function.__kwdefaults__, cells]


def _methods(kind: type) -> Iterator[types.FunctionType]:
    """Functions in the body of a class and of its bases in Python, properties and class methods included."""
    for one in kind.__mro__:
        for held in vars(one).values():
            function = getattr(held, "fget", None) or getattr(held, "__func__", None) or held
            if isinstance(function, types.FunctionType):
                yield function


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
