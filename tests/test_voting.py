"""Votes: the augmented truth brings pass@1 to 100 %, ranks are by count then confidence, credit is as declared."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import SMALL_HRM, Shifted, cell

from harness import suite as suites
from harness.analysis.collect import collect
from harness.analysis.results import read_tables
from harness.errors import UserError
from harness.evaluation.voting import Count, Urn, passes, poll, shuffled_ids, vote
from harness.plan import Selection, make_plan
from harness.recipe import Loop, Recipe
from harness.results import describe
from harness.training import runner
from models.base import Prediction
from tasks.arc import Arc, _examples
from tasks.arc_data import official
from tasks.arc_symmetry import draw
from tasks.base import PAD, Batch, DataFolder, Examples, create_task

NOWHERE = DataFolder()
LOOP = Loop(segments=2)
few = settings(max_examples=15, deadline=None)


class Fake(nn.Module):
    """Answers what `tell(batch)` says; notes which puzzle ids it was asked under, and how often a segment ran."""

    recurrent = True

    def __init__(self, vocabulary: int, tell: Any, q_halt: Any = None) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        self.vocabulary, self.tell, self.q_halt = vocabulary, tell, q_halt
        self.asked: list[torch.Tensor] = []
        self.rows = 0

    def initial_state(self, batch: Batch, keys=None) -> dict[str, torch.Tensor]:
        return {"segment": torch.zeros(len(batch.inputs))}

    def forward(self, state: dict, batch: Batch) -> tuple[dict, Prediction]:
        self.asked.append(batch.puzzle_ids)
        self.rows += len(batch.inputs)
        answer = self.tell(batch).long()
        logits = nn.functional.one_hot(answer, self.vocabulary).float()
        return state, Prediction(logits, q_halt=None if self.q_halt is None else self.q_halt(batch, answer))


def truth_and_junk(batch: Batch) -> torch.Tensor:
    """The variant's own answer; where nothing is scored, random tokens."""
    junk = torch.randint(0, 12, batch.labels.shape, generator=torch.Generator().manual_seed(0))
    return torch.where(batch.labels != PAD, batch.labels.long(), junk)


def arc(**settings: Any) -> Arc:
    task = create_task("arc-agi-1", settings)
    assert isinstance(task, Arc)
    return task


def random_examples(task: Arc, seed: int, n: int) -> Examples:
    """Random pairs of grids, as many tasks as examples."""
    random = np.random.default_rng(seed)

    def grid() -> np.ndarray:
        return random.integers(0, 10, random.integers(1, task.side + 1, 2))

    return _examples(task, list(official("arcagi1")[:n]), np.arange(n), [(grid(), grid()) for _ in range(n)], [0] * n)


def counted(task: Arc, model: Any, part: Examples, votes: int, batch_size: int = 32, **how: Any) -> list[Count]:
    return list(poll(model, task, LOOP, part, votes=votes, batch_size=batch_size, **how))


# -- the augmented truth -----------------------------------------------------------------------------------------------


@given(side=st.integers(5, 9), votes=st.integers(1, 12), seed=st.integers(0, 2**31))
@few
def test_predicting_the_augmented_truth_gives_pass_at_1_of_one_on_random_tasks(
    side: int, votes: int, seed: int
) -> None:
    task = arc(side=side, variants=12)
    part = random_examples(task, seed, 5)
    counts = counted(task, Fake(12, truth_and_junk), part, votes)
    assert [(c.rank, c.votes, c.distinct, c.right_votes, c.single) for c in counts] == [(1, votes, 1, votes, True)] * 5
    for count, label in zip(counts, part.labels, strict=True):
        assert (count.attempts[0] == label).all()


def evaluation_examples(task: Arc) -> tuple[Examples, list[str]]:
    """Every test pair of ARC-AGI-1's evaluation, also those that the task leaves out of its test."""
    tasks = task.tasks()
    rows = [(n, i, pair) for n, t in enumerate(tasks) if t.evaluation for i, pair in enumerate(t.tests)]
    number = np.array([n for n, *_ in rows])
    return _examples(task, tasks, number, [p for *_, p in rows], [i for _, i, _ in rows]), [
        tasks[n].name for n in number
    ]


