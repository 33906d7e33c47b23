"""What cannot fit in memory is refused, and nothing else."""

import subprocess

import pytest
import tensorflow as tf

import lambda_keras
from trainers import memory
from trainers.classifier import build_classifier
from trainers.program import UserError
from trainers.recipe_table import RECIPES
from trainers.recipe_table import get_recipe
from trainers.recipes import Recipe

SIZES = {"channels": 3, "num_classes": 1000, "num_replicas": 1}


@pytest.fixture
def machine(monkeypatch):
    """A machine of 16 GiB without a GPU."""
    monkeypatch.setattr(memory, "measure_memory", lambda: 16 * 2**30)


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_is_refused(name, machine):
    memory.check_memory(get_recipe(name), **SIZES)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"width_multiplier": 1e9}, "--width_multiplier=1000000000.0"),
        ({"width_multiplier": 1e308}, "--width_multiplier=1e+308"),
        ({"width_multiplier": 20.0}, "--width_multiplier=20.0"),
        ({"scope_size": 100001}, "--scope_size=100001"),
        ({"scope_size": 10001}, "--scope_size=10001"),
        ({"image_size": 10**6}, "--batch_size=256 --image_size=1000000"),
        ({"batch_size": 10**6}, "--batch_size=1000000 --image_size=224"),
        ({"image_size": 2**31 - 1}, "--image_size=2147483647"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_flag_at_fault(
    changes, flag, machine
):
    recipe = Recipe().replace("a test", **changes)
    with pytest.raises(UserError, match="small enough") as error:
        memory.check_memory(recipe, **SIZES)
    assert str(error.value).endswith(flag)
    assert "there is 16 GiB" in str(error.value)
    assert "\n" not in str(error.value)


def test_scope_of_no_lambda_layer_takes_no_memory(machine):
    recipe = Recipe().replace("a test", scope_size=100001, layout="CCCC")
    memory.check_memory(recipe, **SIZES)


def test_devices_parts_and_frozen_weights_take_less():
    def estimate(**changes):
        return memory.estimate_bytes(
            Recipe().replace("a test", gradient_accumulation_steps=parts),
            **{**SIZES, **changes},
        )

    parts = 1
    whole = estimate()
    images = ("batch_size", "image_size")
    assert estimate(num_replicas=8)[images] == whole[images] / 8
    frozen = estimate(frozen_stages=5)
    assert frozen["width_multiplier",] == whole["width_multiplier",] / 3
    parts = 4
    batch = 256 * 224 * 224 * 3 * 4
    assert estimate()[images] - batch == (whole[images] - batch) / 4


@pytest.mark.parametrize("name", lambda_keras.NETWORKS)
def test_weights_counted_are_most_but_not_more_than_there_are(name):
    network = lambda_keras.NETWORKS[name]
    recipe = Recipe().replace(
        "a test",
        depth=network.depth,
        layout=network.layout,
        architecture=network.architecture,
    )
    weights, embeddings = memory.count_weights(recipe, num_classes=1000)
    if network.lambda_layer is lambda_keras.LambdaConv:
        weights += embeddings
    assert 0.65 * network.parameters < weights < network.parameters


@pytest.mark.slow
def test_position_embeddings_are_counted():
    recipe = get_recipe("digits")
    model = build_classifier(recipe, channels=1, num_classes=10)
    _, embeddings = memory.count_weights(recipe, num_classes=10)
    assert embeddings == sum(
        layer.position_embeddings.table.shape.num_elements()
        for layer in model._flatten_layers()
        if isinstance(layer, lambda_keras.LambdaConv)
    )


def test_machine_has_the_memory_of_its_container(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (limit, tmp_path / "none"))
    limit.write_text("max\n")
    whole = memory.measure_machine()
    limit.write_text("5000000\n")
    assert memory.measure_machine() == 5000000 < whole


@pytest.mark.parametrize(
    ("devices", "said", "expected"),
    [
        (["GPU"], "81559\n81559\n", 81559 * 2**20),
        (["GPU"], "No devices were found\n", None),
        (["GPU"], None, None),
        ([], None, 7),
        # Of another framework than TensorFlow.
        ([], "81559\n", 81559 * 2**20),
    ],
)
def test_memory_is_that_of_a_gpu_if_there_is_one(
    devices, said, expected, monkeypatch
):
    def run(command, **_):
        if said is None:
            raise FileNotFoundError
        return subprocess.CompletedProcess(command, 0, said)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(memory, "measure_machine", lambda: 7)
    monkeypatch.setattr(
        tf.config,
        "list_physical_devices",
        lambda kind: [device for device in devices if device == kind],
    )
    assert memory.measure_memory() == expected
