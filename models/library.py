"""Independent baselines: ModernBERT for grids and Llama for causal tasks, as the library `transformers` defines them.

Nobody here wrote or tuned their blocks, so nobody can say that the opponent was weakened. They are built from
configuration with the library's own initial weights, never from the hub. What is ours: the slots before the sequence
with the puzzle vector in the first, number features in place of token vectors, and the answer's span.

- ModernBERT (arXiv 2412.13663): pre-norm LayerNorm, GeGLU, rotary positions, and a dense layer with GELU and norm
  before the output, counted as core since it reads nothing out. Attention is global in every layer: its default, two
  layers of three with a window of 128, would hide most of a 900-place grid from a place. No masked pre-training.
- Llama (arXiv 2302.13971): pre-norm RMSNorm, SwiGLU, rotary positions, as many key heads as query heads.

Neither ties input and output vectors. Parameters stay float32 and are cast at use, as everywhere here; in float64 runs
the rotary tables, and Llama's norms, are computed in float32, as the library has them.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.errors import UserError
from models.base import ModelConfig, ModelShape, Prediction, State, register_model
from models.embedded import SlottedModel
from models.layers import FeatureEmbedding, PuzzleEmbedding, Surroundings, attention_mask
from tasks.base import Batch


class LibraryConfig(ModelConfig):
    """`positions` and `segment_heads` have one value each: the library's models offer no other."""

    layers: int = Field(8, ge=1, description="blocks")
    positions: Literal["rope"] = Field("rope", description="rope, the library's own")
    segment_heads: Literal[0] = Field(0, description="0: one segment, one head")
    initializer_range: float = Field(0.02, gt=0, description="standard deviation of initial weights, the library's")


class ModernBertConfig(LibraryConfig):
    rope_theta: float = Field(160_000.0, gt=0, description="the library's for global attention")


class LlamaConfig(LibraryConfig):
    rms_eps: float = Field(1e-6, gt=0)


