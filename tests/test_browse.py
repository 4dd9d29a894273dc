"""The page of all runs: its content, its cache, and its search and order in a browser."""

import contextlib
import json
import os
import re
import subprocess
import sys
import webbrowser
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import mnistcnn.browse
from mnistcnn.config.load import FORMAT
from mnistcnn.experiments import browse, run_index
from mnistcnn.experiments.browse import PAGE, Row, index_rows, write_index_page
from mnistcnn.experiments.run_index import CACHE, Index, update_index
from mnistcnn.experiments.sweep_file import record_sweep
from mnistcnn.runs.directory import CONFIG, HISTORY, METRICS, PREDICTIONS

from .synthetic_runs import make_run, settings

TRAIN = ["python", "-m", "mnistcnn.train", "-m"]


def rows_of(root: Path) -> list[Row]:
    return index_rows(update_index(root, browse._read_entry))


def make_sweep(path: Path, accuracies: dict[str, list[float]]) -> None:
    """Create a sweep with runs of the seeds 0, 1, ... for each value of ``aug``."""
    jobs = []
    for aug, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            overrides = (f"aug={aug}", f"seed={seed}")
            make_run(path / f"aug-{aug}_seed-{seed}", *overrides, accuracy=accuracy)
            jobs.append(settings(*overrides))
    record_sweep(path, TRAIN, ["aug", "seed"], jobs)


@pytest.fixture
def read(monkeypatch) -> Iterator[list[str]]:
    """Return the names of the directories that are read."""
    names = []
    read_entry = browse._read_entry

    def counted(path, files):
        names.append(path.name)
        return read_entry(path, files)

    monkeypatch.setattr(browse, "_read_entry", counted)
    return names


# Content -----------------------------------------------------------------------------------------


