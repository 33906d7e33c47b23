"""From the flags that were given to the settings of a run."""

import dataclasses
import json
import re

import pytest

from trainers.classifier import build_classifier
from trainers.program import UserError
from trainers.recipe_table import get_recipe
from trainers.settings import Run
from trainers.settings import describe_recipe
from trainers.settings import make_recipe
from trainers.settings import make_run
from trainers.settings import parse_profile_steps
from trainers.settings import read_config
from trainers.settings import read_saved
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
    assert make_run(resolved) == Run(recipe="digits")


def test_saved_flags_stay_as_they_are():
    saved = {**SAVED, "layout": "LLCC", "learning_rate": 0.3, "seed": 5}
    resolved = resolve_flags({}, saved=saved)
    assert {name: resolved[name] for name in saved} == saved
    assert make_recipe(resolved) == dataclasses.replace(
        get_recipe("digits"), layout="LLCC", learning_rate=0.3
    )
    assert make_run(resolved) == Run(recipe="digits", seed=5)


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
    assert resolved["recipe"] == "photos"


@pytest.mark.parametrize(
    ("make", "flag", "value", "rule"),
    [
        (make_recipe, "epochs", -1, "at least 1"),
        (make_recipe, "batch_size", 10**400, "from -2147483648 to"),
        (make_recipe, "weight_decay", float("nan"), "at least 0"),
        (make_recipe, "learning_rate", float("inf"), "finite"),
        (make_recipe, "width_multiplier", float("inf"), "finite"),
        (make_recipe, "depth", 27, "14, 26, 50, 101, 152, 200, 270"),
        (make_recipe, "architecture", "v2", "rs, v1 or tiered"),
        (make_recipe, "layout", "CCXL", "four letters"),
        (make_recipe, "layout", "CCCLL", "four letters"),
        (make_recipe, "scope_size", 4, "odd"),
        (make_recipe, "scope_size", -1, "odd"),
        (make_recipe, "epochs", 2**31, "from -2147483648 to 2147483647"),
        (make_run, "first_label", 10**30, "from -2147483648 to"),
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


def test_named_recipe_replaces_that_of_the_data():
    resolved = resolve_flags({"recipe": "lambda_resnet152"}, saved={})
    assert make_recipe(resolved) == get_recipe("lambda_resnet152")


def test_recipe_without_a_batch_of_its_own_keeps_the_paper_rate():
    given = {"recipe": "imagenet_90", "batch_size": 4096}
    assert resolve_flags(given, saved={})["learning_rate"] == 1.6


def test_rate_of_another_optimizer_is_refused():
    with pytest.raises(UserError, match="needs a --learning_rate, such as"):
        resolve_flags({"optimizer": "adamw"}, saved={})
    given = {"optimizer": "adamw", "learning_rate": 1e-3}
    assert resolve_flags(given, saved={})["learning_rate"] == 1e-3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("flags.json", '{"epochs": 3, "weight_decay": 0, "layout": null}'),
        ("flags.yaml", "epochs: 3\nweight_decay: 0\nlayout:\n"),
    ],
)
def test_file_stands_between_recipe_and_command_line(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    config = read_config(str(path))
    resolved = resolve_flags({"epochs": 4}, saved={}, config=config)
    assert (resolved["epochs"], resolved["weight_decay"]) == (4, 0.0)
    assert type(resolved["weight_decay"]) is float


def test_number_that_yaml_reads_as_text_is_a_number(tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text("weight_decay: 1e-5")
    assert read_config(str(path)) == {"weight_decay": 1e-5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "Received: list in"),
        ("epochs: [", "must be a JSON or YAML file"),
        ("epoch: 3", "must hold flags of a run. Received: epoch in"),
        ("epochs: many", "--epochs must be of type int. Received: --epochs="),
        ("epochs: 1.5", "--epochs must be of type int"),
        ("cache: 1", "--cache must be of type bool"),
        ("dropout_rate: true", "--dropout_rate must be of type float"),
        ("model_dir: runs", "Received: model_dir"),
    ],
)
def test_malformed_file_of_flags_is_one_line(tmp_path, text, message):
    path = tmp_path / "flags.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_config(str(path))
    assert "\n" not in str(error.value)


def test_missing_file_of_flags_is_one_line():
    with pytest.raises(UserError, match="No such file"):
        read_config("nowhere.yaml")


