"""Claims of the field: supported, refuted or cannot tell, each with its reason, from what a suite measured.

claims.yaml lists them. The rule: gates come first (one that failed or did not run leaves a claim open); static claims
are computed (harness/static_figures.py); the others are judged task by task from intervals (evidence.py) and joined.
A figure of full size is never confirmed or refuted by a scaled-down run; such a run gives a *proxy* verdict on claims
that say which of two is better, and none on a level.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, model_validator

from harness.analysis import evidence
from harness.analysis.evidence import Evidence, Outcome
from harness.errors import UserError, did_you_mean
from harness.files import read_json
from harness.schema import STRICT, validated

Row = dict[str, Any]

SUPPORTED, REFUTED, CANNOT_TELL, NOT_TESTABLE = "supported", "refuted", "cannot tell", "not testable"

FILE = Path(__file__).parent / "claims.yaml"
STATIC = Path(__file__).parent / "static_figures.json"


class Reproduce(BaseModel):
    """The cells that a claim needs."""

    model_config = STRICT

    suite: str
    tasks: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: int = Field(ge=1)


class Claim(BaseModel):
    """One claim. Exactly one of measure, untested and untestable says how it is judged."""

    model_config = STRICT

    says: str
    source: tuple[str, ...] = Field(min_length=1)
    stated: str
    kind: Literal["compare", "level", "static", "citation"]
    measure: dict[str, Any] | None = Field(None, description="one of evidence.MEASURES, or static")
    all: bool = Field(False, description="one task or pair that refutes it refutes the whole")
    tasks: tuple[str, ...] = Field(("*",), description="patterns of task names it is about")
    full_scale: bool = Field(False, description="its figure is one of full size: a proxy suite says nothing of it")
    gates: tuple[str, ...] = ()
    untested: str | None = None
    untestable: str | None = None
    reproduce: Reproduce | None = None

    @model_validator(mode="after")
    def _one_way_to_judge(self) -> Claim:
        if sum(way is not None for way in (self.measure, self.untested, self.untestable)) != 1:
            raise ValueError("give one of measure, untested and untestable")
        known = {*evidence.MEASURES, "static"}
        if self.measure is not None and not known & self.measure.keys():
            raise ValueError(f"measure: one of {', '.join(sorted(known))}")
        return self


class Registry(BaseModel):
    model_config = STRICT

    sources: dict[str, str]
    claims: dict[str, Claim]

    @model_validator(mode="after")
    def _sources_exist(self) -> Registry:
        for name, claim in self.claims.items():
            for source in claim.source:
                if source not in self.sources:
                    raise ValueError(f"claims.{name}.source: no source {source}")
        return self


@cache
def registry() -> Registry:
    """claims.yaml, checked."""
    return validated(Registry, yaml.safe_load(FILE.read_text(encoding="utf-8")), FILE.name)


def find(name: str) -> Claim:
    """The claim of that name. Raises UserError with the nearest ones."""
    claims = registry().claims
    if name not in claims:
        raise UserError(f'unknown claim "{name}"{did_you_mean(name, claims)}; claims are R01 to R40 and others')
    return claims[name]


def judged(of: Evidence, claims: Mapping[str, Claim] | None = None) -> list[Row]:
    """Rows of claims.csv, in the order of claims.yaml, or of these claims.

    All are measured on one task before the next, so that one task's examples are kept at a time.
    """
    claims = registry().claims if claims is None else claims
    measured: dict[str, list[Outcome]] = {name: [] for name in claims}
    for task in of.suite.tasks:
        for name, claim in claims.items():
            measured[name] += _measured(claim, of, task)
        of.forget()
    static = read_json(STATIC)
    return [judge(name, claim, of, measured[name], static) for name, claim in claims.items()]


def judge(name: str, claim: Claim, of: Evidence, outcomes: Sequence[Outcome], static: Mapping[str, Any]) -> Row:
    """One claim's row, from its outcomes on all tasks."""
    if claim.untestable is not None:
        verdict, reason = NOT_TESTABLE, claim.untestable
    elif claim.untested is not None:
        verdict, reason = CANNOT_TELL, claim.untested
    elif "static" in (claim.measure or {}):
        figure = static[name]
        verdict, reason = SUPPORTED if figure["holds"] else REFUTED, "computed, no run needed"
        outcomes = [Outcome("", figure["measured"], figure["holds"], "")]
    else:
        verdict, reason = join(claim, of, outcomes)
    settled = claim.kind in ("static", "citation") or not outcomes
    return {
        "claim": name,
        "says": claim.says,
        "source": "; ".join(registry().sources[source] for source in claim.source),
        "stated": claim.stated,
        "kind": claim.kind,
        "fidelity": None if settled else "exact" if claim.full_scale and not of.suite.proxy else "proxy",
        "measured": "; ".join(f"{o.where}: {o.measured}" if o.where else o.measured for o in outcomes) or None,
        "verdict": verdict,
        "reason": reason,
        "gates": " ".join(claim.gates) or None,
        "command": f"python run_benchmarks.py reproduce {name}" if claim.reproduce or claim.kind == "static" else None,
        "cells": " ".join(dict.fromkeys(cell for o in outcomes for cell in o.cells.split())) or None,
    }


