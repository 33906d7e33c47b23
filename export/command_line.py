"""How a program begins and ends that needs nothing but a copy of this folder.

The others have `trainers.program`. Such a program begins, after its docstring,
with

    if __name__ == "__main__":
        from export.command_line import end_at_interrupt

        end_at_interrupt()
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable


class InputError(Exception):
    """What the user can mend; its message, one line, is all they see."""


class Parser(argparse.ArgumentParser):
    """A parser of a program's arguments, whose help is its docstring.

    Args:
        name: module of the program.
        description: its docstring.
    """

    def __init__(self, name: str, description: str):
        super().__init__(
            prog=f"python -m {name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message):
        raise InputError(f"{message.removeprefix('argument ')}. See --help.")


def parse_count(text: str) -> int:
    """Parses a whole number of at least 1; for `type` of an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least 1. Received: {text}"
        )
    return int(text)


def parse_seconds(text: str) -> float:
    """Parses a number above 0; for `type` of an argument."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(
            f"must be a number above 0. Received: {text}"
        )
    return seconds


def print_error(text: str) -> None:
    """Prints a line on standard error, which a terminal does not obey."""
    print(f"Error: {escape(text)}", file=sys.stderr, flush=True)


def escape(text: str) -> str:
    r"""Returns text that a terminal shows and does not obey.

    Control characters, line breaks, what turns the direction of writing and
    bytes of no character are written as in Python: `\x1b`, `\n`, `\u202e`.
    """
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in text
    )


def end_at_interrupt() -> None:
    """Has Ctrl-C end the process with a line and exit code 130.

    Raised as an exception, it would be the frameworks' to catch.
    """

    def stop(*_):
        os.write(2, b"\nStopped.\n")
        os._exit(130)

    # Shells have what they start in the background ignore it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)


def run_program(main: Callable[[list[str]], int]) -> None:
    """Runs a program with the arguments of the command line; does not return.

    The exit code is what `main` returns; 2, after one line, at an
    `InputError`; and 141 if who reads the output has seen enough.
    """
    # Before TensorFlow is imported: its errors are exceptions besides.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        code = main(sys.argv[1:])
    except InputError as error:
        print_error(str(error))
        code = 2
    except BrokenPipeError:
        # So a shell calls the end by SIGPIPE.
        code = 141
    sys.exit(code)
