"""Trains a LambdaResNet to find objects and their outlines.

    python -m trainers.train_detector --model_dir=runs/coco \
        --train='coco/train-*' --validation='coco/val-*'

trains Mask R-CNN of tf-models-official with a LambdaResNet-101, in the setting
of the paper's Table 6: 130,000 steps of 256 images of 1024 x 1024 pixels.

    python -m trainers.train_detector --model_dir=runs/shapes \
        --recipe=rectangles --train='shapes/train-*' \
        --validation='shapes/validation-*'

trains a small one on drawn shapes in minutes on two CPU cores; see
docs/detection.md for data, and for what was measured.

A flag that is left out has the value of the recipe (`detection/experiments.py`)
or, in a folder that holds a run, of that run: the same command goes on at the
last checkpoint, also after the process was killed, and a larger --train_steps
goes on for longer. Checkpoints have all weights, statistics and the state of
the optimizer, but not the place in the data: a run that was stopped sees other
images in another order than one that was not, and ends in other weights. Nor
are two runs of one --seed equal bit by bit, because tf-models-official draws
augmentation and proposals without keys.

Whatever no flag sets, --params_override does: --dry_run prints the names and
values of the whole experiment. Another process evaluates each checkpoint
meanwhile with --mode=continuous_eval and the same --model_dir.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("trainers.train_detector")

import contextlib
import copy
import math
import os
import time
from collections.abc import Mapping

import keras
import tensorflow as tf
import yaml
from absl import flags
from absl import logging

from trainers import continuous_evaluation
from trainers import files
from trainers import knobs
from trainers import run_folder
from trainers import strategies
from trainers.detection import experiment_checks
from trainers.detection import experiments
from trainers.detection import results
from trainers.detection import settings
from trainers.detection.installation import check_installation
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

PICTURE_FILE = "detections.png"
# tf-models-official makes it of the records that a run is evaluated on.
_ANNOTATION_FILE = "annotation.json"
# What a run cannot change, and what in it says how it began.
_FIXED = ("task.model.", "trainer.optimizer_config.optimizer.")
_START = "task.model.backbone.lambda_resnet.weights"
# What tf-models-official and TensorFlow raise of values that cannot be.
_REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
)
# Between looks for a new checkpoint.
_LOOK_SECONDS = 10

_KNOBS = knobs.define_flags(settings.DetectorRun, show_defaults=True)
_MODEL_DIR = flags.DEFINE_string(
    "model_dir",
    None,
    "Where all results go: a folder, or a path that TensorFlow knows, such as "
    "gs://bucket/run. Required.",
    module_name="run",
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train_and_eval",
    ["train", "eval", "train_and_eval", "continuous_eval"],
    "What to do; all but train write results.json and detections.png.",
    module_name="run",
)
_CONTINUOUS_EVAL_TIMEOUT = flags.DEFINE_float(
    "continuous_eval_timeout",
    3600.0,
    "Seconds without a new checkpoint after which continuous_eval ends.",
    lower_bound=0.0,
    module_name="run",
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Check all, print the experiment and the number of parameters, and stop.",
    module_name="run",
)


def run_mode(
    mode: str,
    given: Mapping,
    model_dir: os.PathLike | None,
    *,
    is_dry: bool = False,
    timeout: float = 0.0,
) -> None:
    """Trains or evaluates as the flags say.

    Args:
        mode: `"train"`, `"eval"`, `"train_and_eval"` or `"continuous_eval"`.
        given: the flags that were given, by name.
        model_dir: folder of the run; `None` for a dry run without one.
        is_dry: whether to stop before the first step.
        timeout: seconds without a new checkpoint after which continuous
            evaluation ends.

    Raises:
        UserError: If something is wrong that the user can mend.
    """
    check_installation()
    if mode == "continuous_eval":
        continuous_evaluation.wait_for_run(model_dir, timeout=timeout)
    trains = "train" in mode
    saved = settings.read_saved(model_dir) if model_dir else {}
    if not saved and not trains:
        raise UserError(
            f"--mode={mode} needs the --model_dir of a run. "
            f"Received: {model_dir}"
        )
    run = settings.make_run(given, saved)
    class_names = settings.read_class_names(run)
    step = read_step(model_dir) if model_dir else None
    experiment = make_experiment(run, len(class_names) + 1, begins=step is None)
    if saved:
        settings.check_flags(model_dir, saved, run, trains=trains)
        _check_model(model_dir, experiment)
    elif step is not None:
        raise UserError(
            f"{model_dir} holds checkpoints but no {run_folder.FLAGS_FILE} "
            "that says what they are of; choose another --model_dir."
        )
    if step is None and mode == "eval":
        raise UserError(f"{model_dir} holds no checkpoint yet; train first.")
    experiment_checks.check_experiment(experiment, mode, is_dry=is_dry)
    configure_keras(run)
    devices = strategies.find_devices(run.strategy, run.tpu)
    experiment_checks.check_batch_sizes(experiment, devices.count)
    if is_dry:
        print(yaml.safe_dump(experiment.as_dict(), sort_keys=False))
        with _blaming_overrides(run), devices.strategy.scope():
            print(_describe_model(_make_task(experiment, None).build_model()))
        return
    with contextlib.ExitStack() as stack:
        if trains:
            run_folder.prepare_folder(model_dir)
            stack.enter_context(run_folder.locking(model_dir))
        if trains and step is not None and step >= run.train_steps:
            print(
                f"The run in {model_dir} is finished: {step:,} of "
                f"{run.train_steps:,} steps."
            )
            if mode == "train" or _has_results(model_dir, step):
                _print_results(model_dir, run)
                return
            mode = "eval"
        with _blaming_overrides(run):
            trainer = _make_trainer(mode, experiment, devices, model_dir)
        if trains:
            # After all that can be refused.
            _write_run(model_dir, run, experiment, class_names)
        _run_experiment(
            mode, trainer, experiment, devices, model_dir, timeout=timeout
        )
    if mode != "train":
        _draw(trainer.model, experiment, class_names, model_dir)
    _print_results(model_dir, run)


def make_experiment(
    run: settings.DetectorRun, num_classes: int, *, begins: bool
):
    """Makes the experiment of a run.

    Args:
        run: names recipe, data and what differs from the recipe.
        num_classes: number of classes with the background.
        begins: whether nothing was trained before; the weights that a run
            began with are of no use to it later.

    Returns:
        As `experiments.make_experiment`.

    Raises:
        UserError: As `experiments.make_experiment` does.
    """
    return experiments.make_experiment(
        run.recipe,
        train=run.train or "",
        validation=run.validation or "",
        num_classes=num_classes,
        image_size=run.image_size,
        batch_size=run.batch_size,
        learning_rate=run.learning_rate,
        train_steps=run.train_steps,
        backbone_weights=run.backbone_weights if begins else None,
        precision=run.precision,
        seed=run.seed,
        params_override=run.params_override,
    )


def read_step(model_dir: os.PathLike) -> int | None:
    """Returns the step of the last checkpoint, `None` if there is none."""
    path = tf.train.latest_checkpoint(os.fspath(model_dir))
    return int(path.rpartition("-")[2]) if path else None


def configure_keras(run: settings.DetectorRun) -> None:
    """Seeds this process, and sets the precision of both versions of Keras."""
    import tf_keras

    keras.utils.set_random_seed(run.seed)
    keras.config.set_dtype_policy(run.precision)
    tf_keras.mixed_precision.set_global_policy(run.precision)


def _check_model(model_dir, experiment):
    path = model_dir / experiments.EXPERIMENT_FILE
    theirs = _flatten(experiments.read_experiment(path).as_dict())
    ours = _flatten(experiment.as_dict())
    differences = [
        f"{name}={ours.get(name)} instead of {theirs.get(name)}"
        for name in {**theirs, **ours}
        if name.startswith(_FIXED)
        and name != _START
        and ours.get(name) != theirs.get(name)
    ]
    if differences:
        raise UserError(
            f"The run in {model_dir} is of another model; leave it as it was "
            "or choose another --model_dir. Received: "
            f"{', '.join(differences)}"
        )


def _flatten(values, prefix=""):
    flat = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


@contextlib.contextmanager
def _blaming_overrides(run):
    """Makes one line of what is raised in the block, if there are overrides."""
    try:
        yield
    except _REFUSALS as error:
        if not run.params_override:
            raise
        # The layer is named before, and its arguments after the reason.
        text = str(error).partition("Call arguments received")[0]
        reason = text.strip().rpartition("\n\n")[2]
        raise UserError(
            "--params_override must have values with which tf-models-official "
            f"can make a detector: {type(error).__name__}: "
            f"{' '.join(reason.split())} "
            f"Received: {' '.join(run.params_override.split())}"
        ) from error


def _make_task(experiment, model_dir):
    from official.core import task_factory
    from official.vision.tasks import maskrcnn  # noqa: F401 - registers it

    from trainers.detection.backbone import register_backbone

    register_backbone()
    return task_factory.get_task(experiment.task, logging_dir=model_dir)


def _make_trainer(mode, experiment, devices, model_dir):
    """Makes what `run_experiment` would, after all that can be refused."""
    from official.core import base_trainer
    from official.core import train_utils

    folder = os.fspath(model_dir)
    annotations = os.path.join(folder, _ANNOTATION_FILE)
    if "eval" in mode and tf.io.gfile.exists(annotations):
        # It may be of other data.
        tf.io.gfile.remove(annotations)
    with devices.strategy.scope():
        task = _make_task(experiment, folder)
        # Not by `train_utils.create_trainer`, which adds lines to errors.
        model = task.build_model()
        _check_start(task, model, folder)
        print(_describe_model(model))
        return base_trainer.Trainer(
            experiment,
            task,
            model=model,
            optimizer=train_utils.create_optimizer(task, experiment),
            train="train" in mode,
            evaluate="eval" in mode,
            checkpoint_exporter=train_utils.maybe_create_best_ckpt_exporter(
                experiment, folder
            ),
        )


def _check_start(task, model, folder):
    """Checks the weights that training begins or goes on with."""
    from trainers.detection.backbone import check_checkpoint

    last = tf.train.latest_checkpoint(folder)
    initial = task.task_config.init_checkpoint
    if last:
        check_checkpoint(model.backbone, last)
    elif initial:
        path = tf.train.latest_checkpoint(initial) or initial
        check_checkpoint(model.backbone, path)
        try:
            task.initialize(model)
        # What it raises of other heads.
        except (AssertionError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"task.init_checkpoint must fit the model: {reason} "
                f"Received: {initial}"
            ) from error


def _describe_model(model):
    total, backbone = (
        sum(math.prod(weight.shape) for weight in part.trainable_variables)
        for part in (model, model.backbone)
    )
    return f"{total:,} parameters, {backbone:,} of them in the backbone"


def _write_run(model_dir, run, experiment, class_names):
    from official.modeling import hyperparams

    written = copy.deepcopy(experiment)
    # Checkpoints have what it began with, or better.
    written.task.model.backbone.lambda_resnet.weights = ""
    run_folder.write_json(
        model_dir / run_folder.METADATA_FILE, {"class_names": class_names}
    )
    with files.replacing(model_dir / experiments.EXPERIMENT_FILE) as temporary:
        hyperparams.save_params_dict_to_yaml(written, os.fspath(temporary))
    run_folder.write_json(
        model_dir / run_folder.FLAGS_FILE, knobs.read_knobs(run)
    )


def _run_experiment(mode, trainer, experiment, devices, model_dir, *, timeout):
    from official.core import train_lib

    evaluated_at = time.monotonic()

    def keep_results(logs):
        nonlocal evaluated_at
        evaluated_at = time.monotonic()
        step = int(trainer.global_step.numpy())
        results.write_results(model_dir, logs, step)

    def is_over():
        if trainer.global_step.numpy() >= experiment.trainer.train_steps:
            return True
        return time.monotonic() - evaluated_at > timeout

    runner = train_lib.OrbitExperimentRunner(
        devices.strategy,
        trainer.task,
        mode,
        experiment,
        os.fspath(model_dir),
        eval_actions=[keep_results],
        trainer=trainer,
    )
    try:
        if mode == "continuous_eval":
            # The runner's own waits for an hour after the last checkpoint,
            # and for ever if there will be none.
            runner.controller.evaluate_continuously(
                timeout=_LOOK_SECONDS, timeout_fn=is_over
            )
        else:
            runner.run()
    except RuntimeError as error:
        if not str(error).startswith("The loss value is"):
            raise
        raise UserError(
            f"Training diverged: {error} Lower --learning_rate, and begin in "
            "another --model_dir."
        ) from error


def _draw(model, experiment, class_names, model_dir):
    from trainers.detection.predictions import draw_predictions

    path = model_dir / PICTURE_FILE
    draw_predictions(model, experiment, class_names, path)
    print(f"\nLeft what is there, right what was found: {path}")


def _has_results(model_dir, step):
    path = model_dir / run_folder.RESULTS_FILE
    return path.exists() and results.read_results(model_dir)["step"] == step


def _print_results(model_dir, run):
    if (model_dir / run_folder.RESULTS_FILE).exists():
        achieved = results.read_results(model_dir)
        print(f"\n{results.describe_results(achieved, run.recipe)}")


def main(argv: list[str]) -> None:
    # tf-models-official tells what it does at length, and tf_keras of names
    # in it that are deprecated.
    logging.set_verbosity(logging.WARNING)
    tf.get_logger().setLevel("ERROR")
    refuse_arguments(argv)
    if not _MODEL_DIR.value and not _DRY_RUN.value:
        raise UserError("--model_dir is missing: where the results go.")
    run_mode(
        _MODE.value,
        {flag.name: flag.value for flag in _KNOBS if flag.value is not None},
        files.make_path(_MODEL_DIR.value) if _MODEL_DIR.value else None,
        is_dry=_DRY_RUN.value,
        timeout=_CONTINUOUS_EVAL_TIMEOUT.value,
    )


def run() -> None:
    run_program(
        main,
        flag_groups=("data", "model", "optimization", "run"),
        interrupted="Stopped. The same command goes on from the last "
        "checkpoint.",
    )
