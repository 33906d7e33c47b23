"""LambdaResNets: structure and saving."""

import functools
import math
import subprocess
import sys

import keras
import numpy as np
import pytest

import lambda_keras
from lambda_keras import build_lambda_resnet
from lambda_keras.networks import lambda_resnet
from tests.support.networks import build_small_network
from tests.support.networks import build_without_values
from tests.support.networks import get_small_network

# Builds, saves or exports whole models: not for the edit loop.
pytestmark = pytest.mark.slow

build_shapes = functools.partial(build_without_values, build_lambda_resnet)


def test_v1_with_squeeze_and_excite_has_the_papers_parameters():
    # 28.1M in Table 3.
    model = build_shapes(
        50, layout="CCCC", architecture="v1", squeeze_excite_ratio=1 / 16
    )
    count = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert count == 28_088_024


def test_lambda_layers_stand_where_the_paper_puts_them():
    placement = lambda_resnet.place_lambda_layers(101, None, "rs")
    c4 = [n for n, has_lambda in enumerate(placement[2], 1) if has_lambda]
    assert not any(placement[0] + placement[1])
    assert c4 == [6, 12, 18]
    assert placement[3] == [True] * 3


def test_the_smallest_has_one_block_in_each_stage():
    model = build_shapes(14, (32, 32, 3), stem_strides=1)
    blocks = {
        layer.name.partition("_block")[::2]
        for layer in model.layers
        if "_block" in layer.name
    }
    assert sorted({(stage, rest[0]) for stage, rest in blocks}) == [
        (stage, "1") for stage in ("c2", "c3", "c4", "c5")
    ]
    lambda_layers = [
        layer.output.shape[-1]
        for layer in model.layers
        if isinstance(layer, lambda_keras.LambdaConv)
    ]
    assert lambda_layers == [256, 512]


@pytest.mark.parametrize("architecture", ["rs", "v1"])
@pytest.mark.parametrize(
    ("stem_strides", "image_size", "widths"),
    [
        (4, 224, [56, 28, 14, 7]),
        (4, 97, [25, 13, 7, 4]),
        (2, 64, [32, 16, 8, 4]),
        (1, 32, [32, 16, 8, 4]),
    ],
)
def test_stages_have_the_usual_sizes(
    architecture, stem_strides, image_size, widths
):
    model = build_shapes(
        26,
        (image_size, image_size, 3),
        architecture=architecture,
        stem_strides=stem_strides,
    )
    stages = [model.get_layer(f"c{number}").output for number in (2, 3, 4, 5)]
    assert [tuple(stage.shape[1:]) for stage in stages] == [
        (width, width, channels)
        for width, channels in zip(widths, (256, 512, 1024, 2048), strict=True)
    ]


@pytest.mark.parametrize("architecture", ["rs", "v1"])
def test_each_block_begins_as_the_identity(architecture):
    """With its last scale at zero, a block returns its shortcut."""
    model = build_lambda_resnet(
        26,
        (32, 32, 3),
        10,
        architecture=architecture,
        stem_strides=1,
        width_multiplier=0.125,
    )
    c2_first = model.get_layer("c2_block1_relu").output
    c2 = model.get_layer("c2").output
    both = keras.Model(model.input, [c2_first, c2])
    first, second = both(np.random.default_rng(0).normal(size=(2, 32, 32, 3)))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first).max() > 0


def test_only_the_first_block_of_a_stage_has_a_projection_shortcut():
    model = build_shapes(50, architecture="v1")
    projections = [
        layer.name
        for layer in model.layers
        if layer.name.endswith("shortcut_conv")
    ]
    assert projections == [
        f"c{number}_block1_shortcut_conv" for number in (2, 3, 4, 5)
    ]


def test_a_strided_lambda_block_pools_after_its_lambda_layer():
    model = build_shapes(50, architecture="v1")
    pool = model.get_layer("c3_block1_2_pool")
    assert isinstance(pool, keras.layers.AveragePooling2D)
    assert (pool.pool_size, pool.strides) == ((3, 3), (2, 2))
    assert pool.input.shape[1:] == (58, 58, 128)
    lambda_layers = [
        layer
        for layer in model.layers
        if isinstance(layer, lambda_keras.LambdaConv)
    ]
    assert len(lambda_layers) == 16
    assert lambda_layers[3].output.shape[1:] == (56, 56, 128)


def test_squeeze_and_excite_stands_in_convolutional_stages_only():
    def stages_with_excite(**kwargs):
        model = build_shapes(26, (64, 64, 3), **kwargs)
        names = [layer.name for layer in model.layers]
        return sorted({n[:2] for n in names if n.endswith("_excite")})

    assert stages_with_excite() == ["c2", "c3"]
    assert stages_with_excite(layout="CCCC") == ["c2", "c3", "c4", "c5"]
    assert stages_with_excite(layout="CCCC", architecture="v1") == []


