"""The named networks: counts of the sources, use and documentation."""

import pathlib
import re

import keras
import numpy as np
import pytest

import lambda_keras
from lambda_keras import NETWORKS
from lambda_keras import build_lambda_resnet
from lambda_keras import build_network
from lambda_keras import count_multiply_adds
from tests.support import reference
from tests.support.networks import build_small_network
from tests.support.networks import build_without_values

# Builds, saves or exports whole models: not for the edit loop.
pytestmark = pytest.mark.slow

_DOCUMENT = pathlib.Path(__file__).parents[3] / "docs" / "networks.md"

# Worked out by hand from the papers' descriptions; they round to what these
# print, but for CCLL: 15.4M there, though the table's other rows make 15.56M.
PARAMETERS = {
    "resnet50": 25_557_032,
    "resnet50_lccc": 25_490_744,
    "resnet50_llcc": 24_992_888,
    "resnet50_lllc": 21_727_448,
    "resnet50_llll": 14_995_592,
    "resnet50_clll": 15_061_880,
    "resnet50_ccll": 15_559_736,
    "resnet50_cccl": 18_825_176,
    "resnet50_llll_u4": 16_040_360,
    "resnet50_llll_biased": 14_995_592 + 16 * 16,
    # One table of 23 x 23 x 16 for a stage, rather than for each of 16 layers.
    "resnet50_llll_shared": 14_995_592 - (16 - 4) * 23 * 23 * 16,
    "resnet50_llll_r7": 14_995_592 - 16 * (23 * 23 - 7 * 7) * 16,
    "resnet_rs50": 35_691_912,
    "resnet_rs101": 63_618_696,
    "resnet_rs152": 86_621_576,
    "resnet_rs200": 93_209_992,
    "resnet_rs270": 129_861_448,
    "resnet_rs350": 163_956_168,
    "resnet_rs420": 191_891_656,
    "lambda_resnet50": 18_963_272,
    "lambda_resnet101": 36_866_920,
    "lambda_resnet152": 51_404_696,
    "lambda_resnet200": 57_993_112,
    "lambda_resnet270": 81_366_248,
    "lambda_resnet350": 105_475_176,
    "lambda_resnet420": 124_438_664,
    "lambda_resnet101_c4": 25_982_120,
    "lambda_resnet152_c4": 35_077_496,
    "lambda_resnet200_c4": 41_665_912,
}
# As the sources print them, in millions.
PRINTED_PARAMETERS = {
    "resnet101": 44.55,
    "resnet152": 60.19,
    "resnet50_llll_k8": 14.8,
    "lambda_resnet26t": 10.96,
    "lambda_resnet26rpt_256": 10.99,
    "lambda_resnet50ts": 21.54,
}
# As the sources print them, in billions. timm's and d-li14's tools count the
# normalizations too, which are below 1 %.
PRINTED_MULTIPLY_ADDS = {
    "resnet50": 4.09,
    "resnet50_llll": 6.55,
    "resnet50_llll_biased": 6.576,
    "resnet_rs50": 2.29,
    "resnet_rs101": 6.04,
    "resnet_rs152": 15.59,
    "resnet_rs200": 20.18,
    "resnet_rs270": 27.06,
    "resnet_rs420": 64.2,
    "lambda_resnet26t": 3.02,
    "lambda_resnet26rpt_256": 3.16,
    "lambda_resnet50ts": 5.07,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network_has_the_counts_of_its_row(name):
    model = build_without_values(build_network, name)
    parameters = sum(
        int(np.prod(weight.shape)) for weight in model.trainable_weights
    )
    assert parameters == NETWORKS[name].parameters
    assert count_multiply_adds(model) == NETWORKS[name].multiply_adds


def test_rows_have_the_parameters_of_their_sources():
    for name, parameters in PARAMETERS.items():
        assert NETWORKS[name].parameters == parameters, name
    for name, millions in PRINTED_PARAMETERS.items():
        digits = len(str(millions).split(".")[1])
        row = NETWORKS[name]
        assert round(row.parameters / 1e6, digits) == millions, name
    assert NETWORKS.keys() == PARAMETERS.keys() | PRINTED_PARAMETERS.keys()


@pytest.mark.parametrize(("name", "billions"), PRINTED_MULTIPLY_ADDS.items())
def test_multiply_adds_are_within_one_per_cent_of_the_sources(name, billions):
    counted = NETWORKS[name].multiply_adds / 1e9
    assert counted == pytest.approx(billions, rel=0.01)


def test_every_network_stands_in_the_document_as_in_the_code():
    # What the check of all networks measured stands further down.
    document = _DOCUMENT.read_text().partition("benchmarks.check_networks")[0]
    lines = document.splitlines()
    rows = [line for line in lines if re.match(r"\| `\w+` \| [\d,]+ \|", line)]
    assert rows == [
        f"| `{name}` | {row.parameters:,} | {row.multiply_adds / 1e9:.2f} | "
        f"{row.image_size} | {'' if row.top_1 is None else row.top_1} | "
        f"{row.source} |"
        for name, row in NETWORKS.items()
    ]


def test_multiply_adds_follow_from_the_shapes():
    images = keras.Input((5, 7, 3))
    conv = keras.layers.Conv2D(4, 3, strides=2, padding="same")
    x = conv(images)  # 3 x 4
    x = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    x = keras.layers.BatchNormalization()(x)
    lambda_conv = lambda_keras.LambdaConv(
        6, 5, num_heads=2, key_dim=5, intra_depth=3
    )
    x = lambda_conv(x)
    x = lambda_keras.LambdaLayer(6, num_heads=2, key_dim=5)(x)
    head = keras.layers.Dense(9)
    model = keras.Model(images, head(keras.layers.Flatten()(x)))
    expected = 12 * 4 * 27 + 12 * 4 * 9 + 72 * 9
    # Queries, keys, values; content, position and application of lambdas.
    expected += 12 * 4 * (10 + 15 + 9) + 12 * 45 * (1 + 25) + 12 * 2 * 15
    expected += 12 * 6 * (10 + 5 + 3) + 12 * 15 * (1 + 12) + 12 * 2 * 15
    assert count_multiply_adds(model) == expected


def test_a_layer_counts_as_often_as_it_is_called():
    inner = keras.Sequential([keras.Input((7,)), keras.layers.Dense(7)])
    inputs = keras.Input((7,))
    model = keras.Model(inputs, inner(inner(inputs)))
    assert count_multiply_adds(model) == 2 * 49


def test_a_separate_context_counts_by_its_own_size():
    inputs, context = keras.Input((8, 8, 3)), keras.Input((4, 4, 5))
    layer = lambda_keras.LambdaLayer(
        6, num_heads=2, key_dim=5, context_scale=0.5
    )
    model = keras.Model([inputs, context], layer(inputs, context=context))
    expected = 64 * 3 * 10 + 16 * 5 * (5 + 3)
    expected += 16 * 15 + 64 * 16 * 15 + 64 * 2 * 15
    assert count_multiply_adds(model) == expected


class Patches(keras.layers.Layer):
    """A layer that counts itself, with weights that nothing else counts."""

    def build(self, inputs_shape):
        self.mix = self.add_weight(shape=(inputs_shape[-1],) * 2)

    def call(self, inputs):
        return inputs @ self.mix

    def count_multiply_adds(self, inputs_shape):
        _, height, width, channels = inputs_shape
        return height * width * channels**2


def test_a_layer_of_ones_own_counts_itself():
    images = keras.Input((5, 3, 7))
    model = keras.Model(images, Patches()(images))
    assert count_multiply_adds(model) == 5 * 3 * 7 * 7


def test_a_network_counts_what_stands_at_its_lambda_layers():
    def build(layout):
        return build_without_values(
            build_lambda_resnet,
            26,
            (64, 32, 3),
            10,
            layout=layout,
            architecture="v1",
            lambda_layer=lambda_keras.attention.LinearAttention,
        )

    convolutions, attention = (
        count_multiply_adds(build(layout)) for layout in ("CCCC", "CCCL")
    )
    # c5 has two blocks of 512 channels: on 4x2 positions before a stride, of
    # which the convolution makes 2x1, and on 2x1.
    expected = (8 + 2) * (3 * 512 * 512 + 2 * 512 * 64)
    expected -= (2 + 2) * 9 * 512 * 512
    assert attention - convolutions == expected


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (keras.layers.Conv2D(3, 3), (None, 8, 3), r"known size.*None"),
        (keras.layers.GRU(3), (8, 3), r"can be counted.*a GRU"),
    ],
    ids=["unknown_size", "unknown_layer"],
)
def test_what_cannot_be_counted_is_named(layer, shape, message):
    inputs = keras.Input(shape)
    with pytest.raises(ValueError, match=message):
        count_multiply_adds(keras.Model(inputs, layer(inputs)))


