"""Mazes: the labelling rule, the check of any shortest path, turns that keep labels right, and honest files."""

from __future__ import annotations

import csv
import os
from collections import deque
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import BrokenData, MissingData, UserError
from harness.random import CounterRandom
from tasks.base import Batch, DataFolder, create_task
from tasks.maze import turn
from tasks.maze_generator import random_mazes
from tasks.maze_rule import FREE, GOAL, PATH, START, WALL, all_turns, answers, class_keys, is_shortest_path

NOWHERE = DataFolder()
SMALL = {"train_examples": 40, "validation_examples": 10, "test_examples": 20, "ood_examples": 10}
few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)


def some_mazes(side: int, n: int, seed: int, density: float = 0.3) -> np.ndarray:
    """[n, S] with start and goal anywhere, also where no path joins them."""
    random = np.random.default_rng(seed)
    mazes = np.where(random.random((n, side * side)) < density, WALL, FREE).astype(np.uint8)
    for maze in mazes:
        maze[random.choice(side * side, 2, replace=False)] = START, GOAL
    return mazes


def breadth_first(maze: np.ndarray, allowed: set[int] | None = None) -> list[int] | None:
    """The path from start to goal by the definition: a queue, Down Left Right Up, first parent kept."""
    side = round(len(maze) ** 0.5)
    start, goal = int((maze == START).argmax()), int((maze == GOAL).argmax())
    parent = {start: start}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        for down, right in ((1, 0), (0, -1), (0, 1), (-1, 0)):
            row, column = here // side + down, here % side + right
            there = row * side + column
            if not (0 <= row < side and 0 <= column < side) or maze[there] == WALL or there in parent:
                continue
            if allowed is None or there in allowed:
                parent[there] = here
                queue.append(there)
    if goal not in parent:
        return None
    path = [goal]
    while path[-1] != start:
        path.append(parent[path[-1]])
    return path[::-1]


def is_right(maze: np.ndarray, prediction: np.ndarray) -> bool:
    """Slow verdict: what became path, with both ends, holds a path of least length and nothing else."""
    path = breadth_first(maze)
    became = set(np.flatnonzero(prediction == PATH).tolist())
    others = [i for i in range(len(maze)) if i not in became]
    if path is None or (prediction[others] != maze[others]).any() or (maze[sorted(became)] != FREE).any():
        return False
    ends = {path[0], path[-1]}
    own = breadth_first(maze, became | ends)
    return own is not None and len(own) == len(path) and set(own) == became | ends


# -- the labelling rule ----------------------------------------------------------------------------------------------


@given(seed=seeds, side=st.integers(2, 9), density=st.floats(0, 0.6))
@few
def test_labels_are_those_of_a_plain_breadth_first_search(seed: int, side: int, density: float) -> None:
    mazes = some_mazes(side, 20, seed, density)
    labels, steps = answers(mazes)
    for maze, label, n in zip(mazes, labels, steps, strict=True):
        path = breadth_first(maze)
        expected = maze.copy()
        if path is not None:
            expected[path[1:-1]] = PATH
        assert n == (-1 if path is None else len(path) - 1)
        assert (label == expected).all()


def test_the_largest_side_and_a_path_through_the_last_column_fit_their_words() -> None:
    maze = np.full((30, 30), WALL, np.uint8)
    maze[0, :] = maze[:, 29] = maze[29, :] = FREE
    maze[0, 0], maze[29, 0] = START, GOAL
    labels, steps = answers(maze.reshape(1, -1))
    assert steps[0] == 87 and (labels == PATH).sum() == 86
    assert (answers(np.concatenate([maze.reshape(1, -1)] * 1100))[1] == 87).all()  # more than one chunk


# -- any shortest path -----------------------------------------------------------------------------------------------


@given(seed=seeds)
@few
def test_valid_agrees_with_a_slow_verifier_on_every_choice_of_path_positions(seed: int) -> None:
    maze = some_mazes(3, 1, seed, 0.2)
    label, steps = answers(maze)
    if steps[0] < 0:
        return
    choices = np.array(list(product([0, 1], repeat=7)), bool)
    predictions = np.repeat(maze, len(choices), 0)
    inner = np.flatnonzero((maze[0] != START) & (maze[0] != GOAL))
    predictions[:, inner] = np.where(choices, PATH, predictions[:, inner])  # also through walls
    fast = is_shortest_path(maze, label, predictions)
    assert fast.tolist() == [is_right(maze[0], p) for p in predictions] and fast.any()


