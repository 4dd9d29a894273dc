"""Figures and mosaics: the positions, frames, colours and texts of their parts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from mnistcnn.data.images import Images
from mnistcnn.evaluation import canvas, figures, mosaic, scatter
from mnistcnn.evaluation.pictures import Pictures

from . import conftest

DIGITS = tuple("0123456789")
FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
FASHION += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "\"quoted\" and 'quoted'",
    "W" * 100,
    "i" * 100,
    "été, ñandú, 日本語, 😀",
    "",
    "$x^2$ _a_ $\\frac{$",
    "two\nlines\tand a tab",
    "\udc80\x00",  # a folder's name that is not UTF-8
    "comma, semicolon; and more",
]

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
    rendered, render_figure = [], canvas.render_figure

    def recorded_render_figure(figure):
        rendered.append(figure)
        return render_figure(figure)

    monkeypatch.setattr(canvas, "render_figure", recorded_render_figure)
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


def draw_misclassified(path, count: int, names=DIGITS):
    labels = np.arange(count) % 10
    confidence = np.linspace(0.99999, 0.5, count)
    predicted = (labels + 1) % 10
    mosaic.misclassified(path, noise(count), labels, predicted, confidence, labels + 9990, names)


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
    nearest_labels[-1, -1] = (nearest_labels[-1, -1] + 1) % 10
    distances = np.linspace(12345, 0, targets * k).reshape(targets, k)[::-1, ::-1]
    images, nearest = noise(targets), noise(targets, k)
    mosaic.neighbours(
        tmp_path / "a.png", images, labels, nearest, nearest_labels, distances, DIGITS
    )
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
    title, legend, first, *_, last, distance = texts(rendered[0])
    assert title.replace("\n", " ") == (  # a narrow picture wraps its title
        f"Test images and their {k} nearest neighbours in feature space "
        "(above: class, below: Euclidean distance)"
    )
    assert legend == "red: a neighbour of another class"
    assert rendered[0].texts[1].get_color() == figures.RED
    assert first == "target: 0" and (last, distance) == (str(nearest_labels[-1, -1]), "12345.00")
    caption = rendered[0].texts[-2]
    assert caption.get_color() == figures.RED and caption.get_weight() == "bold"


@pytest.mark.parametrize(("variants", "columns"), [(0, 10), (1, 10), (6, 10), (2, 3)])
def test_augmented_images_are_below_their_original(variants, columns, tmp_path, rendered):
    originals, augmented = noise(columns), noise(variants, columns)
    title = "Training images and random variants of each (aug=" + 12 * "long_name" + ")"
    inexact = augmented.astype(np.float32) + np.float32(0.3)  # floats are rounded to integers
    names = DIGITS[:columns]
    mosaic.augmented(tmp_path / "a.png", originals, inexact.clip(0, 255), title, names)
    page = read_png(tmp_path / "a.png")
    positions = np.array(
        [[find_image(page, image, 4) for image in row] for row in (originals, *augmented)]
    )
    rows, columns_x = positions[..., 0], positions[..., 1]
    assert (np.diff(rows, axis=0) == 122).all() and not np.ptp(rows, 1).any()
    assert (np.diff(columns_x, axis=1) == 122).all() and not np.ptp(columns_x, 0).any()
    assert {frame_colour(page, *position, 112, 3) for position in positions[0]} == {BLUE}
    below = positions[1:].reshape(-1, 2)
    assert all(frame_colour(page, *position, 112, 1) == GREY for position in below)
    boxes = [image_box(page, *position, 112) for position in positions.reshape(-1, 2)]
    assert_no_overlap(rendered[0], boxes + text_boxes(rendered[0]))
    assert texts(rendered[0])[0].replace("\n", " ").split("=")[0] == title.split("=")[0]
    assert texts(rendered[0])[1:] == ["original"]


@pytest.mark.parametrize(
    ("aug", "rows", "title"),
    [
        ("none", 1, "Training images, not augmented (aug=none)"),
        ("full", 7, "Training images and 6 random variants of each (aug=full)"),
    ],
)
def test_images_without_augmentation_are_drawn_once(aug, rows, title, splits, tmp_path, rendered):
    draw_augmented(tmp_path / "a.png", splits, aug)
    assert texts(rendered[0])[0] == title
    assert len(read_png(tmp_path / "a.png")) == pytest.approx(122 * rows, abs=50)


@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_disagreements_with_long_names_do_not_overlap(count, tmp_path, rendered):
    labels = np.arange(count)
    a, b = np.full((2, count, 10), 0.01, np.float32)
    a[labels, labels] = b[labels, labels + 1] = 0.91
    name = ",".join(["optimizer.lr=0.1", "model.batch_norm=before_relu"] * 5)
    mosaic.disagreements(
        tmp_path / "a.png", noise(count), labels, [a, b], labels + 9990, [name, "aug=none"], DIGITS
    )
    page = read_png(tmp_path / "a.png")
    positions = [find_image(page, image, 10) for image in noise(count)]
    rows, columns = sorted({y for y, _ in positions}), sorted({x for _, x in positions})
    assert positions == [(rows[n // 4], columns[n % 4]) for n in range(count)]
    boxes = [image_box(page, *position, 280) for position in positions]
    assert_no_overlap(rendered[0], boxes + text_boxes(rendered[0]))
    title, *captions = texts(rendered[0])
    whole = title.replace("\n", "").removeprefix("Test images for which A and B predict ")
    if not count:
        assert whole == f"A and B predict the same class for every test imageA: {name}B: aug=none"
        assert captions == []
        return
    assert whole == f"different classesA: {name}B: aug=none"
    legend = ["blue: A is right", "red: B is right", "grey: neither is right"]
    assert captions[:5] == [
        *legend,
        "A: 0 with probability 0.910\nB: 1 with probability 0.910",
        "true 0, test image 9990",
    ]
    colours = [text.get_color() for text in rendered[0].texts]
    assert colours[1:5] == [figures.BLUE, figures.RED, figures.GREY, figures.BLUE]  # A is right


# Names of classes in mosaics ---------------------------------------------------------------------


@pytest.mark.parametrize("names", [DIGITS, FASHION, HOSTILE])
def test_misclassified_names_the_classes(names, tmp_path, rendered):
    draw_misclassified(tmp_path / "a.png", 9, names)
    page = read_png(tmp_path / "a.png")
    boxes = [image_box(page, *find_image(page, image, 8), 224) for image in noise(9)]
    assert_no_overlap(rendered[0], boxes + text_boxes(rendered[0]))
    drawn = [text.replace("\n", ", ") for text in texts(rendered[0])[1::2]]
    if names != HOSTILE:
        assert [text.rpartition(", ")[0] for text in drawn] == [
            f"true {names[label]}, predicted {names[label + 1]}" for label in range(9)
        ]
    else:
        assert drawn[0].startswith("true <img src=x onerror")
        assert "…, predicted iii" in drawn[2] and drawn[2].endswith("…, with probability 0.875")
        assert 'predicted "",' in drawn[4] and 'true "", predicted $x^2$ _a_ ' in drawn[5]
        assert "predicted two lines and a" in drawn[6]
        assert "predicted \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}," in drawn[7]


@pytest.mark.parametrize("names", [FASHION, HOSTILE])
def test_neighbours_name_the_classes(names, tmp_path, rendered):
    labels = np.arange(10)
    nearest_labels = np.stack([labels, (labels + 1) % 10], axis=1)
    images, nearest, distances = noise(10), noise(10, 2), np.full((10, 2), 0.5)
    mosaic.neighbours(tmp_path / "a.png", images, labels, nearest, nearest_labels, distances, names)
    page = read_png(tmp_path / "a.png")
    positions = [find_image(page, image, 5) for image in [*images, *nearest.reshape(-1, 28, 28)]]
    boxes = [image_box(page, *position, 140) for position in positions]
    assert_no_overlap(rendered[0], boxes + text_boxes(rendered[0]))
    if names == FASHION:
        assert texts(rendered[0])[-5:] == ["target:\nAnkle boot", "Ankle boot", "0.50",
                                           "T-shirt/top", "0.50"]  # fmt: skip


@pytest.mark.parametrize("names", [FASHION, HOSTILE])
def test_augmented_images_have_the_names_of_their_classes(names, tmp_path, rendered):
    originals, variants = noise(10), noise(2, 10)
    mosaic.augmented(tmp_path / "a.png", originals, variants, "a title", names)
    page = read_png(tmp_path / "a.png")
    positions = [find_image(page, image, 4) for image in [*originals, *variants[1]]]
    boxes = [image_box(page, *position, 112) for position in positions]
    assert_no_overlap(rendered[0], boxes + text_boxes(rendered[0]))
    captions = texts(rendered[0])[1:]
    assert "original" in captions and len(captions) == 11
    if names == FASHION:
        captions.remove("original")
        assert captions == FASHION


@pytest.mark.parametrize("names", [FASHION, HOSTILE])
def test_disagreements_name_the_classes(names, tmp_path, rendered):
    labels = np.arange(8)
    a, b = np.full((2, 8, 10), 0.01, np.float32)
    a[labels, labels] = b[labels, labels + 1] = 0.91
    runs = ["aug=none", "aug=full"]
    mosaic.disagreements(tmp_path / "a.png", noise(8), labels, [a, b], labels, runs, names)
    page = read_png(tmp_path / "a.png")
    boxes = [image_box(page, *find_image(page, image, 10), 280) for image in noise(8)]
    assert_no_overlap(rendered[0], boxes + text_boxes(rendered[0]))
    title, *_, above, below = texts(rendered[0])
    assert title.partition("\n")[0].endswith("predict different classes, with probabilities")
    if names == FASHION:
        assert (above, below) == ("A: Sneaker, 0.910\nB: Bag, 0.910", "true Sneaker, test image 7")


def draw_augmented(path, splits, aug):
    settings = conftest.settings(f"aug={aug}")
    Pictures(None, splits, settings, None, [], None)._draw_augmented(path)


def test_of_many_classes_the_first_twenty_are_augmented(tmp_path, rendered, splits):
    names = [f"class {index}" for index in range(30)]
    images = noise(60)
    train = Images(torch.from_numpy(images), torch.arange(60) % 30)
    splits = replace(splits, train=train, class_names=tuple(names))
    draw_augmented(tmp_path / "a.png", splits, "none")
    title, *captions = texts(rendered[0])
    assert title == "Training images, not augmented (aug=none), for 20 of 30 classes"
    captions.remove("original")
    assert captions == names[:20]
    page = read_png(tmp_path / "a.png")
    columns = [find_image(page, image, 4)[1] for image in images[:20]]
    assert columns == sorted(set(columns))


# Figures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "collapsed", "many"])
def test_confusion_matrix_colours_only_errors(name, tmp_path, rendered):
    counts = np.diag(np.full(10, 1000))
    if name == "collapsed":
        counts = np.zeros((10, 10), int)
        counts[:, 3] = 1000
    elif name == "many":
        counts = np.arange(100).reshape(10, 10) * 70
    figures.confusion_matrix(tmp_path / "a.png", counts, DIGITS)
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
    correct, total = int(counts.trace()), int(counts.sum())
    right_and_wrong = f"{correct:,} of {total:,} right (green), {total - correct:,} wrong (red)"
    assert axes.get_title() == right_and_wrong


@pytest.mark.parametrize(
    "names",
    [
        ["no", "yes"],
        ["normal", "pneumonia"],
        FASHION,
        HOSTILE,
        [f"breed {index}" for index in range(25)],
        [str(index) for index in range(47)],
        [f"category number {index}" for index in range(100)],
    ],
    ids=lambda names: f"{len(names)} {names[0]}",
)
def test_the_confusion_matrix_fits_the_names_of_its_classes(names, tmp_path, rendered):
    classes = len(names)
    counts = np.full((classes, classes), 7) + 9000 * np.eye(classes, dtype=int)
    figures.confusion_matrix(tmp_path / "a.png", counts, names)
    (figure,) = rendered
    assert_no_overlap(figure, [part.get_tightbbox() for part in figure.axes])
    axes = figure.axes[0]
    for axis in (axes.xaxis, axes.yaxis):
        labels = [tick.label1 for tick in axis.get_major_ticks()]
        assert_no_overlap(figure, [*(label.get_window_extent() for label in labels), axes.bbox])
        if names != HOSTILE:
            assert [label.get_text() for label in labels] == names
    assert len(axes.texts) == (classes**2 if classes <= 25 else 0)
    if axes.texts:
        cell = axes.bbox.width / classes
        assert max(text.get_window_extent().width for text in axes.texts) < cell


def test_names_of_classes_are_rotated_only_if_they_do_not_fit(tmp_path, rendered):
    for names in (DIGITS, ["normal", "pneumonia"], FASHION):
        counts = np.eye(len(names), dtype=int)
        figures.confusion_matrix(tmp_path / "a.png", counts, names)
    rotations = [figure.axes[0].get_xticklabels()[0].get_rotation() for figure in rendered]
    assert rotations == [0, 0, 90]


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
    low, high = figure.axes[1].get_ylim()
    assert low >= 0 and high <= 1  # accuracy
    running, training = figure.axes[0].lines[:2]
    assert running.get_markerfacecolor() != training.get_markerfacecolor()  # after one epoch
    assert -(-epochs // running.get_markevery()) <= figures.MAX_MARKERS


LABEL = "model=custom model.width=0.{} aug=rotate45_flip optimizer=adam optimizer.lr=0.00{}"
NOTE = "12 of 480 groups are shown: those with the lowest mean validation error. "


def curves_of_groups(groups: int, epochs: int, seeds: int = 1) -> dict[str, list[np.ndarray]]:
    errors = np.random.default_rng(0).random((groups, seeds, epochs)) / 3
    return {LABEL.format(index, index): list(runs) for index, runs in enumerate(errors)}


def errors_of_groups(groups: int, interval: float = 0.3) -> dict[str, np.ndarray]:
    counts = np.array([50, 48_000, 49_000, 51_005])
    ends = np.array([1, 1 - interval, 1 + interval])
    rows = np.column_stack([counts, *np.outer([*ends, *(2 * ends)], 0.4 / np.sqrt(counts))])
    return {
        LABEL.format(index, index): rows * [1, *[1 + index / 10] * 6] for index in range(groups)
    }


def visible_labels(axis) -> list[str]:
    """Return the texts of the tick labels within the limits of the axis."""
    low, high = axis.get_view_interval()
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    labels = [tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high]
    return [label for label in labels if label]


def assert_whole(figure, labels: list[str]) -> None:
    """Assert that no part of a chart is cut off or covered, and that the legend has all labels."""
    (axes,), (legend,) = figure.axes, figure.legends
    assert_no_overlap(figure, [axes.get_tightbbox()])  # inside the figure
    text = [*legend.get_texts(), *(each for each in axes.get_children() if isinstance(each, Text))]
    boxes = [each.get_window_extent() for each in text if each.get_text()]
    assert_no_overlap(figure, [axes.get_window_extent(), *boxes])
    assert_no_overlap(figure, [axes.get_window_extent(), legend.get_window_extent()])
    assert [text.get_text().replace("\n", " ") for text in legend.get_texts()] == labels


@pytest.mark.parametrize("groups", [1, 3, 12])
@pytest.mark.parametrize(("epochs", "seeds"), [(1, 3), (10, 1), (1000, 2)])
def test_the_legend_of_overlaid_curves_is_whole(groups, epochs, seeds, tmp_path, rendered):
    errors = curves_of_groups(groups, epochs, seeds)
    figures.overlaid_curves(tmp_path / "a.png", errors, 3 * NOTE)
    (figure,) = rendered
    extra = ["mean of the runs", "a run"] if seeds > 1 else []
    assert_whole(figure, [*errors, *extra])
    assert figure.axes[0].get_title("left").replace("\n", " ") == (3 * NOTE).strip()


def test_a_label_of_any_length_and_with_dollars_is_not_cut_off(tmp_path, rendered):
    labels = ["optimizer=adam " * 40 + "a", "data.dir=$x^$"]
    figures.overlaid_curves(tmp_path / "a.png", {label: [np.ones(2) / 2] for label in labels})
    assert_whole(rendered[0], labels)


@pytest.mark.parametrize("groups", [1, 3, 12])
def test_the_legend_of_errors_by_samples_is_whole(groups, tmp_path, rendered):
    series = errors_of_groups(groups)
    figures.error_by_samples(tmp_path / "a.png", series)
    assert_whole(rendered[0], [*series, "training error", "test error"])
    (axes,) = rendered[0].axes
    assert axes.get_title("left") == figures.INTERVAL_NOTE
    assert visible_labels(axes.xaxis) == ["50", "51,005"]  # others have no space
    ends = [segment[:, 1] for bars in axes.collections for segment in bars.get_segments()]
    expected = [rows[:, column : column + 2] for rows in series.values() for column in (2, 5)]
    assert np.allclose(np.sort(ends, axis=1), np.concatenate(expected))


def test_equal_ends_draw_no_error_bar(tmp_path, rendered):
    figures.error_by_samples(tmp_path / "a.png", errors_of_groups(2, interval=0))
    segments = [bar for bars in rendered[0].axes[0].collections for bar in bars.get_segments()]
    assert len(segments) == 2 * 2 * 4 and not any(map(len, segments))


def test_twelve_lines_are_distinguishable(tmp_path, rendered):
    figures.overlaid_curves(tmp_path / "a.png", curves_of_groups(12, 10))
    (figure,) = rendered
    lines, handles = figure.axes[0].lines, figure.legends[0].get_lines()
    for same in (lines, handles):
        colours = {(line.get_color(), line.get_linestyle()) for line in same}
        markers = {line.get_marker() for line in same}
        assert len(colours) == len(markers) == len(same) == 12
    dashed = handles[-1]
    assert dashed.get_linestyle() == "--"
    dash_and_gap = sum(dashed._dash_pattern[1])  # in points; matplotlib has no public function
    assert np.ptp(dashed.get_xdata()) > 3 * dash_and_gap


def test_a_single_epoch_shows_the_seeds_next_to_each_other(tmp_path, rendered):
    errors = curves_of_groups(2, epochs=1, seeds=3)
    figures.overlaid_curves(tmp_path / "a.png", errors)
    lines = rendered[0].axes[0].lines
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines]
    first, second = errors.values()
    assert [y for _, y in points] == [
        *np.ravel(first),
        np.mean(first),
        *np.ravel(second),
        np.mean(second),
    ]
    assert {round(x, 6) for x, _ in points} == {0.8, 1.2}
    small, large = lines[0], lines[3]
    assert small.get_marker() == "." and large.get_marker() == "o"
    assert {line.get_linestyle() for line in lines} == {"None"}
    assert visible_labels(rendered[0].axes[0].xaxis) == ["1"]


@pytest.mark.parametrize(
    "errors", [[1, 1], [0.99, 0.1], [0.9, 0.6], [0, 0], [0, 0.3, 1], [0.0001, 0.0002], [1e-4, 1]]
)
def test_an_axis_of_errors_is_within_0_and_100_percent(errors, tmp_path, rendered):
    values = np.array(errors, float)
    figures.overlaid_curves(tmp_path / "a.png", {"a": [values, values]})
    counts = 100.0 + np.arange(len(values))
    rows = np.column_stack([counts, values, values - 0.5, values + 0.5, values, values, values])
    figures.error_by_samples(tmp_path / "b.png", {"": rows})
    for figure in rendered:
        (axes,) = figure.axes
        low, high = axes.get_ylim()
        assert 0 <= low < high <= 1
        drawn = axes.lines[0].get_ydata()
        assert (low <= drawn).all() and (drawn <= high).all()  # also an error of zero
        labels = visible_labels(axes.yaxis)
        assert labels and all(0 <= float(label.rstrip("%")) <= 100 for label in labels)
        assert ("zero" in axes.get_ylabel()) == (0 < (values == 0).sum() < len(values))


@pytest.mark.parametrize("labels", [np.arange(60) % 10, np.full(60, 4)])
@pytest.mark.parametrize("collapsed", [False, True])
def test_tsne_labels_each_class_that_occurs(labels, collapsed, tmp_path, rendered):
    coordinates = np.random.default_rng(0).normal(size=(60, 2)) * (not collapsed)
    title = "t-SNE of the 25088 features of 10,000 test images (KL divergence 0.89)"
    scatter.tsne(tmp_path / "a.png", coordinates, labels, FASHION, title)
    (figure,) = rendered
    assert_no_overlap(figure, [figure.axes[0].get_tightbbox()])
    labelled = [text.get_text() for text in figure.axes[0].texts]
    assert labelled == [FASHION[label] for label in np.unique(labels)]


def test_classes_with_the_same_colour_have_different_markers(tmp_path, rendered):
    labels = np.arange(60) % 30
    names = [f"class {index}" for index in range(30)]
    scatter.tsne(tmp_path / "a.png", noise(60)[:, 0, :2], labels, names, "")
    axes = rendered[0].axes[0]
    assert [text.get_text() for text in axes.texts] == names
    styles = {
        (tuple(part.get_facecolor()[0]), part.get_paths()[0].vertices.tobytes())
        for part in axes.collections
    }
    assert len(styles) == 30 and len({colour for colour, _ in styles}) == 10


@pytest.mark.parametrize("names", [FASHION, HOSTILE, [f"category {k}" for k in range(60)]])
def test_labels_of_points_at_the_edge_are_whole(names, tmp_path, rendered):
    angles = np.arange(len(names)) * 2 * np.pi / len(names)
    coordinates = np.column_stack([np.cos(angles), np.sin(angles)])
    scatter.tsne(tmp_path / "a.png", coordinates, np.arange(len(names)), names, "")
    (axes,) = rendered[0].axes
    assert len(axes.texts) == len(names)
    outside = axes.bbox.frozen()
    for box in (text.get_bbox_patch().get_window_extent() for text in axes.texts):
        assert outside.x0 <= box.x0 and box.x1 <= outside.x1


def test_equal_pictures_have_equal_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        draw_misclassified(tmp_path / name, 3)
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert b"tEXt" not in content  # no date and no version of matplotlib
