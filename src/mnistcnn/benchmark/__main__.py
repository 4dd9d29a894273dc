"""Command ``scripts/benchmark``: measure mnistcnn next to plain PyTorch, Lightning and JAX.

The arguments are parsed before torch is imported, like those of the other commands.
"""

import argparse
from pathlib import Path

from mnistcnn.cli.arguments import CommandParser, add_version_argument
from mnistcnn.system import signals, startup


def parse_arguments() -> argparse.Namespace:
    """Parse the arguments of the process, with the default number of rounds filled in."""
    parser = CommandParser(
        prog="scripts/benchmark",
        description="Measure mnistcnn next to plain PyTorch, Lightning and JAX, in alternation. "
        "Writes a table per section, and all rounds as JSON.",
    )
    parser.add_argument(
        "--only",
        metavar="SECTION,...",
        help="training, step, kernels, networks, start, artifacts, tsne, scaling (default: all)",
    )
    parser.add_argument("--data", choices=["mnist", "mnist5k"], default="mnist")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 5, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="smoke test with tiny sizes")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"))
    parser.add_argument(
        "--write",
        action="store_true",
        help="store the sections in scripts/benchmark.json, and show them in scripts/README.md",
    )
    parser.add_argument(
        "--pages",
        action="store_true",
        help="measure nothing: write the stored sections to scripts/README.md again",
    )
    add_version_argument(parser)
    arguments = parser.parse_args()
    if arguments.pages:
        ignored = ["only", "data", "device", "rounds", "quick", "out", "write"]
        parser.refuse_with_pages(arguments, ignored)
    if arguments.rounds is None:
        arguments.rounds = 1 if arguments.quick else 5
    if arguments.rounds < 1:
        parser.error("--rounds: must be at least 1")
    if arguments.write and (arguments.quick or arguments.data != "mnist"):
        parser.error("--write: the pages show measurements with --data mnist, without --quick")
    return arguments


def main() -> None:
    """Run ``scripts/benchmark``."""
    signals.exit_immediately()
    arguments = parse_arguments()
    with startup.fast_imports():  # torch takes seconds to import
        from mnistcnn.benchmark.measure import run
        from mnistcnn.cli.app import run_cli
    run_cli(lambda: run(arguments))


if __name__ == "__main__":
    main()