@given(seed=seeds, side=st.integers(4, 7))
@settings(max_examples=10, deadline=None)
def test_valid_agrees_with_a_slow_verifier_on_damaged_paths(seed: int, side: int) -> None:
    random = np.random.default_rng(seed)
    mazes = random_mazes(side, 40, 0.2, (2, None), random)
    labels, _ = answers(mazes)
    # another shortest path: the label of the maze turned by half, turned back
    source = all_turns(side)[6]
    other = answers(mazes[:, source])[0][:, source]
    for k in range(40):
        prediction = (labels if k % 2 else other).copy()
        for _ in range(k % 5):  # 0 to 4 changes
            at = np.arange(len(mazes)), random.integers(0, side * side, len(mazes))
            prediction[at] = random.integers(0, 6, len(mazes))
        fast = is_shortest_path(mazes, labels, prediction)
        assert fast.tolist() == [is_right(*pair) for pair in zip(mazes, prediction, strict=True)]
        assert k % 5 or fast.all()


def test_a_circle_beside_a_shortcut_is_no_path() -> None:
    """As many path positions as wanted, each touching two, but in a circle: the ends stay alone."""
    maze = np.full((7, 7), FREE, np.uint8)
    maze[0, 0], maze[0, 5] = START, GOAL
    label, steps = answers(maze.reshape(1, -1))
    circle = maze.copy()
    circle[3:5, 3:5] = PATH
    assert steps[0] == 5 and (circle == PATH).sum() == (label == PATH).sum() == 4
    assert not is_shortest_path(maze.reshape(1, -1), label, circle.reshape(1, -1))[0]


def test_exact_asks_for_the_label_and_valid_for_any_shortest_path() -> None:
    task = create_task("maze-6", SMALL)
    test = task.splits(0, NOWHERE)["test"]
    source = all_turns(6)[6]
    other = answers(test.inputs[:, source])[0][:, source]
    exact = task.correct(test.batch(), other)
    assert 0 < exact.sum() < len(test)
    assert task.metrics(test.batch(), other)["valid"].all()


# -- turns -----------------------------------------------------------------------------------------------------------


def as_batch(task_name: str, seed: int) -> tuple[Batch, int]:
    task = create_task(task_name, SMALL)
    host = task.splits(seed % 3, NOWHERE)["train"].batch()
    batch = host.map(lambda array: torch.from_numpy(np.ascontiguousarray(array)))
    return Batch(batch.inputs.int(), batch.labels.int(), batch.puzzle_ids, batch.facts), task.grid_side


@pytest.fixture(scope="module")
def batch() -> tuple[Batch, int]:
    return as_batch("maze-10", 0)


@given(seed=seeds)
@few
def test_a_turned_maze_is_labelled_anew_and_turning_back_restores_everything(batch, seed: int) -> None:
    rows, side = batch
    turns = torch.from_numpy(np.random.default_rng(seed).integers(0, 8, len(rows.inputs)))
    after = turn(rows, turns, side)
    assert after.inputs.dtype == after.labels.dtype == torch.int32
    source = all_turns(side)[turns.numpy()]
    assert (after.inputs.numpy() == np.take_along_axis(rows.inputs.numpy(), source, 1)).all()
    labels, steps = answers(after.inputs.numpy().astype(np.uint8))
    assert (after.labels.numpy() == labels).all()
    assert (steps == (rows.labels == PATH).sum(1).numpy() + 1).all()
    assert is_shortest_path(after.inputs, after.labels, after.labels).all()
    back = turns.clone()  # turns undo themselves, but for a swap that exchanges what is reversed
    back[turns == 3], back[turns == 5] = 5, 3
    restored = turn(after, back, side)
    for one, other in ((rows.inputs, restored.inputs), (rows.labels, restored.labels)):
        assert (one == other).all()
    assert (rows.facts["paths"] == restored.facts["paths"]).all()