def test_stochastic_depth_grows_over_the_stages_and_drops_whole_branches():
    model = build_small_network(stochastic_depth_rate=0.5)
    drops = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Dropout)
    ]
    assert [layer.rate for layer in drops] == pytest.approx(
        [0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5]
    )
    branch = np.ones((400, 3, 2, 5), "float32")
    dropped = keras.ops.convert_to_numpy(drops[-1](branch, training=True))
    examples = dropped.reshape(400, -1)
    assert np.all((examples == 0).all(axis=1) | (examples == 2).all(axis=1))
    assert np.mean(examples[:, 0] == 0) == pytest.approx(0.5, abs=0.1)


def test_classifier_can_be_left_out():
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 1))
    whole = get_small_network(classifier_activation=None)
    features = get_small_network(include_top=False)
    average = get_small_network(include_top=False, pooling="avg")
    largest = get_small_network(include_top=False, pooling="max")
    for model in (features, average, largest):
        for weight, expected in zip(model.weights, whole.weights, strict=False):
            np.testing.assert_array_equal(weight, expected)
    kernel, bias = whole.layers[-1].get_weights()
    maps = keras.ops.convert_to_numpy(features(images))
    assert maps.shape == (2, 2, 2, 256)
    np.testing.assert_allclose(average(images), maps.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(largest(images), maps.max((1, 2)), rtol=1e-5)
    logits = maps.mean((1, 2)) @ kernel + bias
    np.testing.assert_allclose(whole(images), logits, rtol=1e-4, atol=1e-4)


def test_probabilities_are_the_default_and_logits_an_option():
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 1))
    logits = get_small_network(classifier_activation=None)
    probabilities = get_small_network()
    np.testing.assert_allclose(
        probabilities(images),
        keras.ops.softmax(logits(images)),
        rtol=1e-4,
        atol=1e-6,
    )


def test_one_network_takes_any_image_size():
    images = keras.Input((None, None, 1))
    flexible = build_small_network(None, input_tensor=images)
    for size in (16, 13):
        images = np.random.default_rng(0).normal(size=(2, size, size, 1))
        expected = get_small_network(size)(images)
        np.testing.assert_allclose(flexible(images), expected, atol=1e-5)


def test_the_caller_chooses_what_stands_at_l():
    model = build_small_network(
        architecture="v1",
        layout="CCCL",
        lambda_layer=lambda filters: (
            keras.layers.DepthwiseConv2D(
                5, padding="same", name=f"depthwise_{filters}"
            )
            if filters != 64
            else lambda_keras.LambdaConv(filters, 3)
        ),
    )
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("LambdaConv") == 2


def test_normalization_reaches_every_layer():
    template = keras.layers.BatchNormalization(momentum=0.75)
    model = build_shapes(
        26, (32, 32, 3), normalization=template, stem_strides=1
    )
    layers = list(model._flatten_layers(include_self=False))
    norms = [
        layer
        for layer in layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.built
    ]
    lambdas = [x for x in layers if isinstance(x, lambda_keras.LambdaConv)]
    assert len(lambdas) == 3
    # Stem, three a block, shortcuts, and queries and values of each lambda.
    assert len(norms) == 3 + 8 * 3 + 4 + 3 * 2
    assert {norm.momentum for norm in norms} == {0.75}


def test_saved_network_gives_the_same_in_a_fresh_process(tmp_path):
    model = build_small_network(stochastic_depth_rate=0.1, dropout_rate=0.2)
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 1))
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "check.npz", images=images, outputs=model(images))
    program = """
import sys
import keras, lambda_keras, numpy as np
model = keras.saving.load_model(sys.argv[1] + "/model.keras")
check = np.load(sys.argv[1] + "/check.npz")
outputs = keras.ops.convert_to_numpy(model(check["images"]))
np.testing.assert_allclose(outputs, check["outputs"], rtol=1e-5, atol=1e-6)
print("equal")
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip().endswith("equal"), result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(depth=51), r"`depth` must be one of .*420\).*depth=51"),
        (dict(layout="CCXL"), r"four letters.*layout='CCXL'"),
        (dict(layout="CCL"), r"four letters.*layout='CCL'"),
        (dict(architecture="v2"), r"`architecture`.*architecture='v2'"),
        (dict(pooling="sum"), r"`pooling`.*pooling='sum'"),
        (dict(stem_strides=3), r"`stem_strides`.*stem_strides=3"),
        (dict(input_shape=(224, 224)), r"`input_shape`.*\(224, 224\)"),
        (dict(normalization=None), r"must not be None"),
        (dict(num_classes=0), r"`num_classes`.*num_classes=0"),
        (dict(width_multiplier=0), r"`width_multiplier`.*width_multiplier=0"),
        (dict(dropout_rate=1.0), r"`dropout_rate`.*dropout_rate=1.0"),
        (
            dict(width_multiplier=0.05),
            r"divisible by `num_heads`.*filters=13",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_lambda_resnet(**arguments)
