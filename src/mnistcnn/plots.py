"""Arrays to pictures; the only room that knows matplotlib.

Every function writes one PNG file. Colours are told apart by colour-blind readers: Paul Tol's
"muted" and "bright" schemes (personal.sron.nl/~pault). Where the room for text is known, places are
given, not searched for: a constrained layout takes longer than the drawing. matplotlib takes half a
second to import: a function that draws imports it, and who draws nothing does not wait.
"""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mnistcnn import DIGITS, SIDE
from mnistcnn.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED, GREY = "#4477AA", "#EE6677", "#777777"
DIGIT_COLOURS = [
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933",
    "#DDCC77", "#CC6677", "#882255", "#AA4499", "#888888",
]  # fmt: skip
DPI = 130
PAD = 6  # pixels of a picture between an image and a text
MARGIN = 20  # around all images; the text beside one has room in it
SMALL = 7  # points of the text below an image


def _figure(width: float, height: float, **how) -> "Figure":
    """An empty one, of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **how)


def _drawn(figure: "Figure") -> np.ndarray:
    """The pixels (H, W, 3) uint8 of a figure at DPI dots per inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _save(page: np.ndarray, path: Path) -> None:
    """Pixels (H, W, 3) uint8 to a PNG file: the same pixels give the same bytes."""
    content = io.BytesIO()
    # level 9 takes five times as long and saves a twentieth; 1 saves a quarter, and adds as much
    Image.fromarray(page).save(content, "png", compress_level=4, dpi=(DPI, DPI))
    write_bytes(path, content.getbuffer())


@dataclass
class _Tile:
    """An image (28, 28) of 0 to 255, its frame, and what is written around it."""

    pixels: np.ndarray
    above: str = ""
    below: str = ""
    left: str = ""  # read upwards
    frame: str = "black"
    frame_width: int = 1  # pixels of the picture
    colour: str = "black"  # of what is above
    colour_below: str = GREY
    weight: str = "normal"


def _mosaic(
    rows: Sequence[Sequence[_Tile]],
    columns: int,
    title: str,
    scale: int,
    gap: int,
    lines: int = 0,
    points: float = 9,
    title_points: float = 12,
) -> np.ndarray:
    """A picture (H, W, 3) uint8 of rows of at most ``columns`` tiles, black on white.

    A pixel of an image becomes a square of ``scale`` pixels of the picture; ``gap`` is the number
    of these between images. Above each is room for ``lines`` of text of that many ``points``, and
    if for any, then for a small one below. The title's lines are wrapped to the picture's width.
    """
    size = SIDE * scale
    above = lines * _line_height(points) + PAD if lines else 0
    below = _line_height(SMALL) + PAD if lines else 0
    across, down = size + gap, size + max(gap, above + below + PAD)
    width = max(columns * across - gap + 2 * MARGIN, 600)  # at the least, a title's
    characters = int(width / (0.64 * title_points * DPI / 72))
    title = "\n".join(_wrapped(line, characters) for line in title.split("\n"))
    top = _line_height(title_points) * (1 + title.count("\n")) + MARGIN
    left = (width - columns * across + gap) // 2
    figure = _figure(width / DPI, (top + len(rows) * down) / DPI)
    _write(figure, width / 2, MARGIN / 2, title, va="top", fontsize=title_points)
    places = [
        (tile, left + column * across, top + row * down + above)
        for row, tiles in enumerate(rows)
        for column, tile in enumerate(tiles)
    ]
    for tile, x, y in places:
        style = {"fontsize": points, "color": tile.colour, "weight": tile.weight}
        _write(figure, x + size / 2, y - PAD, tile.above, va="bottom", **style)
        style = {"fontsize": SMALL, "color": tile.colour_below}
        _write(figure, x + size / 2, y + size + PAD, tile.below, va="top", **style)
        style = {"fontsize": 8, "color": tile.frame, "rotation": 90}
        _write(figure, x - MARGIN / 2, y + size / 2, tile.left, va="center", **style)
    page = _drawn(figure)
    for tile, x, y in places:
        _inlay(page, tile, x, y, scale)
    return page


def _line_height(points: float) -> int:
    """Pixels of the picture from one line of text to the next."""
    return round(1.25 * points * DPI / 72)


