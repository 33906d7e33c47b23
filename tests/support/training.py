"""The program that trains, run within a test's process."""

from absl import flags
from absl.testing import flagsaver

from trainers import train_classifier

# A network that trains on the digits in seconds: 5 steps per epoch.
SMALL = {"width_multiplier": 0.125, "batch_size": 256}


def run_main(**values):
    """Runs `main` with values for some flags."""
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**values):
        train_classifier.main(["train_classifier"])
