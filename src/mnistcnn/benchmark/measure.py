"""Measure the sections and write their tables, and all rounds, after each of them."""

import argparse
import contextlib
import logging
import platform
import tempfile
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mnistcnn.benchmark import baselines, commands, parts, published, throughput
from mnistcnn.benchmark.context import Context, Section
from mnistcnn.experiments.documents import repository
from mnistcnn.runs.directory import create_run_dir
from mnistcnn.runs.provenance import git_commit, package_versions
from mnistcnn.system.atomic_files import write_json, write_text
from mnistcnn.system.devices import configure_process, describe_device, resolve_device
from mnistcnn.system.errors import MnistcnnError, UsageError
from mnistcnn.system.resources import available_cores

SECTIONS = {
    "training": ("Training the default network", throughput.training),
    "step": ("A training step, part by part", parts.step),
    "kernels": ("Blocks of a network by the C kernel and by torch", parts.kernels),
    "networks": ("Training the large networks", throughput.networks),
    "start": ("From the command to the first batch", commands.start),
    "artifacts": ("A default run, phase by phase", commands.artifacts),
    "tsne": ("t-SNE by openTSNE and by scikit-learn", parts.tsne),
    "scaling": ("Scaling of time and memory", commands.scaling),
}
NOTE = (
    "Medians of all rounds, measured in alternation, with minimum and maximum. Ratios are computed "
    "within each round. The numbers of `--quick` are meaningless."
)

log = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> None:
    """Measure the sections and write all results to ``arguments.out`` after each of them."""
    if arguments.pages:
        published.write_page(repository())
        return
    selected = arguments.only.split(",") if arguments.only else list(SECTIONS)
    for name in selected:
        if name not in SECTIONS:
            raise UsageError(f"--only: no section {name}; choose from {', '.join(SECTIONS)}")
    device = resolve_device(arguments.device)
    configure_process(device)
    root = repository() if arguments.write else None
    out = create_run_dir(arguments.out, "--out")
    setup = describe_setup(arguments, device)
    results: dict[str, Any] = {"setup": setup, "sections": {}}
    rows = [[key, value] for key, value in setup.items()]
    text = Section(["", ""], rows, [NOTE]).to_markdown("Setup")
    log.info("%s", text)
    overrides = [f"data={arguments.data}", f"device={arguments.device}"]
    with tempfile.TemporaryDirectory(prefix="mnistcnn-benchmark-") as folder:
        context = Context(device, overrides, arguments.rounds, arguments.quick, Path(folder))
        for name in [name for name in SECTIONS if name in selected]:
            title, section = SECTIONS[name][0], measure(name, context)
            results["sections"][name] = {"title": title, **asdict(section)}
            log.info("\n%s\n", section.to_markdown(title))
            text += f"\n\n{section.to_markdown(title)}"
            write_json(out / "benchmark.json", results)
            write_text(out / "benchmark.md", text + "\n")
    if root is not None:
        published.store(root, results)
    log.info("Results: %s", out)


def measure(name: str, context: Context) -> Section:
    """Measure a section; if something is missing, return a table with the reason."""
    title, section = SECTIONS[name]
    log.info("%s: %s", name, title)
    try:
        return section(context)
    except (MnistcnnError, ImportError, torch.OutOfMemoryError) as error:
        reason = " ".join(str(error).split())  # a row is one line
        return Section([""], [[f"{published.NOT_MEASURED}: {reason}"]])


def describe_setup(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return the arguments, the hardware, the versions and the date."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):  # Linux has the full name
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model_name = next(line for line in lines if line.startswith("model name"))
        processor = model_name.partition(":")[2].strip()
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "quick": arguments.quick,
        "rounds": arguments.rounds,
        "data": arguments.data,
        "processor": processor,
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "device": describe_device(device),
        "git_commit": git_commit(),
        **package_versions(),
        **{
            name.lower(): version(name) if baselines.is_installed(name, device) else None
            for name in (baselines.LIGHTNING, baselines.JAX)
        },
    }
