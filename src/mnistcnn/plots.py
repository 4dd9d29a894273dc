"""Arrays to pictures; the only room that knows matplotlib.

Every function writes one PNG file. Colours are told apart by colour-blind readers: Paul Tol's
"muted" and "bright" schemes (personal.sron.nl/~pault).
"""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mnistcnn import DIGITS
from mnistcnn.files import write_bytes

BLUE, RED, GREY = "#4477AA", "#EE6677", "#777777"
DIGIT_COLOURS = [
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933",
    "#DDCC77", "#CC6677", "#882255", "#AA4499", "#888888",
]  # fmt: skip
DPI = 130


def _save(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    # no software version in the file: the same run gives the same bytes
    figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
    write_bytes(path, content.getbuffer())


def _image(axes, pixels: np.ndarray) -> None:
    """Show one image (28, 28), black on white, without ticks."""
    axes.imshow(pixels, cmap="gray_r", vmin=0, vmax=np.iinfo(np.uint8).max)
    axes.set_xticks([])
    axes.set_yticks([])


def curves(path: Path, history: list[dict], best_epoch: int) -> None:
    """Loss and accuracy against the epoch, from the rows of ``history.jsonl``."""
    figure = Figure(figsize=(10, 4.3), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
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
    loss.set_ylabel("loss (nats)")
    highest, lowest = (
        pick([pick(line.get_ydata()) for line in loss.lines]) for pick in (np.max, np.min)
    )
    loss.set_ylim(min(0, 1.05 * lowest), 1.05 * highest)  # below zero with loss=nll_of_logits
    accuracy.set_ylabel("accuracy")
    accuracy.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    for axes in (loss, accuracy):
        axes.axvline(best_epoch, color=GREY, linewidth=1, linestyle=":", label="best epoch")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(0.5, epochs[-1] + 0.5)
        axes.grid(alpha=0.3)
    figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=4,
                  frameon=False)  # fmt: skip
    _save(figure, path)


def overlaid_curves(path: Path, errors: dict[str, list[np.ndarray]]) -> None:
    """Error against the epoch, by label: a thin line per run (epochs,), a thick one of their mean.

    The mean ends with the shortest run.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
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
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _error_axis(axes.yaxis)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    _save(figure, path)


def error_by_samples(path: Path, series: dict[str, np.ndarray]) -> None:
    """Training and test error against the number of training images, log-log, by label.

    A row of an array (K, 7) holds that number and, of the training and of the test error, the
    value and the ends of the bar through it.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
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
    _save(figure, path)


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
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    diagonal = np.eye(DIGITS, dtype=bool)
    errors = np.ma.masked_array(counts, diagonal)
    most = max(1, int(errors.max()))
    axes.imshow(np.ma.masked_array(np.ones_like(counts), ~diagonal), cmap=ListedColormap("#DDEEDD"))
    shown = axes.imshow(errors, cmap="Reds", vmin=0, vmax=most)
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
    figure.colorbar(shown, label="errors", shrink=0.8, ticks=MaxNLocator(integer=True))
    _save(figure, path)


def misclassified(
    path: Path,
    pixels: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    confidence: np.ndarray,
    indices: np.ndarray,
) -> None:
    """A 3 x 3 grid of errors; ``indices`` are their numbers in the test set. Fewer leave gaps."""
    figure = Figure(figsize=(6, 7), layout="constrained")
    figure.suptitle("The most confident errors" if len(indices) else "No error in the test set")
    for place, axes in enumerate(figure.subplots(3, 3).flat):
        if place >= len(indices):
            axes.axis("off")
            continue
        _image(axes, pixels[place])
        axes.set_title(
            f"true {labels[place]}, predicted {predictions[place]}\n"
            f"with probability {_probability(confidence[place])}",
            fontsize=9,
        )
        axes.set_xlabel(f"test image {indices[place]}", fontsize=7, color=GREY)
    _save(figure, path)


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
    columns = 4
    rows = max(1, -(-len(indices) // columns))
    figure = Figure(figsize=(9, 0.8 + 2.6 * rows), layout="constrained")
    title = "\n".join(
        _wrapped(f"{side}: {name}", 100) for side, name in zip("AB", names, strict=True)
    )
    if not len(indices):
        title += "\nthe same digit for every image of the test set"
    figure.suptitle(title, fontsize=10)
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if place >= len(indices):
            axes.axis("off")
            continue
        _image(axes, pixels[place])
        answers = [mean[place].argmax() for mean in probabilities]
        right = answers.index(labels[place]) if labels[place] in answers else None
        axes.set_title(
            "\n".join(
                f"{side}: {digit} with probability {_probability(mean[place, digit])}"
                for side, digit, mean in zip("AB", answers, probabilities, strict=True)
            ),
            fontsize=8,
            color=GREY if right is None else (BLUE, RED)[right],
        )
        axes.set_xlabel(f"true {labels[place]}, test image {indices[place]}", fontsize=7)
    _save(figure, path)


def tsne(path: Path, coordinates: np.ndarray, labels: np.ndarray, title: str) -> None:
    """A scatter of coordinates (N, 2), coloured by digit and labelled at the clusters."""
    figure = Figure(figsize=(7, 7), layout="constrained")
    axes = figure.subplots()
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
    _save(figure, path)


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
    rows, k = nearest_labels.shape
    figure = Figure(figsize=(max(4, 1.1 * (k + 1.4)), 1.45 * rows + 0.6), layout="constrained")
    figure.suptitle(f"Test images and their {k} nearest by features\n(Euclidean distance)")
    grid = figure.subplots(rows, k + 1, squeeze=False, width_ratios=[1.25] + [1] * k)
    for row in range(rows):
        _image(grid[row, 0], targets[row])
        grid[row, 0].set_title(f"target: {target_labels[row]}", fontsize=10, weight="bold")
        for place in range(k):
            axes, label = grid[row, place + 1], nearest_labels[row, place]
            wrong = label != target_labels[row]
            _image(axes, nearest[row, place])
            axes.set_title(str(label), fontsize=10, color=RED if wrong else "black",
                           weight="bold" if wrong else "normal")  # fmt: skip
            axes.set_xlabel(f"{distances[row, place]:.2f}", fontsize=7, color=GREY)
            for spine in axes.spines.values():
                spine.set(color=RED if wrong else "#CCCCCC", linewidth=3 if wrong else 0.8)
    _save(figure, path)


def augmented(path: Path, originals: np.ndarray, variants: np.ndarray, title: str) -> None:
    """A column per image: the original (N, 28, 28) uint8, then its variants (V, N, 28, 28)."""
    rows, columns = 1 + len(variants), len(originals)
    figure = Figure(figsize=(0.95 * columns, 0.95 * rows + 0.6), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False)
    for column in range(columns):
        _image(grid[0, column], originals[column])
        for row in range(len(variants)):
            _image(grid[row + 1, column], variants[row, column])
            for spine in grid[row + 1, column].spines.values():
                spine.set_color("#CCCCCC")
        for spine in grid[0, column].spines.values():
            spine.set(color=BLUE, linewidth=2)
    grid[0, 0].set_ylabel("original", fontsize=8, color=BLUE)
    _save(figure, path)
