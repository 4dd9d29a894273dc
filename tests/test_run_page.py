"""run.html: what it says, and what it does in a browser."""

import base64
import io
import re
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnistcnn.config.load import FORMAT
from mnistcnn.data.mnist import load_mnist5k
from mnistcnn.evaluation import run_page
from mnistcnn.evaluation.evaluate_run import evaluate_run
from mnistcnn.evaluation.metrics import Predictions, detailed_score
from mnistcnn.evaluation.run_page import EmbeddedImages, RunContent, write_run_page
from mnistcnn.models.layer_summary import Layer
from mnistcnn.runs.directory import RUN_PAGE
from mnistcnn.training.train_run import train_run

from .browser_pages import WIDTHS_AND_THEMES, image_labels, open_page, page_data, shown_pixels
from .conftest import TINY, evaluate_settings, settings

HOSTILE = "<img src=x onerror=alert(1)>"


def predictions(run_dir: Path) -> dict[str, np.ndarray]:
    with np.load(run_dir / "predictions.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def page_file(finished_run) -> Path:
    return finished_run / RUN_PAGE


# The file -----------------------------------------------------------------------------------------


def test_the_images_are_those_of_the_test_set(page_file):
    data = page_data(page_file)
    url = re.search(r"url\(data:image/png;base64,([^)]*)\)", page_file.read_text())[1]
    sprite = np.asarray(Image.open(io.BytesIO(base64.b64decode(url))))
    columns, test = data["sprite"]["columns"], load_mnist5k().test
    assert data["images"]["label"] == test.labels[data["images"]["index"]].tolist()
    for position, index in list(enumerate(data["images"]["index"]))[::17]:
        row, column = 28 * (position // columns), 28 * (position % columns)
        tile = sprite[row : row + 28, column : column + 28]
        assert (tile == test.pixels[index].numpy()).all()


def test_all_errors_and_twenty_right_images_of_each_class_are_there(page_file, finished_run):
    stored, images = predictions(finished_run), page_data(page_file)["images"]
    wrong = np.flatnonzero(stored["labels"] != stored["predictions"])
    assert set(wrong) <= set(images["index"])
    confidence = stored["probabilities"].max(axis=1)
    for label in range(10):
        right = np.flatnonzero((stored["labels"] == label) & (stored["predictions"] == label))
        most = right[np.argsort(-confidence[right], kind="stable")[:20]]
        assert set(most) <= set(images["index"])
    position = images["index"].index(wrong[0])
    assert images["confidence"][position] == pytest.approx(confidence[wrong[0]], abs=1e-5)
    true = stored["probabilities"][wrong[0], stored["labels"][wrong[0]]]
    assert images["truth"][position] == pytest.approx(true, abs=1e-5)


def test_the_page_says_nothing_of_the_sender(page_file, finished_run):
    text = re.sub(r"base64,[\w+/=]*", "", page_file.read_text())
    assert str(finished_run) not in text
    assert str(finished_run.parent) not in text
    assert f"{Path.home()}/" not in text
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
    assert "data.dir" not in text


def test_the_page_has_the_command_that_repeats_the_run(page_file):
    assert "python -m mnistcnn.train data=mnist5k aug=full" in page_file.read_text()


def test_a_page_is_small_even_with_many_errors(tmp_path):
    path = tmp_path / RUN_PAGE
    write_run_page(path, content(count=10_000, error_rate=0.4, points=10_000))
    images = page_data(path)["images"]
    wrong = np.array(images["label"]) != np.array(images["predicted"])
    assert wrong.sum() > run_page.MAX_ERRORS  # some for the embedding only
    text = path.read_text()
    assert re.search(r"The 1,000 most confident of 4,\d\d\d errors\.", text)
    assert "; 2,000 of them are shown" in text
    assert len(page_data(path)["embedding"]["x"]) == run_page.MAX_POINTS
    assert path.stat().st_size < 3_000_000


def test_evaluate_writes_the_page_without_the_checkpoints_directory(finished_run, tmp_path):
    evaluate_run(evaluate_settings(finished_run, "tsne.samples=0"), tmp_path / "again")
    text = (tmp_path / "again" / RUN_PAGE).read_text()
    assert "Evaluated from a checkpoint: best.pt" in text
    assert str(finished_run) not in text
    assert page_data(tmp_path / "again" / RUN_PAGE)["embedding"] is None


def test_the_command_on_the_page_of_an_evaluation_is_that_of_the_training(finished_run, tmp_path):
    overrides = ["tsne.samples=0", "kernels=torch", "neighbours.k=3"]
    evaluate_run(evaluate_settings(finished_run, *overrides), tmp_path / "again")
    text = (tmp_path / "again" / RUN_PAGE).read_text()
    assert "python -m mnistcnn.train data=mnist5k aug=full" in text
    assert "kernels=torch" not in text


def test_without_pictures_there_is_no_page_until_they_are_drawn(tmp_path):
    run_settings = settings(*TINY, "pictures=false")
    train_run(run_settings, tmp_path / "run")
    assert not (tmp_path / "run" / RUN_PAGE).exists()
    train_run(settings(*TINY), tmp_path / "run", resume=True)
    page = tmp_path / "run" / RUN_PAGE
    assert len(page_data(page)["embedding"]["x"]) == 60
    train_run(settings(*TINY, "tsne.samples=50"), tmp_path / "run", resume=True)
    assert len(page_data(page)["embedding"]["x"]) == 50


def test_a_page_that_cannot_be_written_is_a_missing_picture(tmp_path, monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr("mnistcnn.evaluation.pictures.write_run_page", fail)
    metrics = train_run(settings(*TINY, "tsne.samples=0"), tmp_path / "run")
    assert (metrics["status"], metrics["missing_pictures"]) == ("finished", [RUN_PAGE])
    assert "run.html (OSError: no space)" in caplog.text


# In a browser -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "theme"), WIDTHS_AND_THEMES)
def test_the_curves_show_values_under_the_cursor(browser, page_file, width, theme):
    history = page_data(page_file)["history"]
    with open_page(browser, page_file, width, theme) as page:
        page.locator("#loss").scroll_into_view_if_needed()
        box = page.locator("#loss > svg").bounding_box()
        page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] / 2)
        tooltip = page.locator("#loss .tooltip").inner_text()
        assert "epoch 4" in tooltip
        assert f"{history[-1]['val_loss']:.4g}" in tooltip
        page.mouse.move(0, 0)
        assert page.locator("#loss .tooltip").is_hidden()
        page.focus("#accuracy")
        page.keyboard.press("ArrowRight")
        tooltip = page.locator("#accuracy .tooltip").inner_text()
        assert "epoch 1" in tooltip
        assert f"{100 * history[0]['val_accuracy']:.2f}%" in tooltip
        assert "best epoch:" in page.locator("#loss > svg").text_content()
        page.select_option("#accuracy-scale", "logarithmic")
        assert "error" in page.locator("#accuracy > svg").text_content()


@pytest.mark.parametrize(("width", "theme"), WIDTHS_AND_THEMES)
def test_a_cell_of_the_confusion_matrix_shows_its_images(
    browser, page_file, finished_run, width, theme
):
    stored = predictions(finished_run)
    wrong = stored["labels"] != stored["predictions"]
    pairs = np.stack([stored["labels"][wrong], stored["predictions"][wrong]], axis=1)
    (label, predicted), *_ = pairs
    members = np.flatnonzero((stored["labels"] == label) & (stored["predictions"] == predicted))
    order = members[np.argsort(-stored["probabilities"][members, predicted], kind="stable")]
    with open_page(browser, page_file, width, theme) as page:
        page.click(f"button[data-label='{label}'][data-predicted='{predicted}']")
        heading = page.locator("#cell-heading").inner_text()
        assert heading == f"{label}, predicted as {predicted} ({len(members)})"
        assert image_labels(page, "#cell-images") == [
            f"test image {index}: true {label}, predicted {predicted}" for index in order
        ]
        pixels = load_mnist5k().test.pixels[order[0]].tolist()
        assert shown_pixels(page, "#cell-images") == pixels
        page.click("button[data-label='0'][data-predicted='0']")
        assert len(image_labels(page, "#cell-images")) == 20
        assert "the 20 most confident of" in page.locator("#cell-heading").inner_text()


@pytest.mark.parametrize("width", [1400, 390])
def test_errors_are_filtered_and_sorted(browser, page_file, finished_run, width):
    stored = predictions(finished_run)
    wrong = np.flatnonzero(stored["labels"] != stored["predictions"])
    confidence = stored["probabilities"].max(axis=1)[wrong]
    with open_page(browser, page_file, width) as page:
        assert page.locator("#error-count").inner_text() == f"{len(wrong)} of {len(wrong)}"
        shown = image_labels(page, "#error-images")
        assert len(shown) == min(48, len(wrong))
        assert f"test image {wrong[confidence.argmax()]}:" in shown[0]
        page.select_option("#error-order", "least")
        least = wrong[confidence.argmin()]
        assert f"test image {least}:" in image_labels(page, "#error-images")[0]
        while page.locator("#error-images > button").is_visible():
            page.click("#error-images > button")
        assert len(image_labels(page, "#error-images")) == len(wrong)
        label = int(stored["labels"][wrong[0]])
        page.select_option("#error-label", str(label))
        count = int((stored["labels"][wrong] == label).sum())
        assert page.locator("#error-count").inner_text() == f"{count} of {len(wrong)}"
        assert all(f": true {label}," in each for each in image_labels(page, "#error-images"))


@pytest.mark.parametrize(("width", "theme"), WIDTHS_AND_THEMES)
def test_a_point_of_the_embedding_shows_its_image_and_neighbours(browser, page_file, width, theme):
    data = page_data(page_file)
    points, images = data["embedding"], data["images"]

    def index_of(point: int) -> int:
        return images["index"][points["image"][point]]

    with open_page(browser, page_file, width, theme) as page:
        page.locator("#embedding").scroll_into_view_if_needed()
        # the point that is the farthest to the left
        point = int(np.argmin(points["x"]))
        circle = page.locator("#embedding circle").nth(point).bounding_box()
        x, y = circle["x"] + circle["width"] / 2, circle["y"] + circle["height"] / 2
        page.mouse.move(x, y)
        assert f"test image {index_of(point)}:" in page.locator("#embedding .tooltip").inner_text()
        assert page.locator("#embedding .tooltip .tile").count() == 1
        page.mouse.click(x, y)
        shown = image_labels(page, "#neighbour-images")
        expected = [point, *points["neighbours"][point]]
        assert [int(re.search(r"image (\d+):", each)[1]) for each in shown] == [
            index_of(each) for each in expected
        ]
        assert page.locator("#embedding line").count() == 8
        page.check("#embedding-errors")
        wrong = sum(
            images["label"][position] != images["predicted"][position]
            for position in points["image"]
        )
        assert page.locator("#embedding.errors circle.wrong").count() == wrong
        page.check("input[value=predicted]")
        page.focus("#embedding")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert str(index_of(point + 1)) in page.locator("#neighbour-heading").inner_text()


def test_tables_sort(browser, page_file):
    with open_page(browser, page_file) as page:
        page.click("#classes th:has-text('recall') button")
        cells = page.locator("#classes table.sortable tbody tr td:nth-child(3)").all()
        recalls = [float(cell.get_attribute("data-value")) for cell in cells]
        assert recalls == sorted(recalls)
        page.click("#classes th:has-text('recall') button")
        first = page.locator("#classes table.sortable tbody tr td:nth-child(3)").first
        assert float(first.get_attribute("data-value")) == max(recalls)


# Names and numbers of any kind --------------------------------------------------------------------


def content(
    class_names: tuple[str, ...] = tuple("0123456789"),
    count: int = 200,
    error_rate: float = 0.1,
    points: int = 50,
    **changes: object,
) -> RunContent:
    """Return the content of a page with random predictions for digits."""
    generator, classes = np.random.default_rng(0), len(class_names)
    images = load_mnist5k().test
    chosen = np.arange(count) % len(images)
    labels = images.labels.numpy()[chosen] % classes
    scores = generator.normal(size=(count, classes)).astype(np.float32)
    right = generator.random(count) > error_rate
    scores[np.arange(count), labels] += np.where(right, 8, -8)
    log_probabilities = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    test = Predictions(labels, log_probabilities, generator.normal(size=(count, 8)))
    split = {"loss": 0.1, "accuracy": 0.9, "error": 0.1}
    metrics = {
        "format": FORMAT, "status": "finished", "started_at": "2026-11-27T10:00:00.000000+00:00",
        "data": {"name": "mnist5k", "train": 10, "validation": 5, "test": count},
        "model": {"name": "convnet", "parameters": 5}, "epochs": 1, "train": split,
        "validation": split, "test": detailed_score(test, class_names), "device": "cpu",
        "threads": 1, "precision": "float32", "kernels": "torch", "git_commit": None,
        "seconds": {"total": 1.0}, "versions": {"torch": "2"},
    }  # fmt: skip
    pixels = images.pixels.numpy()[chosen]
    run_settings = changes.pop("settings", None) or settings("data=mnist5k")
    values = {
        "settings": run_settings,
        "trained_settings": run_settings,
        "metrics": metrics,
        "history": [],
        "class_names": class_names,
        "label_errors": (),
        "pixels": pixels,
        "test": test,
        "embedding": EmbeddedImages(
            np.arange(points), generator.normal(size=(points, 2)), "t-SNE of random numbers"
        ),
        "originals": pixels[:classes],
        "variants": np.zeros((0, classes, 28, 28)),
        "augmented_title": "Training images",
        "layers": [Layer("Linear", 0, "10", 5)],
    }
    return RunContent(**(values | changes))


@pytest.mark.parametrize("width", [1400, 390])
def test_hostile_class_names_are_shown_and_not_executed(browser, tmp_path, width):
    names = (
        HOSTILE,
        "\"quotes' & more",
        "</script><script>alert(1)</script>",
        "ü漢字🙂",
        "x" * 999,
    )
    path = tmp_path / RUN_PAGE
    write_run_page(path, content(names))
    with open_page(browser, path, width) as page:
        page.click("button[data-label='0'][data-predicted='0']")
        assert page.locator("#cell-heading").inner_text().startswith(f"{HOSTILE}, predicted")
        assert page.locator("#error-label option").nth(4).inner_text() == "ü漢字🙂"
        assert page.locator("img[src=x]").count() == 0


def test_a_hostile_name_of_an_option_is_shown_and_not_executed(browser, tmp_path):
    for name in (HOSTILE, "a" * 1_000_000, "\udcff", "'\"&${x}"):
        run_settings = settings("data=mnist5k", "aug=full")
        run_settings.aug.name = name
        write_run_page(tmp_path / RUN_PAGE, content(settings=run_settings))
        assert (tmp_path / RUN_PAGE).stat().st_size < 1_000_000
        with open_page(browser, tmp_path / RUN_PAGE) as page:
            heading = page.locator("h1").inner_text()
            assert "aug=" + name[:20].replace("\udcff", "\\udcff") in heading


def test_known_label_errors_are_marked(browser, tmp_path):
    some = content()
    wrong = np.flatnonzero(~some.test.correct)[:3]
    path = tmp_path / RUN_PAGE
    write_run_page(path, content(label_errors=(*wrong.tolist(), 199)))
    with open_page(browser, path) as page:
        assert "3 of the errors are among the 4 test images" in page.inner_text("#errors")
        page.check("#error-known")
        assert len(image_labels(page, "#error-images")) == 3
        assert page.locator("#error-images .badge").count() == 3


def test_a_network_without_errors_has_a_page(browser, tmp_path):
    write_run_page(tmp_path / RUN_PAGE, content(error_rate=0.0))
    with open_page(browser, tmp_path / RUN_PAGE) as page:
        assert "No test image is misclassified." in page.inner_text("#errors")


def test_two_classes_have_a_page(browser, tmp_path):
    write_run_page(tmp_path / RUN_PAGE, content(("normal", "pneumonia")))
    with open_page(browser, tmp_path / RUN_PAGE, 390) as page:
        assert page.locator("table.confusion button").count() == 4
