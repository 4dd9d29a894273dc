"""Draw t-SNE plots, and write them as PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnistcnn.evaluation import canvas
from mnistcnn.evaluation.canvas import DPI, default_settings
from mnistcnn.evaluation.figures import CLASS_COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_SIZE = 17  # points of a label as short as a digit; at most
NAME_SIZE = 10  # points of a longer label; at most
LABEL_WIDTH = 1.2  # inches; at most


@default_settings()
def tsne(
    path: Path,
    coordinates: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    title: str,
) -> None:
    """Draw a scatter plot of coordinates (N, 2), coloured by class, with a label per class.

    Further classes have the colours of the first ten, and other markers.
    """
    figure = canvas.new_figure(7, 7)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.95))
    size = 6 if len(coordinates) <= 4000 else 2
    points = {label: coordinates[labels == label] for label in np.unique(labels)}
    for label in points:
        x, y = points[label].T
        marker = MARKERS[label // len(CLASS_COLOURS) % len(MARKERS)]
        axes.scatter(x, y, s=size, color=_class_colour(label), marker=marker, linewidths=0)
    largest = LABEL_SIZE if canvas.are_short(class_names) else NAME_SIZE
    font_size = min(largest, 20 * LABEL_SIZE / len(class_names))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")  # equal distances in both directions
    axes.apply_aspect()  # now: the labels are placed within the limits of the axes
    for label in points:  # after all points, which would otherwise cover the labels
        x, y = _densest_point(points[label])
        name = canvas.fit_name(class_names[label], LABEL_WIDTH, font_size, "bold")
        width = canvas.text_width(name, font_size, "bold")
        axes.text(
            _inside(axes, x, width / 2 + 0.1),
            y,
            name,
            fontsize=font_size,
            weight="bold",
            ha="center",
            va="center",
            color=_class_colour(label),
            bbox={
                "boxstyle": "round,pad=0.15",
                "facecolor": "white",
                "alpha": 0.85,
                "edgecolor": _class_colour(label),
            },
        )
    axes.set_title(title)
    canvas.save_png(canvas.render_figure(figure), path)


def _class_colour(label: int) -> str:
    return CLASS_COLOURS[label % len(CLASS_COLOURS)]


def _inside(axes: "Axes", x: float, distance: float) -> float:
    """Return the position nearest to ``x`` that is ``distance`` inches inside of the axes."""
    low, high = axes.get_xlim()
    margin = distance * DPI * (high - low) / axes.bbox.width
    return min(max(x, low + margin), high - margin)


def _densest_point(points: np.ndarray) -> np.ndarray:
    """Return the point (2,) with the most neighbours: a position for the label inside a cluster.

    Neighbours are within the first quartile of all pairwise distances in a sample of fewer than
    1,000 points.
    """
    sample = points[:: max(1, len(points) // 500)]
    distances = np.linalg.norm(sample[:, None] - sample[None], axis=2)
    neighbours = (distances <= np.quantile(distances, 0.25)).sum(axis=1)
    return sample[neighbours.argmax()]
