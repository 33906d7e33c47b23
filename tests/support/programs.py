"""Programs of this project, imported and run within a test's process."""

import contextlib
import importlib
import sys
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

    def __init__(self, module_name):
        self._flags = flags.FlagValues()
        for flag in _COMMON_FLAGS:
            self._flags[flag.name] = flag
        with self._own_flags():
            self.module = importlib.import_module(module_name)
            own_flags = flags.FlagValues()
            own_flags.append_flag_values(flags.FLAGS)
        self._flags = own_flags

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
