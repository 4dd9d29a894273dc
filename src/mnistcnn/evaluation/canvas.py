"""Create figures with matplotlib's default settings, render them, and write PNG files.

Pictures depend neither on the user's settings of matplotlib nor on its backends.
"""

import contextlib
import io
import textwrap
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
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

    A function that draws uses it as a decorator. Dollar signs are not parsed as formulas, and
    characters that the font does not have are drawn as boxes.
    """
    from mnistcnn.evaluation.matplotlib_import import matplotlib

    own, default = matplotlib.rcParams, matplotlib.rcParamsDefault
    # reading the backend would load pyplot, and no function here uses it
    changes: dict[Any, Any] = {
        key: default[key] for key in default if key != "backend" and own[key] != default[key]
    }
    with matplotlib.rc_context(changes | {"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
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


def text_width(text: str, points: float, weight: str = "normal") -> float:
    """Return the width of a line of text in inches. Call it in default_settings."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    font = FontProperties(size=points, weight=weight)
    return RendererAgg(1, 1, DPI).get_text_width_height_descent(text, font, False)[0] / DPI


def are_short(names: Sequence[str]) -> bool:
    """Return whether all names are as short as those of digits."""
    return max(map(len, names)) <= 2


def fit_name(name: str, width: float, points: float, weight: str = "normal") -> str:
    """Return a name for display in one line, shortened to ``width`` inches.

    An empty name becomes a pair of quotes, and characters that cannot be printed are replaced.
    Call it in default_settings.
    """
    name = " ".join(name.split()) or '""'
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    # the narrowest letters are wider than 0.25
    limit = min(len(name), max(1, int(72 * width / (0.25 * points))))
    if limit == len(name) and text_width(name, points, weight) <= width:
        return name

    def shorten(length: int) -> str:
        return name[:length].rstrip() + "…"

    lengths = range(1, limit + 1)
    return shorten(
        bisect_right(lengths, width, key=lambda n: text_width(shorten(n), points, weight))
    )


def wrap_text(text: str, width: float, points: float) -> str:
    """Wrap text of size ``points`` to lines that fit into ``width`` inches."""
    characters = int(72 * width / (0.64 * points))  # the mean width of a character is below 0.64
    return "\n".join(textwrap.wrap(text, characters))
