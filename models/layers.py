"""The HRM paper's building blocks, shared by every family here: post-norm, no biases, no learned norm scale.

Sources: HRM (arXiv 2506.21734) and its public code. A generator of None builds on the meta device, for counting.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.errors import UserError
from harness.random import CounterRandom
from models.base import ModelConfig
from tasks.base import PAD


def truncated_normal(shape: tuple[int, ...], std: float, generator: torch.Generator | None) -> Tensor:
    """Normal numbers cut at ±2 σ and rescaled so that what remains has standard deviation `std`.

    Cutting alone leaves 0.8796 of σ; PyTorch's `trunc_normal_` does not correct for that, JAX's initialisers do.
    """
    if generator is None:
        return torch.empty(shape, device="meta")
    if std == 0:
        return torch.zeros(shape)
    edge = math.erf(2 / math.sqrt(2))
    uniform = torch.empty(shape).uniform_(-edge, edge, generator=generator)
    unit = (math.sqrt(2) * torch.erfinv(uniform)).clamp_(-2, 2)
    return unit * (std / 0.87962566103423978)


class Linear(nn.Module):
    """A linear map without bias whose float32 weight is cast to the input's type at use."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal((outputs, inputs), 1 / math.sqrt(inputs), generator))
        self.cast: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.cast if self.cast is not None else self.weight.to(x.dtype)
        return F.linear(x, weight)


