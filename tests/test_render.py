"""Text, links and images of pages."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from mnistcnn.experiments.curves import errors_by_epoch
from mnistcnn.experiments.groups import Group, group_runs, name_groups
from mnistcnn.experiments.summary import summarise
from mnistcnn.experiments.sweep_content import MAX_CURVE_POINTS, sweep_content
from mnistcnn.experiments.sweep_file import record_sweep, sweep_commands
from mnistcnn.pages import render
from mnistcnn.pages.render import relative_url, shorten, without_directories, write_page
from mnistcnn.pages.sprite import pack_images
from mnistcnn.runs.directory import SUMMARY_HTML
from mnistcnn.runs.history import append_history

from .synthetic_runs import make_run, settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/alice/data/x.gz is missing", "…/x.gz is missing"),
        ("OSError: /mnt/a b", "OSError: …/a b"),
        ("file:///home/bob/x", "…/x"),
        ("sqlite:////home/bob/s.db", "…/s.db"),
        ("https://alice:token@host/m", "https://…@host/m"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("ftp://bob:pw@host/x/y", "…/y"),
        ("../../alice/runs/x: failed", "…/x: failed"),
        ("~alice/runs/x", "…/x"),
        ("1/2 of a/b, 3 / 4", "1/2 of a/b, 3 / 4"),
        ("'/home/bob/it'", "'…/it'"),
        ("C:\\Users\\alice\\x is full", "…/x is full"),
        ("outputs/first/run.html", "outputs/first/run.html"),
    ],
)
def test_directories_are_left_out_of_text(text, expected):
    assert without_directories(text) == expected


def test_paths_below_the_working_directory_become_relative(tmp_path, monkeypatch):
    home = tmp_path / "al ice"
    (home / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "project")
    assert without_directories(f"{home}/project/outputs/run: no") == "outputs/run: no"
    assert without_directories(f"{home}/project is full") == ". is full"
    assert without_directories(f"{home}/data: no") == "…/data: no"


def test_paths_below_the_directory_of_the_page_become_relative(tmp_path):
    sweep = tmp_path / "alice smith" / "sweep"
    sweep.mkdir(parents=True)
    error = f"WriteError: {sweep}/seed-0/last.pt cannot be written"
    make_run(sweep / "a", status="failed", error=error)
    summarise(sweep).write_page()
    text = (sweep / SUMMARY_HTML).read_text()
    assert "WriteError: seed-0/last.pt cannot be written" in text
    assert "smith" not in text


def test_text_remains_in_unusual_directories(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/")
    monkeypatch.chdir("/")
    assert without_directories("1/2 https://x/y /a/b") == "1/2 https://x/y …/b"
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert without_directories("/a/b") == "…/b"
    monkeypatch.chdir("/")  # pytest needs a directory


def test_long_text_is_shortened():
    assert shorten("x" * 10, 5) == "xxxx…"
    assert shorten("xxxxx", 5) == "xxxxx"
    assert len(shorten("y" * 1_000_000)) == render.MAX_LENGTH


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/run.html", "./a/run.html"),
        ("javascript:alert(1)", "./javascript%3Aalert%281%29"),
        ('a"b<c>#d?e%20f', "./a%22b%3Cc%3E%23d%3Fe%2520f"),
        ("é\udcff", "./%C3%A9%FF"),
    ],
)
def test_links_are_relative_and_quoted(path, expected):
    assert relative_url(path) == expected


def test_a_page_with_a_number_that_is_not_finite_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        write_page(tmp_path / "x.html", "summary.html", [], {"value": float("nan")}, title="x",
                   state="", written_at="", running=False, commands=[], best="", content=None,
                   incomplete=[], not_started=[])  # fmt: skip
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("shape", [(130, 5, 7), (3, 4, 4), (1, 2, 2), (70, 3, 3, 3)])
def test_images_are_packed_row_by_row(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    sprite = pack_images(pixels)
    content = base64.b64decode(sprite.url.removeprefix("data:image/png;base64,"))
    picture = np.asarray(Image.open(io.BytesIO(content)))
    height, width = shape[1:3]
    assert (sprite.height, sprite.width) == (height, width)
    assert picture.shape[:2] == (sprite.rows * height, sprite.columns * width)
    for index, image in enumerate(pixels):
        row, column = divmod(index, sprite.columns)
        y, x = row * height, column * width
        assert (picture[y : y + height, x : x + width] == image).all()


# What a sweep's page shows ------------------------------------------------------------------------


def test_the_command_of_a_sweep_has_no_directories(tmp_path):
    command = ["python", "-m", "mnistcnn.train", "-m", "seed=0,1", "data.dir=/home/a",
               "++data.dir=/home/a", "data.mirrors=[https://a:b@c]", "--config-dir", "/home/a/conf",
               "--config-dir=/home/a", "hydra.searchpath=[file:///home/a]", "hydra.sweep.dir=/x",
               "hydra.sweeper.storage=sqlite:////home/a/s.db", "hydra.launcher.account=alice",
               "aug=full"]  # fmt: skip
    job = settings("data.dir=/home/a", "seed=1")
    record_sweep(tmp_path, command, ["data.dir"], [job])
    make_run(tmp_path / "run")
    assert sweep_commands(tmp_path) == ["python -m mnistcnn.train -m seed=0,1 aug=full"]
    summarise(tmp_path).write_page()
    assert "/home/a" not in (tmp_path / SUMMARY_HTML).read_text()
    assert "<li>a single run</li>" in (tmp_path / SUMMARY_HTML).read_text()


def test_curves_of_runs_of_different_lengths_keep_their_points(tmp_path):
    for seed, epochs in ((0, 400), (1, 1000)):
        run = make_run(tmp_path / str(seed), f"seed={seed}")
        for epoch in range(3, epochs + 1):
            append_history(run.path, {"epoch": epoch, "val_accuracy": 0.5 + epoch / 10_000})
    (group,) = groups = group_runs(summarise(tmp_path).runs)
    (curve,) = sweep_content(name_groups(groups), tmp_path).charts["curves"]
    short, long = errors_by_epoch(group)
    assert curve["mean"][-1] == [400, pytest.approx((short[-1] + long[399]) / 2)]
    assert curve["runs"][1][-1] == [1000, pytest.approx(long[-1])]
    assert 100 <= len(curve["runs"][1]) <= MAX_CURVE_POINTS + 1
    assert {epoch for epoch, _ in curve["mean"][:-1]} <= {epoch for epoch, _ in curve["runs"][0]}


def test_errors_by_training_images_are_told_apart_by_directories(tmp_path):
    groups = {}
    for directory, accuracy in (("before", 0.9), ("after", 0.95)):
        for fraction in ("1", "0.5"):
            overrides = [f"data.fraction={fraction}"]
            path = tmp_path / directory / fraction
            groups[f"{directory} {fraction}"] = Group(
                [make_run(path, *overrides, accuracy=accuracy)]
            )
    directories = ["before", "before", "after", "after"]
    samples = sweep_content(groups, tmp_path, directories).charts["samples"]
    assert [(each["name"], [point[:2] for point in each["points"]]) for each in samples[1::2]] == [
        ("before test error", [[25_000, pytest.approx(0.1)], [50_000, pytest.approx(0.1)]]),
        ("after test error", [[25_000, pytest.approx(0.05)], [50_000, pytest.approx(0.05)]]),
    ]


def test_groups_with_long_names_are_told_apart(tmp_path):
    for index in range(2):
        run = make_run(tmp_path / str(index), "aug=full")
        config = (run.path / "config.yaml").read_text()
        name = "x" * 200 + str(index)
        (run.path / "config.yaml").write_text(config.replace("name: full", f"name: {name}"))
    content = sweep_content(name_groups(group_runs(summarise(tmp_path).runs)), tmp_path)
    assert len(content.table["rows"]) == 2
    assert len(content.charts["forest"]) == len(content.charts["curves"]) == 2


def test_a_file_that_was_changed_by_hand_does_not_stop_the_summary(tmp_path):
    for index, name in enumerate(("2024-01-01", "1.5e3", "!!set {a, b}")):
        run = make_run(tmp_path / str(index), "aug=full", f"seed={index}")
        config = (run.path / "config.yaml").read_text()
        (run.path / "config.yaml").write_text(config.replace("name: full", f"name: {name}"))
    summary = summarise(tmp_path)
    summary.write()
    names = [run.settings["aug.name"] for run in summary.runs]
    assert "2024-01-01" in names and 1500.0 in names
    assert (tmp_path / SUMMARY_HTML).exists()


def test_a_page_that_cannot_be_written_costs_only_a_warning(tmp_path, monkeypatch, caplog):
    make_run(tmp_path / "a"), make_run(tmp_path / "b", "aug=full")

    def fail(*_: object) -> None:
        raise RuntimeError("no template")

    monkeypatch.setattr("mnistcnn.experiments.summary.write_summary_page", fail)
    summarise(tmp_path).write()
    assert "summary.html was not written: RuntimeError: no template" in caplog.text
    assert (tmp_path / "validation_curves.png").exists()


def test_scripts_are_executed_only_if_their_hash_is_in_the_policy(tmp_path):
    make_run(tmp_path / "a")
    summarise(tmp_path).write_page()
    text = (tmp_path / SUMMARY_HTML).read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy and "unsafe-inline'; script" in policy
    assert "unsafe" not in re.search(r"script-src ([^;]*);", policy)[1]
    assert json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