def test_augmentation_depends_on_the_place_in_the_stream_alone_and_reaches_all_eight_turns(batch) -> None:
    rows, _ = batch
    same = rows.map(lambda tensor: tensor[:1].expand(len(rows.inputs), *tensor.shape[1:]))
    task = create_task("maze-10")
    once, again = (task.augment(same, CounterRandom(7, torch.arange(40))) for _ in range(2))
    assert (once.inputs == again.inputs).all() and (once.labels == again.labels).all()
    assert len(once.inputs.unique(dim=0)) == 8
    off = create_task("maze-10", {"augmentation": False})
    assert off.augment(same, CounterRandom(7, torch.arange(40))) is same


@given(seed=seeds, side=st.integers(2, 5))
@few
def test_class_keys_are_equal_exactly_for_turned_mazes(seed: int, side: int) -> None:
    mazes = some_mazes(side, 12, seed)
    random = np.random.default_rng(seed)
    turned = np.stack([maze[all_turns(side)[random.integers(8)]] for maze in mazes])
    both = np.concatenate([mazes, turned])
    keys = class_keys(both)
    forms = [min(maze[source].tobytes() for source in all_turns(side)) for maze in both]
    assert (keys[:, None] == keys).tolist() == [[a == b for b in forms] for a in forms]


# -- the generated tasks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "density", "steps"), [(6, 0.35, (4, 9)), (6, 0.5, (1, 1)), (20, 0.4, (30, 55)), (30, 0.37, (109, None))]
)
def test_drawn_mazes_have_the_wanted_length(side: int, density: float, steps: tuple[int, int | None]) -> None:
    mazes = random_mazes(side, 600, density, steps, np.random.default_rng(3))
    assert len(mazes) and ((mazes == START).sum(1) == 1).all() and ((mazes == GOAL).sum(1) == 1).all()
    found = answers(mazes)[1]
    assert found.min() >= steps[0] and (steps[1] is None or found.max() <= steps[1])


@pytest.mark.parametrize("name", ["maze-6", "maze-10", "maze-20"])
def test_splits_share_no_maze_and_lengths_out_of_distribution_are_longer(name: str) -> None:
    task = create_task(name, SMALL)
    splits, again, other = (task.splits(seed, NOWHERE) for seed in (0, 0, 1))
    task.check(splits)
    sizes = {"train": 40, "validation": 10, "test": 20, "ood-longer": 10, "ood-denser": 10}
    assert {split: len(part) for split, part in splits.items()} == sizes
    for split, part in splits.items():
        assert part.digest() == again[split].digest()
        assert (part.digest() == other[split].digest()) == (split != "train")
        assert len(np.unique(task.canonical(part))) == len(part)
        low, high = (task.max_steps + 1, 999) if split == "ood-longer" else (task.min_steps, task.max_steps)
        assert low <= part.difficulty.min() and part.difficulty.max() <= high
        assert (part.difficulty == (part.labels == PATH).sum(1) + 1).all()
        assert all(int(g[:3]) <= d <= int(g.split()[0][-3:]) for g, d in zip(part.groups, part.difficulty, strict=True))
    assert (splits["ood-denser"].inputs == WALL).mean() > (splits["test"].inputs == WALL).mean()
    assert task.notes(splits)[2].startswith("test: 20 mazes")
    assert [len(line) for line in task.decode(splits["test"].inputs[0]).split("\n")] == [task.side] * task.side


def test_out_of_distribution_splits_can_be_left_out() -> None:
    none = create_task("maze-6", {**SMALL, "ood_examples": 0}).splits(0, NOWHERE)
    open_end = create_task("maze-6", {**SMALL, "max_steps": None, "ood_density": None}).splits(0, NOWHERE)
    assert set(none) == set(open_end) == {"train", "validation", "test"}


