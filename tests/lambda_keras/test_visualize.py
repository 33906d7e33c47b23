"""Weights of pixels against the layer's outputs, and their pictures."""

import functools
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import lambda_keras
from export.trained_classifier import load_classifier
from lambda_keras import visualize
from tests.support.programs import Program
from trainers.program import UserError

PROGRAM = Program("examples.visualize_lambdas")
IMAGE_SHAPE = (6, 10, 3)
QUERY = (4, 1)
# Loading takes a second, and many tests of the command need it.
load_once = functools.cache(load_classifier)
LAYERS = {
    "lambda_conv": lambda: lambda_keras.LambdaConv(12, scope_size=5),
    "lambda_conv_local_content": lambda: lambda_keras.LambdaConv(
        12, scope_size=3, local_content=True
    ),
    "lambda_layer": lambda: lambda_keras.LambdaLayer(12),
    "two_groups_of_heads": lambda: lambda_keras.LambdaLayer(
        12, num_key_value_heads=2
    ),
    "content_only": lambda: lambda_keras.LambdaLayer(12, use_position=False),
    "positions_only": lambda: lambda_keras.LambdaLayer(12, use_content=False),
}


def make_image(shape=IMAGE_SHAPE, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, shape)


def build_network(shape=IMAGE_SHAPE):
    """Two lambda layers, of which the second has half as fine a grid."""
    images = keras.Input(shape)
    x = lambda_keras.LambdaConv(8, scope_size=3, name="fine")(images)
    x = keras.layers.AveragePooling2D(2)(x)
    x = lambda_keras.LambdaConv(12, scope_size=3, name="coarse")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(10)(x), name="network")


def nest(network):
    """The network inside a model inside a model, as trained ones are."""
    shape = network.input_shape[1:]
    images = keras.Input(shape)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(images)
    model = keras.Model(images, network(x))
    images = keras.Input(shape)
    return keras.Model(images, keras.layers.Softmax()(model(images)))


class Subclassed(keras.Model):
    """A model of which Keras knows no graph."""

    def __init__(self):
        super().__init__()
        self.first = keras.layers.Rescaling(1 / 255)
        self.second = lambda_keras.LambdaConv(8, name="fine")

    def call(self, images):
        return self.second(self.first(images))


def make_weights(**arguments):
    random = np.random.default_rng(1)
    weights = visualize.PixelWeights(
        layer_name="layer",
        query=(5, 7),
        grid_query=(2, 3),
        content=random.normal(size=(2, 3, 5)),
        positions=10 * random.normal(size=(2, 3, 5)),
    )
    return weights._replace(**arguments)


@pytest.mark.parametrize("make_layer", LAYERS.values(), ids=LAYERS)
def test_weighted_values_sum_to_the_output(make_layer):
    keras.utils.set_random_seed(0)
    layer = make_layer()
    images = keras.Input(IMAGE_SHAPE)
    model = keras.Model(images, layer(images))
    image = make_image() / 255
    weights = visualize.compute_pixel_weights(model, image, QUERY)

    values = layer.value_normalization(layer.value(image[None]))
    values = np.reshape(values, (*IMAGE_SHAPE[:2], -1, layer.value_dim))
    heads_of_a_group = layer.num_heads // layer.num_key_value_heads
    expected = np.zeros((layer.num_heads, layer.value_dim))
    for maps in (weights.content, weights.positions):
        if maps is None:
            continue
        for head, row, column in np.ndindex(*maps.shape):
            group = head // heads_of_a_group
            value = values[row, column, group]
            expected[head] += maps[head, row, column] * value
    output = np.asarray(model(image[None]))[0][QUERY]
    np.testing.assert_allclose(output, expected.ravel(), rtol=1e-4, atol=1e-5)
    assert np.abs(output).max() > 0.02


def test_unused_kind_of_weights_is_none():
    images = keras.Input(IMAGE_SHAPE)
    layer = lambda_keras.LambdaLayer(12, use_position=False)
    model = keras.Model(images, layer(images))
    weights = visualize.compute_pixel_weights(model, make_image(), QUERY)
    assert weights.positions is None
    assert weights.content.shape == (4, 6, 10)


