"""Figures and mosaics: the positions, frames, colours and texts of their parts."""

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.transforms import Bbox
from PIL import Image

from mnistcnn.evaluation import figures, mosaic

RED, BLUE, GREY, BLACK = (238, 102, 119), (68, 119, 170), (204, 204, 204), (0, 0, 0)


def noise(*shape: int) -> np.ndarray:
    """Return random images (*shape, 28, 28) uint8, all different."""
    return np.random.default_rng(shape).integers(0, 256, (*shape, 28, 28), np.uint8)


def read_png(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def find_image(page: np.ndarray, image: np.ndarray, scale: int) -> tuple[int, int]:
    """Return the row and column of ``image``, enlarged ``scale`` times, in the picture."""
    block = np.kron(255 - image, np.ones((scale, scale), np.uint8))[..., None].repeat(3, axis=2)
    first_row, size = block[0].tobytes(), len(block)
    positions = []
    for y, row in enumerate(page):
        offset = row.tobytes().find(first_row)
        if offset >= 0:
            positions.append((y, offset // 3))
    y, x = positions[0]
    assert np.array_equal(page[y : y + size, x : x + size], block)
    return y, x


def frame_colour(page: np.ndarray, y: int, x: int, size: int, width: int) -> tuple[int, ...]:
    """The colour of the frame, ``width`` pixels wide, around a square; it has white around it."""
    square = page[y - width : y + size + width, x - width : x + size + width].astype(int)
    inside = np.zeros(square.shape[:2], bool)
    inside[width:-width, width:-width] = True
    colours = np.unique(square[~inside], axis=0)
    assert len(colours) == 1
    assert (page[y - width - 1, x : x + size] == 255).all()
    assert (page[y : y + size, x + size + width] == 255).all()
    return tuple(colours[0].tolist())


@pytest.fixture
def rendered(monkeypatch) -> list:
    """Return the figures that are rendered during the test."""
    rendered, render_figure = [], figures.render_figure

    def recorded_render_figure(figure):
        rendered.append(figure)
        return render_figure(figure)

    monkeypatch.setattr(figures, "render_figure", recorded_render_figure)
    return rendered


def assert_no_overlap(figure, boxes: list) -> None:
    """Assert that all boxes are inside the figure and no two overlap by a pixel."""
    low, high = (np.array([getattr(box, end) for box in boxes]) for end in ("min", "max"))
    assert (low >= 0).all() and (high <= figure.bbox.max).all()
    overlap = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)  # width and height
    assert np.array_equal((overlap >= 1).all(axis=2), np.eye(len(boxes), dtype=bool))


def text_boxes(figure) -> list:
    return [text.get_window_extent() for text in figure.texts]


def image_box(page: np.ndarray, y: int, x: int, size: int) -> Bbox:
    return Bbox([[x, len(page) - y - size], [x + size, len(page) - y]])


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


# Mosaics -----------------------------------------------------------------------------------------


def draw_misclassified(path, count: int):
    labels = np.arange(count) % 10
    confidence = np.linspace(0.99999, 0.5, count)
    mosaic.misclassified(path, noise(count), labels, labels + 1, confidence, labels + 9990)


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_misclassified_is_a_three_by_three_grid(count, tmp_path, rendered):
    draw_misclassified(tmp_path / "a.png", count)
    page = read_png(tmp_path / "a.png")
    draw_misclassified(tmp_path / "nine.png", 9)
    assert page.shape == read_png(tmp_path / "nine.png").shape  # for any number of errors
    positions = [find_image(page, image, 8) for image in noise(count)]
    assert len(set(positions)) == count
    rows, columns = sorted({y for y, _ in positions}), sorted({x for _, x in positions})
    expected = [(rows[n // 3], columns[n % 3]) for n in range(count)]
    assert positions == expected
    assert all(frame_colour(page, *position, 224, 1) == BLACK for position in positions)
    boxes = [image_box(page, *position, 224) for position in positions]
    assert_no_overlap(rendered[0], boxes + text_boxes(rendered[0]))
    title, *captions = texts(rendered[0])
    assert title == ("The most confident errors" if count else "No error in the test set")
    first = ["true 0, predicted 1\nwith probability > 0.999", "test image 9990"]
    assert captions[:2] == first[: 2 * count]


@pytest.mark.parametrize(("targets", "k"), [(1, 1), (4, 8), (3, 2), (1, 50), (20, 1)])
def test_neighbours_are_in_the_row_of_their_target_nearest_first(targets, k, tmp_path, rendered):
    labels = np.arange(targets) % 10
    nearest_labels = np.tile(labels[:, None], (1, k))
    nearest_labels[-1, -1] += 1
    distances = np.linspace(12345, 0, targets * k).reshape(targets, k)[::-1, ::-1]
    images, nearest = noise(targets), noise(targets, k)
    mosaic.neighbours(tmp_path / "a.png", images, labels, nearest, nearest_labels, distances)
    page = read_png(tmp_path / "a.png")
    boxes = []
    bottom = 0
    for row in range(targets):
        positions = [find_image(page, image, 5) for image in (images[row], *nearest[row])]
        assert len({y for y, _ in positions}) == 1 and positions[0][0] > bottom
        bottom = positions[0][0] + 140
        assert set(np.diff([x for _, x in positions])) == {150}
        assert frame_colour(page, *positions[0], 140, 2) == BLACK
        for column, position in enumerate(positions[1:]):
            wrong = row == targets - 1 and column == k - 1
            colour = frame_colour(page, *position, 140, 4 if wrong else 1)
            assert colour == (RED if wrong else GREY)
        boxes += [image_box(page, *position, 140) for position in positions]
    assert_no_overlap(rendered[0], boxes + text_boxes(rendered[0]))
    title, first, *_, last, distance = texts(rendered[0])
    *lines, last_line = title.split("\n")  # a narrow picture wraps its title
    assert " ".join(lines) == f"Test images and their {k} nearest neighbours in feature space"
    assert last_line == "(Euclidean distance)"
    assert first == "target: 0" and (last, distance) == (str(nearest_labels[-1, -1]), "12345.00")
    caption = rendered[0].texts[-2]
    assert caption.get_color() == figures.RED and caption.get_weight() == "bold"


@pytest.mark.parametrize(("variants", "columns"), [(1, 10), (6, 10), (2, 3)])
def test_augmented_images_are_below_their_original(variants, columns, tmp_path, rendered):
    originals, augmented = noise(columns), noise(variants, columns)
    title = "Training images and random variants of each (aug=" + 12 * "long_name" + ")"
    inexact = augmented.astype(np.float32) + np.float32(0.3)  # floats are rounded to integers
    mosaic.augmented(tmp_path / "a.png", originals, inexact.clip(0, 255), title)
    page = read_png(tmp_path / "a.png")
    positions = np.array(
        [[find_image(page, image, 4) for image in row] for row in (originals, *augmented)]
    )
    rows, columns_x = positions[..., 0], positions[..., 1]
    assert (np.diff(rows, axis=0) == 122).all() and not np.ptp(rows, 1).any()
    assert (np.diff(columns_x, axis=1) == 122).all() and not np.ptp(columns_x, 0).any()
    assert {frame_colour(page, *position, 112, 3) for position in positions[0]} == {BLUE}
    below = positions[1:].reshape(-1, 2)
    assert {frame_colour(page, *position, 112, 1) for position in below} == {GREY}
    boxes = [image_box(page, *position, 112) for position in positions.reshape(-1, 2)]
    assert_no_overlap(rendered[0], boxes + text_boxes(rendered[0]))
    assert texts(rendered[0])[0].replace("\n", " ").split("=")[0] == title.split("=")[0]
    assert texts(rendered[0])[1:] == ["original"]


@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_disagreements_with_long_names_do_not_overlap(count, tmp_path, rendered):
    labels = np.arange(count)
    a, b = np.full((2, count, 10), 0.01, np.float32)
    a[labels, labels] = b[labels, labels + 1] = 0.91
    name = ",".join(["optimizer.lr=0.1", "model.batch_norm=before_relu"] * 5)
    mosaic.disagreements(
        tmp_path / "a.png", noise(count), labels, [a, b], labels + 9990, [name, "aug=none"]
    )
    page = read_png(tmp_path / "a.png")
    positions = [find_image(page, image, 10) for image in noise(count)]
    rows, columns = sorted({y for y, _ in positions}), sorted({x for _, x in positions})
    assert positions == [(rows[n // 4], columns[n % 4]) for n in range(count)]
    boxes = [image_box(page, *position, 280) for position in positions]
    assert_no_overlap(rendered[0], boxes + text_boxes(rendered[0]))
    title, *captions = texts(rendered[0])
    assert title.startswith("A: optimizer.lr=0.1,") and "\nB: aug=none" in title
    assert ("the same digit" in title) == (count == 0)
    if count:
        assert captions[:2] == [
            "A: 0 with probability 0.910\nB: 1 with probability 0.910",
            "true 0, test image 9990",
        ]
        assert rendered[0].texts[1].get_color() == figures.BLUE  # A is right


# Figures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "collapsed", "many"])
def test_confusion_matrix_colours_only_errors(name, tmp_path, rendered):
    counts = np.diag(np.full(10, 1000))
    if name == "collapsed":
        counts = np.zeros((10, 10), int)
        counts[:, 3] = 1000
    elif name == "many":
        counts = np.arange(100).reshape(10, 10) * 70
    figures.confusion_matrix(tmp_path / "a.png", counts)
    page, (figure,) = read_png(tmp_path / "a.png"), rendered
    axes = figure.axes[0]
    assert_no_overlap(figure, [part.get_tightbbox() for part in figure.axes])
    most = max(1, (counts * (1 - np.eye(10, dtype=int))).max())
    for true, predicted in np.ndindex(10, 10):
        x, y = axes.transData.transform((predicted + 0.4, true + 0.4))  # next to the number
        reds = colormaps["Reds"](counts[true, predicted] / most, bytes=True)[:3]
        expected = (221, 238, 221) if true == predicted else reds
        assert page[round(len(page) - y), round(x)].tolist() == list(expected)
    assert [text.get_text() for text in axes.texts] == [str(count) for count in counts.flat]


def history(epochs: int, **changed) -> list[dict]:
    row = dict.fromkeys(("train_loss", "train_loss_running", "val_loss"), 0.5)
    row |= dict.fromkeys(("train_accuracy", "train_accuracy_running", "val_accuracy"), 0.9)
    return [row | {"epoch": 1 + n, "train_loss": 1 / (1 + n)} | changed for n in range(epochs)]


@pytest.mark.parametrize(
    ("epochs", "changed"),
    [
        (1, {}),
        (1000, {}),
        (4, {"val_loss": 3e9}),  # matplotlib writes 1e9 above the axis
        (4, {"val_loss": -471234.5}),
        (4, {"val_accuracy": 0.90004, "train_accuracy": 0.89996}),
        (4, {"val_accuracy": 1.0, "train_accuracy": 0.0}),
    ],
)
def test_curves_with_long_tick_labels_do_not_overlap(epochs, changed, tmp_path, rendered):
    figures.curves(tmp_path / "a.png", history(epochs, **changed), epochs)
    (figure,) = rendered
    parts = [*figure.axes, *figure.legends]
    assert_no_overlap(figure, [part.get_tightbbox() for part in parts])
    assert len(figure.legends[0].get_texts()) == 4
    assert read_png(tmp_path / "a.png").shape == (559, 1300, 3)


@pytest.mark.parametrize("labels", [np.arange(60) % 10, np.full(60, 4)])
@pytest.mark.parametrize("collapsed", [False, True])
def test_tsne_labels_each_digit_that_occurs(labels, collapsed, tmp_path, rendered):
    coordinates = np.random.default_rng(0).normal(size=(60, 2)) * (not collapsed)
    title = "t-SNE of the 25088 features of 10,000 test images"
    figures.tsne(tmp_path / "a.png", coordinates, labels, title)
    (figure,) = rendered
    assert_no_overlap(figure, [figure.axes[0].get_tightbbox()])
    labelled = [text.get_text() for text in figure.axes[0].texts]
    assert labelled == [str(digit) for digit in np.unique(labels)]


def test_equal_pictures_have_equal_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        draw_misclassified(tmp_path / name, 3)
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert b"tEXt" not in content  # no date and no version of matplotlib
