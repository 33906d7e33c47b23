"""What tests of data sets share."""

import pytest

from trainers.data import decoding


@pytest.fixture
def limit_pixels(monkeypatch):
    """Gives images another limit than `MAX_PIXELS`."""

    def limit(number):
        monkeypatch.setattr(decoding, "MAX_PIXELS", number)
        # The graphs that are there have the limit of before.
        decoding._make_decoder.cache_clear()

    yield limit
    decoding._make_decoder.cache_clear()