def test_runs_sweeps_and_comparisons_are_listed_newest_first(tmp_path):
    make_run(tmp_path / "2026-11-26" / "first")
    make_sweep(tmp_path / "a sweep", {"none": [0.9]})
    make_run(tmp_path / "last")
    for name in ("comparison", "reproduction"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.html").write_text("")
    rows = rows_of(tmp_path)
    assert [(row.kind, row.name) for row in rows[2:]] == [
        ("run", "last"),
        ("sweep", "a sweep"),
        ("run", "2026-11-26/first"),
    ]
    assert {(row.kind, row.link) for row in rows[:2]} == {
        ("comparison", "comparison/comparison.html"),
        ("reproduction", "reproduction/reproduction.html"),
    }


def test_a_row_has_the_values_of_its_run(tmp_path):
    run = make_run(tmp_path / "run", "aug=full", accuracy=0.9, seconds=12.34)
    (row,) = rows_of(tmp_path)
    assert row.settings == ["convnet", "mnist", "full"]
    assert row.errors == ["10.00", "9.00", "8.00"]
    assert (row.epochs, row.seconds, row.status, row.note) == ("2", "12.3", "finished", "")
    assert row.started == run.started_at and row.minute == run.started_at[:16].replace("T", " ")
    assert {"kind=run", "status=finished", "aug=full", "seed=0", "optimizer.lr=1"} <= {*row.terms}


def test_a_row_links_to_a_page_and_shows_a_picture_or_neither(tmp_path):
    run = make_run(tmp_path / "run").path
    (row,) = rows_of(tmp_path)
    assert (row.link, row.picture) == ("run/", "")
    for name, alt in (("confusion_matrix.png", "confusion matrix"), ("tsne.png", "t-SNE")):
        (run / name).touch()
        (row,) = rows_of(tmp_path)
        assert (row.picture, row.alt) == (f"run/{name}", alt)
    (run / "run.html").touch()
    assert rows_of(tmp_path)[0].link == "run/run.html"


def test_the_row_of_a_sweep_has_the_errors_of_the_group_with_the_lowest_validation_error(tmp_path):
    make_sweep(tmp_path / "sweep", {"none": [0.90, 0.96], "full": [0.95, 0.94]})
    (row,) = rows_of(tmp_path)
    assert row.errors == ["5.50", "4.50", "3.50"]
    assert row.note == "4 runs; best: aug=full (n=2)"
    assert (row.settings, row.epochs) == (["convnet", "mnist", "none, full"], "2")
    assert (row.seconds, row.status) == ("40.0", "finished")
    names = ["aug-none_seed-0", "aug-none_seed-1", "aug-full_seed-0", "aug-full_seed-1"]
    assert [run.name for run in row.runs] == names
    (tmp_path / "sweep" / "summary.html").touch()
    (tmp_path / "sweep" / "validation_curves.png").touch()
    (row,) = rows_of(tmp_path)
    assert (row.link, row.alt) == ("sweep/summary.html", "validation curves")


def test_a_sweep_lists_how_many_runs_have_failed(tmp_path):
    make_sweep(tmp_path / "sweep", {"none": [0.9, 0.9]})
    make_run(tmp_path / "sweep" / "third", "seed=3", status="failed")
    (row,) = rows_of(tmp_path)
    assert (row.status, row.note) == ("2 finished, 1 failed", "3 runs")


def test_a_sweep_without_a_run_is_listed(tmp_path):
    record_sweep(tmp_path / "sweep", TRAIN, ["seed"], [settings()])
    (row,) = rows_of(tmp_path)
    assert (row.kind, row.note, row.errors, row.runs) == ("sweep", "0 runs", [""] * 3, [])


def test_a_run_belongs_to_the_nearest_sweep(tmp_path):
    make_sweep(tmp_path / "outer", {"none": [0.9]})
    make_sweep(tmp_path / "outer" / "inner", {"full": [0.9]})
    assert {row.name: [run.name for run in row.runs] for row in rows_of(tmp_path)} == {
        "outer": ["aug-none_seed-0"],
        "outer/inner": ["aug-full_seed-0"],
    }


def test_an_evaluation_in_the_directory_of_its_run_is_listed(tmp_path):
    make_run(tmp_path / "run")
    make_run(tmp_path / "run" / "again", checkpoint="/somewhere/best.pt")
    assert [(row.kind, row.name) for row in rows_of(tmp_path)] == [
        ("evaluation", "run/again"),
        ("run", "run"),
    ]


def test_the_directory_itself_may_be_a_run_or_a_sweep(tmp_path):
    make_sweep(tmp_path / "sweep", {"none": [0.9]})
    (row,) = rows_of(tmp_path / "sweep")
    assert (row.name, row.link, row.runs[0].link) == ("sweep", "", "aug-none_seed-0/")
    (row,) = rows_of(tmp_path / "sweep" / "aug-none_seed-0")
    assert row.name == "aug-none_seed-0"


def test_failed_and_unreadable_runs_are_listed_with_the_reason(tmp_path):
    make_run(tmp_path / "failed", status="failed", error="OSError: no /home/jane/data/images")
    (make_run(tmp_path / "cut").path / METRICS).write_text('{"format"')
    old = make_run(tmp_path / "old")
    (old.path / METRICS).write_text(json.dumps(old.metrics | {"format": FORMAT - 1}))
    (make_run(tmp_path / "no settings").path / CONFIG).write_text("seed: [")
    (make_run(tmp_path / "deleted").path / PREDICTIONS).unlink()
    rows = {row.name: (row.status, row.note) for row in rows_of(tmp_path)}
    assert rows["failed"] == ("failed", "OSError: no …/images")
    assert rows["deleted"] == ("incomplete", "missing or invalid: predictions.npz")
    status, note = rows["cut"]
    assert status == "failed" and note.startswith("metrics.json cannot be read: ")
    status, note = rows["old"]
    assert status == "failed" and note.startswith("metrics.json was written by another version")
    status, note = rows["no settings"]
    assert status == "incomplete" and note.startswith("config.yaml is not a valid configuration")


def test_a_run_that_a_process_writes_is_running_until_the_process_ends(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", status="interrupted")
    (run.path / ".lock").touch()
    browse.browse(tmp_path)
    assert rows_of(tmp_path)[0].status == "interrupted"
    monkeypatch.setattr(run_index, "is_locked", lambda path: path == tmp_path / "run")
    browse.browse(tmp_path)
    assert ">running<" in (tmp_path / PAGE).read_text()
    monkeypatch.undo()
    browse.browse(tmp_path)
    assert ">interrupted<" in (tmp_path / PAGE).read_text()


def test_values_of_any_kind_do_not_break_the_page(tmp_path):
    metrics = {"test": {"error": 1e300}, "train": {"error": "much"}, "validation": []}
    make_run(
        tmp_path / "run", status="x" * 10**6, started_at="y" * 10**6, epochs=10**4000, **metrics
    )
    make_run(tmp_path / "other", status=["finished"], started_at=7, seconds=1e300)
    browse.browse(tmp_path)
    assert (tmp_path / PAGE).stat().st_size < 50_000


def test_links_and_hidden_directories_are_left_out(tmp_path):
    make_run(tmp_path / "run")
    make_run(tmp_path / ".hidden" / "run")
    (tmp_path / "run" / "loop").symlink_to(tmp_path)
    assert [row.name for row in rows_of(tmp_path)] == ["run"]


# The cache ---------------------------------------------------------------------------------------


def test_without_a_change_nothing_is_read_or_written(tmp_path, read, capsys):
    make_run(tmp_path / "a" / "first")
    make_run(tmp_path / "second")
    browse.browse(tmp_path)
    assert sorted(read) == ["first", "second"]
    assert capsys.readouterr().out == f"2 runs, 2 read. Page: {tmp_path / PAGE}\n"
    before = [(tmp_path / name).stat().st_mtime_ns for name in (PAGE, CACHE)]
    read.clear()
    browse.browse(tmp_path)
    assert read == []
    assert capsys.readouterr().out == f"2 runs, nothing has changed. Page: {tmp_path / PAGE}\n"
    assert [(tmp_path / name).stat().st_mtime_ns for name in (PAGE, CACHE)] == before


@pytest.mark.parametrize("name", [METRICS, CONFIG, HISTORY, PREDICTIONS])
def test_only_a_changed_run_is_read_again(name, tmp_path, read):
    for run in ("first", "second"):
        make_run(tmp_path / run)
    browse.browse(tmp_path)
    read.clear()
    with (tmp_path / "second" / name).open("a") as file:
        file.write(" ")
    browse.browse(tmp_path)
    assert read == ["second"]


def test_new_scores_are_shown(tmp_path):
    run = make_run(tmp_path / "run", accuracy=0.9).path
    browse.browse(tmp_path)
    metrics = json.loads((run / METRICS).read_text())
    metrics["test"]["error"] = 0.0625
    (run / METRICS).write_text(json.dumps(metrics))
    browse.browse(tmp_path)
    assert "<td>6.25</td>" in (tmp_path / PAGE).read_text()


def test_a_new_picture_is_shown_and_nothing_is_read(tmp_path, read):
    run = make_run(tmp_path / "run").path
    browse.browse(tmp_path)
    read.clear()
    (run / "tsne.png").touch()
    browse.browse(tmp_path)
    assert 'src="./run/tsne.png"' in (tmp_path / PAGE).read_text()
    assert read == []


def test_a_run_that_was_removed_is_dropped(tmp_path, read):
    first = make_run(tmp_path / "first").path
    make_run(tmp_path / "second")
    browse.browse(tmp_path)
    read.clear()
    (first / METRICS).unlink()
    browse.browse(tmp_path)
    assert ">first<" not in (tmp_path / PAGE).read_text()
    assert [*json.loads((tmp_path / CACHE).read_text())["entries"]] == ["second"]
    assert read == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[]", b"[" * 10**5, b'{"format": 1, "version": "0", "entries": {}}',
     b'{"entries": {"run": 1}}'],
    ids=["empty", "cut", "no text", "a list", "nested", "other version", "no format"],
)  # fmt: skip
def test_a_cache_that_cannot_be_read_is_written_again(content, tmp_path, read):
    make_run(tmp_path / "run")
    browse.browse(tmp_path)
    expected = json.loads((tmp_path / CACHE).read_text())
    (tmp_path / CACHE).write_bytes(content)
    read.clear()
    browse.browse(tmp_path)
    assert read == ["run"]
    assert json.loads((tmp_path / CACHE).read_text()) == expected


@pytest.mark.parametrize(
    ("key", "value"), [("test_error", "x"), ("settings", 5), ("started_at", 5), ("seconds", "q")]
)
def test_a_cache_with_values_of_other_types_is_built_again(tmp_path, key, value):
    make_run(tmp_path / "a")
    browse.browse(tmp_path)
    content = json.loads((tmp_path / CACHE).read_text())
    content["entries"]["a"]["run"][key] = value
    (tmp_path / CACHE).write_text(json.dumps(content))
    (tmp_path / PAGE).unlink()
    browse.browse(tmp_path)
    assert json.loads((tmp_path / CACHE).read_text())["entries"]["a"]["run"][key] != value


@pytest.mark.parametrize("key", ["format", "version"])
def test_a_cache_of_another_version_is_written_again(key, tmp_path, read):
    make_run(tmp_path / "run")
    browse.browse(tmp_path)
    cache = json.loads((tmp_path / CACHE).read_text())
    (tmp_path / CACHE).write_text(json.dumps(cache | {key: -1}))
    read.clear()
    browse.browse(tmp_path)
    assert read == ["run"]


def test_a_page_that_was_removed_is_written_again(tmp_path):
    make_run(tmp_path / "run")
    browse.browse(tmp_path)
    (tmp_path / PAGE).unlink()
    browse.browse(tmp_path)
    assert (tmp_path / PAGE).is_file()


# The page ----------------------------------------------------------------------------------------

HOSTILE = "<img src=x onerror=alert(1)> \"quoted' 50% #1 ?a=b&c é\n"


def test_names_and_values_are_escaped_and_shortened(tmp_path):
    run = make_run(tmp_path / HOSTILE).path
    (run / "tsne.png").touch()
    text = (run / CONFIG).read_text() + f"x: {json.dumps(HOSTILE)}\ny: {'z' * 10**6}\n"
    (run / CONFIG).write_text(text)
    browse.browse(tmp_path)
    page = (tmp_path / PAGE).read_text()
    assert "<img src=x" not in page
    quoted = "./%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%20%22quoted%27%2050%25%20%231%20"
    assert f'src="{quoted}%3Fa%3Db%26c%20%C3%A9%0A/tsne.png"' in page
    assert len(page) < 50_000


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text on other systems")
def test_a_name_that_is_not_text_has_a_link(tmp_path):
    name = os.fsdecode(b"run-\xff")
    make_run(tmp_path / name)
    for _ in range(2):  # also from the cache
        browse.browse(tmp_path)
        (tmp_path / PAGE).touch()
        assert 'href="./run-%FF/"' in (tmp_path / PAGE).read_text()


def test_the_page_has_no_directory_outside_of_its_own(tmp_path):
    make_run(tmp_path / "outputs" / "run", "data.dir=/home/jane/data")
    make_run(tmp_path / "outputs" / "evaluation", checkpoint="/home/jane/best.pt")
    browse.browse(tmp_path / "outputs")
    page = (tmp_path / "outputs" / PAGE).read_text()
    assert "<title>outputs</title>" in page
    assert "jane" not in page and str(tmp_path) not in page and "data.dir" not in page


def test_settings_of_all_runs_are_on_the_page_once(tmp_path):
    for seed in range(3):
        make_run(tmp_path / str(seed), f"seed={seed}")
    browse.browse(tmp_path)
    page = (tmp_path / PAGE).read_text()
    assert page.count('"aug=none"') == 1 and page.count('"seed=1"') == 1


def test_the_page_of_a_thousand_runs_has_at_most_a_megabyte(tmp_path):
    make_run(tmp_path / "run")
    entry = update_index(tmp_path, browse._read_entry).entries["run"]
    assert entry.run is not None
    files = entry.files | {"run.html": None, "tsne.png": None}
    entries = {}
    for index in range(1000):
        changed = {key: f"{value}{index}" for key, value in [*entry.run.settings.items()][:10]}
        run = replace(entry.run, settings=entry.run.settings | changed)
        entries[f"2026-11-27/12-00-00-convnet-none-{index}"] = replace(entry, files=files, run=run)
    write_index_page(tmp_path / PAGE, Index(tmp_path, entries, True, 0))
    assert (tmp_path / PAGE).stat().st_size < 1_000_000


# The command -------------------------------------------------------------------------------------


def test_the_command_writes_the_page_of_outputs(command, tmp_path):
    make_run(tmp_path / "outputs" / "run")
    code, out, err = command(mnistcnn.browse.main)
    assert (code, err) == (0, "")
    assert out == f"1 run, 1 read. Page: {Path('outputs') / PAGE}\n"


def test_an_empty_directory_has_a_page_that_says_so(command, tmp_path):
    (tmp_path / "empty").mkdir()
    code, out, _ = command(mnistcnn.browse.main, "empty")
    assert code == 0 and out.startswith("0 runs, ")
    page = (tmp_path / "empty" / PAGE).read_text()
    assert "There is no run in this directory." in page and "<table" not in page


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "outputs does not exist"),
        (["nowhere"], "nowhere does not exist"),
        (["file"], "file is a file, not a directory"),
        ([""], "argument DIR: give the name of a directory (--help shows the usage)"),
        (["a", "b"], "unrecognized arguments: b (--help shows the usage)"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(arguments, line, command, tmp_path):
    (tmp_path / "file").touch()
    code, out, err = command(mnistcnn.browse.main, *arguments)
    assert (code, out, err) == (2, "", f"mnistcnn: {line}\n")


def test_a_page_of_another_program_is_kept(command, tmp_path):
    (tmp_path / PAGE).write_text("<!doctype html><title>my page</title>")
    code, _, err = command(mnistcnn.browse.main, ".")
    assert code == 2
    reason = "was not written by mnistcnn.browse: move it, or give another directory"
    assert err == f"mnistcnn: index.html {reason}\n"
    assert "my page" in (tmp_path / PAGE).read_text() and not (tmp_path / CACHE).exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_an_error(command, tmp_path):
    (tmp_path / "outputs").mkdir(mode=0o500)
    code, _, err = command(mnistcnn.browse.main)
    assert (code, err) == (1, "mnistcnn: outputs/index.html cannot be written: Permission denied\n")


@pytest.mark.parametrize("found", [True, False])
def test_the_page_is_opened_in_the_browser(found, command, tmp_path, monkeypatch):
    opened = []

    def open_url(url):
        opened.append(url)
        return found

    monkeypatch.setattr(webbrowser, "open", open_url)
    (tmp_path / "outputs").mkdir()
    code, out, _ = command(mnistcnn.browse.main, "--open")
    assert code == 0
    assert opened == [(tmp_path / "outputs" / PAGE).as_uri()]
    lines = [] if found else ["no web browser was found: open outputs/index.html"]
    assert out.splitlines()[1:] == lines


def test_the_command_imports_neither_torch_nor_matplotlib(tmp_path):
    make_run(tmp_path / "outputs" / "run")
    code = (
        "import sys; from mnistcnn.browse import main; main(); "
        "print([n for n in ('torch', 'matplotlib', 'scipy', 'sklearn') if n in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.splitlines()[-1:] == ["[]"], result.stderr


# In a browser ------------------------------------------------------------------------------------


@pytest.fixture
def open_page(browser, tmp_path):
    """Return a function that opens the page of ``tmp_path`` and records messages and requests."""
    with contextlib.ExitStack() as stack:

        def open_page(width: int = 1200, **options):
            browse.browse(tmp_path)
            context = browser.new_context(viewport={"width": width, "height": 800}, **options)
            stack.callback(context.close)
            page = context.new_page()
            page.messages, page.requests = [], []
            page.on("console", lambda message: page.messages.append(message.text))
            page.on("pageerror", lambda error: page.messages.append(str(error)))
            page.on("request", lambda request: page.requests.append(request.url))
            page.goto((tmp_path / PAGE).as_uri(), wait_until="networkidle")
            return page

        yield open_page


def visible_names(page) -> list[str]:
    return page.locator("table.index tbody a:visible").all_inner_texts()


def search(page, text: str) -> list[str]:
    page.fill("#search", text)
    return visible_names(page)


def make_examples(path: Path) -> None:
    make_run(path / "first", "aug=full", "seed=3", accuracy=0.98)
    make_run(path / "second", "model=custom", "aug=full", "seed=13", accuracy=0.99)
    make_run(path / "third", status="failed", error="RuntimeError: out of memory")
    make_sweep(path / "sweep", {"none": [0.9, 0.92], "full": [0.95, 0.96]})


def test_the_page_requests_only_its_pictures(open_page, tmp_path):
    make_examples(tmp_path)
    picture = Path(__file__).parent.parent / ".github" / "pictures" / "tsne.png"
    for name in ("first", "sweep/aug-none_seed-0"):
        (tmp_path / name / "tsne.png").write_bytes(picture.read_bytes())
    page = open_page()
    assert page.messages == []
    shown = [(tmp_path / PAGE).as_uri(), (tmp_path / "first" / "tsne.png").as_uri()]
    assert [url for url in page.requests if not url.startswith("data:")] == shown
    assert page.locator("img:visible").evaluate("image => image.naturalWidth") > 0


def test_the_links_lead_to_the_runs(open_page, tmp_path):
    run = make_run(tmp_path / HOSTILE).path
    (run / "run.html").write_text("<h1>the run</h1>")
    page = open_page()
    assert page.messages == []
    page.click("table.index tbody a")
    assert page.inner_text("h1") == "the run"


def test_a_sweep_unfolds(open_page, tmp_path):
    make_examples(tmp_path)
    page = open_page()
    assert visible_names(page) == ["sweep", "third", "second", "first"]
    page.click("button.unfold")
    assert visible_names(page)[:3] == ["sweep", "aug-none_seed-0", "aug-none_seed-1"]
    assert len(visible_names(page)) == 8
    page.click("button.unfold")
    assert len(visible_names(page)) == 4


def test_the_search_finds_words_and_settings(open_page, tmp_path):
    make_examples(tmp_path)
    page = open_page()
    assert search(page, "aug=full seed=3 ") == ["first"]
    assert page.inner_text("#count") == "1 of 7 runs"
    assert search(page, "CUSTOM") == ["second"]
    assert search(page, "model=cust") == []
    assert search(page, "status=failed") == search(page, "out memory") == ["third"]
    assert search(page, "lr=1e0 aug=full seed=3") == ["first"]
    assert search(page, "width= fir") == []  # convnet has no width
    assert search(page, "width=") == ["second"]
    assert search(page, "unknown=1") == []
    assert search(page, "kind=sweep") == ["sweep"]
    assert search(page, "") == ["sweep", "third", "second", "first"]
    assert page.inner_text("#count") == ""


def test_the_search_unfolds_a_sweep_to_the_runs_that_match(open_page, tmp_path):
    make_examples(tmp_path)
    page = open_page()
    assert search(page, "sweep aug=full seed=1") == ["sweep", "aug-full_seed-1"]
    assert search(page, "sweep") == ["sweep"]
    assert page.inner_text("#count") == "4 of 7 runs"
    assert search(page, "seed=1") == ["sweep", "aug-none_seed-1", "aug-full_seed-1"]


def test_a_click_on_a_column_sorts(open_page, tmp_path):
    make_examples(tmp_path)
    page = open_page()
    page.get_by_role("button", name="test error").click()
    assert visible_names(page) == ["second", "first", "sweep", "third"]  # 1, 2, 4.5, none
    page.get_by_role("button", name="test error").click()
    assert visible_names(page) == ["sweep", "first", "second", "third"]
    assert search(page, "aug=full seed=1") == ["sweep", "aug-full_seed-1"]  # also after a sort


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_on_a_telephone(theme, open_page, tmp_path):
    make_examples(tmp_path)
    make_run(tmp_path / ("long" * 50), status="failed", error="x" * 300)
    page = open_page(390, color_scheme=theme)
    page.click("button.unfold")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box = page.locator("table.index").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    is_dark = sum(map(int, re.findall(r"\d+", colour)[:3])) < 3 * 128
    assert is_dark == (theme == "dark")


def test_without_scripts_all_runs_are_shown(open_page, tmp_path):
    make_examples(tmp_path)
    page = open_page(java_script_enabled=False)
    assert len(visible_names(page)) == 8
    assert not page.is_visible("#search")
