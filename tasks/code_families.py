"""Families of small functions with parameters: what a problem asks, its solution, and how its arguments are drawn.

A family is two templates, of a docstring and of a body, and the values that its parameters take. Names are filled in
last, so that the same problem under other names is known for the same (see `canonical`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

SMALL = tuple(range(2, 21))
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
MARKS = tuple("-+*/:;,.!?#_")

TYPES = {"x": "int", "y": "int", "v": "int", "xs": "list", "s": "str", "n": "int", "total": "int"}
NAMES = {
    "x": ("x", "n", "value", "number"),
    "y": ("y", "m", "other", "second"),
    "xs": ("xs", "numbers", "values", "items"),
    "s": ("s", "text", "word", "string"),
}
"""Names of an argument; the first is the one that templates use, in braces."""


@dataclass(frozen=True)
class Family:
    """`arguments` are keys of NAMES; templates name them {x}, {xs} … and parameters {a}, {b}."""

    name: str
    arguments: tuple[str, ...]
    asks: str
    body: str
    returns: str
    a: tuple[Any, ...]
    b: tuple[Any, ...] = (None,)

    def parameters(self) -> Iterator[tuple[Any, Any]]:
        """All (a, b), in an order that stays the same."""
        yield from ((a, b) for a, b in product(self.a, self.b) if not (isinstance(a, str) and a == b))


def _one_line(name: str, arguments: str, asks: str, expression: str, returns: str, *values: Any) -> Family:
    return Family(name, tuple(arguments.split()), asks, f"    return {expression}\n", returns, *values)


FAMILIES = (
    _one_line("linear", "x", "{a} times {x}, plus {b}", "{a} * {x} + {b}", "int", SMALL, SMALL),
    _one_line("shifted", "x", "{x} minus {a}, times {b}", "({x} - {a}) * {b}", "int", SMALL, SMALL),
    _one_line(
        "remainder", "x", "the remainder of {x} plus {a} divided by {b}", "({x} + {a}) % {b}", "int", SMALL, SMALL
    ),
    _one_line(
        "quotient", "x", "{x} times {a} divided by {b}, rounded down", "{x} * {a} // {b}", "int", SMALL, SMALL[1:]
    ),
    _one_line(
        "divides",
        "x",
        "whether {a} divides {x} and {x} is above {b}",
        "{x} % {a} == 0 and {x} > {b}",
        "bool",
        SMALL[:12],
        SMALL,
    ),
    _one_line(
        "power", "x", "{x} to the power of {a}, plus {b}", "{x} ** {a} + {b}", "int", (2, 3, 4), tuple(range(2, 60))
    ),
    _one_line(
        "smaller",
        "x",
        "the smaller of {a} times {x} and {x} plus {b}",
        "min({a} * {x}, {x} + {b})",
        "int",
        SMALL,
        SMALL,
    ),
    _one_line("pair", "x y", "{a} times {x} plus {b} times {y}", "{a} * {x} + {b} * {y}", "int", SMALL, SMALL),
    _one_line(
        "digits",
        "x",
        "the sum of the digits of {x}, times {a}, plus {b}",
        "{a} * sum(int(d) for d in str(abs({x}))) + {b}",
        "int",
        SMALL,
        SMALL,
    ),
    _one_line(
        "parity",
        "x",
        "{x} plus {a} if {x} is even, otherwise {x} times {b}",
        "{x} + {a} if {x} % 2 == 0 else {x} * {b}",
        "int",
        SMALL,
        SMALL,
    ),
    Family(
        "halvings",
        ("x",),
        "how often {x} can be divided by {a} until it is at most {b}",
        "    count = 0\n    while {x} > {b}:\n        {x} //= {a}\n        count += 1\n    return count\n",
        "int",
        SMALL[:8],
        SMALL,
    ),
    _one_line(
        "above",
        "xs",
        "the elements of {xs} above {a}, each times {b}",
        "[v * {b} for v in {xs} if v > {a}]",
        "list",
        SMALL,
        SMALL,
    ),
    _one_line(
        "moved",
        "xs",
        "the elements of {xs}, each plus {a}, but for multiples of {b}",
        "[v + {a} for v in {xs} if v % {b} != 0]",
        "list",
        SMALL,
        SMALL[:8],
    ),
    _one_line(
        "counted",
        "xs",
        "how many elements of {xs} leave {b} when divided by {a}",
        "sum(1 for v in {xs} if v % {a} == {b})",
        "int",
        tuple(range(3, 16)),
        tuple(range(0, 3)),
    ),
    _one_line(
        "every",
        "xs",
        "the elements of {xs} at steps of {a}, from index {b}",
        "{xs}[{b}::{a}]",
        "list",
        tuple(range(2, 7)),
        tuple(range(0, 7)),
    ),
    _one_line(
        "without-ends",
        "xs",
        "{xs} without its first {a} and its last {b} elements",
        "{xs}[{a}:-{b}]",
        "list",
        tuple(range(1, 6)),
        tuple(range(1, 6)),
    ),
    Family(
        "total",
        ("xs",),
        "the sum of the elements of {xs} up to {a}, plus {b}",
        "    total = {b}\n    for v in {xs}:\n        if v <= {a}:\n            total += v\n    return total\n",
        "int",
        SMALL,
        SMALL,
    ),
    _one_line(
        "repeated", "s", "{s} repeated {a} times, then '{b}'", "{s} * {a} + '{b}'", "str", tuple(range(2, 9)), MARKS
    ),
    _one_line(
        "replaced", "s", "{s} with every '{a}' replaced by '{b}'", "{s}.replace('{a}', '{b}')", "str", LETTERS, LETTERS
    ),
    _one_line(
        "occurrences", "s", "{a} times the number of '{b}' in {s}", "{a} * {s}.count('{b}')", "int", SMALL, LETTERS
    ),
    _one_line(
        "cut",
        "s",
        "the first {a} characters of {s}, in capitals, then '{b}'",
        "{s}[:{a}].upper() + '{b}'",
        "str",
        tuple(range(1, 8)),
        MARKS,
    ),
    _one_line(
        "begins",
        "s",
        "whether {s} begins with '{a}' and has more than {b} characters",
        "{s}.startswith('{a}') and len({s}) > {b}",
        "bool",
        LETTERS,
        tuple(range(3, 9)),
    ),
    # held out as families, by default
    _one_line(
        "larger",
        "x y",
        "the larger of {a} times {x} and {b} times {y}",
        "max({a} * {x}, {b} * {y})",
        "int",
        SMALL,
        SMALL,
    ),
    _one_line("distance", "x", "the distance of {x} from {a}, plus {b}", "abs({x} - {a}) + {b}", "int", SMALL, SMALL),
    _one_line(
        "limited",
        "x",
        "{x}, but at least {a} and at most {a} plus {b}",
        "max({a}, min({a} + {b}, {x}))",
        "int",
        SMALL,
        SMALL,
    ),
    _one_line(
        "below",
        "xs",
        "the elements of {xs} below {a}, each minus {b}",
        "[v - {b} for v in {xs} if v < {a}]",
        "list",
        SMALL,
        SMALL,
    ),
    _one_line("between", "s", "'{a}', then {s}, then '{b}'", "'{a}' + {s} + '{b}'", "str", MARKS, MARKS),
    _one_line("product", "x", "{x} plus {a}, times {x} plus {b}", "({x} + {a}) * ({x} + {b})", "int", SMALL, SMALL),
)

HELD_OUT = ("larger", "distance", "limited", "below", "between", "product")
BY_NAME = {family.name: family for family in FAMILIES}


def filled(template: str, names: dict[str, str], a: Any, b: Any) -> str:
    return template.format(a=a, b=b, **names)


@lru_cache(maxsize=1 << 15)
def canonical(source: str) -> str:
    """A program up to renaming: every name that it binds itself is numbered in the order of its first use."""
    tree = ast.parse(source)
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            bound.setdefault(node.name, f"name{len(bound)}")
            for argument in node.args.args:
                bound.setdefault(argument.arg, f"name{len(bound)}")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.setdefault(node.id, f"name{len(bound)}")

    class Renamed(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            node.id = bound.get(node.id, node.id)
            return node

        def visit_arg(self, node: ast.arg) -> ast.AST:
            node.arg = bound.get(node.arg, node.arg)
            return node

        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
            node.name = bound[node.name]
            body = node.body
            if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and len(body) > 1:
                node.body = body[1:]  # the docstring asks, it does nothing
            self.generic_visit(node)
            return node

    return ast.unparse(Renamed().visit(tree))