def _write(figure: "Figure", x: float, y: float, text: str, **style) -> None:
    """Write at a place that is given in pixels of the picture, from its left and its top edge."""
    from matplotlib.transforms import IdentityTransform

    if text:
        height = figure.get_figheight() * DPI
        figure.text(x, height - y, text, ha="center", transform=IdentityTransform(), **style)


def _inlay(page: np.ndarray, tile: _Tile, x: int, y: int, scale: int) -> None:
    """Put an image into the picture, pixel by pixel: nothing is resampled."""
    shades = 255 - np.rint(tile.pixels).astype(np.uint8)
    image = shades.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = image.shape
    frame = tile.frame_width
    page[y - frame : y + height + frame, x - frame : x + width + frame] = _rgb(tile.frame)
    page[y : y + height, x : x + width] = image[..., None]


def _rgb(colour: str) -> np.ndarray:
    from matplotlib.colors import to_rgb

    return np.rint(255 * np.array(to_rgb(colour))).astype(np.uint8)


def curves(path: Path, history: list[dict], best_epoch: int) -> None:
    """Loss and accuracy against the epoch, from the rows of ``history.jsonl``."""
    figure = _figure(10, 4.3)
    # room for the widest numbers: -400000 of a loss, 99.1525% of an accuracy
    loss, accuracy = (figure.add_axes((left, 0.185, 0.4, 0.745)) for left in (0.085, 0.58))
    epochs = [row["epoch"] for row in history]

    def line(axes, key: str, colour: str, label: str, style: str = "-") -> None:
        values = np.array([row[key] for row in history])
        axes.plot(epochs, values, style, color=colour, marker="o", markersize=3, label=label)

    running = "training, as it trains (dropout, augmentation)"
    line(loss, "train_loss_running", RED, running, "--")
    line(loss, "train_loss", RED, "training")
    line(loss, "val_loss", BLUE, "validation")
    line(accuracy, "train_accuracy_running", RED, running, "--")
    line(accuracy, "train_accuracy", RED, "training")
    line(accuracy, "val_accuracy", BLUE, "validation")
    loss.set_title("loss (nats)", fontsize=10)
    highest, lowest = (
        pick([pick(line.get_ydata()) for line in loss.lines]) for pick in (np.max, np.min)
    )
    loss.set_ylim(min(0, 1.05 * lowest), 1.05 * highest)  # below zero with loss=nll_of_logits
    accuracy.set_title("accuracy", fontsize=10)
    accuracy.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    for axes in (loss, accuracy):
        axes.axvline(best_epoch, color=GREY, linewidth=1, linestyle=":", label="best epoch")
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.set_xlim(0.5, epochs[-1] + 0.5)
        axes.grid(alpha=0.3)
    figure.legend(*loss.get_legend_handles_labels(), loc="lower center", ncols=4, frameon=False)
    _save(_drawn(figure), path)


def overlaid_curves(path: Path, errors: dict[str, list[np.ndarray]]) -> None:
    """Error against the epoch, by label: a thin line per run (epochs,), a thick one of their mean.

    The mean ends with the shortest run.
    """
    figure = _figure(9, 5, layout="constrained")
    axes = figure.subplots()
    for index, (label, runs) in enumerate(errors.items()):
        colour, style = _line(index)
        if len(runs) > 1:
            for run in runs:
                axes.plot(1 + np.arange(len(run)), run, color=colour, linewidth=0.6, alpha=0.5)
        shortest = min(map(len, runs))
        mean = np.mean([run[:shortest] for run in runs], axis=0)
        axes.plot(1 + np.arange(shortest), mean, style, color=colour, linewidth=2, marker="o",
                  markersize=4, label=_wrapped(label))  # fmt: skip
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation error")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    _error_axis(axes.yaxis)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    _save(_drawn(figure), path)


def error_by_samples(path: Path, series: dict[str, np.ndarray]) -> None:
    """Training and test error against the number of training images, log-log, by label.

    A row of an array (K, 7) holds that number and, of the training and of the test error, the
    value and the ends of the bar through it.
    """
    figure = _figure(8, 5, layout="constrained")
    axes = figure.subplots()
    for index, (label, rows) in enumerate(series.items()):
        for part, style, column in (("training", "--", 1), ("test", "-", 4)):
            value, *ends = rows[:, column : column + 3].T
            axes.errorbar(
                rows[:, 0], value, np.abs(ends - value), color=_line(index)[0], linestyle=style,
                marker="o", markersize=4, capsize=3, label=_wrapped(f"{label} {part}".strip()),
            )  # fmt: skip
    axes.set_xscale("log")
    counts = sorted({int(row[0]) for rows in series.values() for row in rows})
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("training images")
    axes.set_ylabel("error")
    _error_axis(axes.yaxis)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    _save(_drawn(figure), path)


