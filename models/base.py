"""The model contract: a model carries a latent state from segment to segment; one call is one segment.

A plain transformer is a model of one segment. Every trainable arm goes through the same runner by this contract.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn

from harness.errors import UserError, did_you_mean
from harness.random import CounterRandom
from harness.registry import Registry
from harness.schema import STRICT, validated
from tasks.base import Batch, Task

NOISE_KEY = 0x5EED  # a purpose of its own: rows' keys are random numbers already

State = dict[str, Tensor]
"""A latent state: named tensors with the row first, `segment` [B] int32 (segments run so far) among them."""


@dataclass(frozen=True)
class ModelShape:
    """What a task asks of a model: token ids below `vocabulary`, S positions in, the first A of them answered."""

    vocabulary: int
    sequence_length: int
    answer_length: int
    num_puzzles: int = 1
    causal: bool = False
    masked: bool = False
    features: bool = False  # inputs are numbers, not tokens

    @classmethod
    def of(cls, task: Task) -> ModelShape:
        return cls(
            vocabulary=len(task.vocabulary),
            sequence_length=task.sequence_length,
            answer_length=task.answer_length,
            num_puzzles=task.num_puzzles,
            causal=task.causal,
            masked=task.masked,
            features=task.features,
        )


@dataclass
class Prediction:
    """logits [B, A, V]; q_halt and q_continue [B] float32 logits, None where a model has no such head.

    `extra` holds what families train on beside: a name that ends in `_loss` [B] is added to the row's loss.
    """

    logits: Tensor
    q_halt: Tensor | None = None
    q_continue: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)


class ModelConfig(BaseModel):
    """Width and blocks, common to all families built of the HRM paper's block. Families add their own fields."""

    model_config = STRICT

    hidden: int = Field(512, ge=1, description="width")
    heads: int = Field(8, ge=1, description="attention heads; the head size is hidden / heads")
    expansion: float = Field(4.0, gt=0, description="SwiGLU expansion before the 2/3 and the rounding up to 256")
    inner: int | None = Field(None, ge=1, description="SwiGLU inner width; null: the published rule from expansion")
    positions: str = Field("rope", pattern="^(rope|learned)$", description="rope or learned")
    slots: int = Field(1, ge=0, description="positions before the sequence; the halting head reads the first")
    puzzle_embedding: bool = Field(True, description="a puzzle vector in the first slot; the others hold zeros")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of a block's two outputs that training sets to zero")
    segment_heads: int = Field(0, ge=0, description="first segments that answer through an output head of their own")
    rms_eps: float = Field(1e-5, gt=0)
    rope_theta: float = Field(10000.0, gt=0)

    @model_validator(mode="after")
    def _head_size(self) -> ModelConfig:
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden {self.hidden} over {self.heads} heads must give an even whole head size")
        return self

    @model_validator(mode="after")
    def _place_for_the_puzzle(self) -> ModelConfig:
        if self.puzzle_embedding and self.slots == 0:
            raise ValueError("slots 0 leaves no place for the puzzle vector; set puzzle_embedding: false, too")
        return self

    @property
    def inner_width(self) -> int:
        """SwiGLU inner width, by the published rule where `inner` is null."""
        return published_inner_width(self.hidden, self.expansion) if self.inner is None else self.inner

    @property
    def typical_block(self) -> tuple[int, int, int]:
        """Width, heads and inner width of the block that stands for all of this model's: where a match to it starts."""
        return self.hidden, self.heads, self.inner_width


