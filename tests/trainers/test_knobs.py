"""Fields of a dataclass as flags, and the rules of their values."""

import dataclasses
import functools
import math

import pytest
from absl import flags

from trainers import knobs
from trainers.knobs import knob
from trainers.program import UserError

_kitchen = functools.partial(knob, group="kitchen")


@dataclasses.dataclass(frozen=True)
class Tea:
    """A dataclass with a knob of each kind."""

    cups: int = _kitchen(2, "How many, cups", knobs.at_least(1))
    sugar: float = _kitchen(0.5, "Sugar, spoons", knobs.greater_than(0))
    strength: float = _kitchen(0.25, "Share of leaves", knobs.share())
    degrees: int = _kitchen(93, "How hot", knobs.between(80, 100))
    strainer: int = _kitchen(3, "Width of the mesh", knobs.one_of(1, 3, 7))
    leaves: str = knob(
        "green", "Kind", knobs.one_of("green", "black"), group="shop"
    )
    shop: str | None = knob(
        None,
        "Where it is from",
        knobs.Rule("letters", str.isalpha),
        group="shop",
    )
    most: float | None = knob(
        None, "Largest price", knobs.greater_than(0), group="shop"
    )
    milk: bool = _kitchen(False, "Whether with milk")
    # No knob.
    brew: object = len


@pytest.fixture
def define():
    """Defines the flags of `Tea` for the time of a test."""

    def define(**arguments):
        found.extend(knobs.define_flags(Tea, **arguments))
        return {flag.name: flags.FLAGS[flag.name] for flag in found}

    found = []
    yield define
    for flag in found:
        delattr(flags.FLAGS, flag.name)


def test_flags_are_those_of_the_knobs(define):
    defined = define(show_defaults=False)
    assert list(defined) == [
        "cups",
        "sugar",
        "strength",
        "degrees",
        "strainer",
        "leaves",
        "shop",
        "most",
        "milk",
    ]
    assert all(flag.default is None for flag in defined.values())


def test_flags_have_the_types_of_their_fields(define):
    defined = define(show_defaults=False)
    texts = {
        "cups": "5",
        "sugar": "1.5",
        "leaves": "black",
        "shop": "5",
        "most": "5",
        "milk": "true",
    }
    for name, text in texts.items():
        defined[name].parse(text)
    values = {name: defined[name].value for name in texts}
    assert values == {
        "cups": 5,
        "sugar": 1.5,
        "leaves": "black",
        "shop": "5",
        "most": 5.0,
        "milk": True,
    }
    assert isinstance(values["most"], float)
    for name, text in (("cups", "1.5"), ("leaves", "red"), ("milk", "5")):
        with pytest.raises(flags.IllegalFlagValueError):
            defined[name].parse(text)


def test_help_has_the_rule(define):
    defined = define(show_defaults=False)
    assert defined["cups"].help == "How many, cups; at least 1."
    assert defined["sugar"].help == "Sugar, spoons; greater than 0."
    assert defined["degrees"].help == "How hot; from 80 to 100."
    assert defined["strainer"].help == "Width of the mesh; 1, 3 or 7."
    # absl writes the choices before the help.
    assert defined["leaves"].help == "<green|black>: Kind."
    assert defined["shop"].help == "Where it is from; letters."


def test_help_has_the_default_if_there_is_but_one(define):
    defined = define(show_defaults=True)
    assert defined["cups"].help == "How many, cups; at least 1; 2 by default."
    assert defined["leaves"].help == "<green|black>: Kind; green by default."
    assert defined["milk"].help == "Whether with milk; False by default."
    assert defined["shop"].help == "Where it is from; letters."


def test_help_stands_under_the_headings_of_the_groups(define):
    define(show_defaults=False)
    kitchen = flags.FLAGS.module_help("kitchen")
    shop = flags.FLAGS.module_help("shop")
    assert kitchen.startswith("\nkitchen:\n")
    for name in ("cups", "sugar", "strength", "degrees", "strainer"):
        assert f"  --{name}: " in kitchen
        assert f"  --{name}: " not in shop
    for name in ("leaves", "shop", "most"):
        assert f"  --{name}: " in shop
        assert f"  --{name}: " not in kitchen


def test_other_values_take_the_place_of_all_knobs():
    tea = Tea(brew=max)
    values = {**knobs.read_knobs(Tea()), "cups": 5, "most": 1.5, "other": 7}
    changed = knobs.replace_knobs(tea, values)
    assert changed == dataclasses.replace(tea, cups=5, most=1.5)
    assert changed.brew is max
    assert knobs.read_knobs(changed) == {
        "cups": 5,
        "sugar": 0.5,
        "strength": 0.25,
        "degrees": 93,
        "strainer": 3,
        "leaves": "green",
        "shop": None,
        "most": 1.5,
        "milk": False,
    }


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("sugar", math.inf, "finite"),
        ("most", math.inf, "finite"),
        ("cups", 2**31, "from -2147483648 to 2147483647"),
    ],
)
def test_numbers_are_finite_whatever_their_rule_says(name, value, rule):
    values = {**knobs.read_knobs(Tea()), name: value}
    with pytest.raises(UserError) as error:
        knobs.replace_knobs(Tea(), values)
    assert str(error.value) == (
        f"--{name} must be {rule}. Received: --{name}={value}"
    )


@pytest.mark.parametrize(
    ("name", "right", "wrong", "rule"),
    [
        ("cups", [1, 2], [0, -1, float("nan")], "at least 1"),
        ("sugar", [1e-9, 5], [0, -0.5, float("nan")], "greater than 0"),
        ("strength", [0, 0.99], [1, -0.01], "at least 0 and less than 1"),
        ("degrees", [80, 100], [79, 101], "from 80 to 100"),
        ("strainer", [1, 3, 7], [0, 2, 5], "1, 3 or 7"),
        ("leaves", ["green", "black"], ["red", None], "green or black"),
        ("shop", [None, "Ming"], ["", "7"], "letters"),
        ("most", [None, 0.5], [0.0], "greater than 0"),
    ],
)
def test_values_keep_the_rule_of_their_knob(name, right, wrong, rule):
    values = knobs.read_knobs(Tea())
    for value in right:
        tea = knobs.replace_knobs(Tea(), {**values, name: value})
        assert getattr(tea, name) == value
    for value in wrong:
        with pytest.raises(UserError) as error:
            knobs.replace_knobs(Tea(), {**values, name: value})
        assert str(error.value) == (
            f"--{name} must be {rule}. Received: --{name}={value}"
        )
