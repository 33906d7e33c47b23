"""Programs of this project, imported and run within a test's process."""

import contextlib
import importlib
import io
import subprocess
import sys
from typing import ClassVar
from unittest import mock

from absl import app
from absl import flags
from absl import logging
from absl.testing import flagsaver

# Those of absl, such as --verbosity.
_COMMON_FLAGS = [
    flag
    for module in (app, logging)
    for flag in flags.FLAGS.flags_by_module_dict()[module.__name__]
]


class Program:
    """A program beside others whose flags have the same names.

    Args:
        module_name: what follows `python -m`.

    Attributes:
        module: the imported module.
    """

    # A module defines its flags once, when it is imported.
    _flags_of_modules: ClassVar = {}

    def __init__(self, module_name):
        self._flags = flags.FlagValues()
        for flag in _COMMON_FLAGS:
            self._flags[flag.name] = flag
        with self._own_flags():
            self.module = importlib.import_module(module_name)
            imported = flags.FlagValues()
            imported.append_flag_values(flags.FLAGS)
        self._flags = self._flags_of_modules.setdefault(module_name, imported)

    @property
    def flag_names(self):
        return set(self._flags)

    def run(self, **values):
        """Runs `main` with values for some flags."""
        with self._own_flags():
            flags.FLAGS.mark_as_parsed()
            with flagsaver.flagsaver(**values):
                self.module.main([self.module.__name__])

    def start(self, *arguments):
        """Runs the program as its command does; it ends in `SystemExit`."""
        argv = [self.module.__name__, *map(str, arguments)]
        with (
            self._own_flags(),
            flagsaver.flagsaver(),
            mock.patch.object(sys, "argv", argv),
        ):
            self.module.run()

    @contextlib.contextmanager
    def _own_flags(self):
        others = flags.FlagValues()
        others.append_flag_values(flags.FLAGS)
        flags.FLAGS.remove_flag_values(others)
        flags.FLAGS.append_flag_values(self._flags)
        try:
            yield
        finally:
            flags.FLAGS.remove_flag_values(list(flags.FLAGS))
            flags.FLAGS.append_flag_values(others)


def run_in_this_process(command, environment=None):
    """Stands in for `exporter.run_to_end` of `python -m`."""
    del environment
    _, _, module_name, *arguments = command
    output, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            Program(module_name).start(*arguments)
        except SystemExit as end:
            status = end.code
    # As Python ends a process: a message is printed, and the code is 1.
    if isinstance(status, str):
        errors.write(f"{status}\n")
        status = 1
    return subprocess.CompletedProcess(
        command, status or 0, output.getvalue(), errors.getvalue()
    )