@pytest.mark.parametrize("votes", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_the_augmented_truth_of_all_400_evaluation_tasks_is_voted_first(votes: int) -> None:
    task = arc()
    part, names = evaluation_examples(task)
    assert len(part) == 419 and len(set(names)) == 400
    counts = counted(task, Fake(12, truth_and_junk), part, votes, batch_size=128)
    (first, *_) = passes(counts, task.puzzles(part), votes)
    assert first["k"] == 1 and first["puzzles"] == 400
    assert first["all_or_nothing"] == first["fractional"] == first["single_all_or_nothing"] == 1.0
    assert all(count.distinct == 1 and count.votes == votes for count in counts)


def test_answering_as_if_no_variant_had_been_asked_is_wrong_in_most_variants() -> None:
    """The control: without the turn back, only variant 0 and what looks alike would be right."""
    task = arc(side=9, variants=12)
    part = random_examples(task, 0, 6)
    labels = {int(t): torch.from_numpy(y.astype(int)) for t, y in zip(part.facts["task"], part.labels, strict=True)}
    blind = Fake(12, lambda batch: torch.stack([labels[int(t)] for t in batch.facts["task"]]))
    counts = counted(task, blind, part, 12)
    assert all(count.single and count.right_votes <= 3 and count.distinct > 6 for count in counts)


def test_the_batch_size_changes_nothing_and_every_variant_is_asked_once() -> None:
    task = arc(side=7, variants=12)
    part = random_examples(task, 1, 5)
    noisy = Fake(12, lambda b: torch.where(b.labels % 5 == 0, 3, b.labels.long()), lambda b, a: b.puzzle_ids / 50.0)
    reference = None
    for size in (1, 4, 12, 17, 60, 500):
        noisy.asked, noisy.rows = [], 0
        counts = counted(task, noisy, part, 12, size)
        found = [(c.rank, c.distinct, c.top_votes, round(float(c.top_confidence or 0), 9)) for c in counts]
        reference = reference or found
        assert found == reference
        asked = torch.cat(noisy.asked[::2])[:60]  # the second segment asks again
        assert asked.tolist() == [int(p) + v for p in part.puzzle_ids for v in range(12)]


# -- counting ----------------------------------------------------------------------------------------------------------


def urn_of(votes: list[tuple[int, bool, float]]) -> Count:
    urn = Urn()
    for answer, right, confidence in votes:
        urn.add(np.array([[answer]], np.uint8), np.array([right]), np.array([confidence]))
    return urn.count()


def test_answers_rank_by_count_then_by_mean_confidence_then_by_who_came_first() -> None:
    by_count = urn_of([(1, False, 0.9), (2, True, 0.1), (2, True, 0.1)])
    assert by_count.rank == 1 and by_count.top_votes == 2 and by_count.top_confidence == pytest.approx(0.1)
    by_mean = urn_of([(1, False, 0.4), (2, True, 0.5), (3, False, 0.3), (1, False, 0.4), (2, True, 0.5)])
    assert by_mean.rank == 1 and by_mean.distinct == 3
    by_first = urn_of([(1, False, 0.5), (2, True, 0.5)])
    assert by_first.rank == 2 and not by_first.passed(1) and by_first.passed(2)
    never = urn_of([(1, False, 0.5), (2, False, 0.5)])
    assert never.rank is None and not never.passed(100) and never.right_votes == 0
    assert [int(a[0]) for a in by_mean.attempts] == [2, 1]


def test_without_a_halting_head_the_count_alone_ranks() -> None:
    urn = Urn()
    urn.add(np.array([[4], [5], [5], [4]], np.uint8), np.array([0, 1, 1, 0], bool), None)
    count = urn.count()
    assert count.rank == 2 and count.top_confidence is None


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.25, 0.5, 1.0])), min_size=1, max_size=40))
@few
def test_ranks_agree_with_a_sort_of_all_votes_and_memory_is_one_copy_of_each(votes: list[tuple[int, float]]) -> None:
    urn = Urn()
    for answer, confidence in votes:
        urn.add(np.array([[answer]], np.uint8), np.array([answer == 3]), np.array([confidence]))
    assert len(urn.answers) == len({answer for answer, _ in votes})
    given = {a: [c for b, c in votes if a == b] for a, _ in votes}
    order = sorted(given, key=lambda a: (-len(given[a]), -np.mean(given[a]), list(given).index(a)))
    count = urn.count()
    assert count.rank == (order.index(3) + 1 if 3 in order else None)
    assert [int(a[0]) for a in count.attempts] == order[:2]


