"""`table`: rows come through as they stand in the file, and whatever is wrong is an error with file and row."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import data
from harness.errors import BrokenData, MissingData, UserError
from tasks.base import DataFolder, Examples, create_task

SYMBOLS = " abc,\"'"


def texts(n: int = 60) -> list[str]:
    random = np.random.default_rng(0)
    found = {"".join(random.choice(list(SYMBOLS), random.integers(1, 8))) for _ in range(2 * n)}
    return sorted(found)[:n]


def rows(n: int = 60) -> list[dict[str, Any]]:
    return [
        {"input": text, "label": "yes" if "a" in text else "no", "hard": len(text) / 2, "kind": f"k{i % 2}", "x": i}
        for i, text in enumerate(texts(n))
    ]


def write_csv(path: Path, content: list[dict[str, Any]]) -> None:
    import csv

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(content[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(content)


def write_parquet(path: Path, content: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(content), path)


WRITERS = {"csv": write_csv, "parquet": write_parquet}
BASE = {"symbols": SYMBOLS, "length": 8, "classes": ["yes", "no"], "difficulty": "hard", "group": "kind"}


def load(folder: Path, **changed: Any) -> dict[str, Examples]:
    task = create_task("table", {**BASE, "train": "mine/train.csv", **changed})
    splits = task.splits(0, DataFolder(folder))
    task.check(splits)
    return splits


@pytest.mark.parametrize("kind", WRITERS)
def test_every_row_comes_through_blanks_quotes_and_all(kind: str, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path / f"mine/train.{kind}", rows())
    splits = load(tmp_path, train=f"mine/train.{kind}")
    task = create_task("table", BASE)
    found = {}
    for part in splits.values():
        for i in range(len(part)):
            text = "".join(task.vocabulary[t] for t in part.inputs[i] if t)
            found[text] = (task.decode(part.labels[i]), float(part.difficulty[i]), part.groups[i])
    assert found == {row["input"]: (f"class {row['label']}", row["hard"], row["kind"]) for row in rows()}
    assert all(len(splits[name]) for name in ("train", "validation", "test"))


def test_csv_parquet_and_a_saved_data_set_give_the_same_bytes(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    for kind, write in WRITERS.items():
        write(tmp_path / f"mine/train.{kind}", rows())
    DatasetDict({"train": Dataset.from_list(rows())}).save_to_disk(str(tmp_path / "saved"))
    found = [
        load(tmp_path),
        load(tmp_path, train="mine/train.parquet"),
        load(tmp_path, dataset="saved", train="train"),
    ]
    assert len({part["train"].digest() for part in found}) == len({part["test"].digest() for part in found}) == 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.text(alphabet=SYMBOLS, min_size=1, max_size=8), min_size=1, max_size=20))
def test_any_text_over_the_symbols_survives_the_way_through_a_csv_file(tmp_path_factory: Any, given: list[str]) -> None:
    folder = tmp_path_factory.mktemp("table")
    write_csv(folder / "t.csv", [{"input": text, "label": text} for text in given])
    task = create_task("table", {"train": "t.csv", "symbols": SYMBOLS, "length": 8, "target": "sequence"})
    part = task._load("t.csv", DataFolder(folder))  # type: ignore[attr-defined]
    assert ["".join(task.vocabulary[t] for t in row if t) for row in part.inputs] == given
    assert (part.labels == part.inputs).all()


def test_words_and_numbers_are_read_as_such(tmp_path: Path) -> None:
    words = [{"input": f"go {w}", "label": w, "x": i, "y": -i} for i, w in enumerate(["left", "right"] * 30)]
    write_csv(tmp_path / "w.csv", words)
    task = create_task(
        "table",
        {"train": "w.csv", "tokens": "words", "symbols": ["go", "left", "right"], "target": "sequence", "length": 2,
         "longest_answer": 1},
    )  # fmt: skip
    part = task._load("w.csv", DataFolder(tmp_path))  # type: ignore[attr-defined]
    assert part.inputs[:2].tolist() == [[1, 2], [1, 3]] and part.labels[:2].tolist() == [[2], [3]]
    numbers = create_task(
        "table",
        {"train": "w.csv", "tokens": "numbers", "inputs": ["x", "y"], "length": 2, "classes": ["left", "right"]},
    )
    part = numbers._load("w.csv", DataFolder(tmp_path))  # type: ignore[attr-defined]
    assert numbers.features and part.inputs[3].tolist() == [3.0, -3.0]
    assert numbers.vocabulary == ("", "class left", "class right") and not numbers.masked


def spoil(text: str, line: int, old: str, new: str) -> str:
    lines = text.split("\n")
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    return "\n".join(lines)


PLAIN = [{"input": "abc" * (1 + i % 2) + "ab"[i % 2], "label": "yes", "hard": i, "kind": "k", "x": 0} for i in range(9)]
BROKEN = {
    "a wrong character": (lambda t: spoil(t, 4, "abc", "aXc"), r"line 4: column input: 'X' is not among the symbols"),
    "a row too long": (lambda t: spoil(t, 5, "abc", "abcabcabc"), r"line 5: column input has \d+ tokens, more than 8"),
    "a row too short": (lambda t: spoil(t, 6, ",k,0", ""), r"line 6: 3 fields, not 5"),
    "an empty input": (lambda t: spoil(t, 4, "abca", ""), r"line 4: column input has 0 tokens, fewer than 1"),
    "an empty answer": (lambda t: spoil(t, 4, "yes", ""), r"line 4: column label: '' is no class"),
    "a field too many": (lambda t: spoil(t, 6, "yes", "yes,yes"), r"line 6: 6 fields, not 5"),
    "no such class": (lambda t: spoil(t, 7, "yes", "yse"), r"line 7: column label: 'yse' is no class .*yes"),
    "no number": (lambda t: spoil(t, 3, ",1,", ",one,"), r"line 3: column hard: 'one' is not a number"),
    "not finite": (lambda t: spoil(t, 3, ",1,", ",inf,"), r"line 3: column hard: 'inf' is not a number"),
    "a download cut short": (lambda t: t[: t.rindex(",k")], r"line 10: 3 fields, not 5"),
    "a quote left open": (lambda t: spoil(t, 8, "abc", '"abc'), r"line \d+: not readable as CSV"),
    "a web page": (lambda t: "<html>404</html>", r'no column "input"'),
    "nothing": (lambda t: "", r'no column "input"'),
    "a header alone": (lambda t: t.split("\n")[0] + "\n", r"no rows"),
    "a column renamed": (lambda t: t.replace("input", "inputs", 1), r'no column "input" \(did you mean "inputs"\?\)'),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_csv_file_is_an_error_with_file_and_row(case: str, tmp_path: Path) -> None:
    path = tmp_path / "mine/train.csv"
    write_csv(path, PLAIN)
    change, message = BROKEN[case]
    path.write_text(change(path.read_text()))
    with pytest.raises(BrokenData, match=f"{path}.*{message}"):
        load(tmp_path)


def test_bytes_that_are_no_text_are_an_error_with_file_and_line(tmp_path: Path) -> None:
    write_csv(tmp_path / "mine/train.csv", PLAIN)
    path = tmp_path / "mine/train.csv"
    path.write_bytes(path.read_bytes().replace(b"abc", b"a\xff\xfec", 1))
    with pytest.raises(BrokenData, match=r"train\.csv, line \d+: not readable as CSV: .*utf-8"):
        load(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_parquet_file_cut_short_and_an_empty_field_are_errors(tmp_path: Path, share: float) -> None:
    path = tmp_path / "mine/train.parquet"
    write_parquet(path, rows())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BrokenData, match=r"train\.parquet: not readable as Parquet"):
        load(tmp_path, train="mine/train.parquet")
    content = rows()
    content[7]["input"] = None
    write_parquet(path, content)
    with pytest.raises(BrokenData, match=r"train\.parquet, row 7: column input is empty"):
        load(tmp_path, train="mine/train.parquet")


def test_a_saved_data_set_cut_in_half_is_an_error_that_names_it(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(rows()).save_to_disk(str(tmp_path / "saved"))
    (file,) = (tmp_path / "saved").glob("*.arrow")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BrokenData, match=f"{tmp_path / 'saved'}: not readable"):
        load(tmp_path, dataset="saved", train="train")


def test_absent_data_are_missing_with_a_remedy_and_never_replaced(tmp_path: Path) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(MissingData, match=r"mine/train\.csv is not there; put it into the data folder"):
        load(tmp_path)
    with pytest.raises(MissingData, match="hub may not be asked for nobody/nothing"):
        load(tmp_path, dataset="nobody/nothing", train="train")
    write_csv(tmp_path / "mine/train.tsv", PLAIN)
    with pytest.raises(UserError, match=r"mine/train\.tsv: must end in \.csv or \.parquet"):
        load(tmp_path, train="mine/train.tsv")


def test_a_data_set_of_csv_files_comes_as_text_with_its_leading_zeros(tmp_path: Path) -> None:
    """As the hub's would: `load_dataset` on a folder takes the same way."""
    from tasks.table_files import _loaded

    digits = "0" + "123456789" * 9
    write_csv(
        tmp_path / "train.csv", [{"x": 1, "input": digits[:81], "label": "007"}, {"x": 2, "input": "12", "label": "NA"}]
    )
    found = _loaded(tmp_path, "train", ["input", "label"], "here")
    assert found["input"] == [digits[:81], "12"] and found["label"] == ["007", "NA"]


