"""How answers form: traces equal what evaluation judges, attention is what the model used, solve says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from harness import cli
from harness.analysis.traces import read_traces
from harness.evaluation.evaluate import evaluate
from harness.evaluation.trace import AttentionRecorder, Trace, chosen, document, trace
from harness.recipe import ONE_PASS, Loop
from models.base import ModelShape, create_model
from tasks.base import DataFolder, Examples, Task, create_task
from tests.toys import FAMILIES

LOOP = Loop(segments=3, halting="q_halt")


def model_for(task: Task, family: str = "hrm") -> torch.nn.Module:
    name, config = FAMILIES[family]
    return create_model(name, config, ModelShape.of(task), generator=torch.Generator().manual_seed(1))


def small(name: str, **settings: object) -> tuple[Task, Examples]:
    task = create_task(name, settings)
    return task, task.splits(0, DataFolder())["test"]


SUDOKU = {"train_examples": 20, "validation_examples": 10, "test_examples": 40, "min_blanks": 8, "max_blanks": 11}


@pytest.mark.parametrize("family", ["hrm", "trm-att", "hrm-proof", "transformer"])
def test_a_trace_says_what_evaluation_judged(family: str) -> None:
    task, test = small("sudoku-4", **SUDOKU)
    model = model_for(task, family)
    loop = LOOP if model.recurrent else ONE_PASS
    found = trace(model, task, loop, chosen(test), 5)
    judged = evaluate(model, task, loop, test, segments=5, batch_size=16)
    rows = len(found.correct)
    assert rows == 24
    assert (found.correct == judged.correct[:rows]).all()
    if judged.halt is not None:
        assert found.halt is not None
        assert (found.halt == judged.halt[:rows]).all()
        np.testing.assert_allclose(found.q_halt, judged.q_halt[:rows], atol=1e-5)
        steps = found.halting_step()
        assert steps is not None
        assert (steps == judged.halting_step()[:rows]).all()


def test_long_answers_are_shown_for_few_examples() -> None:
    def of(length: int) -> Examples:
        tokens = np.ones((40, length), np.uint8)
        return Examples(tokens, tokens, np.zeros(40, np.float32))

    assert len(chosen(of(16))) == 24
    assert len(chosen(of(900))) == 6
    assert len(chosen(of(50_000))) == 1


def test_an_answer_that_stays_is_written_once_and_comes_back() -> None:
    task, test = small("sudoku-4", **SUDOKU)
    part = test[:2]
    first, second = part.labels[0].astype(np.int64), part.labels[1].astype(np.int64)
    answers = np.stack([np.stack([first, first, second]), np.stack([second, first, first])])
    found = Trace(3, answers, np.ones((2, 3), bool), None, None)
    rows = document(task, part, found)["examples"]
    assert [a is None for a in rows[0]["answers"]] == [False, True, False]
    assert [a is None for a in rows[1]["answers"]] == [False, False, True]
    assert rows[0]["answers"][2] == second.tolist()
    json.dumps(rows, allow_nan=False)


@pytest.mark.parametrize("causal", [False, True])
def test_recorded_attention_is_what_the_function_computes(causal: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((2, 3, 5, 8), generator=draw) for _ in range(3))
    mask = None if causal else torch.rand((2, 1, 1, 5), generator=draw) < 0.7
    if mask is not None:
        mask[..., 0] = True
    with AttentionRecorder() as recorder:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    (weights,) = recorder.weights
    assert weights.shape == (2, 5, 5)
    # one head at a time gives that head's own weights, which times v are its output
    with AttentionRecorder() as single:
        F.scaled_dot_product_attention(q[:, :1], k[:, :1], v[:, :1], attn_mask=mask, is_causal=causal)
    torch.testing.assert_close(single.weights[0].float() @ v[:, 0], out[:, 0], atol=5e-3, rtol=0)


@pytest.mark.parametrize("family", ["hrm", "modernbert"])
def test_every_layer_that_attends_is_recorded(family: str) -> None:
    task, test = small("sudoku-4", **SUDOKU)
    model = model_for(task, family)
    found = trace(model, task, LOOP if model.recurrent else ONE_PASS, test[:2], 2, inside=True)
    assert found.attention is not None
    layers = 6 if family == "hrm" else 2  # 2 × 2 calls of L and 2 of H, one layer each
    assert found.attention.shape[1] == layers
    np.testing.assert_allclose(found.attention.astype(np.float64).sum(-1), 1, atol=5e-3)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a toy suite; its results folder is two above."""
    place = tmp_path_factory.mktemp("solve")
    suite = place / "one.yaml"
    suite.write_text(
        "name: one\n"
        "arms:\n"
        "  hrm: {model: hrm, loop: {segments: 2},\n"
        "    config: {hidden: 16, heads: 2, inner: 24, H_layers: 1, L_layers: 1}}\n"
        "  transformer: {model: transformer, config: {layers: 2}, match: {to: hrm, rule: params}}\n"
        "tasks:\n  sudoku-4:\n    seeds: 1\n    primary: {arms: [hrm, transformer]}\n"
        "    settings: {train_examples: 20, validation_examples: 10, test_examples: 40, one_blank_examples: 0}\n"
        "recipe: {batch_size: 4, budget: {updates: 2}, precision: float32,\n"
        "         evaluation: {points: 1, segments: [1, 2], test_examples: 30}}\n",
        encoding="utf-8",
    )
    results = place / "results"
    code = cli.main(["--suite", str(suite), "--results", str(results), "--reports", str(place / "reports")])
    assert code == 0
    (folder,) = (path.parent for path in results.glob("one/runs/sudoku-4/hrm/*/cell.json"))
    return folder


