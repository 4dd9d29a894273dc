"""Draw grids of images with captions, and write them as PNG files.

Images are enlarged by whole factors and never resampled. matplotlib draws only the text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnistcnn import IMAGE_SIZE
from mnistcnn.evaluation import canvas
from mnistcnn.evaluation.canvas import BLUE, DPI, GREY, RED, default_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# lengths are in pixels of the picture, font sizes in points
PAD = 6  # between an image and its caption
MARGIN = 20  # around all images; holds the text to the left of an image
MIN_WIDTH = 600  # of a picture, for its title
CAPTION_SIZE = 7  # of the text below an image
LEGEND_SIZE = 9  # of the line below the title
SIDE_SIZE = 8  # of the text to the left of an image
LIGHT_GREY = "#CCCCCC"


@dataclass
class Tile:
    """An image (28, 28) with values from 0 to 255, its frame and its captions."""

    pixels: np.ndarray
    above: str = ""
    below: str = ""
    left: str = ""  # rotated by 90 degrees
    frame: str = "black"
    frame_width: int = 1  # pixels of the picture
    colour: str = "black"  # of the caption above
    colour_below: str = GREY
    weight: str = "normal"  # of the caption above


@default_settings()
def misclassified(
    path: Path,
    pixels: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    confidence: np.ndarray,
    indices: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Draw a 3 x 3 grid of up to 9 errors.

    Arguments are (K, 28, 28) and (K,); ``indices`` are positions in the test set.
    """
    scale, gap, short = 8, 24, canvas.are_short(class_names)
    width = scale * IMAGE_SIZE + gap
    tiles = []
    for position, index in enumerate(indices):
        true, predicted = (class_names[each[position]] for each in (labels, predictions))
        lines = [_caption(width, "true ", true), _caption(width, "predicted ", predicted)]
        above = (", " if short else "\n").join(lines)
        above += f"\nwith probability {_format_probability(confidence[position])}"
        tiles.append(Tile(pixels[position], above, f"test image {index}"))
    rows = [tiles[first : first + 3] for first in range(0, 9, 3)]
    title = "The most confident errors" if tiles else "No error in the test set"
    canvas.save_png(_draw_mosaic(rows, 3, title, scale, gap, lines=2 if short else 3), path)


@default_settings()
def disagreements(
    path: Path,
    pixels: np.ndarray,
    labels: np.ndarray,
    probabilities: Sequence[np.ndarray],
    indices: np.ndarray,
    names: Sequence[str],
    class_names: Sequence[str],
) -> None:
    """Draw a grid of images (K, 28, 28) for which A and B predict different classes.

    ``probabilities`` are those of A and of B, (K, C) each; ``indices`` are positions in the test
    set (K,); ``names`` are those of A and B. Captions are blue if A is right, red if B is right,
    and otherwise grey.
    """
    columns, scale, gap, points = 4, 10, 12, 8
    width = scale * IMAGE_SIZE + gap
    link = " with probability " if canvas.are_short(class_names) else ", "
    tiles = []
    for position, index in enumerate(indices):
        predicted = [values[position].argmax() for values in probabilities]
        right = predicted.index(labels[position]) if labels[position] in predicted else None
        above = "\n".join(
            _caption(
                width,
                f"{side}: ",
                class_names[label],
                link + _format_probability(values[position, label]),
                points,
            )
            for side, label, values in zip("AB", predicted, probabilities, strict=True)
        )
        true = class_names[labels[position]]
        below = _caption(width, "true ", true, f", test image {index}", CAPTION_SIZE)
        colour = GREY if right is None else (BLUE, RED)[right]
        tiles.append(Tile(pixels[position], above, below, colour=colour, colour_below="black"))
    rows = [tiles[first : first + columns] for first in range(0, max(1, len(tiles)), columns)]
    title = "Test images for which A and B predict different classes"
    title += "" if canvas.are_short(class_names) else ", with probabilities"
    legend = {BLUE: "blue: A is right", RED: "red: B is right", GREY: "grey: neither is right"}
    if not tiles:
        title, legend = "A and B predict the same class for every test image", {}
    title += "".join(f"\n{side}: {name}" for side, name in zip("AB", names, strict=True))
    page = _draw_mosaic(
        rows, columns, title, scale, gap, legend, lines=2, points=points, title_points=10
    )
    canvas.save_png(page, path)


