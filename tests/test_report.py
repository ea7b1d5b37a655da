"""The report: says what the tables say, stands on its own, reads without a mouse, a screen, a network or torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic import FakeTask, build

from harness.analysis.collect import collect
from harness.analysis.results import read_tables
from harness.errors import UserError
from harness.report import numbers
from harness.report.content import page as page_of
from harness.report.figures import COLOURS, MARKERS, looks
from harness.report.html import build as build_report
from harness.report.overview import all_figures
from harness.report.sources import command

ROOT = Path(__file__).resolve().parents[1]
VOID = {"meta", "link", "br", "img", "input", "hr"}
TASKS = {
    "won": FakeTask(
        {"hrm": 0.9, "transformer": 0.5, "transformer-flops": 0.85},
        seeds=5,
        examples=60,
        ood={"hrm": 0.6, "transformer": 0.3, "transformer-flops": 0.6},
        failed={("transformer-flops", 1): "diverged"},
    ),
    "few": FakeTask({"hrm": 0.5, "transformer": 0.5}, seeds=2, examples=40, group_word=None),
    "absent": FakeTask({"hrm": 0.5, "transformer": 0.5}, seeds=2, skipped="no <data> folder is set; pass --data"),
}


class Page(HTMLParser):
    """Tags with their attributes, ids, links, and whether every element was closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build(tmp_path_factory.mktemp("project") / "results", TASKS)
    collect(folder)
    return folder


@pytest.fixture(scope="module")
def reports(results: Path) -> Path:
    build_report(results, results.parents[1] / "reports")
    return results.parents[1] / "reports" / "tiny"


@pytest.fixture(scope="module")
def html(reports: Path) -> str:
    return (reports / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_page_is_well_formed(page: Page) -> None:
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_nothing_is_fetched(html: str, page: Page) -> None:
    for tag, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            value = attrs.get(name) or ""
            assert not re.match(r"\s*(https?:)?//", value), (tag, value)
            assert tag != "script" or name != "src" or not value
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_links_within_the_page_lead_somewhere(page: Page) -> None:
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    inner = [attrs["href"] for attrs in page.of("a") if (attrs.get("href") or "").startswith("#")]
    assert len(inner) > 10 and all(href and href[1:] in ids for href in inner)
    behind = " ".join(attrs.get("data-cells") or "" for attrs in page.of("a")).split()
    assert behind and all(f"run-{cell}" in ids for cell in behind)


def test_links_to_files_lead_somewhere(page: Page, reports: Path) -> None:
    outer = [attrs["href"] for attrs in page.of("a") if not (attrs.get("href") or "").startswith("#")]
    assert any("record.json" in str(p) for href in outer if href for p in (reports / href).glob("*"))
    for href in outer:
        assert href and (reports / href).exists(), href


def test_every_figure_is_described_and_every_table_sorts_by_keyboard(page: Page) -> None:
    figures = page.of("figure")
    images = [attrs for _, attrs in page.tags if attrs.get("role") == "img"]
    assert len(figures) == len(images) >= 8
    assert all(attrs.get("aria-label") for attrs in (*figures, *images))
    assert len(page.of("figcaption")) == len(figures)
    heads = [i for i, (tag, _) in enumerate(page.tags) if tag == "th"]
    assert heads and all(page.tags[i + 1][0] == "button" for i in heads)
    assert all(attrs.get("tabindex") == "0" for attrs in page.of("div") if attrs.get("class") == "table")


def test_the_answer_comes_first_in_word_and_colour(html: str) -> None:
    answer = html[html.index('id="answer"') : html.index('id="compared"')]
    for tone, label in (("better", "better"), ("shown", "shown, no verdict"), ("absent", "not run")):
        assert f'<span class="pill {tone}">{label}</span>' in answer
    assert "hrm is better than transformer" in answer
    assert "hrm against transformer, 3 tasks: 1 better · 1 shown, no verdict · 1 not run" in answer


def test_skipped_and_failed_cells_are_shown_with_their_reason(html: str) -> None:
    limits = html[html.index('id="limits"') : html.index('id="runs"')]
    assert "no &lt;data&gt; folder is set; pass --data" in limits
    assert "loss is not finite at update 120" in limits
    assert "1 run failed or diverged" in limits
    assert "Too few seeds for a verdict, which needs 5: few (2)." in limits
    runs = html[html.index('id="runs"') :]
    assert runs.count("<td>skipped</td>") == 4 and runs.count("<td>diverged</td>") == 1


def test_proxy_and_limits_of_the_suite_are_printed(html: str) -> None:
    assert "This is a proxy suite" in html and "nothing here speaks of models of 27 M" in html


def test_markdown_says_the_same(reports: Path, page: Page) -> None:
    text = (reports / "report.md").read_text(encoding="utf-8")
    headings = ("The answer", "What was compared", "Evidence", "Claims of the field", "How it was measured", "Limits")
    for heading in (*headings, "Runs"):
        assert f"## {heading}" in text
        assert heading in page.text
    for figure in re.findall(r"\]\((figures/[^)]*)\)", text):
        assert (reports / figure).is_file()
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    for table in tables:
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().split("\n")}
        assert len(bars) == 1, table


