"""Whether what detectors are made of is installed."""

import importlib.metadata

from trainers.program import UserError

_REMEDY = (
    "Detection needs tf-models-official 2.20: pip install "
    '"lambda-keras[detection]" "tf-models-official>=2.20,<2.21".'
)


def check_installation() -> None:
    """Checks that tf-models-official is there, before it is imported.

    Beside another TensorFlow than 2.20, installers choose one of years ago
    and do not say so.

    Raises:
        UserError: If it is not, or is of another version.
    """
    try:
        version = importlib.metadata.version("tf-models-official")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{_REMEDY} Received: none") from None
    if version.split(".")[:2] != ["2", "20"]:
        raise UserError(
            f"{_REMEDY} Another TensorFlow than 2.20 lets installers choose an "
            f"older one. Received: tf-models-official {version}"
        )
