"""The pages of sweeps, comparisons and the reproduction, in a browser."""

import io
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from mnistcnn.data.mnist import load_mnist5k
from mnistcnn.experiments import multirun, reproduction
from mnistcnn.experiments.comparison import compare_paths
from mnistcnn.experiments.results import load_plan
from mnistcnn.experiments.summary import summarise
from mnistcnn.experiments.sweep_file import record_sweep
from mnistcnn.runs.directory import (
    COMPARISON_HTML,
    PREDICTIONS,
    REPRODUCTION_HTML,
    RUN_PAGE,
    SUMMARY_HTML,
)
from mnistcnn.runs.history import append_history

from .browser_pages import WIDTHS_AND_THEMES, image_labels, open_page, shown_pixels
from .synthetic_runs import make_run, settings

HOSTILE = "<img src=x onerror=alert(1)>"
LABELS = load_mnist5k().test.labels.numpy()


def make_tested_run(path: Path, wrong: list[int], *overrides: str):
    """Create a run that was tested on mnist5k and predicts the next class for images ``wrong``."""
    data = {"name": "mnist5k", "train": 3400}
    run = make_run(
        path, "data=mnist5k", *overrides, accuracy=1 - len(wrong) / len(LABELS), data=data
    )
    predicted = LABELS.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 10
    probabilities = np.full((len(LABELS), 10), 0.01, dtype=np.float32)
    probabilities[np.arange(len(LABELS)), predicted] = 0.91
    content = io.BytesIO()
    np.savez(content, labels=LABELS, predictions=predicted, probabilities=probabilities)
    (path / PREDICTIONS).write_bytes(content.getvalue())
    return run


# A sweep ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Return a sweep of two groups with four seeds each, a failed run and one not started."""
    root = tmp_path_factory.mktemp("pages") / HOSTILE.replace("/", "")
    root.mkdir()
    for fraction, accuracy in (("1", 0.96), ("0.5", 0.92)):
        for seed in range(4):
            overrides = [f"data.fraction={fraction}", f"seed={seed}"]
            run_dir = root / f"f{fraction}-{seed} #%?é"
            make_run(run_dir, *overrides, accuracy=accuracy - 0.01 * seed)
            (run_dir / RUN_PAGE).write_text("<p>page")
    error = f"OSError: /home/somebody/data/x cannot be read {HOSTILE}"
    make_run(root / "failed", "data.fraction=0.5", "seed=9", status="failed", error=error)
    jobs = [settings("data.fraction=0.5", f"seed={seed}") for seed in (0, 77)]
    command = ["python", "-m", "mnistcnn.train", "-m", "seed=0,77", f"hydra.sweep.dir={root}"]
    record_sweep(root, command, ["data.fraction", "seed"], jobs)
    summarise(root).write_page()
    return root


@pytest.mark.parametrize(("width", "theme"), WIDTHS_AND_THEMES)
def test_the_table_of_a_sweep_unfolds_and_links_to_its_runs(browser, sweep, width, theme):
    with open_page(browser, sweep / SUMMARY_HTML, width, theme) as page:
        assert page.locator("h1").inner_text() == f"Sweep {sweep.name}"
        assert "8 runs complete, 1 without a result, 1 not started." in page.inner_text("main")
        rows = page.locator("table.groups tbody tr")
        assert rows.nth(0).inner_text().split()[1:4] == ["1", "4", "96.50"]
        member = page.locator("tr.member").first
        assert member.is_hidden()
        page.locator("button.unfold").first.click()
        assert member.is_visible()
        assert "seed 0" in member.inner_text()
        assert "runs of data.fraction=1" in page.locator("button.unfold").first.get_attribute(
            "aria-label"
        )
        href = member.locator("a").get_attribute("href")
        target = page.evaluate("(href) => new URL(href, location.href).href", href)
        assert target == (sweep / "f1-0 #%?é" / RUN_PAGE).as_uri()
        page.locator("button.unfold").first.press("Enter")
        assert member.is_hidden()


