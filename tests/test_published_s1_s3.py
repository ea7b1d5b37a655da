"""S1 and S3 as published have the parameters that were counted in their code, and the working variants say the rest."""

from __future__ import annotations

import pytest

from harness.errors import UserError
from models.base import ModelShape, create_model
from models.published_s1_s3 import core_of, published_parameters, vocabulary_share


@pytest.mark.parametrize(
    ("size", "total", "core", "high", "low", "share"),
    [
        ("tiny", 16_607_938, 0.526, 0.369, 0.041, 0.968),
        ("small", 35_903_874, 3.74, 2.95, 0.33, 0.896),
        ("medium", 64_033_346, 15.79, 13.28, 1.48, 0.753),
    ],
)
def test_s3_has_its_published_totals_and_they_are_mostly_vocabulary(size, total, core, high, low, share):
    groups = published_parameters("S3", size)
    assert sum(groups.values()) == total
    assert vocabulary_share(groups) == pytest.approx(share, abs=5e-4)
    for count, millions in ((core_of(groups), core), (groups["H"], high), (groups["L"], low)):
        assert count / 1e6 == pytest.approx(millions, abs=5e-3 if millions > 1 else 5e-4 if core < 1 else 5e-3)


@pytest.mark.parametrize("size", ["tiny", "small", "medium"])
def test_the_planner_here_is_s3_without_its_dead_parts(size):
    groups = published_parameters("S3", size)
    shape = ModelShape(50_257, 16, 16, causal=True)
    ours = create_model("hrm-planner", {}, shape, preset=size).parameter_groups()
    assert ours["core"] == core_of(groups) - groups["unused_gates"] - groups["q_head"]
    assert ours["heads"] == groups["final_head"] * 3 + groups["q_head"]
    assert ours["embeddings"] == groups["embedding"]


@pytest.mark.parametrize(("size", "total"), [("sudoku", 10_613_844), ("maze", 11_453_319), ("arc", 11_453_319)])
def test_s1_has_its_published_totals(size, total):
    assert sum(published_parameters("S1", size).values()) == total


def test_s1s_two_totals_differ_by_the_input_and_output_maps_alone():
    small, large = published_parameters("S1", "sudoku"), published_parameters("S1", "maze")
    assert {name for name in small if small[name] != large[name]} == {"input", "output"}


def test_the_pooled_presets_are_as_large_as_their_docstring_says():
    assert (
        create_model("hrm-pooled", {}, ModelShape(11, 81, 81), preset="sudoku").parameter_groups()["core"] == 10_427_904
    )


def test_an_unknown_system_or_size_is_named():
    with pytest.raises(UserError, match="S7"):
        published_parameters("S7", "tiny")
    with pytest.raises(UserError, match=r"medum.*medium"):
        published_parameters("S3", "medum")
