"""Reads what training left behind as a detector and its labels."""

import dataclasses
import pathlib

import tensorflow as tf
import tf_keras
from official.core import task_factory

from trainers import run_folder
from trainers.detection.backbone import register_backbone
from trainers.detection.experiments import EXPERIMENT_FILE
from trainers.detection.experiments import read_experiment
from trainers.program import UserError

_PREPROCESSING = (
    "Decode to colors, a JPEG upright by its EXIF orientation; shrink or "
    "enlarge bilinearly to the largest size of the same proportions within "
    "`image_size`, at the upper left; normalize with ImageNet's mean and "
    "standard deviation; fill up with zeros."
)


@dataclasses.dataclass(frozen=True)
class Detector:
    """A trained Mask R-CNN and what must be known to use it.

    Attributes:
        model: prepared float32 images, `(batch_size, height, width, 3)`, and
            `image_shape`, float32, `(batch_size, 2)` -> a dictionary of
            detections, with boxes in pixels of prepared images.
        image_size: height and width of prepared images.
        class_names: one name per class, of class 1 first.
        min_score: the least score of what is detected.
        max_detections: the most detections of an image.
        validation_records: pattern of the run's validation records.
    """

    model: tf_keras.Model
    image_size: tuple[int, int]
    class_names: list[str]
    min_score: float
    max_detections: int
    validation_records: str = ""

    def describe(self) -> dict:
        """Returns what travels with the exported detector."""
        return {
            "class_names": self.class_names,
            "image_size": list(self.image_size),
            "min_score": self.min_score,
            "max_detections": self.max_detections,
            "preprocessing": _PREPROCESSING,
        }


def load_detector(
    model_dir: pathlib.Path,
    min_score: float | None = None,
    max_detections: int | None = None,
) -> Detector:
    """Reads the folder of a run.

    Args:
        model_dir: the folder, with params.yaml, metadata.json and checkpoints,
            of which the last one is taken.
        min_score: the least score of what is detected. The experiment's
            without it.
        max_detections: the most detections of an image. The experiment's
            without it.

    Raises:
        UserError: If a file is missing or does not fit.
    """
    experiment = _read_experiment(model_dir / EXPERIMENT_FILE)
    task = experiment.task
    class_names = _read_class_names(
        model_dir / run_folder.METADATA_FILE, task.model.num_classes - 1
    )
    checkpoint = tf.train.latest_checkpoint(str(model_dir))
    if checkpoint is None:
        raise UserError(
            "--model_dir must hold a checkpoint; train first. "
            f"Received: {model_dir}"
        )
    generator = task.model.detection_generator
    if min_score is not None:
        generator.pre_nms_score_threshold = min_score
    if max_detections is not None:
        generator.max_num_detections = max_detections
    # What training began with may be gone.
    backbone = task.model.backbone
    if backbone.type == "lambda_resnet":
        backbone.lambda_resnet.weights = ""
    model = task_factory.get_task(task).build_model()
    restore(model, checkpoint)
    height, width, _ = task.model.input_size
    return Detector(
        model=model,
        image_size=(height, width),
        class_names=class_names,
        min_score=generator.pre_nms_score_threshold,
        max_detections=generator.max_num_detections,
        validation_records=task.validation_data.input_path,
    )


def _read_experiment(path):
    if not path.is_file():
        raise UserError(
            "--model_dir must be the folder of a run of "
            f"trainers.train_detector. Received: {path.parent}, without "
            f"{path.name}"
        )
    register_backbone()
    experiment = read_experiment(path)
    if experiment.trainer.optimizer_config.ema is not None:
        raise UserError(
            "A run with averaged weights cannot be exported, because its "
            "checkpoint holds the averages as the optimizer's. "
            f"Received: {path}"
        )
    return experiment


def _read_class_names(path, num_classes):
    class_names = run_folder.read_json(path).get("class_names")
    if not isinstance(class_names, list) or len(class_names) != num_classes:
        raise UserError(
            f"{path} must name each of the {num_classes} classes in "
            f"class_names. Received: {class_names}"
        )
    return class_names


def restore(model: tf_keras.Model, checkpoint: str) -> None:
    """Gives a model the weights of a checkpoint.

    Args:
        model: the model, whose weights exist.
        checkpoint: path without its suffixes.

    Raises:
        UserError: If it is of another model, or damaged.
    """
    try:
        status = tf.train.Checkpoint(model=model).read(checkpoint)
        status.expect_partial().assert_existing_objects_matched()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            "The checkpoint must be of the network that params.yaml "
            f"describes. Received: {checkpoint}: {reason}"
        ) from error
