"""Pictures to JPEG."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["encode_jpeg"]


def encode_jpeg(image: npt.NDArray[np.uint8], *, quality: int) -> bytes:
    """Encode ``[h, w, 3]`` uint8 BGR.

    Args:
        image: The picture.
        quality: 1 to 100.

    Raises:
        ValueError: OpenCV cannot encode it: no pixels, or more than 65535 on a side.
    """
    try:
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error as error:
        msg = f"a picture of shape {image.shape} cannot become a JPEG: {error.err}"
        raise ValueError(msg) from error
    if not done:
        msg = f"a picture of shape {image.shape} cannot become a JPEG"
        raise ValueError(msg)
    return data.tobytes()
