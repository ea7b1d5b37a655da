"""pass@k: what was sampled is run, by problem and seed alone; and any pretrained model can be asked, offline."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import cli
from harness.errors import MissingData, UserError
from harness.evaluation.pass_at_k import Ask, complete
from harness.evaluation.writers import Arm, Pretrained
from harness.sandbox.scoring import ReferenceFailed
from models.base import ModelShape, create_model
from tasks.base import DataFolder, create_task
from tasks.code import HUMANEVAL, Item

SMALL = {"train_examples": 40, "validation_examples": 8, "test_examples": 8, "ood_examples": 4}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with random weights, a tokenizer and a chat template, as `transformers` saves them."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<eos>"]
    )
    tokenizer.train_from_iterator(["def f(x):\n    return x\n"] * 9, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}\nanswer:\n"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=4096,
    )
    folder = tmp_path_factory.mktemp("llama")
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def problems(count: int = 3) -> list[Any]:
    task: Any = create_task("synthetic-code", SMALL)
    return list(task.whole_problems("test", DataFolder())[:count])


def arm(batch_size: int = 4) -> Arm:
    task: Any = create_task("synthetic-code", SMALL)
    shape, size = ModelShape.of(task), {"hidden": 16, "heads": 2, "inner": 24}
    model = create_model("looped", {**size, "layers": 1}, shape, generator=torch.Generator().manual_seed(0))
    return Arm("toy", model, task.coder, 1, batch_size)


def texts(writer: Any, samples: int, temperature: float, seed: int = 0, count: int = 3) -> list[tuple[str, str]]:
    return [(p.task_id, text) for p, text in writer.write(problems(count), samples, temperature, seed, 6)]


def test_an_arms_samples_depend_on_problem_sample_and_seed_alone() -> None:
    many = texts(arm(), 3, 1.0)
    assert [task for task, _ in many] == [p.task_id for p in problems() for _ in range(3)]
    assert many == texts(arm(batch_size=2), 3, 1.0) != texts(arm(), 3, 1.0, seed=1)
    assert [many[i] for i in (0, 3, 6)] == texts(arm(), 1, 1.0), "more samples begin with the same ones"
    assert len({text for _, text in many}) > 3
    greedy = texts(arm(), 2, 0.0)
    assert greedy[0] == greedy[1]


def test_a_pretrained_model_writes_the_same_for_the_same_seed(llama: Path) -> None:
    model = Pretrained(str(llama))
    one = texts(model, 2, 1.0)
    assert one == texts(model, 2, 1.0) != texts(model, 2, 1.0, seed=1)
    greedy = texts(model, 2, 0.0)
    assert greedy[0] == greedy[1] and len(greedy) == 6
    assert model.about["parameters"] > 0


def test_a_language_model_is_not_asked_for_whole_programs(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="whole program"):
        complete(f"hf:{llama}", Ask(task="mbpp"), DataFolder(), tmp_path / "out")


def test_completions_end_at_the_next_thing_at_the_margin_and_chats_give_their_code_block(llama: Path) -> None:
    plain, chat = Pretrained(str(llama)), Pretrained(str(llama), chat=True)
    assert plain._completion("    return 1\n\ndef other():\n    pass\n") == "    return 1\n"
    assert plain._completion("    x = 1\n    return x\n") == "    x = 1\n    return x\n"
    answer = "Sure!\n```python\ndef f(x):\n    return 1\n```\nIt works."
    assert chat._completion(answer) == "    pass\n\ndef f(x):\n    return 1\n"
    assert "Complete this Python function" in chat._asked(problems(1)[0])


def test_writing_ends_with_the_completion_and_what_is_cut_off_changes_no_text(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written() -> tuple[list[tuple[str, str]], int]:
        model, calls = Pretrained(str(llama)), []
        model.model.register_forward_hook(lambda *_: calls.append(1))
        return [(p.task_id, text) for p, text in model.write(problems(2), 2, 1.0, 0, 40)], len(calls)

    # a random model never writes "def" at the margin, so letters that it writes now and then stand for that
    monkeypatch.setattr("harness.evaluation.writers.STOPS", tuple(string.ascii_letters))
    early, few = written()
    monkeypatch.setattr(Pretrained, "_over", lambda self, text: False)
    whole, many = written()
    assert early == whole
    assert few < many
    monkeypatch.undo()
    chat = Pretrained(str(llama), chat=True)
    assert chat._over("Sure!\n```python\ndef f():\n    return 1\n```")
    assert not chat._over("Sure!\n```python\ndef f():\n\ndef g():\n")


def test_what_is_written_is_run_and_everything_can_be_scored_again(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line to files in HumanEval's formats; a random model solves nothing."""
    arguments = [
        "complete",
        f"hf:{llama}",
        "--task",
        "humaneval",
        "--set",
        "timeout=60",
        "--max-examples",
        "3",
        "--samples",
        "2",
        "--k",
        "1,2",
    ]
    arguments += ["--temperature", "0.8", "--new-tokens", "4", "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (document["pass@1"], document["pass@2"], document["reference"]) == (0.0, 0.0, "3/3")
    assert document["sandbox"] in ("namespaces", "landlock") and document["kernel"]
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and all(row["task_id"].startswith("HumanEval/") for row in rows)
    again = ["score-code", "--samples", str(tmp_path / "out" / "samples.jsonl"), "--k", "1"]
    assert cli.main([*again, "--problems", str(tmp_path / "out" / "problems.jsonl")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pass@1"] == 0.0


def test_nothing_is_written_where_one_of_humanevals_own_solutions_fails(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when the problem that fails is not among the few asked for."""
    monkeypatch.setattr("tasks.humaneval.human_eval_items", planted)
    ask = Ask(settings={"timeout": 60.0, "subset": 2}, most=1)
    monkeypatch.setattr(Pretrained, "write", lambda *_: pytest.fail("it wrote"))
    with pytest.raises(ReferenceFailed, match="1 of 4 reference solutions do not pass"):
        complete(f"hf:{llama}", ask, DataFolder(), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.json*"))


def planted(wrong: int | None = 2) -> tuple[Item, ...]:
    """Four problems in HumanEval's place; one's own solution is wrong."""
    return tuple(
        Item(replace(problem, canonical_solution="    return 'no'\n") if n == wrong else problem, HUMANEVAL)
        for n, problem in enumerate(problems(4))
    )


@pytest.mark.parametrize("task", ["humaneval", "synthetic-code"])
def test_no_run_is_scored_where_one_of_humanevals_own_solutions_fails(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs and `evaluate` ask the task for its verdicts."""
    asked = create_task(task, {"timeout": 60.0})
    few = asked.rows(planted()[:2], 512)
    monkeypatch.setattr("tasks.humaneval.human_eval_items", lambda: planted(None))
    assert asked.judgements(few, few.labels) == ["passed", "passed"]
    monkeypatch.setattr("tasks.humaneval.human_eval_items", planted)
    with pytest.raises(ReferenceFailed, match="1 of 6 reference solutions do not pass"):
        asked.judgements(few, few.labels)


def test_reference_solutions_in_place_of_samples_score_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Knowing:
        name, about = "knowing", {}

        def write(self, asked: Any, samples: int, *rest: Any) -> Any:
            yield from ((problem, problem.canonical_solution) for problem in asked for _ in range(samples))

    from harness.evaluation import pass_at_k

    task = create_task("synthetic-code", SMALL)
    monkeypatch.setattr(pass_at_k, "_writer", lambda source, ask: (Knowing(), task))
    document = complete("anybody", Ask("synthetic-code", split="ood-families"), DataFolder(), tmp_path / "out")
    assert document["pass@1"] == 1.0 and document["problems"] == 4


@pytest.mark.parametrize(
    ("source", "ask", "message"),
    [
        ("hf:/no/such/folder", Ask(), "no such file or folder"),
        ("nowhere", Ask(), "no such run folder"),
        ("hf:x", Ask(task="parity"), "answers are no programs"),
        ("hf:x", Ask(samples=2, ks=(5,)), "pass@k needs at least k samples"),
        ("hf:x", Ask(temperature=-1.0), "must be at least 0"),
        ("nowhere", Ask(chat=True), "only a pretrained language model"),
    ],
)
def test_what_can_not_be_asked_is_refused(source: str, ask: Ask, message: str) -> None:
    with pytest.raises(UserError, match=message):
        complete(source, ask, DataFolder())


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="could not be loaded"):
        Pretrained(str(tmp_path))
