"""Draw line charts, confusion matrices and t-SNE plots, and write them as PNG files.

Colours suit colour-blind readers: Paul Tol's "muted" and "bright" schemes
(personal.sron.nl/~pault). Axes are placed explicitly if the size of the text is known, because a
constrained layout takes longer than the drawing itself. matplotlib takes half a second to import,
so only functions that draw import it.
"""

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mnistcnn import NUM_CLASSES
from mnistcnn.system.atomic_files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GREY = "#4477AA", "#EE6677", "#777777"
DIGIT_COLOURS = [
    "#332288",
    "#88CCEE",
    "#44AA99",
    "#117733",
    "#999933",
    "#DDCC77",
    "#CC6677",
    "#882255",
    "#AA4499",
    "#888888",
]
LINE_STYLES = ["-", "--", ":"]
RUNNING_LABEL = "training (running, with dropout and augmentation)"
DPI = 130


def new_figure(width: float, height: float, **options: Any) -> "Figure":
    """Return an empty figure of ``width`` x ``height`` inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **options)


def render_figure(figure: "Figure") -> np.ndarray:
    """Render a figure at DPI dots per inch to pixels (H, W, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(DPI)
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


def wrap_text(text: str, width: int = 40) -> str:
    """Wrap text to lines of at most ``width`` characters and truncate it to four lines."""
    return "\n".join(textwrap.wrap(text, width, max_lines=4, placeholder=" ..."))


def curves(path: Path, history: list[dict[str, float]], best_epoch: int) -> None:
    """Plot loss and accuracy over epochs from the rows of ``history.jsonl``."""
    figure = new_figure(10, 4.3)
    # margins fit the widest tick labels: -400000 for a loss, 99.1525% for an accuracy
    loss, accuracy = (figure.add_axes((left, 0.185, 0.4, 0.745)) for left in (0.085, 0.58))
    epochs = [row["epoch"] for row in history]
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        for key, colour, style, label in (
            (f"train_{name}_running", RED, "--", RUNNING_LABEL),
            (f"train_{name}", RED, "-", "training"),
            (f"val_{name}", BLUE, "-", "validation"),
        ):
            values = np.array([row[key] for row in history])
            axes.plot(epochs, values, style, color=colour, marker="o", markersize=3, label=label)
    loss.set_title("loss (nats)", fontsize=10)
    losses = np.concatenate([line.get_ydata() for line in loss.lines])
    # losses are below zero with loss=nll_of_logits
    loss.set_ylim(min(0, 1.05 * losses.min()), 1.05 * losses.max())
    accuracy.set_title("accuracy", fontsize=10)
    accuracy.yaxis.set_major_formatter(_format_tick)
    for axes in (loss, accuracy):
        axes.axvline(best_epoch, color=GREY, linewidth=1, linestyle=":", label="best epoch")
        axes.set_xlabel("epoch")
        axes.locator_params("x", integer=True, min_n_ticks=1)
        axes.set_xlim(0.5, epochs[-1] + 0.5)
        axes.grid(alpha=0.3)
    figure.legend(*loss.get_legend_handles_labels(), loc="lower center", ncols=4, frameon=False)
    save_png(render_figure(figure), path)


def overlaid_curves(path: Path, errors: dict[str, list[np.ndarray]], note: str = "") -> None:
    """Plot error over epochs by label: a thin line per run (epochs,), a thick line for the mean.

    The mean covers the epochs of the shortest run. ``note`` is written above the axes.
    """
    figure = new_figure(9, 5, layout="constrained")
    axes = figure.subplots()
    for index, (label, runs) in enumerate(errors.items()):
        colour, style = _line_style(index)
        if len(runs) > 1:
            for run in runs:
                axes.plot(1 + np.arange(len(run)), run, color=colour, linewidth=0.6, alpha=0.5)
        shortest = min(map(len, runs))
        mean = np.mean([run[:shortest] for run in runs], axis=0)
        axes.plot(
            1 + np.arange(shortest),
            mean,
            style,
            color=colour,
            linewidth=2,
            marker="o",
            markersize=4,
            label=wrap_text(label),
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation error")
    axes.set_title(note, fontsize=9, loc="left")
    axes.locator_params("x", integer=True, min_n_ticks=1)
    _format_error_axis(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    save_png(render_figure(figure), path)


def error_by_samples(path: Path, series: dict[str, np.ndarray]) -> None:
    """Plot training and test error over the number of training images, log-log, by label.

    The columns of an array (K, 7) are the number of training images, the training error with the
    lower and upper end of its error bar, and the test error with those of its error bar.
    """
    figure = new_figure(8, 5, layout="constrained")
    axes = figure.subplots()
    for index, (label, rows) in enumerate(series.items()):
        for split, style, column in (("training", "--", 1), ("test", "-", 4)):
            value, *ends = rows[:, column : column + 3].T
            axes.errorbar(
                rows[:, 0],
                value,
                np.abs(ends - value),
                color=_line_style(index)[0],
                linestyle=style,
                marker="o",
                markersize=4,
                capsize=3,
                label=wrap_text(f"{label} {split}".strip()),
            )
    axes.set_xscale("log")
    counts = sorted({int(row[0]) for rows in series.values() for row in rows})
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("training images")
    axes.set_ylabel("error")
    _format_error_axis(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    save_png(render_figure(figure), path)


def _line_style(index: int) -> tuple[str, str]:
    style = LINE_STYLES[index // len(DIGIT_COLOURS) % len(LINE_STYLES)]
    return DIGIT_COLOURS[index % len(DIGIT_COLOURS)], style


def _format_tick(value: float, _: float) -> str:
    """Format a tick in percent."""
    return f"{100 * value:g}%"


def _format_log_tick(value: float, position: float) -> str:
    """Format a tick in percent if its first digit is 1, 2 or 5."""
    return _format_tick(value, position) if f"{value:e}"[0] in "125" else ""


def _format_error_axis(axes: "Axes") -> None:
    """Format the y axis in percent; logarithmic if errors differ by a factor of 4 or more.

    An error of zero is then drawn at the lower edge.
    """
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    values = values[values > 0] if (values > 0).any() else np.array([1e-3])
    # set before the scale, which would otherwise choose its own limits
    axes.set_ylim(values.min() / 1.2, values.max() * 1.2)
    if values.max() < 4 * values.min():  # a logarithmic axis would show too few ticks
        axes.yaxis.set_major_formatter(_format_tick)
    else:
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_formatter(_format_log_tick)
        axes.yaxis.set_minor_formatter(_format_log_tick)
    axes.grid(alpha=0.3, which="both")


def confusion_matrix(path: Path, counts: np.ndarray) -> None:
    """Draw counts (10, 10) with true digits in rows; off-diagonal cells are coloured by count."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(7, 6)
    axes = figure.add_axes((0.1, 0.08, 0.75, 0.875))
    diagonal = np.eye(NUM_CLASSES, dtype=bool)
    max_errors = max(1, int(counts[~diagonal].max()))
    reds = ScalarMappable(Normalize(0, max_errors), "Reds")
    colours = reds.to_rgba(counts, bytes=True)
    colours[diagonal, :3] = rgb("#DDEEDD")
    axes.imshow(colours)
    for true, predicted in np.ndindex(NUM_CLASSES, NUM_CLASSES):
        count = counts[true, predicted]
        dark = true != predicted and count > 0.6 * max_errors
        axes.text(
            predicted,
            true,
            str(count),
            ha="center",
            va="center",
            fontsize=9,
            color="white" if dark else "black" if count else "#BBBBBB",
            weight="bold" if true == predicted else "normal",
        )
    axes.set_xticks(range(NUM_CLASSES))
    axes.set_yticks(range(NUM_CLASSES))
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    correct, total = int(np.trace(counts)), int(counts.sum())
    axes.set_title(f"{correct:,} of {total:,} right, {total - correct:,} wrong")
    scale = figure.add_axes((0.88, 0.1675, 0.03, 0.7))
    scale.set_title("errors", fontsize=10)
    figure.colorbar(reds, scale, ticks=MaxNLocator(integer=True))
    save_png(render_figure(figure), path)


def tsne(path: Path, coordinates: np.ndarray, labels: np.ndarray, title: str) -> None:
    """Draw a scatter plot of coordinates (N, 2), coloured by digit, with a label per digit."""
    figure = new_figure(7, 7)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.95))
    size = 6 if len(coordinates) <= 4000 else 2
    points = {digit: coordinates[labels == digit] for digit in np.unique(labels)}
    for digit in points:
        x, y = points[digit].T
        axes.scatter(x, y, s=size, color=DIGIT_COLOURS[digit], linewidths=0)
    for digit in points:  # after all points, which would otherwise cover the labels
        x, y = _densest_point(points[digit])
        axes.text(
            x,
            y,
            str(digit),
            fontsize=17,
            weight="bold",
            ha="center",
            va="center",
            color=DIGIT_COLOURS[digit],
            bbox={
                "boxstyle": "round,pad=0.15",
                "facecolor": "white",
                "alpha": 0.85,
                "edgecolor": DIGIT_COLOURS[digit],
            },
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")  # equal distances in both directions
    axes.set_title(title)
    save_png(render_figure(figure), path)


def _densest_point(points: np.ndarray) -> np.ndarray:
    """Return the point (2,) with the most neighbours: a position for the label inside a cluster.

    Neighbours are within the first quartile of all pairwise distances in a sample of fewer than
    1,000 points.
    """
    sample = points[:: max(1, len(points) // 500)]
    distances = np.linalg.norm(sample[:, None] - sample[None], axis=2)
    neighbours = (distances <= np.quantile(distances, 0.25)).sum(axis=1)
    return sample[neighbours.argmax()]
