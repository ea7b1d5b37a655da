"""Every table's columns, with a sentence each. Writers check against it, readers rely on it, docs/tables.md shows it.

A cell writes its share of each table into its run folder; `collect` joins the shares. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.columns import CELL, Column, columns
from harness.depth_tables import DEPTH_TABLES

SCHEMA_VERSION = 2
"""Raised when a column changes its meaning; a results folder of another version is refused, never misread."""


TRACE_FILE = "traces.json"
"""In a run folder: how the answers to a few test examples form. `collect` puts those of a task's arms side by side into
traces/TASK.json of the results folder."""


GATES_FILE = "gates.json"
"""In a run folder: what the gates on data and on an untrained model of the arm found."""


TIME_COLUMNS = frozenset(
    ("seconds", "seconds_train", "seconds_evaluation", "seconds_per_answer", "peak_memory_mib", "started")
)
"""Columns that differ between two runs of one cell on one machine: all others are the same to the last digit."""

SIDE_CELLS_FILE = "side_cells.json"
"""In a results folder: which controls and tuning trials belong to it."""


TABLES: dict[str, tuple[Column, ...]] = {
    "runs": CELL
    + columns(
        ("status", "str", "finished, failed, diverged, interrupted, planned (not started), or skipped (data absent)."),
        ("reason", "str", "Why a cell is not finished, and the remedy."),
        ("suite", "str", "Suite that asked for the cell."),
        ("model", "str", "Registered model the arm is built from."),
        ("match_reference", "str", "Arm that this arm is matched to; empty for a reference arm."),
        (
            "match_rule",
            "str",
            "What is equal between the two: params; with them train_flops or inference_flops; or inference_flops_only, "
            "where parameters are not matched.",
        ),
        ("match_error_core", "float", "Core parameters, this arm over its reference, minus 1."),
        ("match_error_total", "float", "All trained parameters, this arm over its reference, minus 1."),
        ("match_error_flops", "float", "FLOPs per answer, this arm over its reference, minus 1, whatever the rule."),
        ("parameters_core", "int", "Trained parameters without embeddings, heads and puzzle table."),
        ("parameters_embeddings", "int", "Trained parameters of token and position embeddings."),
        ("parameters_heads", "int", "Trained parameters of the output head and the halting head."),
        ("parameters_puzzle_table", "int", "Trained numbers of the puzzle-embedding table."),
        ("parameters_never_trained", "int", "Fixed numbers the model owns (initial states)."),
        ("parameters_total", "int", "Core, embeddings, heads and puzzle table together."),
        ("layers_per_segment", "int", "Layer applications in one segment."),
        ("layers_per_answer", "int", "Layer applications per answer at the trained number of segments."),
        ("segments", "int", "Largest number of segments in training, and the depth of `fixed` evaluation."),
        ("flops_per_update", "float", "FLOPs of one update of the whole batch, all passes counted as they run."),
        ("flops_train", "float", "FLOPs of the whole training run."),
        ("flops_per_answer", "float", "FLOPs of one answer at the trained number of segments."),
        ("budget_kind", "str", "updates, examples, train_flops or seconds."),
        ("budget", "float", "The budget in that unit."),
        ("batch_size", "int", "Rows per update."),
        ("updates", "int", "Optimizer updates made."),
        ("examples_seen", "int", "Examples drawn from the stream."),
        ("examples_distinct", "int", "Different training examples among them, before augmentation."),
        ("seconds_train", "float", "Seconds of training, evaluation excluded. Compare only on one machine."),
        ("seconds_evaluation", "float", "Seconds of evaluation."),
        (
            "seconds_per_answer",
            "float",
            "Latency: seconds of one answer alone (a batch of one) at the trained number of segments, the fastest of "
            "up to six, run eagerly; of text, written token by token. Compare only on one machine with nothing beside.",
        ),
        ("peak_memory_mib", "float", "Peak memory: of the process on CPU, allocated on CUDA, MiB."),
        ("floor", "float", "Exact accuracy of the best trivial predictor on test."),
        ("selected_update", "int", "Update of the evaluation point chosen on validation."),
        (
            "validation_exact",
            "float",
            "Exact accuracy on validation at that point; where text is written from left to right, the share of "
            "answers that equal the label given its tokens, a lower bound.",
        ),
        ("final_validation_exact", "float", "Exact accuracy on validation at the last point."),
        (
            "test_exact",
            "float",
            "Exact accuracy on test at the trained number of segments (rule `fixed`). Where text is written from left "
            "to right and several are right (causal proofs, code): of what the model wrote token by token, greedily, "
            "each token with that number of segments.",
        ),
        ("test_exact_model", "float", "Exact accuracy on test when the arm halts by its own rule."),
        ("test_exact_oracle", "float", "Share of test examples right at any segment up to the trained number."),
        (
            "test_token",
            "float",
            "Token accuracy on test, rule `fixed`: scored positions right; where text is written from left to right, "
            "given the label's tokens before each (teacher forcing), never of written text.",
        ),
        ("test_halting_step", "float", "Mean segments used on test when the arm halts by its own rule."),
        ("train_examples", "int", "Examples in the training split."),
        ("validation_examples", "int", "Validation examples scored."),
        ("test_examples", "int", "Test examples scored."),
        ("data_hash", "str", "Hash of every byte of the splits."),
        (
            "data_sources",
            "str",
            "Real data read, JSON: file, package or hub data set → SHA-256, version, or commit and SHA-256.",
        ),
        ("task_version", "int", "Version of the task's code."),
        ("device", "str", "cpu or the CUDA device's name."),
        ("precision", "str", "Arithmetic of the forward pass: float32, bfloat16 or float64."),
        ("threads", "int", "CPU threads of the cell."),
        ("engine", "str", "How the model runs: eager or compiled."),
        ("numerics_version", "int", "Raised when the code's arithmetic changes."),
        ("sandbox", "str", "Where written programs were run: namespaces, landlock, or unsandboxed; empty: none ran."),
        ("kernel", "str", "Kernel of that sandbox."),
        ("landlock_abi", "int", "Landlock version of that kernel; 0: none."),
        ("started", "str", "Start, UTC."),
        ("harness_version", "str", "Version of HRM-Bench."),
        ("commit", "str", "Git commit, with + when the tree had changes; empty outside git."),
        ("python", "str", "Python version."),
        ("torch", "str", "torch version."),
        ("numpy", "str", "NumPy version."),
        ("machine", "str", "Processor model, cores and system."),
        ("config", "str", "Resolved model configuration, JSON."),
        ("recipe", "str", "Resolved recipe, JSON."),
        ("settings", "str", "Resolved task settings, JSON."),
        ("notes", "str", "What the task says of its data, and what the runner had to say, | between sentences."),
        ("run_folder", "str", "Folder of the run, relative to the results folder."),
    ),
    "curves": CELL
    + columns(
        ("updates", "int", "Updates made at this evaluation point."),
        ("examples", "int", "Examples drawn from the stream so far."),
        ("flops", "float", "Training FLOPs so far."),
        ("seconds", "float", "Training seconds so far, evaluation excluded."),
        ("learning_rate", "float", "Learning rate of the last update."),
        ("train_loss", "float", "Mean answer loss (cross-entropy per scored position) per row and segment since then."),
        ("train_exact", "float", "Exact accuracy of the rows that were released since the point before."),
        ("train_segments", "float", "Mean segments of those rows."),
        ("validation_exact", "float", "Exact accuracy on validation, rule `fixed`."),
        ("validation_token", "float", "Token accuracy on validation, rule `fixed`."),
        ("selected", "bool", "Whether this point was chosen on validation."),
    ),
    "depth": CELL
    + columns(
        ("split", "str", "test or an out-of-distribution split."),
        ("segments", "int", "Segments allowed."),
        ("exact", "float", "Exact accuracy after exactly that many segments (of written text: per token)."),
        ("token", "float", "Token accuracy after exactly that many segments (of text: given the label's)."),
        ("exact_model", "float", "Exact accuracy when the arm halts by its own rule, at most that many segments."),
        ("exact_oracle", "float", "Share of examples right at any segment up to that many."),
        ("flops_per_answer", "float", "FLOPs of one answer at that many segments."),
        ("beyond_training", "bool", "Whether that is deeper than the arm was trained."),
        ("examples", "int", "Examples scored."),
    ),
    "halting": CELL
    + columns(
        ("split", "str", "test or an out-of-distribution split."),
        ("halting_step", "int", "Segment at which the arm halts by its own rule."),
        ("count", "int", "Examples that halt there."),
        ("exact", "float", "Exact accuracy of those examples."),
        ("difficulty", "float", "Their mean difficulty, in the task's unit."),
    ),
    "metrics": CELL
    + columns(
        ("split", "str", "Split."),
        ("group", "str", "Group of examples (a length, a band), or `all`."),
        ("metric", "str", "exact, token, or a further figure that the task defines."),
        ("stopping", "str", "fixed, model or oracle."),
        ("value", "float", "Mean over the examples."),
        ("examples", "int", "Examples."),
    ),
    "histograms": CELL
    + columns(
        ("split", "str", "Split."),
        ("histogram", "str", "What is counted, a name that the task gives."),
        ("value", "str", "Kind of answer; the rarest are counted together."),
        ("predictions", "int", "Answers of this kind at the trained number of segments."),
        ("labels", "int", "Labels of this kind."),
    ),
    "examples": CELL
    + columns(
        ("split", "str", "Split."),
        ("example_id", "str", "Hash of the example's content: the same in every run."),
        ("group", "str", "Group within the task."),
        ("difficulty", "float", "Difficulty, in the task's unit."),
        ("correct", "bool", "Right at the trained number of segments (rule `fixed`); see test_exact for written text."),
        ("correct_model", "bool", "Right when the arm halts by its own rule."),
        ("correct_oracle", "bool", "Right at any segment up to the trained number."),
        ("token", "float", "Share of scored positions right, rule `fixed`."),
        ("halting_step", "int", "Segment at which the arm halts by its own rule."),
        ("correct_by_segment", "str", "One digit per segment, 1 for right."),
        ("q_halt_by_segment", "str", "Halting logit after each segment, ; between; empty for one-pass arms."),
    ),
    "samples": CELL
    + columns(
        ("split", "str", "Split."),
        ("example_id", "str", "Hash of the example's content: the same in every run."),
        ("group", "str", "Group within the task."),
        ("prompt", "str", "The prompt as text."),
        ("answer", "str", "What the model wrote behind it, greedily, at the trained number of segments."),
        ("label", "str", "The answer that stands as the label."),
        ("correct", "bool", "Whether what was written is right."),
        ("judgement", "str", "Of programs: passed, timed out or failed: reason. Empty where nothing was run."),
    ),
    **DEPTH_TABLES,
    "references": columns(
        ("task", "str", "Task."),
        ("seed", "int", "Seed of the training data that the predictor was fitted on."),
        ("split", "str", "Split."),
        (
            "predictor",
            "str",
            "constant: the most frequent training answer; majority-token: at each position the most frequent token; "
            "copy-input: the input's first positions; lookup: what training answers to the same input, else constant; "
            "exact-solver: the task's own solver, on at most 1,000 examples; or one that the task adds.",
        ),
        ("kind", "str", "floor (a trivial predictor) or ceiling (the exact solver)."),
        ("metric", "str", "exact, token, or a further figure that the task defines."),
        ("value", "float", "Mean over the examples."),
        ("examples", "int", "Examples answered."),
        ("reason", "str", "Why there is no figure, such as a ceiling where inputs were corrupted."),
    ),
    "votes": CELL
    + columns(
        ("puzzle_ids", "str", "own, blank (the table's row that is never trained) or shuffled (another puzzle's)."),
        ("puzzle", "str", "Puzzle that the test example belongs to (an ARC task may have several)."),
        ("example_id", "str", "Hash of the test example's content."),
        ("votes", "int", "Votes cast: variants of the example that were answered, itself included."),
        ("distinct", "int", "Different answers among them, each brought back to the example's own dress."),
        ("rank", "int", "Place of the right answer by votes, then by mean σ(q_halt), then by who came first."),
        ("right_votes", "int", "Votes for a right answer."),
        ("top_votes", "int", "Votes for the answer in first place."),
        ("top_confidence", "float", "Mean σ(q_halt) behind it; empty for arms without a halting head."),
        ("single", "bool", "Single pass: whether the example itself was answered right, cropped as votes are."),
    ),
    "passes": CELL
    + columns(
        ("puzzle_ids", "str", "own, blank or shuffled."),
        ("votes", "int", "Votes per test example, all of one evaluation."),
        ("k", "int", "Answers that may be tried."),
        ("all_or_nothing", "float", "Share of puzzles with a right answer among the first k for every test example."),
        ("fractional", "float", "Mean over puzzles of the share of test examples with one among the first k."),
        ("single_all_or_nothing", "float", "Single pass, no votes: share of puzzles with every test example right."),
        ("single_fractional", "float", "Single pass, no votes: mean over puzzles of the share right."),
        ("puzzles", "int", "Puzzles."),
        ("examples", "int", "Test examples."),
    ),
    "levels": columns(
        ("task", "str", "Task."),
        ("arm", "str", "Arm."),
        ("split", "str", "Split."),
        ("metric", "str", "Metric."),
        ("stopping", "str", "Stopping rule."),
        ("mean", "float", "Mean over seeds and examples."),
        ("low", "float", "Lower end of the 95 % interval over seeds and examples."),
        ("high", "float", "Upper end."),
        ("seeds", "int", "Seeds."),
        ("examples", "int", "Test examples, the same for every seed."),
        ("seed_sd", "float", "Standard deviation between seeds."),
        ("seed_min", "float", "Mean of the lowest seed."),
        ("seed_max", "float", "Mean of the highest seed."),
        ("floor", "float", "The best trivial predictor on that split, mean over seeds; empty where it is not known."),
        ("cells", "str", "Cell ids behind the figure, space between."),
    ),
    "comparisons": columns(
        ("task", "str", "Task."),
        ("split", "str", "Split."),
        ("metric", "str", "Metric."),
        ("stopping", "str", "Stopping rule."),
        ("arm_a", "str", "First arm: the difference is arm_a minus arm_b."),
        ("arm_b", "str", "Second arm."),
        ("role", "str", "primary (fixed in the suite before the run) or secondary."),
        ("matching_rule", "str", "How arm_b was matched to arm_a, or the other way round."),
        ("mean_a", "float", "Mean of arm_a over the paired seeds."),
        ("mean_b", "float", "Mean of arm_b over the paired seeds."),
        ("difference", "float", "mean_a − mean_b, as a fraction."),
        ("low", "float", "Lower end of the paired 95 % interval over seeds and examples."),
        ("high", "float", "Upper end."),
        ("p", "float", "Two-sided p of the interval's procedure: 1 − the largest confidence that leaves out zero."),
        (
            "p_adjusted",
            "float",
            "Holm over the primary comparisons with enough seeds and open gates; decides.",
        ),
        ("p_sign_flip", "float", "Exact two-sided sign-flip test over seeds; beside the verdict, not behind it."),
        (
            "p_equivalence",
            "float",
            "p that the difference lies outside the suite's band: two one-sided tests. At most 0.025 exactly where the "
            "95 % interval lies inside, which is what `no difference` means.",
        ),
        (
            "p_mcnemar",
            "str",
            "Exact two-sided McNemar p of each paired seed, in the order of seeds, space between: of these two trained "
            "networks on new examples; empty for token accuracy.",
        ),
        ("seeds", "int", "Seeds that both arms finished."),
        ("examples", "int", "Examples that both arms answered."),
        ("smallest_detectable", "float", "Difference this design sees with 80 % power at 5 %."),
        (
            "seeds_needed",
            "int",
            "Seeds at which a true difference of the size seen would be found with 80 % power, given the variances "
            "seen; empty where 1,000 would not do.",
        ),
        ("no_contrast", "str", "Why the pair can show no difference: both at the ceiling, or neither above the floor."),
        ("gate", "str", "Why a validity gate lets no verdict pass; empty where all that it needs are open."),
        ("verdict", "str", "better, worse, no difference, cannot tell, or shown, no verdict (too few seeds)."),
        ("sentence", "str", "The verdict as a sentence."),
        ("cells", "str", "Cell ids behind the figure, space between."),
    ),
    "overall": columns(
        (
            "measure",
            "str",
            "iqm: interquartile mean over the arm's runs of all tasks of (exact − floor) / (1 − floor) on test; "
            "improvement: chance that a run of arm beats a run of other on the same task, mean over tasks, ties half.",
        ),
        ("arm", "str", "Arm."),
        ("other", "str", "The arm it is set against; empty for iqm."),
        ("value", "float", "The figure."),
        ("low", "float", "Lowest value with any one task taken out; empty for one task."),
        ("high", "float", "Highest value with any one task taken out."),
        ("tasks", "int", "Tasks."),
    ),
    "gates": columns(
        ("task", "str", "Task."),
        ("arm", "str", "Arm."),
        ("gate", "str", "Validity gate, G-leak to G-neg."),
        ("result", "str", "passed, failed, not run, or does not apply."),
        ("figure", "str", "What was found."),
        ("reason", "str", "What the gate asks for."),
    ),
    "pareto": columns(
        ("task", "str", "Task."),
        ("arm", "str", "Arm."),
        (
            "cost",
            "str",
            "parameters_core, parameters_total, flops_train, flops_per_answer, seconds_train or seconds_per_answer.",
        ),
        ("value", "float", "The cost, mean over the arm's runs."),
        ("exact", "float", "Exact accuracy on test, rule `fixed`, mean over the runs."),
        (
            "on_front",
            "bool",
            "Whether no other arm of the task costs as little and is as accurate, and better in one of both. Costs "
            "within 5 % count as equal. A statement on means: what is settled stands in comparisons.csv.",
        ),
        ("beaten_by", "str", "Arms that are better so, space between."),
        ("cells", "str", "Cell ids behind the figures, space between."),
    ),
    "tuning": CELL
    + columns(
        ("trial", "int", "Number of the trial; 0 is the suite's own recipe."),
        ("learning_rate", "float", "Peak learning rate of the trial."),
        ("weight_decay", "float", "Weight decay of the trial."),
        ("updates", "int", "Updates of every trial, the same for all arms."),
        ("status", "str", "finished, diverged (made, never chosen), failed, or planned (not run yet)."),
        ("reason", "str", "Why it is not finished."),
        ("validation_exact", "float", "Exact accuracy on validation at the trial's best evaluation point. Decides."),
        ("validation_token", "float", "Token accuracy there, for trials that are equal in exact accuracy."),
        ("selected", "bool", "Whether the arm's runs on the task took these values."),
        ("run_folder", "str", "Folder of the trial, relative to the results folder."),
    ),
    "claims": columns(
        ("claim", "str", "R01 to R40, and headline claims of the HRM paper, the TRM paper and ARC Prize."),
        ("says", "str", "The claim, as it is tested here."),
        ("source", "str", "Who made it."),
        ("stated", "str", "The published figure, by the source's own protocol."),
        ("kind", "str", "compare, level, static (settled by computation) or citation."),
        (
            "fidelity",
            "str",
            "exact: the published setting; proxy: another size, data or budget. A proxy says nothing of a published "
            "level. Empty where nothing was run.",
        ),
        ("measured", "str", "What was measured here, task by task, with 95 % intervals."),
        ("verdict", "str", "supported, refuted, cannot tell, or not testable."),
        ("reason", "str", "Why."),
        ("gates", "str", "Gates that must have passed, space between."),
        ("command", "str", "Command that runs the cells it needs."),
        ("cells", "str", "Cell ids behind the figures, space between."),
    ),
}

BETWEEN: tuple[Column, ...] = columns(
    ("task", "str", "Task."),
    ("arm", "str", "Arm: the same name in both folders."),
    ("split", "str", "Split; exact accuracy, stopping rule `fixed`."),
    ("mean_a", "float", "Mean in folder A over the paired seeds."),
    ("mean_b", "float", "Mean in folder B."),
    *(
        column
        for column in TABLES["comparisons"]
        if column.name in ("low", "high", "p", "p_sign_flip", "p_mcnemar", "smallest_detectable", "seeds_needed")
    ),
    ("difference", "float", "mean_a − mean_b, as a fraction."),
    ("p_equivalence", "float", "p that the difference lies outside the band of folder A's suite."),
    ("p_adjusted", "float", "Holm over the rows of split test that have enough seeds and open gates; decides there."),
    ("seeds", "int", "Seeds paired: finished in both folders on the same data."),
    ("examples", "int", "Examples that both folders scored."),
    ("verdict", "str", "better (A than B), worse, no difference, cannot tell, or shown, no verdict."),
    ("reason", "str", "Why there is no plain verdict, or no figure."),
    ("not_paired", "str", "Seeds of either folder that are not in the figure, and why."),
    ("differs", "str", "What the arm has otherwise in B: settings of model, recipe and task, machine, precision."),
    ("cells_a", "str", "Cell ids behind folder A's mean."),
    ("cells_b", "str", "Cell ids behind folder B's mean."),
)
"""between.csv, which `compare RESULTS_A RESULTS_B` writes: one row per task, arm and split of two results folders."""

RUN_TABLES = ("curves", "depth", "halting", "metrics", "histograms", "examples")
"""Tables of which every finished run folder holds a share."""

SAMPLES = "samples"
"""The table of which a run folder holds a share where its answers were written token by token."""

STATES = "states"
"""The table of which a run folder holds a share where the arm carries states from segment to segment."""

SANDBOX = ("sandbox", "kernel", "landlock_abi")
"""Columns of runs.csv that say where written programs were run."""

LATER = (*SANDBOX, "seconds_per_answer")
"""Columns of runs.csv that came after others: a record that lacks them is read as if they were empty."""

UNSANDBOXED = "unsandboxed"
MARK = "sandbox"
"""A column at the end of every other table too, once a run was made with --allow-unsafe: harness/analysis/unsafe.py."""

VOTE_TABLES = ("votes", "passes")
"""Tables of which a run folder holds a share where its recipe asks for votes."""


def names(table: str) -> list[str]:
    return [column.name for column in TABLES[table]]


def check_rows(table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise KeyError when a row lacks a column or has one that the schema does not know."""
    expected = set(names(table))
    for row in rows:
        if row.keys() != expected:
            raise KeyError(f"table {table}: columns {sorted(row.keys() ^ expected)} missing or unknown")


