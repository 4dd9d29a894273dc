"""How fast it is, beside what else there is: every section measured, told and written."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mnistcnn import data, device, durations, measuring, rundir, speed
from mnistcnn.bench import FULL, QUICK, Bench, Section, Sizes, settings
from mnistcnn.errors import PlainError, UsageError
from mnistcnn.measuring import PowerLaw, Spread

log = logging.getLogger(__name__)

JSON = "benchmark.json"
MARKDOWN = "benchmark.md"

SECTIONS: dict[str, tuple[str, Callable[[Bench], Section]]] = {
    "training": ("Training the default network", speed.training),
    "networks": ("Training the large networks", speed.networks),
    "augmentation": ("Augmentation alone", speed.augmentation),
    "start": ("From the command to the first batch", durations.start),
    "report": ("A default run, phase by phase", durations.report),
    "scaling": ("How time and memory grow", durations.scaling),
}


def run(
    out: Path, dataset: str, on: str, only: Sequence[str], quick: bool, rounds: int | None
) -> None:
    """Measure all sections, or ``only`` some, and write both files into ``out`` after each."""
    if unknown := [name for name in only if name not in SECTIONS]:
        there_are = ", ".join(SECTIONS)
        raise UsageError(f"--only: there is no {', '.join(unknown)}; there are {there_are}")
    overrides = [f"data={dataset}", f"device={on}"]
    here = device.resolve(on)
    device.prepare(here)
    sizes = QUICK if quick else FULL
    measured: dict[str, Any] = {
        "quick": quick, "rounds": rounds or sizes.rounds, "data": dataset, "machine": machine(here),
        "sections": {},
    }  # fmt: skip
    out = rundir.create(out, "--out")
    blocks = [f"# Measured\n\n{_head(measured)}"]
    log.info("%s\n", blocks[0])
    with tempfile.TemporaryDirectory(prefix="mnistcnn-benchmark-") as folder:
        bench = _bench(sizes, rounds, overrides, here, Path(folder))
        for name in [name for name in SECTIONS if not only or name in only]:
            section = _measured(name, bench)
            measured["sections"][name] = _json(section)
            blocks.append(section.markdown())
            log.info("\n%s\n", blocks[-1])
            rundir.write_json(out / JSON, measured)
            rundir.write_text(out / MARKDOWN, "\n\n".join(blocks) + "\n")
    log.info("all of it is in %s", out)


def _bench(
    sizes: Sizes, rounds: int | None, overrides: list[str], here: torch.device, folder: Path
) -> Bench | str:
    """What the sections share; where there are no digits, why not."""
    sizes = replace(sizes, rounds=rounds or sizes.rounds)
    try:
        of = settings(*overrides)
        return Bench(sizes, overrides, data.load(of.data, of.seed).to(here), folder)
    except PlainError as error:
        return str(error)


def _measured(name: str, bench: Bench | str) -> Section:
    """A section; where what it needs is not here, a table that says so."""
    title, measure = SECTIONS[name]
    if isinstance(bench, str):
        return _not_measured(title, bench)
    log.info("%s: %s", name, title)
    try:
        section = measure(bench)
    except (PlainError, ImportError, torch.OutOfMemoryError) as error:
        return _not_measured(title, str(error))
    section.title = title
    return section


def _not_measured(title: str, reason: str) -> Section:
    reason = " ".join(reason.split())  # a table's row is a line
    row = [f"not measured: {reason}"]
    return Section([""], [row], values={"not measured": reason}, title=title)


def machine(here: torch.device) -> dict[str, Any]:
    """Where and when, with which versions."""
    versions = rundir.versions()
    try:
        versions["lightning"] = version("lightning")
    except PackageNotFoundError:
        pass
    return {
        "processor": measuring.processor(),
        "cores": measuring.cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(here) if here.type == "cuda" else None,
        "device": str(here),
        "versions": versions,
        "git_commit": rundir.git_commit(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _head(measured: dict[str, Any]) -> str:
    here = measured["machine"]
    head = (
        f"{here['date'][:10]}, `data={measured['data']}`, {here['processor']}, {here['cores']} "
        f"cores, {here['threads']} threads, {here['gpu'] or 'no GPU'}, torch "
        f"{here['versions']['torch']}. Medians of {measured['rounds']} rounds in alternation, and "
        "in brackets the least and the most; ratios are taken within each round."
    )
    if measured["quick"]:
        head += " **A smoke test (`--quick`): its numbers say that all works, and no more.**"
    return head


def _json(section: Section) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(each) for key, each in value.items()}
        return asdict(value) if isinstance(value, Spread | PowerLaw) else value

    return {
        "title": section.title, "header": section.header, "rows": section.rows,
        "notes": section.notes, "values": plain(section.values),
    }  # fmt: skip
