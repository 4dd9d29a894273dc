"""The command ``python -m mnistcnn.evaluate``: the report of a run, from its checkpoint alone."""

import dataclasses
import logging
from pathlib import Path

from mnistcnn import checkpoint, command_line, data, engine, report, rundir
from mnistcnn.config import EvaluateSettings, TrainSettings, from_yaml, to_yaml
from mnistcnn.errors import UsageError

log = logging.getLogger("mnistcnn.evaluate")  # under python -m, __name__ is "__main__"


def run(settings: EvaluateSettings, out: Path) -> dict:
    """Write the report of ``settings.ckpt`` into ``out``; return its ``metrics.json``.

    The data is split as it was for the training, so that all scores are comparable.
    """
    path = _checkpoint_file(Path(settings.ckpt))
    loaded = checkpoint.load(path)
    trained = _as_trained(loaded.config, settings, path)

    out = rundir.create(out, "hydra.run.dir")
    rundir.write_text(out / rundir.CONFIG, to_yaml(trained))
    with rundir.record(out, rundir.EVALUATE_LOG) as record:
        device = engine.resolve_device(settings.device)
        log.info("%s: %s after epoch %d", path, trained.model.name, loaded.epoch)
        with record.phase("data"):
            digits = data.load(trained.data, trained.seed).to(device)
        network = engine.place(loaded.network, device)
        record.values |= report.describe(network, digits, trained)
        record.values |= {"checkpoint": str(path.absolute()), "epoch": loaded.epoch}
        report.write(network, digits, trained, rundir.read_history(path.parent), record)
        record.values["status"] = "finished"
    return record.values


def _checkpoint_file(path: Path) -> Path:
    """``path`` itself, or the weights that the run in the directory ``path`` selected."""
    if not path.is_dir():
        return path
    config = path / rundir.CONFIG
    if not config.is_file():
        raise UsageError(f"ckpt={path} is not the directory of a run: it has no {rundir.CONFIG}")
    return path / checkpoint.SELECTED[from_yaml(config.read_text()).select]


def _as_trained(config: str, settings: EvaluateSettings, path: Path) -> TrainSettings:
    """The settings of the training, with what an evaluation decides for itself put in."""
    try:
        trained = from_yaml(config)
    except Exception as error:
        raise UsageError(
            f"ckpt={path} has a configuration that this version cannot read ({error})"
        ) from error
    if isinstance(trained.data, data.MnistSettings) and settings.data.dir is not None:
        trained.data = dataclasses.replace(trained.data, dir=settings.data.dir)
    return dataclasses.replace(
        trained,
        device=settings.device,
        precision=settings.precision,
        tsne=settings.tsne,
        neighbours=settings.neighbours,
    )


def main() -> None:
    command_line.run_app("evaluate", run)


if __name__ == "__main__":
    main()
