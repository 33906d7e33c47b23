import numpy as np
import pytest

from export import preprocessing
from trainers.data import preprocessing as trainers_preprocessing


@pytest.mark.parametrize("crop_fraction", [1.0, 0.875, 0.5])
@pytest.mark.parametrize(
    "shape",
    [(16, 16, 1), (29, 40, 3), (51, 20, 3), (1, 5, 1)],
    ids=["square", "wide", "tall", "thin"],
)
def test_images_are_prepared_as_evaluation_does(shape, crop_fraction):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    # Of 255; sums of other order.
    np.testing.assert_allclose(
        preprocessing.prepare_image(image, 16, crop_fraction),
        trainers_preprocessing.prepare_image(image, 16, crop_fraction),
        rtol=0,
        atol=1e-3,
    )
