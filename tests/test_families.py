"""Gates that every registered model passes: nothing is counted but untrained, no row sees another, places differ, and
what is saved comes back to the bit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from toys import FAMILIES, cell, random_batch, toy_task, trainer

from harness.errors import UserError
from harness.evaluation.evaluate import evaluate
from harness.training.checkpoint import load_weights, save_weights
from harness.training.trainer import Trainer
from models.base import MODELS, ModelShape, create_model
from models.hrm_gru import GRUCell
from tasks.base import DataFolder

SHAPE = ModelShape(5, 6, 6, num_puzzles=3)
CAUSAL = replace(SHAPE, causal=True)

CAUSAL = ModelShape(5, 6, 6, num_puzzles=3, causal=True)

every_family = pytest.mark.parametrize("family", FAMILIES)

NEVER_TRAINED = {
    # family or "*": {parameter: (rows, why)}
    "*": {"embed_tokens.embedding_weight": ([0], "the toy task has no padding")},
    "trm-att": {
        "q_head.weight": ([1], "with halting on q_halt > 0 nothing asks for q_continue"),
        "q_head.bias": ([1], "the same"),
    },
    "modernbert": {"net.model.embeddings.tok_embeddings.weight": ([0], "the toy task has no padding")},
    "llama": {
        "net.model.embed_tokens.weight": ([0, 6], "padding stands behind all that is scored; a stop is never read"),
    },
}
NEVER_TRAINED["trm-mlp"] = NEVER_TRAINED["trm-att"]


def shape_of(model: str) -> ModelShape:
    return CAUSAL if model == "llama" else SHAPE


def small(family: str, **changes):
    model, config = FAMILIES[family]
    return create_model(model, {**config, **changes}, shape_of(model), generator=torch.Generator().manual_seed(0))


def unlike_initially(model):
    """Random numbers where models start with zeros, so that a test sees puzzle vectors and halting head at work."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.startswith(("q_head", "puzzle_emb")):
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


@torch.no_grad()
def run(model, batch, segments=3):
    """All that a few segments give: logits [B, A, V] of the last one first, then everything else, row first."""
    state, out = model.initial_state(batch), []
    for _ in range(segments if model.recurrent else 1):
        state, prediction = model(state, batch)
        parts = (prediction.logits, prediction.q_halt, prediction.q_continue, *state.values())
        out = [part for part in parts if part is not None] + out
    return out


def test_every_registered_model_stands_here():
    assert {model for model, _ in FAMILIES.values()} == set(MODELS.names())


@every_family
def test_every_counted_number_gets_gradient_and_changes(family):
    model, config = FAMILIES[family]
    recipe = {"optimizer": {"learning_rate": 1e-3, "weight_decay": 0.0}, "puzzle_optimizer": {"weight_decay": 0.0}}
    t = trainer(cell(family, model, config=config, updates=12, recipe=recipe))
    start = {name: p.detach().clone() for name, p in t.model.named_parameters()}
    reached = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in t.model.named_parameters()}
    step = t.optimizers.step

    def noting_step(update, progress):
        for name, p in t.model.named_parameters():
            if p.grad is not None:
                reached[name] |= p.grad.to_dense() != 0
        step(update, progress)

    t.optimizers.step = noting_step
    moved = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in t.model.named_parameters()}
    for _ in range(12):
        t.advance()
        for name, p in t.model.named_parameters():
            moved[name] |= p != start[name]  # at any time: one of 100,000 may come back to the bit by chance
    exceptions = {**NEVER_TRAINED["*"], **NEVER_TRAINED.get(family, {})}
    for name, p in start.items():
        expected = torch.ones_like(p, dtype=torch.bool)
        if name in exceptions:
            expected[exceptions[name][0]] = False
        assert torch.equal(reached[name], expected), f"{name}: gradient at {int(reached[name].sum())} of {p.numel()}"
        assert torch.equal(moved[name], expected), f"{name}: some numbers did not change, or should not have"


@every_family
def test_a_row_is_the_same_bits_whatever_its_batch_mates(family):
    model = unlike_initially(small(family))
    a, b = random_batch(5, 6, 6, 3, seed=1), random_batch(5, 6, 6, 3, seed=2)
    b.inputs[2], b.puzzle_ids[2] = a.inputs[2], a.puzzle_ids[2]
    ours, theirs = run(model, a), run(model, b)
    for one, two in zip(ours, theirs, strict=True):
        assert torch.equal(one[2], two[2])
    assert not torch.equal(ours[0][1], theirs[0][1])


