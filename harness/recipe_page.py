"""docs/recipe.md: every setting of a recipe and of a loop, from the schema. Run `python -m harness.recipe_page`."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness.files import write_atomically
from harness.recipe import Loop, Recipe

PAGE = Path(__file__).parent.parent / "docs" / "recipe.md"

HEAD = """# What a recipe can say

A suite's `recipe` is shared by all arms of a task (`tasks.NAME.recipe` changes it for one task); an arm's `loop` says
how its segments become updates. Every setting is one line in a suite file, or one `--set recipe.KEY=VALUE`, and stands
in the column `recipe` of `runs.csv`. Training options are off unless set.

A suite's `config` gives model settings to every arm at once, such as `config: {dropout: 0.1}` or
`config: {segment_heads: 2}`, under the arm's own.

A loss of one's own needs no change here: in a file given with `--plugin`,

```py
from harness.training.losses import cross_entropy, register_loss


@register_loss("half-softmax")
def half_softmax(prediction, batch):  # [B]: one loss per row, differentiable
    return 0.5 * cross_entropy(prediction.logits, batch.labels, "softmax")
```

and `recipe: {loss: half-softmax}` in the suite. (Made from the schema by `python -m harness.recipe_page`.)
"""


def settings(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted key, default, meaning) of every setting."""
    for name, info in schema.model_fields.items():
        inner = _schema_within(info.annotation)
        if inner is not None and info.description is None and info.default is not None:
            yield from settings(inner, f"{prefix}{name}.")
            continue
        default = "required" if info.is_required() else _text(info.get_default(call_default_factory=True))
        meaning = info.description or ""
        if inner is not None:
            keys = ", ".join(f"`{key}`: {what}" if what else f"`{key}`" for key, _, what in settings(inner))
            meaning = f"{meaning}. Holds {keys}" if meaning else f"Holds {keys}"
        yield prefix + name, default, meaning


def _schema_within(annotation: Any) -> type[BaseModel] | None:
    """The settings that a field holds one or several of, if any."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (types.UnionType, typing.Union, tuple):
        found = [_schema_within(part) for part in typing.get_args(annotation) if part is not Ellipsis]
        return next((schema for schema in found if schema is not None), None)
    return None


def _text(default: Any) -> str:
    if isinstance(default, BaseModel):
        default = {key: value for key, value in default.model_dump().items() if value is not None}
    if default is None:
        return "null"
    return str(default).lower() if isinstance(default, bool) else str(default)


def page() -> str:
    """The page's text."""
    parts = [HEAD]
    for title, schema in (("recipe", Recipe), ("loop", Loop)):
        rows = [f"| `{key}` | `{default}` | {meaning} |" for key, default, meaning in settings(schema)]
        parts += [f"## {title}", "| setting | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    write_atomically(PAGE, lambda file: file.write(page().encode()))
