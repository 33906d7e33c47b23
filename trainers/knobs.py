"""Knobs: fields of a dataclass from which flags and checks are made.

    epochs: int = knob(90, "Length, epochs", at_least(1), group="optimization")

is all that it takes to have a flag, its help, its check and its place in the
folder of a run.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from absl import flags

from trainers.program import UserError

_DEFINE = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


class Rule(NamedTuple):
    """What a value must be.

    Attributes:
        text: what follows "must be".
        holds: function from a value to whether it is that.
        choices: all that a value may be, if that can be listed.
    """

    text: str
    holds: Callable[[Any], bool]
    choices: tuple = ()


class Knob(NamedTuple):
    """The arguments of `knob`, but for the default."""

    help: str
    rule: Rule | None
    group: str


def knob(
    default: Any, help: str, rule: Rule | None = None, *, group: str
) -> Any:
    """Makes a field of a dataclass that is a knob.

    Args:
        default: its default.
        help: what it means and its unit, without a period.
        rule: what its value must be. `None` if it may be anything, or if
            that is checked where it is used.
        group: its heading in `--help`.
    """
    return dataclasses.field(
        default=default, metadata={"knob": Knob(help, rule, group)}
    )


def at_least(least: float) -> Rule:
    return Rule(f"at least {least}", lambda value: value >= least)


def greater_than(bound: float) -> Rule:
    return Rule(f"greater than {bound}", lambda value: value > bound)


def between(least: int, most: int) -> Rule:
    return Rule(f"from {least} to {most}", lambda value: least <= value <= most)


def share() -> Rule:
    return Rule("at least 0 and less than 1", lambda value: 0 <= value < 1)


def one_of(*choices: Any) -> Rule:
    *others, last = map(str, choices)
    text = f"{', '.join(others)} or {last}"
    return Rule(text, lambda value: value in choices, choices)


# For all values of a type. Tensors count with as many bits.
_RULES = {
    int: between(-(2**31), 2**31 - 1),
    float: Rule("finite", math.isfinite),
}


def list_knobs(owner: Any) -> Iterator[tuple[dataclasses.Field, Knob]]:
    """Lists the fields of a dataclass, or of an instance, that are knobs."""
    for field in dataclasses.fields(owner):
        if "knob" in field.metadata:
            yield field, field.metadata["knob"]


def read_knobs(owner: Any) -> dict[str, Any]:
    """Returns the values of an instance's knobs by name."""
    return {
        field.name: getattr(owner, field.name) for field, _ in list_knobs(owner)
    }


def replace_knobs(owner: Any, values: Mapping[str, Any]) -> Any:
    """Returns an instance with other values of its knobs.

    Args:
        owner: the instance.
        values: of all of its knobs, and perhaps of others, by name.

    Raises:
        UserError: If a value breaks the rule of its knob, or is a number that
            is not finite or too large.
    """
    for field, about in list_knobs(owner):
        value = values[field.name]
        if value is None and field.default is None:
            continue
        for rule in (about.rule, _RULES.get(_get_kind(field))):
            if rule and not rule.holds(value):
                raise UserError(
                    f"--{field.name} must be {rule.text}. "
                    f"Received: --{field.name}={value}"
                )
    return dataclasses.replace(
        owner, **{name: values[name] for name in read_knobs(owner)}
    )


def convert_value(field: dataclasses.Field, value: Any) -> Any:
    """Returns a value that was read from a file as the knob's type has it.

    An int stands for a float too, and text for a number that YAML takes for
    text, such as 1e-4.

    Raises:
        UserError: If it is of another type.
    """
    kind = _get_kind(field)
    if value is None and field.default is None:
        return None
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    elif type(value) is kind:
        return value
    raise UserError(
        f"--{field.name} must be of type {kind.__name__}. "
        f"Received: --{field.name}={value!r}"
    )


def _get_kind(field):
    # Without the None of `str | None`.
    return (typing.get_args(field.type) or (field.type,))[0]


def define_flags(owner: type, *, show_defaults: bool) -> list[flags.FlagHolder]:
    """Defines a flag for each knob of a dataclass.

    To be called where a program defines its flags. A flag that is left out
    has the value `None`, whatever the default of its knob.

    Args:
        owner: a dataclass.
        show_defaults: whether `--help` says what the defaults are.

    Returns:
        The flags.
    """
    return [
        _define_flag(field, about, show_defaults)
        for field, about in list_knobs(owner)
    ]


def _define_flag(field, about, show_default):
    parts = [about.help]
    kind = _get_kind(field)
    define = _DEFINE[kind]
    if kind is str and about.rule and about.rule.choices:
        # Says in `--help` what the choices are.
        define = functools.partial(
            flags.DEFINE_enum, enum_values=about.rule.choices
        )
    elif about.rule:
        parts.append(about.rule.text)
    if show_default and field.default is not None:
        parts.append(f"{field.default} by default")
    return define(
        name=field.name,
        default=None,
        help=f"{'; '.join(parts)}.",
        module_name=about.group,
    )
