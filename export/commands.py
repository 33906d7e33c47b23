"""The installed commands of this folder whose imports take seconds."""

from trainers.launch import launch


def export() -> None:
    """The command `lambda-keras-export`."""
    launch("export.export_model")


def convert() -> None:
    """The command `lambda-keras-convert`."""
    launch("export.convert_weights")
