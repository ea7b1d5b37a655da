"""Who writes programs for pass@k: an arm trained here, or any causal language model of `transformers` (`hf:…`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from harness import seeds
from harness.errors import MissingData, UserError
from harness.evaluation.generate import generate
from harness.sandbox.pool import Problem
from models.base import ReasoningModel
from tasks.base import PAD
from tasks.code_text import END, Coder

STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(")
"""Where a language model's completion of a function is over: the next thing at the left margin."""

BLOCK = re.compile(r"```(?:python|py)?\n(.*?)(```|\Z)", re.DOTALL)
"""The first code block of a chat's answer, closed or cut off."""

ASKS = "Complete this Python function. Answer with the whole function in one code block.\n\n```python\n{prompt}```"


class Writer(Protocol):
    name: str
    about: dict[str, Any]

    def write(
        self, problems: Sequence[Problem], samples: int, temperature: float, seed: int, most: int
    ) -> Iterator[tuple[Problem, str]]:
        """`samples` completions of at most `most` tokens for each problem, one after the other; temperature 0: greedy.

        The same arguments give the same texts on one machine.
        """


class Arm:
    """An arm trained here, each token from the trained number of segments."""

    def __init__(self, name: str, model: ReasoningModel, coder: Coder, segments: int, batch_size: int) -> None:
        self.name, self.model, self.coder = name, model, coder
        self.segments, self.batch_size = segments, batch_size
        self.about: dict[str, Any] = {"segments": segments, "prompts_too_long": 0}

    def write(
        self, problems: Sequence[Problem], samples: int, temperature: float, seed: int, most: int
    ) -> Iterator[tuple[Problem, str]]:
        device = next(self.model.parameters()).device
        fitting = [p for p in problems if not self.model.length_problem(len(self.coder.encode(p.prompt)))]
        for problem in (p for p in problems if p not in fitting):  # nothing written, which fails
            self.about["prompts_too_long"] += 1
            yield from ((problem, "") for _ in range(samples))
        wanted = [(problem, sample) for problem in fitting for sample in range(samples)]
        for start in range(0, len(wanted), self.batch_size):
            part = wanted[start : start + self.batch_size]
            coded = [self.coder.encode(problem.prompt) for problem, _ in part]
            length = torch.tensor([len(row) for row in coded], device=device)
            prompts = torch.full((len(part), int(length.max())), PAD, dtype=torch.int32, device=device)
            for row, tokens in zip(prompts, coded, strict=True):
                row[: len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
            lengths = range(1, prompts.shape[1] + most + 1)
            longest = max(n for n in lengths if not self.model.length_problem(n - 1))  # the last token is never read
            # a sample's numbers depend on problem and sample alone, so that more samples begin with the same ones
            keys = torch.tensor([seeds.key("completion", p.task_id, sample) for p, sample in part], device=device)
            written = generate(
                self.model,
                prompts,
                length,
                most,
                segments=self.segments,
                temperature=temperature,
                seed=seed,
                keys=keys,
                stop=(END,),
                longest=longest,
            )
            for (problem, _), tokens in zip(part, written.tokens.tolist(), strict=True):
                yield problem, self.coder.written(tokens)


class Pretrained:
    """A causal language model by hub name, folder or .gguf file, loaded by `transformers` with its own tokenizer."""

    def __init__(self, name: str, chat: bool = False, batch_size: int = 8, device: str = "cpu") -> None:
        self.name, self.chat = Path(name).name.removesuffix(".gguf"), chat
        self.batch_size, self.device = batch_size, device
        self.tokenizer, self.model = _load(name)
        self.model.to(device).eval()
        if chat and not self.tokenizer.chat_template:
            raise UserError(f"--chat: {name} has no chat template; leave the option out")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "left"
        parameters = sum(p.numel() for p in self.model.parameters())
        self.about = {"pretrained": name, "chat_template": chat, "parameters": parameters}

    def write(
        self, problems: Sequence[Problem], samples: int, temperature: float, seed: int, most: int
    ) -> Iterator[tuple[Problem, str]]:
        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
        for start in range(0, len(problems), self.batch_size):
            part = problems[start : start + self.batch_size]
            asked = [self._asked(problem) for problem in part]
            # a chat's text has its special tokens already
            given = self.tokenizer(asked, return_tensors="pt", padding=True, add_special_tokens=not self.chat)
            with torch.random.fork_rng(), torch.inference_mode():
                torch.manual_seed(seeds.key("completion", part[0].task_id, seed))
                texts = self.model.generate(
                    **given.to(self.device),
                    max_new_tokens=most,
                    num_return_sequences=samples if temperature else 1,
                    pad_token_id=self.tokenizer.pad_token_id,
                    stopping_criteria=[self._finished(given["input_ids"].shape[1])],
                    **({"do_sample": False} | drawn),
                )
            each = samples if temperature else 1
            # decoded with its prompt, since some tokenizers drop a leading blank
            begun = self._decoded(given["input_ids"])
            written = [text[len(begun[i // each]) :] for i, text in enumerate(self._decoded(texts))]
            for i, problem in enumerate(part):
                own = [self._completion(text) for text in written[i * each : (i + 1) * each]]
                for text in own if temperature else own * samples:
                    yield problem, text

    def _decoded(self, ids: torch.Tensor) -> list[str]:
        texts: list[str] = self.tokenizer.batch_decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return texts

    def _finished(self, begin: int) -> Callable[..., torch.Tensor]:
        """Which rows are over: what follows their completion is cut off anyway, and is most of what a model writes."""
        over: dict[int, bool] = {}

        def finished(ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
            open_rows = [row for row in range(len(ids)) if not over.get(row)]
            texts = self._decoded(ids[open_rows, begin:])
            over.update((row, self._over(text)) for row, text in zip(open_rows, texts, strict=True))
            return torch.tensor([over[row] for row in range(len(ids))], device=ids.device)

        return finished

    def _over(self, text: str) -> bool:
        if self.chat:
            block = BLOCK.search(text)
            return block is not None and block.group(2) != ""
        return any(stop in text for stop in STOPS)

    def _asked(self, problem: Problem) -> str:
        if not self.chat:
            return problem.prompt
        message = {"role": "user", "content": ASKS.format(prompt=problem.prompt)}
        text: str = self.tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        return text

    def _completion(self, text: str) -> str:
        """What is run behind the prompt: the text up to its first stop, or the whole program of a chat's code block."""
        if self.chat:
            block = BLOCK.search(text)
            return "    pass\n\n" + (block.group(1) if block else text)
        ends = [at for stop in STOPS if (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text


def _load(name: str) -> tuple[Any, Any]:
    """(tokenizer, model). Raises UserError or MissingData with the remedy."""
    import transformers

    path = Path(name)
    folder = path.parent if path.suffix == ".gguf" else path
    more: dict[str, Any] = {}
    if path.exists():
        files = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf"))
        if files and not (folder / "config.json").is_file():
            if len(files) > 1:
                raise UserError(f"hf:{name}: {len(files)} .gguf files are there; name one of them")
            if not _has_gguf():
                raise MissingData(f"hf:{name} is a GGUF file", "pip install -r requirements-pretrained.txt")
            more = {"gguf_file": files[0].name}
    elif path.suffix == ".gguf" or name.startswith(("/", ".", "~")):
        raise UserError(f"hf:{name}: no such file or folder")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **more)
        model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, **more)
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise MissingData(
            f"hf:{name} could not be loaded ({type(error).__name__}: {first})",
            "give a folder with config.json, tokenizer and weights, a .gguf file, or a name that the hub knows",
        ) from error
    return tokenizer, model


def _has_gguf() -> bool:
    import importlib.util

    return all(importlib.util.find_spec(name) for name in ("gguf", "accelerate"))
