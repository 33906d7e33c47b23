"""What the programs have in common: their flags, their help, their end."""

import contextlib
import functools
import signal
import sys
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

from absl import app
from absl import flags

from trainers import files


class UserError(Exception):
    """What the user can mend; its message, one line, is all they see."""


class Terminated(BaseException):
    """SIGTERM came, and what was to be saved is saved."""


def run_program(
    main: Callable[[list[str]], None],
    *,
    flag_groups: Sequence[str] = (),
    interrupted: str = "Stopped.",
) -> None:
    """Runs a program with the flags of the command line.

    The process ends with exit code 2 and one line if the user can mend what
    went wrong, a full disk among it; with 130, as is usual after Ctrl-C, if it
    is interrupted; and with 143, as is usual after SIGTERM, at a `Terminated`.
    Interruptions while modules are imported are for `trainers.launch`.

    Args:
        main: function of the arguments, the name of the program first.
        flag_groups: `module_name` of flags that are not of the module of
            `main`, in the order in which `--help` shows them.
        interrupted: the line to print after Ctrl-C, such as what to do next.
    """
    interruptions = []
    try:
        with _noting_interruptions(interruptions):
            app.run(
                main,
                flags_parser=functools.partial(_parse, main, flag_groups),
            )
    except Terminated:
        print(
            "Terminated, with all saved. The same command goes on.",
            file=sys.stderr,
        )
        sys.exit(143)
    except (Exception, KeyboardInterrupt) as error:
        # TensorFlow makes another error of some interruptions.
        if interruptions or isinstance(error, KeyboardInterrupt):
            print(f"\n{interrupted}", file=sys.stderr)
            sys.exit(130)
        if isinstance(error, UserError):
            print(f"Error: {error}", file=sys.stderr)
            sys.exit(2)
        if not files.is_disk_full(error):
            raise
        name = getattr(error, "filename", None)
        print(
            f"Error: The disk is full{f', at {name}' if name else ''}; what "
            "was whole before is still there. Make room and run the same "
            "command.",
            file=sys.stderr,
        )
        sys.exit(2)


@contextlib.contextmanager
def _noting_interruptions(interruptions: list) -> Iterator[None]:
    """Appends to a list at Ctrl-C within the block; it is raised as ever."""
    raise_interruption = signal.getsignal(signal.SIGINT)
    if raise_interruption is not signal.default_int_handler:
        yield
        return

    def note(number, frame):
        interruptions.append(number)
        raise_interruption(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, raise_interruption)


def refuse_arguments(argv: Sequence[str]) -> None:
    """Checks that all arguments of a program are flags.

    Raises:
        UserError: If one is not.
    """
    if len(argv) > 1:
        raise UserError(f"Flags begin with --. Received: {argv[1]}")


def _parse(main, flag_groups, argv):
    if "--help" in argv:
        print(_describe(main, flag_groups))
        sys.exit()
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(f"{error} See --help.") from error


def _describe(main, flag_groups):
    # In an installed command, `__main__` is pip's.
    module = sys.modules[main.__module__]
    own = flags.FLAGS.module_help(module)
    own = own.replace(f"{module.__name__}:", "flags:", 1)
    groups = [flags.FLAGS.module_help(group) for group in flag_groups]
    return "\n".join(filter(None, [module.__doc__, own, *groups]))
