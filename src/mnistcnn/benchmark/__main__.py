"""Command ``scripts/benchmark``: measure mnistcnn next to plain PyTorch and Lightning."""

import argparse
import contextlib
import logging
import os
import platform
import tempfile
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import torch

from mnistcnn.benchmark import baselines, commands, throughput
from mnistcnn.benchmark.context import Context, Section
from mnistcnn.cli.app import run_cli
from mnistcnn.runs.directory import create_run_dir
from mnistcnn.runs.provenance import git_commit, package_versions
from mnistcnn.system.atomic_files import write_json, write_text
from mnistcnn.system.devices import configure_process, describe_device, resolve_device
from mnistcnn.system.errors import MnistcnnError, UsageError

SECTIONS = {
    "training": ("Training the default network", throughput.training),
    "networks": ("Training the large networks", throughput.networks),
    "augmentation": ("Augmentation alone", throughput.augmentation),
    "start": ("From the command to the first batch", commands.start),
    "artifacts": ("A default run, phase by phase", commands.artifacts),
    "scaling": ("Scaling of time and memory", commands.scaling),
}
NOTE = (
    "Medians of all rounds, measured in alternation, with minimum and maximum. Ratios are computed "
    "within each round. The numbers of `--quick` are meaningless."
)

log = logging.getLogger("mnistcnn.benchmark")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark",
        description="Measure mnistcnn next to plain PyTorch and Lightning, in alternation. Writes "
        "a table per section, and all rounds as JSON.",
    )
    parser.add_argument(
        "--only", metavar="SECTION,...", default=",".join(SECTIONS), help="default: %(default)s"
    )
    parser.add_argument("--data", choices=["mnist", "mnist5k"], default="mnist")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 5, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="smoke test with tiny sizes")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"))
    arguments = parser.parse_args()
    if arguments.rounds is None:
        arguments.rounds = 1 if arguments.quick else 5
    if arguments.rounds < 1:
        parser.error("--rounds: must be at least 1")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Measure the sections and write all results to ``arguments.out`` after each of them."""
    selected = arguments.only.split(",")
    for name in selected:
        if name not in SECTIONS:
            raise UsageError(f"--only: no section {name}; choose from {', '.join(SECTIONS)}")
    device = resolve_device(arguments.device)
    configure_process(device)
    out = create_run_dir(arguments.out, "--out")
    setup = describe_setup(arguments, device)
    results = {"setup": setup, "sections": {}}
    text = Section(["", ""], list(setup.items()), [NOTE]).to_markdown("Setup")
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
    log.info("Results: %s", out)


def measure(name: str, context: Context) -> Section:
    """Measure a section; if something is missing, return a table with the reason."""
    title, section = SECTIONS[name]
    log.info("%s: %s", name, title)
    try:
        return section(context)
    except (MnistcnnError, ImportError, torch.OutOfMemoryError) as error:
        reason = " ".join(str(error).split())  # a row is one line
        return Section([""], [[f"not measured: {reason}"]])


def describe_setup(arguments: argparse.Namespace, device: torch.device) -> dict:
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
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": describe_device(device),
        "git_commit": git_commit(),
        **package_versions(),
        "lightning": version("lightning") if baselines.has_lightning() else None,
    }


def main() -> None:
    arguments = parse_arguments()
    run_cli(lambda: run(arguments))


if __name__ == "__main__":
    main()
