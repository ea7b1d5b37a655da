"""What is written from left to right knows nothing of what comes later, and generation says what the model says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_families import CAUSAL, unlike_initially
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from toys import FAMILIES, Echo, cell, random_batch, trainer

from harness.errors import UserError
from harness.evaluation.generate import generate
from models.base import MODELS, ModelShape, Remembering, create_model, resolve_config
from models.layers import Attention
from tasks.base import PAD, Batch, DataFolder

SEES_ALL = {"trm-mlp", "modernbert", "hrm-gru", "hrm-gru-puzzles", "hrm-pooled", "hrm-pooled-losses"}
WRITERS = sorted(FAMILIES.keys() - SEES_ALL)
ONE_PASS = ["llama", "transformer", "transformer-prenorm"]

every_writer = pytest.mark.parametrize("family", WRITERS)


def causal(family: str, dtype: torch.dtype = torch.float32, **changes):
    name, config = FAMILIES[family]
    generator = torch.Generator().manual_seed(0)
    model = create_model(name, {**config, **changes}, CAUSAL, generator=generator, dtype=dtype)
    return unlike_initially(model).eval()


@pytest.mark.parametrize("family", sorted(SEES_ALL))
def test_models_that_see_all_positions_refuse_a_causal_task(family):
    with pytest.raises(UserError, match="can't run a causal task"):
        causal(family)


# -- gate G-leak -----------------------------------------------------------------------------------------------------


def prompted(rows: int = 6, length: int = 6, seed: int = 0) -> Batch:
    """Random text, row r with a prompt of r + 1 tokens."""
    batch = random_batch(5, rows, length, 3, seed)
    return replace(batch, facts={"prompt_length": torch.arange(rows) % length + 1})


@torch.no_grad()
def said(model, batch: Batch, segments: int = 3) -> list[tuple]:
    """(logits, q_halt or None) of each segment."""
    state, out = model.initial_state(batch, torch.arange(len(batch.inputs))), []
    for _ in range(segments if model.recurrent else 1):
        state, prediction = model(state, batch)
        out.append((prediction.logits, prediction.q_halt))
    return out


def leaks(model) -> set[str]:
    """What moves by a bit, in any segment, when a later token changes: logits before it, q values of prompts before
    it. `deaf` where a token's change moves nothing at its own place, or the prompt's last token not the q value."""
    batch, found = prompted(), set()
    before = said(model, batch)
    for t in range(batch.inputs.shape[1]):
        inputs = batch.inputs.clone()
        inputs[:, t] = inputs[:, t] % 4 + 1
        ends_before = batch.facts["prompt_length"] <= t
        ends_here = batch.facts["prompt_length"] == t + 1
        for (logits, q), (logits_now, q_now) in zip(before, said(model, replace(batch, inputs=inputs)), strict=True):
            if not torch.equal(logits[:, :t], logits_now[:, :t]):
                found.add("logits")
            if (logits[:, t] == logits_now[:, t]).all(-1).any():
                found.add("deaf")
            if q is not None and not torch.equal(q[ends_before], q_now[ends_before]):
                found.add("q_halt")
            if q is not None and (q[ends_here] == q_now[ends_here]).any():
                found.add("deaf")
    return found


@every_writer
def test_nothing_said_before_a_token_depends_on_it(family):
    assert leaks(causal(family)) == set()


@pytest.mark.parametrize("family", ["hrm", "transformer"])
def test_the_gate_sees_one_attention_without_causal_mask(family):
    model = causal(family)
    next(m for m in model.modules() if isinstance(m, Attention)).causal = False
    assert "logits" in leaks(model)


def test_the_gate_sees_a_halting_head_that_reads_past_the_prompt():
    model = causal("hrm")
    model.halting_vector = lambda z, batch: z[:, -1]
    assert leaks(model) == {"q_halt"}


def test_the_gate_sees_a_halting_head_that_reads_the_first_position():
    """Under a causal mask that place has seen nothing of the prompt."""
    model = causal("hrm")
    model.halting_vector = lambda z, batch: z[:, 0]
    assert leaks(model) == {"deaf"}


# -- generation ------------------------------------------------------------------------------------------------------


def prompts(rows: int = 5, width: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    batch = random_batch(5, rows, width, seed=seed)
    return batch.inputs, torch.arange(rows) % width + 1


def choices(model, text: torch.Tensor, prompt_length: torch.Tensor, segments: int) -> torch.Tensor:
    """[B, S]: the likeliest token, padding aside, after each of the given ones."""
    ids = torch.zeros(len(text), dtype=torch.int32)
    last = said(model, Batch(text, text, ids, {"prompt_length": prompt_length}), segments)[-1][0]
    return last[..., 1:].argmax(-1) + 1


@every_writer
@torch.no_grad()
def test_an_answer_at_some_places_is_what_stands_there_of_the_whole_answer(family):
    model, batch = causal(family, torch.float64), prompted()
    whole = said(model, batch)
    places = torch.tensor([[0, 5], [3, 3], [5, 1], [2, 4], [4, 0], [1, 2]])
    state = model.initial_state(batch, torch.arange(6))
    for logits, _q in whole:
        _state, few = model.answer_at(state, batch, places)
        state, none = model.answer_at(state, batch, places[:, :0])
        assert torch.allclose(few, logits[torch.arange(6)[:, None], places], rtol=1e-12, atol=1e-12)
        assert none.shape == (6, 0, 5)
    assert torch.equal(said(model, batch)[0][0], whole[0][0])  # asked at all places again


@every_writer
def test_each_greedy_token_is_the_likeliest_after_the_text_so_far(family):
    model = causal(family)
    text, length = prompts()
    out = generate(model, text, length, 3, segments=2)
    whole = torch.nn.functional.pad(text, (0, 3)).int()
    for r, n in enumerate(length.tolist()):
        whole[r, n : n + 3] = out.tokens[r]
        whole[r, n + 3 :] = PAD
    expected = choices(model, whole, length, 2)
    for r, n in enumerate(length.tolist()):
        assert out.tokens[r].tolist() == expected[r, n - 1 : n + 2].tolist()
    assert (out.lengths == 3).all()


def test_one_pass_models_keep_keys_and_values_and_recurrent_ones_do_not():
    assert [family for family in WRITERS if not MODELS.get(FAMILIES[family][0]).recurrent] == ONE_PASS
    assert [family for family in WRITERS if isinstance(causal(family), Remembering)] == ONE_PASS


@pytest.mark.parametrize(
    ("family", "positions"), [("llama", "rope"), ("transformer", "rope"), ("transformer", "learned")]
)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 5), temperature=st.sampled_from([0.0, 1.0, 3.0]))
def test_with_and_without_cache_the_same_tokens(family, positions, seed, rows, temperature):
    model = causal(family, torch.float64, positions=positions)
    text, length = prompts(rows, 3, seed)
    length = length.flip(0)  # the longest first
    one, two = (
        generate(model, text, length, 3, temperature=temperature, seed=seed, cache=cache) for cache in (True, False)
    )
    assert torch.equal(one.tokens, two.tokens)


@pytest.mark.parametrize("family", ONE_PASS)
def test_the_cache_reads_no_position_twice(family):
    model = causal(family)
    text, length = prompts()
    model.segment = None  # what computes all positions anew
    assert generate(model, text, length, 2).tokens.shape == (5, 2)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@every_writer
def test_a_row_is_written_the_same_whatever_its_batch_mates(family, temperature):
    model = causal(family)
    text, length = prompts()
    keys = torch.tensor([7, 3, 11, 5, 2])
    options = {"segments": 2, "temperature": temperature, "seed": 4}
    whole = generate(model, text, length, 3, keys=keys, **options)
    order = torch.tensor([3, 0, 4])
    some = generate(model, text[order], length[order], 3, keys=keys[order], **options)
    assert torch.equal(whole.tokens[order], some.tokens)


def test_what_a_caller_leaves_behind_the_prompt_is_not_read():
    model = causal("transformer")
    text, length = prompts()
    padded = text * (torch.arange(4) < length[:, None])
    assert torch.equal(generate(model, text, length, 3).tokens, generate(model, padded, length, 3).tokens)


@pytest.mark.parametrize("family", ["transformer", "looped"])
def test_a_row_ends_at_its_stop_token_and_the_others_go_on(family):
    model = causal(family)
    text, length = prompts(5, 3)
    options = {"segments": 2, "temperature": 2.0, "seed": 1}
    free = generate(model, text, length, 3, **options).tokens
    ended = generate(model, text, length, 3, stop={2, 3}, **options)
    assert len({int(n) for n in ended.lengths}) > 1
    for row, unbounded, n in zip(ended.tokens.tolist(), free.tolist(), ended.lengths.tolist(), strict=True):
        at = next((i for i, token in enumerate(unbounded) if token in (2, 3)), 2)
        assert row == unbounded[: at + 1] + [PAD] * (2 - at) and n == at + 1


def test_sampling_follows_the_seed_and_the_probabilities():
    model = causal("transformer")
    text = torch.tensor([[1, 2, 3]]).expand(4000, 3)
    length = torch.full((4000,), 3)
    drawn = generate(model, text, length, 1, temperature=0.7, seed=5).tokens[:, 0]
    assert torch.equal(drawn, generate(model, text, length, 1, temperature=0.7, seed=5).tokens[:, 0])
    assert not torch.equal(drawn, generate(model, text, length, 1, temperature=0.7, seed=6).tokens[:, 0])
    batch = Batch(text[:1], text[:1], torch.zeros(1, dtype=torch.int32), {"prompt_length": length[:1]})
    expected = torch.softmax(said(model, batch)[0][0][0, 2, 1:].double() / 0.7, 0)
    shares = torch.bincount(drawn.long(), minlength=5)[1:] / 4000
    assert expected.max() < 0.9
    torch.testing.assert_close(shares.double(), expected, atol=0.03, rtol=0)  # 4 standard errors at a half: 0.032
    assert (drawn != PAD).all()


def test_generation_leaves_training_mode_as_it_was():
    model = causal("transformer").train()
    generate(model, *prompts(), 1)
    assert model.training


def test_what_can_not_be_generated_is_refused():
    text, length = prompts()
    grid = create_model("transformer", FAMILIES["transformer"][1], ModelShape(5, 6, 6), generator=torch.Generator())
    with pytest.raises(UserError, match="causal task"):
        generate(grid, text, length, 2)
    with pytest.raises(UserError, match="from 1 to 4"):
        generate(causal("transformer"), text, length * 0, 2)
    with pytest.raises(UserError, match="temperature"):
        generate(causal("transformer"), text, length, 2, temperature=-1.0)
    with pytest.raises(UserError, match="positions end at 7"):
        generate(causal("transformer", positions="learned"), text, length, 3)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["transformer", "hrm", "looped", "llama"])
def test_it_learns_to_repeat_the_prompt_and_writes_it(family):
    model, config = FAMILIES[family]
    task = Echo()
    size = {"hidden": 32, "heads": 2, "inner": 64}
    recipe = {"batch_size": 32, "optimizer": {"learning_rate": 3e-3}}
    loop = {"segments": 2} if MODELS.get(model).recurrent else {}
    t = trainer(cell(family, model, config={**config, **size}, updates=300, recipe=recipe, loop=loop), task)
    while not t.finished:
        t.advance()
    test = task.splits(0, DataFolder())["test"]
    length = torch.from_numpy(test.facts["prompt_length"])
    n = length.max()
    text = torch.from_numpy(test.inputs.astype("int32"))[:, :n]
    out = generate(t.model, text, length, int(n), segments=t.cell.loop.segments, stop={Echo.STOP})
    right = [
        row[: k - 1] == written[: k - 1] and written[k - 1] == Echo.STOP
        for row, written, k in zip(text.tolist(), out.tokens.tolist(), length.tolist(), strict=True)
    ]
    assert sum(right) / len(right) > 0.9


def test_a_models_cache_costs_one_position_per_token():
    """FLOPs of a further token: one position's projections and feed-forward, and attention over the columns."""
    for family in ONE_PASS:
        model = causal(family)
        config = resolve_config(*FAMILIES[family])
        batch = prompted(rows=2)
        with torch.no_grad():
            _, memory = model.read(batch, torch.tensor([[5], [5]]))
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                model.read_one(batch.inputs[:, 0], torch.tensor([7, 7]), torch.ones(2, 9, dtype=torch.bool), memory)
        D, columns = config.hidden, 6 + 1 + 1
        layer = 2 * (4 * D * D + 3 * D * config.inner_width) + 4 * columns * D
        assert counter.get_total_flops() == 2 * (config.layers * layer + 2 * D * 5)