def test_the_report_shows_the_traces_of_both_arms(run_folder: Path) -> None:
    results = run_folder.parents[3]
    traces = read_traces(results, ["sudoku-4"])["sudoku-4"]
    assert list(traces["arms"]) == ["hrm", "transformer"]
    assert len(traces["examples"]) == 24
    assert [len(arm["examples"][0]["answers"]) for arm in traces["arms"].values()] == [2, 1]
    page = (results.parents[1] / "reports" / "one" / "index.html").read_text(encoding="utf-8")
    embedded = page.split('<script type="application/json" id="traces">')[1].split("</script>")[0]
    (task,) = json.loads(embedded)
    assert [arm["name"] for arm in task["arms"]] == ["hrm", "transformer"]
    assert task["examples"][0]["input"] == traces["examples"][0]["input"]


def test_solve_shows_segments_and_saves_what_is_inside(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "trace.npz"
    assert cli.main(["solve", str(run_folder), "test:3", "--segments", "3", "--trace", str(saved)]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["segments"] == 3
    assert "segment 3" in printed.err
    assert "It would stop" in printed.err
    arrays = np.load(saved, allow_pickle=False)
    assert arrays["answers"].shape == (3, 16)
    assert arrays["state.z_H"].shape == (3, 17, 16)
    assert arrays["attention"].shape == (3, 6, 17, 17)


def test_solve_reads_a_typed_puzzle_and_a_file_alike(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    puzzle = "1234\n3412\n2.43\n43.1\n"
    path = tmp_path / "puzzle.txt"
    path.write_text(puzzle, encoding="utf-8")
    answers = []
    for text in (puzzle.replace("\n", ""), str(path)):
        assert cli.main(["solve", str(run_folder), text]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("puzzle", "says"),
    [
        ("1234", "4 are given"),
        ("12x43412.143432.", '"x" is none of them'),
        ("................", "more than one solution"),
        ("11..............", "no solution"),
        ("test:40", "has 40 examples"),
        ("ood-nothing:0", "no split"),
    ],
)
def test_solve_says_what_is_wrong_with_a_puzzle(
    run_folder: Path, puzzle: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["solve", str(run_folder), puzzle]) == 2
    assert says in capsys.readouterr().err


TYPED = {
    "sudoku-4": "1234 3412 2.43 43.1",
    "maze-6": "\n".join(["S     ", "##### ", "      ", " #####", "      ", "#####G"]),
    "parity": "0110101",
    "arithmetic-proofs": " 123",
    "arc-agi-1": '{"test": [{"input": [[0, 1], [2, 3]], "output": [[3, 2, 1]]}]}',
}


@pytest.mark.parametrize("name", TYPED)
def test_typed_puzzles_are_examples_of_their_task(name: str) -> None:
    task = create_task(name)
    example = task.parse(TYPED[name])
    assert len(example) == 1
    assert bool(task.correct(example.batch(), example.labels).all())
    assert example.inputs.shape[1] == task.sequence_length
    solved = task.solve(example)
    if solved is not None:
        assert (solved == example.labels).all()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("maze-6", "S"),
        ("maze-6", "\n".join(["S#    ", "##### ", "      ", " #####", "      ", "#####G"])),
        ("maze-6", "\n".join(["SS    ", "##### ", "      ", " #####", "      ", "#####G"])),
        ("parity", "01102"),
        ("arithmetic-proofs", "seven"),
        ("arithmetic-proofs", "123456789"),
        ("arc-agi-1", "{}"),
        ("arc-agi-1", '{"test": [{"input": [[0, 11]], "output": [[3]]}]}'),
        ("arc-synthetic", "anything"),
    ],
)
def test_a_puzzle_that_cannot_be_read_is_refused_in_words(name: str, text: str) -> None:
    from harness.errors import UserError

    with pytest.raises(UserError):
        create_task(name).parse(text)


def test_every_grid_task_fills_its_lines() -> None:
    for name in ("sudoku-4", "sudoku-9", "maze-6", "arc-agi-1"):
        task = create_task(name)
        assert task.columns > 0
        assert task.sequence_length % task.columns == 0
        assert task.answer_length == task.sequence_length


def test_written_proofs_are_traced_as_they_are_judged() -> None:
    task, test = small("arithmetic-proofs", form="causal", labels="random", max_target=99, ood_targets=0)
    model = model_for(task)
    found = trace(model, task, LOOP, chosen(test), 2)
    judged = evaluate(model, task, LOOP, test, segments=2, batch_size=len(test), write=True)
    assert (found.correct == judged.correct[: len(found.correct)]).all()
    assert judged.answers is not None
    length = test.facts["prompt_length"][0]
    assert (found.answers[0, 1, length - 1 :] == judged.answers[0, length - 1 :]).all()
    assert (found.answers[0, 1, : length - 1] == 0).all()


def test_the_question_of_a_text_is_its_prompt() -> None:
    task, test = small("arithmetic-proofs", form="causal", max_target=99, ood_targets=0)
    found = trace(model_for(task), task, LOOP, test[:3], 1)
    for i, row in enumerate(document(task, test[:3], found)["examples"]):
        assert row["input"] == str(test.facts["target"][i])


def test_what_is_not_finite_stays_json() -> None:
    task, test = small("sudoku-4", **SUDOKU)
    found = Trace(1, test.labels[:1, None].astype(np.int64), np.ones((1, 1), bool), np.full((1, 1), np.nan), None)
    (row,) = document(task, test[:1], found)["examples"]
    assert row["q_halt"] == [None]


def test_a_row_of_a_split_is_solved_with_its_own_noise() -> None:
    task, test = small("sudoku-4", **SUDOKU)
    model = model_for(task, "hrm-proof")
    assert model.stochastic
    whole = trace(model, task, LOOP, test[:6], 2, inside=True).states["z_H"][5]
    alone = trace(model, task, LOOP, test[5:6], 2, inside=True, first=5).states["z_H"][0]
    np.testing.assert_allclose(alone, whole, atol=1e-4)
    other = trace(model, task, LOOP, test[5:6], 2, inside=True).states["z_H"][0]
    assert np.abs(other - whole).max() > 0.1
