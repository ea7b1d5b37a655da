"""Suites: which tasks meet which arms, by what recipe, with how many seeds. A strict schema, read without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, model_validator

from harness.errors import UserError, did_you_mean
from harness.recipe import Recipe
from harness.schema import STRICT, validated
from harness.tuning import Tuning

SUITES = Path(__file__).parent / "suites"


class Match(BaseModel):
    """What this arm has in common with another. `to` names the arm that sets the size."""

    model_config = STRICT

    to: str
    rule: Literal["params", "train_flops", "inference_flops", "inference_flops_only"] = Field(
        description="params: the same parameters; train_flops: the same parameters and, by more updates, the same "
        "training FLOPs per run; inference_flops: the same parameters and, by loops, the same FLOPs per answer; "
        "inference_flops_only: the same FLOPs per answer by more layers, parameters left unequal"
    )


class Arm(BaseModel):
    """A model as configured and matched."""

    model_config = STRICT

    model: str
    preset: str | None = None
    config: dict[str, Any] = Field(default_factory=dict, description="model settings, over the preset")
    loop: dict[str, Any] = Field(default_factory=dict, description="segments, rollout, halting, exploration")
    match: Match | None = None
    summary: str = ""


class Primary(BaseModel):
    """The one comparison per task that the verdict rests on, fixed before the run."""

    model_config = STRICT

    arms: tuple[str, str]
    metric: Literal["exact"] = "exact"
    split: Literal["test"] = "test"
    stopping: Literal["fixed"] = "fixed"


class ArmOverride(BaseModel):
    model_config = STRICT

    config: dict[str, Any] = Field(default_factory=dict)
    loop: dict[str, Any] = Field(default_factory=dict)
    updates_share: float = Field(
        1.0, gt=0, le=1, description="share of the task's updates that the arm makes: for replicas of unequal runs"
    )


class Controls(BaseModel):
    """A short training run per task and arm whose training labels are shuffled, for the gate G-neg."""

    model_config = STRICT

    updates: int = Field(50, ge=1)
    test_examples: int = Field(200, ge=20, description="held-out examples scored")


class TaskEntry(BaseModel):
    """One row of the matrix. The key in the suite names it; `task` says which registered task that is."""

    model_config = STRICT

    task: str | None = Field(None, description="registered task; default: the key")
    settings: dict[str, Any] = Field(default_factory=dict)
    arms: tuple[str, ...] | None = Field(None, description="default: all arms of the suite")
    seeds: int = Field(2, ge=1)
    primary: Primary | None = None
    scaling: str = Field("", description="how the task was scaled for this suite, a sentence for the report")
    recipe: dict[str, Any] = Field(
        default_factory=dict, description="what differs from the suite's recipe, for all arms"
    )
    overrides: dict[str, ArmOverride] = Field(default_factory=dict, description="model or loop settings of an arm here")


class Suite(BaseModel):
    model_config = STRICT

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str = ""
    summary: str = ""
    proxy: bool = Field(False, description="scaled down: its figures can't refute a full-scale number")
    limits: tuple[str, ...] = Field((), description="sentences: what the figures may not support")
    recipe: Recipe = Recipe()
    device: str = "auto"
    threads: int = Field(1, ge=1, description="CPU threads per cell; --jobs is concurrency and changes no number")
    minimum_seeds: int = Field(5, ge=2, description="below it a task is shown without a verdict")
    equivalence_band: float = Field(0.01, gt=0, lt=1, description="differences inside it count as none")
    controls: Controls | None = Field(None, description="null: none, unless --controls asks for them")
    tuning: Tuning | None = Field(None, description="null: every arm takes the recipe's learning rate and weight decay")
    config: dict[str, Any] = Field(
        default_factory=dict, description="model settings of every arm, such as {dropout: 0.1}; under the arm's own"
    )
    arms: dict[str, Arm] = Field(min_length=1)
    tasks: dict[str, TaskEntry] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_exist(self) -> Suite:
        for name, arm in self.arms.items():
            if arm.match is not None:
                if arm.match.to not in self.arms:
                    raise ValueError(
                        f'arms.{name}.match.to: no arm "{arm.match.to}"{did_you_mean(arm.match.to, self.arms)}'
                    )
                if self.arms[arm.match.to].match is not None:
                    raise ValueError(f"arms.{name}.match.to: {arm.match.to} is itself matched; name its reference")
        for name, entry in self.tasks.items():
            if len(set(entry.arms or ())) < len(entry.arms or ()):
                raise ValueError(f"tasks.{name}.arms: an arm is named twice")
            for group, used in (
                ("arms", entry.arms or ()),
                ("primary.arms", entry.primary.arms if entry.primary else ()),
                ("overrides", entry.overrides),
            ):
                for arm_name in used:
                    if arm_name not in self.arms:
                        raise ValueError(
                            f'tasks.{name}.{group}: no arm "{arm_name}"{did_you_mean(arm_name, self.arms)}'
                        )
            if entry.primary is not None:
                self._check_primary(name, entry.primary)
        return self

    def _check_primary(self, task: str, primary: Primary) -> None:
        """A verdict needs two arms of the task of which one is matched to the other, or both to a third."""
        where = f"tasks.{task}.primary.arms"
        first, second = primary.arms
        if first == second or not {first, second} <= set(self.arms_of(task)):
            raise ValueError(f"{where}: name two different arms of the task")
        sizes = {name if (match := self.arms[name].match) is None else match.to for name in primary.arms}
        if len(sizes) > 1:
            raise ValueError(f"{where}: {first} and {second} are not matched; give one of them match: {{to, rule}}")

    def arms_of(self, task: str) -> tuple[str, ...]:
        return self.tasks[task].arms or tuple(self.arms)

    def recipe_of(self, task: str) -> Recipe:
        """The suite's recipe with the task's changes over it."""
        merged = deep_merge(self.recipe.model_dump(mode="json"), self.tasks[task].recipe, replace=("budget",))
        return validated(Recipe, merged, f"suite {self.name}", f"tasks.{task}.recipe")


class SuiteLoader(yaml.SafeLoader):
    """Safe YAML that takes 1e-3 for the number it is (YAML 1.1 wants 1.0e-3) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f'the key "{key.value}" is given twice', problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


SuiteLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


# -- reading -------------------------------------------------------------------------------------------------------


def builtin_suites() -> list[str]:
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def read_suite(name_or_file: str) -> tuple[dict[str, Any], str]:
    """The raw document of a built-in suite or a YAML file, and what to call it in errors."""
    path = SUITES / f"{name_or_file}.yaml"
    if not path.is_file():
        path = Path(name_or_file).expanduser()
        if not path.is_file():
            if path.suffix in (".yaml", ".yml") or "/" in name_or_file:
                raise UserError(f"suite file {path}: no such file")
            raise UserError(f'unknown suite "{name_or_file}"{did_you_mean(name_or_file, builtin_suites())}')
    label = path.name if path.parent == SUITES else str(path)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=SuiteLoader)
    except UnicodeDecodeError:
        raise UserError(f"suite file {label}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"suite file {label}{where}: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(document, dict):
        raise UserError(f"suite file {label}: a suite is a mapping with the keys name, arms and tasks")
    _check_outline(document, label)
    return document, label


def _check_outline(document: dict[str, Any], label: str) -> None:
    """What everything that touches a document before the schema does relies on."""
    if not isinstance(document.get("name"), str):
        raise UserError(f"suite file {label}: name: a suite needs a name, as text")
    for key in ("recipe", "arms", "tasks"):
        value = document.get(key)
        if value is None and key == "recipe":
            continue
        if not isinstance(value, dict):
            raise UserError(f"suite file {label}: {key}: must be a mapping")
        for name, entry in value.items() if key != "recipe" else ():
            if not isinstance(entry, dict):
                raise UserError(f"suite file {label}: {key}.{name}: must be a mapping (an empty one is {{}})")
            for inner in ("recipe", "match"):
                if not isinstance(entry.get(inner, {}), dict | None):
                    raise UserError(f"suite file {label}: {key}.{name}.{inner}: must be a mapping")


def load_suite(document: Mapping[str, Any], label: str, assignments: Iterable[str] = ()) -> Suite:
    """The checked suite; `assignments` are --set KEY=VALUE, applied last."""
    raw = _copy(document)
    for assignment in assignments:
        assign(raw, assignment)
    suite = validated(Suite, raw, f"suite {label}")
    for task in suite.tasks:
        suite.recipe_of(task)  # fail now rather than in the middle of a run
    return suite


def _copy(document: Mapping[str, Any]) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(document, default=str))
    return copied