def test_credit_is_all_or_nothing_and_fractional_by_puzzle() -> None:
    def count(rank: int | None, single: bool) -> Count:
        return Count(10, 5, rank, 1, 3, 0.5, single, [])

    counts = [count(1, True), count(2, True), count(None, False), count(1, False)]
    rows = {row["k"]: row for row in passes(counts, np.array(["a", "b", "b", "c"]), 10)}
    assert list(rows) == [1, 2, 5, 10]
    assert (rows[1]["all_or_nothing"], rows[1]["fractional"]) == pytest.approx((2 / 3, 2 / 3))
    assert (rows[2]["all_or_nothing"], rows[2]["fractional"]) == pytest.approx((2 / 3, 2.5 / 3))
    assert (rows[2]["single_all_or_nothing"], rows[2]["single_fractional"]) == pytest.approx((1 / 3, 1.5 / 3))
    assert (rows[2]["puzzles"], rows[2]["examples"]) == (3, 4)


# -- puzzle ids --------------------------------------------------------------------------------------------------------


def test_shuffled_ids_are_those_of_other_puzzles_each_used_once() -> None:
    part = arc(side=7, variants=4, validation_tasks=5).splits(0, NOWHERE)["test"]
    other = shuffled_ids(part, "arc-agi-1")
    assert other is not None and other.dtype == np.int32 and part.puzzle_ids is not None
    pairs = set(zip(part.puzzle_ids.tolist(), other.tolist(), strict=True))
    assert all(a != b for a, b in pairs) and len(pairs) == len(set(part.puzzle_ids.tolist())) == len(
        {b for _, b in pairs}
    )
    assert (shuffled_ids(part, "arc-agi-1") == other).all()
    assert shuffled_ids(part[part.puzzle_ids == part.puzzle_ids[0]], "arc-agi-1") is None


