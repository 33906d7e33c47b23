"""Whether what overrides an experiment is of the right types."""

import collections.abc
import dataclasses
import math
import types
import typing

from official.modeling import hyperparams


def check_overrides(
    config: hyperparams.Config, before: hyperparams.Config, prefix: str = ""
) -> None:
    """Checks overridden values, which tf-models-official takes as they are.

    A value must be of the type that its field declares, or of that which it
    replaces; numbers must be finite, and none negative where one above zero
    stood; `type` of a choice must be one of its names.

    Args:
        config: an experiment, or a part of it.
        before: the same before it was overridden.
        prefix: path of the part, with a period at its end.

    Raises:
        ValueError: If a value is not; with its path.
    """
    declared = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        path = f"{prefix}{field.name}"
        value = getattr(config, field.name)
        old = getattr(before, field.name, None)
        hint = declared[field.name]
        if isinstance(value, hyperparams.Config) and _fits(value, hint):
            # What was None before has its defaults to be compared with.
            same = isinstance(old, type(value))
            check_overrides(value, old if same else type(value)(), f"{path}.")
        elif value != old or type(value) is not type(old):
            _check_value(path, value, old, hint)
    if isinstance(config, hyperparams.OneOfConfig):
        names = [f.name for f in dataclasses.fields(config) if f.name != "type"]
        if config.type is not None and config.type not in names:
            raise ValueError(
                f"{prefix}type must be one of {', '.join(names)}, not "
                f"{config.type!r}"
            )


def _check_value(path, value, old, hint):
    is_of_type = _fits(value, hint) or (
        old is not None and type(value) is type(old)
    )
    if not is_of_type:
        raise ValueError(f"{path} must be {_describe(hint)}, not {value!r}")
    numbers = value if isinstance(value, (list, tuple)) else [value]
    for number in numbers:
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"{path} must be finite, not {value!r}")
    if _is_number(old) and old > 0 and _is_number(value) and value < 0:
        raise ValueError(f"{path} must be at least 0, not {value!r}")


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _fits(value, hint):
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in arguments)
    if origin is not None and issubclass(origin, collections.abc.Sequence):
        return isinstance(value, (list, tuple)) and all(
            _fits(item, arguments[0]) for item in value
        )
    if hint is float:
        return _is_number(value)
    if hint is int:
        return _is_number(value) and isinstance(value, int)
    return hint is typing.Any or isinstance(value, origin or hint)


def _describe(hint):
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(map(_describe, arguments))
    if arguments:
        return f"a list of {arguments[0].__name__}"
    if hint is type(None):
        return "null"
    if issubclass(hint, hyperparams.Config):
        return "keys with values"
    return f"of type {hint.__name__}"