def places_matter(model) -> bool:
    """Whether reversing the input does more than reverse the answer."""
    batch = random_batch(5, 4, 6, 3)
    turned = random_batch(5, 4, 6, 3)
    turned.inputs.copy_(batch.inputs.flip(1))
    logits = run(model, batch)[0]
    return bool((run(model, turned)[0].flip(1) - logits).abs().amax() > 1e-3 * logits.abs().amax())


@every_family
def test_permuting_the_input_changes_what_is_said_of_each_position(family):
    assert places_matter(small(family))


def test_the_gate_on_positions_sees_a_model_without_any():
    model = small("hrm")
    model.rotary = None
    assert not places_matter(model)


@every_family
def test_saved_and_loaded_it_gives_the_same_outputs_bit_for_bit(family, tmp_path):
    model = unlike_initially(small(family))
    save_weights(tmp_path, model.state_dict())
    config = json.loads(json.dumps(model.config.model_dump(mode="json")))
    name = FAMILIES[family][0]
    again = create_model(name, config, shape_of(name), generator=torch.Generator().manual_seed(9))
    batch = random_batch(5, 4, 6, 3)
    assert not torch.equal(run(again, batch)[0], run(model, batch)[0])
    again.load_state_dict(load_weights(tmp_path), strict=True)
    for one, two in zip(run(model, batch), run(again, batch), strict=True):
        assert torch.equal(one, two)


@every_family
def test_parameters_and_layers_counted_are_those_that_are_there(family):
    model = small(family)
    groups = model.parameter_groups()
    assert sum(groups.values()) - groups["never_trained"] == sum(p.numel() for p in model.parameters())
    layers = [m for name, m in model.named_modules() if name.split(".")[-2:-1] == ["layers"] or isinstance(m, GRUCell)]
    calls = []
    for layer in layers:
        layer.register_forward_hook(lambda module, args, out: calls.append(1))
    run(model, random_batch(5, 2, 6, 3), segments=1)
    assert len(calls) == model.layers_per_segment


@every_family
def test_under_a_causal_mask_gradients_keep_an_ordinary_size(family):
    """A first slot of zeros sees only itself: eight layers with a norm twice each gave gradients of 10³⁴ there."""
    model, config = FAMILIES[family]
    config = {**config, **({"layers": 8} if "layers" in config else {})}
    try:
        model = create_model(model, config, CAUSAL, generator=torch.Generator().manual_seed(0))
    except UserError as refused:
        pytest.skip(str(refused))
    batch = random_batch(5, 4, 6, 3)
    batch.facts["prompt_length"] = torch.full((4,), 3)
    state = model.initial_state(batch)
    for _ in range(3 if model.recurrent else 1):
        state, prediction = model(state, batch)
    prediction.logits.square().mean().backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            assert p.grad.to_dense().abs().max() < 1e4, name


def test_an_empty_first_slot_under_a_causal_mask_is_refused():
    with pytest.raises(UserError, match="set slots: 0"):
        create_model("transformer", {"hidden": 16, "heads": 2, "puzzle_embedding": False}, CAUSAL)


@pytest.mark.slow
@every_family
def test_it_learns_32_examples_by_heart(family):
    model, config = FAMILIES[family]
    updates = 900 if family == "hrm-segment-heads" else 400
    recipe = {"batch_size": 32, "augmentation": False, "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.0}}
    task = toy_task(model)
    known = task.splits(0, DataFolder())["train"][:32]
    t = Trainer(
        cell(family, model, config=config, updates=updates, recipe=recipe), task, {"train": known}, torch.device("cpu")
    )
    while not t.finished:
        t.advance()
    result = evaluate(t.model, t.task, t.cell.loop, known, segments=t.cell.loop.segments, batch_size=32)
    assert result.fixed().mean() > 0.96


@pytest.mark.slow
@every_family
def test_it_learns_the_toy_task(family):
    model, config = FAMILIES[family]
    updates = 900 if family == "hrm-segment-heads" else 300  # the last head sees only what is left after two segments
    recipe = {"batch_size": 32, "optimizer": {"learning_rate": 3e-3}}
    t = trainer(cell(family, model, config=config, updates=updates, recipe=recipe))
    while not t.finished:
        t.advance()
    test = t.task.splits(0, DataFolder())["test"]
    result = evaluate(t.model, t.task, t.cell.loop, test, segments=t.cell.loop.segments, batch_size=32)
    assert result.fixed().mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("family", ["hrm", "trm-att", "looped", "transformer"])
def test_a_segment_is_compiled_in_one_piece(family):
    """In pieces, an arm would be slower than its opponents for no reason of its own."""
    model = small(family)
    batch = random_batch(5, 2, 6, 3)
    state = model.initial_state(batch)
    torch._dynamo.reset()
    found = torch._dynamo.explain(model.segment)(state, batch, model.puzzle_vectors(batch))
    assert found.graph_count == 1, found.break_reasons