def test_every_table_of_a_task_leads_to_its_runs_and_to_the_command_that_makes_them(results: Path) -> None:
    tables = read_tables(results)
    seen = 0
    for section in page_of(tables, {}, "results").tasks:
        for table in section.tables:
            rows = [cell.source for row in table.rows for cell in row.cells if cell.source]
            for source in [table.source] if table.source else rows:
                assert set(source.cells.split()) <= set(tables.runs["cell_id"]) and source.links
                assert f"--tasks {section.name} --arms" in source.command
                seen += 1
            assert table.source or rows or section.answer.label == "not run", table.caption
    assert seen > 20


def test_the_figure_and_table_for_a_readme_say_what_the_report_says(results: Path, reports: Path) -> None:
    text = (reports / "main.md").read_text(encoding="utf-8")
    assert "figures/main.svg" in text and (reports / "figures" / "main.png").is_file()
    tables = read_tables(results)
    (row,) = tables.comparisons.query("task == 'won' and role == 'primary'").to_dict("records")
    line = next(line for line in text.splitlines() if line.startswith("| won "))
    for value in (row["mean_a"], row["mean_b"], row["difference"]):
        assert numbers.percent(value) in line
    assert "**better**" in line and "**not run**" in text
    assert len(text) < 4000 and (reports / "figures" / "main.svg").stat().st_size < 100_000


def test_numbers_of_the_tables_stand_in_the_report(results: Path, html: str) -> None:
    tables = read_tables(results)
    for row in tables.levels.itertuples():
        assert f"[{100 * row.low:.1f}, {100 * row.high:.1f}]" in html
    for row in tables.comparisons.itertuples():
        assert numbers.percent(row.difference) in html
    for cell in tables.runs["cell_id"]:
        assert f'id="run-{cell}"' in html


def test_building_twice_gives_the_same_bytes(results: Path, reports: Path) -> None:
    before = {path.name: path.read_bytes() for path in reports.rglob("*") if path.is_file()}
    (reports / "figures" / "of-an-earlier-report.svg").write_text("")
    build_report(results, reports.parent)
    assert {path.name: path.read_bytes() for path in reports.rglob("*") if path.is_file()} == before


def test_report_never_imports_torch(results: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from harness.analysis.collect import collect; "
        "from harness.report.html import build; results = Path(sys.argv[1]); collect(results); "
        "from harness.analysis import stats; from harness.report import figures, plots; "
        "assert not {'torch', 'tasks', 'models', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    copy = tmp_path / "tiny"
    shutil.copytree(results, copy)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script, str(copy)], check=True, cwd=tmp_path, env=environment, timeout=60)


def test_suite_without_any_result_still_reports(tmp_path: Path) -> None:
    failed = {(arm, 0): "failed" for arm in ("hrm", "transformer")}
    spec = FakeTask({"hrm": 0.5, "transformer": 0.5}, seeds=1, examples=10, failed=failed)
    results = build(tmp_path / "results", {"toy": spec}, proxy=False)
    with pytest.raises(UserError, match="make it with report --suite tiny"):
        build_report(results, tmp_path / "reports")
    collect(results)
    html = build_report(results, tmp_path / "reports").read_text(encoding="utf-8")
    assert "toy has no finished run" in html and "No figure “Accuracy and its cost”: no run has finished." in html
    assert "proxy suite" not in html


