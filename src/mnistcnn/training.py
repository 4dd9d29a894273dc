"""One run: one configuration, one network, one directory."""

import logging
from pathlib import Path

from mnistcnn import checkpoint, data, device, report, resume, rundir, signals, sweep
from mnistcnn.config import TrainSettings, fingerprint, to_yaml
from mnistcnn.fit import Start, fit, fresh_network

log = logging.getLogger(__name__)


def run(settings: TrainSettings, out: Path, go_on: bool = False) -> dict:
    """Train, test once, and leave every file of a run in ``out``; return ``metrics.json``.

    Whatever goes wrong, ``metrics.json`` says so (``failed`` or ``interrupted``) with what was
    known by then, and the error is raised again. With ``go_on``, the run that is in ``out`` is
    finished, and one that is finished is left as it is.
    """
    if not go_on:
        out = rundir.create(out, "hydra.run.dir")
    with rundir.alone(out):
        rundir.clear_leftovers(out)
        if not go_on:
            rundir.refuse_taken(out, "hydra.run.dir")  # another process may have been faster
            rundir.write_text(out / rundir.CONFIG, to_yaml(settings))
            return _run(settings, out, None)
        there = sweep.read(out)
        known = there is not None and there.metrics.get("config_sha256") == fingerprint(settings)
        if known and there.complete:
            log.info(
                "%s is finished: %d epochs, test accuracy %.2f%%",
                out, there.metrics["epochs"], 100 * there.measure("test", "accuracy"),
            )  # fmt: skip
            return there.metrics
        return _run(settings, out, resume.prepare(out, settings))


def _run(settings: TrainSettings, out: Path, start: Start | None) -> dict:
    with rundir.record(out, rundir.LOG, {"config_sha256": fingerprint(settings)}) as record:
        here = device.resolve(settings.device)
        device.prepare(here)
        with record.phase("data"):
            digits = data.load(settings.data, settings.seed).to(here)
        network = fresh_network(settings, digits)
        record.values |= report.describe(network, digits, settings)
        log.info(
            "%s with %s parameters on %s",
            settings.model.name, f"{network.parameter_count():,}", device.describe(here),
        )  # fmt: skip
        if start is not None:
            log.info("going on after epoch %d of %d", start.checkpoint.epoch, settings.epochs)

        with record.phase("fit"):
            done = fit(network, digits, settings, record, start)
        selected = checkpoint.load(out / checkpoint.SELECTED[settings.select])
        network.load_state_dict(selected.network.state_dict())

        # not what another device may have scored before the run went on
        before = 0 if start is None else start.checkpoint.epoch
        scored = done.history[selected.epoch - 1] if selected.epoch > before else None
        report.write(network, digits, settings, done.history, record, scored)
        signals.check()
        record.values["status"] = done.status
    return record.values
