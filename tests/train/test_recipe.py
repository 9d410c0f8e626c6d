"""Recipes: read strictly, wrong entries named."""

import pytest
import yaml
from tiny import TUSS, tiny_model, tiny_recipe

from ussfast.errors import InputError
from ussfast.models import build
from ussfast.train.mix_config import PromptSet
from ussfast.train.recipe import Recipe, load_recipe, recipe_from_dict
from ussfast.train.rendering import AugmentConfig


def written(folder, data):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_a_recipe_from_a_file(tmp_path):
    sets = [{"prompts": ["speech", "sfxbg"], "share": 0.5}]
    recipe = load_recipe(written(tmp_path, tiny_recipe(mix={"sets": sets})))
    assert recipe.name == "tiny" and recipe.model == TUSS and recipe.optim.steps == 4
    assert recipe.mix.sets == (PromptSet(("speech", "sfxbg"), 0.5),)
    assert recipe.license_classes == Recipe.license_classes
    data = tiny_recipe() | {"license_classes": ["free-use"]}
    assert load_recipe(written(tmp_path, data)).license_classes == ("free-use",)


def test_changes_of_sound_in_a_recipe(tmp_path):
    mix = {"query": 0.5, "absent": 0.25, "rows": 5, "augment": {"speed": 1, "reverb_seconds": [0.2, 1]}}
    recipe = load_recipe(written(tmp_path, tiny_recipe(mix=mix)))
    assert (recipe.mix.query, recipe.mix.absent, recipe.mix.silence) == (0.5, 0.25, 0.0)
    assert recipe.mix.augment == AugmentConfig(speed=1.0, reverb_seconds=(0.2, 1.0))
    assert load_recipe(written(tmp_path, tiny_recipe())).mix.augment == AugmentConfig()
    mix = {"level_jump": 0.1, "jump_db": 20, "augment": {"extend": 0.5, "extend_db": [6, 12], "limit_others": 0.3}}
    mix = load_recipe(written(tmp_path, tiny_recipe(mix=mix))).mix
    assert (mix.level_jump, mix.jump_db) == (0.1, 20.0)
    assert mix.augment == AugmentConfig(extend=0.5, extend_db=(6.0, 12.0), limit_others=0.3)
    for wrong, says in (
        ({"pitch": 1}, r"mix\.augment .*unknown \['pitch'\]"),
        ({"speed": 2}, r"mix\.augment\.speed must be 0 to 1, got 2.0"),
    ):
        with pytest.raises(InputError, match=says):
            load_recipe(written(tmp_path, tiny_recipe(mix={"augment": wrong})))


def test_the_bundled_default():
    recipe = load_recipe("default")
    model = build(recipe.model)
    assert 0.5e6 < model.parameter_count() <= 3e6
    assert set(model.prompt_names) == set(tiny_model().prompt_names)
    assert sum(s.share for s in recipe.mix.sets) < 1  # chains are drawn too
    assert {name for s in recipe.mix.sets for name in s.prompts} <= set(model.prompt_names)


def test_a_folder_does_not_hide_a_bundled_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()
    assert load_recipe("default").name == "default"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"optm": {"steps": 3}}, "unknown entries in the recipe: optm"),
        ({"optim": {"steps": 3, "lrate": 1}}, r"unknown \['lrate'\]"),
        ({"optim": {"lr": 1.0}}, r"missing \['steps'\]"),
        ({"optim": {"steps": "many"}}, "optim.steps must be a int, got 'many'"),
        ({"mix": {"sets": [{"prompts": ["speech", "speach"], "share": 0.1}]}}, "a prompt set needs 2 to 12 of speech"),
        ({"mix": {"sets": [{"prompts": ["speech", "sfx"]}]}}, r"mix\.sets\[0\].*missing \['share'\]"),
        ({"run": None}, "run must be a table of settings, got NoneType"),
        ({"model": {"sample_rate": 8000}}, "a table 'model' with an entry 'architecture'"),
        ({"model": {"architecture": "tusk"}}, "unknown architecture 'tusk'; known are"),
        ({"license_classes": "permissive"}, "license_classes must be a list, got 'permissive'"),
    ],
)
def test_wrong_entries_are_named(tmp_path, change, says):
    with pytest.raises(InputError, match=says):
        load_recipe(written(tmp_path, tiny_recipe() | change))


def test_a_model_setting_that_is_unknown_is_named():
    with pytest.raises(InputError, match=r"config of tuss .*unknown \['colour'\]"):
        recipe_from_dict(tiny_recipe(model={"colour": 1}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{name: [", "is not a recipe: not readable as YAML"),
        ("", "needs a table 'model'"),
        ("- 1", "needs a table 'model'"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, text, says):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_recipes_that_are_missing(tmp_path):
    for source in (tmp_path / "gone.yaml", "defualt", tmp_path):
        with pytest.raises(InputError, match="give a YAML file or the name of a bundled one"):
            load_recipe(source)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "../recipes/default"])
def test_names_that_can_be_none(name):
    with pytest.raises(InputError, match="give a YAML file or the name of a bundled one"):
        load_recipe(name)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [*a]", "nested deeper"),
        ("model: !!int abc", "not readable as YAML"),
        ("model: 2020-99-99", "not readable as YAML"),
        ("{model: {architecture: [tuss]}}", "unknown architecture a list of 1"),
    ],
)
def test_recipes_beyond_reason(tmp_path, text, says):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(InputError, match=says):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("table", "entry", "says"),
    [
        ("optim", {"lr": float("nan")}, r"optim\.lr must be a finite number"),
        ("optim", {"lr": float("inf")}, r"optim\.lr must be a finite number"),
        ("optim", {"steps": 10**400}, r"optim\.steps must be .* more than 64 bits"),
        ("optim", {"steps": 0}, r"optim\.steps must be 1 to 1e\+12, got 0"),
        ("optim", {"ema": 1.0}, r"optim\.ema must be 0 to 0\.999999999, got 1\.0"),
        ("mix", {"seconds": float("nan")}, r"mix\.seconds must be a finite number"),
        ("mix", {"dropout": 1.5}, r"mix\.dropout must be 0 to 1"),
        ("mix", {"quietest_db": [-1.0, 2.0]}, r"mix\.quietest_db\[1\] must be -200 to 0"),
        ("mix", {"augment": {"stretch": float("inf")}}, r"mix\.augment\.stretch must be a finite number"),
        ("run", {"seed": -1}, r"run\.seed must be 0 to"),
        ("run", {"keep_best": 0}, r"run\.keep_best must be 1 to"),
        ("loss", {"high_hz": 0}, r"loss\.high_hz must be 1 to"),
    ],
)
def test_numbers_beyond_reason(table, entry, says):
    recipe = tiny_recipe()
    recipe[table] = recipe.get(table, {}) | entry
    with pytest.raises(InputError, match=says):
        recipe_from_dict(recipe)


def test_a_name_is_a_line():
    with pytest.raises(InputError, match="name must be 1 to 255 characters"):
        recipe_from_dict(tiny_recipe() | {"name": "a\nb"})
