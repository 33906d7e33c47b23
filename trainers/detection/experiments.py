"""The experiments that have a name, as tf-models-official has them."""

import copy
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import yaml

from trainers.detection.coco_classes import COCO_CLASSES
from trainers.detection.shapes import SHAPES
from trainers.program import UserError

# Of a run, in its folder.
EXPERIMENT_FILE = "params.yaml"


@dataclasses.dataclass(frozen=True)
class DetectorRecipe:
    """What is particular to an experiment.

    Attributes:
        backbone: fields of `backbone.LambdaResNet`.
        class_names: name of class n at n - 1.
        image_size: height and width to which images are fitted, pixels.
        batch_size: images per step, on all devices together.
        train_steps: length.
        learning_rate: the largest, for that `batch_size`.
        overrides: what else differs from the paper's setting, nested as in
            tf-models-official's YAML.
    """

    backbone: Mapping[str, Any]
    # Bello, 2021, Table 6, unless another source is named. That table says
    # the image size; the rest of the training is in appendix E.2, which was
    # read only as others report it.
    class_names: tuple[str, ...] = COCO_CLASSES
    image_size: int = 1024
    batch_size: int = 256
    train_steps: int = 130_000
    learning_rate: float = 0.32
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# Shares of the steps after which the learning rate falls to a tenth.
_STEPS_DOWN = (0.9, 0.95, 0.975)
_WARMUP_STEPS = 1000
_RESNET = {"layout": "CCCC", "squeeze_excite_ratio": 0.0}
_RESNET_SE = {"layout": "CCCC", "squeeze_excite_ratio": 0.25}

# This project's choice, measured: minutes on two cores of a CPU.
_RECTANGLES = DetectorRecipe(
    backbone={
        "depth": 26,
        "layout": "CCLL",
        "width_multiplier": 0.25,
        "scope_size": 7,
    },
    class_names=SHAPES,
    image_size=128,
    batch_size=8,
    train_steps=600,
    learning_rate=0.005,
    overrides={
        "task": {
            "losses": {"l2_weight_decay": 0.0},
            "model": {
                "max_level": 5,
                "decoder": {"fpn": {"num_filters": 32}},
                "rpn_head": {"num_filters": 32},
                "roi_generator": {
                    "pre_nms_top_k": 100,
                    "num_proposals": 50,
                    "test_pre_nms_top_k": 100,
                    "test_num_proposals": 50,
                },
                "roi_sampler": {"num_sampled_rois": 48},
                "detection_head": {
                    "num_convs": 1,
                    "num_filters": 32,
                    "fc_dims": 128,
                },
                "mask_head": {"num_convs": 1, "num_filters": 32},
                "mask_sampler": {"num_sampled_masks": 8},
                "detection_generator": {
                    "pre_nms_top_k": 100,
                    "max_num_detections": 10,
                },
                # 600 steps are too few for averages over 100.
                "norm_activation": {"norm_momentum": 0.9},
            },
            "train_data": {
                "shuffle_buffer_size": 256,
                "parser": {
                    "aug_scale_min": 0.8,
                    "aug_scale_max": 1.25,
                    "max_num_instances": 10,
                    "rpn_batch_size_per_im": 64,
                },
            },
            "validation_data": {
                "parser": {
                    "max_num_instances": 10,
                    "rpn_batch_size_per_im": 64,
                },
            },
        },
        "trainer": {
            "steps_per_loop": 25,
            "summary_interval": 25,
            "checkpoint_interval": 100,
            "validation_interval": 300,
            "optimizer_config": {
                "optimizer": {
                    "type": "adamw_experimental",
                    "adamw_experimental": {"weight_decay": 0.0001},
                },
                "learning_rate": {"type": "cosine"},
            },
        },
    },
)

RECIPES = {
    "lambda_resnet101": DetectorRecipe({"depth": 101}),
    "lambda_resnet152": DetectorRecipe({"depth": 152}),
    "resnet101": DetectorRecipe({"depth": 101, **_RESNET}),
    "resnet101_se": DetectorRecipe({"depth": 101, **_RESNET_SE}),
    "resnet152": DetectorRecipe({"depth": 152, **_RESNET}),
    "resnet152_se": DetectorRecipe({"depth": 152, **_RESNET_SE}),
    "rectangles": _RECTANGLES,
}


