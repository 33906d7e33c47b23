"""What the programs have in common: how they end."""

import sys
from collections.abc import Callable

from absl import app


class UserError(Exception):
    """What the user can mend; its message, one line, is all they see."""


def run_program(
    main: Callable[[list[str]], None], interrupted: str = "Stopped."
) -> None:
    """Runs a program with the flags of the command line.

    The process ends with exit code 2 and one line if the user can mend what
    went wrong, and with 130, as is usual after Ctrl-C, if it is interrupted.

    Args:
        main: function of the arguments, the name of the program first.
        interrupted: the line to print after Ctrl-C, such as what to do next.
    """

    def run_main(argv):
        try:
            main(argv)
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print(f"\n{interrupted}", file=sys.stderr)
            sys.exit(130)

    app.run(run_main)
