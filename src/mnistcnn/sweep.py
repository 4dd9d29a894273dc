"""Many run directories become one table, a few pictures and an answer."""

import csv
import io
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mnistcnn import plots, rundir, statistics
from mnistcnn.config import ELSEWHERE, flat, plain
from mnistcnn.errors import PlainError, UsageError
from mnistcnn.statistics import Mean

log = logging.getLogger(__name__)

SUMMARY_CSV = "summary.csv"
SUMMARY_MD = "summary.md"
CURVES = "validation_curves.png"
ERROR_BY_SAMPLES = "error_by_samples.png"

COMPLETE = ("finished", "early_stopped")
PARTS = ("train", "validation", "test")
MOST_CURVES = 12  # lines that a person can still tell apart


@dataclass(frozen=True)
class Run:
    """What a run's directory tells."""

    path: Path
    metrics: dict[str, Any]

    @property
    def status(self) -> str:
        return self.metrics.get("status", "failed")

    @property
    def complete(self) -> bool:
        return self.status in COMPLETE and not self.missing

    @cached_property
    def missing(self) -> list[str]:
        """What a finished run has and this one has not."""
        names = [n for n in (rundir.CONFIG, rundir.PREDICTIONS) if not (self.path / n).is_file()]
        return names + [part for part in (*PARTS, "data") if part not in self.metrics]

    @property
    def reason(self) -> str:
        """Why a run is not complete, in one line."""
        if self.complete:
            return ""
        if self.status in COMPLETE:
            return f"but without {', '.join(self.missing)}"
        return " ".join(str(self.metrics.get("error", "")).split())

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """By full name, as ``model.width``; none where a run failed before it had any.

        Raises PlainError where they cannot be read.
        """
        if not (self.path / rundir.CONFIG).exists():
            return {}
        try:
            settings = flat(plain((self.path / rundir.CONFIG).read_text()))
            if "seed" not in settings:
                raise ValueError("no seed in it")
            return settings
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise PlainError(f"{self.path / rundir.CONFIG} cannot be read: {reason}") from error

    @cached_property
    def history(self) -> list[dict]:
        """A row per epoch; none where there is no file, or one that is damaged."""
        try:
            return rundir.read_history(self.path)
        except PlainError as error:  # the numbers do not need it
            log.warning("no curve: %s", error)
            return []

    def measure(self, part: str, name: str) -> float | None:
        """``name`` (accuracy, error, loss) on ``part``; None where the run did not get so far."""
        return self.metrics.get(part, {}).get(name)


