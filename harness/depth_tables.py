"""Columns of the tables that look into an answer's depth: halting heads, flips, stopping, effort, states."""

from __future__ import annotations

from harness.columns import CELL, Column, columns

DEPTH_TABLES: dict[str, tuple[Column, ...]] = {
    "calibration": CELL
    + columns(
        ("split", "str", "test or an out-of-distribution split."),
        ("segments", "int", "Segments run: 1, 2, 4 … and the trained number."),
        ("trained", "bool", "Whether that is the trained number, the depth of `fixed`."),
        (
            "auroc",
            "float",
            "Chance that the halting logit q_halt after that segment is higher for a right answer of that segment than "
            "for a wrong one, ties counted half; 0.5 is a head that knows nothing. q_halt is what both halting rules "
            "train to predict whether the answer is right; q_learning halts where it exceeds q_continue, q_halt where "
            "it exceeds 0.",
        ),
        (
            "calibration_error",
            "float",
            "Expected calibration error of σ(q_halt): 15 equally wide bins, mean |share right − mean σ(q_halt)|, "
            "weighted by their examples.",
        ),
        ("confidence", "float", "Mean σ(q_halt)."),
        ("right", "int", "Examples right after that segment."),
        ("wrong", "int", "Examples wrong after that segment."),
        ("reason", "str", "Why there is no AUROC."),
    ),
    "reliability": CELL
    + columns(
        ("split", "str", "test or an out-of-distribution split."),
        ("low", "float", "Lower end of the bin of σ(q_halt) after the trained number of segments; 15 equally wide."),
        ("high", "float", "Upper end."),
        ("confidence", "float", "Mean σ(q_halt) of the bin's examples."),
        ("right", "int", "Of them, how many are right."),
        ("examples", "int", "Examples in the bin; bins without any have no row."),
    ),
    "flips": CELL
    + columns(
        ("split", "str", "test or an out-of-distribution split."),
        ("segments", "int", "Segments run, from 2."),
        ("gained", "int", "Examples that were wrong after the segment before and are right after this one."),
        ("lost", "int", "Examples that were right after the segment before and are wrong after this one."),
        ("right", "int", "Examples right after this segment."),
        ("examples", "int", "Examples scored."),
        ("beyond_training", "bool", "Whether that is deeper than the arm was trained."),
    ),
    "stopping": CELL
    + columns(
        ("split", "str", "test or an out-of-distribution split."),
        (
            "stopping",
            "str",
            "fixed: all segments allowed; model: where the arm halts by its own rule; oracle: at the first right "
            "answer, an upper bound; both at the latest after all allowed.",
        ),
        ("segments", "int", "Segments allowed: 1, 2, 4 … and the trained number."),
        ("segments_used", "float", "Mean segments used under that rule."),
        ("flops_per_answer", "float", "FLOPs of the mean answer under that rule."),
        ("exact", "float", "Exact accuracy under that rule."),
        ("examples", "int", "Examples scored."),
    ),
    "effort": CELL
    + columns(
        ("split", "str", "test or an out-of-distribution split."),
        ("spearman", "float", "Spearman's rank correlation of halting step and difficulty over the examples."),
        ("low", "float", "Lower end of its 95 % interval over examples, for this trained network (Fisher's z)."),
        ("high", "float", "Upper end."),
        ("examples", "int", "Examples of known difficulty."),
        ("reason", "str", "Why there is none: all equally difficult, or all halt at the same step."),
    ),
    "states": CELL
    + columns(
        ("state", "str", "Name of the state: z_H and z_L in HRM, z in a looped transformer."),
        ("segments", "int", "Segments run."),
        ("residual", "float", "‖z_k − z_(k−1)‖ / ‖z_k‖ by example, mean over the examples; z_0 is the initial state."),
        ("norm", "float", "Root mean square of the state's entries."),
        (
            "participation_ratio",
            "float",
            "(Σλ)² / Σλ² of the covariance's eigenvalues, of the state's vectors at all positions of all examples: how "
            "many dimensions they fill. At most `width`; empty for fewer than two vectors.",
        ),
        ("width", "int", "Dimensions of a vector."),
        ("vectors", "int", "Vectors: examples × positions."),
        ("examples", "int", "Examples: the first of test, those of the example browser."),
        ("beyond_training", "bool", "Whether that is deeper than the arm was trained."),
    ),
}
