"""The matching solver: a baseline's width and inner width such that it has as many parameters as its reference.

The head size stays fixed. Core parameters must agree within 1 %, all trained parameters within 2 %; where no
configuration does, the solver refuses and says what it tried.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.cost import parameters
from harness.errors import UserError
from models.base import ModelConfig, ModelShape

CORE_TOLERANCE = 0.01
TOTAL_TOLERANCE = 0.02


@dataclass(frozen=True)
class Matched:
    """A configuration with its mismatch: this over the reference, minus 1."""

    config: ModelConfig
    error_core: float
    error_total: float


def match_parameters(
    model: str, config: ModelConfig, reference: dict[str, int], head_size: int, shape: ModelShape, label: str
) -> Matched:
    """The configuration of `model` nearest in width to `config` that has the reference's parameters.

    reference: the reference's parameter groups on the same task; head_size: its attention head size.
    Widths are whole numbers of heads; at each, the inner width is solved for, since the count is linear in it.
    Raises UserError naming the widths tried and the nearest miss.
    """
    wished = max(1, round(config.hidden / head_size))
    candidates = sorted(range(1, 3 * wished + 1), key=lambda heads: (abs(heads - wished), heads))
    nearest: tuple[float, str] | None = None
    for heads in candidates:
        found = _at_width(model, config, reference, heads, head_size, shape)
        if found is None:
            continue
        if abs(found.error_core) <= CORE_TOLERANCE and abs(found.error_total) <= TOTAL_TOLERANCE:
            return found
        miss = max(abs(found.error_core) / CORE_TOLERANCE, abs(found.error_total) / TOTAL_TOLERANCE)
        text = (
            f"hidden {found.config.hidden}, inner {found.config.inner}: "
            f"core {found.error_core:+.1%}, total {found.error_total:+.1%}"
        )
        if nearest is None or miss < nearest[0]:
            nearest = (miss, text)
    tried = f"hidden {head_size} to {head_size * 3 * wished} in steps of {head_size}, every inner width"
    raise UserError(
        f"{label}: no configuration of {model} matches {_core(reference):,} core parameters within "
        f"{CORE_TOLERANCE:.0%} and {_total(reference):,} in all within {TOTAL_TOLERANCE:.0%}; "
        f"tried {tried}; nearest: {nearest[1] if nearest else 'none, every width alone is too large'}. "
        "Change the arm's number of layers"
    )


def _at_width(
    model: str, config: ModelConfig, reference: dict[str, int], heads: int, head_size: int, shape: ModelShape
) -> Matched | None:
    """The best inner width at one width, or None where even inner width 1 is too large."""

    def at(inner: int) -> tuple[ModelConfig, dict[str, int]]:
        changed = config.model_copy(update={"hidden": heads * head_size, "heads": heads, "inner": inner})
        return changed, parameters(model, changed, shape)

    one, two = _core(at(1)[1]), _core(at(2)[1])
    inner = round(1 + (_core(reference) - one) / (two - one))
    if inner < 1:
        return None
    solved, groups = at(inner)
    return Matched(solved, _core(groups) / _core(reference) - 1, _total(groups) / _total(reference) - 1)


def _core(groups: dict[str, int]) -> int:
    return groups["core"]


def _total(groups: dict[str, int]) -> int:
    return sum(count for name, count in groups.items() if name != "never_trained")
