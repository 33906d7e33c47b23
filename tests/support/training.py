"""The program that trains, run within a test's process."""

import functools
from unittest import mock

import keras

from tests.support.programs import Program

PROGRAM = Program("trainers.train_classifier")
# A network that trains on the digits in seconds: 5 steps per epoch.
SMALL = {"depth": 14, "width_multiplier": 0.125, "batch_size": 256}


def run_main(**values):
    """Runs `main` with values for some flags."""
    PROGRAM.run(**values)


def run_main_eagerly(**values):
    """Does so step by step.

    For few steps, compiling graphs would take most of the time.
    """
    run_eagerly = functools.partialmethod(keras.Model.compile, run_eagerly=True)
    with mock.patch.object(keras.Model, "compile", run_eagerly):
        run_main(**values)