def published_inner_width(width: int, expansion: float) -> int:
    """SwiGLU inner width: round(expansion · width · 2/3), then up to a multiple of 256 (published HRM code)."""
    return -(-round(expansion * width * 2 / 3) // 256) * 256


class ReasoningModel(nn.Module):
    """Base of every family. Subclasses give `initial_state`, `forward` and `layers_per_segment`."""

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    summary: ClassVar[str] = ""
    recurrent: ClassVar[bool] = True  # False: answers in one segment, whatever is asked
    LOOP: ClassVar[dict[str, Any]] = {}  # an arm's loop settings where the suite leaves them out

    # parameter group by the beginning of a parameter's dotted name; everything else is core
    GROUPS: ClassVar[dict[str, str]] = {
        "embed_tokens": "embeddings",
        "embed_pos": "embeddings",
        "lm_head": "heads",
        "segment_head": "heads",
        "q_head": "heads",
        "puzzle_emb": "puzzle_table",
    }

    def __init__(self, config: ModelConfig, shape: ModelShape, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.dtype = dtype  # of activations; parameters stay float32 (float64 in float64 runs) and are cast at use

    def initial_state(self, batch: Batch, keys: Tensor | None = None) -> State:
        """The state of rows before their first segment. Rows are reset to it by `torch.where`.

        keys [B] int64 seed whatever is random in a row (initial noise, dropout), so that it depends on no other row;
        without them all rows draw alike.
        """
        raise NotImplementedError

    @property
    def stochastic(self) -> bool:
        """Whether the state holds the rows' keys."""
        return self.config.dropout > 0

    def start(self, batch: Batch, keys: Tensor | None) -> State:
        """What every state holds: `segment` [B] int32, and `key` [B] int64 where the model draws random numbers."""
        B, device = len(batch.inputs), batch.inputs.device
        state = {"segment": torch.zeros(B, dtype=torch.int32, device=device)}
        if self.stochastic:
            state["key"] = torch.zeros(B, dtype=torch.int64, device=device) if keys is None else keys
        return state

    def following(self, state: State) -> State:
        """What `start` gave, one segment later."""
        kept = {"key": state["key"]} if self.stochastic else {}
        return {**kept, "segment": state["segment"] + 1}

    def noise(self, state: State) -> CounterRandom | None:
        """The rows' random numbers of this segment; None where nothing is random."""
        return CounterRandom(NOISE_KEY, state["key"] + state["segment"]) if self.stochastic else None

    def forward(self, state: State, batch: Batch) -> tuple[State, Prediction]:
        """One segment. Returns the new state, still attached: the recipe decides where gradients stop."""
        raise NotImplementedError

    def answer_at(self, state: State, batch: Batch, places: Tensor) -> tuple[State, Tensor]:
        """One segment, and its logits [B, T, V] at `places` [B, T] of the answer: writing text needs few of many."""
        state, prediction = self(state, batch)
        return state, at_places(prediction.logits, places)

    def set_progress(self, progress: float) -> None:
        """Called before each update with the share of the budget used, 0 to 1: for schedules inside a model.

        What is set belongs in a persistent buffer, so that saved weights come with the value they were trained for.
        """

    def length_problem(self, length: int) -> str | None:
        """Why the model can't read inputs of `length` positions; None where it can. Asked before anything is trained:
        a split that an arm can't read is left unscored for it, with this reason."""
        return None

    def compile_segment(self) -> None:
        """Put the segment's arithmetic under torch.compile, in place. Shapes are static."""
        self.forward = torch.compile(self.forward, dynamic=False)  # type: ignore[method-assign]

    @property
    def layers_per_segment(self) -> int:
        """Layer applications in one segment, gradient or not."""
        raise NotImplementedError

    def exempt_from_decay(self, name: str) -> bool:
        """Whether weight decay spares the parameter with this dotted name: norm scales and biases, in every family.

        The published code spares nothing, but its HRM has neither (a decay of 1.0 would pull scales to nought), only
        the halting head's bias, which is decayed here, too.
        """
        return "norm" in name or (name.endswith("bias") and not name.startswith("q_head"))

    def group_of(self, name: str) -> str:
        """The group of the parameter with this dotted name."""
        return next((group for start, group in self.GROUPS.items() if f"{name}.".startswith(f"{start}.")), "core")

    def parameter_groups(self) -> dict[str, int]:
        """Numbers per group: core, embeddings, heads, puzzle_table, never_trained (buffers that are saved)."""
        groups = dict.fromkeys(("core", "embeddings", "heads", "puzzle_table", "never_trained"), 0)
        for name, parameter in self.named_parameters():
            groups[self.group_of(name)] += parameter.numel()
        trained = sum(parameter.numel() for parameter in self.parameters())
        assert sum(groups.values()) == trained, "every parameter belongs to exactly one group"
        saved = self.state_dict(keep_vars=True)
        groups["never_trained"] = sum(t.numel() for t in saved.values() if not isinstance(t, nn.Parameter))
        return groups


@runtime_checkable
class Remembering(Protocol):
    """A causal one-pass model that keeps keys and values, so that a further token costs one position's work."""

    def read(self, batch: Batch, places: Tensor) -> tuple[Tensor, Any]:
        """(logits [B, T, V] at `places` [B, T], memory of the slots + S columns read)."""

    def read_one(self, tokens: Tensor, places: Tensor, visible: Tensor, memory: Any) -> Tensor:
        """Logits [B, V] after one token [B] more per row, which becomes the memory's next column.

        places [B]: the tokens' positions, slots counted. visible [B, W ≥ columns] bool: which columns, the new one
        among them, a row looks at.
        """


def at_places(z: Tensor, places: Tensor) -> Tensor:
    """[B, T, D]: of z [B, S, D], the rows' places [B, T]."""
    return z.gather(1, places[..., None].expand(-1, -1, z.shape[2]))


MODELS: Registry[type[ReasoningModel]] = Registry("model")
PRESETS: dict[str, dict[str, dict[str, Any]]] = {}
"""model → preset name → configuration: `{"model": "hrm", "preset": "paper"}` in a suite."""
PRESET_LOOPS: dict[str, dict[str, dict[str, Any]]] = {}
"""model → preset name → loop settings that belong to the preset, under those of the arm."""


def register_model(
    name: str, presets: dict[str, dict[str, Any]] | None = None, loops: dict[str, dict[str, Any]] | None = None
) -> Callable[[type[ReasoningModel]], type[ReasoningModel]]:
    """Class decorator: makes a model known as `name`, with named presets of its configuration (and their loops)."""

    def register(cls: type[ReasoningModel]) -> type[ReasoningModel]:
        MODELS.add(name, cls)
        PRESETS[name], PRESET_LOOPS[name] = presets or {}, loops or {}
        return cls

    return register


def resolve_config(name: str, config: dict[str, Any], preset: str | None = None) -> ModelConfig:
    """The checked configuration of a model: preset first, then `config` over it. UserError names the key."""
    cls = MODELS.get(name)
    values: dict[str, Any] = {}
    if preset is not None:
        if preset not in PRESETS[name]:
            raise UserError(f'model {name}: unknown preset "{preset}"{did_you_mean(preset, PRESETS[name])}')
        values.update(PRESETS[name][preset])
    values.update(config)
    return validated(cls.Config, values, f"model {name}", "config")


def create_model(
    name: str,
    config: ModelConfig | dict[str, Any],
    shape: ModelShape,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    preset: str | None = None,
) -> ReasoningModel:
    """Build a model on the CPU, its weights drawn from `generator`; with no generator, on the meta device for counting.

    dtype is that of the activations: float32, bfloat16 (parameters stay float32) or float64 (parameters, too).
    """
    cls = MODELS.get(name)
    resolved = config if isinstance(config, ModelConfig) else resolve_config(name, config, preset)
    model = cls(resolved, shape, dtype, generator)  # type: ignore[call-arg]
    return model.double() if dtype == torch.float64 else model
