"""Lambda layers are named after their place, and weights matched by it."""

import pathlib
import types

import keras
import numpy as np
import pytest

import lambda_keras
from lambda_keras import make_timm_state
from lambda_keras.networks import places
from lambda_keras.networks.weights import copy_weights
from lambda_keras.networks.weights import list_weights
from tests.support import reference
from tests.support.networks import build_without_values

# Builds, saves or exports whole models: not for the edit loop.
pytestmark = pytest.mark.slow

LAMBDAS = ["c4_block1_lambda", "c4_block2_lambda"]
LAMBDAS += ["c5_block1_lambda", "c5_block2_lambda"]


def build(lambda_layer, **kwargs):
    arguments = dict(
        input_shape=(8, 8, 1),
        num_classes=3,
        layout="CCLL",
        architecture="v1",
        stem_strides=1,
        width_multiplier=1 / 32,
        classifier_activation=None,
    )
    return lambda_keras.build_lambda_resnet(
        26, lambda_layer=lambda_layer, **(arguments | kwargs)
    )


def build_shapes(lambda_layer):
    return build_without_values(build, lambda_layer)


def make_layer(filters, **kwargs):
    return lambda_keras.LambdaConv(filters, 3, num_heads=1, key_dim=2, **kwargs)


def make_sequence(filters, **kwargs):
    return keras.Sequential(
        [make_layer(filters), make_layer(filters)], **kwargs
    )


def make_model(filters):
    inputs = keras.Input((None, None, filters))
    return keras.Model(inputs, make_layer(filters)(inputs))


def find_names(model):
    return [layer.name for layer in model.layers if "lambda" in layer.name]


@pytest.mark.parametrize(
    "function",
    [
        make_layer,
        lambda filters: make_layer(filters, name=f"named_{filters}"),
        lambda filters, name: make_layer(filters, name=name),
        lambda filters, name="other": make_sequence(filters, name=name),
        make_sequence,
        make_model,
        lambda filters: keras.layers.Conv2D(filters, 3, padding="same"),
        lambda _: keras.layers.Identity(),
    ],
    ids=[
        "unnamed",
        "named_otherwise",
        "taking_a_name",
        "taking_a_name_by_default",
        "sequence",
        "model",
        "convolution",
        "identity",
    ],
)
def test_whatever_is_made_is_named_after_its_place(function):
    model = build_shapes(function)
    assert find_names(model) == LAMBDAS
    for name in LAMBDAS:
        before = f"{name.removesuffix('lambda')}1_relu"
        layer = model.get_layer(name)
        [inputs] = layer._inbound_nodes[-1].input_tensors
        assert inputs is model.get_layer(before).output
        assert all(
            name in weight.path
            for weight in layer.weights
            # Built before it was given to us.
            if function is not make_model
        )


def test_the_functions_name_is_the_one_that_is_saved(tmp_path):
    model = build(make_layer)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert find_names(loaded) == LAMBDAS
    assert loaded.get_layer(LAMBDAS[2]).weights[0].path.startswith(LAMBDAS[2])


def test_a_layer_in_several_places_has_the_name_of_the_first():
    shared = {}

    def make_once(filters):
        return shared.setdefault(filters, make_layer(filters))

    first, second = build(make_once), build(make_layer)
    assert find_names(first) == ["c4_block1_lambda", "c5_block1_lambda"]
    shared.clear()
    third = build(make_once)
    reference.randomize_weights(first)
    copy_weights(first, third)
    for weight, expected in zip(third.weights, first.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    before = second.get_weights()
    with pytest.raises(ValueError, match="c4_block2_lambda is missing"):
        copy_weights(first, second)
    for weight, expected in zip(second.weights, before, strict=True):
        np.testing.assert_array_equal(weight, expected)


def make_two(filters):
    """What is no layer, and makes several."""
    first, second = make_layer(filters), keras.layers.Dense(filters)
    return lambda inputs: second(first(inputs))


def test_a_function_of_tensors_has_its_layers_at_its_place(tmp_path):
    model = build(make_two)
    reference.randomize_weights(model)
    kinds = [
        type(layer).__name__
        for layer in places.find_layers(model)["c4_block2_lambda"]
    ]
    assert kinds == ["LambdaConv", "Dense"]
    model.save(tmp_path / "model.keras")
    again = build(make_two, weights=tmp_path / "model.keras")
    for weight, expected in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_every_weight_has_its_place_whatever_stands_around_the_network():
    images = keras.Input((8, 8, 2))
    prepared = keras.layers.Dense(1, name="prepare")(images)
    model = build_without_values(
        build, make_layer, input_shape=None, input_tensor=prepared
    )
    weights = list_weights(model)
    listed = [id(weight) for place in weights.values() for weight in place]
    expected = [id(weight) for weight in model.weights[2:]]
    assert sorted(listed) == sorted(expected)
    assert [place for place in weights if "lambda" in place] == LAMBDAS


# A file of before layers were named after their places, made by
#     embeddings = {}
#     def make(filters):
#         shared = embeddings.setdefault(filters, PositionEmbeddings())
#         return make_layer(filters, position_embeddings=shared)
# and `build(make)`, with random weights; zipped again to make it small.
OLD_FILE = pathlib.Path(__file__).parent / "data" / "numbered_layers.keras"
OLD_OUTPUTS = [
    [5.736596584320068, -2.0854551792144775, 3.6375927925109863],
    [5.7242431640625, -2.0816433429718018, 3.629755973815918],
]


def make_shared():
    embeddings = {}

    def make(filters):
        if filters not in embeddings:
            embeddings[filters] = lambda_keras.PositionEmbeddings()
        return make_layer(filters, position_embeddings=embeddings[filters])

    return make


def test_a_file_of_numbered_layers_is_loaded_and_gives_its_weights():
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1))
    old = keras.saving.load_model(OLD_FILE)
    assert find_names(old) == [f"lambda_conv_{n}" for n in (2, 3, 4, 5)]
    new = build(make_shared(), weights=OLD_FILE)
    assert find_names(new) == LAMBDAS
    for model in (old, new):
        tables = [w for w in model.weights if w.name == "table"]
        assert len(tables) == 2
        np.testing.assert_allclose(model(images), OLD_OUTPUTS, rtol=1e-4)
    state, expected = make_timm_state(new), make_timm_state(old)
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array)


def test_a_file_of_layers_that_share_is_refused_by_those_that_do_not():
    with pytest.raises(
        ValueError, match="c4_block2_lambda has 11 weights for 12"
    ):
        build(make_layer, weights=OLD_FILE)


@pytest.mark.parametrize("before", ["add", "1_conv", "lambda"])
def test_places_do_not_depend_on_the_order_of_branches(before):
    """A shortcut may be computed at any time between a block's ends."""
    network = keras.saving.load_model(OLD_FILE)
    layers = [x for x in network.layers if "_shortcut_" not in x.name]
    for layer in network.layers:
        block, is_shortcut, _ = layer.name.partition("_shortcut_")
        if is_shortcut:
            names = [other.name for other in layers]
            if before == "lambda":
                number = names.index(f"{block}_1_relu") + 1
                # After its convolution, which is there already.
                number += layer.name.endswith("normalization")
            else:
                number = names.index(f"{block}_{before}")
            layers.insert(number, layer)
    assert len(layers) == len(network.layers)
    swapped = places.find_layers(types.SimpleNamespace(layers=layers))
    assert swapped == places.find_layers(network)
    assert [place for place in swapped if "lambda" in place] == LAMBDAS
