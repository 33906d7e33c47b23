"""What happens to an image before a network sees it in evaluation."""

import numpy as np

from trainers.data.preprocessing import prepare_image


def test_prepare_image_takes_the_central_square():
    image = np.arange(8 * 10).reshape(8, 10, 1)
    square = prepare_image(image, image_size=4, crop_fraction=0.5)
    np.testing.assert_allclose(square, image[2:6, 3:7])