def test_one_pass_arms_and_single_seeds_get_reasons_instead_of_figures(tmp_path: Path) -> None:
    spec = FakeTask({"transformer": 0.5}, seeds=1, examples=20, group_word=None, text={"primary": None})
    results = build(tmp_path, {"toy": spec})
    collect(results)
    figures = dict(all_figures(read_tables(results)))
    reasons = {figure.name: figure.missing for figure in figures["toy"]}
    assert reasons["toy-depth"] == "every arm answers in one pass"
    assert reasons["toy-halting"] == "no finished run of an arm with several segments"
    assert not reasons["toy-learning"]


def test_learning_curves_end_in_words_at_the_mean_over_seeds(results: Path) -> None:
    tables = read_tables(results)
    won = tables.curves.query("task == 'won'").sort_values("updates")
    ends = won.groupby(["arm", "seed"])["validation_exact"].last()
    figures = {figure.name: figure for figure in dict(all_figures(tables))["won"]}
    for arm, by_seed in ends.groupby("arm"):
        assert by_seed.nunique() > 1
        assert f"{arm} {100 * by_seed.mean():.0f} %" in figures["won-learning"].alt


def test_an_answer_says_what_own_halting_makes_of_it_and_which_arm_learned_nothing(tmp_path: Path) -> None:
    spec = FakeTask({"hrm": 0.3, "transformer": 0.8}, seeds=6, floor=0.35)
    results = build(tmp_path / "results", {"toy": spec})
    collect(results)
    tables = read_tables(results)
    (found,) = [section.answer for section in page_of(tables, {}, "results").tasks]
    (own,) = tables.comparisons.query("stopping == 'model'").to_dict("records")
    brief = found.brief.replace("\u00a0", " ")
    assert f"Stopped by its own halting: {numbers.percent(own['mean_a'])} % against" in brief
    assert "hrm is not shown to be above the floor of 35.0 %" in brief and "transformer is not" not in brief


def test_two_seeds_say_nothing_of_floors(tmp_path: Path) -> None:
    spec = FakeTask({"hrm": 0.3, "transformer": 0.8}, seeds=2, floor=0.35)
    results = build(tmp_path / "results", {"toy": spec})
    collect(results)
    (found,) = [section.answer for section in page_of(read_tables(results), {}, "results").tasks]
    assert "2 seeds of 5" in found.brief.replace("\u00a0", " ") and "is not shown to be above" not in found.brief


def test_an_arm_looks_the_same_in_every_figure(results: Path) -> None:
    seen: dict[str, set[str]] = {}
    for _, figures in all_figures(read_tables(results)):
        for figure in figures:
            for arm in figure.arms:
                seen.setdefault(arm.label, set()).add(f"{arm.colour} {arm.marker}")
    assert seen.keys() == {"hrm", "transformer", "transformer-flops"}
    assert all(len(look) == 1 for look in seen.values()) and len(set.union(*seen.values())) == 3


def test_many_arms_stay_distinguishable() -> None:
    many = looks({str(i): str(i) for i in range(2 * len(COLOURS))})
    assert len({(look.colour, look.marker) for look in many.values()}) == len(many)
    assert all(look.glyph == MARKERS[look.marker] for look in many.values())


def test_numbers_are_written_sensibly() -> None:
    assert [numbers.si(x, "FLOP") for x in (12_345_678_901, 999_960, 5, 0)] == [
        "12.3 GFLOP",
        "1.00 MFLOP",
        "5.00 FLOP",
        "0 FLOP",
    ]
    assert [numbers.three_digits(x) for x in (0.012345, 12.345, 1234.5, 0)] == ["0.0123", "12.3", "1,230", "0"]
    assert [numbers.percent(x) for x in (0.12345, -0.002, -0.0001, None)] == ["12.3", "−0.2", "0.0", "–"]
    assert [numbers.p_value(x) for x in (0.00001, 0.03125, 0.5, float("nan"))] == ["<0.001", "0.031", "0.50", "–"]


def test_command_remakes_one_task_and_arm() -> None:
    told = command("python run_benchmarks.py --suite tiny --tasks a,b --arms=x --set 'k=a b'", ["parity"], ["hrm"])
    assert told == "python run_benchmarks.py --suite tiny --set 'k=a b' --tasks parity --arms hrm"