@contextmanager
def weights_cast_once(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Cast every Linear's weight once for a whole segment instead of at each of its 2 to 6 uses.

    The cast stays attached to the weight, so the calls with gradient still reach it. Under torch.compile the
    compiler does this by itself.
    """
    linears = [m for m in model.modules() if isinstance(m, Linear) and m.weight.dtype != dtype]
    if torch.compiler.is_compiling():
        linears = []
    for linear in linears:
        linear.cast = linear.weight.to(dtype)
    try:
        yield
    finally:
        for linear in linears:
            linear.cast = None


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Root-mean-square normalisation over the width, without a learned scale, computed in at least float32."""
    wide = x if x.dtype == torch.float64 else x.float()
    return F.rms_norm(wide, (x.shape[-1],), eps=eps).to(x.dtype)


class Rotary(nn.Module):
    """Rotary positions, "rotate half" layout: (cos, sin) [S, head size], made once per length, device and type.

    The tables are float32, whatever the activations are; float64 in float64 runs.
    """

    def __init__(self, head_size: int, theta: float) -> None:
        super().__init__()
        self.head_size = head_size
        self.theta = theta
        self.tables: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def forward(self, length: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        key = (length, device, wide)
        if key not in self.tables:
            exponent = torch.arange(0, self.head_size, 2, dtype=wide, device=device) / self.head_size
            angle = torch.outer(torch.arange(length, dtype=wide, device=device), self.theta**-exponent)
            angle = torch.cat((angle, angle), dim=-1)
            self.tables[key] = (angle.cos(), angle.sin())
        return self.tables[key]


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Apply rotary positions to x […, S, head size]."""
    cos, sin = rotary
    wide = x if x.dtype == torch.float64 else x.float()
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class KeyValueMemory:
    """Keys and values [B, heads, columns, head size] that each attention has seen, in the order of a pass."""

    def __init__(self) -> None:
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.attention = 0  # whose turn it is

    @property
    def columns(self) -> int:
        return self.kept[0][0].shape[2] if self.kept else 0

    def start_pass(self) -> KeyValueMemory:
        self.attention = 0
        return self

    def extended(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of the attention whose turn it is, with these as the last columns."""
        if self.attention == len(self.kept):
            self.kept.append((k, v))
        else:
            old_k, old_v = self.kept[self.attention]
            self.kept[self.attention] = (torch.cat((old_k, k), dim=2), torch.cat((old_v, v), dim=2))
        self.attention += 1
        return self.kept[self.attention - 1]


LARGEST = 1 << 40
"""More numbers than a row of any activation holds."""


@dataclass
class Surroundings:
    """What the blocks of one segment have in common: rotary tables, attention mask, random numbers for dropout."""

    rotary: tuple[Tensor, Tensor] | None = None
    mask: Tensor | None = None
    noise: CounterRandom | None = None
    residual: Tensor | float = 1.0  # factor of a block's two branches, in families that have one
    memory: KeyValueMemory | None = None
    calls: int = 0  # of dropout so far

    def call(self, count: int) -> int:
        """The number of the first of `count` dropout calls. Taken before a block runs, so that its second run, in a
        backward pass with recomputation, draws what the first drew."""
        self.calls += count
        return self.calls - count

    def dropout(self, x: Tensor, rate: float, call: int) -> Tensor:
        """x [B, …] with the given share of numbers set to zero and the others scaled up; numbers by row alone."""
        if self.noise is None or rate == 0:
            return x
        # a stream of its own per call: lanes of one stream would overlap where modules differ in width
        kept = self.noise.at(call * LARGEST).uniform(*x.shape[1:]) >= rate
        return x * kept / (1 - rate)


class Attention(nn.Module):
    """Self-attention with one fused projection, rows ordered all q heads, all k, all v; no biases."""

    def __init__(self, config: ModelConfig, causal: bool, generator: torch.Generator | None) -> None:
        super().__init__()
        self.heads = config.heads
        self.causal = causal
        self.qkv_proj = Linear(config.hidden, 3 * config.hidden, generator)
        self.o_proj = Linear(config.hidden, config.hidden, generator)

    def forward(self, x: Tensor, around: Surroundings) -> Tensor:
        B, S, D = x.shape
        qkv = self.qkv_proj(x).view(B, S, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        q, k = (rotate(qkv[:2], around.rotary) if around.rotary is not None else qkv[:2]).unbind(0)
        v = qkv[2]
        if around.memory is not None:
            k, v = around.memory.extended(k, v)
        causal = self.causal and around.mask is None
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=around.mask, is_causal=causal)
        return self.o_proj(out.transpose(1, 2).reshape(B, S, D))


class SwiGLU(nn.Module):
    """down(silu(gate) · up), gate and up in one projection."""

    def __init__(self, hidden: int, inner: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.gate_up_proj = Linear(hidden, 2 * inner, generator)
        self.down_proj = Linear(inner, hidden, generator)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class Layer(nn.Module):
    """What stacks are made of: x ← norm(x + f(x)) twice, x [B, S, D]. Subclasses give `body`."""

    recompute = False  # forget activations and run again in the backward pass (recipe option `recompute`)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.rms_eps
        self.rate = config.dropout

    def forward(self, x: Tensor, around: Surroundings) -> Tensor:
        call = around.call(2)
        if self.recompute and torch.is_grad_enabled():
            again: Tensor = checkpoint(self.body, x, around, call, use_reentrant=False)
            return again
        return self.body(x, around, call)

    def body(self, x: Tensor, around: Surroundings, call: int) -> Tensor:
        """One pass; dropout calls `call` and `call + 1` belong to it."""
        raise NotImplementedError


class Block(Layer):
    """x ← norm(x + attention(x)); x ← norm(x + SwiGLU(x))."""

    def __init__(self, config: ModelConfig, causal: bool, generator: torch.Generator | None) -> None:
        super().__init__(config)
        self.self_attn = Attention(config, causal, generator)
        self.mlp = SwiGLU(config.hidden, config.inner_width, generator)

    def body(self, x: Tensor, around: Surroundings, call: int) -> Tensor:
        x = rms_norm(x + around.dropout(self.self_attn(x, around), self.rate, call), self.eps)
        return rms_norm(x + around.dropout(self.mlp(x), self.rate, call + 1), self.eps)


class PreNormBlock(Block):
    """x ← x + attention(norm(x)); x ← x + SwiGLU(norm(x)). What a stack of these ends in needs one norm more."""

    def body(self, x: Tensor, around: Surroundings, call: int) -> Tensor:
        x = x + around.dropout(self.self_attn(rms_norm(x, self.eps), around), self.rate, call)
        return x + around.dropout(self.mlp(rms_norm(x, self.eps)), self.rate, call + 1)


def recompute_layers(model: nn.Module) -> None:
    """Let blocks forget their activations. Raises UserError for a model without such blocks."""
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    if not layers:
        raise UserError(f"recipe.recompute: {type(model).__name__} has no blocks that can be computed again")
    for layer in layers:
        layer.recompute = True


class Stack(nn.Module):
    """Blocks in a row: x [B, S, D] → [B, S, D]."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(blocks)

    def forward(self, x: Tensor, around: Surroundings) -> Tensor:
        for layer in self.layers:
            x = layer(x, around)
        return x


class TokenEmbedding(nn.Module):
    """Token vectors [V, D], drawn with std 1/√D and scaled by √D at use, so that inputs have unit variance."""

    def __init__(self, rows: int, hidden: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.embedding_weight = nn.Parameter(truncated_normal((rows, hidden), 1 / math.sqrt(hidden), generator))

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.embedding_weight)


class FeatureEmbedding(nn.Module):
    """A number x at a position becomes x · direction + offset [D], both drawn as token vectors are."""

    def __init__(self, hidden: int, generator: torch.Generator | None) -> None:
        super().__init__()
        std = 1 / math.sqrt(hidden)
        self.direction = nn.Parameter(truncated_normal((hidden,), std, generator))
        self.offset = nn.Parameter(truncated_normal((hidden,), std, generator))

    def forward(self, features: Tensor) -> Tensor:
        """[B, S] → [B, S, D]."""
        return features[..., None].to(self.direction.dtype) * self.direction + self.offset


class PuzzleEmbedding(nn.Module):
    """One vector per puzzle id, zero at first unless `std` is given. Sparse gradient: its own optimizer steps only the
    touched rows."""

    def __init__(self, rows: int, hidden: int, generator: torch.Generator | None, std: float = 0.0) -> None:
        super().__init__()
        self.weights = nn.Parameter(truncated_normal((rows, hidden), std, generator))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weights, sparse=True)


def attention_mask(tokens: Tensor, slots: int) -> Tensor:
    """[B, 1, 1, slots + S] bool: which keys may be looked at. The slots before the sequence always may."""
    visible = F.pad(tokens != PAD, (slots, 0), value=True)
    return visible[:, None, None, :]


class HaltingHead(nn.Module):
    """Two logits, halt and continue, from one state vector; zero weights and bias −5 say "go on" at first."""

    def __init__(self, hidden: int, generator: torch.Generator | None) -> None:
        super().__init__()
        device = "meta" if generator is None else None
        self.weight = nn.Parameter(torch.zeros((2, hidden), device=device))
        self.bias = nn.Parameter(torch.full((2,), -5.0, device=device))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [B, D] → (q_halt, q_continue), each [B], in at least float32."""
        q = F.linear(z.to(self.weight.dtype), self.weight, self.bias)
        return q[:, 0], q[:, 1]
