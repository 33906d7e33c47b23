"""Names that the examples in the docstrings use."""

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _names_in_docstrings(doctest_namespace):
    import lambda_keras

    doctest_namespace["np"] = np
    doctest_namespace["lambda_keras"] = lambda_keras
