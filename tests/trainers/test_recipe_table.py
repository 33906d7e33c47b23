"""Which data set is trained how, and where that is from."""

import pytest

from trainers import knobs
from trainers.program import UserError
from trainers.recipe_table import RECIPES
from trainers.recipe_table import choose_recipe
from trainers.recipe_table import get_recipe


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("digits", "digits"),
        ("cifar10:3.0.2", "cifar10"),
        ("imagenet2012", "imagenet_90"),
        ("imagenet2012:5.1.0", "imagenet_90"),
        ("/data/cats", "photos"),
        ("oxford_flowers102", "photos"),
    ],
)
def test_recipe_follows_the_data(dataset, name):
    assert choose_recipe(dataset) == name


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_keep_their_own_rules(name):
    recipe = get_recipe(name)
    assert knobs.replace_knobs(recipe, knobs.read_knobs(recipe)) == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_each_value_that_is_no_default_has_a_source(name):
    recipe, default = get_recipe(name), type(get_recipe(name))()
    differing = {
        field.name
        for field, _ in knobs.list_knobs(recipe)
        if getattr(recipe, field.name) != getattr(default, field.name)
    }
    assert differing <= set(recipe.sources)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("imagenet_90", (50, "LLLL", "v1", 224, 90, 0.0, 0.0, 0)),
        ("lambda_resnet50", (50, None, "rs", 160, 350, 0.2, 0.0, 2)),
        ("lambda_resnet101_160", (101, None, "rs", 160, 350, 0.3, 0.0, 2)),
        ("lambda_resnet152_pseudo", (152, None, "rs", 288, 350, 0.3, 0.1, 2)),
        ("lambda_resnet152", (152, None, "rs", 256, 350, 0.3, 0.1, 2)),
        ("lambda_resnet420", (420, None, "rs", 320, 350, 0.3, 0.2, 2)),
        ("resnet_rs350_256", (350, "CCCC", "rs", 256, 350, 0.25, 0.1, 2)),
        ("resnet_rs350", (350, "CCCC", "rs", 320, 350, 0.4, 0.1, 2)),
    ],
)
def test_values_are_those_of_their_sources(name, values):
    recipe = get_recipe(name)
    assert values == (
        recipe.depth,
        recipe.layout,
        recipe.architecture,
        recipe.image_size,
        recipe.epochs,
        recipe.dropout_rate,
        recipe.stochastic_depth_rate,
        recipe.rand_augment_layers,
    )


def test_resnet_rs_is_trained_as_it_was_released():
    recipe = get_recipe("resnet_rs152")
    assert recipe.learning_rate_decay == "step"
    assert recipe.nesterov
    assert recipe.batch_norm_momentum == 0
    assert recipe.ema_momentum == 0.9999


def test_what_the_paper_does_not_say_of_pseudo_labels_is_marked():
    recipe = get_recipe("lambda_resnet152_pseudo")
    for name in ("pseudo_ratio", "pseudo_loss_weight", "steps_per_epoch"):
        assert recipe.sources[name].startswith("not stated by the paper")
    other = get_recipe("lambda_resnet152_288")
    assert recipe == other.replace("", pseudo_ratio=3.0)


def test_unknown_recipe_is_one_line():
    with pytest.raises(UserError, match="--recipe must be one of digits, "):
        get_recipe("imagenet")