def make_experiment(
    recipe: str = "lambda_resnet101",
    *,
    train: str = "",
    validation: str = "",
    num_classes: int | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    train_steps: int | None = None,
    backbone_weights: str | None = None,
    precision: str = "float32",
    seed: int = 0,
    params_override: str | None = None,
):
    """Makes an experiment of a recipe.

    The learning rate rises for 1,000 steps, or for a tenth of a shorter
    training, and falls to a tenth each after 90, 95 and 97.5 % of the steps.

    Args:
        recipe: key of `RECIPES`.
        train: pattern of the records to train on.
        validation: pattern of the records to evaluate on.
        num_classes: number of classes with the background, class 0. Defaults
            to those of the recipe, as all that follows.
        image_size: height and width to which images are fitted, pixels.
        batch_size: images per step.
        learning_rate: the largest. By default that of the recipe, in
            proportion to `batch_size`.
        train_steps: length.
        backbone_weights: as in `load_backbone_weights`.
        precision: `"float32"` or `"mixed_bfloat16"`.
        seed: decides the order of the images.
        params_override: YAML, or a file of it, of what is to differ, as
            tf-models-official has it.

    Returns:
        An `official.core.config_definitions.ExperimentConfig`.

    Raises:
        UserError: If `params_override` cannot be read, names what there is
            not, or has values of a wrong type.
    """
    from official.core import config_definitions
    from official.modeling import optimization
    from official.vision.configs import common
    from official.vision.configs import decoders
    from official.vision.configs import maskrcnn

    from trainers.detection import backbone

    chosen = get_recipe(recipe)
    size = image_size or chosen.image_size
    batch_size = batch_size or chosen.batch_size
    steps = train_steps or chosen.train_steps
    if learning_rate is None:
        learning_rate = chosen.learning_rate * batch_size / chosen.batch_size
    dtype = "bfloat16" if precision == "mixed_bfloat16" else "float32"
    config = config_definitions.ExperimentConfig(
        runtime=config_definitions.RuntimeConfig(
            distribution_strategy="off", mixed_precision_dtype=dtype
        ),
        task=maskrcnn.MaskRCNNTask(
            model=maskrcnn.MaskRCNN(
                num_classes=num_classes or len(chosen.class_names) + 1,
                input_size=[size, size, 3],
                include_mask=True,
                min_level=2,
                max_level=6,
                backbone=backbone.Backbone(
                    type="lambda_resnet",
                    lambda_resnet=backbone.LambdaResNet(
                        **chosen.backbone, weights=backbone_weights or ""
                    ),
                ),
                decoder=decoders.Decoder(type="fpn", fpn=decoders.FPN()),
                # joigalcar3/LambdaNetworks.
                detection_head=maskrcnn.DetectionHead(
                    num_convs=4, num_fcs=1, fc_dims=1024
                ),
                # Synchronized; the rest is tf-models-official's.
                norm_activation=common.NormActivation(
                    activation="relu",
                    use_sync_bn=True,
                    norm_momentum=0.99,
                    norm_epsilon=0.001,
                ),
            ),
            losses=maskrcnn.Losses(l2_weight_decay=4e-5),
            train_data=maskrcnn.DataConfig(
                input_path=train,
                is_training=True,
                global_batch_size=batch_size,
                dtype=dtype,
                seed=seed,
                parser=maskrcnn.Parser(
                    aug_rand_hflip=True, aug_scale_min=0.1, aug_scale_max=2.0
                ),
            ),
            validation_data=maskrcnn.DataConfig(
                input_path=validation,
                is_training=False,
                global_batch_size=8,
                dtype=dtype,
                drop_remainder=False,
            ),
        ),
        trainer=config_definitions.TrainerConfig(
            train_steps=steps,
            # All images.
            validation_steps=-1,
            validation_interval=2000,
            steps_per_loop=500,
            summary_interval=500,
            checkpoint_interval=2000,
            optimizer_config=optimization.OptimizationConfig(
                _make_optimizer(learning_rate, steps)
            ),
        ),
        restrictions=[
            "task.train_data.is_training != None",
            "task.validation_data.is_training != None",
        ],
    )
    config.override(chosen.overrides, is_strict=True)
    if params_override:
        _override(config, params_override, "--params_override")
    return config


def _make_optimizer(learning_rate, steps):
    return {
        "optimizer": {"type": "sgd", "sgd": {"momentum": 0.9}},
        "learning_rate": {
            "type": "stepwise",
            "stepwise": {
                "boundaries": [int(steps * share) for share in _STEPS_DOWN],
                "values": [learning_rate / 10**n for n in range(4)],
            },
            # For those that choose this type.
            "cosine": {
                "initial_learning_rate": learning_rate,
                "decay_steps": steps,
            },
        },
        "warmup": {
            "type": "linear",
            "linear": {
                "warmup_steps": min(_WARMUP_STEPS, steps // 10),
                "warmup_learning_rate": 0.0,
            },
        },
    }


def _override(config, text, name):
    import tensorflow as tf
    from official.modeling import hyperparams

    from trainers.detection.overrides import check_overrides

    before = copy.deepcopy(config)
    try:
        hyperparams.override_params_dict(config, text, is_strict=True)
        check_overrides(config, before)
        config.validate()
    # What it raises of unknown keys, of a file that there is not, of YAML
    # that is none, and of values of a wrong type.
    except (
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        tf.errors.OpError,
        yaml.YAMLError,
    ) as error:
        # The text of a KeyError has quotes around it, and its end is for
        # programmers.
        cause = error.args[0] if isinstance(error, KeyError) else error
        reason = " ".join(str(cause).partition(". To extend")[0].split())
        raise UserError(
            f"{name} must be YAML, or a file of it, with keys and values of "
            f"tf-models-official's experiment: {reason}. "
            f"Received: {' '.join(text.split())}"
        ) from error


def read_experiment(path: str | os.PathLike):
    """Reads the params.yaml of a run.

    Args:
        path: the file.

    Returns:
        As `make_experiment`.

    Raises:
        UserError: If it cannot be read.
    """
    config = make_experiment()
    _override(config, os.fspath(path), "The experiment of a run")
    return config


def get_recipe(name: str) -> DetectorRecipe:
    """Returns the recipe of a name.

    Raises:
        UserError: If there is none.
    """
    if name not in RECIPES:
        raise UserError(
            f"--recipe must be one of {', '.join(RECIPES)}. "
            f"Received: --recipe={name}"
        )
    return RECIPES[name]
