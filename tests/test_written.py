"""What is judged is what the model wrote by itself, whatever the labels say, and writing in rounds changes no token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_causal import causal, prompts
from test_families import unlike_initially
from toys import FAMILIES, Echo, cell

from harness.evaluation.evaluate import evaluate
from harness.evaluation.generate import generate
from harness.random import CounterRandom
from harness.recipe import Loop
from harness.seeds import key
from models.base import ModelConfig, ModelShape, Prediction, ReasoningModel, create_model
from tasks.base import PAD, Batch, DataFolder, Task, create_task
from tasks.proof_text import END, tokenise, write


def token_by_token(
    model: ReasoningModel,
    text: torch.Tensor,
    length: torch.Tensor,
    new: int,
    *,
    segments: int,
    temperature: float,
    seed: int,
) -> torch.Tensor:
    """The definition, a row and a token at a time."""
    drawn = CounterRandom(key("generation", seed), torch.arange(len(text))).uniform(new)
    out = torch.zeros(len(text), new, dtype=torch.int32)
    for r, n in enumerate(length.tolist()):
        row = text[r : r + 1, :n].int()
        for step in range(new):
            ids = torch.zeros(1, dtype=torch.int32)
            batch = Batch(row, row, ids, {"prompt_length": torch.tensor([n])})
            state = model.initial_state(batch, torch.tensor([r]))
            for _ in range(segments if model.recurrent else 1):
                state, prediction = model(state, batch)
            logits = prediction.logits[0, -1].double()
            logits[PAD] = -torch.inf
            if temperature == 0:
                token = int(logits.argmax())
            else:
                below = torch.softmax(logits / temperature, 0).cumsum(0)
                token = min(int((below <= drawn[r, step] * below[-1]).sum()), len(logits) - 1)
            out[r, step] = token
            row = torch.cat((row, torch.tensor([[token]], dtype=torch.int32)), 1)
    return out


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("family", ["hrm", "looped", "hrm-planner", "transformer"])
def test_writing_in_rounds_gives_what_writing_token_by_token_gives(family: str, temperature: float) -> None:
    model = causal(family, torch.float64)
    text, length = prompts()
    options: dict[str, Any] = {"segments": 2, "temperature": temperature, "seed": 3}
    found = generate(model, text, length, 5, cache=False, **options).tokens
    assert torch.equal(found, token_by_token(model, text, length, 5, **options))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), family=st.sampled_from(["hrm", "looped"]), longest=st.integers(4, 8))
def test_the_first_guess_changes_no_token(seed: int, family: str, longest: int) -> None:
    model = causal(family, torch.float64)
    text, length = prompts(seed=seed)
    guess = torch.from_numpy(np.random.default_rng(seed).integers(0, 5, (5, 4)).astype(np.int32))
    options: dict[str, Any] = {"segments": 2, "longest": longest, "stop": {4}}
    one = generate(model, text, length, 4, **options).tokens
    assert torch.equal(one, generate(model, text, length, 4, guess=guess, **options).tokens)
    assert ((one != PAD).sum(1) <= (longest - length).clamp(min=0)).all()


def passes_of(model: ReasoningModel, text: torch.Tensor, n: int, key: int, new: int) -> int:
    """The definition, for a row: passes over prompt and guess until one repeats its guess, or as many as tokens."""
    guess = torch.zeros(new, dtype=torch.int32)
    for count in range(1, new + 1):
        row = torch.cat((text[:n].int(), guess[:-1]))[None]
        batch = Batch(row, row, torch.zeros(1, dtype=torch.int32), {"prompt_length": torch.tensor([n])})
        _, prediction = model(model.initial_state(batch, torch.tensor([key])), batch)
        logits = prediction.logits[0, n - 1 :].clone()
        logits[:, PAD] = -torch.inf
        if torch.equal(choice := logits.argmax(1).int(), guess):
            return count
        guess = choice
    return new


@torch.no_grad()
@pytest.mark.parametrize("says", ["one token always", "whatever it likes"])
def test_there_are_as_many_rounds_as_the_slowest_row_needs(says: str) -> None:
    """Two for a model that says one token always, however many are written; never more than tokens."""
    model = causal("looped", torch.float64)
    if says == "one token always":
        model.lm_head.weight.zero_()
    text, length = prompts()
    for new in (1, 7, 40):
        needed = [passes_of(model, row, int(n), r, new) for r, (row, n) in enumerate(zip(text, length, strict=True))]
        calls, segment = 0, model.segment

        def counted(*given: Any, segment: Any = segment) -> Any:
            nonlocal calls
            calls += 1
            return segment(*given)

        model.segment = counted
        generate(model, text, length, new, segments=1)
        model.segment = segment
        assert calls == max(needed), (new, needed)
        if says == "one token always":
            assert calls == min(2, new)


# -- evaluation ------------------------------------------------------------------------------------------------------

LOOP = Loop(segments=3, halting="q_learning")


def scored(model: ReasoningModel, task: Task, part: Any, **options: Any) -> Any:
    return evaluate(model, task, LOOP, part, segments=3, batch_size=16, **{"write": True, **options})


class EchoWritten(Echo):
    """Echo, its answers written."""

    @property
    def generated(self) -> bool:
        return True

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        return (self.STOP,)


EchoWritten.name = "echo-written"


@pytest.mark.parametrize("family", ["hrm", "transformer", "llama"])
def test_no_label_reaches_a_written_answer(family: str) -> None:
    """With all of the labels' text gone from the inputs, the same answers come out."""
    task = EchoWritten(least=2, most=4)
    part = task.splits(0, DataFolder())["test"][:40]
    name, config = FAMILIES[family]
    model = create_model(name, config, ModelShape.of(task), generator=torch.Generator().manual_seed(1))
    model = unlike_initially(model).eval()
    behind = np.arange(part.inputs.shape[1]) >= part.facts["prompt_length"][:, None]
    blank = replace(part, inputs=np.where(behind, 3, part.inputs).astype(np.uint8))
    one, two = scored(model, task, part), scored(model, task, blank)
    assert one.answers is not None and two.answers is not None
    assert np.array_equal(one.answers, two.answers) and np.array_equal(one.correct, two.correct)
    if one.halt is not None:
        assert np.array_equal(one.halt, two.halt), "a halting decision comes from the prompt alone"
    assert not np.array_equal(one.token, two.token), "token accuracy is given the text, and says so"


