"""`reproduce CLAIM`: which cells a claim needs, or its computation, and the verdict in words."""

from __future__ import annotations

from pathlib import Path

from harness.analysis import claims
from harness.analysis.claims import Claim, Reproduce
from harness.analysis.results import read_table, table_file
from harness.errors import UserError
from harness.request import load_plugins
from harness.saying import say


def needs(name: str) -> Reproduce | None:
    """The cells; None where the claim is settled by computation. UserError where there is no way to test it here."""
    claim = claims.find(name)
    if claim.reproduce is None and claim.kind != "static":
        raise UserError(f"claim {name} can't be reproduced: {_why(claim)}")
    if claim.kind == "static" and claim.measure is None:
        raise UserError(f"claim {name} can't be reproduced: {_why(claim)}")
    return claim.reproduce


def _why(claim: Claim) -> str:
    return claim.untestable or claim.untested or "no suite has the arms that it needs; a suite of your own may"


def compute(name: str) -> None:
    """Compute a static claim anew and say what comes of it."""
    load_plugins(None, models=True)
    from harness.static_figures import FIGURES

    claim, figure = claims.find(name), FIGURES[name]()
    _say(name, claim, figure.measured, claims.SUPPORTED if figure.holds else claims.REFUTED, "computed, no run needed")


def say_verdict(name: str, results: Path) -> None:
    """What the collected tables say of a claim; nothing where the run did not come so far."""
    path = results / table_file("claims")
    if path.is_file():
        rows = read_table(path, "claims")
        row = rows[rows["claim"] == name].iloc[0]
        _say(name, claims.find(name), row["measured"], row["verdict"], row["reason"])


def _say(name: str, claim: Claim, measured: str, verdict: str, reason: str) -> None:
    say(f"{name}: {claim.says}")
    say(f"stated: {claim.stated}")
    say(f"measured: {measured or 'nothing'}")
    say(f"{verdict}: {reason}")
