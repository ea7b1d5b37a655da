"""`new-task NAME`: writes a task file that passes the contract tests as it stands, and says what to change."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from harness.errors import UserError
from harness.files import write_text
from tasks.base import TASKS

TASKS_FOLDER = Path(__file__).parents[1] / "tasks"

TEMPLATE = '''"""`{name}`: CHANGE this line: what is asked, and why it is worth asking.

Written by `new-task`. It works as it stands: sort the letters of a string. Lines to change are marked CHANGE; what is
not here has a default in tasks/base.py, and docs/adding-a-task.md explains the rest.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from harness import seeds
from tasks import DataFolder, Examples, Task, register_task

LETTERS = "abcdef"  # CHANGE: the symbols of your task; token 0 is padding, so a is 1


@register_task("{name}")
class {cls}(Task):
    """CHANGE: what the input is and what the answer is. This text is the task's page in docs/tasks.md."""

    version: ClassVar[int] = 1  # raise it whenever the same settings give other data or another verdict
    summary: ClassVar[str] = "Sort the letters of a string."  # CHANGE
    exact_means: ClassVar[str] = "every letter stands where it belongs"  # CHANGE: what a right answer is
    difficulty_unit: ClassVar[str] = "letters out of place"  # CHANGE: unit of Examples.difficulty

    # CHANGE or delete: suites that the task joins by itself, with what the comparison is
    suites: ClassVar[dict[str, dict[str, Any]]] = {{
        "tiny": {{"seeds": 2, "primary": {{"arms": ["hrm", "transformer"]}}}},
    }}

    # CHANGE: settings that a suite may vary, each checked
    length: int = Field(8, ge=4, le=64, description="letters per string")
    train_examples: int = Field(1000, ge=1)
    test_examples: int = Field(200, ge=1)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return ("", *LETTERS)

    @property
    def sequence_length(self) -> int:
        return self.length  # positions in; as many are answered, unless answer_length says otherwise

    def splits(self, seed: int, data: DataFolder) -> dict[str, Examples]:
        """Only train depends on the seed. No example may stand in two splits: here a hash of each decides."""
        n = self.test_examples
        return {{
            "train": self.draw("train", range(3, 10), self.train_examples, self.length, seed),
            "validation": self.draw("validation", range(2, 3), n, self.length),
            "test": self.draw("test", range(2), n, self.length),
            "ood-longer": self.draw("ood-longer", range(10), n, self.length + 4),  # CHANGE or delete
        }}

    def draw(self, split: str, mine: range, count: int, length: int, *key: int) -> Examples:
        """CHANGE: up to `count` examples that belong to the split, a share of len(mine) in ten of all there are."""
        random = seeds.generator(self.name, split, *key)
        inputs = random.integers(1, 1 + len(LETTERS), (20 * count, length), dtype=np.uint8)
        inputs = np.unique(inputs, axis=0)
        place = (inputs * np.arange(1, length + 1)).sum(1) * 2654435761 % 2**32 * 10 >> 32  # 0 … 9
        inputs = random.permutation(inputs[np.isin(place, mine)])[:count]
        labels = np.sort(inputs, axis=1)
        return Examples(inputs, labels, difficulty=(inputs != labels).sum(1).astype(np.float32))

    # Where several answers are right, give `correct`; where examples have symmetries, give `canonical` and `augment`.
'''


def write(name: str, folder: Path) -> Path:
    """Write the task file and return its path. UserError for a name that can't be used, or is used."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UserError(f"new-task {name}: a name is lower-case letters, digits and single hyphens, such as word-sort")
    module = name.replace("-", "_")
    if name in TASKS or keyword.iskeyword(module):
        raise UserError(f"new-task {name}: the name is taken; `list tasks` shows them all")
    if not folder.is_dir():
        raise UserError(f"--to {folder}: no such folder")
    path = folder / f"{module}.py"
    if path.exists():
        raise UserError(f"{path}: is there already; choose another name, or move it away")
    write_text(path, TEMPLATE.format(name=name, cls="".join(part.capitalize() for part in name.split("-"))))
    return path


def advice(name: str, path: Path) -> str:
    """What to do next."""
    plugin = "" if path.resolve().parent == TASKS_FOLDER.resolve() else f" --plugin {path}"
    lines = [
        f"wrote {path}; it works as it stands. Change the lines marked CHANGE, then:",
        f"  python run_benchmarks.py list tasks --quick{plugin}",
        f"  python run_benchmarks.py --suite tiny{plugin} --tasks {name} --smoke",
    ]
    if plugin:
        lines.append(f'  HRM_BENCH_PLUGINS={path} python -m pytest tests/test_task_contract.py -k "{name}"')
    else:
        lines.append(f'  python -m pytest tests/test_task_contract.py -k "{name}"')
    return "\n".join(lines)