def read(path: Path) -> Run | None:
    """The run in the directory ``path``, whatever became of it; None where there is none."""
    if not (path / rundir.METRICS).is_file():
        return None
    try:
        metrics = json.loads((path / rundir.METRICS).read_text())
        if not isinstance(metrics, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:  # cut off, or not ours
        metrics = {"status": "failed", "error": f"{rundir.METRICS} cannot be read: {error}"}
    return Run(path, metrics)


def find(path: Path) -> list[Run]:
    """The run in the directory ``path``, or all runs in directories below it, in order of names.

    Raises UsageError where there is no such directory.
    """
    if not path.is_dir():
        raise UsageError(f"{path} is not a directory")
    folders = sorted(file.parent for file in path.rglob(rundir.METRICS))
    return [run for run in map(read, folders) if run is not None]


def with_fingerprint(path: Path, fingerprint: str) -> Run | None:
    """The run below ``path`` with this configuration; one that is complete where there are more."""
    same = [run for run in find(path) if run.metrics.get("config_sha256") == fingerprint]
    return max(same, key=lambda run: run.complete, default=None)


# What varies, and what belongs together ----------------------------------------------------------


def varying(runs: Sequence[Run]) -> list[str]:
    """The settings that tell ``runs`` apart, in the order of the configuration.

    Where the option of a group varies, what else is in the group counts only if it also varies
    between runs of one option: ``model=convnet,custom`` differ in ``model.name`` alone.
    """
    runs = [run for run in runs if run.settings]
    keys = dict.fromkeys(key for run in runs for key in run.settings if key not in ELSEWHERE)
    names = {key for key in keys if key.endswith(".name") and _differ(runs, key)}
    found = []
    for key in keys:
        option = key.rpartition(".")[0] + ".name"
        if key not in names and option in names:
            parts = {run.settings.get(option) for run in runs}
            alike = ([r for r in runs if r.settings.get(option) == part] for part in parts)
            if any(_differ(part, key) for part in alike):
                found.append(key)
        elif _differ(runs, key):
            found.append(key)
    return found


def _differ(runs: Iterable[Run], key: str) -> bool:
    return len({json.dumps(run.settings.get(key)) for run in runs}) > 1


def label(settings: dict[str, Any], keys: Iterable[str]) -> str:
    """Settings as a person would type them: ``aug=full data.fraction=0.5``."""
    typed = (f"{_typed(key)}={_value(settings.get(key))}" for key in keys)
    return " ".join(typed)


def matches(settings: dict[str, Any], typed: Iterable[str]) -> bool:
    """Whether settings are those that a person typed, as ``["aug=full", "optimizer.lr=1e-3"]``."""
    for text in typed:
        key, _, value = text.partition("=")
        key = key if key in settings else f"{key}.name"
        if key not in settings or _value(settings[key]) not in (value, _value(_read(value))):
            return False
    return True


def _read(value: str) -> Any:
    try:
        return plain(f"value: {value}")["value"]
    except Exception:  # no YAML
        return value


def _typed(key: str) -> str:
    return key.removesuffix(".name")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    return "null" if value is None else str(value).replace(" ", "")


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone, in the order of their seeds."""

    runs: list[Run]

    @property
    def settings(self) -> dict[str, Any]:
        return self.runs[0].settings

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    def values(self, part: str, name: str) -> np.ndarray:
        return np.array([run.measure(part, name) for run in self.runs], dtype=np.float64)

    def mean(self, part: str, name: str) -> Mean:
        return statistics.mean_interval(self.values(part, name))


def groups(runs: Iterable[Run]) -> list[Group]:
    """Complete runs gathered over seeds; a run that is there twice counts once."""
    gathered: dict[str, dict[int, Run]] = {}
    for run in runs:
        if run.complete:
            settings = {key: run.settings[key] for key in run.settings if key not in ELSEWHERE}
            seed = settings.pop("seed")
            key = json.dumps(settings, sort_keys=True)
            gathered.setdefault(key, {}).setdefault(seed, run)
    return [Group([by_seed[seed] for seed in sorted(by_seed)]) for by_seed in gathered.values()]


def in_order(runs: Iterable[Run], keys: Sequence[str]) -> list[Run]:
    """Sorted by the values of ``keys``; text after numbers, and null before both."""

    def rank(value: Any) -> tuple:
        if value is None:
            return (0,)
        return (1, value) if isinstance(value, int | float) else (2, str(value))

    return sorted(runs, key=lambda run: [rank(run.settings.get(key)) for key in keys])


# Tables ------------------------------------------------------------------------------------------


def percent(mean: Mean, with_interval: bool = False) -> str:
    """``97.44 ± 0.18 (97.21 to 97.66)``: mean, standard deviation and 95% interval."""
    text = f"{100 * mean.mean:.2f}"
    if mean.sd is not None:
        text += f" ± {100 * mean.sd:.2f}"
    if with_interval and mean.ci95 is not None:
        low, high = mean.ci95
        text += f" ({100 * low:.2f} to {100 * high:.2f})"
    return text


def table(of: Sequence[Group]) -> str:
    """Markdown: a row per group, with what tells it from the others, and its scores in percent."""
    keys = [key for key in varying([run for group in of for run in group.runs]) if key != "seed"]
    header = [
        *map(_typed, keys), "n", "training", "validation", "test", "test error", "epochs",
        "seconds",
    ]  # fmt: skip
    rows = [
        [
            *(_value(group.settings.get(key)) for key in keys),
            str(len(group.runs)),
            *(percent(group.mean(part, "accuracy")) for part in PARTS),
            percent(group.mean("test", "error"), with_interval=True),
            _number(np.mean([len(run.history) for run in group.runs])),
            f"{np.mean([run.metrics['seconds']['total'] for run in group.runs]):.1f}",
        ]
        for group in of
    ]
    return markdown(header, rows)


def _number(value: float) -> str:
    """Nothing for 0: an evaluation away from its run knows of no epochs."""
    return f"{value:g}" if value else ""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from tabulate import tabulate  # not for those who see no table

    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True)


def _csv(runs: Sequence[Run], keys: Sequence[str], root: Path) -> str:
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    measures = [(part, name) for part in PARTS for name in ("accuracy", "error")]
    writer.writerow([
        *map(_typed, keys), "status", "reason", *(f"{part}_{name}" for part, name in measures),
        "epochs", "seconds", "directory",
    ])  # fmt: skip
    for run in runs:
        writer.writerow([
            *(_value(run.settings.get(key)) for key in keys),
            run.status,
            run.reason,
            *(run.measure(*measure) for measure in measures),
            run.metrics.get("epochs"),
            run.metrics.get("seconds", {}).get("total"),
            run.path.relative_to(root).as_posix(),
        ])  # fmt: skip
    return content.getvalue()


# The summary of a directory ----------------------------------------------------------------------


def summarise(path: Path) -> str:
    """Write ``summary.csv``, ``summary.md`` and pictures of all runs below ``path``.

    Returns the table of the groups, as ``summary.md`` has it. Raises PlainError where a picture
    could not be made, after all else.
    """
    runs = find(path)
    keys = varying(runs)
    runs = in_order(runs, keys)
    rundir.write_text(path / SUMMARY_CSV, _csv(runs, keys, path))
    of = groups(runs)
    pictures = _pictures(of, [key for key in keys if key != "seed"])
    text = _text(runs, of, keys)
    rundir.write_text(
        path / SUMMARY_MD, "\n\n".join([text, *(f"![{n}]({n})" for n in pictures)]) + "\n"
    )
    missing = []
    for name, draw in pictures.items():
        try:
            draw(path / name)
        except Exception as error:
            log.debug("%s was not written", name, exc_info=True)
            missing.append(f"{name} ({type(error).__name__}: {error})")
    if missing:
        raise PlainError(f"the summary is whole, but not written: {', '.join(missing)}")
    return text


def _text(runs: Sequence[Run], of: Sequence[Group], keys: Sequence[str]) -> str:
    blocks = []
    if of:
        blocks.append(table(of))
        blocks.append("Percent: mean ± standard deviation over n seeds (95% interval of the mean).")
    incomplete = [run for run in runs if not run.complete]
    if incomplete:
        lines = (
            f"- {(run.settings and label(run.settings, keys)) or run.path.name}: {run.status}"
            + (f", {run.reason}" if run.reason and not run.reason.startswith(run.status) else "")
            for run in incomplete
        )
        blocks.append(f"{len(incomplete)} of {len(runs)} runs not complete:\n\n" + "\n".join(lines))
    return "\n\n".join(blocks)


def _pictures(of: Sequence[Group], keys: Sequence[str]) -> dict[str, Callable[[Path], None]]:
    """By name, what draws them; none where no run is complete."""
    pictures: dict[str, Callable[[Path], None]] = {}
    if errors := curves(of, keys):
        pictures[CURVES] = lambda path: plots.overlaid_curves(path, errors)
    if of and "data.fraction" in keys:
        pictures[ERROR_BY_SAMPLES] = lambda path: plots.error_by_samples(
            path, errors_by_samples(of, [key for key in keys if key != "data.fraction"])
        )
    return pictures


def curves(of: Sequence[Group], keys: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """By label, what :func:`errors_by_epoch` gives."""
    return {
        label(group.settings, keys) or "all runs": errors_by_epoch(group)
        for group in of[:MOST_CURVES]
        if all(run.history for run in group.runs)  # an evaluation away from its run has none
    }


def errors_by_epoch(group: Group) -> list[np.ndarray]:
    """The validation error after each epoch, (epochs,), of each run."""
    return [np.array([1 - row["val_accuracy"] for row in run.history]) for run in group.runs]


def errors_by_samples(of: Sequence[Group], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """By label of ``keys``: a row per number of training images, fewest first.

    Rows hold that number, and of the training and of the test error the mean and the two ends of
    its interval: (K, 7).
    """
    series: dict[str, list[list[float]]] = {}
    for group in of:
        row: list[float] = [group.runs[0].metrics["data"]["train"]]
        for part in ("train", "test"):
            mean = group.mean(part, "error")
            row += [mean.mean, *(mean.ci95 or (mean.mean, mean.mean))]
        series.setdefault(label(group.settings, keys), []).append(row)
    return {name: np.array(sorted(rows)) for name, rows in series.items()}
