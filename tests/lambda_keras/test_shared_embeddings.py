"""Embeddings that layers share, in every way in which Keras copies a model."""

import copy
import gc
import math
import pickle
import threading

import keras
import numpy as np
import pytest

import lambda_keras
from tests.support import reference
from tests.support.networks import build_without_values

# Builds, saves or exports whole models: not for the edit loop.
pytestmark = pytest.mark.slow

GRID = (5, 3)
CHANNELS = 6


def make_layer(embeddings, **kwargs):
    return lambda_keras.LambdaConv(
        CHANNELS,
        scope_size=3,
        num_heads=2,
        key_dim=7,
        position_embeddings=embeddings,
        **kwargs,
    )


def build_model(layers=4):
    """A chain of layers: the first two share embeddings, and the others."""
    images = keras.Input((*GRID, CHANNELS))
    embeddings = [lambda_keras.PositionEmbeddings() for _ in range(2)]
    x = images
    for number in range(layers):
        x = make_layer(embeddings[number // 2], name=f"lambda_{number}")(x)
    return keras.Model(images, x)


@pytest.fixture(scope="module")
def model():
    built = build_model()
    reference.randomize_weights(built)
    return built


def wrap(model):
    """A model within a model, which prepares its images."""
    images = keras.Input((*GRID, CHANNELS))
    outputs = model(keras.layers.Rescaling(2.0)(images))
    return keras.Model(images, outputs)


def save_and_load(model, path):
    model.save(path / "model.keras")
    return keras.saving.load_model(path / "model.keras")


def serialize_and_deserialize(model, _):
    config = keras.saving.serialize_keras_object(model)
    return keras.saving.deserialize_keras_object(config)


COPIES = {
    "clone_model": lambda model, _: keras.models.clone_model(model),
    "clone_model_recursive": lambda model, _: keras.models.clone_model(
        model, recursive=True
    ),
    "from_config": lambda model, _: keras.Model.from_config(model.get_config()),
    "json": lambda model, _: keras.models.model_from_json(model.to_json()),
    "serialize": serialize_and_deserialize,
    "file": save_and_load,
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, _: copy.deepcopy(model),
}


def assert_close(outputs, expected):
    outputs, expected = map(keras.ops.convert_to_numpy, (outputs, expected))
    # Each layer multiplies its inputs with one another, and their errors.
    scale = np.abs(expected).max()
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-4 * scale)


def find_tables(model):
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, lambda_keras.LambdaConv)
    ]
    return [layer.position_embeddings.table for layer in layers]


def assert_shares_as_built(model):
    """Two tables in four layers, and each weight once in the model."""
    first, second, third, fourth = find_tables(model)
    assert first is second
    assert third is fourth
    assert first is not third
    tables = [weight for weight in model.weights if weight.name == "table"]
    assert len(tables) == 2


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("is_wrapped", [False, True], ids=["plain", "wrapped"])
def test_copies_share_as_the_model_does_and_not_with_it(
    way, is_wrapped, model, tmp_path
):
    original = wrap(model) if is_wrapped else model
    copies = [COPIES[way](original, tmp_path) for _ in range(2)]
    for copied in copies:
        assert_shares_as_built(copied)
        assert copied.count_params() == original.count_params()
    before = original.get_weights()
    other = copies[1].get_weights()
    copies[0].compile(keras.optimizers.SGD(10.0), "mse", run_eagerly=True)
    images = np.random.default_rng(0).normal(size=(2, *GRID, CHANNELS))
    read = keras.ops.convert_to_numpy
    tables = [np.array(read(table)) for table in find_tables(copies[0])]
    copies[0].fit(images, images, verbose=0)
    for table, untrained in zip(find_tables(copies[0]), tables, strict=True):
        assert np.abs(read(table) - untrained).max() > 0
    for model_, weights in ((original, before), (copies[1], other)):
        for weight, expected in zip(model_.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_with_the_weights_of_the_model_does_the_same(
    way, model, tmp_path
):
    copied = COPIES[way](COPIES[way](model, tmp_path), tmp_path)
    assert_shares_as_built(copied)
    copied.set_weights(model.get_weights())
    images = np.random.default_rng(1).normal(size=(2, *GRID, CHANNELS))
    assert_close(copied(images), model(images))


@pytest.mark.parametrize("way", ["clone_model", "from_config", "json"])
def test_a_copy_of_the_named_network_has_its_parameters(way):
    def build_copy():
        model = lambda_keras.build_network("resnet50_llll_shared")
        return COPIES[way](model, None)

    copied = build_without_values(build_copy)
    count = sum(math.prod(weight.shape) for weight in copied.trainable_weights)
    assert count == lambda_keras.NETWORKS["resnet50_llll_shared"].parameters
    assert len({id(table) for table in find_tables(copied)}) == 4


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports with TensorFlow"
)
def test_a_copy_is_exported_with_what_it_shares(model, tmp_path):
    import tensorflow as tf

    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    copied.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")
    images = np.random.default_rng(1).normal(size=(2, *GRID, CHANNELS))
    images = images.astype("float32")
    assert_close(loaded.serve(images), model(images))
    tables = [x for x in loaded.variables if x.shape == (3, 3, 1, 1, 7)]
    assert len(tables) == 2


