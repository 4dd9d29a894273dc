"""The command ``scripts/benchmark``: how fast it is, beside what else there is."""

import argparse
from pathlib import Path

from mnistcnn import signals, startup


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark",
        description="Measure training, start, report and growth, beside the report's way and "
        "Lightning's, in alternation: a table for each section, and every round in JSON.",
    )
    parser.add_argument("--only", type=lambda text: text.split(","), default=[],
                        metavar="SECTION,...", help="training, networks, augmentation, start, "
                        "report, scaling; by default all")  # fmt: skip
    parser.add_argument("--data", choices=["mnist", "mnist5k"], default="mnist")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--rounds", type=int, metavar="N", help="of every measurement (5)")
    parser.add_argument("--quick", action="store_true", help="a smoke test: everything, but tiny")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"),
                        help="what is in it is written anew")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds: at least 1")
    return arguments


def main() -> None:
    signals.exit_at_once()
    asked = _arguments()
    with startup.importing():
        from mnistcnn import benchmarking, console  # seconds: they import torch

    def body() -> int:
        benchmarking.run(asked.out, asked.data, asked.device, asked.only, asked.quick, asked.rounds)
        return 0

    console.command(body)


if __name__ == "__main__":
    main()
