"""Data kept on disk: the same bytes back, whole or not at all, found damaged when they are, built once by many."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Shifted

from harness import data, store
from harness.errors import BrokenData, MissingData
from tasks.base import DataFolder, Examples, Splits, create_task


class FromFile(Shifted):
    """Rows' order depends on a file of the data folder, which counts how often it is read."""

    real_data = True
    reads: int = 0

    def splits(self, seed: int, data: DataFolder) -> Splits:
        text = data.file("rows.txt", remedy="write it").read_text()
        type(self).counted.append(text)
        return {name: part[:: -1 if text == "backwards" else 1] for name, part in super().splits(seed, data).items()}


FromFile.counted = []  # type: ignore[attr-defined]
FromFile.name = "from-file"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.txt").write_text("forwards")
    FromFile.counted.clear()  # type: ignore[attr-defined]
    return tmp_path


ARRAYS = st.sampled_from(["uint8", "uint16", "float32"])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 9), ARRAYS, st.booleans(), st.integers(0, 2**32 - 1))
def test_what_is_read_is_what_was_written_to_the_byte(
    tmp_path_factory: Any, n: int, width: int, dtype: str, more: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    inputs = (random.random((n, width)) * 200).astype(dtype)
    part = Examples(
        inputs,
        random.integers(0, 9, (n, 1), np.uint8),
        random.random(n, np.float32),
        puzzle_ids=random.integers(0, 9, n, np.int32) if more else None,
        groups=np.array([f"gröup {i % 3}" for i in range(n)]) if more else None,
        facts={"flag": random.random(n) < 0.5, "shape": random.integers(0, 9, (n, 2, 3))} if more else {},
    )
    splits = {"train": part, "ood-corrupted-0.1": part[: n // 2 + 1]}
    place = tmp_path_factory.mktemp("store") / store.splits_digest(splits)
    store.save(splits, place, {})
    found = store.load(place)
    assert store.splits_digest(found) == place.name
    assert [(name, a.dtype, a.shape) for name, a in found["train"].arrays()] == [
        (name, a.dtype, a.shape) for name, a in part.arrays()
    ]
    assert not list(place.parent.glob(".*"))


def test_reading_maps_the_file_instead_of_copying_it(tmp_path: Path) -> None:
    known = data.prepare(Shifted(), 0, DataFolder(), tmp_path)
    inputs = known.load()["train"].inputs
    assert not inputs.flags.owndata and not inputs.flags.writeable


def flipped(content: bytes) -> bytes:
    """One byte of the training rows changed, which no reader can see: only the hash tells."""
    at = content.index(Shifted(count=200).splits(0, DataFolder())["train"].inputs.tobytes()) + 17
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGE: dict[str, Any] = {
    "cut in half": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "other text": lambda content: b"<html>not found</html>",
    "one byte changed": flipped,
    "gone": None,
}


@pytest.mark.parametrize("file", ["train.arrow", "test.arrow", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_never_read_and_is_built_again_saying_so(
    tmp_path: Path, file: str, damage: str, capsys: Any
) -> None:
    if damage == "one byte changed":
        file = "train.arrow"
    known = data.prepare(Shifted(count=200), 0, DataFolder(), tmp_path)
    path = known.path / file
    if DAMAGE[damage] is None:
        path.unlink()
    else:
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(BrokenData, match=str(known.path)):
        known.load()
    again = data.prepare(Shifted(count=200), 0, DataFolder(), tmp_path)
    assert "building it again" in capsys.readouterr().err
    assert again == known
    assert store.splits_digest(again.load()) == known.digest


def test_a_broken_index_is_built_again_saying_so(tmp_path: Path, capsys: Any) -> None:
    known = data.prepare(Shifted(), 0, DataFolder(), tmp_path)
    (index,) = (tmp_path / "index").glob("*.json")
    index.write_text(index.read_text()[:50])
    assert data.prepare(Shifted(), 0, DataFolder(), tmp_path) == known
    assert "building it again" in capsys.readouterr().err


def test_real_data_are_read_once_while_their_files_stay_the_same_and_again_when_they_change(folder: Path) -> None:
    counted = FromFile.counted  # type: ignore[attr-defined]
    real = DataFolder(folder / "data")
    first = data.prepare(FromFile(), 0, real, folder / "store")
    assert data.prepare(FromFile(), 0, real, folder / "store") == first and len(counted) == 1
    assert list(first.sources) == ["file rows.txt"]
    (folder / "data/rows.txt").write_text("backwards")
    second = data.prepare(FromFile(), 0, real, folder / "store")
    assert len(counted) == 2 and second.digest != first.digest and second.sources != first.sources
    (folder / "data/rows.txt").unlink()
    with pytest.raises(MissingData):  # what was built before is not taken in its place
        data.prepare(FromFile(), 0, real, folder / "store")


def test_a_run_that_dies_while_writing_leaves_nothing_that_is_taken_for_data(tmp_path: Path, monkeypatch: Any) -> None:
    def die(*arguments: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="disk full"):
        patched.setattr(store, "write_json", die)
        data.prepare(Shifted(), 0, DataFolder(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert data.prepare(Shifted(), 0, DataFolder(), tmp_path).load()["train"].inputs.shape == (64, 5)


def _prepare_parity(place: str, connection: Any) -> None:
    import tasks
    from tasks.parity import Parity

    tasks.load_all()
    built = []
    original = Parity.splits

    def counted(self: Any, *arguments: Any) -> Any:
        built.append(1)
        return original(self, *arguments)

    Parity.splits = counted  # type: ignore[method-assign]
    connection.send((data.prepare(create_task("parity"), 0, DataFolder(), Path(place)).digest, len(built)))


def test_several_processes_at_once_build_it_once_and_get_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    ends = [context.Pipe() for _ in range(3)]
    processes = [context.Process(target=_prepare_parity, args=(str(tmp_path), theirs)) for _, theirs in ends]
    for process in processes:
        process.start()
    found = [ours.recv() for ours, _ in ends]
    for process in processes:
        process.join()
    assert len({digest for digest, _ in found}) == 1
    assert sum(count for _, count in found) == 1
