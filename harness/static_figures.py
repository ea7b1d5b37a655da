"""Claims that are settled by computation: counts, shares and differences of configurations, with no training.

`python -m harness.static_figures` writes harness/analysis/static_figures.json, which tables and report read without
torch; a test computes it anew and compares. Parameters are counted on the meta device.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from harness.cost import measure
from harness.recipe import Loop, Recipe
from harness.training import checkpoint
from models.base import ModelShape, create_model, resolve_config
from models.published_s1_s3 import GPT2_VOCABULARY, S3_SIZES, core_of, published_parameters, vocabulary_share
from tasks.base import Batch, DataFolder, create_task
from tasks.proof_text import read

FILE = Path(__file__).parent / "analysis" / "static_figures.json"

TOLERANCE = 0.05
"""A stated count within 5 % is right."""
MATCHED = 0.02
"""Two counts within 2 % are matched."""


class Figure(NamedTuple):
    """What a computation found: whether the claim holds, and the figures in words."""

    holds: bool
    measured: str


# S3's baselines by its own search: width, layers (post-norm encoder, 4× feed-forward, biases)
S3_BASELINES = {"tiny": (144, 8), "small": (320, 3), "medium": (432, 9)}
S3_STATED = {"tiny": 16e6, "small": 36e6, "medium": 64e6}
S4_STATED = {"micro": 1.2e6, "small": 18e6, "base": 52e6, "large": 156e6, "xlarge": 420e6}
S1_STATED = 27e6


def matched_in_total_and_core() -> Figure:
    """R06: each size of S3 against its baseline, all parameters (positions and norms of the whole aside) and core."""
    parts, holds = [], True
    for size in S3_SIZES:
        groups = published_parameters("S3", size)
        width, layers = S3_BASELINES[size]
        with torch.device("meta"):
            block = nn.TransformerEncoderLayer(width, 2, 4 * width)
        core = layers * sum(p.numel() for p in block.parameters())
        total = (core + 2 * GPT2_VOCABULARY * width) / sum(groups.values()) - 1
        ratio = core / core_of(groups)
        holds &= abs(total) <= MATCHED and abs(ratio - 1) <= MATCHED
        parts.append(f"{size}: total {total:+.1%}, core × {ratio:.2f}")
    return Figure(holds, "; ".join(parts))


def sizes_are_cores() -> Figure:
    """R07: how much of S3's parameters are vocabulary."""
    found = {size: published_parameters("S3", size) for size in S3_SIZES}
    holds = all(abs(core_of(groups) / S3_STATED[size] - 1) <= TOLERANCE for size, groups in found.items())
    shown = [
        f"{size}: {vocabulary_share(groups):.1%} vocabulary, core {core_of(groups) / 1e6:.2f} M"
        for size, groups in found.items()
    ]
    return Figure(holds, "; ".join(shown))


def keras_sizes() -> Figure:
    """R08: cores of the sizes that the Keras port names, against its table. Embeddings would only add to them."""
    shape = ModelShape(vocabulary=2, sequence_length=4, answer_length=4)
    counts = {
        size: create_model("hrm", resolve_config("hrm", {}, f"s4-{size}"), shape).parameter_groups()["core"]
        for size in S4_STATED
    }
    holds = all(abs(counts[size] / stated - 1) <= TOLERANCE for size, stated in S4_STATED.items())
    shown = [f"{size}: {n / 1e6:.1f} M, × {n / S4_STATED[size]:.2f}" for size, n in counts.items()]
    return Figure(holds, "; ".join(shown))


def package_size() -> Figure:
    """R09: S1's model, and for comparison the published HRM on the same Sudoku."""
    own = sum(published_parameters("S1", "sudoku").values())
    shape = ModelShape(vocabulary=11, sequence_length=81, answer_length=81)
    groups = create_model("hrm", resolve_config("hrm", {}, "paper"), shape).parameter_groups()
    published = sum(n for name, n in groups.items() if name != "never_trained")
    holds = abs(own / S1_STATED - 1) <= TOLERANCE
    return Figure(holds, f"{own / 1e6:.2f} M in the package; {published / 1e6:.2f} M in the published HRM")


