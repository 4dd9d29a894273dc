"""Draw line charts and confusion matrices, and write them as PNG files.

Colours suit colour-blind readers: Paul Tol's "muted" and "bright" schemes
(personal.sron.nl/~pault). Axes are placed explicitly, because a constrained layout takes longer
than the drawing itself. matplotlib takes half a second to import, so only functions that draw
import it, inside ``default_settings``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnistcnn.evaluation import canvas
from mnistcnn.evaluation.canvas import BLUE, DPI, GREY, RED, default_settings

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

CLASS_COLOURS = [
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
MARKERS = "osD^vPX<>*ph"
MAX_MARKERS = 20  # on a line; more would hide its style
RUNNING_LABEL = "training (running average)"
INTERVAL_NOTE = "Error bars: 95% interval of the mean over seeds; none with fewer than three seeds."


@default_settings()
def curves(path: Path, history: list[dict[str, float]], best_epoch: int) -> None:
    """Plot loss and accuracy over epochs from the rows of ``history.jsonl``."""
    figure = canvas.new_figure(10, 4.3)
    # margins fit the widest tick labels: -400000 for a loss, 99.1525% for an accuracy
    loss, accuracy = (figure.add_axes((left, 0.185, 0.4, 0.745)) for left in (0.085, 0.58))
    epochs = [row["epoch"] for row in history]
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        for key, colour, face, style, label in (
            (f"train_{name}_running", RED, "white", "--", RUNNING_LABEL),
            (f"train_{name}", RED, RED, "-", "training"),
            (f"val_{name}", BLUE, BLUE, "-", "validation"),
        ):
            axes.plot(
                epochs,
                [row[key] for row in history],
                style,
                color=colour,
                marker="o",
                markersize=4,
                markerfacecolor=face,
                markevery=_mark_every(len(epochs)),
                clip_on=False,
                label=label,
            )
    loss.set_title("loss (nats)", fontsize=10)
    losses = np.concatenate([line.get_ydata() for line in loss.lines])
    # losses are below zero with loss=nll_of_logits
    loss.set_ylim(min(0, 1.05 * losses.min()), 1.05 * losses.max())
    accuracy.set_title("accuracy", fontsize=10)
    accuracy.yaxis.set_major_formatter(_format_tick)
    low, high = accuracy.get_ylim()
    accuracy.set_ylim(max(0, low), min(1, high))
    for axes in (loss, accuracy):
        axes.axvline(best_epoch, color=GREY, linewidth=1, linestyle=":", label="best epoch")
        axes.set_xlabel("epoch")
        axes.locator_params("x", integer=True, min_n_ticks=1)
        axes.set_xlim(0.5, epochs[-1] + 0.5)
        axes.grid(alpha=0.3)
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False, handlelength=3)
    canvas.save_png(canvas.render_figure(figure), path)


@default_settings()
def overlaid_curves(path: Path, errors: dict[str, list[np.ndarray]], note: str = "") -> None:
    """Plot error over epochs by label: a thin line per run (epochs,), a thick line for the mean.

    The mean covers the epochs of the shortest run. After a single epoch, points replace lines, side
    by side. ``note`` is written above the axes.
    """
    from matplotlib.lines import Line2D

    figure, axes = _new_chart("epoch", "validation error")
    low = _set_error_axis(axes, np.concatenate([run for runs in errors.values() for run in runs]))
    longest = max(len(run) for runs in errors.values() for run in runs)
    axes.set_xlim(0.5, longest + 0.5)
    axes.locator_params("x", integer=True, min_n_ticks=1)
    points = longest == 1
    shared: dict[str, Any] = {"clip_on": False, "markevery": _mark_every(longest)}
    thin: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.5, "marker": "." if points else ""}
    thick: dict[str, Any] = {"linewidth": 2, "markersize": 6}
    solid: Any = "" if points else "-"
    handles: list[Artist] = []
    for index, runs in enumerate(errors.values()):
        colour, style, marker = _line_style(index)
        x = 1 + np.arange(longest) + (0.8 * ((index + 0.5) / len(errors) - 0.5) if points else 0)
        for run in runs if len(runs) > 1 else []:
            values = np.maximum(run, low)
            axes.plot(x[: len(run)], values, linestyle=solid, color=colour, **thin, **shared)
        shortest = min(map(len, runs))
        mean = np.maximum(np.mean([run[:shortest] for run in runs], axis=0), low)
        style = "" if points else style
        handles += axes.plot(
            x[:shortest], mean, linestyle=style, color=colour, marker=marker, **thick, **shared
        )
    labels = list(errors)
    if any(len(runs) > 1 for runs in errors.values()):
        handles.append(Line2D([], [], linestyle=solid, color=GREY, marker="o", **thick))
        handles.append(Line2D([], [], linestyle=solid, color=GREY, **thin))
        labels += ["mean of the runs", "a run"]
    _finish_chart(figure, axes, handles, labels, note)
    canvas.save_png(canvas.render_figure(figure), path)


@default_settings()
def error_by_samples(path: Path, series: dict[str, np.ndarray]) -> None:
    """Plot training and test error over the number of training images, log-log, by label.

    The columns of an array (K, 7) are the number of training images, the training error with the
    lower and upper end of its error bar, and the test error with those of its error bar. No bar is
    drawn if both ends are equal.
    """
    from matplotlib.lines import Line2D

    figure, axes = _new_chart("training images", "error")
    rows = np.concatenate(list(series.values()))
    _set_count_axis(axes, sorted(set(rows[:, 0])))
    bottom = _set_error_axis(axes, rows[:, [1, 4]], rows[:, 1:])
    splits: dict[str, dict[str, Any]] = {
        "training": {"linestyle": "--", "markerfacecolor": "white"},
        "test": {"linestyle": "-"},
    }
    handles: list[Artist] = []
    for index, (label, rows) in enumerate(series.items()):
        colour, _, marker = _line_style(index)
        for split, column in (("training", 1), ("test", 4)):
            value, *ends = rows[:, column : column + 3].T
            value = np.maximum(value, bottom)
            lengths = np.abs(np.clip(ends, 0, 1) - value)
            lengths[:, ends[0] == ends[1]] = np.nan
            style = {"color": colour, "marker": marker} | splits[split]
            bars = axes.errorbar(rows[:, 0], value, lengths, capsize=3, markersize=6, **style)
            bars.lines[0].set_clip_on(False)  # markers only: a bar may end below the axes
        if label:
            handles.append(Line2D([], [], color=colour, marker=marker, markersize=6))
    handles += [Line2D([], [], color=GREY, marker="o", **style) for style in splits.values()]
    labels = [*filter(None, series), *(f"{split} error" for split in splits)]
    _finish_chart(figure, axes, handles, labels, INTERVAL_NOTE)
    canvas.save_png(canvas.render_figure(figure), path)


# Parts of line charts ----------------------------------------------------------------------------

CHART_SIZE = (7.3, 5.0)  # inches, without the legend
CHART_LEFT, CHART_BOTTOM, CHART_TOP = 1.0, 0.6, 0.2  # inches of margin around the axes
LEGEND_GAP = 0.25  # inches around the legend
LABEL_WIDTH = 4.0  # inches of text in the legend
NOTE_SIZE = 9  # points; also of the legend


def _new_chart(x_label: str, y_label: str) -> "tuple[Figure, Axes]":
    figure = canvas.new_figure(*CHART_SIZE)
    axes = figure.add_axes((0, 0, 1, 1))  # moved by _finish_chart
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def _finish_chart(
    figure: "Figure", axes: "Axes", handles: "Sequence[Artist]", labels: Sequence[str], note: str
) -> None:
    """Write the note above the axes, and place the legend beside them; the figure grows to fit."""
    legend = figure.legend(
        handles,
        [canvas.wrap_text(label, LABEL_WIDTH, NOTE_SIZE) for label in labels],
        loc="upper left",
        frameon=False,
        fontsize=NOTE_SIZE,
        handlelength=4,
        borderpad=0,
        borderaxespad=0,
    )
    legend_width, legend_height = _legend_size(figure, legend)
    width = CHART_SIZE[0] + legend_width + 2 * LEGEND_GAP
    note = canvas.wrap_text(note, width - CHART_LEFT, NOTE_SIZE)
    axes.set_title(note, fontsize=NOTE_SIZE, loc="left")
    top = CHART_TOP + len(note.splitlines()) * 1.3 * NOTE_SIZE / 72
    height = max(CHART_SIZE[1] + top, legend_height + top + LEGEND_GAP)
    figure.set_size_inches(width, height)
    legend.set_bbox_to_anchor(((CHART_SIZE[0] + LEGEND_GAP) / width, 1 - top / height))
    axes.set_position((
        CHART_LEFT / width,
        CHART_BOTTOM / height,
        (CHART_SIZE[0] - CHART_LEFT) / width,
        1 - (CHART_BOTTOM + top) / height,
    ))  # fmt: skip


def _legend_size(figure: "Figure", legend: "Legend") -> tuple[float, float]:
    """Return the width and height of a legend in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    extent = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    return extent.width / DPI, extent.height / DPI


