"""Settings: typed, refused early, unknown keys with the nearest name."""

import json

import pytest

from echo4o.errors import Echo4oError
from echo4o.training.config import differences
from echo4o.training.overrides import SettingError, override
from echo4o.training.recipes import RECIPES, echo4o_7b, recipe, tiny


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_complete_and_json(name):
    config = recipe(name)
    assert config.recipe == name
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()


def test_overrides_follow_the_declared_types():
    config = override(
        tiny(),
        [
            "steps=10",
            "learning_rate=3e-4",
            "data=org/name",
            "resume_force=true",
            "schedule=constant",
            "mixture=surreal_fantasy:0.5,multi_reference",
            "vae_sizes=64,32,16",
            "freeze=vit,und",
            'sample_prompts=["a, b", "c"]',
            "tiny.layers=6",
            "samples_per_pack=none",
            "tokens_per_pack=512",
        ],
    )
    assert (config.steps, config.learning_rate, config.data) == (10, 3e-4, "org/name")
    assert config.resume_force
    assert config.mixture == (("surreal_fantasy", 0.5), ("multi_reference", 1.0))
    assert config.vae_sizes == (64, 32, 16)
    assert config.freeze == ("vit", "und")
    assert config.sample_prompts == ("a, b", "c")
    assert config.tiny is not None
    assert config.tiny.layers == 6
    assert (config.samples_per_pack, config.tokens_per_pack) == (None, 512)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learning_rat=1", "learning_rate"),
        ("tiny.layer=3", r"tiny\.layers"),
        ("steps", "key=value"),
        ("steps=many", "int"),
        ("steps=-1", "at least 0"),
        ("schedule=linear", "constant, cosine"),
        ("resume_force=maybe", "true, false"),
        ("learning_rate=nan", "above 0"),
        ("learning_rate=0", "above 0"),
        ("drop_text=1.5", "between"),
        ("mixture=all:0", "nothing to train"),
        ("mixture=all:-1", "0 or more"),
        ("vae_sizes=64,32", "3 values"),
        ("vae_sizes=60,32,16", "multiple of"),
        ("freeze=und,wheels", "wheels"),
        ("tokens_per_pack=512", "exactly one"),
        ("tiny.heads=5", "multiple of"),
        ("tiny.vocab_size=100", "at least 300"),
        ("packs_per_step=0", "at least 1"),
        ("ema_decay=2", "between"),
        ("sample_prompts=[1", "JSON"),
    ],
)
def test_wrong_settings_are_refused_with_a_reason(setting, message):
    with pytest.raises((SettingError, ValueError), match=message):
        override(tiny(), [setting])


def test_a_base_model_replaces_the_tiny_one():
    assert override(tiny(), ["base_model=org/model"]).tiny is None
    with pytest.raises(SettingError, match="base_model"):
        override(echo4o_7b(), ["tiny.layers=2"])


def test_an_unknown_recipe_names_the_nearest_one():
    with pytest.raises(Echo4oError, match="echo4o_7b"):
        recipe("echo4o-7b")


def test_differences_leave_out_what_changes_no_weight():
    saved = tiny().to_dict()
    assert differences(saved, override(tiny(), ["log_every=1", "sample_every=3"])) == []
    changed = differences(saved, override(tiny(), ["learning_rate=0.5", "tiny.layers=2"]))
    assert [line.split(":")[0] for line in changed] == ["learning_rate", "tiny.layers"]
