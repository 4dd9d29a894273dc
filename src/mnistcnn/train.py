"""The command ``python -m mnistcnn.train``: one configuration, one network, one directory."""

import logging
from pathlib import Path

from mnistcnn import checkpoint, command_line, data, device, report, rundir
from mnistcnn.config import TrainSettings, fingerprint, to_yaml
from mnistcnn.fit import fit, fresh_network

log = logging.getLogger(__name__)


def run(settings: TrainSettings, out: Path) -> dict:
    """Train, test once, and leave every file of a run in ``out``; return ``metrics.json``.

    Whatever goes wrong, ``metrics.json`` says so (``failed`` or ``interrupted``) with what was
    known by then, and the error is raised again.
    """
    out = rundir.create(out, "hydra.run.dir")
    rundir.write_text(out / rundir.CONFIG, to_yaml(settings))
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

        with record.phase("fit"):
            done = fit(network, digits, settings, record)
        selected = checkpoint.load(out / checkpoint.SELECTED[settings.select])
        network.load_state_dict(selected.network.state_dict())

        report.write(network, digits, settings, done.history, record)
        record.values["status"] = done.status
    return record.values


def main() -> None:
    command_line.run_app("train", "mnistcnn.train:run")


if __name__ == "__main__":
    main()
