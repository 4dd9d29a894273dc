"""The reproduction of the report: its plan covers all experiments, and its output is complete."""

import logging
import re
import shlex
import signal
from itertools import product

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser

from mnistcnn.config.load import flatten, parse_yaml, to_yaml
from mnistcnn.experiments import reproduction, results, summary
from mnistcnn.experiments.groups import matches
from mnistcnn.runs import directory
from mnistcnn.runs.history import write_history
from mnistcnn.runs.store import find_runs
from mnistcnn.system.atomic_files import write_json
from mnistcnn.system.errors import MnistcnnError, UsageError
from mnistcnn.system.signals import Stopped

from .conftest import CONF, ROOT, settings
from .test_comparison import make_run

PLAN = parse_yaml((CONF / "reproduction.yaml").read_text())
ITEMS = {item["experiment"]: item for item in PLAN["items"]}
EXPERIMENTS = {path.stem for path in (CONF / "experiment").glob("*.yaml")} - {"smoke"}


def job_settings(experiment: str, *overrides: str) -> list[dict]:
    """Return the settings, by full name, of all runs of an experiment."""
    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        composed = compose("train", [f"experiment={experiment}"], return_hydra_config=True)
    values = {key: [f"{key}={value}"] for key, value in composed.hydra.sweeper.params.items()}
    values |= {text.partition("=")[0]: [text] for text in overrides}
    parser = OverridesParser.create()
    for key, (text,) in values.items():
        override = parser.parse_override(text)
        if override.is_sweep_override():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
    return [
        flatten(parse_yaml(to_yaml(settings(f"experiment={experiment}", *job))))
        for job in product(*values.values())
    ]


def test_every_experiment_is_reproduced():
    assert ITEMS.keys() == EXPERIMENTS and len(EXPERIMENTS) == 17


@pytest.mark.parametrize("experiment", sorted(EXPERIMENTS))
def test_an_experiment_file_starts_with_its_command_and_its_measurements(experiment):
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith(f"# python -m mnistcnn.train experiment={experiment}")
    comments = "\n".join(line for line in lines if line.startswith("#"))
    assert re.search(r"# Measured( \(.+\))?: \S", comments) and "MEASURED" not in comments


@pytest.mark.parametrize("scale", PLAN["scales"])
@pytest.mark.parametrize("experiment", ITEMS)
def test_all_rows_and_pictures_match_a_run(experiment, scale):
    """Every row, baseline and picture describes a run of the command of that scale."""
    item = ITEMS[experiment]
    experiment_override, *overrides = reproduction._overrides(item, PLAN["scales"][scale], scale, 1)
    assert experiment_override == f"experiment={experiment}"
    jobs = job_settings(experiment, *overrides)
    # at the scale cpu, this experiment has only its two extreme fractions, to save time
    is_partial = scale == "cpu" and experiment == "table_3_steps"
    groups = [row["of"] for row in item["rows"]]
    groups += [picture["of"] for picture in item.get("pictures", []) if "of" in picture]
    groups += [item["baseline"]] if "baseline" in item else []
    for override in groups:
        assert is_partial or any(matches(job, [override]) for job in jobs), override
    assert {row["measure"] for row in item["rows"]} <= results.MEASURES.keys()
    files = {picture["file"] for picture in item.get("pictures", [])}
    assert files <= {*directory.RESULT_FILES, directory.VALIDATION_CURVES, summary.ERROR_BY_SAMPLES}


def test_seeds_are_those_of_the_command_the_item_or_the_scale():
    item, scales = ITEMS["table_3"], PLAN["scales"]
    assert reproduction._overrides(item, scales["cpu"], "cpu", None)[-1] == "seed=range(1)"
    assert reproduction._overrides(item, scales["full"], "full", None)[-1] == "seed=range(8)"
    assert reproduction._overrides(item, scales["cpu"], "cpu", 7)[-1] == "seed=range(7)"


def test_rows_without_runs_are_marked_as_not_run(tmp_path):
    reproduction.write_reproduction(tmp_path, "cpu", PLAN, None)
    text = (tmp_path / reproduction.REPRODUCTION_MD).read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("|  ")]  # without the headers
    assert len(rows) == sum(len(item["rows"]) for item in PLAN["items"])
    assert all(row.rstrip(" |").endswith(results.NOT_RUN) for row in rows)


