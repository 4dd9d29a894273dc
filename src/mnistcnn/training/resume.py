"""Resume a run: check which settings may change, and verify the files of its directory."""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mnistcnn.config.load import flatten, parse_config, read_settings, to_settings, to_yaml
from mnistcnn.config.schema import TrainSettings
from mnistcnn.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mnistcnn.runs.directory import (
    BEST,
    CONFIG,
    EVALUATE_LOG,
    HISTORY,
    LAST,
    NEXT_BEST,
    RESULT_FILES,
    SWEEP,
)
from mnistcnn.runs.history import best_epoch, read_verified_history, write_history
from mnistcnn.runs.identity import NON_IDENTITY_KEYS
from mnistcnn.system.errors import (
    CorruptFileError,
    MnistcnnError,
    SettingError,
    UsageError,
)
from mnistcnn.system.quoting import override, quote_argument


@dataclass(frozen=True)
class ResumeState:
    """The checkpoint from which training is resumed, and the rows of the completed epochs.

    ``best`` is the content that ``best.pt`` must have, or None before the end of the first epoch,
    and ``best_file`` the name of the file that has it.
    """

    checkpoint: Checkpoint
    history: list[dict[str, float]]
    best: Checkpoint | None
    best_file: str = BEST


def resumed_settings(run_dir: Path, overrides: dict[str, Any]) -> TrainSettings:
    """Return the settings of the run in ``run_dir`` with ``overrides`` (by full name) applied.

    Raises UsageError if there is no run, or if an override would make it a different run.
    """
    text = _read_config(run_dir)
    run = read_settings(text, run_dir / CONFIG)
    values = parse_config(text, run_dir / CONFIG)
    _refuse_changes(run_dir, run, flatten(values), overrides)
    changed = OmegaConf.create(values)
    for key, value in overrides.items():
        OmegaConf.update(changed, key, value, force_add=True)
    return to_settings(TrainSettings, changed)


def _read_config(run_dir: Path) -> str:
    if run_dir.is_file() and (run_dir.parent / CONFIG).is_file():
        typed = quote_argument(override("resume", run_dir.parent))
        raise UsageError(f"resume={run_dir} is a file: give the directory of the run, {typed}")
    if (run_dir / SWEEP).is_file():
        command = override("hydra.sweep.dir", run_dir)
        raise UsageError(f"resume={run_dir} is a sweep: repeat its command with {command}")
    if not run_dir.exists():
        raise UsageError(f"resume={run_dir}: there is no such directory")
    try:
        return (run_dir / CONFIG).read_text()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"resume={run_dir} is not a run: {CONFIG}: {reason}") from error


def _refuse_changes(
    source: Path, run: TrainSettings, current: dict[str, Any], requested: dict[str, Any]
) -> None:
    """Check that ``requested`` settings would not make ``run`` a different run.

    Raises UsageError if they would.
    """
    changeable = list(NON_IDENTITY_KEYS)
    # with these, the first epochs do not depend on the number of epochs
    if run.scheduler.name in ("step", "none") and run.steps is None:
        changeable.append("epochs")
    for key, value in requested.items():
        if key in changeable or key not in current or current[key] == value:
            continue
        reason = "that would be a different run"
        if key == "epochs":
            fixed_by = "steps" if run.steps is not None else f"scheduler={run.scheduler.name}"
            reason = f"{fixed_by} depends on the number of epochs"
        # the settings of these groups may all change
        names = dict.fromkeys(
            re.sub(r"^(checkpoint|tsne|neighbours)\..+", r"\1.*", name).removesuffix(".name")
            for name in changeable
        )
        raise UsageError(
            f"{source}: {key} is {current[key]} and cannot be changed to {value}: {reason} "
            f"(only {', '.join(names)} may change)"
        )


def load_resume_state(run_dir: Path, settings: TrainSettings) -> ResumeState | None:
    """Return the state in which the training in ``run_dir`` was saved; None if nothing was trained.

    Changes nothing. Raises UsageError if a required file belongs to another run, and
    CorruptFileError if it is corrupt or missing.
    """
    if not (run_dir / LAST).exists():
        _require_untrained(run_dir)
        return None
    last = load_checkpoint(run_dir / LAST)
    _check_same_run(run_dir, last, settings)
    assert last.training is not None  # just checked
    history = read_verified_history(run_dir, last.epoch, last.training["history_sha256"])
    return ResumeState(last, history, *_load_best(run_dir, last, history))


def restore_files(run_dir: Path, settings: TrainSettings, state: ResumeState) -> None:
    """Set ``history.jsonl`` and ``best.pt`` to the state of ``last.pt``. Raises WriteError."""
    best, config = state.best, to_yaml(settings)
    write_history(run_dir, state.history)
    if best is not None and (state.best_file != BEST or best.config != config):
        weights = best.model.state_dict()
        arguments = settings.model, best.model.precision_name, config, best.epoch, best.step
        save_checkpoint(run_dir / BEST, weights, *arguments)
    (run_dir / NEXT_BEST).unlink(missing_ok=True)


def _require_untrained(run_dir: Path) -> None:
    if (run_dir / EVALUATE_LOG).exists():
        raise UsageError(f"{run_dir} is an evaluation, which cannot be resumed")
    later = [name for name in (HISTORY, *RESULT_FILES) if (run_dir / name).exists()]
    if later:
        raise CorruptFileError(
            f"{run_dir} cannot be resumed: {later[0]} exists but {LAST} is missing. "
            "Train in another directory"
        )


def _check_same_run(run_dir: Path, last: Checkpoint, settings: TrainSettings) -> None:
    file = run_dir / LAST
    if last.training is None:
        raise UsageError(f"{file} has weights only and cannot be resumed")
    try:
        trained = read_settings(last.config, file)
        current = flatten(parse_config(last.config, file))
        requested = flatten(parse_config(to_yaml(settings), file))
        _refuse_changes(file, trained, current, requested)
    except UsageError as error:
        raise UsageError(f"{error}. Does {LAST} belong to another run than {CONFIG}?") from error
    if last.epoch > settings.epochs or (
        last.epoch == settings.epochs and last.training["metrics"]["batches"]
    ):
        allowed = f"more than {last.epoch}, the number of completed epochs"
        raise SettingError("epochs", settings.epochs, allowed)


def _load_best(
    run_dir: Path, last: Checkpoint, history: list[dict[str, float]]
) -> tuple[Checkpoint | None, str]:
    """Return the content that ``best.pt`` must have, and the name of the file that has it.

    The content is None before the end of the first epoch.
    """
    if not history:
        return None, BEST
    epoch = best_epoch(history)
    assert last.training is not None  # checked by load_resume_state
    if epoch == last.epoch and last.training["metrics"]["batches"] == 0:
        return last, LAST  # the process may have been killed before it wrote best.pt
    # the process may have been killed while it saved several epochs at once
    with contextlib.suppress(MnistcnnError):  # missing, as it usually is, or damaged
        best = load_checkpoint(run_dir / NEXT_BEST)
        if best.epoch == epoch:
            return best, NEXT_BEST
    best = load_checkpoint(run_dir / BEST)
    if best.epoch != epoch:
        raise CorruptFileError(f"{run_dir / BEST} holds epoch {best.epoch}, not epoch {epoch}")
    return best, BEST
