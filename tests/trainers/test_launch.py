"""How programs begin, each in a process of its own."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

import trainers

ROOT = pathlib.Path(trainers.__file__).parents[1]
PROGRAM = '''
"""Waits while it is imported, while it runs, and when it has run."""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("waiting")

import atexit
import os
import sys
import time

where = sys.argv[1]


def wait(here):
    if here == where:
        print(os.environ["TF_CPP_MIN_LOG_LEVEL"], flush=True)
        time.sleep(60)


def run():
    atexit.register(wait, "end")
    try:
        wait("run")
    except KeyboardInterrupt:
        sys.exit("I stop.")


try:
    wait("import")
except BaseException as error:
    raise ImportError("some modules do that") from error
'''


@pytest.fixture
def start(tmp_path):
    """Starts the program, which waits where it is told to."""
    (tmp_path / "waiting.py").write_text(PROGRAM)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)

    def start(where, handler=signal.SIG_DFL, **others):
        return subprocess.Popen(
            [sys.executable, "-m", "waiting", where],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, **others},
            # A shell lets what it starts in the background ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
        )

    return start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "code", "message"),
    [
        ("import", 130, "\nStopped.\n"),
        ("run", 1, "I stop.\n"),
        ("end", 130, ""),
    ],
)
def test_interrupted_program_shows_no_traceback(start, where, code, message):
    with start(where) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, message)


@pytest.mark.slow
def test_program_in_the_background_goes_on_after_ctrl_c(start):
    with start("import", signal.SIG_IGN) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)
        process.kill()


@pytest.mark.slow
def test_log_of_tensorflow_is_quiet_unless_the_environment_says_how(start):
    levels = []
    for others in ({}, {"TF_CPP_MIN_LOG_LEVEL": "0"}):
        with start("run", **others) as process:
            levels.append(process.stdout.readline())
            process.kill()
    assert levels[0] in ("1\n", "3\n")
    assert levels[1] == "0\n"


def test_programs_launch_themselves():
    programs = alone = 0
    for folder in ("trainers", "export", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            if "\n    run_program(" in text:
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                if "\n    end_at_interrupt()\n" in text:
                    alone += 1
                else:
                    assert f'\n    launch("{name}")\n' in text
                    programs += 1
    assert (programs, alone) == (19, 4)


@pytest.mark.slow
def test_interrupted_prediction_shows_no_traceback():
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "export.predict"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        # It has just begun to import.
        while "signal" not in process.stderr.readline():
            pass
        for line in process.stderr:
            if "numpy" in line:
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("\nStopped.\n")
    assert "Traceback" not in errors
