"""Inside one cell: a pure function of its fields, budgets kept, selection honest, every depth scored."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import ROOT
from test_running import rows
from toys import SMALL, Shifted, cell, trainer

from harness import data, store
from harness.evaluation.evaluate import evaluate, limited
from harness.files import read_json
from harness.recipe import Loop
from harness.training import runner
from harness.training.trainer import Diverged, build_model, compile_model
from models.base import ModelShape
from tasks.base import TASKS, DataFolder, create_task


@pytest.fixture
def toy_task():
    TASKS.add("shifted", Shifted)
    yield Shifted()
    TASKS._items.pop("shifted")


def prepared(tmp_path: Path, task: Shifted) -> data.DataSet:
    return data.prepare(task, 0, DataFolder(), tmp_path / "data")


def test_a_cell_is_a_pure_function_of_its_fields(tmp_path, toy_task):
    known = prepared(tmp_path, toy_task)
    for name in ("a", "b"):
        runner.run_cell(cell(), tmp_path / name, known)
    one, two = (load(tmp_path / name) for name in ("a", "b"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_seed_and_arm_decide_the_initial_weights_and_the_data_do_not_depend_on_the_arm():
    a, b, c = trainer(cell()), trainer(cell(seed=1)), trainer(cell(arm="other"))
    for other in (b, c):
        assert not torch.equal(a.model.lm_head.weight, other.model.lm_head.weight)
    assert a.feeder.key == c.feeder.key != b.feeder.key


def test_every_field_of_the_identity_changes_the_id():
    base = cell()
    for change in (
        {"seed": 1},
        {"arm": "x"},
        {"task_version": 2},
        {"data_hash": "1" * 16},
        {"precision": "bfloat16"},
        {"threads": 2},
        {"device": "cuda"},
        {"updates": 7},
        {"numerics_version": 99},
        {"recipe": {"loss": "softmax"}},
        {"recipe": {"evaluation": {"points": 3}}},
        {"engine": "compiled"},
        {"loop": {"exploration": 0.2}},
        {"config": {**base.config, "hidden": 32}},
    ):
        assert cell(**change).id != base.id, change
    assert cell(suite="other", flops_per_update=2.0).id == base.id


@pytest.mark.parametrize("loss", ["nan", "inf"])
def test_a_loss_that_is_not_finite_stops_the_run(loss, monkeypatch):
    t = trainer(cell())
    found = t.model.forward

    def spoilt(state, batch):
        state, prediction = found(state, batch)
        prediction.logits = prediction.logits * float(loss)
        return state, prediction

    monkeypatch.setattr(t.model, "forward", spoilt)
    with pytest.raises(Diverged, match="not finite between updates 1 and 1"):
        t.advance()


@pytest.mark.parametrize("model", ["hrm", "transformer"])
def test_looking_at_the_device_seldom_changes_no_number(monkeypatch, model):
    """On CUDA the host looks every 50 updates; the same run on CPU with either rhythm gives the same weights."""
    from harness.training import trainer as training

    weights = []
    for every in (1, 50):
        monkeypatch.setitem(training.SYNC_UPDATES, "cpu", every)
        t = trainer(cell(model, model, updates=23))
        while not t.finished:
            t.advance()
        assert t.updates == 23
        weights.append(t.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(("recipe", "updates"), [({"budget": {"examples": 100}}, 13), ({"max_updates": 2}, 2)])
def test_no_budget_is_overrun_where_the_host_looks_seldom(monkeypatch, recipe, updates):
    from harness.training import trainer as training

    monkeypatch.setitem(training.SYNC_UPDATES, "cpu", 50)
    recipe = {"budget": {"examples": 10_000}, **recipe}
    t = trainer(cell("transformer", "transformer", updates=None, recipe=recipe))
    while not t.finished:
        t.advance()
    assert t.updates == updates


@pytest.mark.parametrize("model", ["hrm", "transformer"])
def test_bfloat16_trains_and_evaluates_close_to_float32(model):
    losses = {}
    for precision in ("float32", "bfloat16"):
        t = trainer(cell(model, model, precision=precision, updates=20))
        while not t.finished:
            t.advance()
        losses[precision] = t.window().loss
        part = Shifted().splits(0, DataFolder())["test"]
        evaluate(t.model, t.task, t.cell.loop, part, segments=3, batch_size=8)
        assert all(p.dtype == torch.float32 for p in t.model.parameters())
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]


def test_checkpoints_take_a_bounded_share_of_the_time_and_the_last_one_goes_on(tmp_path, toy_task, monkeypatch):
    """With checkpoints due at once, each waits fifty times its own duration; a run that dies goes on from the last."""
    saves: list[int] = []
    often, said = runner.Options(checkpoint_seconds=0.0), []

    def slow_save(t, progress, folder, say):
        saves.append(t.updates)
        time.sleep(0.002)
        save(t, progress, folder, say)

    save = runner._save
    monkeypatch.setattr(runner, "_save", slow_save)
    known, chosen = prepared(tmp_path, toy_task), cell(updates=60)

    def die(progress: float, text: str) -> bool:
        if progress > 0.9:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        runner.run_cell(chosen, tmp_path / "died", known, die, often)
    assert 1 <= len(saves) < 30
    last = saves[-1]
    runner.run_cell(chosen, tmp_path / "died", known, say=said.append)
    assert said == [f"resumed at update {last}"]
    runner.run_cell(chosen, tmp_path / "whole", known)
    one, two = load(tmp_path / "died"), load(tmp_path / "whole")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_every_cell_of_a_process_is_compiled_and_learns_as_the_eager_one_does():
    """torch gives up compiling silently after eight variants of a function; a worker runs many cells."""
    import shutil

    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("torch.compile needs a C compiler on CPU")
    for seed in range(4):
        losses = []
        for engine in ("eager", "compiled"):
            t = trainer(cell(seed=seed, engine=engine, updates=4))
            while not t.finished:
                t.advance()
            losses.append(t.window().loss)
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_a_compiled_arm_writes_what_the_eager_one_writes():
    """Batches shrink as rows are done: compiled anew for each size, the run would end at the limit of variants."""
    import shutil

    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("torch.compile needs a C compiler on CPU")
    task = create_task("arithmetic-proofs", {"form": "causal", "labels": "random", "max_target": 99, "ood_targets": 0})
    splits = task.splits(0, DataFolder())
    written = []
    for engine in ("eager", "compiled"):
        chosen = cell("looped", "looped", config={**SMALL, "layers": 2, "loops": 2}, engine=engine)
        model = build_model(chosen, ModelShape.of(task))
        if engine == "compiled":
            compile_model(model)
        found = evaluate(model, task, chosen.loop, splits["test"], segments=3, batch_size=7, write=True)
        written.append(found.answers)
    assert (written[0] == written[1]).all()


def test_a_rollout_must_divide_the_segments():
    with pytest.raises(ValueError, match="multiple of rollout"):
        Loop(segments=4, rollout=3)


def test_a_raised_task_version_or_other_code_renews_floor_and_notes(tmp_path, monkeypatch):
    assert data.prepare(Shifted(), 0, DataFolder(), tmp_path).floor < 0.1
    monkeypatch.setattr(Shifted, "floor", lambda self, splits: 0.5)
    assert data.prepare(Shifted(), 0, DataFolder(), tmp_path).floor < 0.1, "generated data are kept"
    monkeypatch.setattr(Shifted, "version", 2)
    assert data.prepare(Shifted(), 0, DataFolder(), tmp_path).floor == 0.5


def test_a_cap_on_updates_keeps_the_match_of_training_flops():
    import tasks.base
    from harness import suite as suites
    from harness.plan import make_plan

    document, label = suites.read_suite("tiny")
    suite = suites.load_suite(suites.with_recipe(document, {"max_updates": 30}), label)
    from harness.plan import Selection

    arms = (
        make_plan(suite, tasks.base.DataFolder(), ROOT / "results/none", Selection(["parity"], seeds=1))
        .tasks["parity"]
        .arms
    )
    hrm, matched = arms["hrm"], arms["transformer-flops"]
    assert hrm.updates == 30
    assert matched.updates * matched.cost.flops_per_update == pytest.approx(30 * hrm.cost.flops_per_update, rel=0.01)


def test_a_cap_above_the_budget_and_a_resolved_precision_do_not_change_the_id():
    assert cell(recipe={"max_updates": 10**6}).id == cell().id
    assert cell(recipe={"precision": "float32"}).id == cell().id
    assert cell(updates=None, recipe={"max_updates": 10**6}).id != cell(updates=None).id


def test_the_validation_point_kept_is_the_best_one_and_test_is_scored_with_its_weights(tmp_path, toy_task):
    chosen = cell(
        updates=200, recipe={"evaluation": {"points": 5, "segments": [1, 2]}, "optimizer": {"learning_rate": 3e-3}}
    )
    runner.run_cell(chosen, tmp_path / "run", prepared(tmp_path, toy_task))
    record = read_json(tmp_path / "run/record.json")
    curves = rows(tmp_path / "run/curves.csv")
    best = max(float(row["validation_exact"]) for row in curves)
    assert record["validation_exact"] == pytest.approx(best)
    assert [row["selected"] for row in curves].count("1") == 1
    model = trainer(chosen).model
    model.load_state_dict(load(tmp_path / "run"))
    test = toy_task.splits(0, DataFolder())["test"]
    result = evaluate(model, toy_task, chosen.loop, test, segments=4, batch_size=16)
    assert result.fixed().mean() == pytest.approx(record["test_exact"])


@pytest.mark.parametrize("model", ["hrm", "transformer"])
def test_each_arm_learns_the_toy_task(tmp_path, toy_task, model):
    """A loop that trains: 300 updates take both arms from the floor to nearly every example."""
    chosen = cell(model, model, updates=300, recipe={"batch_size": 32, "optimizer": {"learning_rate": 3e-3}})
    runner.run_cell(chosen, tmp_path / "run", prepared(tmp_path, toy_task))
    record = read_json(tmp_path / "run/record.json")
    assert record["floor"] < 0.1 and record["test_exact"] > 0.9


def test_a_rollout_of_two_detached_segments_gives_the_mean_gradient_of_both():
    one, two = trainer(cell(loop={"exploration": 0.0})), trainer(cell(loop={"rollout": 2, "exploration": 0.0}))
    gradients = {}
    for name, t in (("one", one), ("two", two)):
        t.optimizers.step = lambda *_: None
        carry_in = t._refilled()
        t.carry = None
        t.feeder.resume(torch.zeros((), dtype=torch.int64), t.feeder.uses)
        t._update()
        if name == "one":  # the second segment by hand, from the first one's state
            t.carry.halted[:] = False
            t._update()
        gradients[name] = t.model.lm_head.weight.grad.clone()
        assert carry_in.steps.sum() == 0
    torch.testing.assert_close(gradients["one"] / 2, gradients["two"])


def test_one_step_gradient_stops_inside_a_segment_even_where_the_rollout_does_not_detach():
    gradients = []
    for detach in (True, False):
        t = trainer(cell(loop={"rollout": 2, "detach": detach, "exploration": 0.0}))
        t.optimizers.step = lambda *_: None
        t._update()
        gradients.append(t.model.L_level.layers[0].mlp.down_proj.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_evaluation_at_every_depth_is_one_pass_with_the_answers_of_separate_passes():
    t = trainer(cell())
    part = Shifted().splits(0, DataFolder())["test"]
    whole = evaluate(t.model, t.task, t.cell.loop, part, segments=6, batch_size=32)
    for depth in (1, 3, 6):
        alone = evaluate(t.model, t.task, t.cell.loop, part, segments=depth, batch_size=32)
        assert np.array_equal(alone.correct[:, -1], whole.correct[:, depth - 1])
    odd = evaluate(t.model, t.task, t.cell.loop, part, segments=6, batch_size=7)
    assert np.array_equal(odd.correct, whole.correct)


def test_halting_step_is_the_first_wish_or_the_trained_depth():
    from harness.evaluation.evaluate import Evaluation

    halt = np.array([[0, 1, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]], bool)
    right = np.array([[1, 0, 1, 1], [0, 0, 1, 0], [0, 1, 1, 1]], bool)
    result = Evaluation(trained=3, correct=right, token=right.astype(np.float32), q_halt=halt * 1.0, halt=halt)
    assert result.halting_step().tolist() == [2, 3, 1]
    assert result.model().tolist() == [False, True, False]
    assert result.fixed().tolist() == [True, True, True]
    assert result.oracle().tolist() == [True, True, True]
    assert result.halting_step(4).tolist() == [2, 4, 1]
    assert result.oracle(1).tolist() == [True, False, False]


def test_a_limit_on_examples_is_the_same_for_every_arm_and_spread_over_the_split():
    part = Shifted().splits(0, DataFolder())["train"]
    few = limited(part, 10)
    assert len(few) == 10 and few.ids.tolist() == limited(part, 10).ids.tolist()
    assert few.ids[0] == part.ids[0] and few.ids[-1] == part.ids[-1]
    assert limited(part, None) is part and limited(part, 10**6) is part


@pytest.mark.parametrize("budget", [{"examples": 100}, {"seconds": 0.3}, {"train_flops": 7.0}])
def test_every_kind_of_budget_ends_a_run(tmp_path, toy_task, budget):
    updates = 7 if "train_flops" in budget else None
    chosen = cell(updates=updates, recipe={"budget": budget, "evaluation": {"points": 2, "segments": [1]}})
    runner.run_cell(chosen, tmp_path / "run", prepared(tmp_path, toy_task))
    record = read_json(tmp_path / "run/record.json")
    if "examples" in budget:
        assert 100 <= record["examples_seen"] < 100 + 8
    elif "seconds" in budget:
        assert record["seconds_train"] >= 0.3
    else:
        assert record["updates"] == 7


def load(folder: Path) -> dict[str, torch.Tensor]:
    from harness.training.checkpoint import load_weights

    return load_weights(folder)


def test_stored_data_come_back_byte_for_byte(tmp_path):
    task = Shifted()
    known = prepared(tmp_path, task)
    assert store.splits_digest(known.load()) == known.digest == store.splits_digest(task.splits(0, DataFolder()))