def _line_style(index: int) -> tuple[str, str, str]:
    """Return the colour, line style and marker of a line; all lines of a chart differ."""
    style = LINE_STYLES[index // len(CLASS_COLOURS) % len(LINE_STYLES)]
    return CLASS_COLOURS[index % len(CLASS_COLOURS)], style, MARKERS[index % len(MARKERS)]


def _mark_every(points: int) -> int:
    """Return the interval between the markers of a line."""
    return -(-points // MAX_MARKERS)


def _set_count_axis(axes: "Axes", counts: Sequence[float]) -> None:
    """Make the x axis logarithmic, with a tick at each count and a label if there is space."""
    axes.set_xscale("log")
    width = CHART_SIZE[0] - CHART_LEFT
    inches = np.log(counts) * width / max(1e-9, 1.1 * np.log(counts[-1] / counts[0]))
    labels, previous = [], np.inf
    for count, position in zip(counts[::-1], inches[::-1], strict=True):
        free = previous - position > 0.7
        labels.append(f"{count:,.0f}" if free else "")
        previous = position if free else previous
    axes.set_xticks(counts, labels[::-1])
    axes.minorticks_off()  # of both axes; those of the y axis are set later


def _format_tick(value: float, _: float) -> str:
    """Format a tick in percent."""
    return f"{100 * value:g}%"


def _format_log_tick(value: float, position: float) -> str:
    """Format a tick in percent if its first digit is 1, 2 or 5."""
    return _format_tick(value, position) if f"{value:e}"[0] in "125" else ""


def _set_error_axis(axes: "Axes", values: np.ndarray, ends: np.ndarray | None = None) -> float:
    """Set the y axis, in percent within 0 and 100%, to show ``values`` and the ``ends`` of bars.

    It is logarithmic if the values differ by a factor of 4 or more. Return its lower limit, at
    which zero is drawn on a logarithmic axis.
    """
    ends = values if ends is None else ends
    positive = values[values > 0]
    if not len(positive):
        low, high = 0.0, 0.01
    else:
        # the low end of an interval can be arbitrarily close to zero
        low = max(ends[ends > 0].min(), positive.min() / 4) / 1.2
        high = 1.2 * ends.max()
    axes.set_ylim(low, min(1, high))  # before the scale, which would otherwise choose its limits
    if not len(positive) or (values.min() > 0 and values.max() < 4 * values.min()):
        axes.yaxis.set_major_formatter(_format_tick)  # a logarithmic axis would show too few ticks
    else:
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_formatter(_format_log_tick)
        axes.yaxis.set_minor_formatter(_format_log_tick)
        if not values.all():
            axes.set_ylabel(f"{axes.get_ylabel()} (zero at the lower edge)")
    axes.grid(alpha=0.3, which="both")
    return low


@default_settings()
def confusion_matrix(path: Path, counts: np.ndarray, class_names: Sequence[str]) -> None:
    """Draw counts (C, C) with true classes in rows; off-diagonal cells are coloured by count.

    The figure grows with the number of classes, and with the length of their names up to
    NAME_WIDTH. With more than MAX_CLASSES_WITH_COUNTS classes, the counts are not written.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    figure, axes, scale = _new_matrix(class_names)
    diagonal = np.eye(len(counts), dtype=bool)
    max_errors = max(1, int(counts[~diagonal].max(initial=0)))
    reds = ScalarMappable(Normalize(0, max_errors), "Reds")
    colours = reds.to_rgba(counts, bytes=True)
    colours[diagonal, :3] = canvas.rgb("#DDEEDD")
    axes.imshow(colours)
    if len(counts) <= MAX_CLASSES_WITH_COUNTS:
        _write_counts(axes, counts, max_errors)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    correct, total = int(np.trace(counts)), int(counts.sum())
    axes.set_title(f"{correct:,} of {total:,} right (green), {total - correct:,} wrong (red)")
    scale.set_title("errors", fontsize=10)
    figure.colorbar(reds, scale, ticks=MaxNLocator(integer=True))
    canvas.save_png(canvas.render_figure(figure), path)


# Parts of the confusion matrix -------------------------------------------------------------------

MATRIX_SIZE = 5.25  # inches; at least
CELL_SIZE = 0.32  # inches of a cell with a count; at least
SMALL_CELL_SIZE = 0.11  # inches of a cell without; at least
MAX_CLASSES_WITH_COUNTS = 25
COUNT_SIZE = 9  # points; at most
NAME_SIZE = 10  # points; at most
NAME_WIDTH = 2.0  # inches of a name that are shown; at most


def _matrix_size(classes: int) -> float:
    """Return the width and height of the matrix in inches."""
    cell = CELL_SIZE if classes <= MAX_CLASSES_WITH_COUNTS else SMALL_CELL_SIZE
    return max(MATRIX_SIZE, cell * classes)


def _new_matrix(class_names: Sequence[str]) -> "tuple[Figure, Axes, Axes]":
    """Return a figure, and its axes for the matrix, with names, and for the scale of colours."""
    classes = len(class_names)
    size = _matrix_size(classes)
    points = min(NAME_SIZE, 0.85 * 72 * size / classes)
    names = [canvas.fit_name(name, NAME_WIDTH, points) for name in class_names]
    widest = max(canvas.text_width(name, points) for name in names)
    rotated = widest > 0.9 * size / classes
    left = max(0.7, 0.45 + widest)
    bottom = max(0.48, 0.45 + widest) if rotated else 0.48
    width, height = left + size + 1.05, bottom + size + 0.27

    figure = canvas.new_figure(width, height)
    axes = figure.add_axes((left / width, bottom / height, size / width, size / height))
    axes.set_xticks(range(classes), names, fontsize=points, rotation=90 if rotated else 0)
    axes.set_yticks(range(classes), names, fontsize=points)
    scale_left, scale_bottom = left + size + 0.21, bottom + 0.1 * size
    scale = figure.add_axes(
        (scale_left / width, scale_bottom / height, 0.21 / width, 0.8 * size / height)
    )
    return figure, axes, scale


def _write_counts(axes: "Axes", counts: np.ndarray, max_errors: int) -> None:
    """Write the counts into the cells; the largest one fills at most 0.8 of its cell."""
    widest = canvas.text_width(str(counts.max()), COUNT_SIZE, "bold")
    points = COUNT_SIZE * min(1, 0.8 * _matrix_size(len(counts)) / len(counts) / widest)
    for true, predicted in np.ndindex(*counts.shape):
        count = counts[true, predicted]
        dark = true != predicted and count > 0.6 * max_errors
        axes.text(
            predicted,
            true,
            str(count),
            ha="center",
            va="center",
            fontsize=points,
            color="white" if dark else "black" if count else "#BBBBBB",
            weight="bold" if true == predicted else "normal",
        )
