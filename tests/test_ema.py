"""The average of the weights follows its formula, touches nothing in training, is what is scored, and resumes."""

from __future__ import annotations

import io

import pytest
import torch
from toys import FAMILIES, Shifted, cell, trainer

from harness import data
from harness.errors import UserError
from harness.evaluation.evaluate import evaluate
from harness.files import read_json
from harness.suite import load_suite
from harness.training import runner
from harness.training.checkpoint import load_weights
from tasks.base import TASKS, DataFolder

FAST = {"optimizer": {"learning_rate": 3e-3}}


def averaging(decay=0.8, **changes):
    return cell(recipe={"ema": decay, **FAST, **changes.pop("recipe", {})}, **changes)


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def test_the_average_follows_the_formula():
    t = trainer(averaging())
    expected = {name: p.detach().double() for name, p in t.model.named_parameters()}
    for _ in range(6):
        t.advance()
        for name, p in t.model.named_parameters():
            expected[name] = 0.8 * expected[name] + 0.2 * p.detach().double()
    for name, p in t.evaluated.named_parameters():
        if name != "puzzle_emb.weights":
            torch.testing.assert_close(p.double(), expected[name], rtol=0, atol=1e-6)
            assert not torch.equal(p, t.model.get_parameter(name)), name


def test_the_puzzle_table_and_the_initial_states_are_not_averaged():
    t = trainer(averaging())
    for _ in range(3):
        t.advance()
    assert t.model.puzzle_emb.weights.any()
    assert t.evaluated.puzzle_emb.weights is t.model.puzzle_emb.weights
    assert "puzzle_emb.weights" not in t.average.state_dict()
    assert torch.equal(t.evaluated.H_init, t.model.H_init)


def test_off_by_default_and_training_is_the_same_bits_with_and_without():
    plain, averaged = trainer(cell(recipe=FAST)), trainer(averaging())
    assert plain.average is None and plain.evaluated is plain.model
    for _ in range(6):
        plain.advance()
        averaged.advance()
    ours, theirs = weights(averaged.model), weights(plain.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert cell(recipe=FAST).id != averaging().id != averaging(0.9).id


@pytest.mark.parametrize("family", ["hrm", "trm-mlp", "looped"])
def test_a_resumed_run_has_the_same_average_to_the_bit(family):
    model, config = FAMILIES[family]
    whole, stopped = (trainer(averaging(model=model, config=config, updates=10)) for _ in range(2))
    for _ in range(10):
        whole.advance()
    for _ in range(4):
        stopped.advance()
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = trainer(averaging(model=model, config=config, updates=10))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(6):
        resumed.advance()
    ours, theirs = weights(resumed.evaluated), weights(whole.evaluated)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_scores_and_saves_the_average(tmp_path):
    TASKS.add("shifted", Shifted)
    try:
        chosen = averaging(0.98, updates=150, recipe={"evaluation": {"points": 1, "segments": [1, 2]}})
        known = data.prepare(Shifted(), 0, DataFolder(), tmp_path / "data")
        runner.run_cell(chosen, tmp_path / "run", known)
    finally:
        TASKS._items.pop("shifted")
    t = trainer(chosen)
    while not t.finished:
        t.advance()
    saved = load_weights(tmp_path / "run")
    ours = weights(t.evaluated)
    assert all(torch.equal(saved[name], ours[name]) for name in ours)
    assert not torch.equal(saved["lm_head.weight"], t.model.lm_head.weight)
    test = Shifted().splits(0, DataFolder())["test"]
    scores = [
        evaluate(model, t.task, chosen.loop, test, segments=4, batch_size=32).token_fixed().mean()
        for model in (t.evaluated, t.model)
    ]
    assert read_json(tmp_path / "run/record.json")["test_token"] == pytest.approx(scores[0])
    assert scores[0] != scores[1], "the test must be able to tell the two apart"


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 2])
def test_a_decay_outside_zero_to_one_is_refused(decay):
    document = {"name": "x", "recipe": {"ema": decay}, "arms": {"a": {"model": "hrm"}}, "tasks": {"parity": {}}}
    with pytest.raises(UserError, match=r"recipe\.ema"):
        load_suite(document, "x")