def test_intra_depth_is_summed():
    images = keras.Input(IMAGE_SHAPE)
    layer = lambda_keras.LambdaLayer(12, intra_depth=3)
    model = keras.Model(images, layer(images))
    image = make_image() / 255
    weights = visualize.compute_pixel_weights(model, image, QUERY)
    content, _ = layer.compute_weights(image[None])
    of_query = np.asarray(content)[0, 4 * 10 + 1]
    expected = of_query[:, :, 0] + of_query[:, :, 1] + of_query[:, :, 2]
    np.testing.assert_allclose(
        weights.content.reshape(4, 60), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("query", "grid_query"),
    [
        ((0, 0), (0, 0)),
        ((1, 1), (0, 0)),
        ((2, 1), (1, 0)),
        ((3, 8), (1, 4)),
        ((5, 9), (2, 4)),
    ],
)
def test_query_is_mapped_to_the_grid(query, grid_query):
    network = build_network()
    image = make_image()
    weights = visualize.compute_pixel_weights(network, image, query, "coarse")
    assert weights.query == query
    assert weights.grid_query == grid_query
    # Each position sees its scope of 3 pixels and no others.
    seen = np.argwhere(weights.positions[0])
    np.testing.assert_array_equal(
        seen.min(axis=0), np.maximum(np.subtract(grid_query, 1), 0)
    )
    np.testing.assert_array_equal(
        seen.max(axis=0), np.minimum(np.add(grid_query, 1), (2, 4))
    )


def test_grid_that_does_not_divide_the_image_covers_it():
    images = keras.Input((7, 5, 3))
    x = keras.layers.AveragePooling2D(2, padding="same")(images)
    model = keras.Model(images, lambda_keras.LambdaConv(8)(x))
    weights = visualize.compute_pixel_weights(
        model, make_image((7, 5, 3)), query=(6, 4)
    )
    assert weights.content.shape == (4, 4, 3)
    assert weights.grid_query == (3, 2)


def test_nested_model_has_the_weights_of_its_network():
    network = build_network()
    image = make_image()
    for name in ("fine", "coarse"):
        nested = visualize.compute_pixel_weights(
            nest(network), image, QUERY, name
        )
        alone = visualize.compute_pixel_weights(
            network, image / 127.5 - 1, QUERY, name
        )
        # Next to nothing is left where positives and negatives cancel.
        np.testing.assert_allclose(
            nested.content, alone.content, rtol=1e-3, atol=1e-6
        )
        np.testing.assert_allclose(
            nested.positions, alone.positions, rtol=1e-3, atol=1e-5
        )


def test_subclassed_model_has_the_weights_of_its_layer():
    model = Subclassed()
    image = make_image()
    weights = visualize.compute_pixel_weights(model, image, QUERY)
    content, _ = model.second.compute_weights(image[None] / 255)
    expected = np.asarray(content)[0, 4 * 10 + 1, :, :, 0].reshape(4, 6, 10)
    # Next to nothing is left where positives and negatives cancel.
    np.testing.assert_allclose(weights.content, expected, rtol=1e-4, atol=1e-6)


def test_first_layer_is_the_default():
    network = build_network()
    layers = visualize.find_lambda_layers(nest(network))
    assert [layer.name for layer in layers] == ["fine", "coarse"]
    weights = visualize.compute_pixel_weights(network, make_image(), QUERY)
    assert weights.layer_name == "fine"


def test_model_is_left_as_it_was():
    network = build_network()
    image = make_image()
    before = np.asarray(network(image[None]))
    visualize.compute_pixel_weights(network, image, QUERY)
    layer = network.get_layer("fine")
    assert "call" not in vars(layer)
    assert layer.output is network.get_layer("fine").output
    np.testing.assert_array_equal(np.asarray(network(image[None])), before)


