"""The report's tables and figures beside ours: that all of it is there, and what is not run."""

import re
from itertools import product

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser

from mnistcnn import config, reproduction, rundir, sweep
from mnistcnn.errors import UsageError

from .conftest import CONF, ROOT, settings
from .test_compare import make_run

PLAN = config.plain((CONF / "reproduction.yaml").read_text())
ITEMS = {item["experiment"]: item for item in PLAN["items"]}
EXPERIMENTS = {path.stem for path in (CONF / "experiment").glob("*.yaml")} - {"smoke"}


def jobs(experiment: str, *overrides: str) -> list[dict]:
    """The settings, by full name, of all runs of an experiment."""
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
        config.flat(config.plain(config.to_yaml(settings(f"experiment={experiment}", *job))))
        for job in product(*values.values())
    ]


def test_every_experiment_is_reproduced():
    assert ITEMS.keys() == EXPERIMENTS and len(EXPERIMENTS) == 17


@pytest.mark.parametrize("experiment", sorted(EXPERIMENTS))
def test_an_experiment_file_opens_with_its_command_and_what_was_measured(experiment):
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith(f"# python -m mnistcnn.train experiment={experiment}")
    head = "\n".join(line for line in lines if line.startswith("#"))
    assert re.search(r"# Measured: \S", head) and "MEASURED" not in head
    assert f"dir: outputs/experiments/{experiment}" in "\n".join(lines)


@pytest.mark.parametrize("scale", PLAN["scales"])
@pytest.mark.parametrize("experiment", ITEMS)
def test_what_is_shown_is_what_runs(experiment, scale):
    """Every row, baseline and picture describes runs that the command of that scale makes."""
    item = ITEMS[experiment]
    _, _, multirun, named, *overrides = reproduction._command(item, PLAN["scales"][scale], scale, 1)
    assert (multirun, named) == ("-m", f"experiment={experiment}")
    made = jobs(experiment, *overrides)
    left_out = scale == "cpu" and experiment == "table_3_steps"  # only the ends, for its price
    described = [row["of"] for row in item["rows"]]
    described += [picture["of"] for picture in item.get("pictures", []) if "of" in picture]
    described += [item["baseline"]] if "baseline" in item else []
    for text in described:
        assert left_out or any(sweep.matches(job, [text]) for job in made), text
    assert {row["measure"] for row in item["rows"]} <= reproduction.MEASURES.keys()
    files = {picture["file"] for picture in item.get("pictures", [])}
    assert files <= {*rundir.RESULTS, sweep.CURVES, sweep.ERROR_BY_SAMPLES}


def test_seeds_are_those_of_the_command_the_item_or_the_scale():
    item, scales = ITEMS["table_3"], PLAN["scales"]
    assert reproduction._command(item, scales["cpu"], "cpu", None)[-1] == "seed=range(1)"
    assert reproduction._command(item, scales["full"], "full", None)[-1] == "seed=range(8)"
    assert reproduction._command(item, scales["cpu"], "cpu", 7)[-1] == "seed=range(7)"


def test_what_nobody_ran_is_said_to_be_not_run(tmp_path):
    reproduction.write(tmp_path, "cpu", PLAN, None)
    text = (tmp_path / reproduction.REPORT_MD).read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    numbers = [row for row in rows if not row.startswith("|  ")]
    assert len(numbers) == sum(len(item["rows"]) for item in PLAN["items"])
    assert all(row.rstrip(" |").endswith(reproduction.NOT_RUN) for row in numbers)