def test_a_sorted_table_keeps_the_runs_below_their_group(browser, sweep):
    with open_page(browser, sweep / SUMMARY_HTML) as page:
        page.locator("table.groups th button", has_text="test error").click()
        rows = page.locator("table.groups tbody tr").all()
        assert "94.50" in rows[0].inner_text()  # the lowest error is first
        assert "seed 0" in rows[1].text_content()
        assert "96.00" in rows[1].text_content()


@pytest.mark.parametrize(("width", "theme"), WIDTHS_AND_THEMES)
def test_the_charts_of_a_sweep_show_their_values(browser, sweep, width, theme):
    with open_page(browser, sweep / SUMMARY_HTML, width, theme) as page:
        forest = page.locator("#sweep-forest svg").text_content()
        assert re.search(r"data.fraction=1: 5.50 \(3.45 to 7.55\), n = 4", forest)
        page.focus("#sweep-curves")
        page.keyboard.press("ArrowRight")
        tooltip = page.locator("#sweep-curves .tooltip")
        assert "epoch 1" in tooltip.inner_text() and "24.50%" in tooltip.inner_text()
        page.uncheck("#sweep-curves-legend input >> nth=0")
        page.focus("#sweep-curves")
        page.keyboard.press("ArrowRight")
        assert "data.fraction=0.5" in tooltip.inner_text()
        assert "data.fraction=1" not in tooltip.inner_text()
        page.locator("#sweep-samples").scroll_into_view_if_needed()
        box = page.locator("#sweep-samples > svg").bounding_box()
        page.mouse.move(box["x"] + box["width"] - 30, box["y"] + 60)
        tooltip = page.locator("#sweep-samples .tooltip").inner_text()
        assert "training images 50,000" in tooltip
        assert "5.50% (3.45% to 7.55%)" in tooltip


def test_runs_without_a_result_have_their_reasons(sweep, browser):
    with open_page(browser, sweep / SUMMARY_HTML) as page:
        text = page.inner_text("section:has(#incomplete-heading)")
        assert f"OSError: …/x cannot be read {HOSTILE}" in text
        assert "1 not started:\n\nseed=77" in text
        assert "somebody" not in page.content()
        commands = page.locator("code").all_inner_texts()
        assert commands == ["python -m mnistcnn.train -m seed=0,77"]