def test_each_depth_is_judged_by_what_that_many_segments_write() -> None:
    task = EchoWritten(least=2, most=3)
    part = task.splits(0, DataFolder())["test"][:12]
    model = create_model("hrm", FAMILIES["hrm"][1], ModelShape.of(task), generator=torch.Generator().manual_seed(1))
    model = unlike_initially(model).eval()
    seen: dict[int, torch.Tensor] = {}
    original = EchoWritten.correct

    def noted(self: Any, batch: Any, prediction: Any) -> Any:
        seen[len(seen) + 1] = prediction.clone()
        return original(self, batch, prediction)

    EchoWritten.correct = noted  # type: ignore[method-assign]
    try:
        result = scored(model, task, part)
    finally:
        del EchoWritten.correct
    text, length = torch.from_numpy(part.inputs.astype(np.int32)), torch.from_numpy(part.facts["prompt_length"])
    S = text.shape[1]
    for depth in (1, 2, 3):
        own = generate(
            model, text[:, : int(length.max())], length, S + 1 - int(length.min()), segments=depth, stop={task.STOP}
        ).tokens
        for r, n in enumerate(length.tolist()):
            assert seen[depth][r, n - 1 :].tolist() == own[r, : S + 1 - n].tolist()
    assert result.correct.shape == (12, 3)


class OtherProof(ReasoningModel):
    """Writes the proof with a = 2 for every two-digit target, whatever stands as the label."""

    recurrent = False

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.nothing = torch.nn.Parameter(torch.zeros(()))

    def initial_state(self, batch: Batch, keys: Any = None) -> dict[str, torch.Tensor]:
        return self.start(batch, keys)

    def forward(self, state: Any, batch: Batch) -> Any:
        B, S = batch.inputs.shape
        logits = torch.zeros(B, S, self.shape.vocabulary)
        for r, row in enumerate(batch.inputs.tolist()):
            target = 10 * (row[0] - 1) + row[1] - 1
            proof = [*row[:2], *tokenise(write(target, 2, 1))]
            for t in range(S):
                logits[r, t, proof[t + 1] if t + 1 < len(proof) else END] = 1.0
        return self.following(state), Prediction(logits)


def test_a_valid_proof_that_is_not_the_label_counts_once_the_model_writes_it() -> None:
    task = create_task("arithmetic-proofs", {"form": "causal", "min_target": 20, "max_target": 99, "ood_targets": 0})
    part = task.splits(0, DataFolder())["test"]
    model = OtherProof(ModelConfig(), ModelShape.of(task), torch.float32)
    asked_at_once, written = scored(model, task, part, write=False), scored(model, task, part)
    assert written.fixed().all()
    assert not asked_at_once.fixed().any() and asked_at_once.answers is None
    assert written.metrics["label"].max() == 0 and asked_at_once.metrics["shortcut"].max() <= 1
    assert np.array_equal(asked_at_once.token, written.token)


def test_a_cell_says_whether_its_answers_were_written_and_others_keep_their_ids() -> None:
    plain = cell()
    assert plain.id == cell(written=False).id != cell(written=True).id