def test_numbers_pictures_and_the_verdict_are_in_both_reports(tmp_path):
    folder = tmp_path / "cpu" / "table_1"
    for aug, wrong in (("none", 20), ("full", 10)):
        for seed in range(2):
            run = make_run(folder / f"{aug}{seed}", range(wrong + seed), f"aug={aug}",
                           f"seed={seed}")  # fmt: skip
            (run / rundir.SUMMARY).write_text("8 channels | here\n")
            (run / rundir.AUGMENTED).write_bytes(f"{aug}{seed}".encode())
            history = {"epoch": 1, "val_accuracy": 0.5, "train_accuracy_running": 0.9}
            (run / rundir.HISTORY).unlink()
            rundir.append_history(run, history)
            metrics = config.plain((run / rundir.METRICS).read_text())
            metrics |= {
                "model": {"parameters": 14178}, "device": "cpu", "versions": {"torch": "2.14.1"},
            }  # fmt: skip
            rundir.write_json(run / rundir.METRICS, metrics)
    reproduction.write(tmp_path, "cpu", PLAN, None)
    text = (tmp_path / reproduction.REPORT_MD).read_text()
    section = text.split("## ")[1]
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:4]]
        for line in section.splitlines() if line.startswith("| aug")
    }  # fmt: skip
    # 80% and 79% right: standard deviation 1 / sqrt(2), t(0.975, 1) = 12.706
    assert rows["aug=none, validation"] == ["95", "79.50 ± 0.71 (73.15 to 85.85), n = 2"]
    assert rows["aug=none, training (running)"] == ["94", "90.00 ± 0.00 (90.00 to 90.00), n = 2"]
    assert rows["aug=none, parameters"] == ["14,178", "14,178"]
    assert "**aug=full** against **aug=none**: test error -10.000 points" in section
    assert "Runs: 4, on cpu with torch 2.14.1, 0.1 minutes." in section
    assert "![Figure 1](cpu/table_1/full0/augmented.png)" in section
    assert "Figure 3:\n\n```text\n8 channels | here\n```" in section
    assert "Figure 2" not in section  # there is no such file
    page = (tmp_path / reproduction.REPORT_HTML).read_text()
    assert "79.50 ± 0.71" in page and "data:image/png;base64,ZnVsbDA=" in page  # "full0"
    assert 'src="cpu' not in page and "8 channels | here\n</code></pre>" in page


def test_an_unknown_experiment_is_named(tmp_path):
    with pytest.raises(UsageError, match="there is no table_9; there are table_1, custom"):
        reproduction.run(tmp_path / "out", "quick", None, ["table_9"], [])
    assert not (tmp_path / "out").exists()


def test_the_quick_scale_runs_and_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = ["epochs=1", "data.fraction=0.1", "tsne.samples=60", "tsne.perplexity=10"]
    assert reproduction.run(tmp_path / "out", "quick", None, ["early_stopping"], tiny) == 0
    runs = sweep.find(tmp_path / "out" / "quick" / "early_stopping")
    before = {run.path: (run.path / rundir.METRICS).stat().st_mtime_ns for run in runs}
    assert len(before) == 2 and all(run.complete for run in runs)
    text = (tmp_path / "out" / reproduction.REPORT_MD).read_text()
    section = text.split("## Section 2.1.4")[1].split("## ")[0]
    assert "| early_stopping.patience=1, epochs" in section and reproduction.NOT_RUN not in section

    assert reproduction.run(tmp_path / "out", "quick", 2, ["early_stopping"], tiny) == 0
    runs = sweep.find(tmp_path / "out" / "quick" / "early_stopping")
    assert len(runs) == 4
    for path, changed in before.items():
        assert (path / rundir.METRICS).stat().st_mtime_ns == changed


def test_a_failing_experiment_does_not_take_others_along(tmp_path, monkeypatch):
    asked = []

    def fails_once(arguments):
        asked.append(arguments[3])
        return len(asked) == 1

    monkeypatch.setattr(reproduction, "_run", fails_once)
    assert reproduction.run(tmp_path / "out", "quick", None, ["table_1", "stride"], []) == 1
    assert asked == ["experiment=table_1", "experiment=stride"]


def test_an_interrupt_leaves_the_report_of_what_is_there(tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduction, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduction.run(tmp_path / "out", "quick", None, [], [])
    assert (tmp_path / "out" / reproduction.REPORT_HTML).exists()


def test_the_script_is_there_to_be_run():
    script = ROOT / "scripts" / "reproduce"
    assert script.stat().st_mode & 0o111 and "mnistcnn.reproduce" in script.read_text()
