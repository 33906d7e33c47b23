"""From the flags that were given to all that a run needs to know."""

import dataclasses
import os
from collections.abc import Mapping

from trainers.program import UserError
from trainers.recipes import Recipe
from trainers.recipes import get_recipe

_RUN_DEFAULTS = {
    "dataset": "digits",
    "data_dir": None,
    "seed": 0,
    "precision": "float32",
    "strategy": "auto",
    "tpu": None,
}
# What is in a recipe and is no flag.
_NO_FLAGS = ("warmup_epochs", "crop_fraction", "augment")
_RECIPE_FLAGS = [
    field.name
    for field in dataclasses.fields(Recipe)
    if field.name not in _NO_FLAGS
]


def resolve_flags(given: Mapping, saved: Mapping) -> dict:
    """Fills in the flags that were left out.

    Args:
        given: the flags on the command line, by name.
        saved: the flags of the run in the folder, empty if there is none.

    Returns:
        All flags: as given, or else as saved, or else from the recipe.
    """
    resolved = {**_RUN_DEFAULTS, **saved, **given}
    if os.path.isdir(resolved["dataset"]):
        resolved["dataset"] = os.path.abspath(resolved["dataset"])
    recipe = get_recipe(resolved["dataset"])
    for name in _RECIPE_FLAGS:
        resolved.setdefault(name, getattr(recipe, name))
    if "learning_rate" not in {*saved, *given}:
        resolved["learning_rate"] *= resolved["batch_size"] / recipe.batch_size
    return resolved


def make_recipe(resolved: Mapping) -> Recipe:
    """Puts resolved flags into the recipe of their data set.

    Raises:
        UserError: If a number is out of its range.
    """
    check_ranges(resolved)
    return dataclasses.replace(
        get_recipe(resolved["dataset"]),
        **{name: resolved[name] for name in _RECIPE_FLAGS},
    )


def check_ranges(resolved: Mapping) -> None:
    """Checks the numbers among resolved flags.

    The network checks what only it can know, such as its depths.

    Raises:
        UserError: If a number is out of its range.
    """
    shrinkage = 8 * resolved["stem_strides"]
    checks = {
        "seed": (0 <= resolved["seed"] < 2**31, "from 0 to 2147483647"),
        "stem_strides": (resolved["stem_strides"] in (4, 2, 1), "4, 2 or 1"),
        "image_size": (
            resolved["image_size"] >= shrinkage,
            f"at least {shrinkage}, because the network divides it by it",
        ),
    }
    for name in ("epochs", "batch_size"):
        checks[name] = resolved[name] >= 1, "at least 1"
    for name in ("learning_rate", "width_multiplier"):
        checks[name] = resolved[name] > 0, "greater than 0"
    checks["weight_decay"] = resolved["weight_decay"] >= 0, "at least 0"
    for name in ("label_smoothing", "dropout_rate", "stochastic_depth_rate"):
        checks[name] = 0 <= resolved[name] < 1, "at least 0 and less than 1"
    for name, (is_right, rule) in checks.items():
        if not is_right:
            raise UserError(
                f"--{name} must be {rule}. Received: --{name}={resolved[name]}"
            )
