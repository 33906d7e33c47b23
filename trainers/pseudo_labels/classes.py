"""Whether a teacher knows the classes that are to be trained."""

import itertools
from collections.abc import Sequence

from trainers.program import UserError


def check_classes(
    class_names: Sequence[str], teacher_names: Sequence[str], teacher: str
) -> None:
    """Checks that a teacher has the classes of a data set, in their order.

    Args:
        class_names: of the data set.
        teacher_names: of the teacher.
        teacher: what the teacher's names are from, for people.

    Raises:
        UserError: If it has not; names the first class that is another.
    """
    pairs = itertools.zip_longest(class_names, teacher_names)
    for number, (own, theirs) in enumerate(pairs):
        if own != theirs:
            raise UserError(
                "The classes of a teacher must be those of --dataset, in the "
                f"same order. Received: class {number} is {_quote(theirs)} in "
                f"{teacher}, and {_quote(own)} in the data set"
            )


def _quote(name):
    return "not there" if name is None else repr(name)
