"""Going on with a run where it stopped: what may change, what is there, and whether it is whole."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mnistcnn import checkpoint, metrics, rundir
from mnistcnn.checkpoint import Checkpoint
from mnistcnn.config import ELSEWHERE, TrainSettings, flat, plain, read_yaml, to_settings, to_yaml
from mnistcnn.errors import DamagedError, SettingError, UsageError
from mnistcnn.fit import Start


def settings(directory: Path, typed: dict[str, Any]) -> TrainSettings:
    """Those of the run in ``directory``, with what was ``typed`` (by full name) put in.

    Raises UsageError where there is no run, or where it would become another one.
    """
    text = _config(directory)
    run = read_yaml(text, directory / rundir.CONFIG)
    before = plain(text)
    _refuse(directory, flat(before), typed, run)
    changed = OmegaConf.create(before)
    for key, value in typed.items():
        OmegaConf.update(changed, key, value, force_add=True)
    return to_settings(TrainSettings, changed)


def _config(directory: Path) -> str:
    file = directory / rundir.CONFIG
    try:
        return file.read_text()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"resume={directory} is no run: {file.name}: {reason}") from error


def _refuse(
    directory: Path, before: dict[str, Any], wanted: dict[str, Any], run: TrainSettings
) -> None:
    """Refuse settings that would make another run of ``run``."""
    may_change = [*ELSEWHERE, *(["epochs"] if _epochs_may_change(run) else [])]
    for key, value in wanted.items():
        if key in may_change or key not in before or before[key] == value:
            continue
        reason = "it would be another run"
        if key == "epochs":
            fixed = f"scheduler={run.scheduler.name}" if run.steps is None else "steps"
            reason = f"{fixed} has spread the run over them"
        raise UsageError(
            f"{directory}: {key} is {before[key]} and cannot become {value}: {reason} "
            f"({', '.join(may_change)} may change)"
        )


def _epochs_may_change(run: TrainSettings) -> bool:
    """Whether the first epochs are the same, however many are to follow."""
    return run.scheduler.name in ("step", "none") and run.steps is None


def prepare(out: Path, settings: TrainSettings) -> Start | None:
    """Make ``out`` what it was when ``last.pt`` was written; None where nothing was trained yet.

    Raises UsageError, before anything was changed, where a file that is needed is of another run,
    and DamagedError where it is damaged or gone.
    """
    if not (out / rundir.LAST).exists():
        later = [n for n in (rundir.HISTORY, *rundir.RESULTS) if (out / n).exists()]
        if (out / rundir.EVALUATE_LOG).exists():
            raise UsageError(f"{out} is an evaluation, with which no training can go on")
        if later:
            raise DamagedError(
                f"{out} cannot go on: {rundir.LAST} is gone, and {later[0]} is there. "
                "Train it anew elsewhere"
            )
        return None
    last = checkpoint.load(out / rundir.LAST)
    _check_same_run(out, last, settings)
    history = rundir.verified_history(out, last.epoch, last.training["history_sha256"])
    best = _best(out, last, history)

    config = to_yaml(settings)
    rundir.write_history(out, history)
    if _config(out) != config:  # its time is when the run began
        rundir.write_text(out / rundir.CONFIG, config)
    if best is not None and (best is last or best.config != config):
        checkpoint.save(
            out / rundir.BEST, best.network, settings.model, config, best.epoch, best.step
        )
    rundir.clear_results(out)  # last: until here the disk may turn out to be full
    return Start(last, history)


def _check_same_run(out: Path, last: Checkpoint, settings: TrainSettings) -> None:
    file = out / rundir.LAST
    if last.training is None:
        raise UsageError(f"{file} holds weights alone, with which no training can go on")
    try:
        trained = read_yaml(last.config, file)
        _refuse(file, flat(plain(last.config)), flat(plain(to_yaml(settings))), trained)
    except UsageError as error:
        raise UsageError(f"{error}. Is {file} of another run than {rundir.CONFIG}?") from error
    if last.epoch > settings.epochs or (
        last.epoch == settings.epochs and last.training["running"]["batches"]
    ):
        raise SettingError("epochs", settings.epochs, f"more than {last.epoch}, which are done")


def _best(out: Path, last: Checkpoint, history: list[dict]) -> Checkpoint | None:
    """What ``best.pt`` must hold; None before the first epoch's end."""
    if not history:
        return None
    best_epoch = metrics.best_epoch(history)
    if best_epoch == last.epoch and last.training["running"]["batches"] == 0:
        return last  # it may have been killed before it wrote best.pt
    best = checkpoint.load(out / rundir.BEST)
    if best.epoch != best_epoch:
        raise DamagedError(f"{out / rundir.BEST} is of epoch {best.epoch}, not of {best_epoch}")
    return best
