"""Pictures of each kind from made-up values, for tests that compare them byte by byte."""

from pathlib import Path

import numpy as np

from mnistcnn.evaluation import figures, mosaic, scatter


def draw_pictures(folder: Path) -> dict[str, bytes]:
    """Draw one picture of each kind to ``folder``; return the content of the files by name."""
    folder.mkdir(exist_ok=True)
    row = {f"{split}_{name}": 0.5 for split in ("train", "val") for name in ("loss", "accuracy")}
    row |= {"epoch": 1, "train_loss_running": 0.6, "train_accuracy_running": 0.4}
    figures.curves(folder / "curves.png", [row, row | {"epoch": 2}], 1)
    runs = {"lr=0.1": [np.array([0.5, 0.2]), np.array([0.4, 0.3])], "lr=1": [np.ones(2)]}
    figures.overlaid_curves(folder / "overlaid.png", runs, "a note")
    errors = np.array([[100, 0.2, 0.1, 0.3, 0.4, 0.3, 0.5], [200, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2]])
    figures.error_by_samples(folder / "samples.png", {"aug=none": errors})
    figures.confusion_matrix(folder / "confusion.png", np.eye(10, dtype=int), "0123456789")
    digits = np.arange(2)
    scatter.tsne(folder / "tsne.png", np.eye(2), digits, "01", "title")
    images = np.zeros((2, 28, 28), np.uint8)
    mosaic.misclassified(
        folder / "mosaic.png", images, digits, digits + 1, digits / 2, digits, "012"
    )
    return read_pictures(folder)


def read_pictures(folder: Path) -> dict[str, bytes]:
    """Return the content of all PNG files below ``folder`` by their relative paths."""
    files = sorted(folder.rglob("*.png"))
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