def test_layers_of_a_stage_share_embeddings_where_the_name_says_so():
    model = build_without_values(
        build_network, "resnet50_llll_shared", (32, 32, 3), 10
    )
    layers = [
        layer
        for layer in model.layers
        if isinstance(layer, lambda_keras.LambdaConv)
    ]
    tables = [layer.position_embeddings for layer in layers]
    assert len(tables) == 16
    assert len({id(table) for table in tables}) == 4
    assert len({id(table) for table in tables[:3]}) == 1


def test_layouts_may_name_each_block():
    model = build_without_values(
        build_network, "lambda_resnet50ts", (64, 64, 3)
    )
    names = [layer.name for layer in model.layers]
    lambdas = [
        f"{stage}.{block}"
        for stage, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True)
        for block in range(1, blocks + 1)
        if f"c{stage}_block{block}_2_conv" not in names
    ]
    assert lambdas == ["3.4", "4.2", "4.4", "4.6", "5.2"]
    assert not any(name.endswith("_relu") for name in names)


@pytest.mark.parametrize("name", ["resnet50_llll_shared", "lambda_resnet26t"])
def test_network_trains_and_is_saved(name, tmp_path):
    model = build_network(name, (32, 32, 3), 3, stochastic_depth_rate=0.2)
    reference.randomize_weights(model)
    before = model.get_layer("c2_block1_1_conv").kernel + 0.0
    random = np.random.default_rng(0)
    images = random.normal(size=(4, 32, 32, 3)).astype("float32")
    # One step does not earn the time of tracing it.
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    loss = model.train_on_batch(images, np.array([0, 1, 2, 0]))
    assert np.isfinite(loss)
    kernel = model.get_layer("c2_block1_1_conv").kernel
    assert np.abs(kernel - before).max() > 0
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded(images), model(images), rtol=1e-4, atol=1e-6
    )
    again = build_network(
        name, (32, 32, 3), 3, weights=tmp_path / "model.keras"
    )
    np.testing.assert_allclose(
        again(images), model(images), rtol=1e-4, atol=1e-6
    )


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match=r"resnet50, .*name='lambda_resnet51'"):
        build_network("lambda_resnet51")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network of five classes, and its file."""
    path = tmp_path_factory.mktemp("trained") / "model.keras"
    model = build_small_network(num_classes=5)
    model.save(path)
    return model, path


def test_another_head_takes_the_features_of_a_trained_network(trained):
    model, path = trained
    features = build_small_network(
        24, weights=path, include_top=False, pooling="avg"
    )
    outputs = keras.layers.Dense(3)(features.output)
    assert keras.Model(features.input, outputs).output_shape == (None, 3)
    same_size = build_small_network(
        weights=path, include_top=False, pooling="avg"
    )
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 1))
    expected = keras.Model(model.input, model.get_layer("pool").output)
    np.testing.assert_allclose(
        same_size(images), expected(images), rtol=1e-4, atol=1e-5
    )


def test_another_number_of_classes_needs_another_head(trained):
    _, path = trained
    with pytest.raises(ValueError, match=r"include_top=False.*\(256, 5\)"):
        build_small_network(num_classes=3, weights=path)


def test_a_network_continues_from_a_given_tensor(trained):
    model, path = trained
    pixels = keras.Input((16, 16, 1))
    prepared = keras.layers.Dense(1, name="prepare")(pixels)
    whole = build_small_network(None, 5, weights=path, input_tensor=prepared)
    layer = whole.get_layer("prepare")
    layer.set_weights([np.array([[2.0]]), np.array([0.5])])
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 1))
    assert whole.input is pixels
    assert whole.get_layer("c4").output.shape == (None, 4, 4, 128)
    np.testing.assert_allclose(
        whole(images), model(2 * images + 0.5), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            dict(input_tensor=np.zeros((1, 16, 16, 1))),
            r"must be a Keras tensor",
        ),
        (
            dict(image_size=24, input_tensor=keras.Input((16, 16, 1))),
            r"\(24, 24, 1\) for a tensor of \(16, 16, 1\)",
        ),
        (
            dict(layout=("C", "C", "CLC", "L")),
            r"\(2, 2, 2, 2\).*layout=\('C', 'C', 'CLC', 'L'\)",
        ),
    ],
    ids=["no_tensor", "two_shapes", "too_many_blocks"],
)
def test_bad_arguments_raise(arguments, message):
    arguments = dict(image_size=None) | arguments
    with pytest.raises(ValueError, match=message):
        build_small_network(**arguments)


def test_images_are_prepared_as_for_imagenet():
    images = np.array([[[[0, 127.5, 255]]]])
    prepared = lambda_keras.preprocess_input(images)
    expected = [-0.485 / 0.229, (0.5 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(prepared[0, 0, 0], expected, rtol=1e-5)
    assert images.max() == 255
    tensor = lambda_keras.preprocess_input(keras.ops.convert_to_tensor(images))
    np.testing.assert_allclose(tensor, prepared, rtol=1e-5)


def test_the_most_likely_classes_are_named():
    predictions = np.array([[0.1, 0.7, 0.2], [0.6, 0.1, 0.3]])
    names = ["hen", "cat", "dog"]
    decoded = lambda_keras.decode_predictions(predictions, 2, names)
    assert decoded == [
        [(1, "cat", 0.7), (2, "dog", 0.2)],
        [(0, "hen", 0.6), (2, "dog", 0.3)],
    ]
    with pytest.raises(ValueError, match=r"\(2, 3\) and 2 names"):
        lambda_keras.decode_predictions(predictions, 2, names[:2])