def with_tasks(document: Mapping[str, Any], tasks: Mapping[str, Any]) -> dict[str, Any]:
    """The document with tasks that join it by themselves (Task.suites), where it does not name them already."""
    raw = _copy(document)
    if isinstance(raw.get("tasks"), dict):
        for name, entry in tasks.items():
            raw["tasks"].setdefault(name, entry)
    return raw


def with_recipe(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The document with changes to its recipe that no task's own recipe may undo."""
    raw = _copy(document)
    if not changes:
        return raw
    raw["recipe"] = deep_merge(raw.get("recipe") or {}, changes, replace=("budget",))
    for entry in (raw.get("tasks") or {}).values():
        if isinstance(entry, dict) and entry.get("recipe"):
            entry["recipe"] = deep_merge(entry["recipe"], changes, replace=("budget",))
    return raw


def assign(document: dict[str, Any], assignment: str, option: str = "--set") -> None:
    """Apply one `--set KEY=VALUE`: a dotted key and a YAML value. The schema judges the result."""
    key, equals, value = assignment.partition("=")
    if not equals or not key:
        raise UserError(f"{option} {assignment}: expected KEY=VALUE, such as {option} recipe.batch_size=32")
    try:
        parsed = yaml.load(value, Loader=SuiteLoader)
    except yaml.YAMLError:
        raise UserError(f"{option} {assignment}: the value is not YAML") from None
    *path, last = key.split(".")
    place: Any = document
    for part in path:
        if not isinstance(place, dict):
            raise UserError(f'{option} {key}: "{part}" lies inside a value that is no mapping')
        place = place.setdefault(part, {})
    if not isinstance(place, dict):
        raise UserError(f"{option} {key}: {'.'.join(path)} is a value, not a mapping")
    if key.split(".")[-2:-1] == ["budget"]:
        place.clear()  # a budget is exactly one of four: setting one replaces another
    place[last] = parsed


def deep_merge(base: dict[str, Any], over: Mapping[str, Any], replace: tuple[str, ...] = ()) -> dict[str, Any]:
    """`base` with `over` on top, mapping by mapping; keys in `replace` are taken whole."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict) and key not in replace:
            merged[key] = deep_merge(merged[key], value)
        else:
            merged[key] = value
    return merged


SMOKE: dict[str, Any] = {
    "budget": {"updates": 4},
    "max_updates": 4,
    "evaluation": {"points": 2, "validation_examples": 4, "test_examples": 4},
}
"""What --smoke changes in every recipe: seconds per cell, through the same code."""


SMOKE_VOTES = 2


def smoke(document: Mapping[str, Any]) -> dict[str, Any]:
    """The whole matrix of a suite at a few updates, under a name of its own. (One seed is the caller's to ask for.)"""
    raw = with_recipe(document, SMOKE)
    for entry in (raw["recipe"], *(task.get("recipe") or {} for task in (raw.get("tasks") or {}).values())):
        if (entry.get("evaluation") or {}).get("votes"):  # elsewhere there may be nothing to vote over
            entry["evaluation"]["votes"] = SMOKE_VOTES
    raw["name"] = f"{raw.get('name', 'suite')}-smoke"
    raw["proxy"] = True
    raw["controls"] = raw["tuning"] = None
    raw["limits"] = ["A smoke run: four updates per cell. It shows that everything works and says nothing else."]
    return raw
