"""The repository's pages: commands that work, links that lead somewhere, lists that are current."""

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mnistcnn.benchmark import published
from mnistcnn.experiments import results
from mnistcnn.experiments.documents import read_block, replace_block
from mnistcnn.system.errors import UsageError

from .conftest import CONF, ROOT, TINY

PAGES = [ROOT / "README.md", CONF / "README.md", ROOT / "outputs" / "README.md"]
PAGES += [ROOT / "scripts" / "README.md", ROOT / "src" / "mnistcnn" / "README.md"]
PAGES += [ROOT / "tests" / "README.md", *sorted((ROOT / ".github").glob("*.md"))]


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_without_code(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


# Size, links, lists ------------------------------------------------------------------------------


def test_the_front_page_is_short():
    assert (ROOT / "README.md").stat().st_size <= 8 * 1024


def test_every_folder_has_a_page():
    folders = ("conf", "src/mnistcnn", "scripts", "outputs", "tests")
    assert all((ROOT / folder / "README.md").is_file() for folder in folders)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts derive them."""
    headings = re.findall(r"^#+ (.+)$", text_without_code(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_and_pictures_exist(page):
    text = text_without_code(page)
    targets = re.findall(r"\]\(([^)]+)\)|<img src=\"([^\"]+)\"", text)
    for target in filter(None, (link or picture for link, picture in targets)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        file = file / "README.md" if file.is_dir() and anchor else file
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def options_in_files() -> list[tuple[str, str]]:
    groups = ["model", "aug", "optimizer", "scheduler", "data", "logger", "experiment"]
    groups += ["hydra/launcher", "hydra/sweeper"]
    return [(group, path.stem) for group in groups for path in (CONF / group).glob("*.yaml")]


def test_the_table_of_options_lists_every_file_once():
    table = (CONF / "README.md").read_text().partition("## Options")[2].partition("\n## ")[0]
    listed, group = [], ""
    for first, option in re.findall(r"^\| (?:`([\w/]+)`)? ?\| `(\w+)` \|", table, re.MULTILINE):
        group = first or group
        listed.append((group, option))
    assert sorted(listed) == sorted(options_in_files())


# Tables that programs write ----------------------------------------------------------------------


def test_the_tables_of_results_are_those_of_the_stored_results():
    plan = results.load_plan()
    stored = results.load_results(ROOT, plan)
    assert read_block(ROOT / "README.md", "results") == results.highlights(plan, stored)
    page = ROOT / "outputs" / "README.md"
    assert read_block(page, "results") == results.all_results(plan, stored)


def test_every_stored_result_has_its_row():
    rows = {
        item["experiment"]: {(row["of"], row["measure"]) for row in item["rows"]}
        for item in results.load_plan()["items"]
    }
    for experiment, record in json.loads((ROOT / results.STORE).read_text()).items():
        means = [(mean["of"], mean["measure"]) for mean in record["means"]]
        assert means and set(means) <= rows[experiment]


def test_the_tables_of_the_benchmark_are_those_of_the_stored_measurements():
    stored = json.loads((ROOT / published.STORE).read_text())
    assert read_block(ROOT / published.PAGE, "benchmark") == published.to_markdown(stored)


def test_a_block_of_a_page_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin table: by hand -->\nold\n<!-- end table -->\nafter\n")
    assert read_block(page, "table") == "old"
    replace_block(page, "table", "new\nlines")
    assert page.read_text() == (
        "before\n<!-- begin table: by hand -->\n\nnew\nlines\n\n<!-- end table -->\nafter\n"
    )
    assert read_block(page, "table") == "new\nlines"
    with pytest.raises(UsageError, match=r"page\.md has no block other"):
        replace_block(page, "other", "")


# Commands ----------------------------------------------------------------------------------------

# Commands that the tests do not run, with the reason.
HOURS, RUNS_TESTS = "takes hours", "runs these tests"
NOT_RUN = {
    "scripts/benchmark": "takes most of an hour",
    "scripts/benchmark --only training,start --rounds 9": "takes minutes",
    "scripts/reproduce --scale cpu": HOURS,
    "scripts/reproduce --scale full": "needs a GPU",
    "python -m mnistcnn.train experiment=table_3 model.width=0.25": HOURS,
    "scripts/reproduce --scale cpu --only table_1,optimizers --seeds 8": HOURS,
    "python -m mnistcnn.train -m seed=0,1,2,3 hydra/launcher=submitit_slurm "
    "hydra.launcher.partition=gpu": "needs Slurm",
    "python -m mnistcnn.train model=yournet data=mnist5k": "an example of a name",
    'pip install --editable ".[launchers]"': "installs packages that scripts/test has installed",
    'pip install --editable ".[optuna]"': "installs packages that scripts/test has installed",
    'pip install --editable ".[tensorboard]"': "installs a package that scripts/test has installed",
    "tensorboard --logdir outputs": "a server, which does not end",
    "pip install .": "changes the environment; .ci/run installs a wheel",
    "source .venv/bin/activate": "changes the shell",
    ".ci/run": RUNS_TESTS,
    "scripts/test": RUNS_TESTS,
    "scripts/test -n 0 tests/test_metrics.py": RUNS_TESTS,
    "scripts/test -k resume": RUNS_TESTS,
    "scripts/test tests/test_metrics.py::test_score": RUNS_TESTS,
    "scripts/test tests/test_architecture.py": RUNS_TESTS,
    "MNISTCNN_DATA_DIR=data scripts/test": RUNS_TESTS,
    "pipx install pre-commit": "changes the user's environment",
    "pre-commit install": "changes the clone",
    "scripts/run data=mnist5k": "installs packages; .ci/run runs it",
}
# Shorter forms of long commands: arguments that the tests add.
ADDED = {
    "scripts/reproduce": ["--only", "stride", *TINY],
    "scripts/benchmark --quick": ["--only", "step", "--data", "mnist5k"],
}


def commands(page: Path) -> list[str]:
    """Return the commands of a page: lines of its blocks of shell code, and code in its text."""
    lines = []
    for block in re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        lines += block.replace("\\\n", " ").splitlines()
    code = re.findall(r"`([^`\n]+)`", text_without_code(page).replace("\n", " "))
    starts = ("python -m mnistcnn.", "scripts/", "pip install", "source ", "mnistcnn-")
    lines += [text for text in code if text.startswith(starts) and " " in text]
    found = [" ".join(re.sub(r"\s#.*", "", line).split()) for line in lines]
    return [command for command in found if command and "..." not in command]


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(page)))


RUN = [command for command in COMMANDS if command not in NOT_RUN]


def shortened(command: str) -> list[str]:
    """Return a command as an argument list that runs with this Python, on few images."""
    if command in ADDED:
        module = command.split()[0].replace("scripts/", "mnistcnn.")
        return [sys.executable, "-m", module, *command.split()[1:], *ADDED[command]]
    words = shlex.split(command)
    if words[0] != "python":
        return ["bash", "-c", command]
    if "mnistcnn.train" in words and not any(w.startswith(("resume=", "--")) for w in words):
        keys = {word.partition("=")[0] for word in words}
        words += [each for each in TINY if each.partition("=")[0] not in keys]
    if "mnistcnn.evaluate" in words:
        words += ["tsne.samples=60", "tsne.perplexity=10"]
    words = ["model.width=0.05" if word.startswith("model.width=") else word for word in words]
    return [sys.executable, *words[1:]]


class Shell:
    """Runs the commands in the order of the pages, in one directory, each of them once."""

    def __init__(self, directory: Path):
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
        self.options = {"cwd": directory, "env": {**os.environ, "PATH": path}}
        self.results: list[subprocess.CompletedProcess] = []

    def run(self, number: int) -> subprocess.CompletedProcess:
        """Run all commands up to this one, unless they have been run, and return its result."""
        for command in RUN[len(self.results) : number + 1]:
            self.results.append(
                subprocess.run(
                    shortened(command), capture_output=True, text=True, timeout=300, **self.options
                )
            )
        return self.results[number]


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> Shell:
    return Shell(tmp_path_factory.mktemp("pages"))


# numbers as names: -k must not find words of the commands
@pytest.mark.parametrize("number", range(len(RUN)))
def test_a_command_of_a_page_works(number, shell):
    result = shell.run(number)
    assert result.returncode == 0, f"{RUN[number]}\n{result.stderr}"
    if RUN[number].startswith("eval"):  # its exit code is 0 if the command in it fails
        assert result.stderr == ""


def test_the_commands_that_are_not_run_are_on_a_page():
    assert set(NOT_RUN) | set(ADDED) <= set(COMMANDS)


def test_ci_runs_the_first_command_of_the_front_page():
    first = commands(ROOT / "README.md")[0]
    assert first == "scripts/run data=mnist5k" and first in (ROOT / ".ci" / "run").read_text()