def test_description_says_where_each_value_is_from():
    text = describe_recipe(
        {"recipe": "imagenet_90", "batch_size": 512},
        {"epochs": 10},
        "mine.yaml",
    )
    sources = {}
    for line in text.splitlines()[1:]:
        name, value, *source = line.split(maxsplit=2)
        sources[name] = (value, *source)
    assert text.startswith("Recipe imagenet_90:\n")
    assert sources["batch_size"] == ("512", "command line")
    assert sources["epochs"] == ("10", "mine.yaml")
    assert sources["learning_rate"][0] == "0.2"
    assert sources["learning_rate"][1].startswith("in proportion")
    assert sources["depth"] == ("50", "Bello, 2021, table 3")
    assert sources["mixup_alpha"] == ("0.0", "default of this program")
    assert sources["augment"][0] == "crop_and_flip"
    assert sources["crop_fraction"] == ("0.875", "default of this program")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"teacher": "t"}, "--teacher needs --pseudo_labels"),
        (
            {"pseudo_labels": "p", "pseudo_min_confidence": 0.5},
            "--pseudo_min_confidence needs a --teacher",
        ),
        ({"pseudo_min_confidence": 1.5}, "must be from 0 to 1"),
    ],
)
def test_pseudo_labels_without_what_they_need_are_one_line(flags, message):
    with pytest.raises(UserError, match=message) as error:
        make_run(resolve_flags(flags, saved={}))
    assert "\n" not in str(error.value)


def test_pseudo_labels_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = {"pseudo_labels": "labels/labels-*", "teacher": "ram://t"}
    resolved = resolve_flags(flags, saved={})
    assert resolved["pseudo_labels"] == str(tmp_path / "labels" / "labels-*")
    assert resolved["teacher"] == "ram://t"


@pytest.mark.parametrize("text", ["10", "10,", "0,5", "9,3", "a,b", "1,2,3"])
def test_malformed_profile_steps_are_one_line(text):
    with pytest.raises(UserError, match="must be two step numbers"):
        make_run(resolve_flags({"profile_steps": text}, saved={}))


def test_profile_steps_are_two_numbers():
    assert parse_profile_steps("10,20") == (10, 20)
    assert parse_profile_steps(None) is None


def test_missing_weights_are_one_line():
    with pytest.raises(UserError, match="--weights must be a file"):
        make_run(resolve_flags({"weights": "nowhere.keras"}, saved={}))


def test_folder_without_a_run_has_no_flags(tmp_path):
    assert read_saved(tmp_path) == {}
    assert read_saved(tmp_path / "new") == {}


def test_saved_flags_are_filled_up_with_those_that_are_younger(tmp_path):
    (tmp_path / "flags.json").write_text(json.dumps(SAVED))
    assert read_saved(tmp_path) == resolve_flags(SAVED, saved={})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": "20"}, "--epochs must be of type int. Received: --epochs="),
        ({"dataset": ["digits"]}, "--dataset must be of type str"),
        ({"dataset": None}, "--dataset must be of type str"),
        ({"dataset": ""}, "must say which --dataset"),
        ({"image_size": 16.0}, "--image_size must be of type int"),
        ({"layout": 5}, "--layout must be of type str"),
        ({"learning_rate": True}, "--learning_rate must be of type float"),
        ({"learning_rate": 10**400}, "--learning_rate must be of type float"),
        ({"teacher": "x", "age": 1}, "must hold flags of a run. Received: age"),
    ],
)
def test_damaged_saved_flags_are_one_line(changes, message, tmp_path):
    path = tmp_path / "flags.json"
    path.write_text(json.dumps({**SAVED, **changes}))
    with pytest.raises(UserError) as error:
        read_saved(tmp_path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_run_of_no_data_set_is_not_taken_for_a_new_one(tmp_path):
    (tmp_path / "flags.json").write_text("{}")
    with pytest.raises(UserError, match="must say which --dataset"):
        read_saved(tmp_path)


@pytest.mark.parametrize(
    ("width", "others", "working"),
    [
        (0.1, {}, 0.125),
        (0.05, {}, 0.0625),
        (1e-9, {}, 0.0625),
        (0.01, {"layout": "CCCC"}, 0.0625),
        (0.03, {"architecture": "tiered", "layout": "CCCC"}, 0.0625),
        (0.7, {"layout": "LCCC"}, 0.6875),
    ],
)
def test_width_that_heads_cannot_share_comes_with_one_that_works(
    width, others, working
):
    resolved = resolve_flags({"width_multiplier": width, **others}, saved={})
    with pytest.raises(UserError, match="--width_multiplier must") as error:
        make_recipe(resolved)
    assert f"try {working}. Received" in str(error.value)
    make_recipe({**resolved, "width_multiplier": working})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "others"),
    [
        (0.1, {"layout": "CCCC"}),
        (1 / 32, {"layout": "CCCC"}),
        (1 / 16, {"architecture": "tiered"}),
    ],
)
def test_widths_that_work_are_not_refused(width, others):
    flags = {"width_multiplier": width, **others}
    recipe = make_recipe(resolve_flags(flags, saved={}))
    assert build_classifier(recipe, channels=1, num_classes=10)
