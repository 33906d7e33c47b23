"""How programs end, and what they say of themselves.

Small programs, each in a process of its own: exit codes are what is tested.
"""

import os
import signal
import subprocess
import sys

import pytest

from trainers.program import UserError
from trainers.program import refuse_arguments

PROGRAM = '''
"""Greets, or fails.

    python greet.py --name=Ada
"""

import time

from absl import flags

from trainers.program import Terminated
from trainers.program import UserError, refuse_arguments, run_program

_NAME = flags.DEFINE_string("name", None, "Whom to greet.")
_TIMES = flags.DEFINE_integer(
    "times", 1, "How often.", module_name="manners"
)
_LOUD = flags.DEFINE_bool("loud", False, "How.", module_name="voice")


def main(argv):
    refuse_arguments(argv)
    if not _NAME.value:
        raise UserError("--name is missing.")
    if _NAME.value == "nobody":
        raise LookupError("There is nobody.")
    if _NAME.value == "terminated":
        raise Terminated
    if _NAME.value == "full":
        open("/dev/full", "wb", buffering=0).write(b"x")
    if _NAME.value == "words":
        raise RuntimeError("h5: No space left on device")
    print("ready", flush=True)
    if _NAME.value == "forever":
        time.sleep(60)
    if _NAME.value == "swallower":
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            raise TypeError("what was interrupted is of no type") from None
    for _ in range(_TIMES.value):
        print(f"Hello, {_NAME.value}.")


if __name__ == "__main__":
    run_program(
        main,
        flag_groups=("voice", "manners"),
        interrupted="Stopped. Greet again.",
    )
'''


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts the program with arguments."""
    path = tmp_path_factory.mktemp("programs") / "greet.py"
    path.write_text(PROGRAM)

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, path, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            # A shell lets what it starts in the background ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


@pytest.fixture(scope="module")
def run(start):
    """Runs the program; returns exit code, output and error output."""

    def run(*arguments):
        with start(*arguments) as process:
            output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    return run


def test_program_runs_with_the_flags_of_the_command_line(run):
    assert run("--name=Ada", "--times=2") == (
        0,
        "ready\nHello, Ada.\nHello, Ada.\n",
        "",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Error: --name is missing."),
        (["Ada"], "Error: Flags begin with --. Received: Ada"),
        (["--nam=Ada"], "Did you mean: name ? See --help."),
        (["--times=x"], "--times=x: invalid literal"),
        (["--name"], "Missing value for flag"),
    ],
    ids=["user_error", "argument", "unknown_flag", "bad_value", "no_value"],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(
    run, arguments, message
):
    code, output, errors = run(*arguments)
    assert code == 2
    assert output == ""
    assert errors.startswith("Error: ")
    assert message in errors
    assert errors.count("\n") == 1
    assert errors.endswith("\n")


def test_errors_of_the_program_show_where_they_were_raised(run):
    code, _, errors = run("--name=nobody")
    assert code == 1
    assert "Traceback" in errors
    assert "LookupError: There is nobody." in errors


def test_terminated_program_has_a_code_of_its_own(run):
    assert run("--name=terminated") == (
        143,
        "",
        "Terminated, with all saved. The same command goes on.\n",
    )


@pytest.mark.parametrize("name", ["full", "words"])
def test_full_disk_is_one_line(name, run):
    code, output, errors = run(f"--name={name}")
    assert (code, output) == (2, "")
    assert errors.startswith("Error: The disk is full")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("name", ["forever", "swallower"])
def test_interrupted_program_says_how_to_go_on(start, name):
    with start(f"--name={name}") as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    # After the ^C of the terminal.
    assert errors == "\nStopped. Greet again.\n"


def test_help_shows_the_program_and_then_its_flags_in_groups(run):
    code, output, errors = run("--help")
    assert (code, errors) == (0, "")
    parts = [
        "Greets, or fails.\n",
        "    python greet.py --name=Ada\n",
        "\nflags:\n",
        "  --name: Whom to greet.\n",
        "\nvoice:\n",
        "  --[no]loud: How.\n",
        "\nmanners:\n",
        "  --times: How often.\n",
    ]
    places = [output.index(part) for part in parts]
    assert places == sorted(places)


def test_flags_alone_are_not_refused():
    refuse_arguments(["program"])
    with pytest.raises(UserError, match="Received: runs/digits"):
        refuse_arguments(["program", "runs/digits", "more"])
