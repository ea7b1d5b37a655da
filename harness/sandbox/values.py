"""Plain values as JSON, exactly: what a call carries into the sandbox, and the answer out of it.

Exact means: integers of any size, floats bit for bit, strings with lone surrogates, tuples and lists apart. An
instance of a subclass is reduced to its base value (Counter to dict, namedtuple to tuple, IntEnum to int) by the base's
own methods, so that an overridden `__eq__` never reaches the judge. Any other object becomes `Opaque`: it equals
nothing.
A JSON object is always a tag: {"t": [...]} is a tuple; plain JSON stands for itself.
"""

from __future__ import annotations

import collections.abc
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

PLAIN_INT = 1 << 63  # beyond, hexadecimal: json refuses integers of more than 4,300 digits


class Unsendable(TypeError):
    """A value with no plain form, met while packing arguments."""


class Opaque:
    """Stands for an object that is not plain data: equal to nothing, not even itself; only its truth is carried."""

    def __init__(self, kind: str, truth: bool) -> None:
        self._kind, self._truth = kind, truth

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return self._truth

    def __repr__(self) -> str:
        return f"<{self._kind} object>"


def pack(value: Any, strict: bool = False) -> Any:
    """JSON for a value. An object that is not plain is a tag for Opaque, or, when strict, raises Unsendable."""
    packer = _EXACT.get(type(value))
    if packer is not None:
        return packer(value, strict)
    for base, packer in _BASES:
        if isinstance(value, base):
            return packer(value, strict)
    if strict:
        raise Unsendable(f"an argument of type {type(value).__name__} is not plain data")
    return {"o": [type(value).__name__[:100], bool(value)]}


def unpack(packed: Any) -> Any:
    """The value of a packed one. What `pack` can't give raises ValueError, TypeError, LookupError or RecursionError."""
    if type(packed) is list:
        return [unpack(item) for item in packed]
    if type(packed) is not dict:
        return packed
    ((tag, content),) = packed.items()
    return _UNPACK[tag](content)


def _int(value: int, strict: bool) -> Any:
    if -PLAIN_INT < value < PLAIN_INT:
        return int.__add__(value, 0)  # of a subclass too, a plain int
    return {"i": int.__format__(value, "x")}


def _str(value: str, strict: bool) -> Any:
    plain = str.__str__(value)
    try:
        plain.encode()
    except UnicodeEncodeError:
        return {"u": plain.encode("utf-16-le", "surrogatepass").hex()}
    return plain


def _items(value: Any, strict: bool) -> list[Any]:
    return [pack(item, strict) for item in value]


def _tagged(tag: str) -> Callable[[Any, bool], Any]:
    return lambda value, strict: {tag: _items(value, strict)}


def _dict(value: Any, strict: bool) -> Any:
    return {"d": [[pack(k, strict), pack(v, strict)] for k, v in dict.items(value)]}


_EXACT: dict[type, Callable[[Any, bool], Any]] = {
    type(None): lambda value, strict: None,
    bool: lambda value, strict: value,
    int: _int,
    float: lambda value, strict: float.__float__(value),  # repr is exact, and so is json; inf and nan pass
    str: _str,
    list: lambda value, strict: _items(list.__iter__(value), strict),
    tuple: lambda value, strict: {"t": _items(tuple.__iter__(value), strict)},
    dict: _dict,
    set: lambda value, strict: {"s": _items(set.__iter__(value), strict)},
    frozenset: lambda value, strict: {"f": _items(frozenset.__iter__(value), strict)},
    complex: lambda value, strict: {"c": [complex.__complex__(value).real, complex.__complex__(value).imag]},
    bytes: lambda value, strict: {"b": bytes.hex(value)},
    bytearray: lambda value, strict: {"B": bytearray.hex(value)},
    range: lambda value, strict: {"r": _items((value.start, value.stop, value.step), strict)},
    type(...): lambda value, strict: {"e": None},
    Decimal: lambda value, strict: {"D": Decimal.__str__(value)},
    Fraction: lambda value, strict: {"F": [pack(value.numerator), pack(value.denominator)]},
}
_BASES: list[tuple[type, Callable[[Any, bool], Any]]] = [
    *_EXACT.items(),
    (collections.abc.KeysView, _tagged("s")),
    (collections.abc.ItemsView, _tagged("s")),
]


def _unpack_dict(content: Any) -> dict[Any, Any]:
    return {unpack(key): unpack(value) for key, value in content}


_UNPACK: dict[str, Callable[[Any], Any]] = {
    "i": lambda content: int(content, 16),
    "u": lambda content: bytes.fromhex(content).decode("utf-16-le", "surrogatepass"),
    "t": lambda content: tuple([unpack(item) for item in content]),
    "s": lambda content: {unpack(item) for item in content},
    "f": lambda content: frozenset([unpack(item) for item in content]),
    "d": _unpack_dict,
    "c": lambda content: complex(float(content[0]), float(content[1])),
    "b": bytes.fromhex,
    "B": bytearray.fromhex,
    "r": lambda content: range(*[unpack(item) for item in content]),
    "e": lambda content: ...,
    "D": Decimal,
    "F": lambda content: Fraction(unpack(content[0]), unpack(content[1])),
    "o": lambda content: Opaque(str(content[0])[:100], content[1] is True),
}