def test_a_pinned_hash_refuses_another_file_and_the_hash_read_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "mine/train.csv"
    write_csv(path, rows())
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    task = create_task("table", {**BASE, "train": "mine/train.csv", "sha256": {"mine/train.csv": sha}})
    known = data.prepare(task, 0, DataFolder(tmp_path), tmp_path / "store")
    assert known.sources == {"file mine/train.csv": sha}
    path.write_text(path.read_text() + "abc,yes,1.5,k0,99\n")
    with pytest.raises(BrokenData, match=f"the suite pins {sha}"):
        data.prepare(task, 0, DataFolder(tmp_path), tmp_path / "store")


def test_a_row_in_both_files_is_a_leak_and_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "mine/train.csv", rows())
    write_csv(tmp_path / "mine/test.csv", rows()[:3])
    with pytest.raises(BrokenData, match="examples stand in both"):
        load(tmp_path, test="mine/test.csv")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"symbols": "aab"}, r"settings\.symbols: empty, or the same twice"),
        ({"inputs": ["x", "y"]}, r"settings\.length: several columns are read only as numbers"),
        ({"tokens": "numbers", "inputs": ["x", "y"], "length": 3}, r"settings\.length: 2 columns"),
        ({"longest_answer": 9}, r"settings\.longest_answer: answers are read"),
        (
            {"sha256": {"mine/trian.csv": "0"}, "train": "mine/train.csv"},
            r"settings\.sha256: mine/trian\.csv is not read",
        ),
        ({"class": ["a"]}, r"settings\.class: unknown key"),
    ],
)
def test_impossible_settings_are_refused_by_name(changed: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_task("table", {**BASE, **changed})