def test_a_model_that_knows_tasks_by_their_ids_fails_under_blank_and_shuffled_ones() -> None:
    task = arc(side=7, variants=4)
    part = random_examples(task, 3, 6)
    own = {int(p) + v for p in part.puzzle_ids for v in range(4)}  # type: ignore[union-attr]
    base = {int(p): i for i, p in enumerate(part.puzzle_ids)}  # type: ignore[arg-type]

    def by_id(batch: Batch) -> torch.Tensor:
        known = torch.tensor([base.get((int(p) - 1) // 4 * 4 + 1, -1) for p in batch.puzzle_ids])
        truth = torch.from_numpy(part.facts["task"])
        mine = (known >= 0) & (truth[known.clamp(min=0)] == batch.facts["task"])
        return torch.where(mine[:, None], batch.labels.long(), 5)

    model = Fake(12, by_id)
    assert all(c.rank == 1 for c in counted(task, model, part, 4))
    assert set(torch.cat(model.asked).tolist()) == own
    model.asked = []
    other = shuffled_ids(part, "arc-agi-1")
    assert all(c.rank is None for c in counted(task, model, part, 4, base_ids=other))
    assert set(torch.cat(model.asked).tolist()) == own
    model.asked = []
    assert all(c.rank is None for c in counted(task, model, part, 4, blank=True))
    assert set(torch.cat(model.asked).tolist()) == {0}


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_submission_of_the_truth_read_back_is_the_truth_at_every_place() -> None:
    task = arc()
    part, _ = evaluation_examples(task)
    document = json.loads(json.dumps(task.submission(part, [[label] for label in part.labels])))
    solutions = {t.name: t.tests for t in task.tasks() if t.evaluation}
    assert document.keys() == solutions.keys() and len(document) == 400
    for name, tests in solutions.items():
        assert len(document[name]) == len(tests)
        for entry, (_, output) in zip(document[name], tests, strict=True):
            assert entry.keys() == {"attempt_1", "attempt_2"}
            assert entry["attempt_1"] == entry["attempt_2"] == output.tolist()


@given(st.integers(0, 2**31))
@few
def test_submitted_grids_are_the_voted_ones_and_unanswered_places_are_the_smallest_grid(seed: int) -> None:
    task = arc(side=8)
    part, names = evaluation_examples(task)
    random = np.random.default_rng(seed)
    keep = np.flatnonzero(random.random(len(part)) < 0.5)
    grids = [[random.integers(0, 10, random.integers(1, 9, 2)) for _ in range(random.integers(1, 3))] for _ in keep]
    document = task.submission(part[keep], [[draw(g, 8).ravel() for g in two] for two in grids])
    places = part.facts["place"]
    for row, two in zip(keep, grids, strict=True):
        entry = document[names[row]][places[row]]
        assert entry == {"attempt_1": two[0].tolist(), "attempt_2": two[-1].tolist()}
    for row in set(range(len(part))) - set(keep.tolist()):
        assert document[names[row]][places[row]] == {"attempt_1": [[0]], "attempt_2": [[0]]}
    assert task.grid(np.zeros(64, np.uint8)) == [[0]]


SUITE = {
    "name": "voting",
    "recipe": {"batch_size": 4, "budget": {"updates": 2}, "evaluation": {"points": 1, "segments": [1, 2]}},
    "arms": {"hrm": {"model": "hrm", "config": SMALL_HRM, "loop": {"segments": 2}}},
    "tasks": {
        "arc-agi-1": {
            "settings": {"side": 6, "variants": 4, "validation_tasks": 5},
            "seeds": 1,
            "recipe": {"evaluation": {"votes": 4, "puzzle_ids": ["own", "blank", "shuffled"]}},
        },
        "sudoku-4": {"settings": {"train_examples": 20, "validation_examples": 5, "test_examples": 10}, "seeds": 1},
    },
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_cell_writes_votes_passes_and_submission_and_collect_joins_them(tmp_path: Path) -> None:
    plan = make_plan(suites.load_suite(SUITE, "voting"), NOWHERE, tmp_path / "voting")
    describe(plan, tmp_path / "voting", "run")
    for planned in plan.cells:
        runner.run_cell(planned, tmp_path / "voting" / planned.run_folder, plan.tasks[planned.task].data[0])
    collect(tmp_path / "voting")
    votes, found = rows(tmp_path / "voting/votes.csv"), rows(tmp_path / "voting/passes.csv")
    run = next(row for row in rows(tmp_path / "voting/runs.csv") if row["task"] == "arc-agi-1")
    n = int(run["test_examples"])
    assert [sum(row["puzzle_ids"] == ids for row in votes) for ids in ("own", "blank", "shuffled")] == [n] * 3
    assert {(row["puzzle_ids"], row["k"]) for row in found} == {
        (ids, k) for ids in ("own", "blank", "shuffled") for k in ("1", "2")
    }
    assert all(row["votes"] == "4" and 1 <= int(row["distinct"]) <= 4 for row in votes)
    own = [row for row in found if row["puzzle_ids"] == "own"]
    scored = [row for row in votes if row["puzzle_ids"] == "own"]
    assert int(own[0]["puzzles"]) == len({row["puzzle"] for row in scored})
    hits: dict[str, list[bool]] = {}
    for row in scored:
        hits.setdefault(row["puzzle"], []).append(bool(row["rank"]) and int(row["rank"]) <= 2)
    assert float(own[1]["fractional"]) == pytest.approx(np.mean([np.mean(h) for h in hits.values()]))
    folders = {path.parent.parent.parent.name for path in tmp_path.glob("voting/runs/*/*/*/votes.csv")}
    assert folders == {"arc-agi-1"}, "sudoku-4 casts no votes"
    submitted = json.loads(next(tmp_path.glob("voting/runs/*/*/*/submission.json")).read_text())
    assert len(submitted) >= int(own[0]["puzzles"])
    tables = read_tables(tmp_path / "voting")
    assert len(tables.passes) == 6 and set(tables.passes["k"]) == {1, 2}

    from harness.report import content

    page = content.page(tables, {}, "results")
    captions = [table.caption for section in page.tasks for table in section.tables]
    assert "Votes on arc-agi-1" in captions and "Votes on sudoku-4" not in captions
    table = next(t for section in page.tasks for t in section.tables if t.caption == "Votes on arc-agi-1")
    assert [row.cells[1].text for row in table.rows] == ["true", "blank", "shuffled"]
    assert all(len(row.cells) == len(table.columns) for row in table.rows)


def test_votes_change_no_other_figure_and_no_selection(tmp_path: Path) -> None:
    figures = []
    for votes in (0, 3):
        document = suites.with_recipe(SUITE, {"evaluation": {"votes": votes}})
        plan = make_plan(suites.load_suite(document, "v"), NOWHERE, tmp_path / str(votes), Selection(["arc-agi-1"]))
        (planned,) = plan.cells
        runner.run_cell(planned, tmp_path / str(votes) / planned.run_folder, plan.tasks["arc-agi-1"].data[0])
        folder = tmp_path / str(votes) / planned.run_folder
        metrics, curves = rows(folder / "metrics.csv"), rows(folder / "curves.csv")
        figures.append([[row["metric"] + row["value"] for row in metrics], [row["selected"] for row in curves]])
    assert figures[0] == figures[1]


def test_more_votes_than_variants_are_refused_before_the_run(tmp_path: Path) -> None:
    for task, votes, most in (("arc-agi-1", 5, 4), ("sudoku-4", 2, 1)):
        assignment = f"tasks.{task}.recipe.evaluation.votes={votes}"
        suite = suites.load_suite(SUITE, "voting", [assignment])
        with pytest.raises(
            UserError, match=rf"tasks\.{task}\.recipe\.evaluation\.votes: {votes}, but .* {most} variant"
        ):
            make_plan(suite, NOWHERE, tmp_path, Selection([task]))


def test_unknown_or_repeated_puzzle_ids_are_refused() -> None:
    for bad in (["true"], [], ["own", "own"]):
        with pytest.raises(ValueError, match="puzzle_ids"):
            Recipe.model_validate_json(json.dumps({"evaluation": {"puzzle_ids": bad}}))


def test_smoke_casts_few_votes_and_only_where_the_suite_does() -> None:
    suite = suites.load_suite(suites.smoke(SUITE), "voting")
    assert suite.recipe_of("arc-agi-1").evaluation.votes == 2
    assert suite.recipe_of("sudoku-4").evaluation.votes == 0


def test_a_task_without_variants_may_be_asked_once_and_voting_may_be_stopped(tmp_path: Path) -> None:
    task = Shifted()
    part = task.splits(0, NOWHERE)["test"]
    once = cell(recipe={"evaluation": {"votes": 1, "puzzle_ids": ["own", "shuffled"]}})
    model = Fake(5, lambda batch: batch.labels)
    notes = vote(once, task, model, part, tmp_path)  # type: ignore[arg-type]
    assert notes == ["votes with shuffled puzzle ids: not cast, since there is but one puzzle"]
    assert [row["all_or_nothing"] for row in rows(tmp_path / "passes.csv")] == ["1"]
    assert not (tmp_path / "submission.json").exists()

    def stop(share: float) -> None:
        assert 0 < share <= 1
        raise runner.Interrupted

    with pytest.raises(runner.Interrupted):
        vote(once, task, model, part, tmp_path / "stopped", stop)  # type: ignore[arg-type]
    assert not (tmp_path / "stopped").exists()
