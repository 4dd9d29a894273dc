"""Pack images into one PNG file that a page contains."""

import base64
import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

COLUMNS = 64


class Sprite(NamedTuple):
    """Images in one picture, ``columns`` in a row; ``url`` is a data URL of the PNG file.

    ``height`` and ``width`` are those of an image in pixels.
    """

    url: str
    columns: int
    rows: int
    height: int
    width: int

    @property
    def layout(self) -> dict[str, Any]:
        """The values that the page's script needs to find an image."""
        return {name: getattr(self, name) for name in ("columns", "rows", "height", "width")}


def pack_images(pixels: np.ndarray, columns: int = COLUMNS) -> Sprite:
    """Pack images (N, H, W) or (N, H, W, 3) uint8, N >= 1, row by row."""
    count, height, width = pixels.shape[:3]
    columns = min(columns, count)
    rows = -(-count // columns)
    tiles = np.zeros((rows * columns, *pixels.shape[1:]), dtype=np.uint8)
    tiles[:count] = pixels
    tiles = tiles.reshape(rows, columns, *pixels.shape[1:]).swapaxes(1, 2)
    picture = tiles.reshape(rows * height, columns * width, *pixels.shape[3:])
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "png", compress_level=6)
    url = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    return Sprite(url, columns, rows, height, width)
