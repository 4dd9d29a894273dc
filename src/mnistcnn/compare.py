"""The command ``python -m mnistcnn.compare``: does a change help, by how much, is it sure?"""

import argparse
import os
from datetime import datetime
from pathlib import Path

from mnistcnn import signals, startup


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m mnistcnn.compare",
        description="Compare runs on the same test set: a table, a verdict, curves, and the images "
        "on which they disagree.",
        epilog="Runs that differ in their seed alone are one group. Two runs are compared by "
        "McNemar's exact test, groups by the paired difference over the seeds that they share.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="RUN_OR_SWEEP")
    parser.add_argument("--out", type=Path, help="the directory to write to, by default a new one")
    parser.add_argument("--baseline", help="compare with it, as aug=none (default: ran first)")
    parser.add_argument(
        "--data-dir", default=os.environ.get("MNISTCNN_DATA_DIR"),
        help="where MNIST is, if no longer where the training found it",
    )  # fmt: skip
    return parser.parse_args()


def main() -> None:
    signals.exit_at_once()
    arguments = _arguments()
    with startup.importing():
        from mnistcnn import comparison, console  # seconds: they import torch

    now = datetime.now()
    out = arguments.out or Path(f"outputs/{now:%Y-%m-%d}/{now:%H-%M-%S-%f}-compare")

    def body() -> int:
        print(comparison.run(arguments.paths, out, arguments.baseline, arguments.data_dir))
        print(f"\nall of it is in {out}")
        return 0

    console.command(body)


if __name__ == "__main__":
    main()