@pytest.mark.parametrize("query", [(-1, 0), (0, -1), (6, 0), (0, 10)], ids=str)
def test_query_outside_the_image_raises(query):
    with pytest.raises(ValueError, match=r"6 rows and 10 columns.*Received"):
        visualize.compute_pixel_weights(build_network(), make_image(), query)


def test_batch_of_images_raises():
    with pytest.raises(ValueError, match=r"one image.*\(1, 6, 10, 3\)"):
        visualize.compute_pixel_weights(
            build_network(), make_image()[None], QUERY
        )


def test_unknown_layer_raises():
    with pytest.raises(ValueError, match=r"fine, coarse.*Received.*'blurred'"):
        visualize.compute_pixel_weights(
            build_network(), make_image(), QUERY, "blurred"
        )


def test_model_without_lambda_layers_raises():
    images = keras.Input(IMAGE_SHAPE)
    model = keras.Model(images, keras.layers.Conv2D(2, 1)(images), name="net")
    with pytest.raises(ValueError, match="Received: net with none"):
        visualize.compute_pixel_weights(model, make_image(), QUERY)


def test_separate_context_raises():
    images = keras.Input(IMAGE_SHAPE)
    layer = lambda_keras.LambdaLayer(12, name="crossed")
    model = keras.Model(images, layer(images, context=2 * images))
    with pytest.raises(ValueError, match="Received: crossed called with"):
        visualize.compute_pixel_weights(model, make_image(), QUERY)


def test_layer_on_sequences_raises():
    images = keras.Input(IMAGE_SHAPE)
    x = keras.layers.Reshape((60, 3))(images)
    model = keras.Model(images, lambda_keras.LambdaLayer(12)(x))
    with pytest.raises(ValueError, match=r"on inputs of shape \(1, 60, 3\)"):
        visualize.compute_pixel_weights(model, make_image(), QUERY)


def find_axes(figure):
    return {axes.get_label(): axes for axes in figure.axes}


def test_maps_show_the_weights_on_one_scale_per_kind():
    weights = make_weights()
    axes = find_axes(visualize.draw_pixel_weights(weights, make_image()))
    for kind, maps in (
        ("content", weights.content),
        ("position", weights.positions),
    ):
        limit = np.abs(maps).max()
        for head in range(2):
            (drawn,) = axes[f"{kind} {head + 1}"].images
            np.testing.assert_array_equal(drawn.get_array(), maps[head])
            assert drawn.get_clim() == (-limit, limit)
    assert axes["content 1"].get_title() == "head 1"
    assert axes["content 1"].get_ylabel() == "content"
    assert axes["position 1"].get_ylabel() == "position"


def test_query_is_framed_in_image_and_maps():
    """A pixel of the grid of 3 x 5 is 2 x 2 pixels of the 6 x 10 image."""
    figure = visualize.draw_pixel_weights(make_weights(), make_image())
    axes = find_axes(figure)
    (frame,) = axes["image"].patches
    assert frame.get_bbox().bounds == (5.5, 3.5, 2, 2)
    (frame,) = axes["position 2"].patches
    assert frame.get_bbox().bounds == (2.5, 1.5, 1, 1)


def test_image_is_drawn_from_dark_to_bright():
    image = make_image(seed=2) - 300
    axes = find_axes(visualize.draw_pixel_weights(make_weights(), image))
    (drawn,) = axes["image"].images
    drawn = np.asarray(drawn.get_array())
    assert drawn.min() == 0
    assert drawn.max() == 1
    np.testing.assert_allclose(
        drawn, (image - image.min()) / np.ptp(image), atol=1e-12
    )


@pytest.mark.parametrize(
    ("missing", "drawn"),
    [("content", "position"), ("positions", "content")],
    ids=["positions_only", "content_only"],
)
def test_missing_kind_of_weights_is_left_out(missing, drawn):
    weights = make_weights(**{missing: None})
    axes = find_axes(visualize.draw_pixel_weights(weights, make_image()))
    assert {"image", f"{drawn} 1", f"{drawn} 2"} == set(axes) - {"<colorbar>"}
    assert axes[f"{drawn} 2"].get_title() == "head 2"


