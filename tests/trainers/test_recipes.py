"""Which data set is trained how, if the flags say nothing else."""

import pytest

from trainers import knobs
from trainers import recipes


@pytest.mark.parametrize(
    ("dataset", "image_size", "scope_size", "epochs"),
    [
        ("digits", 16, 7, 20),
        ("cifar10:3.0.2", 32, 7, 200),
        ("imagenet2012", 224, 23, 90),
    ],
)
def test_recipe_follows_the_data(dataset, image_size, scope_size, epochs):
    recipe = recipes.get_recipe(dataset)
    assert recipe.image_size == image_size
    assert recipe.scope_size == scope_size
    assert recipe.epochs == epochs


@pytest.mark.parametrize("dataset", ["digits", "cifar100", "imagenet2012"])
def test_recipes_keep_their_own_rules(dataset):
    recipe = recipes.get_recipe(dataset)
    assert knobs.replace_knobs(recipe, knobs.read_knobs(recipe)) == recipe