def base_is_the_papers() -> Figure:
    """R10: fields of the configuration `base` that differ from the paper's."""
    base, paper = (resolve_config("hrm", {}, name).model_dump() for name in ("s4-base", "paper"))
    different = [f"{key} {base[key]} for {paper[key]}" for key in base if base[key] != paper[key]]
    return Figure(not different, ", ".join(different) or "no field differs")


def labels_are_two_and_one() -> Figure:
    """R18, static part: the decompositions of the 41 training labels."""
    task = create_task("proofs-memorisation")
    train = task.splits(0, DataFolder(None))["train"]
    readings = read(np.asarray(train.labels))
    targets = readings.total
    shortcut = (readings.a == 2) & (readings.c == 1)
    even = shortcut[targets % 2 == 0].sum()
    return Figure(
        bool(shortcut.all()), f"{shortcut.sum()} of {len(shortcut)} labels have a = 2, c = 1; of even T {even}"
    )


def memory_by_cycles() -> Figure:
    """R26: what is kept for the backward pass of one segment, at 2 and at 8 H-cycles of an HRM as published, small."""
    shape = ModelShape(vocabulary=6, sequence_length=16, answer_length=16)
    size = {"hidden": 32, "heads": 2, "inner": 64, "H_layers": 1, "L_layers": 1}
    kept: dict[str, list[float]] = {}
    for gradient in ("one_step", "full"):
        for cycles in (2, 8):
            config = resolve_config("hrm", size | {"gradient": gradient, "H_cycles": cycles})
            cost = measure("hrm", config, shape, Loop(segments=16), Recipe(batch_size=1))
            kept.setdefault(gradient, []).append(cost.activation_bytes)
    growth = {gradient: late / early for gradient, (early, late) in kept.items()}
    return Figure(
        abs(growth["one_step"] - 1) <= 0.01 < growth["full"] - 1,
        f"four times the cycles keep × {growth['one_step']:.2f} with the one-step gradient, × {growth['full']:.2f} "
        "with the full one",
    )


def saved_is_loaded() -> Figure:
    """R40: largest difference of outputs after weights went through a file and into a fresh model."""
    shape = ModelShape(vocabulary=6, sequence_length=16, answer_length=16)
    config = resolve_config("hrm", {"hidden": 32, "heads": 2, "inner": 64, "H_layers": 1, "L_layers": 1})
    first, second = (create_model("hrm", config, shape, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save_weights(Path(folder), first.state_dict())
        second.load_state_dict(checkpoint.load_weights(Path(folder)))
    inputs = torch.arange(64, dtype=torch.int32).reshape(4, 16) % 6
    batch = Batch(inputs, inputs, torch.zeros(4, dtype=torch.int32), {})
    with torch.no_grad():
        one, other = (model(model.initial_state(batch), batch)[1] for model in (first, second))
    assert one.q_halt is not None and other.q_halt is not None
    largest = max(float((one.logits - other.logits).abs().max()), float((one.q_halt - other.q_halt).abs().max()))
    return Figure(largest == 0, f"largest difference {largest:g}")


FIGURES: dict[str, Callable[[], Figure]] = {
    "R06": matched_in_total_and_core,
    "R07": sizes_are_cores,
    "R08": keras_sizes,
    "R09": package_size,
    "R10": base_is_the_papers,
    "R26": memory_by_cycles,
    "R18": labels_are_two_and_one,
    "R40": saved_is_loaded,
}


def compute() -> dict[str, dict[str, Any]]:
    """Every figure by claim. Tasks and models must be registered."""
    return {claim: find()._asdict() for claim, find in FIGURES.items()}


if __name__ == "__main__":
    import models
    import tasks

    tasks.load_all()
    models.load_all()
    FILE.write_text(json.dumps(compute(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
