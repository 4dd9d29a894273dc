"""The command ``scripts/reproduce``: every table and figure of the report, and ours beside it."""

import argparse
from pathlib import Path

from mnistcnn import signals, startup
from mnistcnn.errors import PlainError


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/reproduce",
        description="Run every table and figure of the report, and put ours beside it.",
    )
    parser.add_argument("--scale", choices=["quick", "cpu", "full"], default="quick")
    parser.add_argument("--seeds", type=int, metavar="N", help="of every experiment")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[],
                        metavar="NAME,...", help="some of the experiments")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("outputs/reproduction"))
    parser.add_argument("overrides", nargs="*", help="for every command: hydra/launcher=joblib")
    arguments = parser.parse_intermixed_args()
    if arguments.seeds is not None and arguments.seeds < 1:
        parser.error("--seeds: at least 1")
    return arguments


def main() -> None:
    signals.exit_at_once()
    arguments = _arguments()
    with startup.importing():
        from mnistcnn import console, reproduction  # seconds: they import torch

    def body() -> int:
        failed = reproduction.run(
            arguments.out, arguments.scale, arguments.seeds, arguments.only, arguments.overrides
        )
        if failed:
            raise PlainError(f"{failed} experiments are not complete; the same command goes on")
        return 0

    console.command(body)


if __name__ == "__main__":
    main()
