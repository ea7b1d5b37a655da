"""Programs near the canonical solutions: right, wrong, retyped, broken, slow; from a seed."""

from __future__ import annotations

import ast
import itertools
import random
from collections.abc import Iterator

from harness.sandbox.pool import Problem, Program

COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
OPERATIONS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod)
# what a solution's result is passed through: equal values of other types, near values, and objects of its own
RETYPES = {
    "subclass": "type('S', (type({0}),), {{}})({0}) if type({0}) in (int, float, str, list, tuple, dict, set) else {0}",
    "float": "float({0}) if type({0}) is int else {0}",
    "int": "int({0}) if type({0}) in (float, bool) else {0}",
    "tuple": "tuple({0}) if type({0}) is list else {0}",
    "list": "list({0}) if type({0}) in (tuple, set, str) else {0}",
    "counter": "__import__('collections').Counter({0}) if type({0}) is dict else {0}",
    "fraction": "__import__('fractions').Fraction({0}) if type({0}) is int else {0}",
    "iterator": "iter({0}) if type({0}) is list else {0}",
    "object": "type('O', (), {{'__repr__': lambda s: repr({0})}})()",
    "none": "None",
    "equal": "{0} if {0} == {0} else None",
}


def mutants(problems: list[Problem], count: int, seed: int) -> list[tuple[str, Program]]:
    """`count` programs with the kind of change each carries, spread evenly over the problems."""
    rng = random.Random(seed)
    rows = [list(_of_one(problem, rng)) for problem in problems]
    for row in rows:
        rng.shuffle(row)
    found = [item for layer in itertools.zip_longest(*rows) for item in layer if item is not None]
    assert len(found) >= count, len(found)
    return found[:count]


def _of_one(problem: Problem, rng: random.Random) -> Iterator[tuple[str, Program]]:
    body = problem.canonical_solution
    yield "same", Program(problem, body)
    yield "cut", Program(problem, body[: rng.randrange(len(body))])
    yield "syntax", Program(problem, body + "    return ((\n")
    yield "slow", Program(problem, "    import time; time.sleep(0.05)\n" + body)
    if rng.random() < 0.05:
        yield "endless", Program(problem, "    while True: pass\n")
    inner = f"_{problem.entry_point}"
    for kind in rng.sample(sorted(RETYPES), 4):
        wrapper = f"\n{inner} = {problem.entry_point}\ndef {problem.entry_point}(*a, **k):\n    r = {inner}(*a, **k)\n"
        # a recursive solution must go on calling itself, not the wrapper
        text = body + wrapper + f"    return {RETYPES[kind].format('r')}\n"
        yield f"retype-{kind}", Program(problem, text)
    whole = ast.parse(problem.prompt + body)
    for _ in range(6):
        tree = ast.parse(ast.unparse(whole))
        kind = _change(tree, problem.entry_point, rng)
        if kind:
            # the prompt stays in front, as always; the changed program defines everything again after it
            yield f"change-{kind}", Program(problem, "    pass\n\n" + ast.unparse(tree) + "\n")


def _change(tree: ast.Module, name: str, rng: random.Random) -> str | None:
    """Change one place of the function in place; gives the kind of change."""
    function = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name), None)
    if function is None:
        return None
    places = [
        n for n in ast.walk(function) if isinstance(n, (ast.Compare, ast.BinOp, ast.Constant, ast.Return, ast.If))
    ]
    place = rng.choice(places)
    match place:
        case ast.Compare():
            place.ops[0] = rng.choice(COMPARISONS)()
            return "comparison"
        case ast.BinOp():
            place.op = rng.choice(OPERATIONS)()
            return "operation"
        case ast.Constant(value=int()):
            place.value = int(place.value) + rng.choice((-1, 1))
            return "constant"
        case ast.Constant(value=str()):
            place.value = place.value[1:]
            return "text"
        case ast.Return():
            place.value = ast.Constant(None)
            return "return"
        case ast.If():
            place.test = ast.UnaryOp(ast.Not(), place.test)
            return "condition"
    return None
