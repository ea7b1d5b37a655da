"""The report in a real browser, without a screen: its slider, sorting, filters and folded answers work.

A script (browser_checks.js) is put into a copy of the page, uses it, and leaves what it found in the page, which the
browser then prints. Skipped where no Chromium or Chrome is installed; CHROMIUM names one in another place.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from synthetic import FakeTask, build

from harness.analysis.collect import collect
from harness.report.html import build as build_report

pytestmark = pytest.mark.slow

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)
CHECKS = Path(__file__).with_name("browser_checks.js")


def browse(page: Path, width: int, profile: Path) -> str:
    """The page's markup after its scripts ran."""
    if BROWSER is None:
        pytest.skip("no Chromium or Chrome is installed; name one in the environment variable CHROMIUM")
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += [f"--window-size={width},900", "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose last script uses it."""
    root = tmp_path_factory.mktemp("browser")
    arms = {"hrm": 0.9, "transformer": 0.5, "transformer-flops": 0.8}
    tasks = {
        "grids": FakeTask(arms, seeds=5, examples=40, traced=6),
        "words": FakeTask(arms, seeds=5, examples=40, group_word=None),
    }
    results = build(root / "results", tasks)
    collect(results)
    path = build_report(results, root / "reports")
    text = path.read_text(encoding="utf-8")
    listen = '<script>window.failures = []; addEventListener("error", (e) => failures.push(e.message));</script>'
    text = text.replace("<head>", f"<head>{listen}")
    checks = CHECKS.read_text(encoding="utf-8")
    path.write_text(text.replace("</body>", f"<script>{checks}</script></body>"), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=[1280, 390], ids=["desktop", "phone"])
def found(request: pytest.FixtureRequest, page: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script found, on a screen of this width."""
    markup = browse(page, request.param, tmp_path_factory.mktemp("profile"))
    match = re.search(r'<pre id="found">(.*?)</pre>', markup, flags=re.DOTALL)
    assert match, "the script did not come to its end"
    document: dict[str, Any] = json.loads(html.unescape(match[1]))
    return document


def test_no_script_fails(found: dict[str, Any]) -> None:
    assert found["errors"] == []


def test_a_reader_s_questions_are_answered_by_one_click(found: dict[str, Any]) -> None:
    titles = [title for title, folded, shown in found["answers"] if folded and shown]
    assert titles == ["How sure?", "At equal compute?", "What about seeds?", "Which runs are these?"]


def test_a_click_on_a_head_sorts_by_number_and_a_second_one_turns_it_round(found: dict[str, Any]) -> None:
    up = [float(text) for text in found["sorting"]["up"]]
    assert up == sorted(map(float, found["sorting"]["before"])) and len(set(up)) > 5
    assert [float(text) for text in found["sorting"]["down"]] == up[::-1]
    assert found["sorting"]["state"] == "descending"


def test_the_filter_keeps_rows_with_all_words_and_says_how_many(found: dict[str, Any]) -> None:
    filtered = found["filtering"]
    assert filtered["none"] == 0 and filtered["all"]
    assert len(filtered["shown"]) == 10, "transformer and transformer-flops, five seeds each"
    assert all("grids" in text and "transformer" in text for text in filtered["shown"])
    assert filtered["said"] == "10 of 30"


def test_the_slider_shows_the_answer_becoming_right(found: dict[str, Any]) -> None:
    seen = found["slider"]["seen"]
    assert [count for count, _, _ in seen] == [f"segment {k} of 16" for k in range(1, 17)]
    assert [wrong for _, wrong, _ in seen] == [4, 3, 2, 1] + [0] * 12
    assert "4 positions differ" in seen[0][2] and "right" in seen[4][2] and "it stops here" in seen[4][2]
    assert found["slider"]["halts"] == 5


def test_the_lists_of_what_only_one_arm_solved_are_right(found: dict[str, Any]) -> None:
    assert found["lists"] == {"only": 3, "empty": True, "all": 6}


def test_a_figure_leads_to_its_runs_and_a_link_opens_what_is_folded(found: dict[str, Any]) -> None:
    assert found["links"]["marked"] == found["links"]["asked"] > 1
    assert found["opened"] is True


def test_nothing_but_tables_is_wider_than_the_screen(found: dict[str, Any]) -> None:
    assert found["wide"] == []