def make_table_1(folder) -> None:
    """Make two runs with and two without augmentation, with the files that a section shows."""
    for aug, wrong in (("none", 20), ("full", 10)):
        for seed in range(2):
            run_dir = folder / f"{aug}{seed}"
            make_run(run_dir, range(wrong + seed), f"aug={aug}", f"seed={seed}")
            (run_dir / directory.MODEL_SUMMARY).write_text("8 channels | here\n")
            (run_dir / directory.AUGMENTED).write_bytes(f"{aug}{seed}".encode())
            row = {"epoch": 1, "val_accuracy": 0.5, "train_accuracy_running": 0.9}
            write_history(run_dir, [row])
            metrics = parse_yaml((run_dir / directory.METRICS).read_text())
            metrics |= {"model": {"parameters": 14178}, "device": "cpu", "precision": "float32"}
            metrics |= {"peak_memory_bytes": None if seed else 810_000_000}
            metrics |= {"versions": {"torch": "2.14.1"}, "git_commit": "0123456789abcdef"}
            write_json(run_dir / directory.METRICS, metrics)


def test_both_files_show_the_numbers_pictures_and_verdicts(tmp_path):
    make_table_1(tmp_path / "cpu" / "table_1")
    reproduction.write_reproduction(tmp_path, "cpu", PLAN, None)
    text = (tmp_path / reproduction.REPRODUCTION_MD).read_text()
    section = text.split("## ")[1]
    rows = {}
    for line in section.splitlines():
        if line.startswith("| aug"):
            _, name, *values, _ = (cell.strip() for cell in line.split("|"))
            rows[name] = values
    # 80% and 79% correct: standard deviation 1 / sqrt(2); two seeds give no interval
    assert rows["aug=none, validation"] == ["95", "79.50 ± 0.71, n = 2"]
    assert rows["aug=none, training (running)"] == ["94", "90.00 ± 0.00, n = 2"]
    assert rows["aug=none, parameters"] == ["14,178", "14,178"]
    assert "**aug=full** against **aug=none**: test error -10.000 points" in section
    assert (
        "4 runs on cpu in float32 with torch 2.14.1, 0.1 minutes, at most 0.8 GB of memory; "
        "commit 0123456." in section
    )
    assert "![Figure 1](cpu/table_1/full0/augmented.png)" in section
    assert "Figure 3:\n\n```text\n8 channels | here\n```" in section
    assert "Figure 2" not in section  # its file is missing
    page = (tmp_path / reproduction.REPRODUCTION_HTML).read_text()
    assert "79.50 ± 0.71" in page and "data:image/png;base64,ZnVsbDA=" in page  # "full0"
    assert 'src="cpu' not in page and "8 channels | here\n</code></pre>" in page


@pytest.fixture
def clone(tmp_path):
    """A directory with the pages that show results, and one stored result."""
    page = "before\n<!-- begin results -->\n<!-- end results -->\nafter\n"
    (tmp_path / "outputs").mkdir()
    for folder in (tmp_path, tmp_path / "outputs"):
        (folder / "README.md").write_text(page)
    mean = {"n": 1, "mean": 0.0157, "sd": None, "ci95": None}
    means = [{"of": "data.fraction=0.25", "measure": "test error", **mean}]
    record = {"means": means, "verdicts": [], "measured": "1 run; commit abc."}
    write_json(tmp_path / results.STORE, {"table_3": record})
    return tmp_path


def test_results_are_stored_and_shown_in_the_pages(clone):
    sweep_dir = clone / "table_1"
    make_table_1(sweep_dir)
    overrides = ["experiment=table_1", "seed=range(2)"]
    results.store_results(clone, PLAN, {"table_1": (overrides, sweep_dir)})
    front, page = (clone / "README.md").read_text(), (clone / "outputs/README.md").read_text()
    assert front.startswith("before\n") and page.endswith("\nafter\n")
    assert re.search(
        r"\| default network, validation accuracy +\| 95 +\| 79.50 ± 0.71, n = 2", front
    )
    assert "*Does augmentation help the default network?* **aug=full** against" in front
    assert re.search(r"\| VGG16, validation accuracy +\| 99 +\| not run", front)
    assert re.search(r"\| data.fraction=0.25, test error +\| 4.06 +\| 1.57, n = 1", page)
    assert (
        "1 run; commit abc." in page
        and "`experiment=table_1 'seed=range(2)'`: 4 runs on cpu" in page
    )
    assert re.search(r"\| data.fraction=1, test error +\| 1.57 +\| not recorded", page)

    before = front, page
    results.write_pages(clone)  # from the stored results
    assert before == ((clone / "README.md").read_text(), (clone / "outputs/README.md").read_text())


def test_only_complete_experiments_are_stored(tmp_path, monkeypatch):
    stored = {}
    monkeypatch.setattr(reproduction, "repository", lambda: tmp_path)
    monkeypatch.setattr(reproduction, "_run_command", lambda words: "experiment=stride" in words)
    monkeypatch.setattr(
        reproduction, "store_results", lambda root, plan, sweeps: stored.update(sweeps)
    )
    out = tmp_path / "out"
    with pytest.raises(MnistcnnError, match=r"^1 experiment is not complete"):
        reproduction.reproduce(out, "cpu", 1, ["table_1", "stride"], [], write=True)
    (overrides, sweep_dir) = stored["stride"]
    assert list(stored) == ["stride"] and sweep_dir == out / "cpu" / "stride"
    assert overrides == ["experiment=stride", "seed=range(1)"]


