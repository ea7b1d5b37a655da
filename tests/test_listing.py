"""`list models --task` shows what every variant and preset costs on a task, and which can't run it."""

from __future__ import annotations

from typing import ClassVar

import pytest
from toys import Shifted

from harness import cli
from harness.cost import measure
from harness.recipe import Loop, Recipe
from models.base import MODELS, PRESETS, ModelShape, resolve_config
from tasks.base import TASKS, create_task


class Causal(Shifted):
    """The toy task as text."""

    summary: ClassVar[str] = "the toy task from left to right"

    @property
    def causal(self) -> bool:
        return True


@pytest.fixture
def causal():
    Causal.name = "causal"
    TASKS.add("causal", Causal)
    yield
    TASKS._items.pop("causal")


def listed(capsys, *arguments: str) -> dict[tuple[str, str], list[str]]:
    assert cli.main(["list", "models", *arguments]) == 0
    _, _, *lines = capsys.readouterr().out.splitlines()
    return {(name, preset): rest for name, preset, *rest in (line.split() for line in lines)}


@pytest.mark.slow
def test_every_variant_and_preset_stands_there_with_its_costs(capsys):
    rows = listed(capsys, "--task", "parity", "--set", "max_length=8")
    assert set(rows) == {(name, preset) for name in MODELS for preset in PRESETS[name] or ["–"]}
    shape = ModelShape.of(create_task("parity", {"max_length": 8}))
    cost = measure("hrm", resolve_config("hrm", {}, "paper"), shape, Loop(), Recipe(batch_size=1))
    counts = (cost.core, cost.embeddings, cost.heads, cost.puzzle_table, cost.never_trained, cost.total)
    *parameters, layers, flops = rows["hrm", "paper"]
    assert parameters == [f"{count:,}" for count in counts]
    assert (int(layers), float(flops)) == (cost.layers_per_segment, pytest.approx(cost.flops_per_segment, rel=1e-3))


@pytest.mark.slow
def test_a_model_that_can_t_run_the_task_says_why(capsys, causal):
    rows = listed(capsys, "--task", "causal")
    refused = " ".join(rows["trm", "mlp"])
    assert refused.startswith("can't run causal: the mixer form of TRM sees all positions at once")
    assert len(rows["trm", "att"]) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "--task", "partiy"], 'unknown task "partiy" (did you mean "parity"?)'),
        (["models", "--task", "parity", "--set", "max_lenth=8"], 'unknown key (did you mean "max_length"?)'),
        (["models", "--set", "max_length=8"], "--set to --task"),
        (["tasks", "--task", "parity"], "--task belongs to list models"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert cli.main(["list", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
