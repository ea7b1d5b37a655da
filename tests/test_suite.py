"""Suites are strict: what the schema does not know is refused, by name, with the nearest valid name."""

from __future__ import annotations

import pytest
import yaml

from harness import suite as suites
from harness.errors import UserError

VALID = {
    "name": "mine",
    "recipe": {"batch_size": 16, "budget": {"updates": 10}},
    "arms": {
        "hrm": {"model": "hrm", "config": {"hidden": 32, "heads": 2}},
        "transformer": {"model": "transformer", "match": {"to": "hrm", "rule": "params"}},
    },
    "tasks": {
        "parity": {"seeds": 3, "primary": {"arms": ["hrm", "transformer"]}, "recipe": {"budget": {"examples": 500}}}
    },
}


def changed(path: str, value):
    document = yaml.safe_load(yaml.safe_dump(VALID))
    place = document
    *parents, last = path.split("/")
    for part in parents:
        place = place.setdefault(part, {})
    place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("recipe/batchsize", 3, r'recipe\.batchsize: unknown key \(did you mean "batch_size"\?\)'),
        ("recipe/optimizer", {"learningrate": 1}, r'learningrate: unknown key \(did you mean "learning_rate"\?\)'),
        ("recipe/batch_size", 0, r"recipe\.batch_size: .*greater than or equal to 1"),
        ("recipe/batch_size", -3, r"recipe\.batch_size"),
        ("recipe/batch_size", "many", r"recipe\.batch_size: .*integer"),
        ("recipe/budget", {"updates": 1, "seconds": 1.0}, r"recipe\.budget: give exactly one of"),
        ("recipe/budget", {}, r"recipe\.budget: give exactly one of"),
        ("recipe/precision", "float8", r"recipe\.precision"),
        ("arms/transformer/match/to", "hmr", r'no arm "hmr" \(did you mean "hrm"\?\)'),
        ("arms/transformer/match/rule", "luck", r"arms\.transformer\.match\.rule"),
        ("tasks/parity/seeds", 0, r"tasks\.parity\.seeds"),
        ("tasks/parity/arms", ["hrm", "tansformer"], r'no arm "tansformer" \(did you mean "transformer"\?\)'),
        ("tasks/parity/primary", {"arms": ["hrm", "x"]}, r'tasks\.parity\.primary\.arms: no arm "x"'),
        ("tasks/parity/recipe", {"los": "softmax"}, r'tasks\.parity\.recipe\.los: unknown key \(did you mean "loss"'),
        ("name", "a/b", r"name"),
        ("recipe/evaluation", {"segments": [0, 1]}, r"recipe\.evaluation\.segments"),
        ("recipe/evaluation", {"segments": []}, r"recipe\.evaluation\.segments"),
        ("recipe/optimizer", {"betas": [0.9, 1.5]}, r"recipe\.optimizer\.betas"),
        ("recipe/optimizer", {"learning_rate": float("inf")}, r"recipe\.optimizer\.learning_rate"),
        ("tasks/parity/arms", ["hrm", "hrm"], r"tasks\.parity\.arms: an arm is named twice"),
        ("tasks/parity/primary", {"arms": ["hrm", "hrm"]}, r"two different arms of the task"),
        ("arms/transformer", {"model": "transformer"}, r"hrm and transformer are not matched"),
    ],
)
def test_a_bad_key_or_value_is_named(path, value, message):
    with pytest.raises(UserError, match=message):
        suites.load_suite(changed(path, value), "mine.yaml")


def test_the_error_names_the_file():
    with pytest.raises(UserError, match=r"^suite mine\.yaml: "):
        suites.load_suite(changed("typo", 1), "mine.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", r"bad\.yaml, line \d+"),
        ("name: a\nname: b\n", r'bad\.yaml, line 2: the key "name" is given twice'),
        ("- a\n- b\n", r"bad\.yaml: a suite is a mapping"),
        ("", r"bad\.yaml: a suite is a mapping"),
        ("name: [tiny]\n", r"bad\.yaml: name: a suite needs a name"),
        ("name: a\nrecipe: [1]\narms: {}\ntasks: {}\n", r"bad\.yaml: recipe: must be a mapping"),
        ("name: a\narms: [x]\ntasks: {}\n", r"bad\.yaml: arms: must be a mapping"),
        ("name: a\narms: {x: 3}\ntasks: {}\n", r"bad\.yaml: arms\.x: must be a mapping"),
        ("name: a\narms: {}\ntasks: {x: {recipe: 3}}\n", r"bad\.yaml: tasks\.x\.recipe: must be a mapping"),
        ("name: a\n? [1, 2]\n: 3\n", r"bad\.yaml, line 2: a key must be plain text"),
    ],
)
def test_a_malformed_file_is_named_with_the_line(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        suites.read_suite(str(path))


def test_unknown_suite_gets_the_nearest_name():
    with pytest.raises(UserError, match=r'unknown suite "tinny" \(did you mean "tiny"\?\)'):
        suites.read_suite("tinny")
    with pytest.raises(UserError, match="no such file"):
        suites.read_suite("there/is/none.yaml")


def test_set_reaches_any_key_through_the_same_schema():
    suite = suites.load_suite(
        VALID,
        "x",
        [
            "recipe.optimizer.learning_rate=1e-3",
            "tasks.parity.settings.max_length=9",
            "recipe.evaluation.segments=[1,2]",
            "recipe.clip=null",
        ],
    )
    assert suite.recipe.optimizer.learning_rate == 1e-3
    assert suite.tasks["parity"].settings == {"max_length": 9}
    assert suite.recipe.evaluation.segments == (1, 2)
    assert suite.recipe.clip is None


@pytest.mark.parametrize("assignment", ["recipe.batchsize=3", "recipe.batch_size", "=3", "name.x=1", "recipe.x: [=2"])
def test_a_bad_set_is_refused(assignment):
    with pytest.raises(UserError):
        suites.load_suite(VALID, "x", [assignment])


def test_setting_a_budget_replaces_the_other_kind():
    suite = suites.load_suite(VALID, "x", ["recipe.budget.seconds=3"])
    assert suite.recipe.budget.kind == "seconds"


def test_a_tasks_recipe_lies_over_the_suites_recipe():
    suite = suites.load_suite(VALID, "x")
    assert suite.recipe_of("parity").budget.kind == "examples"
    assert suite.recipe_of("parity").batch_size == 16


def test_command_line_recipe_wins_over_a_tasks_own_recipe():
    document = suites.with_recipe(changed("tasks/parity/recipe/batch_size", 99), {"batch_size": 2})
    assert suites.load_suite(document, "x").recipe_of("parity").batch_size == 2


def test_smoke_keeps_the_matrix_and_changes_the_name():
    document = suites.smoke(VALID)
    small = suites.load_suite(document, "x")
    assert small.name == "mine-smoke"
    assert set(small.tasks) == set(VALID["tasks"]) and set(small.arms) == set(VALID["arms"])
    assert small.recipe_of("parity").max_updates == 4


@pytest.mark.parametrize("name", suites.builtin_suites())
def test_builtin_suites_are_valid(name):
    document, label = suites.read_suite(name)
    suite = suites.load_suite(document, label)
    assert suite.name == name
    # replicas of a published unequal comparison have no arms that may be compared
    fair = {t: entry for t, entry in suite.tasks.items() if "-artefact" not in t and "-leaky" not in t}
    assert all(entry.primary for entry in fair.values()), "every task declares its primary comparison"
    assert not any(entry.primary for task, entry in suite.tasks.items() if task not in fair)
