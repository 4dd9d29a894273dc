"""The command ``python -m mnistcnn.train``: one configuration, one network, one directory."""

import logging
from pathlib import Path

from mnistcnn import checkpoint, command_line, data, engine, models, report, rundir, seeding
from mnistcnn.config import TrainSettings, to_yaml
from mnistcnn.fit import fit
from mnistcnn.seeding import Stream

log = logging.getLogger("mnistcnn.train")  # under python -m, __name__ is "__main__"


def run(settings: TrainSettings, out: Path) -> dict:
    """Train, test once, and leave every file of a run in ``out``; return ``metrics.json``.

    Whatever goes wrong, ``metrics.json`` says so (``failed`` or ``interrupted``) with what was
    known by then, and the error is raised again.
    """
    out = rundir.create(out, "hydra.run.dir")
    rundir.write_text(out / rundir.CONFIG, to_yaml(settings))
    with rundir.record(out, rundir.LOG) as record:
        device = engine.resolve_device(settings.device)
        with record.phase("data"):
            digits = data.load(settings.data, settings.seed).to(device)

        seeding.seed_global(settings.seed, Stream.WEIGHTS)
        network = models.build(settings.model)
        network.normalise_by(*digits.pixel_statistics())
        engine.place(network, device)
        record.values |= report.describe(network, digits, settings)
        log.info(
            "%s with %s parameters on %s",
            settings.model.name, f"{network.parameter_count():,}", engine.describe(device),
        )  # fmt: skip

        with record.phase("fit"):
            done = fit(network, digits, settings, out)
        record.values |= done.describe()
        selected = checkpoint.load(out / checkpoint.SELECTED[settings.select])
        network.load_state_dict(selected.network.state_dict())

        report.write(network, digits, settings, done.history, record)
        record.values["status"] = done.status
    return record.values


def main() -> None:
    command_line.run_app("train", run)


if __name__ == "__main__":
    main()
