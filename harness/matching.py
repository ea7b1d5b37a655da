"""The matching solver: an arm's width, inner width and depth such that it meets its reference on equal terms.

Every rule but one makes parameters equal, by width and inner width at a fixed head size: core parameters within 1 %,
all trained parameters within 2 %. `inference_flops` makes FLOPs per answer equal, too: within 5 %, or as near as a
whole number of loops comes, with the mismatch recorded. `inference_flops_only` takes the reference's width and solves
for the number of layers: FLOPs alone are equal. Where nothing fits, the solver refuses and says what it tried.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.cost import Cost, flops_per_segment, parameters
from harness.errors import UserError
from models.base import MODELS, ModelConfig, ModelShape

CORE_TOLERANCE = 0.01
TOTAL_TOLERANCE = 0.02
FLOPS_TOLERANCE = 0.05

WIDTH = ("hidden", "heads", "inner")
SOLVED: dict[str, tuple[str, ...]] = {
    "params": WIDTH,
    "train_flops": WIDTH,
    "inference_flops": (*WIDTH, "loops"),
    "inference_flops_only": (*WIDTH, "layers"),
}
"""The settings that a rule decides, where the model has them; a suite leaves them out."""


@dataclass(frozen=True)
class Reference:
    """The arm that sets the size: configuration and cost on the same task."""

    config: ModelConfig
    cost: Cost

    @property
    def head_size(self) -> int:
        return self.config.hidden // self.config.heads

    @property
    def groups(self) -> dict[str, int]:
        """Its parameters by group."""
        return {
            name: getattr(self.cost, name) for name in ("core", "embeddings", "heads", "puzzle_table", "never_trained")
        }


@dataclass(frozen=True)
class Matched:
    """A configuration with its mismatch: this over the reference, minus 1. FLOPs are those of an answer."""

    config: ModelConfig
    error_core: float
    error_total: float
    error_flops: float | None = None


def match_arm(
    rule: str, model: str, config: ModelConfig, reference: Reference, shape: ModelShape, segments: int, label: str
) -> Matched:
    """The configuration of `model` that meets the reference by `rule`, its mismatch in parameters and FLOPs beside it.

    config: what the suite sets for the arm; segments: those that the arm answers in (1 for one-pass models); label
    names the arm in errors. Raises UserError where no configuration fits.
    """
    if rule == "inference_flops_only":
        start = config.model_copy(update=dict(zip(WIDTH, reference.config.typical_block, strict=True)))
        return _solve_count(model, "layers", start, reference, shape, segments, label)
    config = match_parameters(model, config, reference.groups, reference.head_size, shape, label).config
    # the width is not bent to make FLOPs equal: it stays the nearest to the reference's that has its parameters
    if rule == "inference_flops" and _has(model, "loops"):
        return _solve_count(model, "loops", config, reference, shape, segments, label)
    found = _with_errors(model, config, reference, shape, segments)
    if rule == "inference_flops" and abs(found.error_flops or 0) > FLOPS_TOLERANCE:
        raise UserError(
            f"{label}: {model} has no number of loops to solve for, and at equal parameters an answer costs "
            f"{found.error_flops:+.1%} FLOPs against the reference, more than {FLOPS_TOLERANCE:.0%} off; tried hidden "
            f"{config.hidden}, inner {config.inner_width}, {segments} segment(s). Use the model looped, or the rule "
            "inference_flops_only, which leaves parameters unequal"
        )
    return found


def _has(model: str, field: str) -> bool:
    return field in MODELS.get(model).Config.model_fields


def _solve_count(
    model: str,
    field: str,
    config: ModelConfig,
    reference: Reference,
    shape: ModelShape,
    segments: int,
    label: str,
) -> Matched:
    """`config` with the number of loops or layers whose FLOPs per answer, which are linear in it, come nearest."""
    if not _has(model, field):
        able = ", ".join(name for name in MODELS if _has(name, field))
        raise UserError(f"{label}: {model} has no number of {field} to solve for; models that have: {able}")

    def at(count: int) -> ModelConfig:
        return config.model_copy(update={field: count})

    target = reference.cost.flops_per_answer
    one, two = (segments * flops_per_segment(model, at(count), shape) for count in (1, 2))
    count = round(1 + (target - one) / (two - one))
    if count < 1:
        raise UserError(
            f"{label}: even with {field} = 1 an answer of {model} costs {one / target:.1f} times the reference's; "
            f"tried {field} 1 and 2 at hidden {config.hidden}, inner {config.inner_width}, {segments} segment(s). "
            "Give the arm fewer segments" + (" or layers" if field == "loops" else "")
        )
    return _with_errors(model, at(count), reference, shape, segments)


def _with_errors(model: str, config: ModelConfig, reference: Reference, shape: ModelShape, segments: int) -> Matched:
    """A configuration with what it differs by, counted anew."""
    core, total = _errors(parameters(model, config, shape), reference.groups)
    flops = segments * flops_per_segment(model, config, shape)
    return Matched(config, core, total, flops / reference.cost.flops_per_answer - 1)


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
    return Matched(solved, *_errors(groups, reference))


def _errors(groups: dict[str, int], reference: dict[str, int]) -> tuple[float, float]:
    return _core(groups) / _core(reference) - 1, _total(groups) / _total(reference) - 1


def _core(groups: dict[str, int]) -> int:
    return groups["core"]


def _total(groups: dict[str, int]) -> int:
    return sum(count for name, count in groups.items() if name != "never_trained")
