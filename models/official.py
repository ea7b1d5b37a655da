"""Import of published HRM and TRM checkpoints: their key names are this project's, but for the wrappers' prefixes.

Sizes are read off the weights themselves; number of heads and of cycles are not in them and belong to the configuration
the weights are loaded into. All published models have heads of size 64.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.errors import BrokenData, UserError, did_you_mean
from models.base import ModelShape, create_model

LEVELS = {"hrm": ("H", "L"), "trm": ("L",)}
"""Family → its modules, `H_level` and `L_level` in the files."""

PREFIX = re.compile(r"^(_orig_mod\.)?(model\.)?(inner\.)?")  # of torch.compile, of the loss head, of the ACT wrapper

SHOWN = 8  # names per kind of mistake in an error


def convert_state_dict(state_dict: Mapping[str, Tensor] | str | Path, family: str) -> dict[str, Tensor]:
    """A published state dict, or the file that holds one, as `create_model(family, …).load_state_dict` takes it.

    family: "hrm" or "trm" (its attention or its mixer form, whichever it is). Keys may have the published prefixes or
    lack them. Tensors come as float32 (float64 stays), the bfloat16 initial states among them. Raises UserError naming
    all keys that are unknown or missing, and all shapes that don't fit the others.
    """
    if family not in LEVELS:
        raise UserError(f'no published checkpoints of a family "{family}"{did_you_mean(family, LEVELS)}')
    label = f"{family} checkpoint"
    if isinstance(state_dict, str | Path):
        label += f" {state_dict}"
        state_dict = read_checkpoint(Path(state_dict))
    weights: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        name = PREFIX.sub("", key)
        if name in weights:
            raise UserError(f"{label}: {name} is there twice, under several prefixes")
        if not isinstance(value, Tensor):
            raise UserError(f"{label}: {key} is a {type(value).__name__}, not a tensor")
        weights[name] = value.detach() if value.dtype == torch.float64 else value.detach().float()
    expected = _expected_shapes(weights, family, label)
    mistakes = [
        _named("missing keys", (name for name in expected if name not in weights)),
        _named("unknown keys", (name for name in weights if name not in expected)),
        _named(
            "wrong shapes",
            (
                f"{name} is {list(weights[name].shape)}, expected {list(shape)}"
                for name, shape in expected.items()
                if name in weights and weights[name].shape != shape
            ),
        ),
    ]
    if any(mistakes):
        raise UserError(f"{label}: {'; '.join(filter(None, mistakes))}")
    return {name: weights[name] for name in expected}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict in a torch or a safetensors file, told apart by its first bytes. Loading runs no code."""
    path = path.expanduser()
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        with path.open("rb") as file:
            safe = file.read(9)[8:] == b"{"  # the length of a JSON header, then the header
        if safe:
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the two libraries raise on a file that is not theirs
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BrokenData(f"checkpoint {path}: neither a torch nor a safetensors file of tensors: {first}") from None
    if not isinstance(found, dict):
        raise BrokenData(f"checkpoint {path}: holds a {type(found).__name__}, not a state dict")
    return found


HEAD_SIZE = 64
"""Of every published model; the weights don't tell."""


def sizes(weights: Mapping[str, Tensor], family: str) -> tuple[dict[str, Any], int | None]:
    """Configuration of the model that converted weights belong to, and slots and sequence together, where they tell.

    Cycles and slots are not in them: those stay the family's defaults, unless a preset or the user says otherwise.
    The second is None where no tensor runs along the sequence, as with rotary positions: any length will do.
    """
    config, _, _, along = _read_off(weights, family, f"{family} checkpoint")
    config["heads"] = max(1, config["hidden"] // HEAD_SIZE)
    return config if config["puzzle_embedding"] else {**config, "slots": 0}, along


def _expected_shapes(weights: Mapping[str, Tensor], family: str, label: str) -> dict[str, torch.Size]:
    """Name → shape of the model of that family whose sizes most of the weights agree on."""
    config, vocabulary, puzzles, along = _read_off(weights, family, label)
    # any number of slots does: only slots and sequence together have a size
    config |= {"heads": 1, "slots": int(config["puzzle_embedding"])}
    sequence = max(1, (along or 0) - config["slots"])
    shape = ModelShape(vocabulary, sequence, sequence, num_puzzles=puzzles)
    return {name: tensor.shape for name, tensor in create_model(family, config, shape).state_dict().items()}


def _read_off(weights: Mapping[str, Tensor], family: str, label: str) -> tuple[dict[str, Any], int, int, int | None]:
    """Configuration without heads, slots and cycles; vocabulary; puzzles; slots and sequence together, if known."""

    def size(*endings: str, axis: int = -1) -> int | None:
        """What most tensors whose names end so have along an axis; None where there are none."""
        found = Counter(w.shape[axis] for name, w in weights.items() if name.endswith(endings) and w.dim() == 2)
        return found.most_common(1)[0][0] if found else None

    hidden = size("embedding_weight", "lm_head.weight", "q_head.weight", "qkv_proj.weight", ".mlp.gate_up_proj.weight")
    vocabulary = size("embed_tokens.embedding_weight", "lm_head.weight", axis=0)
    if not hidden or not vocabulary:
        raise UserError(f"{label}: none of the published names is there; its keys are {_some(weights)}")
    config: dict[str, Any] = {"hidden": hidden, "inner": size(".mlp.down_proj.weight")}
    for level in LEVELS[family]:
        indices = [int(found[1]) for name in weights if (found := re.match(rf"{level}_level\.layers\.(\d+)\.", name))]
        config[f"{level}_layers"] = 1 + max(indices, default=0)
    puzzles = size("puzzle_emb.weights", axis=0)
    config["puzzle_embedding"] = puzzles is not None
    along = size("embed_pos.embedding_weight", axis=0)
    if along is not None:
        config["positions"] = "learned"
    if family == "trm" and (length := size("mlp_t.gate_up_proj.weight")) is not None:
        config |= {"mixer": True, "mixer_inner": size("mlp_t.down_proj.weight")}
        config.setdefault("positions", "none")
        along = length
    return config, vocabulary, puzzles or 1, along


def _named(kind: str, names: Iterable[str]) -> str:
    listed = list(names)
    return f"{kind}: {_some(listed)}" if listed else ""


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more if listed else "none"
