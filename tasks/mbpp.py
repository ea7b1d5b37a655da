"""`mbpp`: Google's basic Python problems with their official splits, from the data folder or the hub.

Prompt: a docstring with the text and the first assertion, so that the function's name is known; answer: the program;
check: all assertions. Official splits by task id: few-shot examples 1–10 (left out), test 11–510, validation 511–600,
train 601–974. Six problems can't be judged by plain values and are left out, see NOT_JUDGED; three of training are
asked in the test, too, and are left out of training.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from harness.errors import BrokenData, MissingData
from tasks import hub
from tasks.base import DataFolder, Splits, register_task
from tasks.code import CodeTask, Item, known_split

FILE = "mbpp/mbpp.jsonl"
HUB = "google-research-datasets/mbpp"
REMEDY = "put mbpp.jsonl there, from google-research/mbpp, or unset the data folder to read it from the hub"
ROWS = 974
NOT_JUDGED = {
    123: "its program takes seconds for one of its calls",
    367: "its assertions build objects of the program's own classes",
    533: "its assertions pass a type",
    596: "its assertions use a module that only the program imports",
    601: "its assertions build objects of the program's own classes",
    927: "its assertions build objects of the program's own classes",
}
"""Problems, by task id, whose own program can't pass its own assertions where programs answer with plain values."""
SPLITS = {"train": range(601, 975), "validation": range(511, 601), "test": range(11, 511)}
HELD_OUT: dict[str, tuple[str, ...]] = {"train": ("validation", "test"), "validation": ("test",), "test": ()}
"""Splits whose problems a split leaves out: three of the official training problems are asked in the test, too."""
KEYS = {"text": str, "code": str, "task_id": int, "test_list": list, "test_setup_code": str}


@register_task("mbpp")
class Mbpp(CodeTask):
    """Text: a docstring, then the whole program, which is the answer."""

    version: ClassVar[int] = 1
    summary: ClassVar[str] = "MBPP's basic Python problems, official splits; hidden assertions run in a sandbox."
    source: ClassVar[str] = "MBPP (Austin et al. 2021)"
    licence: ClassVar[str] = "CC-BY-4.0"
    real_data: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]] = (FILE,)
    hub: ClassVar[str] = HUB
    whole_program: ClassVar[bool] = True
    contract_settings: ClassVar[dict[str, Any]] = {"max_tokens": 130}

    def splits(self, seed: int, data: DataFolder) -> Splits:
        return {split: self.rows(self.items(split, data)) for split in SPLITS}

    def items(self, split: str, data: DataFolder) -> list[Item]:
        known_split(self.name, split, SPLITS)
        rows = {row["task_id"]: row for row in _read(data)}
        held_out = {rows[i]["text"].strip() for other in HELD_OUT[split] for i in SPLITS[other]}
        kept = [i for i in SPLITS[split] if i not in NOT_JUDGED and rows[i]["text"].strip() not in held_out]
        return [item for i in kept if (item := _item(rows[i])) is not None]

    def notes(self, splits: Splits) -> list[str]:
        kept = ", ".join(f"{len(splits[name])} of {len(ids)} {name}" for name, ids in SPLITS.items())
        judged = "can be judged by plain values and are not asked in a held-out split, too"
        return [f"MBPP: {kept} problems fit into {self.max_tokens} tokens, {judged}."]

    def canonical(self, examples: Any) -> np.ndarray:
        """The text of the problem, whatever assertion stands beside it."""
        return np.array([p.prompt.strip('"\n').split("\nassert ")[0].strip() for p in self.problems(examples)])


def _read(data: DataFolder) -> list[dict[str, Any]]:
    """All rows, in order of their ids. Raises MissingData, and BrokenData naming the line."""
    if data.root is not None:
        path = data.file(FILE, remedy=REMEDY)
        lines = path.read_text(encoding="utf-8").splitlines()
        return list(_checked([(f"{path}, line {n}", line) for n, line in enumerate(lines, 1) if line.strip()]))
    found = hub.folder_of(HUB, None, REMEDY)
    try:
        from datasets import load_dataset

        table = load_dataset(str(found.path), "full", split="train+validation+test+prompt")
    except Exception as error:  # whatever goes wrong there, the data are not to be had
        raise MissingData(f"{HUB} could not be loaded ({type(error).__name__})", REMEDY) from error
    lines = [json.dumps(row, sort_keys=True) for row in table]
    data.hub(HUB, found.commit, hashlib.sha256("\n".join(lines).encode()).hexdigest())
    return list(_checked([(f"{HUB}, row {n}", line) for n, line in enumerate(lines)]))


def _checked(lines: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    seen = set()
    for place, line in lines:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BrokenData(f"{place}: not JSON: {error}") from None
        for key, kind in KEYS.items():
            if not isinstance(row, dict) or not isinstance(row.get(key), kind):
                raise BrokenData(f'{place}: "{key}" is missing or no {kind.__name__}')
        seen.add(row["task_id"])
        yield row
    if len(seen) != ROWS or seen != set(range(1, ROWS + 1)):
        raise BrokenData(f"{lines[0][0] if lines else FILE}: {len(seen)} problems, MBPP has {ROWS}, ids 1 to {ROWS}")


@lru_cache(maxsize=2 * ROWS)
def _entry_point(code: str, tests: tuple[str, ...]) -> str | None:
    """The function of the code that the first assertion calls."""
    defined = {node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)}
    calls = [node.func for node in ast.walk(ast.parse(tests[0])) if isinstance(node, ast.Call)]
    return next((name.id for name in calls if isinstance(name, ast.Name) and name.id in defined), None)


class _Called(ast.NodeTransformer):
    """Calls the candidate where a test calls the function by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = "candidate" if node.id == self.name else node.id
        return node


def _item(row: dict[str, Any]) -> Item | None:
    from harness.sandbox.pool import Problem

    code = row["code"].replace("\r\n", "\n").rstrip() + "\n"
    entry = _entry_point(code, tuple(row["test_list"]))
    if entry is None:
        return None
    body = [*row["test_setup_code"].replace("\r\n", "\n").splitlines(), *row["test_list"]]
    # some functions are called check themselves
    called = ast.unparse(_Called(entry).visit(ast.parse("\n".join(text.replace("\r\n", "\n") for text in body))))
    check = "def check(candidate):\n" + "".join(f"    {line}\n" for line in called.splitlines())
    prompt = f'"""\n{row["text"]}\n{row["test_list"][0]}\n"""\n'
    return Item(Problem(f"MBPP/{row['task_id']}", prompt, entry, check, code), "mbpp")
