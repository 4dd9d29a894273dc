"""Create figures with matplotlib's default settings, render them, and write PNG files.

Pictures depend neither on the user's settings of matplotlib nor on its backends.
"""

import contextlib
import io
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mnistcnn.system.atomic_files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED, GREY = "#4477AA", "#EE6677", "#777777"
DPI = 130


@contextlib.contextmanager
def default_settings() -> Iterator[None]:
    """Inside the context, draw with matplotlib's default settings whatever the user has set.

    A function that draws uses it as a decorator. Dollar signs are not parsed as formulas.
    """
    from mnistcnn.evaluation.matplotlib_import import matplotlib

    own, default = matplotlib.rcParams, matplotlib.rcParamsDefault
    # reading the backend would load pyplot, and no function here uses it
    changes: dict[Any, Any] = {
        key: default[key] for key in default if key != "backend" and own[key] != default[key]
    }
    with matplotlib.rc_context(changes | {"text.parse_math": False}):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of ``width`` x ``height`` inches. Call it in default_settings."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI)


def render_figure(figure: "Figure") -> np.ndarray:
    """Render a figure to pixels (H, W, 3) uint8. Call it in default_settings."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(page: np.ndarray, path: Path) -> None:
    """Write pixels (H, W, 3) uint8 to a PNG file; equal pixels give equal bytes."""
    content = io.BytesIO()
    # level 9 takes five times as long as level 4 and saves a twentieth of the size
    Image.fromarray(page).save(content, "png", compress_level=4, dpi=(DPI, DPI))
    write_bytes(path, content.getbuffer())


def rgb(colour: str) -> np.ndarray:
    """Convert a matplotlib colour to (3,) uint8."""
    from matplotlib.colors import to_rgb

    return np.rint(255 * np.array(to_rgb(colour))).astype(np.uint8)


def wrap_text(text: str, width: float, points: float) -> str:
    """Wrap text of size ``points`` to lines that fit into ``width`` inches."""
    characters = int(72 * width / (0.64 * points))  # the mean width of a character is below 0.64
    return "\n".join(textwrap.wrap(text, characters))
