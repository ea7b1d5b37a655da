"""Source systems S1 and S3 as published, built on the meta device for one purpose: to count their parameters.

Dead parts (S3's unused gates and heads, S1's controller without gradient) are counted here and absent from the working
variants `hrm-pooled` and `hrm-planner`. Nothing here can run.

S3's parts are all described, and the counts are exact: 16,607,938, 35,903,874 and 64,033,346.

Of S1 the widths, the numbers of layers and which parts there are are described, inner sizes are not. The reading below
gives its 10,613,844 (Sudoku) and 11,453,319 (maze, ARC) exactly: feed-forward four times the width, each GRU-like cell
three maps of input and state, a norm after each attention and each MLP, one self-attention for both levels, three
controller MLPs on both states. It is not the only one: of 7.5 million combinations of such choices 2,711 reach the
total. So what is checked is the total, and the difference between the two, which the input and output maps explain
alone; how S1's numbers divide into groups is a reading.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from harness.errors import UserError, did_you_mean

GPT2_VOCABULARY = 50_257

S1_SIZES = {"sudoku": 81, "maze": 900, "arc": 900}
"""Numbers in, numbers out."""

S3_SIZES = {"tiny": (64, 1), "small": (128, 2), "medium": (192, 4)}
"""Width of L, layers per module; H is three times as wide."""

VOCABULARY_GROUPS = ("embedding", "final_head", "auxiliary_heads")


def published_parameters(system: str, size: str, vocabulary: int = GPT2_VOCABULARY) -> dict[str, int]:
    """Parameters by group, which add up to the published total. Raises UserError for an unknown system or size.

    system S1: sizes sudoku, maze, arc; groups input, H, L, communication, controller (no gradient in S1), output.
    system S3: sizes tiny, small, medium; groups embedding, final_head, auxiliary_heads, H, L, projections (not in S3's
    optimizer), gate, unused_gates, q_head. `vocabulary` is S3's alone: GPT-2's by default.
    """
    systems: dict[str, Collection[str]] = {"S1": S1_SIZES, "S3": S3_SIZES}
    if system not in systems:
        raise UserError(f'published parameters: unknown system "{system}"{did_you_mean(system, systems)}')
    if size not in systems[system]:
        raise UserError(f'published parameters of {system}: unknown size "{size}"{did_you_mean(size, systems[system])}')
    with torch.device("meta"):
        groups = _s1(S1_SIZES[size]) if system == "S1" else _s3(*S3_SIZES[size], vocabulary)
    return {name: sum(p.numel() for p in module.parameters()) for name, module in groups.items()}


def core_of(groups: dict[str, int]) -> int:
    """S3's parameters outside the vocabulary."""
    return sum(count for name, count in groups.items() if name not in VOCABULARY_GROUPS)


def vocabulary_share(groups: dict[str, int]) -> float:
    """Share of S3's parameters in its five vocabulary matrices: embedding, final head, three auxiliary heads."""
    return 1 - core_of(groups) / sum(groups.values())


# -- S3: planner and executor --------------------------------------------------------------------------------------


def _s3(d: int, layers: int, vocabulary: int) -> dict[str, nn.Module]:
    wide = 3 * d
    return {
        "embedding": nn.Embedding(vocabulary, d),
        "final_head": nn.Linear(d, vocabulary, bias=False),
        "auxiliary_heads": nn.ModuleList(nn.Linear(d, vocabulary, bias=False) for _ in range(3)),
        "H": nn.ModuleList(_s3_block(wide) for _ in range(layers)),
        "L": nn.ModuleList(_s3_block(d) for _ in range(layers)),
        "projections": nn.ModuleList((nn.Linear(d, wide), nn.Linear(wide, d), nn.Linear(wide, d))),
        "gate": nn.Linear(d, d),
        "unused_gates": nn.ModuleList(nn.Linear(wide, wide) for _ in range(2)),
        "q_head": nn.Linear(d, 2),
    }


def _s3_block(d: int) -> nn.Module:
    """Attention and SwiGLU of inner width 2d without biases, a norm with a scale before each."""
    attention = [nn.Linear(d, d, bias=False) for _ in range(4)]
    swiglu = [nn.Linear(d, 2 * d, bias=False), nn.Linear(d, 2 * d, bias=False), nn.Linear(2 * d, d, bias=False)]
    return nn.ModuleList((*attention, *swiglu, nn.RMSNorm(d), nn.RMSNorm(d)))


# -- S1: pooled states ---------------------------------------------------------------------------------------------

S1_INPUT, S1_WIDTH, S1_LAYERS = 512, 256, 4


def _s1(numbers: int) -> dict[str, nn.Module]:
    D = S1_WIDTH
    return {
        "input": nn.Sequential(nn.Linear(numbers, S1_INPUT), nn.GELU(), nn.LayerNorm(S1_INPUT)),
        "H": nn.ModuleList(
            (
                nn.Linear(S1_INPUT, D),
                *_s1_layers(),
                _mlp(2 * D, D, D),  # mixes the pooled vector with what L feeds back
                _s1_cell(),
                nn.LayerNorm(D),
                nn.Linear(D, D),  # guidance
            )
        ),
        "L": nn.ModuleList(
            (
                nn.Linear(S1_INPUT, D),
                *_s1_layers(),
                *_s1_attention(),  # to the guidance
                *(_s1_cell() for _ in range(2)),
                *(nn.Sequential(_mlp(D, 2 * D, D), nn.LayerNorm(D)) for _ in range(2)),
            )
        ),
        "communication": nn.ModuleList(
            (
                *(module for _ in range(3) for module in _s1_attention()),  # H to L, L to H, self
                *(nn.Sequential(_mlp(2 * D, D, D), nn.LayerNorm(D)) for _ in range(2)),  # fusion
            )
        ),
        # termination, progress, computation time
        "controller": nn.ModuleList(_mlp(2 * D, D, 1) for _ in range(3)),
        "output": _mlp(D, S1_INPUT, numbers),
    }


def _s1_layers() -> list[nn.Module]:
    return [nn.TransformerEncoderLayer(S1_WIDTH, 8, 4 * S1_WIDTH) for _ in range(S1_LAYERS)]


def _s1_attention() -> list[nn.Module]:
    return [nn.MultiheadAttention(S1_WIDTH, 8), nn.LayerNorm(S1_WIDTH)]


def _s1_cell() -> nn.Module:
    """Update gate, reset gate and candidate, each an affine map of input and state."""
    return nn.ModuleList(nn.Linear(2 * S1_WIDTH, S1_WIDTH) for _ in range(3))


def _mlp(inputs: int, inner: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, inner), nn.GELU(), nn.Linear(inner, outputs))