def _wrapped(label: str, width: int = 40) -> str:
    """A label that leaves room for what it labels."""
    return "\n".join(textwrap.wrap(label, width, max_lines=4, placeholder=" ..."))


def _line(index: int) -> tuple[str, str]:
    """A colour and a style that tell the line ``index`` from the others."""
    styles = ["-", "--", ":"]
    return DIGIT_COLOURS[index % DIGITS], styles[index // DIGITS % len(styles)]


def _error_axis(axis) -> None:
    """In percent; logarithmic where errors are far apart, with zero drawn at the lower edge."""
    axes = axis.axes
    drawn = np.concatenate([line.get_ydata() for line in axes.lines])
    drawn = drawn[drawn > 0] if (drawn > 0).any() else np.array([1e-3])
    axes.set_ylim(drawn.min() / 1.2, drawn.max() * 1.2)  # before the scale, which would choose one
    if drawn.max() < 4 * drawn.min():  # few of the ticks below would be in sight
        axis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    else:
        axes.set_yscale("log", nonpositive="clip")
        for formatter in (axis.set_major_formatter, axis.set_minor_formatter):
            formatter(lambda value, _: f"{100 * value:g}%" if f"{value:e}"[0] in "125" else "")
    axes.grid(alpha=0.3, which="both")


def confusion(path: Path, counts: np.ndarray) -> None:
    """Counts (10, 10), true digits in rows. Colour shows the errors; the diagonal has none."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    figure = _figure(7, 6)
    axes = figure.add_axes((0.1, 0.08, 0.75, 0.875))
    diagonal = np.eye(DIGITS, dtype=bool)
    most = max(1, int(counts[~diagonal].max()))
    reds = ScalarMappable(Normalize(0, most), "Reds")
    colours = reds.to_rgba(counts, bytes=True)
    colours[diagonal, :3] = _rgb("#DDEEDD")
    axes.imshow(colours)
    for true in range(DIGITS):
        for predicted in range(DIGITS):
            count = counts[true, predicted]
            dark = true != predicted and count > 0.6 * most
            axes.text(
                predicted, true, str(count), ha="center", va="center", fontsize=9,
                color="white" if dark else "black" if count else "#BBBBBB",
                weight="bold" if true == predicted else "normal",
            )  # fmt: skip
    axes.set_xticks(range(DIGITS))
    axes.set_yticks(range(DIGITS))
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    correct, total = int(np.trace(counts)), int(counts.sum())
    axes.set_title(f"{correct:,} of {total:,} right, {total - correct:,} wrong")
    scale = figure.add_axes((0.88, 0.1675, 0.03, 0.7))
    scale.set_title("errors", fontsize=10)
    figure.colorbar(reds, scale, ticks=MaxNLocator(integer=True))
    _save(_drawn(figure), path)


def misclassified(
    path: Path,
    pixels: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    confidence: np.ndarray,
    indices: np.ndarray,
) -> None:
    """A 3 x 3 grid of errors; ``indices`` are their numbers in the test set. Fewer leave gaps."""
    tiles = [
        _Tile(
            pixels[place],
            f"true {labels[place]}, predicted {predictions[place]}\n"
            f"with probability {_probability(confidence[place])}",
            f"test image {indices[place]}",
        )
        for place in range(len(indices))
    ]
    rows = [tiles[first : first + 3] for first in range(0, 9, 3)]
    title = "The most confident errors" if tiles else "No error in the test set"
    _save(_mosaic(rows, 3, title, scale=8, gap=24, lines=2), path)


def _probability(value: float) -> str:
    """Never rounded up to 1."""
    return f"{value:.3f}" if value < 0.9995 else "> 0.999"


def disagreements(
    path: Path,
    pixels: np.ndarray,
    labels: np.ndarray,
    probabilities: Sequence[np.ndarray],
    indices: np.ndarray,
    names: Sequence[str],
) -> None:
    """A grid of images (K, 28, 28) that A and B take for different digits.

    ``probabilities`` are A's and B's, (K, 10) each; ``indices`` the numbers in the test set.
    """
    tiles = []
    for place, index in enumerate(indices):
        answers = [mean[place].argmax() for mean in probabilities]
        right = answers.index(labels[place]) if labels[place] in answers else None
        above = "\n".join(
            f"{side}: {digit} with probability {_probability(mean[place, digit])}"
            for side, digit, mean in zip("AB", answers, probabilities, strict=True)
        )
        below = f"true {labels[place]}, test image {index}"
        colour = GREY if right is None else (BLUE, RED)[right]
        tiles.append(_Tile(pixels[place], above, below, colour=colour, colour_below="black"))
    columns = 4
    rows = [tiles[first : first + columns] for first in range(0, max(1, len(tiles)), columns)]
    title = "\n".join(f"{side}: {name}" for side, name in zip("AB", names, strict=True))
    if not tiles:
        title += "\nthe same digit for every image of the test set"
    _save(_mosaic(rows, columns, title, 10, gap=12, lines=2, points=8, title_points=10), path)


def tsne(path: Path, coordinates: np.ndarray, labels: np.ndarray, title: str) -> None:
    """A scatter of coordinates (N, 2), coloured by digit and labelled at the clusters."""
    figure = _figure(7, 7)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.95))
    for digit in range(DIGITS):
        points = coordinates[labels == digit]
        if not len(points):
            continue
        size = 6 if len(coordinates) <= 4000 else 2
        axes.scatter(*points.T, s=size, color=DIGIT_COLOURS[digit], linewidths=0)
    for digit in range(DIGITS):  # after all points, so that none hides a label
        points = coordinates[labels == digit]
        if len(points):
            axes.text(
                *_densest(points), str(digit), fontsize=17, weight="bold", ha="center",
                va="center", color=DIGIT_COLOURS[digit],
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.85,
                      "edgecolor": DIGIT_COLOURS[digit]},
            )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")  # distances mean the same both ways
    axes.set_title(title)
    _save(_drawn(figure), path)


def _densest(points: np.ndarray) -> np.ndarray:
    """The point with the most others around it: a label there lies in a cluster, not between two.

    "Around" is within the first quartile of all distances.
    """
    sample = points[:: max(1, len(points) // 500)]
    distances = np.linalg.norm(sample[:, None] - sample[None], axis=2)
    return sample[(distances <= np.quantile(distances, 0.25)).sum(axis=1).argmax()]


def neighbours(
    path: Path,
    targets: np.ndarray,
    target_labels: np.ndarray,
    nearest: np.ndarray,
    nearest_labels: np.ndarray,
    distances: np.ndarray,
) -> None:
    """A row per target: the image (T, 28, 28), then its neighbours (T, K, 28, 28), nearest first.

    Neighbours whose label is not the target's are framed and named in red.
    """
    rows = []
    for target in range(len(targets)):
        name = target_labels[target]
        row = [_Tile(targets[target], f"target: {name}", weight="bold", frame_width=2)]
        for pixels, label, distance in zip(
            nearest[target], nearest_labels[target], distances[target], strict=True
        ):
            style = {"frame": "#CCCCCC"}
            if label != name:
                style = {"frame": RED, "frame_width": 4, "colour": RED, "weight": "bold"}
            row.append(_Tile(pixels, str(label), f"{distance:.2f}", **style))
        rows.append(row)
    k = nearest_labels.shape[1]
    title = f"Test images and their {k} nearest by features\n(Euclidean distance)"
    _save(_mosaic(rows, k + 1, title, scale=5, gap=10, lines=1, points=10), path)


def augmented(path: Path, originals: np.ndarray, variants: np.ndarray, title: str) -> None:
    """A column per image: the original (N, 28, 28) uint8, then its variants (V, N, 28, 28)."""
    rows = [[_Tile(pixels, frame=BLUE, frame_width=3) for pixels in originals]]
    rows[0][0].left = "original"
    rows += [[_Tile(pixels, frame="#CCCCCC") for pixels in draw] for draw in variants]
    _save(_mosaic(rows, len(originals), title, scale=4, gap=10), path)
