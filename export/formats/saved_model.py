"""A classifier as a SavedModel that prepares its images itself."""

import dataclasses
import functools
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

    Its signatures take any number of images, 0 too:

    * `serving_default`, also called `serve`, float32 `images`, `(batch_size,
      height, width, channels)` of any size, from 0 to 255 -> `probabilities`,
      `(batch_size, classes)`;
    * `features`, the same -> `features`, `(batch_size, channels)`, which the
      last dense layer is applied to; only if there is one;
    * `prepared`, float32 `images`, `(batch_size, image_size, image_size,
      channels)`, already cropped and resized -> `probabilities`;
    * `image_bytes`, the contents of image files, strings `(batch_size,)`: PNG,
      JPEG, BMP, GIF or WebP -> `probabilities`, and `errors`, strings
      `(batch_size,)`: empty, or what is wrong with a file, whose probabilities
      are then NaN.

    What `Classifier.describe` returns stands in assets/metadata.json.

    Args:
        classifier: what to write.
        folder: folder to make.
        images: not needed.
    """
    import tensorflow as tf

    from export.folding import fold_batch_normalizations

    # The other formats' converters do this themselves.
    model = fold_batch_normalizations(classifier.model)
    classifier = dataclasses.replace(classifier, model=model)

    del images
    module = tf.Module()
    module.model_variables = [v.value for v in classifier.model.variables]
    signatures = _make_signatures(classifier)
    module.serve = signatures["serving_default"]
    module.image_bytes = signatures["image_bytes"]
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
        Functions of `"images"`, of `"image_bytes"` and, unless an earlier
        version wrote it, of `"prepared"`.
    """
    import tensorflow as tf

    model = tf.saved_model.load(str(folder))

    def classify_images(signature, images):
        outputs = signature(tf.constant(images, tf.float32))
        return outputs["probabilities"].numpy()

    def classify_files(files):
        outputs = model.signatures["image_bytes"](
            tf.constant(files, tf.string, (len(files),))
        )
        errors = [error.decode() for error in outputs["errors"].numpy()]
        return outputs["probabilities"].numpy(), errors

    runs = {"image_bytes": classify_files}
    for kind, name in (("images", "serving_default"), ("prepared", "prepared")):
        if name in model.signatures:
            signature = model.signatures[name]
            runs[kind] = functools.partial(classify_images, signature)
    return runs


def _make_signatures(classifier):
    import tensorflow as tf

    from export.decoded_files import decode_files
    from trainers.data.decoding import DAMAGED
    from trainers.data.decoding import NO_IMAGE
    from trainers.data.decoding import TOO_LARGE
    from trainers.data.decoding import decode_image
    from trainers.data.preprocessing import prepare_image

    float_images = tf.TensorSpec(
        (None, None, None, classifier.channels), tf.float32, name="images"
    )
    run = _make_network(classifier)
    error = f"{NO_IMAGE}, {TOO_LARGE}, or {DAMAGED}"

    def prepare(image):
        return prepare_image(
            image, classifier.image_size, classifier.crop_fraction
        )

    def decode(file):
        return prepare(decode_image(file, classifier.channels))

    @tf.function(input_signature=[float_images], autograph=False)
    def classify(images):
        # One by one, because there is no antialiasing of many.
        prepared = tf.map_fn(prepare, images)
        return {"probabilities": run(prepared)["outputs"]}

    @tf.function(
        input_signature=[
            tf.TensorSpec(classifier.model.input_shape, tf.float32, "images")
        ],
        autograph=False,
    )
    def classify_prepared(images):
        return {"probabilities": run(images)["outputs"]}

    @tf.function(input_signature=[float_images], autograph=False)
    def compute_features(images):
        return {"features": run(tf.map_fn(prepare, images))["features"]}

    @tf.function(
        input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")],
        autograph=False,
    )
    def classify_files(files):
        blank = tf.zeros(classifier.model.input_shape[1:])
        images, is_good = decode_files(files, decode, blank)
        probabilities = run(images)["outputs"]
        return {
            "probabilities": tf.where(
                is_good[:, tf.newaxis], probabilities, float("nan")
            ),
            "errors": tf.where(is_good, "", error),
        }

    signatures = {
        "serving_default": classify,
        "serve": classify,
        "prepared": classify_prepared,
        "image_bytes": classify_files,
    }
    if "features" in run.structured_outputs:
        signatures["features"] = compute_features
    return signatures


def _make_network(classifier):
    """Returns a function that all signatures share, of prepared images."""
    import tensorflow as tf

    from export.features import add_features

    network = add_features(classifier.model)
    spec = tf.TensorSpec(network.input_shape, tf.float32, name="images")

    @tf.function(input_signature=[spec], autograph=False)
    def run(images):
        batch_size = tf.shape(images)[0]
        # On a CPU, convolutions of no image at all have another shape.
        no_image = tf.cast(batch_size == 0, tf.int32)
        padded = tf.pad(images, [[0, no_image], [0, 0], [0, 0], [0, 0]])
        outputs = network(padded, training=False)
        return {name: output[:batch_size] for name, output in outputs.items()}

    return run.get_concrete_function()