def _measured(claim: Claim, of: Evidence, task: str) -> Iterator[Outcome]:
    """The claim's outcomes on a task, if it is about it, with a failed gate's reason in place of the outcome."""
    measure = claim.measure or {}
    for name in evidence.MEASURES.keys() & measure.keys():
        if any(fnmatchcase(task, pattern) for pattern in claim.tasks):
            for outcome in evidence.MEASURES[name](of, task, measure):
                shut = of.shut(claim.gates, task, outcome.arms)
                yield outcome._replace(holds=None, why=shut) if shut else outcome


def join(claim: Claim, of: Evidence, outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """The verdict on a claim from its outcomes by task and pair, and the reason."""
    if not outcomes:
        return CANNOT_TELL, "not measured in this suite"
    if claim.full_scale and of.suite.proxy:
        return CANNOT_TELL, "a scaled-down run neither confirms nor refutes a figure of full size"
    decided = [o for o in outcomes if o.holds is not None]
    if not decided:
        reasons = dict.fromkeys(f"{o.where}: {o.why}" for o in outcomes)
        return CANNOT_TELL, "; ".join(reasons)
    against = [o for o in decided if not o.holds]
    if claim.all and not against and (absent := _absent(claim, outcomes)):
        return CANNOT_TELL, f"holds in {_places(decided)}; not measured: {', '.join(absent)}, which it needs, too"
    open_ = f"; open on {len(outcomes) - len(decided)} more" if len(decided) < len(outcomes) else ""
    if not against:
        if claim.all and open_:
            return CANNOT_TELL, f"holds in {len(decided)} of {len(outcomes)} parts, all of which it needs"
        return SUPPORTED, f"holds in {_places(decided)}{open_}"
    if claim.all or len(against) == len(decided):
        return REFUTED, f"does not hold in {_places(against)}{open_}"
    return CANNOT_TELL, f"holds in {_places([o for o in decided if o.holds])}, not in {_places(against)}{open_}"


def _absent(claim: Claim, outcomes: Sequence[Outcome]) -> list[str]:
    """Tasks and pairs of arms that a claim on all of them names and no outcome speaks of."""
    tasks = {o.where.split(" (")[0] for o in outcomes}
    absent = [pattern for pattern in claim.tasks if not any(fnmatchcase(task, pattern) for task in tasks)]
    pairs = {frozenset(o.arms) for o in outcomes}
    return absent + [
        " against ".join(pair) for pair in (claim.measure or {}).get("difference", ()) if frozenset(pair) not in pairs
    ]


def _places(outcomes: Sequence[Outcome]) -> str:
    return ", ".join(dict.fromkeys(o.where for o in outcomes))