def test_image_of_zeros_and_weights_of_zeros_are_drawn(tmp_path):
    weights = make_weights(content=np.zeros((2, 3, 5)))
    figure = visualize.draw_pixel_weights(weights, np.zeros((6, 10, 1)))
    figure.savefig(tmp_path / "zeros.png")
    (drawn,) = find_axes(figure)["content 1"].images
    assert drawn.get_clim() == (-1, 1)


def test_image_of_two_channels_is_not_drawn():
    with pytest.raises(ValueError, match=r"1 or 3 channels.*\(6, 10, 2\)"):
        visualize.draw_pixel_weights(make_weights(), make_image((6, 10, 2)))


def test_missing_matplotlib_names_the_extra(monkeypatch):
    # None makes Python say that there is no such module.
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install lambda-keras\[train\]"):
        visualize.draw_pixel_weights(make_weights(), make_image())


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model_dir") / "best.keras"
    nest(build_network((16, 16, 1))).save(path)
    return path


@pytest.fixture
def run_command(model_path, tmp_path, monkeypatch):
    """Runs the command, and returns the folder of its pictures."""
    monkeypatch.setattr(PROGRAM.module, "load_classifier", load_once)

    def run(**values):
        values = {
            "model": str(model_path),
            "output_dir": str(tmp_path / "pictures"),
            **values,
        }
        PROGRAM.run(**values)
        return tmp_path / "pictures"

    return run


def test_command_draws_scans(run_command, capsys):
    pictures = run_command(layer="coarse")
    paths = sorted(pictures.iterdir())
    assert capsys.readouterr().out.split("\n")[-4:-1] == list(map(str, paths))
    for number, path in enumerate(paths, start=1):
        assert path.name.startswith(f"scan{number}_of_a_")
        assert path.name.endswith("_coarse.png")
        picture = tf.io.decode_png(path.read_bytes()).numpy()
        colors = picture.view("uint32")  # red, green, blue and opacity
        assert len(np.unique(colors)) > 50


def test_command_draws_a_query_of_each_layer(
    run_command, tmp_path, monkeypatch
):
    path = tmp_path / "photo.png"
    image = make_image((20, 24, 1)).astype("uint8")
    path.write_bytes(tf.io.encode_png(image).numpy())
    drawn = {}
    draw = visualize.draw_pixel_weights

    def record_and_draw(weights, image):
        drawn[weights.layer_name] = weights
        assert image.shape == (16, 16, 1)
        return draw(weights, image)

    monkeypatch.setattr(visualize, "draw_pixel_weights", record_and_draw)
    pictures = run_command(image=str(path), query=["3", "15"])
    names = {path.name for path in pictures.iterdir()}
    assert names == {"photo_fine.png", "photo_coarse.png"}
    assert drawn["fine"].query == drawn["fine"].grid_query == (3, 15)
    assert drawn["coarse"].query == (3, 15)
    assert drawn["coarse"].grid_query == (1, 7)


def test_command_asks_with_the_brightest_pixel():
    image = np.zeros((4, 5, 3))
    image[1, 2] = 100, 100, 100
    image[3, 4] = 255, 0, 0
    assert PROGRAM.module.find_brightest(image) == (1, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(model=None), "--model is missing"),
        (dict(model="none.keras"), "--model must be a .keras file"),
        (dict(output_dir=None), "--output_dir is missing"),
        (dict(output_dir=__file__), "--output_dir must be a folder"),
        (dict(image="none.png"), "--image cannot be read: none.png"),
        (dict(image=__file__), "--image must be a PNG"),
        (dict(query=["16", "0"]), "from 0 to 15. Received: 16,0"),
        (dict(query=["3"]), "Received: 3"),
        (dict(query=["3", "x"]), "Received: 3,x"),
        (dict(layer="blurred"), "--layer must be one of fine, coarse."),
    ],
    ids=str,
)
def test_command_says_what_is_wrong_in_one_line(run_command, values, message):
    with pytest.raises(UserError) as error_info:
        run_command(**values)
    assert message in str(error_info.value)
    assert "\n" not in str(error_info.value)
