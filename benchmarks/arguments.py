"""Checks of what the programs' flags say."""

import importlib.util
from collections.abc import Iterable

from trainers.program import UserError

_PEER_MODULES = ("torch", "timm", "lambda_networks")


def check_names(flag: str, names: list[str], known: Iterable[str]) -> list[str]:
    """Returns the names of a flag.

    Raises:
        UserError: If one is not known.
    """
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UserError(
            f"--{flag} must be some of {','.join(known)}. "
            f"Received: {','.join(names)}"
        )
    return names


def parse_numbers(flag: str, numbers: list[str]) -> list[int]:
    """Returns the positive whole numbers of a flag.

    Raises:
        UserError: If one is not.
    """
    if not numbers or not all(
        number.isdecimal() and int(number) for number in numbers
    ):
        raise UserError(
            f"--{flag} must be positive whole numbers. "
            f"Received: {','.join(numbers)}"
        )
    return [int(number) for number in numbers]


def check_peers(flag: str, frameworks: list[str]) -> None:
    """Checks that what PyTorch needs is installed.

    Raises:
        UserError: If it is needed and missing.
    """
    missing = [
        name for name in _PEER_MODULES if importlib.util.find_spec(name) is None
    ]
    if "torch" in frameworks and missing:
        raise UserError(
            f"--{flag} has some that run in PyTorch. Install the extra `peers` "
            f"of this project, or leave them out. Missing: {', '.join(missing)}"
        )
