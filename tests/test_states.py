"""Figures of states and latency: right by definition, for every family, and never worth a run."""

from __future__ import annotations

import pytest
import torch
from toys import FAMILIES, Shifted

from harness.data import splits_of
from harness.evaluation.latency import seconds_per_answer
from harness.evaluation.states import StateRecorder, latent, participation, residual
from harness.evaluation.trace import trace
from harness.recipe import ONE_PASS, Loop
from models.base import ModelShape, create_model
from tasks.base import DataFolder


def test_participation_ratio_is_that_of_the_covariance_s_eigenvalues():
    z = torch.randn(4, 10, 6, generator=torch.Generator().manual_seed(1)) * torch.tensor([5.0, 3, 1, 1, 0.1, 0])
    eigen = torch.linalg.eigvalsh(torch.cov(z.reshape(-1, 6).T.double()))
    assert participation(z).item() == pytest.approx((eigen.sum() ** 2 / eigen.square().sum()).item(), rel=1e-4)


def test_participation_ratio_counts_the_dimensions_that_are_filled():
    one = torch.linspace(-1, 1, 50)[:, None, None] * torch.tensor([1.0, 2.0, 0.0])
    assert participation(one).item() == pytest.approx(1, abs=1e-4)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)[:, None]
    assert participation(corners).item() == pytest.approx(3, abs=1e-4)


def test_the_residual_is_relative_and_zero_at_rest():
    z = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(2))
    assert residual(z, z).item() == 0
    assert residual(2 * z, z).item() == pytest.approx(0.5)
    assert residual(z, torch.zeros_like(z)).item() == pytest.approx(1)


def test_what_counts_segments_or_holds_keys_is_no_state():
    state = {"z_H": torch.ones(2, 3, 4), "segment": torch.zeros(2, dtype=torch.int32), "key": torch.zeros(2).long()}
    assert list(latent(state)) == ["z_H"]
    assert latent({"z": torch.ones(2, 4)})["z"].shape == (2, 1, 4), "a vector for all positions is one position"


def test_rows_are_by_state_and_segment_and_mark_what_is_beyond_training():
    recorder = StateRecorder(trained=2)
    for segment in range(4):
        recorder.see({"z_L": torch.randn(2, 3, 4), "z_H": torch.randn(2, 3, 4)}, segment)
    rows = recorder.rows()
    assert [(r["state"], r["segments"]) for r in rows] == [(s, k) for s in ("z_H", "z_L") for k in (1, 2, 3)]
    assert [r["beyond_training"] for r in rows] == [False, False, True] * 2
    assert {(r["vectors"], r["width"], r["examples"]) for r in rows} == {(6, 4, 2)}


def test_a_fault_ends_the_recording_and_nothing_else():
    recorder = StateRecorder(trained=2)
    recorder.see({"z": torch.ones(2, 3, 4)}, 0)
    recorder.see({"z": torch.ones(2, 3, 5)}, 1)  # another shape: the difference can't be taken
    assert recorder.problem.startswith("no figures of states: RuntimeError") and recorder.rows() == []


@pytest.mark.parametrize("name", ["hrm", "looped", "hrm-gru", "hrm-pooled", "transformer"])
def test_families_give_finite_figures_and_the_same_answers_with_and_without(name):
    family, config = FAMILIES[name]
    task = Shifted()
    examples = splits_of(task, 0, DataFolder())[1]["test"][:6]
    model = create_model(family, config, ModelShape.of(task), generator=torch.Generator().manual_seed(1))
    loop = Loop(segments=2) if model.recurrent else ONE_PASS
    recorder = StateRecorder(loop.segments)
    plain, seen = trace(model, task, loop, examples, 4), trace(model, task, loop, examples, 4, states=recorder)
    assert (plain.answers == seen.answers).all() and not recorder.problem
    rows = recorder.rows()
    assert bool(rows) == model.recurrent
    for row in rows:
        assert row["residual"] >= 0 and row["norm"] > 0
        assert 1 <= row["participation_ratio"] <= row["width"] + 1e-3
    assert seconds_per_answer(model, task, loop, examples) > 0