def test_a_text_makes_as_many_copies_as_one_wants(model):
    text = model.to_json()
    first, second = (keras.models.model_from_json(text) for _ in range(2))
    for copied in (first, second):
        assert_shares_as_built(copied)
    assert find_tables(first)[0] is not find_tables(second)[0]


@pytest.mark.parametrize("way", ["clone_model", "from_config", "json"])
def test_a_sequence_of_layers_is_copied_before_and_after_it_is_built(
    way, tmp_path
):
    embeddings = lambda_keras.PositionEmbeddings()
    model = keras.Sequential([make_layer(embeddings) for _ in range(3)])
    images = np.random.default_rng(0).normal(size=(2, *GRID, CHANNELS))
    ways = COPIES | {
        "from_config": lambda model, _: keras.Sequential.from_config(
            model.get_config()
        )
    }
    for _ in range(2):
        copied = ways[way](model, tmp_path)
        copied(images)
        assert len({id(table) for table in find_tables(copied)}) == 1
        model(images)


def test_what_is_called_in_another_order_than_made_is_copied():
    """The order of the copies is that in which layers are built."""
    embeddings = lambda_keras.PositionEmbeddings()
    first, second = make_layer(embeddings), make_layer(embeddings)
    images = keras.Input((*GRID, CHANNELS))
    model = keras.Model(images, first(second(images)))
    copied = keras.models.clone_model(model)
    assert len({id(table) for table in find_tables(copied)}) == 1


def test_a_copy_of_the_first_part_of_a_model_shares(model):
    """And the next copy begins anew, though this one was not complete."""
    part = keras.Model(model.input, model.get_layer("lambda_2").output)
    first, second = (keras.models.clone_model(part) for _ in range(2))
    tables = find_tables(first)
    assert tables[0] is tables[1]
    assert not {id(table) for table in tables} & {
        id(table) for table in find_tables(second)
    }
    assert_shares_as_built(keras.models.clone_model(model))


def copy_layer(layer):
    return type(layer).from_config(layer.get_config())


def deserialize_layer(layer):
    config = keras.saving.serialize_keras_object(layer)
    return keras.saving.deserialize_keras_object(config)


@pytest.mark.parametrize("way", [copy_layer, deserialize_layer])
def test_a_layer_that_shares_is_not_copied_alone(way, model):
    kept = keras.models.clone_model(model)
    with pytest.raises(
        ValueError, match=r"^Layers that share.*number=1 .* after 2 that"
    ):
        way(model.get_layer("lambda_1"))
    del kept
    gc.collect()
    with pytest.raises(ValueError, match=r"Save and load.*after 0 that"):
        way(model.get_layer("lambda_3"))
    # Nor does the attempt disturb those that follow.
    assert_shares_as_built(keras.models.clone_model(model))


def test_a_copy_of_the_first_layer_does_not_reach_into_the_next_copy(model):
    alone = copy_layer(model.get_layer("lambda_0"))
    copied = keras.models.clone_model(model)
    assert_shares_as_built(copied)
    assert alone.position_embeddings is not (
        copied.get_layer("lambda_0").position_embeddings
    )


def test_layers_copied_in_another_order_are_refused():
    embeddings = lambda_keras.PositionEmbeddings()
    images = keras.Input((*GRID, CHANNELS))
    later = make_layer(embeddings, name="later")
    # The layer that was built first stands last.
    outside = make_layer(embeddings, name="first")
    outside(images)
    model = keras.Model(images, outside(later(images)))
    with pytest.raises(ValueError, match=r"number=1 .* after 0 that"):
        keras.models.clone_model(model)


def test_copies_made_in_two_threads_do_not_mix(model):
    """One thread copies while the other stands between two layers."""
    begun, done = threading.Event(), threading.Event()

    def clone_slowly(layer):
        if layer.name == "lambda_1":
            begun.set()
            done.wait(60)
        return copy_layer(layer)

    slow = []

    def run():
        slow.append(
            keras.models.clone_model(model, clone_function=clone_slowly)
        )

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait(60)
    quick = keras.models.clone_model(model)
    done.set()
    thread.join()
    assert_shares_as_built(slow[0])
    assert_shares_as_built(quick)
    assert find_tables(slow[0])[0] is not find_tables(quick)[0]


def test_a_file_keeps_sharing_that_is_refused_otherwise(tmp_path):
    embeddings = lambda_keras.PositionEmbeddings()
    images = keras.Input((*GRID, CHANNELS))
    last = make_layer(embeddings)
    last(images)
    model = keras.Model(images, last(make_layer(embeddings)(images)))
    loaded = save_and_load(model, tmp_path)
    assert len({id(table) for table in find_tables(loaded)}) == 1
