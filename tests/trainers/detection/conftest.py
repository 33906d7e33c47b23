"""Drawn shapes, and a small detector that was trained on them."""

import contextlib
import pathlib

import keras
import pytest

from tests.support.programs import Program

# Two images of 64 x 64 per step, in Python: to make graphs takes longer.
SMALL = {
    "recipe": "rectangles",
    "image_size": 64,
    "batch_size": 2,
    "params_override": """
        task:
            model: {backbone: {lambda_resnet: {width_multiplier: 0.125}}}
            train_data: {shuffle_buffer_size: 2}
        trainer:
            train_tf_function: false
            train_tf_while_loop: false
            eval_tf_function: false
            steps_per_loop: 1
            summary_interval: 1
    """,
}


@contextlib.contextmanager
def restoring_precision():
    """Sets both versions of Keras back to float32 after the block."""
    import tf_keras

    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")
        tf_keras.mixed_precision.set_global_policy("float32")


@pytest.fixture(scope="session")
def records(tmp_path_factory) -> dict[str, str]:
    """Patterns of a few TFRecords, as flags."""
    from trainers.detection.records import make_example
    from trainers.detection.records import write_records
    from trainers.detection.shapes import draw_shapes

    folder = tmp_path_factory.mktemp("records")
    for name, seeds in (("train", range(4)), ("validation", range(4, 7))):
        examples = (
            make_example(draw_shapes(seed, 64, 48), seed + 1) for seed in seeds
        )
        write_records(examples, str(folder / name), 1)
    return {name: str(folder / f"{name}-*") for name in ("train", "validation")}


@pytest.fixture(scope="session")
def train_detector():
    return Program("trainers.train_detector")


@pytest.fixture(scope="session")
def detector_run(records, train_detector, tmp_path_factory) -> pathlib.Path:
    """The folder of a run of one step that was then made one longer."""
    folder = tmp_path_factory.mktemp("runs") / "shapes"
    common = {"model_dir": str(folder), **records}
    with restoring_precision():
        train_detector.run(**common, mode="train", train_steps=1, **SMALL)
        train_detector.run(**common, train_steps=2)
    return folder
