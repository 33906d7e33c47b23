"""From the flags of a detector to all that its training needs to know."""

import dataclasses
import functools
import os
from collections.abc import Mapping

from trainers import run_folder
from trainers.detection.experiments import RECIPES
from trainers.detection.experiments import get_recipe
from trainers.files import make_path
from trainers.knobs import at_least
from trainers.knobs import between
from trainers.knobs import convert_value
from trainers.knobs import greater_than
from trainers.knobs import knob
from trainers.knobs import list_knobs
from trainers.knobs import one_of
from trainers.knobs import read_knobs
from trainers.knobs import replace_knobs
from trainers.program import UserError

_data = functools.partial(knob, group="data")
_model = functools.partial(knob, group="model")
_optimization = functools.partial(knob, group="optimization")
_run = functools.partial(knob, group="run")


@dataclasses.dataclass(frozen=True)
class DetectorRun:
    """What the training of a detector needs to know; `None` for the recipe's.

    The learning rate of the recipe is for its batch size, and is in
    proportion for another.
    """

    train: str | None = _data(
        None,
        "TFRecords to train on, a pattern of their names, as "
        "trainers.detection.make_records writes them",
    )
    validation: str | None = _data(
        None, "TFRecords to evaluate on, a pattern of their names"
    )
    class_names: str | None = _data(
        None,
        "Names of the classes from class 1 on, with commas between them, or a "
        "file with one on each line; the recipe's by default, COCO's of most",
    )
    image_size: int | None = _data(
        None, "Height and width to which images are fitted, pixels", at_least(1)
    )
    backbone_weights: str | None = _model(
        None,
        "Trained network of the same kind to begin with: a .keras file of a "
        "classifier, the model_dir of a run of train_classifier, or a "
        "checkpoint of timm",
    )
    batch_size: int | None = _optimization(
        None, "Images per step, on all devices together", at_least(1)
    )
    learning_rate: float | None = _optimization(
        None, "Largest learning rate", greater_than(0)
    )
    train_steps: int | None = _optimization(None, "Length, steps", at_least(1))
    recipe: str = _run(
        "lambda_resnet101",
        "Name of a recipe, which has the flags' values where they are left out",
        one_of(*RECIPES),
    )
    seed: int = _run(
        0, "Decides weights, order and augmentation", between(0, 2**31 - 1)
    )
    precision: str = _run(
        "float32",
        "Precision of the network",
        one_of("float32", "mixed_bfloat16"),
    )
    strategy: str = _run(
        "auto",
        "Devices; auto is a TPU if --tpu is given, or all GPUs",
        one_of("auto", "one_device", "mirrored", "tpu"),
    )
    tpu: str | None = _run(
        None, "Name of a TPU, local, or an address grpc://host:port"
    )
    params_override: str | None = _run(
        None,
        "YAML, or a file of it, of what else is to differ from the recipe, "
        "with the keys that --dry_run prints",
    )


# A run may go on for longer, elsewhere, or with its data in another place.
# What --params_override changes is compared in the experiment.
_CHANGES_IN_TRAINING = (
    "backbone_weights",
    "params_override",
    "strategy",
    "tpu",
    "train",
    "train_steps",
    "validation",
)


def make_run(given: Mapping, saved: Mapping) -> DetectorRun:
    """Fills in the flags that were left out.

    Args:
        given: the flags on the command line, by name.
        saved: the flags of the run in the folder, empty if there is none.

    Returns:
        All flags: as given, or else as saved, or else from the recipe, but
        for the names of classes, which may be `None`.

    Raises:
        UserError: If there is no such recipe, or a value breaks its rule.
    """
    resolved = {**read_knobs(DetectorRun()), **saved, **given}
    recipe = get_recipe(resolved["recipe"])
    if resolved["learning_rate"] is None:
        batch_size = resolved["batch_size"] or recipe.batch_size
        resolved["learning_rate"] = (
            recipe.learning_rate * batch_size / recipe.batch_size
        )
    for name in ("image_size", "batch_size", "train_steps"):
        if resolved[name] is None:
            resolved[name] = getattr(recipe, name)
    for name in ("train", "validation", "class_names"):
        value = resolved[name]
        is_path = value and "://" not in value and os.sep in value
        if is_path or (value and os.path.exists(value)):
            resolved[name] = os.path.abspath(value)
    return replace_knobs(DetectorRun(), resolved)


def read_saved(model_dir: os.PathLike) -> dict:
    """Reads the flags of the run in a folder; none if there is no run.

    Raises:
        UserError: If the file is damaged, or is of a classifier's run.
    """
    path = make_path(model_dir) / run_folder.FLAGS_FILE
    if not path.exists():
        return {}
    saved = run_folder.read_json(path)
    fields = {field.name: field for field, _ in list_knobs(DetectorRun)}
    if set(saved) != set(fields):
        raise UserError(
            f"{path} must hold the flags of a detector's run; choose another "
            "--model_dir. Received: "
            f"{', '.join(sorted(set(saved) ^ set(fields)))}"
        )
    return {
        name: convert_value(fields[name], value)
        for name, value in saved.items()
    }


def check_flags(
    model_dir: os.PathLike, saved: Mapping, run: DetectorRun, *, trains: bool
) -> None:
    """Refuses to go on with a run as if it were another.

    Args:
        model_dir: folder of the run.
        saved: flags of the run, empty if there is none.
        run: the same flags with what was now given.
        trains: whether the run is to go on, or to be evaluated.

    Raises:
        UserError: If another flag differs, or the run would end earlier.
    """
    run_folder.check_flags(
        model_dir,
        saved,
        read_knobs(run),
        may_change=(
            _CHANGES_IN_TRAINING
            if trains
            else (*_CHANGES_IN_TRAINING, "batch_size", "learning_rate")
        ),
        length="train_steps",
    )


def read_class_names(run: DetectorRun) -> list[str]:
    """Returns the name of class n at n - 1.

    Raises:
        UserError: If there are none, or one is empty.
    """
    if run.class_names is None:
        return list(get_recipe(run.recipe).class_names)
    if os.path.isfile(run.class_names):
        try:
            text = make_path(run.class_names).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--class_names cannot be read: {error}. "
                f"Received: {run.class_names}"
            ) from error
        names = text.splitlines()
    else:
        names = run.class_names.split(",")
    names = [name.strip() for name in names]
    if not all(names):
        raise UserError(
            "--class_names must be names with commas between them, or a file "
            f"with one on each line. Received: {run.class_names}"
        )
    return names
