"""The installed commands of this folder."""

import runpy

from trainers.launch import launch


def export() -> None:
    """The command `lambda-keras-export`."""
    launch("export.export_model")


def convert() -> None:
    """The command `lambda-keras-convert`."""
    launch("export.convert_weights")


def predict() -> None:
    """The command `lambda-keras-predict`."""
    # It cares for Ctrl-C itself, because it runs without `trainers` too.
    runpy.run_module("export.predict", run_name="__main__", alter_sys=True)


def serve() -> None:
    """The command `lambda-keras-serve`."""
    # As above.
    runpy.run_module("export.serve", run_name="__main__", alter_sys=True)