@default_settings()
def neighbours(
    path: Path,
    targets: np.ndarray,
    target_labels: np.ndarray,
    nearest: np.ndarray,
    nearest_labels: np.ndarray,
    distances: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Draw a row per target (T, 28, 28) with its neighbours (T, K, 28, 28), nearest first.

    Neighbours with a different label than the target have a red frame and caption.
    """
    scale, gap, short = 5, 10, canvas.are_short(class_names)
    points, lines = (10, 1) if short else (8, 2)
    width = scale * IMAGE_SIZE + gap
    rows = []
    for target, target_label in enumerate(target_labels):
        name = _caption(width, "", class_names[target_label], points=points, weight="bold")
        above = f"target: {name}" if short else f"target:\n{name}"
        row = [Tile(targets[target], above, weight="bold", frame_width=2)]
        for pixels, label, distance in zip(
            nearest[target], nearest_labels[target], distances[target], strict=True
        ):
            style: dict[str, Any] = {"frame": LIGHT_GREY}
            if label != target_label:
                style = {"frame": RED, "frame_width": 4, "colour": RED, "weight": "bold"}
            name = _caption(width, "", class_names[label], points=points, weight="bold")
            row.append(Tile(pixels, name, f"{distance:.2f}", **style))
        rows.append(row)
    k = nearest_labels.shape[1]
    title = (
        f"Test images and their {k} nearest neighbours in feature space\n"
        "(above: class, below: Euclidean distance)"
    )
    legend = {RED: "red: a neighbour of another class"}
    page = _draw_mosaic(rows, k + 1, title, scale, gap, legend, lines, points)
    canvas.save_png(page, path)


@default_settings()
def augmented(
    path: Path,
    originals: np.ndarray,
    variants: np.ndarray,
    title: str,
    class_names: Sequence[str],
) -> None:
    """Draw a column per image: the original (N, 28, 28), then its variants (V, N, 28, 28).

    V may be 0. ``class_names`` are those of the N images; they are written above unless they are
    as short as digits.
    """
    scale, gap, points = 4, 10, 8
    width = scale * IMAGE_SIZE + gap
    rows = [[Tile(pixels, frame=BLUE, frame_width=3) for pixels in originals]]
    rows[0][0].left = "original"
    if not canvas.are_short(class_names):
        for tile, name in zip(rows[0], class_names, strict=True):
            tile.above = _caption(width, "", name, points=points)
    rows += [[Tile(pixels, frame=LIGHT_GREY) for pixels in variant] for variant in variants]
    page = _draw_mosaic(rows, len(originals), title, scale, gap, points=points)
    canvas.save_png(page, path)


def _caption(
    width: int, before: str, name: str, after: str = "", points: float = 9, weight: str = "normal"
) -> str:
    """Return a line with a name that is shortened so that it fits into ``width`` pixels."""
    free = (width - PAD) / DPI - canvas.text_width(before + after, points, weight)
    return before + canvas.fit_name(name, free, points, weight) + after


def _format_probability(value: float) -> str:
    """Format a probability with three decimals, never rounded up to 1."""
    return f"{value:.3f}" if value < 0.9995 else "> 0.999"


def _draw_mosaic(
    rows: Sequence[Sequence[Tile]],
    columns: int,
    title: str,
    scale: int,
    gap: int,
    legend: Mapping[str, str] | None = None,
    lines: int = 0,
    points: float = 9,
    title_points: float = 12,
) -> np.ndarray:
    """Draw rows of at most ``columns`` tiles, black on white; return pixels (H, W, 3) uint8.

    An image pixel becomes a square of ``scale`` x ``scale`` picture pixels; ``gap`` is the number
    of picture pixels between images. If ``lines`` is not 0, space is reserved for that many lines
    of text of size ``points`` above each image and one line of small text below; otherwise only
    the first row may have captions, of one line above. The title is
    wrapped to the width of the picture. ``legend`` gives the meaning of colours, in one line.
    """
    legend = legend or {}
    size = IMAGE_SIZE * scale
    above = lines * _line_height(points) + PAD if lines else 0
    below = _line_height(CAPTION_SIZE) + PAD if lines else 0
    column_step = size + gap
    row_step = size + max(gap, above + below + PAD)
    width = max(columns * column_step - gap + 2 * MARGIN, MIN_WIDTH)
    title = "\n".join(
        canvas.wrap_text(line, width / DPI, title_points) for line in title.split("\n")
    )
    title_height = _line_height(title_points) * (1 + title.count("\n"))
    top = title_height + MARGIN + (_line_height(LEGEND_SIZE) if legend else 0)
    if not lines and rows[0][0].above:
        top += _line_height(points)
    left = (width - columns * column_step + gap) // 2
    figure = canvas.new_figure(width / DPI, (top + len(rows) * row_step) / DPI)
    _draw_text(figure, width / 2, MARGIN / 2, title, va="top", fontsize=title_points)
    for index, (colour, text) in enumerate(legend.items()):
        x = width * (index + 0.5) / len(legend)
        style = {"color": colour, "fontsize": LEGEND_SIZE, "va": "top"}
        _draw_text(figure, x, MARGIN / 2 + title_height, text, **style)
    positions = [
        (tile, left + column * column_step, top + row * row_step + above)
        for row, tiles in enumerate(rows)
        for column, tile in enumerate(tiles)
    ]
    for tile, x, y in positions:
        _draw_captions(figure, tile, x, y, size, points)
    page = canvas.render_figure(figure)
    for tile, x, y in positions:
        _paste_tile(page, tile, x, y, scale)
    return page


def _line_height(points: float) -> int:
    """Return the distance between two lines of text in pixels."""
    return round(1.25 * points * DPI / 72)


def _draw_captions(figure: "Figure", tile: Tile, x: int, y: int, size: int, points: float) -> None:
    """Draw the captions of a tile with its upper left corner at (x, y)."""
    style = {"fontsize": points, "color": tile.colour, "weight": tile.weight}
    _draw_text(figure, x + size / 2, y - PAD, tile.above, va="bottom", **style)
    style = {"fontsize": CAPTION_SIZE, "color": tile.colour_below}
    _draw_text(figure, x + size / 2, y + size + PAD, tile.below, va="top", **style)
    style = {"fontsize": SIDE_SIZE, "color": tile.frame, "rotation": 90}
    _draw_text(figure, x - MARGIN / 2, y + size / 2, tile.left, va="center", **style)


def _draw_text(figure: "Figure", x: float, y: float, text: str, **style: Any) -> None:
    """Draw text centred at ``x``, in pixels from the left and top edges of the picture."""
    from matplotlib.transforms import IdentityTransform

    if text:
        height = figure.get_figheight() * DPI
        figure.text(x, height - y, text, ha="center", transform=IdentityTransform(), **style)


def _paste_tile(page: np.ndarray, tile: Tile, x: int, y: int, scale: int) -> None:
    """Copy the frame and the inverted, enlarged image of a tile into ``page`` at (x, y)."""
    shades = 255 - np.rint(tile.pixels).astype(np.uint8)
    image = shades.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = image.shape
    frame = tile.frame_width
    page[y - frame : y + height + frame, x - frame : x + width + frame] = canvas.rgb(tile.frame)
    page[y : y + height, x : x + width] = image[..., None]
