"""Programs of this project, imported and run within a test's process."""

import contextlib
import importlib

from absl import flags
from absl.testing import flagsaver


class Program:
    """A program beside others whose flags have the same names.

    Args:
        module_name: what follows `python -m`.

    Attributes:
        module: the imported module.
    """

    def __init__(self, module_name):
        self._flags = flags.FlagValues()
        with self._own_flags():
            self.module = importlib.import_module(module_name)
            self._flags.append_flag_values(flags.FLAGS)

    def run(self, **values):
        """Runs `main` with values for some flags."""
        with self._own_flags():
            flags.FLAGS.mark_as_parsed()
            with flagsaver.flagsaver(**values):
                self.module.main([self.module.__name__])

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
