"""From the flags that were given to all that a run needs to know."""

import dataclasses
import functools
import os
import re
from collections.abc import Mapping

import yaml

from trainers import run_folder
from trainers.classifier import check_width
from trainers.data import records
from trainers.files import make_path
from trainers.knobs import at_least
from trainers.knobs import between
from trainers.knobs import convert_value
from trainers.knobs import knob
from trainers.knobs import list_knobs
from trainers.knobs import one_of
from trainers.knobs import read_knobs
from trainers.knobs import replace_knobs
from trainers.program import UserError
from trainers.recipe_table import RECIPES
from trainers.recipe_table import choose_recipe
from trainers.recipe_table import get_recipe
from trainers.recipes import Recipe

_data = functools.partial(knob, group="data")
_model = functools.partial(knob, group="model")
_optimization = functools.partial(knob, group="optimization")
_run = functools.partial(knob, group="run")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run needs to know besides its recipe."""

    dataset: str = _data(
        "digits",
        "digits, fashion_mnist, a name in TensorFlow Datasets, a folder with a "
        "folder of images for each class, or a folder of TFRecords or a "
        "pattern of their names",
    )
    data_dir: str | None = _data(
        None,
        "Where TensorFlow Datasets keeps its data, or the files of "
        "fashion_mnist are, a folder",
    )
    channels: int | None = _data(
        None,
        "1 to read images as grayscale, 3 as colors; without it as the data "
        "set says, and files as colors",
        one_of(1, 3),
    )
    first_label: int = _data(
        1, "Number of the first class in TFRecords; 1 in ImageNet's"
    )
    pseudo_labels: str | None = _data(
        None,
        "Images to train on besides: what trainers.select_labels or "
        "export.label_images wrote, a folder or a pattern; with --teacher, a "
        "folder or a pattern of images or of TFRecords, which need no labels",
    )
    teacher: str | None = _data(
        None,
        "Export that labels the images of --pseudo_labels as training begins, "
        "in memory: a SavedModel folder, a .tflite or an .onnx file",
    )
    pseudo_min_confidence: float = _data(
        0.0,
        "Probability of the surest class, below which an image that --teacher "
        "labels is left out",
        between(0, 1),
    )
    max_bad_images: int = _data(
        0,
        "Images that may be left out because they cannot be read; "
        "bad_images.txt names them",
        at_least(0),
    )
    cache: bool = _data(
        False,
        "Whether to decode all images once and keep them in memory, a byte "
        "for each pixel and channel, twice that while they are read",
    )
    weights: str | None = _model(
        None,
        "Trained network of the same kind to begin with, a .keras file of any "
        "image size or a checkpoint of timm; of other classes, without its "
        "classifier",
    )
    frozen_stages: int = _model(
        0,
        "Parts that are not trained: 0 none, 1 the stem, 2 to 5 the stages up "
        "to c2 to c5 too",
        between(0, 5),
    )
    recipe: str | None = _run(
        None,
        "Name of a recipe, which has the flags' values where they are left "
        "out; without it that of the data set",
        one_of(*RECIPES),
    )
    seed: int = _run(
        0, "Decides weights, order and augmentation", between(0, 2**31 - 1)
    )
    precision: str = _run(
        "float32",
        "Precision of the network",
        one_of("float32", "mixed_bfloat16", "mixed_float16"),
    )
    strategy: str = _run(
        "auto",
        "Devices; auto is a TPU if --tpu is given, or all GPUs; multi_worker "
        "is those of all workers in TF_CONFIG; data_parallel is all of JAX's",
        one_of(
            "auto",
            "one_device",
            "mirrored",
            "multi_worker",
            "tpu",
            "data_parallel",
        ),
    )
    tpu: str | None = _run(
        None, "Name of a TPU, local, or an address grpc://host:port"
    )
    steps_per_execution: int = _run(
        1,
        "Steps that run without returning to Python; a divisor of the steps "
        "per epoch",
        at_least(1),
    )
    jit_compile: bool = _run(
        False,
        "Whether XLA compiles the step, on one device; operations that are "
        "not deterministic are not refused then",
    )
    early_stopping_epochs: int = _optimization(
        0,
        "Epochs without a better one after which training ends; 0 for never",
        at_least(0),
    )
    profile_steps: str | None = _run(
        None,
        "Two step numbers A,B of this process, from 1, between which "
        "TensorBoard's profiler runs",
    )
    checkpoint_every_steps: int = _run(
        0,
        "Steps after which a state is saved within an epoch; 0 saves one "
        "after each epoch only",
        at_least(0),
    )
    keep_checkpoints: int = _run(
        2, "Number of states that are kept, the last ones", at_least(1)
    )


def resolve_flags(
    given: Mapping, saved: Mapping, config: Mapping | None = None
) -> dict:
    """Fills in the flags that were left out.

    Args:
        given: the flags on the command line, by name.
        saved: the flags of the run in the folder, empty if there is none.
        config: the flags in a file, by name, which those on the command line
            override.

    Returns:
        All flags: as given, or else as saved, or else from the recipe.

    Raises:
        UserError: If there is no such recipe, or its learning rate is of
            another optimizer.
    """
    given = {**(config or {}), **given}
    resolved = {**read_knobs(Run()), **saved, **given}
    if os.path.isdir(resolved["dataset"]) or _is_local_pattern(
        resolved["dataset"]
    ):
        resolved["dataset"] = os.path.abspath(resolved["dataset"])
    for name in ("pseudo_labels", "teacher"):
        if resolved[name] and "://" not in resolved[name]:
            resolved[name] = os.path.abspath(resolved[name])
    resolved["recipe"] = resolved["recipe"] or choose_recipe(
        resolved["dataset"]
    )
    recipe = read_knobs(get_recipe(resolved["recipe"]))
    for name, value in recipe.items():
        resolved.setdefault(name, value)
    if "learning_rate" not in {*saved, *given}:
        if resolved["optimizer"] != recipe["optimizer"]:
            raise UserError(
                f"--optimizer={resolved['optimizer']} needs a --learning_rate, "
                f"such as 0.001, because the recipe's, "
                f"{recipe['learning_rate']}, is for {recipe['optimizer']}. "
                "Received: none"
            )
        # More are refused later, and would be too many for a float.
        batch_size = min(resolved["batch_size"], 2**31)
        resolved["learning_rate"] *= batch_size / recipe["batch_size"]
    return resolved


def read_config(path: str) -> dict:
    """Reads flags, by name, from a JSON or YAML file.

    Raises:
        UserError: If there is no such file, it is malformed, or it holds
            anything but flags of a run.
    """
    try:
        with open(path) as file:
            # JSON is YAML, too.
            config = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--config must be a JSON or YAML file: {reason} "
            f"Received: --config={path}"
        ) from error
    if not isinstance(config, dict):
        raise UserError(
            "--config must be a file of names and values of flags. "
            f"Received: {type(config).__name__} in {path}"
        )
    return _convert_values(config, f"in {path}")


def read_saved(model_dir: os.PathLike) -> dict:
    """Reads the flags of the run in a folder.

    Returns:
        All flags, those that are younger than the run with their defaults;
        none if there is no run.

    Raises:
        UserError: If the file is damaged.
    """
    path = make_path(model_dir) / run_folder.FLAGS_FILE
    if not path.exists():
        return {}
    saved = _convert_values(run_folder.read_json(path), f"in {path}")
    if not saved.get("dataset"):
        raise UserError(
            f"{path} must say which --dataset the run is of; mend it or choose "
            "another --model_dir."
        )
    return resolve_flags(saved, saved={})


def _convert_values(values, where):
    """Returns values from a file as the flags of their names have them."""
    fields = {
        field.name: field
        for owner in (Run, Recipe)
        for field, _ in list_knobs(owner)
    }
    unknown = sorted(map(str, set(values) - set(fields)))
    if unknown:
        raise UserError(
            "A file of flags must hold flags of a run. "
            f"Received: {', '.join(unknown)} {where}"
        )
    try:
        return {
            name: convert_value(fields[name], value)
            for name, value in values.items()
        }
    except UserError as error:
        raise UserError(f"{error} {where}") from error


def describe_recipe(
    given: Mapping, config: Mapping, config_path: str | None
) -> str:
    """Returns a table of the values of a recipe and where each is from.

    Args:
        given: the flags on the command line, by name.
        config: the flags in a file, by name.
        config_path: the file.
    """
    resolved = resolve_flags(given, {}, config)
    recipe = get_recipe(resolved["recipe"])
    rows = []
    for name, value in read_knobs(make_recipe(resolved)).items():
        source = recipe.sources.get(name, "default of this program")
        if name in given:
            source = "command line"
        elif name in config:
            source = config_path
        elif value != getattr(recipe, name):
            source = f"in proportion to --batch_size; {source}"
        rows.append((name, str(value), source))
    # What no flag sets.
    augment = getattr(recipe.augment, "func", recipe.augment)
    for name, value in (
        ("augment", augment.__name__),
        ("crop_fraction", str(recipe.crop_fraction)),
    ):
        source = recipe.sources.get(name, "default of this program")
        rows.append((name, value, source))
    width, value_width = (max(len(row[n]) for row in rows) for n in (0, 1))
    lines = [
        f"{name:<{width}}  {value:<{value_width}}  {source}"
        for name, value, source in rows
    ]
    return "\n".join([f"Recipe {resolved['recipe']}:", *lines])


def _is_local_pattern(dataset):
    return records.is_pattern(dataset) and "://" not in dataset


def make_run(resolved: Mapping) -> Run:
    """Puts resolved flags into a `Run`.

    Raises:
        UserError: If a value breaks its rule.
    """
    run = replace_knobs(Run(), resolved)
    parse_profile_steps(run.profile_steps)
    if run.weights and not os.path.isfile(run.weights):
        raise UserError(
            f"--weights must be a file. Received: --weights={run.weights}"
        )
    if run.teacher and not run.pseudo_labels:
        raise UserError(
            "--teacher needs --pseudo_labels, the images that it labels. "
            f"Received: --teacher={run.teacher}"
        )
    if run.pseudo_min_confidence and not run.teacher:
        raise UserError(
            "--pseudo_min_confidence needs a --teacher; of labels that are "
            "there, trainers.select_labels takes those that are sure. "
            f"Received: --pseudo_min_confidence={run.pseudo_min_confidence:g}"
        )
    return run


def parse_profile_steps(text: str | None) -> tuple[int, int] | None:
    """Reads `--profile_steps`.

    Raises:
        UserError: If it is not two rising numbers from 1 on.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,8}),([1-9]\d{0,8})", text)
    if not match or int(match[1]) > int(match[2]):
        raise UserError(
            "--profile_steps must be two step numbers from 1 on, the first "
            f"not above the second, such as 10,20. Received: {text}"
        )
    return int(match[1]), int(match[2])


def make_recipe(resolved: Mapping) -> Recipe:
    """Puts resolved flags into their recipe.

    Raises:
        UserError: If a value breaks its rule.
    """
    recipe = replace_knobs(get_recipe(resolved["recipe"]), resolved)
    shrinkage = 8 * recipe.stem_strides
    if recipe.image_size < shrinkage:
        raise UserError(
            f"--image_size must be at least {shrinkage}, because the network "
            f"divides it by it. Received: --image_size={recipe.image_size}"
        )
    check_width(recipe)
    return recipe
