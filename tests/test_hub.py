"""The hub: what is read from it is pinned and recorded, and never another commit's rows; against a hub of our own."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_hub import FakeHub
from test_maze import text_rows as maze_rows
from test_sudoku_extreme import HEADER
from test_sudoku_extreme import text_rows as sudoku_rows

from harness import data
from harness.errors import BrokenData, MissingData, UserError
from tasks import hub
from tasks.base import DataFolder, create_task
from tasks.maze_generator import random_mazes
from tasks.maze_rule import FREE, answers
from tasks.sudoku_generator import random_puzzles

NOWHERE = DataFolder()


def as_csv(rows: list[list[str]], header: list[str] = HEADER) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def sudokus() -> list[list[str]]:
    return sudoku_rows(*random_puzzles(9, 40, (40, 45), np.random.default_rng(1))[:2])


def mazes() -> list[list[str]]:
    drawn = random_mazes(30, 600, 0.36, (40, 80), np.random.default_rng(0))
    drawn = drawn[(drawn[:, 0] == FREE) & (answers(drawn)[1] > 0)]
    drawn[0, -3:] = FREE
    return maze_rows(drawn[:24])


NAMED: dict[str, tuple[str, str, Callable[[], list[list[str]]]]] = {
    "sudoku-extreme": ("sapientinc/sudoku-extreme", "sudoku-extreme", sudokus),
    "maze-hard": ("sapientinc/maze-30x30-hard-1k", "maze-30x30-hard-1k", mazes),
}
FEW = {"train_rows": 6, "validation_rows": 4}


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Points the hub's libraries to a URL, or takes the line away, with a cache of the test's own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub, "SECONDS", 2.0)

    def to(url: str, offline: bool = False) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1" if offline else "0")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")

    return to


@pytest.fixture(params=list(NAMED))
def served(request: Any, connect: Any) -> Iterator[tuple[str, FakeHub, str, list[list[str]]]]:
    """A task, its data set on a hub with two commits, the folder of local copies, and the rows of the first commit."""
    name, folder, make = NAMED[request.param]
    rows = make()
    half = len(rows) // 2
    first = {"train.csv": as_csv(rows[:half]), "test.csv": as_csv(rows[half:])}
    with FakeHub(name, first, first | {"train.csv": as_csv(rows[: half - 2])}).running() as server:
        connect(server.url)
        yield request.param, server, folder, rows


def test_the_hubs_rows_are_the_local_ones_and_commit_and_hash_are_recorded(
    served: Any, tmp_path: Path, connect: Any
) -> None:
    name, server, folder, _ = served
    (tmp_path / "local" / folder).mkdir(parents=True)
    for file, content in server.commits[0].items():
        (tmp_path / "local" / folder / file).write_bytes(content)
    local = create_task(name, FEW).splits(0, DataFolder(tmp_path / "local"))

    pinned = create_task(name, FEW | {"revision": server.shas[0]})
    known = data.prepare(pinned, 0, NOWHERE, tmp_path / "store")
    assert {split: part.digest() for split, part in known.load().items()} == {
        split: part.digest() for split, part in local.items()
    }
    assert known.sources == {
        f"hub {server.name} {file}": f"commit {server.shas[0]} sha256 {hashlib.sha256(content).hexdigest()}"
        for file, content in server.commits[0].items()
    }
    connect("http://127.0.0.1:1")  # nobody is there, and with a commit named nobody need be
    assert data.prepare(pinned, 0, NOWHERE, tmp_path / "store") == known


def test_what_is_not_pinned_is_read_again_when_the_hub_has_a_newer_commit_and_only_then(
    served: Any, tmp_path: Path
) -> None:
    name, server, _, _ = served
    task, newest = create_task(name, FEW), server.commits.pop()
    first = data.prepare(task, 0, NOWHERE, tmp_path)
    before = len(server.asked)
    assert data.prepare(task, 0, NOWHERE, tmp_path) == first
    assert [line for line in server.asked[before:] if "resolve" in line] == []
    server.commits.append(newest)
    second = data.prepare(task, 0, NOWHERE, tmp_path)
    assert server.shas[1] in next(iter(second.sources.values())) and second.digest != first.digest


def test_without_the_hub_the_cached_commit_is_read_and_named_and_nothing_in_its_place(
    served: Any, connect: Any, tmp_path: Path
) -> None:
    name, server, _, _ = served
    task = create_task(name, FEW)
    online = data.prepare(task, 0, NOWHERE, tmp_path / "a")
    for offline in (True, False):
        connect("http://127.0.0.1:1", offline)
        assert data.prepare(task, 0, NOWHERE, tmp_path / f"b{offline}") == data.DataSet(
            **{**vars(online), "path": tmp_path / f"b{offline}" / online.digest}
        )
        for absent in ("v2", server.shas[0]):  # the cache has the other commit alone
            with pytest.raises(MissingData, match=r"hub .*asked for") as raised:
                create_task(name, FEW | {"revision": absent}).splits(0, NOWHERE)
            assert "put train.csv and test.csv" in raised.value.remedy


def test_a_pinned_hash_refuses_other_content_from_hub_and_folder_alike(served: Any, tmp_path: Path) -> None:
    name, server, folder, _ = served
    right, wrong = (hashlib.sha256(commit["train.csv"]).hexdigest() for commit in server.commits)
    pin = {"sha256": {"train.csv": right.upper()}, "revision": server.shas[0]}
    create_task(name, FEW | pin).splits(0, NOWHERE)
    refused = create_task(name, FEW | {"sha256": {"train.csv": wrong}, "revision": server.shas[0]})
    with pytest.raises(BrokenData, match=f"train.csv .commit {server.shas[0][:12]}.: its SHA-256 is {right}.*{wrong}"):
        refused.splits(0, NOWHERE)
    (tmp_path / folder).mkdir()
    for file, content in server.commits[0].items():
        (tmp_path / folder / file).write_bytes(content)
    with pytest.raises(BrokenData, match=rf"{folder}/train\.csv: its SHA-256 is {right}"):
        refused.splits(0, DataFolder(tmp_path))
    for bad in ({"trian.csv": right}, {"train.csv": right[:-1]}):
        with pytest.raises(UserError, match="sha256"):
            create_task(name, {"sha256": bad})


def test_a_row_of_the_hub_that_is_wrong_is_named_with_file_commit_and_line(served: Any) -> None:
    name, server, _, rows = served
    server.commits.append(server.commits[0] | {"test.csv": as_csv([*rows[12:14], [*rows[14][:2], "", "1"]])})
    with pytest.raises(BrokenData, match=rf"test\.csv \(commit {server.shas[2][:12]}\), line 4: the answer has 0 char"):
        create_task(name, FEW | {"validation_rows": 1}).splits(0, NOWHERE)


# -- a table of the hub ----------------------------------------------------------------------------------------------

TABLE = {"task": "table", "dataset": "some/set", "train": "train", "symbols": "01", "length": 4}


def table_csv(n: int) -> bytes:
    return as_csv([[f"{i:04b}", "01"[i.bit_count() % 2]] for i in range(n)], ["input", "label"])


def test_a_table_of_the_hub_is_pinned_recorded_and_read_from_the_cache_by_its_commit(
    connect: Any, tmp_path: Path
) -> None:
    settings = {key: value for key, value in TABLE.items() if key != "task"}
    with FakeHub("some/set", {"train.csv": table_csv(12)}, {"train.csv": table_csv(16)}).running() as server:
        connect(server.url)
        found = {}
        for revision, rows, sha in ((None, 16, server.shas[1]), (server.shas[0], 12, server.shas[0])):
            task = create_task("table", settings | {"revision": revision})
            found[revision] = known = data.prepare(task, 0, NOWHERE, tmp_path / "a")
            assert sum(known.sizes.values()) == rows
            assert list(known.sources) == ["hub some/set train"] and f"commit {sha} sha256 " in str(known.sources)
        leading = found[None].load()["train"].inputs
        assert (leading[:, 0] == 1).any()  # a first 0 is a symbol, not a number's
        with pytest.raises(MissingData, match=r"can't be asked for some/set .*RevisionNotFound"):
            create_task("table", settings | {"revision": "v9"}).splits(0, NOWHERE)
    connect(server.url, offline=True)
    for revision, known in found.items():  # not the newest that is cached, whatever was asked for
        task = create_task("table", settings | {"revision": revision})
        assert data.prepare(task, 0, NOWHERE, tmp_path / "b").sources == known.sources
    with pytest.raises(MissingData, match="HF_HUB_OFFLINE is set"):
        create_task("table", settings | {"dataset": "some/other"}).splits(0, NOWHERE)


def test_a_hub_that_hangs_is_given_up_in_time(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    import huggingface_hub

    connect("http://127.0.0.1:1")
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *a, **k: time.sleep(3))
    started = time.monotonic()
    with pytest.raises(MissingData, match=r"no answer within 0\.2 s.*; put train\.csv and test\.csv"):
        create_task("sudoku-extreme", FEW).splits(0, NOWHERE)
    assert time.monotonic() - started < 2