class LibraryModel(SlottedModel):
    """A model of the library `transformers` in one pass. Subclasses build it and call it."""

    recurrent = False
    config: LibraryConfig

    def __init__(
        self, config: LibraryConfig, shape: ModelShape, dtype: torch.dtype, generator: torch.Generator | None
    ) -> None:
        super().__init__(config, shape, dtype)
        self.net = _drawn_from(generator, self.build)
        if shape.features:
            self.net.set_input_embeddings(FeatureEmbedding(config.hidden, generator))
        self.slots = config.slots
        # a first slot that sees itself alone must not be zero (see models/embedded.py)
        std = config.initializer_range if shape.causal else 0.0
        self.puzzle_emb = (
            PuzzleEmbedding(shape.num_puzzles, config.hidden, generator, std) if config.puzzle_embedding else None
        )
        self.around = Surroundings()
        if config.dropout > 0:
            for name, module in self.net.named_modules():
                if name.rsplit(".", 1)[-1] in ("attn", "self_attn", "mlp"):
                    module.register_forward_hook(self._drop)

    def build(self) -> nn.Module:
        """The library's model with its initial weights; draws from the global generator."""
        raise NotImplementedError

    def run(self, net: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        """Logits [B, slots + S, V] from x [B, slots + S, D]; mask [B, 1, 1, slots + S] bool as `attention_mask`."""
        raise NotImplementedError

    def initial_state(self, batch: Batch, keys: Tensor | None = None) -> State:
        return self.start(batch, keys)

    def segment(self, state: State, batch: Batch, puzzle: Tensor | None) -> tuple[State, Prediction]:
        x = self.with_slots(self.net.get_input_embeddings()(batch.inputs), puzzle).to(self.dtype)
        # a mask of all positions, rather than none, where nothing is padding: what a row computes must not depend on
        # its batch mates, and the host must not look at the device
        masked = self.shape.masked and not self.shape.causal
        mask = attention_mask(batch.inputs, self.slots) if masked else None
        self.around = Surroundings(noise=self.noise(state) if self.training and self.config.dropout > 0 else None)
        logits = self.run(self._cast(), x, mask)
        return self.following(state), Prediction(self.answered(logits))

    def _cast(self) -> Any:
        """The library's model with its weights in the type of the activations, still attached to the parameters."""
        weights = {name: p.to(self.dtype) for name, p in self.net.named_parameters() if p.dtype != self.dtype}
        if not weights:
            return self.net
        return lambda **inputs: torch.func.functional_call(self.net, weights, (), inputs)

    def _drop(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """Dropout on a block's two outputs, from the row's own random numbers: the library's draws from all rows'."""
        x, *rest = output if isinstance(output, tuple) else (output,)
        x = self.around.dropout(x, self.config.dropout, self.around.call(1)).to(x.dtype)
        return (x, *rest) if rest else x

    @property
    def layers_per_segment(self) -> int:
        return self.config.layers


def _drawn_from(generator: torch.Generator | None, build: Any) -> Any:
    """What `build` gives with its random numbers drawn from `generator` alone; on the meta device without one."""
    if generator is None:
        with torch.device("meta"):
            return build()
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


COMMON: dict[str, Any] = {
    # padding has a vector of its own, since in an unmasked grid it is seen; no token means anything to the library
    **dict.fromkeys(f"{name}_token_id" for name in ("pad", "bos", "eos", "cls", "sep")),
    "tie_word_embeddings": False,
    "attn_implementation": "sdpa",
}

PAPER = {"hidden": 512, "heads": 8, "layers": 8}


@register_model("modernbert", presets={"paper": PAPER})
class ModernBert(LibraryModel):
    Config = ModernBertConfig
    summary = "ModernBERT of the library transformers, from configuration, global attention; for tasks that fill a grid"
    GROUPS: ClassVar[dict[str, str]] = {
        **LibraryModel.GROUPS,
        "net.model.embeddings.tok_embeddings": "embeddings",
        "net.decoder": "heads",
    }

    def build(self) -> nn.Module:
        if self.shape.causal:
            raise UserError("modernbert sees all positions at once; it can't run a causal task: use the model llama")
        import transformers

        c = self.config
        return transformers.ModernBertForMaskedLM(
            transformers.ModernBertConfig(
                vocab_size=self.shape.vocabulary,
                hidden_size=c.hidden,
                intermediate_size=c.inner_width,
                num_hidden_layers=c.layers,
                num_attention_heads=c.heads,
                layer_types=["full_attention"] * c.layers,
                rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": c.rope_theta}},
                norm_eps=c.rms_eps,
                initializer_range=c.initializer_range,
                **COMMON,
            )
        )

    def run(self, net: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        # by kind of attention, which the library takes as they are; it builds the one that no layer uses otherwise
        masks = {"full_attention": mask, "sliding_attention": None}
        logits: Tensor = net(inputs_embeds=x, attention_mask=masks).logits
        return logits


@register_model("llama", presets={"paper": PAPER})
class Llama(LibraryModel):
    Config = LlamaConfig
    summary = "Llama of the library transformers, from configuration; for causal tasks"
    GROUPS: ClassVar[dict[str, str]] = {
        **LibraryModel.GROUPS,
        "net.model.embed_tokens": "embeddings",
        "net.lm_head": "heads",
    }

    def build(self) -> nn.Module:
        if not self.shape.causal:
            raise UserError("llama sees earlier positions only; it can't fill a grid: use the model modernbert")
        import transformers

        c = self.config
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=self.shape.vocabulary,
                hidden_size=c.hidden,
                intermediate_size=c.inner_width,
                num_hidden_layers=c.layers,
                num_attention_heads=c.heads,
                rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
                rms_norm_eps=c.rms_eps,
                initializer_range=c.initializer_range,
                **COMMON,
            )
        )

    def run(self, net: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        # with a cache, empty here, the library does not look at the positions' values, which the meta device lacks
        logits: Tensor = net(inputs_embeds=x, past_key_values=_empty_cache()).logits
        return logits

    def read(self, batch: Batch, places: Tensor) -> tuple[Tensor, Any]:
        memory = _empty_cache()
        x = self.with_slots(self.net.get_input_embeddings()(batch.inputs), self.puzzle_vectors(batch)).to(self.dtype)
        with self.answering_at(places):
            return self.answered(self._cast()(inputs_embeds=x, past_key_values=memory).logits), memory

    def read_one(self, tokens: Tensor, places: Tensor, visible: Tensor, memory: Any) -> Tensor:
        x = self.net.get_input_embeddings()(tokens[:, None]).to(self.dtype)
        mask = visible[:, None, None, : memory.get_seq_length() + 1]
        inputs = {"inputs_embeds": x, "position_ids": places[:, None], "attention_mask": mask}
        logits: Tensor = self._cast()(**inputs, past_key_values=memory).logits[:, 0]
        return logits


def _empty_cache() -> Any:
    import transformers

    return transformers.DynamicCache()
