"""Writes a classifier as a SavedModel that prepares its images itself."""

import json
import pathlib
import tempfile

import tensorflow as tf

from export.trained_classifier import Classifier
from trainers.data.preprocessing import decode_image
from trainers.data.preprocessing import prepare_image


def write_saved_model(classifier: Classifier, folder: pathlib.Path) -> None:
    """Writes a SavedModel for TensorFlow Serving and `tf.saved_model.load`.

    Its signatures return `{"probabilities": (batch_size, classes)}`:

    * `serving_default`, also called `serve`, takes float32 `images`,
      `(batch_size, height, width, channels)` of any size, from 0 to 255;
    * `image_bytes` takes the contents of image files, strings
      `(batch_size,)`: PNG, JPEG, BMP or GIF.

    What `Classifier.describe` returns stands in assets/metadata.json.

    Args:
        classifier: what to write.
        folder: folder to make.
    """
    module = tf.Module()
    module.model_variables = [v.value for v in classifier.model.variables]
    module.serve = _make_images_function(classifier)
    module.image_bytes = _make_image_bytes_function(classifier)
    signatures = {
        "serving_default": module.serve,
        "serve": module.serve,
        "image_bytes": module.image_bytes,
    }
    with tempfile.TemporaryDirectory() as asset_folder:
        # A SavedModel keeps the names of its assets' files.
        asset = pathlib.Path(asset_folder) / "metadata.json"
        asset.write_text(json.dumps(classifier.describe()), encoding="utf-8")
        module.metadata = tf.saved_model.Asset(str(asset))
        tf.saved_model.save(module, str(folder), signatures=signatures)


def _make_images_function(classifier):
    spec = tf.TensorSpec(
        (None, None, None, classifier.channels), tf.float32, name="images"
    )

    def prepare(image):
        return prepare_image(
            image, classifier.image_size, classifier.crop_fraction
        )

    return _make_function(classifier, prepare, spec)


def _make_image_bytes_function(classifier):
    def prepare(contents):
        image = decode_image(contents, classifier.channels)
        return prepare_image(
            image, classifier.image_size, classifier.crop_fraction
        )

    spec = tf.TensorSpec((None,), tf.string, name="image_bytes")
    return _make_function(classifier, prepare, spec)


def _make_function(classifier, prepare, spec):
    @tf.function(input_signature=[spec], autograph=False)
    def classify(examples):
        # One by one, because files hold images of different sizes.
        images = tf.map_fn(prepare, examples, fn_output_signature=tf.float32)
        return {"probabilities": classifier.model(images, training=False)}

    return classify
