"""Pictures: where things lie in them. What they look like, a person has looked at."""

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.transforms import Bbox
from PIL import Image

from mnistcnn import plots

RED, BLUE, GREY, BLACK = (238, 102, 119), (68, 119, 170), (204, 204, 204), (0, 0, 0)


def noise(*shape: int) -> np.ndarray:
    """Images of which no two are alike."""
    return np.random.default_rng(shape).integers(0, 256, (*shape, 28, 28), np.uint8)


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def place(page: np.ndarray, image: np.ndarray, scale: int) -> tuple[int, int]:
    """Row and column of the picture at which ``image`` begins, each pixel a square of ``scale``."""
    block = np.kron(255 - image, np.ones((scale, scale), np.uint8))[..., None].repeat(3, axis=2)
    first, size = block[0].tobytes(), len(block)
    found = [
        (y, at // 3)
        for y, row in enumerate(page)
        if (at := row.tobytes().find(first)) >= 0
    ]  # fmt: skip
    y, x = found[0]
    assert np.array_equal(page[y : y + size, x : x + size], block)
    return y, x


def frame(page: np.ndarray, y: int, x: int, size: int, width: int) -> tuple[int, ...]:
    """The one colour of a frame ``width`` pixels wide around a square, white around that."""
    around = page[y - width : y + size + width, x - width : x + size + width].astype(int)
    inside = np.zeros(around.shape[:2], bool)
    inside[width:-width, width:-width] = True
    colours = np.unique(around[~inside], axis=0)
    assert len(colours) == 1
    assert (page[y - width - 1, x : x + size] == 255).all()
    assert (page[y : y + size, x + size + width] == 255).all()
    return tuple(colours[0].tolist())


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that were drawn."""
    figures, real = [], plots._drawn

    def draw(figure):
        figures.append(figure)
        return real(figure)

    monkeypatch.setattr(plots, "_drawn", draw)
    return figures


def assert_apart(figure, boxes: list) -> None:
    """These parts lie inside the picture, and no two of them over each other by a pixel."""
    low, high = (np.array([getattr(box, end) for box in boxes]) for end in ("min", "max"))
    assert (low >= 0).all() and (high <= figure.bbox.max).all()
    shared = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)  # sides of the overlap
    assert np.array_equal((shared >= 1).all(axis=2), np.eye(len(boxes), dtype=bool))


def text_boxes(figure) -> list:
    return [text.get_window_extent() for text in figure.texts]


def image_box(page: np.ndarray, y: int, x: int, size: int) -> Bbox:
    return Bbox([[x, len(page) - y - size], [x + size, len(page) - y]])


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def errors(path, count: int):
    digits = np.arange(count) % 10
    confidence = np.linspace(0.99999, 0.5, count)
    plots.misclassified(path, noise(count), digits, digits + 1, confidence, digits + 9990)


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_misclassified_is_a_grid_of_three_by_three_with_gaps(count, tmp_path, drawn):
    errors(tmp_path / "a.png", count)
    page = read(tmp_path / "a.png")
    errors(tmp_path / "nine.png", 9)
    assert page.shape == read(tmp_path / "nine.png").shape  # however many there are
    places = [place(page, image, 8) for image in noise(count)]
    assert len(set(places)) == count
    rows, columns = sorted({y for y, _ in places}), sorted({x for _, x in places})
    expected = [(rows[n // 3], columns[n % 3]) for n in range(count)]
    assert places == expected
    assert all(frame(page, *at, 224, 1) == BLACK for at in places)
    boxes = [image_box(page, *at, 224) for at in places]
    assert_apart(drawn[0], boxes + text_boxes(drawn[0]))
    title, *around = texts(drawn[0])
    assert title == ("The most confident errors" if count else "No error in the test set")
    first = ["true 0, predicted 1\nwith probability > 0.999", "test image 9990"]
    assert around[:2] == first[: 2 * count]


@pytest.mark.parametrize(("targets", "k"), [(1, 1), (4, 8), (3, 2), (1, 50), (20, 1)])
def test_neighbours_lie_beside_their_target_nearest_first(targets, k, tmp_path, drawn):
    labels = np.arange(targets) % 10
    others = np.tile(labels[:, None], (1, k))
    others[-1, -1] += 1
    distances = np.linspace(12345, 0, targets * k).reshape(targets, k)[::-1, ::-1]
    images, nearest = noise(targets), noise(targets, k)
    plots.neighbours(tmp_path / "a.png", images, labels, nearest, others, distances)
    page = read(tmp_path / "a.png")
    boxes = []
    lowest = 0
    for row in range(targets):
        places = [place(page, image, 5) for image in (images[row], *nearest[row])]
        assert len({y for y, _ in places}) == 1 and places[0][0] > lowest
        lowest = places[0][0] + 140
        assert set(np.diff([x for _, x in places])) == {150}
        assert frame(page, *places[0], 140, 2) == BLACK
        for column, at in enumerate(places[1:]):
            wrong = row == targets - 1 and column == k - 1
            assert frame(page, *at, 140, 4 if wrong else 1) == (RED if wrong else GREY)
        boxes += [image_box(page, *at, 140) for at in places]
    assert_apart(drawn[0], boxes + text_boxes(drawn[0]))
    title, first, *_, last, distance = texts(drawn[0])
    assert title == f"Test images and their {k} nearest by features\n(Euclidean distance)"
    assert first == "target: 0" and (last, distance) == (str(others[-1, -1]), "12345.00")
    label = drawn[0].texts[-2]
    assert label.get_color() == plots.RED and label.get_weight() == "bold"


@pytest.mark.parametrize(("variants", "columns"), [(1, 10), (6, 10), (2, 3)])
def test_augmented_images_lie_below_their_original(variants, columns, tmp_path, drawn):
    originals, draws = noise(columns), noise(variants, columns)
    title = "Training images, and draws of aug=" + 12 * "long_name"
    almost = draws.astype(np.float32) + np.float32(0.3)  # as a product of floats may be
    plots.augmented(tmp_path / "a.png", originals, almost.clip(0, 255), title)
    page = read(tmp_path / "a.png")
    places = np.array([[place(page, image, 4) for image in row] for row in (originals, *draws)])
    assert (np.diff(places[..., 0], axis=0) == 122).all() and not np.ptp(places[..., 0], 1).any()
    assert (np.diff(places[..., 1], axis=1) == 122).all() and not np.ptp(places[..., 1], 0).any()
    assert {frame(page, *at, 112, 3) for at in places[0]} == {BLUE}
    assert {frame(page, *at, 112, 1) for at in places[1:].reshape(-1, 2)} == {GREY}
    boxes = [image_box(page, *at, 112) for at in places.reshape(-1, 2)]
    assert_apart(drawn[0], boxes + text_boxes(drawn[0]))
    assert texts(drawn[0])[0].replace("\n", " ").split("=")[0] == title.split("=")[0]
    assert texts(drawn[0])[1:] == ["original"]


@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_disagreements_have_room_for_long_names(count, tmp_path, drawn):
    labels = np.arange(count)
    a, b = np.full((2, count, 10), 0.01, np.float32)
    a[labels, labels] = b[labels, labels + 1] = 0.91
    name = ",".join(["optimizer.lr=0.1", "model.batch_norm=before_relu"] * 5)
    plots.disagreements(
        tmp_path / "a.png", noise(count), labels, [a, b], labels + 9990, [name, "aug=none"]
    )
    page = read(tmp_path / "a.png")
    places = [place(page, image, 10) for image in noise(count)]
    rows, columns = sorted({y for y, _ in places}), sorted({x for _, x in places})
    assert places == [(rows[n // 4], columns[n % 4]) for n in range(count)]
    boxes = [image_box(page, *at, 280) for at in places]
    assert_apart(drawn[0], boxes + text_boxes(drawn[0]))
    title, *around = texts(drawn[0])
    assert title.startswith("A: optimizer.lr=0.1,") and "\nB: aug=none" in title
    assert ("the same digit" in title) == (count == 0)
    if count:
        assert around[:2] == [
            "A: 0 with probability 0.910\nB: 1 with probability 0.910", "true 0, test image 9990",
        ]  # fmt: skip
        assert drawn[0].texts[1].get_color() == plots.BLUE  # A is right


@pytest.mark.parametrize("name", ["none", "collapsed", "many"])
def test_confusion_colours_errors_alone(name, tmp_path, drawn):
    counts = np.diag(np.full(10, 1000))
    if name == "collapsed":
        counts = np.zeros((10, 10), int)
        counts[:, 3] = 1000
    elif name == "many":
        counts = np.arange(100).reshape(10, 10) * 70
    plots.confusion(tmp_path / "a.png", counts)
    page, (figure,) = read(tmp_path / "a.png"), drawn
    axes = figure.axes[0]
    assert_apart(figure, [part.get_tightbbox() for part in figure.axes])
    most = max(1, (counts * (1 - np.eye(10, dtype=int))).max())
    for true, predicted in np.ndindex(10, 10):
        x, y = axes.transData.transform((predicted + 0.4, true + 0.4))  # beside the number
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
        (4, {"val_loss": 3e9}),  # 1e9 is written over the axis
        (4, {"val_loss": -471234.5}),
        (4, {"val_accuracy": 0.90004, "train_accuracy": 0.89996}),
        (4, {"val_accuracy": 1.0, "train_accuracy": 0.0}),
    ],
)
def test_curves_have_room_for_their_numbers(epochs, changed, tmp_path, drawn):
    plots.curves(tmp_path / "a.png", history(epochs, **changed), epochs)
    (figure,) = drawn
    parts = [*figure.axes, *figure.legends]
    assert_apart(figure, [part.get_tightbbox() for part in parts])
    assert len(figure.legends[0].get_texts()) == 4
    assert read(tmp_path / "a.png").shape == (559, 1300, 3)


@pytest.mark.parametrize("labels", [np.arange(60) % 10, np.full(60, 4)])
@pytest.mark.parametrize("collapsed", [False, True])
def test_tsne_has_a_label_for_each_digit_there_is(labels, collapsed, tmp_path, drawn):
    coordinates = np.random.default_rng(0).normal(size=(60, 2)) * (not collapsed)
    title = "t-SNE of the 25088 features of 10,000 test images"
    plots.tsne(tmp_path / "a.png", coordinates, labels, title)
    (figure,) = drawn
    assert_apart(figure, [figure.axes[0].get_tightbbox()])
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == [str(digit) for digit in np.unique(labels)]


def test_the_same_picture_is_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        errors(tmp_path / name, 3)
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert b"tEXt" not in content  # neither a date nor a version