def markdown() -> str:
    """docs/tables.md: every table with a sentence per column."""
    parts = [
        "# The tables\n",
        "Generated from `harness/tables.py` by `python -m harness.tables`; a test keeps it true.",
        "Fractions are between 0 and 1. An empty field means that the column does not apply.\n",
        f"Where programs ran without isolation (`--allow-unsafe`), every table has one more column, `{MARK}`, at its "
        "end: `unsandboxed` in each row that rests, or may rest, on such programs.\n",
    ]
    for table, content in TABLES.items():
        file = "examples.csv.gz" if table == "examples" else f"{table}.csv"
        parts.append(f"## {file}\n\n| column | type | meaning |\n|---|---|---|")
        parts += [f"| `{c.name}` | {c.kind} | {c.meaning} |" for c in content]
        parts.append("")
    parts.append("## between.csv\n\nWritten by `compare RESULTS_A RESULTS_B`; it is in no results folder.\n")
    parts.append("| column | type | meaning |\n|---|---|---|")
    parts += [f"| `{c.name}` | {c.kind} | {c.meaning} |" for c in BETWEEN]
    parts.append("")
    parts.append(
        "## traces/TASK.json\n\nHow the answers to a task's first test examples form, segment by segment, one run per "
        "arm: what the report's example browser shows. `q_halt` is a logit; an answer that stays as it was is null.\n"
    )
    return "\n".join(parts)


if __name__ == "__main__":
    from pathlib import Path

    Path("docs/tables.md").write_text(markdown(), encoding="utf-8")
