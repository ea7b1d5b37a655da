"""Hostile programs pass nothing and leave nothing behind, honest ones pass: in the outer arena, as root and as user."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import arena
import hostile_attacks
import pytest

TIERS = ("namespaces", "landlock")
DRIVER = str(Path(__file__).with_name("sandbox_driver.py"))
pytestmark = pytest.mark.skipif(bool(arena.missing()), reason=arena.missing())
every_user = pytest.mark.parametrize("user", arena.users(), ids=lambda user: f"uid{user}")
every_tier = pytest.mark.parametrize("tier", TIERS)


def drive(user: int, place: Path, *arguments: object, timeout: float = 590) -> dict[str, Any]:
    private = [part for path in (DRIVER, sys.executable) for part in Path(path).parents if not part.stat().st_mode & 1]
    if user == arena.NOBODY and private:
        pytest.skip(f"an ordinary user can't read {private[0]}, where the tests lie; they ran as root")
    done = arena.run(user, place, [DRIVER, *map(str, arguments)], timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def held(report: dict[str, Any]) -> None:
    assert report["passed"] == []
    assert report["unclean"] == [], "a program found traces of the one before"
    assert report["benign_failed"] == {}
    assert report["traces"] == {}
    assert report["benign"] >= 15
    assert report["longest_lag"] < 5, "the machine did not stay responsive"


@pytest.mark.parametrize("tier", ["namespaces"])
def test_representative_attacks_fail_and_honest_programs_pass(tier, tmp_path):
    report = drive(arena.users()[-1], tmp_path, "battery", tier, "fast")
    held(report)
    assert report["programs"] >= 40


@pytest.mark.slow
@every_user
@every_tier
def test_the_whole_battery_fails_in_every_tier_as_every_user(tier, user, tmp_path):
    report = drive(user, tmp_path, "battery", tier, "all")
    held(report)
    assert report["programs"] >= 80


@pytest.mark.slow
def test_each_attack_bites_where_there_is_no_sandbox(tmp_path):
    outcome = drive(arena.users()[-1], tmp_path, "unsafe")["outcome"]
    for name, result in outcome.items():
        if name in hostile_attacks.NEVER_TRUE:
            assert result == "ran on", name
        elif name in hostile_attacks.CRASHING:
            assert result != "passed", name
        else:
            assert result == "passed", (name, result)
    assert len(outcome) >= 80


@pytest.mark.slow
@every_user
@every_tier
def test_all_canonical_solutions_pass_and_no_empty_one(tier, user, tmp_path):
    report = drive(user, tmp_path, "reference", tier)
    assert report["failed"] == {}
    assert (report["canonical"], report["empty"]) == (164, 0)


@pytest.mark.slow
@every_tier
def test_verdicts_agree_with_execution_in_one_process(tier, tmp_path):
    report = drive(arena.users()[-1], tmp_path, "agreement", tier, 1300)
    assert report["compared"] == 1300
    assert report["differ"] == {}


@pytest.mark.slow
@every_tier
def test_ten_thousand_programs_leak_nothing(tier, tmp_path):
    report = drive(arena.users()[-1], tmp_path, "load", tier, 10_000, timeout=3000)
    assert report["number_wrong"] == 0, report["wrong"]
    assert report["traces"] == {}
    first, last = report["footprint"][1], report["footprint"][-1]
    assert last["processes"] <= first["processes"] + 2  # a program may be starting or ending at either moment
    assert last["descriptors"] <= first["descriptors"] + 2
    assert last["files"] <= first["files"] + 2
    assert last["mib"] <= first["mib"] + 20
