"""Starts a program whose imports take seconds.

A program ends with nothing but `run`, and begins, after its docstring, with

    if __name__ == "__main__":
        from trainers.launch import launch

        launch("trainers.train_classifier")

which imports the same file once more, as the module that it is.
"""

import glob
import importlib
import os
import signal
import sys

# NVIDIA's, also in Windows's Linux; AMD's; Google's.
_ACCELERATORS = ("/dev/nvidia*", "/dev/dxg", "/dev/kfd", "/dev/accel*")


def launch(module_name: str) -> None:
    """Imports a module and calls its `run`; does not return.

    From the first import to the end of the process, Ctrl-C ends it with a line
    and exit code 130, unless `run` does so itself.

    Says to TensorFlow, unless TF_CPP_MIN_LOG_LEVEL in the environment does,
    that it need not tell what it finds on the machine: information, and
    where there is no accelerator also the "error" that there is none. Errors
    of a program are exceptions, which are not touched by this.

    Args:
        module_name: name of the program, such as `"export.export_model"`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _choose_log_level())
    handler = signal.getsignal(signal.SIGINT)
    # Shells have what they start in the background ignore Ctrl-C.
    listens = handler is signal.default_int_handler
    if listens:
        # An exception would be one of the modules' to catch.
        signal.signal(signal.SIGINT, _stop)
    program = importlib.import_module(module_name)
    if listens:
        signal.signal(signal.SIGINT, handler)
    try:
        program.run()
    finally:
        if listens:
            # Nothing is left to be saved.
            signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    sys.exit()


def train() -> None:
    """The command `lambda-keras-train`."""
    launch("trainers.train_classifier")


def _choose_log_level():
    # 0 for all, 1 without information, 3 without errors too.
    return "1" if any(map(glob.glob, _ACCELERATORS)) else "3"


def _stop(*_):
    os.write(2, b"\nStopped.\n")
    os._exit(130)
