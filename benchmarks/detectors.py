r"""Measures the detectors of the paper's Table 6.

    python -m benchmarks.detectors

prints, for Mask R-CNN on each of six backbones, its parameters and its
multiply-adds in inference, and what one image takes here, in inference and in
a training step: seconds, and memory beyond that of the frameworks. Beside
them stand the paper's average precisions, which nobody reproduced here. Each
detector runs in a process of its own, one after the other, and what needs more
than --memory says so. Takes half an hour or so on two cores; for a first look:

    python -m benchmarks.detectors --recipes=resnet101,lambda_resnet101 \
        --image_size=256

The multiply-adds are those of the backbone, as `count_multiply_adds` has them,
and of convolutions and dense layers in the pyramid and the heads, with as many
regions and masks as the detector looks at.
"""

import os
import pathlib
import tempfile

import numpy as np
from absl import flags

from benchmarks import reports
from benchmarks.arguments import check_names
from benchmarks.workers import MIB
from benchmarks.workers import Launcher
from benchmarks.workers import Measurement
from benchmarks.workers import Setting
from benchmarks.workers import Task
from benchmarks.workers import measure
from trainers.detection.installation import check_installation
from trainers.program import refuse_arguments
from trainers.program import run_program

# Average precisions of boxes and masks on COCO: Bello, 2021, Table 6.
PAPER_PRECISIONS = {
    "resnet101": (48.2, 42.6),
    "resnet101_se": (48.5, 42.8),
    "lambda_resnet101": (49.4, 43.5),
    "resnet152": (48.9, 43.2),
    "resnet152_se": (49.4, 43.5),
    "lambda_resnet152": (50.0, 43.9),
}
MODES = ("infer", "train")

_RECIPES = flags.DEFINE_list(
    "recipes",
    list(PAPER_PRECISIONS),
    f"What is measured, some of {','.join(PAPER_PRECISIONS)}.",
)
_MODES = flags.DEFINE_list("modes", list(MODES), "What is timed.")
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    1024,
    "Height and width in pixels, a multiple of 64.",
    lower_bound=64,
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 1, "Number of timed steps of each, after two others."
)
_THREADS = flags.DEFINE_integer(
    "threads", len(os.sched_getaffinity(0)), "Threads of a detector."
)
_MEMORY = flags.DEFINE_float(
    "memory", 16.0, "Memory that a detector may allocate, in GiB."
)


def build_step(recipe: str, mode: str, image_size: int):
    """Builds a detector, and returns its step.

    Args:
        recipe: a key of `experiments.RECIPES`.
        mode: one of `MODES`.
        image_size: height and width in pixels.

    Returns:
        A function without arguments, and what is known of the detector:
        `"parameters"`, which are trained, and `"backbone_gmacs"` and
        `"gmacs"`, 1e9 multiply-adds of an image in inference.
    """
    import tensorflow as tf
    from official.core import task_factory

    from trainers.detection.backbone import register_backbone
    from trainers.detection.experiments import make_experiment

    # tf-models-official uses what is deprecated.
    tf.get_logger().setLevel("ERROR")
    register_backbone()
    experiment = make_experiment(recipe, image_size=image_size, batch_size=1)
    task = task_factory.get_task(experiment.task)
    model = task.build_model()
    facts = {
        "parameters": sum(
            int(np.prod(weight.shape)) for weight in model.trainable_variables
        )
    }
    if mode == "infer":
        backbone_gmacs = _count_backbone(experiment.task.model) / 1e9
        rest = count_rest(model, experiment.task.model) / 1e9
        facts["backbone_gmacs"] = backbone_gmacs
        facts["gmacs"] = backbone_gmacs + rest
        images = tf.random.stateless_normal(
            (1, image_size, image_size, 3), (0, 0)
        )
        image_shape = tf.constant([[image_size, image_size]], tf.float32)

        @tf.function
        def infer():
            return model(images, image_shape=image_shape, training=False)

        return infer, facts
    inputs = _make_inputs(task, experiment.task.train_data, image_size)
    optimizer = task.create_optimizer(
        experiment.trainer.optimizer_config, experiment.runtime
    )

    @tf.function
    def train():
        return task.train_step(inputs, model, optimizer)

    return train, facts