def test_quick_results_are_not_stored(tmp_path):
    with pytest.raises(UsageError, match=r"^--write: the results of --scale quick mean nothing"):
        reproduction.reproduce(tmp_path / "out", "quick", None, [], [], write=True)


def test_only_overrides_without_an_effect_on_results_are_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduction, "repository", lambda: tmp_path)
    monkeypatch.setattr(reproduction, "_run_command", lambda words: False)
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"^--write: epochs=1 changes the results"):
        reproduction.reproduce(out, "cpu", None, [], ["device=cpu", "epochs=1"], write=True)
    assert not out.exists()
    with pytest.raises(MnistcnnError, match=r"^1 experiment is not complete"):
        reproduction.reproduce(
            out, "cpu", 1, ["stride"], ["device=cpu", "hydra.launcher.jobs=1"], write=True
        )


def test_an_unknown_experiment_is_refused(tmp_path):
    message = "--only: unknown experiment table_9; available: table_1, custom"
    with pytest.raises(UsageError, match=message):
        reproduction.reproduce(tmp_path / "out", "quick", None, ["table_9"], [])
    assert not (tmp_path / "out").exists()


def test_a_repeated_command_keeps_complete_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    tiny = ["epochs=1", "data.fraction=0.1", "tsne.samples=60", "tsne.perplexity=10"]
    reproduction.reproduce(out, "quick", None, ["early_stopping"], tiny)
    runs = find_runs(out / "quick" / "early_stopping")
    times = {run.path: (run.path / directory.METRICS).stat().st_mtime_ns for run in runs}
    assert len(times) == 2 and all(run.complete for run in runs)
    text = (out / reproduction.REPRODUCTION_MD).read_text()
    section = text.split("## Section 2.1.4")[1].split("## ")[0]
    assert "| early_stopping.patience=1, epochs" in section and results.NOT_RUN not in section

    reproduction.reproduce(out, "quick", 2, ["early_stopping"], tiny)
    assert len(find_runs(out / "quick" / "early_stopping")) == 4
    for path, time in times.items():
        assert (path / directory.METRICS).stat().st_mtime_ns == time


def test_other_experiments_run_after_a_failed_one(tmp_path, monkeypatch):
    experiments = []

    def fail_first(arguments):
        experiments.append(arguments[3])
        return len(experiments) > 1

    monkeypatch.setattr(reproduction, "_run_command", fail_first)
    with pytest.raises(MnistcnnError, match=r"^1 experiment is not complete"):
        reproduction.reproduce(tmp_path / "out", "quick", None, ["table_1", "stride"], [])
    assert experiments == ["experiment=table_1", "experiment=stride"]


def test_an_interrupted_reproduction_writes_its_files(tmp_path, monkeypatch, capsys):
    def interrupt(_):
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(reproduction, "_run_command", interrupt)
    code = reproduction.reproduce(tmp_path / "out", "quick", None, [], [])
    assert code == 143  # 128 + SIGTERM
    # the command that was running has reported the signal
    assert capsys.readouterr().err == ("mnistcnn: interrupted; repeat the same command to resume\n")
    assert (tmp_path / "out" / reproduction.REPRODUCTION_HTML).exists()


def test_printed_commands_can_be_pasted(tmp_path, monkeypatch, caplog):
    started = []
    monkeypatch.setattr(reproduction, "_run_command", lambda words: started.append(words) or True)
    monkeypatch.setattr(logging.getLogger("mnistcnn"), "propagate", True)
    out = tmp_path / "it's, here"
    with caplog.at_level(logging.INFO, "mnistcnn"):
        reproduction.reproduce(out, "quick", 2, ["stride"], ["tsne.of=pixels"])
    logged = caplog.text[caplog.text.index("python -m") :].splitlines()[0]
    text = (out / reproduction.REPRODUCTION_MD).read_text()
    command = next(c for c in re.findall(r"`(python -m .*)`", text) if "=stride" in c)
    assert logged == command
    _, *words = shlex.split(command)
    assert [words] == started
    parsed = OverridesParser.create().parse_overrides(words[3:])
    values = {each.key_or_group: each.value() for each in parsed}
    assert values["hydra.sweep.dir"] == str(out / "quick" / "stride")
    assert values["experiment"] == "stride" and values["tsne.of"] == "pixels"
    typed = re.search(r"`(scripts/reproduce .*)`", text)
    expected = ["--scale", "quick", "--out", str(out), "tsne.of=pixels", "--seeds", "2"]
    assert shlex.split(typed[1])[1:] == expected


def test_script_is_executable():
    script = ROOT / "scripts" / "reproduce"
    assert script.stat().st_mode & 0o111 and "mnistcnn.reproduce" in script.read_text()
