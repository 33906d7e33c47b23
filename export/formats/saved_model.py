"""A classifier as a SavedModel that prepares its images itself."""

import dataclasses
import json
import pathlib
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from export.formats import Run
    from export.trained_classifier import Classifier

_METADATA_FILE = "metadata.json"


def write(
    classifier: "Classifier", folder: pathlib.Path, images: "np.ndarray | None"
) -> None:
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
        images: not needed.
    """
    import tensorflow as tf

    from export.folding import fold_batch_normalizations
    from trainers.data import preprocessing

    # The other formats' converters do this themselves.
    model = fold_batch_normalizations(classifier.model)
    classifier = dataclasses.replace(classifier, model=model)

    def prepare(image):
        return preprocessing.prepare_image(
            image, classifier.image_size, classifier.crop_fraction
        )

    def decode_and_prepare(contents):
        return prepare(
            preprocessing.decode_image(contents, classifier.channels)
        )

    del images
    float_images = tf.TensorSpec(
        (None, None, None, classifier.channels), tf.float32, name="images"
    )
    image_bytes = tf.TensorSpec((None,), tf.string, name="image_bytes")
    module = tf.Module()
    module.model_variables = [v.value for v in classifier.model.variables]
    module.serve = _make_signature(classifier, prepare, float_images)
    module.image_bytes = _make_signature(
        classifier, decode_and_prepare, image_bytes
    )
    signatures = {
        "serving_default": module.serve,
        "serve": module.serve,
        "image_bytes": module.image_bytes,
    }
    with tempfile.TemporaryDirectory() as asset_folder:
        # A SavedModel keeps the names of its assets' files.
        asset = pathlib.Path(asset_folder) / _METADATA_FILE
        asset.write_text(json.dumps(classifier.describe()), encoding="utf-8")
        module.metadata = tf.saved_model.Asset(str(asset))
        tf.saved_model.save(module, str(folder), signatures=signatures)


def recognizes(path: pathlib.Path) -> bool:
    """Returns whether a SavedModel is there."""
    return (path / "saved_model.pb").is_file()


def read_metadata(folder: pathlib.Path) -> dict:
    """Returns what `Classifier.describe` said of a SavedModel.

    Raises:
        OSError: If it carries no metadata.
    """
    return json.loads((folder / "assets" / _METADATA_FILE).read_bytes())


def load(folder: pathlib.Path) -> "dict[str, Run]":
    """Loads a SavedModel that `write` wrote.

    Returns:
        Functions of `"images"` and of `"image_bytes"`.
    """
    import tensorflow as tf

    model = tf.saved_model.load(str(folder))

    def run(signature, examples):
        return model.signatures[signature](examples)["probabilities"].numpy()

    return {
        "images": lambda images: run(
            "serving_default", tf.constant(images, tf.float32)
        ),
        "image_bytes": lambda files: run("image_bytes", tf.constant(files)),
    }


def _make_signature(classifier, prepare, spec):
    import tensorflow as tf

    @tf.function(input_signature=[spec], autograph=False)
    def classify(examples):
        # One by one, because files hold images of different sizes.
        images = tf.map_fn(prepare, examples, fn_output_signature=tf.float32)
        return {"probabilities": classifier.model(images, training=False)}

    return classify