@pytest.mark.parametrize(("settings_", "share"), [({}, 0.0), ({"min_steps": 1, "max_steps": 3}, 0.1)])
def test_the_floor_is_what_copying_a_constant_and_a_table_reach(settings_: dict, share: float) -> None:
    """A goal beside the start needs no path, so a copy is right there; elsewhere nothing trivial is ever right."""
    task = create_task("maze-6", {**SMALL, "test_examples": 100, **settings_})
    splits = task.splits(0, NOWHERE)
    train, test = splits["train"], splits["test"]
    table = {x.tobytes(): y for x, y in zip(train.inputs, train.labels, strict=True)}
    looked_up = np.stack([table.get(x.tobytes(), train.labels[0]) for x in test.inputs])
    copied = task.correct(test.batch(), test.inputs).mean()
    assert task.floor(splits) == max(copied, task.correct(test.batch(), looked_up).mean())
    assert task.floor(splits) == (test.difficulty == 1).mean()
    assert task.floor(splits) >= share and task.metrics(test.batch(), test.inputs)["valid"].mean() == copied


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"min_steps": 10}, r"min_steps \(10\) is above max_steps \(9\)"),
        ({"ood_density": 0.3}, r"ood_density \(0.3\) must be above density \(0.35\)"),
        ({"side": 31}, "side"),
        ({"side": 8}, "for side 8 use maze with side: 8"),
        ({"density": 1.0}, "density"),
        ({"steps": 4}, "did you mean"),
    ],
)
def test_impossible_settings_are_refused(bad: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_task("maze-6", bad)


def test_lengths_that_never_come_are_refused_with_the_remedy() -> None:
    task = create_task("maze", {**SMALL, "side": 4, "min_steps": 14, "max_steps": 15})
    with pytest.raises(UserError, match=r"50,000 mazes of side 4.*14 to 15 steps.*ask for fewer steps"):
        task.splits(0, NOWHERE)


# -- maze-hard -------------------------------------------------------------------------------------------------------

HEADER = ["source", "question", "answer", "rating"]


def text_rows(mazes: np.ndarray) -> list[list[str]]:
    labels, steps = answers(mazes)
    symbols = np.array(list("_# SGo"))
    texts = [["".join(symbols[row]) for row in tokens] for tokens in (mazes, labels)]
    return [["", question, answer, str(n + 1)] for question, answer, n in zip(*texts, steps.tolist(), strict=True)]


def write(folder: Path, split: str, rows: list[list[str]]) -> Path:
    path = folder / "maze-30x30-hard-1k" / f"{split}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *rows])
    return path


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    mazes = random_mazes(30, 600, 0.36, (40, 80), np.random.default_rng(0))[:30]
    mazes[:, 0], mazes[:, -1] = FREE, FREE  # blanks at both ends, whatever stood there
    good = ((mazes == START).sum(1) == 1) & ((mazes == GOAL).sum(1) == 1) & (answers(mazes)[1] > 0)
    return text_rows(mazes[good][:24])


@pytest.fixture
def folder(tmp_path: Path, rows: list[list[str]]) -> Path:
    assert len(rows) == 24
    write(tmp_path, "train", rows[:12])
    write(tmp_path, "test", rows[12:])
    return tmp_path


def test_hard_reads_files_keeps_blanks_and_scores_no_validation_row(folder: Path, rows: list[list[str]]) -> None:
    task = create_task("maze-hard", {"train_rows": None, "validation_rows": 4})
    splits = task.splits(0, DataFolder(folder))
    task.check(splits)
    assert {name: len(part) for name, part in splits.items()} == {"train": 12, "validation": 4, "test": 8}
    texts = [task.decode(x).replace("\n", "") for x in splits["test"].inputs]
    assert texts == [row[1] for row in rows[12:20]] and all(text[0] == text[-1] == " " for text in texts)
    assert [task.decode(x).replace("\n", "") for x in splits["validation"].labels] == [row[2] for row in rows[20:]]
    assert splits["test"].difficulty.tolist() == [float(row[3]) - 1 for row in rows[12:20]]
    part, other = (create_task("maze-hard", {"train_rows": 5, "validation_rows": 4}).splits(seed, DataFolder(folder))
                   for seed in (0, 1))  # fmt: skip
    assert len(part["train"]) == 5 and part["train"].digest() != other["train"].digest()
    assert part["test"].digest() == other["test"].digest() == splits["test"].digest()


def test_hard_leaves_out_validation_rows_that_test_has_turned(folder: Path, rows: list[list[str]]) -> None:
    tokens = np.array([["_# SGo".index(c) for c in rows[12][1]]], np.uint8)
    write(folder, "test", rows[12:] + text_rows(tokens[:, all_turns(30)[3]]))
    task = create_task("maze-hard", {"train_rows": None, "validation_rows": 3})
    splits = task.splits(0, DataFolder(folder))
    task.check(splits)
    assert len(splits["validation"]) == 2


def change(row: list[str], column: int, old: str, new: str) -> list[str]:
    return [*row[:column], row[column].replace(old, new, 1), *row[column + 1 :]]


def other_path(row: list[str]) -> list[str]:
    """The same maze with another shortest path for an answer."""
    tokens = np.array([["_# SGo".index(c) for c in row[1]]], np.uint8)
    for source in all_turns(30)[1:]:
        turned = text_rows(tokens[:, source])[0][2]
        back = "".join(np.array(list(turned))[np.argsort(source)])
        if back != row[2]:
            return [row[0], row[1], back, row[3]]
    raise AssertionError("one shortest path only")


BREAKS = {
    "question holds something other": lambda r: change(r, 1, " ", "x"),
    "answer holds something other": lambda r: change(r, 2, "o", "0"),
    "question has 899 characters": lambda r: [r[0], r[1].strip(" ") + " " * (899 - len(r[1].strip(" "))), *r[2:]],
    "answer has 901 characters": lambda r: [*r[:2], r[2] + " ", r[3]],
    "not exactly one S": lambda r: change(change(r, 1, "S", "#"), 2, "S", "#"),
    "not exactly one G": lambda r: change(change(r, 1, " ", "G"), 2, " ", "G"),
    "changes something other than blanks": lambda r: change(r, 2, "#", "o"),
    "no path leads": lambda r: [r[0], *[r[1].replace(" ", "#")] * 2, r[3]],
    "not a shortest path from S to G": lambda r: change(r, 2, "o", " "),
    "not the first in the order": other_path,
    "not steps + 1": lambda r: [*r[:3], r[3][:-1]],
    "rating is not a whole number": lambda r: [*r[:3], ""],
    "2 fields, not 4": lambda r: r[:2],
}


@pytest.mark.parametrize("message", BREAKS)
def test_a_broken_row_is_named_with_file_and_line(folder: Path, rows: list[list[str]], message: str) -> None:
    path = write(folder, "test", [*rows[12:16], BREAKS[message](rows[16]), *rows[17:]])
    with pytest.raises(BrokenData) as raised:
        create_task("maze-hard", {"train_rows": None, "validation_rows": 4}).splits(0, DataFolder(folder))
    assert f"{path}, line 6: " in str(raised.value) and message in str(raised.value)


@pytest.mark.parametrize("cut", [1, 2, 500, 910, 1500])
def test_a_file_cut_short_is_refused_wherever_it_was_cut(folder: Path, cut: int) -> None:
    path = folder / "maze-30x30-hard-1k" / "train.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(BrokenData, match=r"train\.csv, line 13: "):
        create_task("maze-hard", {"train_rows": None, "validation_rows": 4}).splits(0, DataFolder(folder))


def test_missing_files_and_too_large_a_slice_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BrokenData, match=r"test\.csv has 12 rows"):
        create_task("maze-hard", {"train_rows": None, "validation_rows": 12}).splits(0, DataFolder(folder))
    with pytest.raises(MissingData, match="holds 12 rows, train_rows = 1,000"):
        create_task("maze-hard", {"validation_rows": 4}).splits(0, DataFolder(folder))
    with pytest.raises(MissingData, match=r"maze-30x30-hard-1k/train\.csv is not there"):
        create_task("maze-hard").splits(0, DataFolder(tmp_path / "elsewhere"))


def test_all_real_labels_are_reproduced_by_the_rule() -> None:
    root = Path(os.environ.get("HRM_BENCH_DATA", ""))
    if not (root / "maze-30x30-hard-1k" / "test.csv").is_file():
        pytest.skip("HRM_BENCH_DATA names no folder with maze-30x30-hard-1k/test.csv")
    task = create_task("maze-hard")
    splits = task.splits(0, DataFolder(root))  # which refuses any row whose answer is not the rule's
    task.check(splits)
    everything = np.concatenate([part.inputs for part in splits.values()])
    labels = np.concatenate([part.labels for part in splits.values()])
    assert len(everything) >= 1500 and (answers(everything)[0] == labels).all()
    assert is_shortest_path(everything, labels, labels).all()
    assert min(part.difficulty.min() for part in splits.values()) == 109
    # no maze has a single shortest path: some turn's label, turned back, is another one
    differs = np.zeros(len(everything), bool)
    for source in all_turns(30):
        back = answers(everything[:, source])[0][:, np.argsort(source)]
        differs |= (back != labels).any(1)
        assert is_shortest_path(everything, labels, back).all()
    assert differs.all()
