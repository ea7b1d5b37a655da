"""A results folder as a suite would leave it, with accuracies of our choosing: for tests of tables and report.

Every example has a latent hardness that all seeds and arms share; a seed shifts an arm's ability. An arm of several
segments gets better with each until its trained depth, and worse a little beyond.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis.audit import BEFORE
from harness.files import write_json
from harness.seeds import generator
from harness.tables import GATES_FILE, RUN_TABLES, SCHEMA_VERSION, SIDE_CELLS_FILE, STATES, TRACE_FILE, names

SEGMENTS = {"hrm": 8, "transformer": 1, "transformer-flops": 8, "looped": 8, "trm": 8}
LAYERS = {"hrm": 24, "transformer": 8, "transformer-flops": 24, "looped": 24, "trm": 21}
MATCH = {"transformer": "params", "transformer-flops": "params+inference_flops", "looped": "inference_flops"}
SUMMARY = {
    "hrm": "Hierarchical Reasoning Model: 2 H-cycles of 2 L-cycles, 4+4 layers, halting head",
    "transformer": "8 layers, one pass",
    "transformer-flops": "8 layers, weight-tied, looped with deep supervision",
}


@dataclass
class FakeTask:
    """One task. `accuracy[arm]` is the mean exact accuracy on test, `ood[arm]` that on the split `ood-length`."""

    accuracy: dict[str, float]
    seeds: int = 6
    examples: int = 200
    floor: float = 0.0
    seed_sd: float = 0.02
    twins: bool = False  # all arms right and wrong on the same examples
    ood: dict[str, float] | None = None
    ood_floor: float = 0.0
    group_word: str | None = "length"  # None: one group only
    unit: str = "bits"
    skipped: str | None = None
    failed: dict[tuple[str, int], str] = field(default_factory=dict)  # (arm, seed) → status
    text: dict[str, Any] = field(default_factory=dict)  # fields of suite.json
    scale: float = 1.0  # parameters and FLOPs
    traced: int = 0  # examples in traces.json, 4×4 grids that become right field by field


def build(root: Path, tasks: dict[str, FakeTask], name: str = "tiny", **suite: Any) -> Path:
    """Write `root/<name>/` and return it."""
    results = root / name
    cells = []
    for task, spec in tasks.items():
        for arm in spec.accuracy:
            for seed in range(spec.seeds):
                cell_id = f"{generator(task, arm, seed).integers(2**48):012x}"
                folder = f"runs/{task}/{arm}/seed{seed}-{cell_id}"
                cell = {"cell_id": cell_id, "task": task, "arm": arm, "seed": seed}
                skipped = spec.skipped is not None
                plan = {"status": "skipped" if skipped else "planned", "reason": spec.skipped}
                cells.append(cell | plan | {"run_folder": None if skipped else folder})
                status = spec.failed.get((arm, seed), "finished")
                if not skipped and status != "planned":
                    _run(results / folder, cell, spec, status, name, folder)
                    found = [{"gate": gate, "result": "passed", "figure": "0 of 200"} for gate in BEFORE]
                    write_json(results / folder / GATES_FILE, found)
    write_json(results / "cells.json", cells)
    write_json(results / "suite.json", _suite(name, tasks) | suite)
    side = [_control(results, task, arm, spec) for task, spec in tasks.items() for arm in spec.accuracy]
    write_json(results / SIDE_CELLS_FILE, side)
    write_json(results / "references.json", [row for task, spec in tasks.items() for row in _references(task, spec)])
    return results


def _control(results: Path, task: str, arm: str, spec: FakeTask) -> dict[str, Any]:
    """A training on shuffled labels that stayed at chance."""
    folder = f"controls/{task}/{arm}/seed0"
    side = {"cell_id": "c0", "purpose": "control", "task": task, "arm": arm, "seed": 0, "updates": 50}
    found = {"status": "finished", "reason": None, "test_exact": spec.floor, "floor": spec.floor, "test_examples": 200}
    write_json(results / folder / "record.json", side | found)
    return side | {"run_folder": folder}


def _suite(name: str, tasks: dict[str, FakeTask]) -> dict[str, Any]:
    arms = list(dict.fromkeys(arm for spec in tasks.values() for arm in spec.accuracy))
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "title": f"Suite {name}: does HRM beat a fairly matched transformer?",
        "summary": "Small models, small data, on two CPU cores.",
        "proxy": True,
        "limits": ["Models have 0.3 M parameters; nothing here speaks of models of 27 M."],
        "command": f"python run_benchmarks.py --suite {name} --jobs 2",
        "created": "2026-01-05T09:30:00+00:00",
        "recipe": {"optimizer": {"name": "adamw", "learning_rate": 0.001}, "batch_size": 64, "precision": "float32"},
        "arms": {
            arm: {
                "model": arm.split("-")[0],
                "summary": SUMMARY.get(arm, arm),
                "match": {"to": "hrm", "rule": MATCH[arm]} if arm in MATCH and "hrm" in arms else None,
            }
            for arm in arms
        },
        "tasks": {task: _task(task, spec) for task, spec in tasks.items()},
        "machine": {"processor": "AMD EPYC, 2 cores", "memory": "24 GiB", "system": "Linux 6.1", "gpu": None},
        "minimum_seeds": 5,
        "equivalence_band": 0.01,
    }


def _task(task: str, spec: FakeTask) -> dict[str, Any]:
    arms = list(spec.accuracy)
    return {
        "summary": f"The task {task}.",
        "exact_means": "every position of the answer equals the label",
        "difficulty_unit": spec.unit,
        "floor_note": "most frequent training answer, or the input copied, whichever is better",
        "real_data": False,
        "source": "generated",
        "scaling": "1/10 of the published number of examples",
        "settings": {"test_examples": spec.examples},
        "metric_notes": {"valid": "Accepted by the verifier."},
        "arms": arms,
        "seeds": spec.seeds,
        "primary": {"arms": arms[:2], "metric": "exact", "split": "test", "stopping": "fixed"},
        "recipe": {},
    } | spec.text


def _references(task: str, spec: FakeTask) -> list[dict[str, Any]]:
    """Floors and ceiling; those of the shifted split are known here alone."""
    if spec.skipped:
        return []
    floors = {"test": spec.floor} | ({"ood-length": spec.ood_floor} if spec.ood else {})
    return [
        {"task": task, "seed": seed, "split": split, "predictor": name, "kind": kind, "metric": "exact",
         "value": value, "examples": spec.examples, "reason": None}
        for seed in range(spec.seeds)
        for split, floor in floors.items()
        for name, kind, value in (("constant", "floor", floor), ("exact-solver", "ceiling", 1.0))
    ]  # fmt: skip


def _run(folder: Path, cell: dict[str, Any], spec: FakeTask, status: str, suite: str, run_folder: str) -> None:
    folder.mkdir(parents=True)
    if status == "interrupted":
        write_json(folder / "cell.json", cell)
        return
    record = dict.fromkeys(names("runs")) | cell | {"status": status, "suite": suite, "run_folder": run_folder}
    if status == "finished":
        record |= _tables(folder, cell, spec)
    else:
        record["reason"] = "loss is not finite at update 120; lower the learning rate"
    write_json(folder / "record.json", record)


def _answers(cell: dict[str, Any], spec: FakeTask, split: str, level: float, depth: int) -> dict[str, np.ndarray]:
    """Right or wrong [E, depth] and what goes with it. Examples are the same for every arm and seed."""
    task, arm, seed = cell["task"], cell["arm"], cell["seed"]
    shared, own = generator(task, split), generator(task, split, "twin" if spec.twins else arm, seed)
    n = spec.examples
    difficulty = np.floor(shared.uniform(1, 13, n)) + (12 if split != "test" else 0)
    hardness = difficulty / 6 + shared.normal(size=n)
    score = hardness + own.normal(size=n)
    wanted = np.clip(level + spec.seed_sd * own.normal(), 0, 1) if 0 < level < 1 else level
    trained = SEGMENTS[arm]
    growth = [wanted * (1 - 0.6 ** min(k, trained)) / (1 - 0.6**trained) * 0.99 ** max(0, k - trained)
              for k in range(1, depth + 1)]  # fmt: skip
    right = np.stack([score <= np.quantile(score, g) if g > 0 else np.zeros(n, bool) for g in growth], axis=1)
    q_halt = np.where(right, 2.0, -2.0) + own.normal(size=right.shape)
    wish = q_halt[:, :trained] > 0
    wish[:, -1] = True
    return {"difficulty": difficulty, "right": right, "q_halt": q_halt, "step": wish.argmax(1) + 1}


def _tables(folder: Path, cell: dict[str, Any], spec: FakeTask) -> dict[str, Any]:
    arm = cell["arm"]
    trained, depth = SEGMENTS[arm], 2 * SEGMENTS[arm] if SEGMENTS[arm] > 1 else 1
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in RUN_TABLES}
    scores: dict[str, float] = {}
    flops = 1e6 * LAYERS[arm] * spec.scale
    levels = {"test": spec.accuracy[arm]} | ({"ood-length": spec.ood[arm]} if spec.ood else {})
    for split, level in levels.items():
        a = _answers(cell, spec, split, level, depth)
        right, step, n = a["right"], a["step"], spec.examples
        fixed, halted, oracle = right[:, trained - 1], right[np.arange(n), step - 1], right[:, :trained].any(1)
        if split == "test":
            scores = {"exact": fixed.mean(), "model": halted.mean(), "oracle": oracle.mean(), "step": step.mean()}
        for k in [k for k in (1, 2, 4, 8, 16) if k <= depth]:
            rows["depth"].append({
                "split": split, "segments": k,
                "exact": right[:, k - 1].mean(), "token": 0.5 + right[:, k - 1].mean() / 2,
                "exact_model": right[np.arange(n), np.minimum(step, k) - 1].mean(),
                "exact_oracle": right[:, :k].any(1).mean(), "flops_per_answer": flops * k,
                "beyond_training": k > trained, "examples": n,
            })  # fmt: skip
        if trained > 1:
            for k in np.unique(step):
                at = step == k
                rows["halting"].append({
                    "split": split, "halting_step": int(k), "count": int(at.sum()),
                    "exact": halted[at].mean(), "difficulty": a["difficulty"][at].mean(),
                })  # fmt: skip
        groups = [f"{spec.group_word} {int(d)}" if spec.group_word else "all" for d in a["difficulty"]]
        for group in ["all", *sorted(set(groups) - {"all"})]:
            at = np.array([group in ("all", g) for g in groups])
            for metric, values in (("exact", fixed), ("valid", fixed | (a["difficulty"] > 9))):
                rows["metrics"].append({"split": split, "group": group, "metric": metric, "stopping": "fixed",
                                        "value": values[at].mean(), "examples": int(at.sum())})  # fmt: skip
        for i in range(n):
            rows["examples"].append({
                "split": split, "example_id": f"{split}{i:08d}", "group": groups[i], "difficulty": a["difficulty"][i],
                "correct": fixed[i], "correct_model": halted[i], "correct_oracle": oracle[i],
                "token": 0.5 + fixed[i] / 2, "halting_step": int(step[i]),
                "correct_by_segment": "".join("01"[int(r)] for r in right[i]),
                "q_halt_by_segment": ";".join(f"{q:.2f}" for q in a["q_halt"][i]) if trained > 1 else None,
            })  # fmt: skip
    updates, per_update = 600, 3.2 * 64 * flops
    random = generator(cell["task"], arm, cell["seed"], "curve")
    for u in range(0, updates + 1, 50):
        level = spec.accuracy[arm] * (1 - np.exp(-4 * u / updates)) + 0.01 * abs(random.normal())
        rows["curves"].append({
            "updates": u, "examples": 64 * u, "flops": per_update * u,
            "seconds": u * flops * 1e-8 * (1 + 0.1 * random.random()),
            "learning_rate": 0.001, "train_loss": 2 - level, "train_exact": level, "train_segments": trained / 2,
            "validation_exact": min(1.0, level), "validation_token": 0.5 + min(1.0, level) / 2,
            "selected": u == updates,
        })  # fmt: skip
    if trained > 1:
        rows[STATES] = _states(arm, trained, depth, random)
    for table, content in rows.items():
        _write(folder, table, [cell | row for row in content])
    if spec.traced:
        write_json(folder / TRACE_FILE, _traces(cell, spec, trained, depth))
    best = max(row["validation_exact"] for row in rows["curves"])
    core = int(262_144 * spec.scale * (1.004 if arm != "hrm" else 1))
    return {
        "model": arm.split("-")[0], "match_reference": "hrm" if arm in MATCH else None, "match_rule": MATCH.get(arm),
        "match_error_core": 0.004 if arm in MATCH else None, "match_error_total": 0.003 if arm in MATCH else None,
        "match_error_flops": 0.01 if arm in MATCH else None,
        "parameters_core": core, "parameters_embeddings": 2048, "parameters_heads": 1170 if trained > 1 else 1040,
        "parameters_puzzle_table": 0, "parameters_never_trained": 128 if arm == "hrm" else 0,
        "parameters_total": core + 3218, "layers_per_segment": LAYERS[arm], "layers_per_answer": LAYERS[arm] * trained,
        "segments": trained, "flops_per_update": per_update, "flops_train": per_update * updates,
        "flops_per_answer": flops * trained, "budget_kind": "updates", "budget": updates, "batch_size": 64,
        "updates": updates, "examples_seen": 64 * updates, "examples_distinct": 4000,
        "seconds_train": updates * flops * 1e-8, "seconds_evaluation": 1.5,
        "seconds_per_answer": flops * trained * 1e-10, "peak_memory_mib": 412.0,
        "floor": spec.floor, "selected_update": updates, "validation_exact": best,
        "final_validation_exact": spec.accuracy[arm],
        "test_exact": scores["exact"], "test_exact_model": scores["model"],
        "test_exact_oracle": scores["oracle"], "test_token": 0.5 + scores["exact"] / 2,
        "test_halting_step": scores["step"], "train_examples": 4000, "validation_examples": 500,
        "test_examples": spec.examples, "data_hash": "0" * 64, "task_version": 1, "device": "cpu",
        "precision": "float32", "threads": 1, "engine": "loop", "numerics_version": 1,
        "started": "2026-01-05T09:31:00+00:00", "harness_version": "0.1.0", "commit": "7676a01", "python": "3.11.9",
        "torch": "2.13.0", "numpy": "2.4.6", "machine": "AMD EPYC, 2 cores, Linux",
        "config": json.dumps({"width": 64, "layers": LAYERS[arm] // 3, "segments": trained, "halting": trained > 1}),
        "recipe": json.dumps({"batch_size": 64, "rollout": 1, "optimizer": {"name": "adamw", "learning_rate": 0.001},
                              "loop": {"segments": trained}}),
        "settings": json.dumps({"test_examples": spec.examples}), "notes": None,
    }  # fmt: skip


def _states(arm: str, trained: int, depth: int, random: np.random.Generator) -> list[dict[str, Any]]:
    """States that come to rest, those of hrm later than others, H filling more dimensions than L."""
    return [
        {"state": state, "segments": k, "norm": 1.0,
         "residual": (0.9 if arm == "hrm" else 0.7) ** k + 0.01 * random.random(),
         "participation_ratio": full * (1 + 0.02 * k), "width": 64, "vectors": 384, "examples": 24,
         "beyond_training": k > trained}
        for state, full in ((("z_H", 20.0), ("z_L", 8.0)) if arm == "hrm" else (("z", 12.0),))
        for k in range(1, depth + 1)
    ]  # fmt: skip


def _traces(cell: dict[str, Any], spec: FakeTask, trained: int, depth: int) -> dict[str, Any]:
    """Example i has 2 i wrong fields at first, one fewer with each segment; the arm hrm alone ever gets them all."""
    examples = []
    for i in range(spec.traced):
        label = [1 + (3 * i + k) % 4 for k in range(16)]
        wrong = [max(0 if cell["arm"] == "hrm" else min(i, 1), 2 * i - m) for m in range(depth)]
        answers = [[1 + t % 4 if k < bad else t for k, t in enumerate(label)] for bad in wrong]
        shown = [None if m and answers[m] == answers[m - 1] else answer for m, answer in enumerate(answers)]
        examples.append({
            "id": f"test{i:08d}", "group": "", "difficulty": float(i), "input": [0] * 8 + label[8:], "label": label,
            "answers": shown, "right": [int(not bad) for bad in wrong],
            "q_halt": [1.0 - bad for bad in wrong] if trained > 1 else None, "halts": min(trained, 2 * i + 1),
        })  # fmt: skip
    return {"columns": 4, "symbols": ["_", "1", "2", "3", "4"], "trained": trained, "examples": examples}


def _write(folder: Path, table: str, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, names(table), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    if table == "examples":
        (folder / "examples.csv.gz").write_bytes(gzip.compress(data, mtime=0))
    else:
        (folder / f"{table}.csv").write_bytes(data)
