"""From the flags that were given to the settings of a run."""

import dataclasses

import pytest

from trainers.program import UserError
from trainers.recipes import get_recipe
from trainers.settings import Run
from trainers.settings import make_recipe
from trainers.settings import make_run
from trainers.settings import resolve_flags

# What a run on the digits saved before flags were made from fields.
SAVED = {
    "dataset": "digits",
    "data_dir": None,
    "seed": 0,
    "precision": "float32",
    "strategy": "auto",
    "tpu": None,
    "depth": 26,
    "layout": None,
    "architecture": "rs",
    "scope_size": 7,
    "width_multiplier": 0.25,
    "stem_strides": 1,
    "image_size": 16,
    "epochs": 20,
    "batch_size": 64,
    "learning_rate": 0.1,
    "weight_decay": 0.0001,
    "label_smoothing": 0.1,
    "dropout_rate": 0.0,
    "stochastic_depth_rate": 0.0,
}


def test_flags_left_out_are_as_saved():
    resolved = resolve_flags({"epochs": 7}, {"batch_size": 32, "epochs": 5})
    assert (resolved["epochs"], resolved["batch_size"]) == (7, 32)


def test_digits_recipe_is_the_default():
    resolved = resolve_flags({}, saved={})
    assert make_recipe(resolved) == get_recipe("digits")
    assert make_run(resolved) == Run()


def test_saved_flags_stay_as_they_are():
    saved = {**SAVED, "layout": "LLCC", "learning_rate": 0.3, "seed": 5}
    resolved = resolve_flags({}, saved=saved)
    assert {name: resolved[name] for name in saved} == saved
    assert make_recipe(resolved) == dataclasses.replace(
        get_recipe("digits"), layout="LLCC", learning_rate=0.3
    )
    assert make_run(resolved) == Run(seed=5)


@pytest.mark.parametrize(
    ("given", "saved", "learning_rate"),
    [
        ({"batch_size": 256}, {}, 0.4),
        ({"batch_size": 256, "learning_rate": 0.3}, {}, 0.3),
        ({"batch_size": 256}, {"learning_rate": 0.3}, 0.3),
        ({"batch_size": 32, "dataset": "cifar10"}, {}, 0.025),
    ],
    ids=["left_out", "given", "saved", "another_recipe"],
)
def test_learning_rate_left_out_is_in_proportion_to_the_batch(
    given, saved, learning_rate
):
    resolved = resolve_flags(given, saved)
    assert resolved["learning_rate"] == pytest.approx(learning_rate)


def test_folder_is_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    resolved = resolve_flags({"dataset": "photos"}, saved={})
    assert resolved["dataset"] == str(tmp_path / "photos")
    assert resolved["epochs"] == get_recipe("imagenet2012").epochs


@pytest.mark.parametrize(
    ("make", "flag", "value", "rule"),
    [
        (make_recipe, "epochs", -1, "at least 1"),
        (make_recipe, "weight_decay", float("nan"), "at least 0"),
        (make_recipe, "stem_strides", 3, "4, 2 or 1"),
        (make_recipe, "image_size", 7, "at least 8"),
        (make_run, "seed", 2**31, "from 0 to 2147483647"),
        (make_run, "precision", "float64", "float32, mixed_bfloat16 or"),
    ],
)
def test_values_out_of_range_are_user_errors(make, flag, value, rule):
    resolved = resolve_flags({flag: value}, saved={})
    with pytest.raises(UserError, match=f"--{flag} must be {rule}") as error:
        make(resolved)
    assert str(error.value).endswith(f"Received: --{flag}={value}")


def test_images_may_be_as_small_as_the_strides_of_the_network():
    for strides in (1, 2, 4):
        flags = {"image_size": 8 * strides, "stem_strides": strides}
        make_recipe(resolve_flags(flags, saved={}))
        flags["image_size"] -= 1
        with pytest.raises(UserError, match=f"at least {8 * strides}"):
            make_recipe(resolve_flags(flags, saved={}))