def test_the_page_of_a_hundred_runs_is_small(tmp_path):
    first = make_run(tmp_path / "0", "seed=0").path
    for epoch in range(3, 501):
        append_history(first, {"epoch": epoch, "val_accuracy": 0.91 + epoch / 10_000})
    for seed in range(1, 100):
        shutil.copytree(first, tmp_path / str(seed))
        config = (first / "config.yaml").read_text()
        fraction = 1 / (1 + seed // 10)
        config = config.replace("seed: 0", f"seed: {seed}")
        config = config.replace("fraction: 1.0", f"fraction: {fraction}")
        (tmp_path / str(seed) / "config.yaml").write_text(config)
    summarise(tmp_path).write_page()
    assert (tmp_path / SUMMARY_HTML).stat().st_size < 2_000_000


def test_a_megabyte_of_text_in_a_setting_does_not_fill_the_page(tmp_path, browser):
    for seed, name in enumerate(("x" * 1_000_000, HOSTILE, "ü漢字🙂", "'\"&${x}")):
        run_dir = make_run(tmp_path / str(seed), "aug=full", f"seed={seed}").path
        config = (run_dir / "config.yaml").read_text()
        quoted = name.replace("'", "''")
        (run_dir / "config.yaml").write_text(config.replace("name: full", f"name: '{quoted}'"))
    summarise(tmp_path).write_page()
    assert (tmp_path / SUMMARY_HTML).stat().st_size < 200_000
    with open_page(browser, tmp_path / SUMMARY_HTML, 390) as page:
        assert HOSTILE in page.inner_text("table.groups")
        assert page.locator("img").count() == 0


def test_a_sweep_without_a_complete_run_has_a_page(tmp_path, browser):
    make_run(tmp_path / "a", status="interrupted")
    summarise(tmp_path).write_page()
    with open_page(browser, tmp_path / SUMMARY_HTML) as page:
        assert "0 runs complete, 1 without a result." in page.inner_text("main")


def test_the_page_is_rewritten_while_the_sweep_runs_but_not_all_the_time(tmp_path, monkeypatch):
    make_run(tmp_path / "a")
    now = [time.monotonic()]
    monkeypatch.setattr(multirun.time, "monotonic", lambda: now[0])
    sweep, page = multirun.Multirun(tmp_path), tmp_path / SUMMARY_HTML
    sweep._update_page()
    assert "The page is rewritten while the sweep runs" in page.read_text()
    page.write_text("")
    os.utime(page, (0, 0))  # long ago
    now[0] += multirun.PAGE_SECONDS - 1
    sweep._update_page()
    assert page.read_text() == ""
    now[0] += 2
    sweep._update_page()
    assert "1 run complete." in page.read_text()
    page.write_text("of another process")
    now[0] += multirun.PAGE_SECONDS + 1
    sweep._update_page()
    assert page.read_text() == "of another process"
    summarise(tmp_path).write()
    assert "The page is rewritten" not in page.read_text()


def test_charts_of_values_that_differ_only_by_rounding_are_drawn(tmp_path, browser):
    for aug, accuracy in (("none", 0.1), ("full", 0.10000000000000002)):
        for seed in range(7):
            run = make_run(tmp_path / f"{aug}-{seed}", f"aug={aug}", f"seed={seed}", accuracy=0.1)
            for file in (run.path / "metrics.json", run.path / "history.jsonl"):
                file.write_text(
                    re.sub(r"\b0\.(9|1|11|12|88|89)\b", str(accuracy), file.read_text())
                )
    summarise(tmp_path).write_page()
    with open_page(browser, tmp_path / SUMMARY_HTML) as page:
        assert page.locator("#sweep-curves > svg path").count() > 0
        assert page.locator("#sweep-curves-legend li").count() == 2
        assert page.locator("#sweep-forest > svg rect").count() >= 2


def test_a_page_that_cannot_be_written_does_not_stop_a_sweep(tmp_path, monkeypatch):
    make_run(tmp_path / "a")
    (tmp_path / SUMMARY_HTML).mkdir()
    multirun.Multirun(tmp_path)._update_page()
    assert (tmp_path / SUMMARY_HTML).is_dir()


# A comparison -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """Return the directory of a comparison: aug=full makes fewer errors than aug=none."""
    root = tmp_path_factory.mktemp("comparison")
    for seed in range(6):
        wrong = [*range(0, 60 + seed, 2)]
        make_tested_run(root / "none" / str(seed), [*wrong, 500], f"seed={seed}")
        make_tested_run(root / "full" / str(seed), wrong[:20], "aug=full", f"seed={seed}")
    out = root / "out"
    compare_paths([root / "none", root / "full"], out, None, None).write()
    return out


@pytest.mark.parametrize(("width", "theme"), WIDTHS_AND_THEMES)
def test_a_comparison_has_its_verdict_and_the_differences_of_the_seeds(
    browser, compared, width, theme
):
    with open_page(browser, compared / COMPARISON_HTML, width, theme) as page:
        verdict = page.inner_text(".verdict")
        assert verdict.startswith("aug=full against aug=none: test error -1.2")
        assert verdict.endswith("It helps.")
        chart = page.locator("#differences svg").text_content()
        assert re.search(r"aug=full against aug=none: -1\.2\d+ \(.*\), p = 0.0312, helps", chart)
        assert page.locator("#differences circle").count() == 6
        page.click("#verdict-heading ~ details summary")
        rows = page.locator("#seed-table tbody tr").all_inner_texts()
        assert [row.split("\t")[1:] for row in rows[:2]] == [["0", "-1.100"], ["1", "-1.200"]]


@pytest.mark.parametrize(("width", "theme"), WIDTHS_AND_THEMES)
def test_images_on_which_two_groups_disagree_are_shown(browser, compared, width, theme):
    with open_page(browser, compared / COMPARISON_HTML, width, theme) as page:
        labels = image_labels(page, "#disagreements")
        shown = {int(re.search(r"image (\d+):", label)[1]) for label in labels}
        always, sometimes = {500, *range(40, 60, 2)}, {60, 62, 64}  # errors of aug=none
        assert always <= shown <= always | sometimes
        first = int(re.search(r"image (\d+):", labels[0])[1])
        pixels = load_mnist5k().test.pixels[first].tolist()
        assert shown_pixels(page, "#disagreements") == pixels
        text = page.locator("#disagreements li").first.inner_text()
        true = LABELS[first]
        assert f"true {true}\nbaseline {(true + 1) % 10} 0.910\nchange {true} 0.910" in text
        page.select_option("#correct-side", "a")
        assert page.locator("#image-count").inner_text() == f"0 of {len(shown)}"
        page.select_option("#correct-side", "b")
        assert page.locator("#image-count").inner_text() == f"{len(shown)} of {len(shown)}"


def test_a_comparison_of_several_groups_has_a_table_and_a_choice_of_pairs(browser, tmp_path):
    for index, aug in enumerate(("none", "full", "prose")):
        for seed in range(3):
            wrong = [*range(index, 30 + seed, 2)]
            make_tested_run(tmp_path / f"{aug}-{seed}", wrong, f"aug={aug}", f"seed={seed}")
    compare_paths([tmp_path], tmp_path / "out", None, None).write()
    with open_page(browser, tmp_path / "out" / COMPARISON_HTML) as page:
        verdicts = page.locator("section:has(#verdict-heading) table").first.inner_text()
        assert "not shown: about" in verdicts
        options = page.locator("#pair option").all_inner_texts()
        assert options == ["aug=full against aug=none", "aug=prose against aug=none"]
        before = image_labels(page, "#disagreements")
        page.select_option("#pair", "1")
        assert image_labels(page, "#disagreements") != before


def test_a_comparison_links_to_pages_only_inside_of_the_working_directory(tmp_path, monkeypatch):
    work, other = tmp_path / "work", tmp_path / "somebody"
    for folder in (work, other):
        run = make_tested_run(folder / "run", [1, 2], f"seed={len(folder.name)}")
        (run.path / RUN_PAGE).write_text("page")
    monkeypatch.chdir(work)
    out = work / "answers" / "out"
    compare_paths([Path("run"), other / "run"], out, None, None).write()
    text = (out / COMPARISON_HTML).read_text()
    assert 'href="./../../run/run.html"' in text
    assert "somebody" not in text


# The reproduction ---------------------------------------------------------------------------------


def test_the_reproduction_has_the_groups_of_each_experiment(browser, tmp_path):
    plan = load_plan()
    item = next(each for each in plan["items"] if each["experiment"] == "augmentations")
    sweep_dir = tmp_path / "quick" / "augmentations"
    for aug in ("none", "full"):
        for seed in range(3):
            run_dir = sweep_dir / f"{aug}-{seed}"
            versions = {"torch": "2.11"}
            make_run(run_dir, f"aug={aug}", f"seed={seed}", device="cpu", versions=versions,
                     git_commit=None, peak_memory_bytes=None)  # fmt: skip
    reproduction.write_reproduction(tmp_path, "quick", plan | {"items": [item]}, None)
    with open_page(browser, tmp_path / REPRODUCTION_HTML) as page:
        assert item["title"] in page.inner_text("h2")
        page.click("summary")
        text = page.locator("#augmentations-forest svg").text_content()
        assert "aug=full: 10.00 (10.00 to 10.00), n = 3" in text
        assert str(tmp_path) not in page.content()
        assert "experiment=augmentations" in page.inner_text("#augmentations code")