def _make_inputs(task, config, image_size):
    """Returns what the trainer makes of a drawing."""
    import tensorflow as tf

    from trainers.detection.records import make_example
    from trainers.detection.shapes import draw_shapes

    drawing = draw_shapes(0, image_size, image_size)
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder, "train.tfrecord"))
        with tf.io.TFRecordWriter(path) as writer:
            writer.write(make_example(drawing, 1).SerializeToString())
        config.input_path = path
        # Thousands of copies of the one image would take gigabytes.
        config.shuffle_buffer_size = 1
        return next(iter(task.build_inputs(config)))


def _count_backbone(config):
    import lambda_keras
    from trainers.detection.backbone import build_features

    network = build_features(
        config.backbone.get(), config.norm_activation, config.input_size
    )
    return lambda_keras.count_multiply_adds(network)


def count_rest(model, config) -> float:
    """Counts multiply-adds of a detector beyond its backbone.

    Args:
        model: tf-models-official's `MaskRCNNModel`.
        config: that it was built by.

    Returns:
        Those of convolutions and dense layers for one image, in inference.
    """
    import tensorflow as tf

    channels = config.decoder.get().num_filters
    side = config.roi_aligner.crop_size
    mask_side = config.mask_roi_aligner.crop_size
    num_regions = config.roi_generator.test_num_proposals
    num_masks = config.detection_generator.max_num_detections

    @tf.function
    def run():
        features = {
            level: tf.zeros((1, *shape[1:]))
            for level, shape in model.backbone.output_specs.items()
        }
        model.rpn_head(model.decoder(features))
        regions = tf.zeros((1, num_regions, side, side, channels))
        model.detection_head[0](regions)
        regions = tf.zeros((1, num_masks, mask_side, mask_side, channels))
        model.mask_head([regions, tf.zeros((1, num_masks), tf.int32)])

    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    options = (
        builder(builder.float_operation())
        .with_empty_output()
        .with_node_names(show_name_regexes=[".*"])
        .build()
    )
    profile = tf.compat.v1.profiler.profile(
        run.get_concrete_function().graph, cmd="op", options=options
    )
    return _sum_products(profile) / 2


def _sum_products(node):
    kinds = ("Conv2D", "Conv2DBackpropInput", "MatMul", "BatchMatMulV2")
    own = node.float_ops if node.name in kinds else 0
    return own + sum(map(_sum_products, node.children))


def measure_detectors(
    recipes: list[str], modes: list[str], setting: Setting, image_size: int
) -> dict[str, dict[str, Measurement]]:
    """Measures detectors, one after the other.

    Args:
        recipes: keys of `PAPER_PRECISIONS`.
        modes: some of `MODES`.
        setting: how long and on what.
        image_size: height and width in pixels.

    Returns:
        For each recipe a measurement for each mode.
    """
    found = {recipe: {} for recipe in recipes}
    with Launcher("keras", setting) as launcher:
        for recipe in recipes:
            for mode in modes:
                task = Task("keras", build_step, (recipe, mode, image_size))
                # One at a time, because several would need too much memory.
                found[recipe] |= measure(
                    {mode: task}, {"keras": launcher}, setting
                )
    return found


def format_detectors(found: dict[str, dict[str, Measurement]]) -> str:
    """Returns the table of what `measure_detectors` returned."""
    modes = list(next(iter(found.values())))
    header = ["backbone", "M param.", "backbone GMACs", "GMACs"]
    for mode in modes:
        header += [f"{mode} s", f"{mode} MiB"]
    header += ["paper: box AP", "mask AP", ""]
    rows = []
    for recipe, measurements in found.items():
        facts = {}
        cells = []
        for measurement in measurements.values():
            facts |= measurement.facts
            known = bool(measurement.seconds)
            cells.append(measurement.median if known else None)
            cells.append(round(measurement.peak / MIB) if known else None)
        parameters = facts.get("parameters")
        rows.append(
            [
                recipe,
                parameters and parameters / 1e6,
                facts.get("backbone_gmacs"),
                facts.get("gmacs"),
                *cells,
                *PAPER_PRECISIONS[recipe],
                "; ".join(
                    f"{mode}: {measurement.error}"
                    for mode, measurement in measurements.items()
                    if measurement.error
                ),
            ]
        )
    return reports.format_table(header, rows)


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    check_installation()
    recipes = check_names("recipes", _RECIPES.value, PAPER_PRECISIONS)
    modes = check_names("modes", _MODES.value, MODES)
    setting = Setting(
        threads=_THREADS.value,
        memory_limit=round(_MEMORY.value * 2**30),
        seconds=float("inf"),
        max_rounds=_ROUNDS.value,
    )
    found = measure_detectors(recipes, modes, setting, _IMAGE_SIZE.value)
    print(format_detectors(found))


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
