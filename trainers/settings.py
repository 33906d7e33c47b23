"""From the flags that were given to all that a run needs to know."""

import dataclasses
import functools
import os
from collections.abc import Mapping

from trainers.data import records
from trainers.knobs import at_least
from trainers.knobs import between
from trainers.knobs import knob
from trainers.knobs import one_of
from trainers.knobs import read_knobs
from trainers.knobs import replace_knobs
from trainers.program import UserError
from trainers.recipes import Recipe
from trainers.recipes import get_recipe

_data = functools.partial(knob, group="data")
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
        "Devices; auto is a TPU if --tpu is given, or all GPUs",
        one_of("auto", "one_device", "mirrored", "tpu"),
    )
    tpu: str | None = _run(
        None, "Name of a TPU, local, or an address grpc://host:port"
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


def resolve_flags(given: Mapping, saved: Mapping) -> dict:
    """Fills in the flags that were left out.

    Args:
        given: the flags on the command line, by name.
        saved: the flags of the run in the folder, empty if there is none.

    Returns:
        All flags: as given, or else as saved, or else from the recipe.
    """
    resolved = {**read_knobs(Run()), **saved, **given}
    if os.path.isdir(resolved["dataset"]) or _is_local_pattern(
        resolved["dataset"]
    ):
        resolved["dataset"] = os.path.abspath(resolved["dataset"])
    recipe = read_knobs(get_recipe(resolved["dataset"]))
    for name, value in recipe.items():
        resolved.setdefault(name, value)
    if "learning_rate" not in {*saved, *given}:
        resolved["learning_rate"] *= (
            resolved["batch_size"] / recipe["batch_size"]
        )
    return resolved


def _is_local_pattern(dataset):
    return records.is_pattern(dataset) and "://" not in dataset


def make_run(resolved: Mapping) -> Run:
    """Puts resolved flags into a `Run`.

    Raises:
        UserError: If a value breaks its rule.
    """
    return replace_knobs(Run(), resolved)


def make_recipe(resolved: Mapping) -> Recipe:
    """Puts resolved flags into the recipe of their data set.

    The network checks what only it can know, such as its depths.

    Raises:
        UserError: If a value breaks its rule.
    """
    recipe = replace_knobs(get_recipe(resolved["dataset"]), resolved)
    shrinkage = 8 * recipe.stem_strides
    if recipe.image_size < shrinkage:
        raise UserError(
            f"--image_size must be at least {shrinkage}, because the network "
            f"divides it by it. Received: --image_size={recipe.image_size}"
        )
    return recipe
