"""Parse the command lines of the commands without Hydra, and ``--version``.

This module imports the standard library only, so that errors and ``--help`` do not have to wait
until torch is imported.
"""

import argparse
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from mnistcnn import __version__


class CommandParser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with the code of an invalid request."""
        self.exit(2, f"mnistcnn: {message} (--help shows the usage)\n")

    def refuse_with_pages(self, arguments: argparse.Namespace, names: Sequence[str]) -> None:
        """Report an error if one of the arguments ``names`` is given, which ``--pages`` ignores."""
        for name in names:
            if getattr(arguments, name) != self.get_default(name):
                self.error(f"--pages runs nothing: omit --{name}")


def handle_version_argument(arguments: Sequence[str] | None = None) -> None:
    """Print the version and exit if ``--version`` is in ``arguments``, or in those of the process.

    For the commands configured by Hydra, whose ``--version`` would print the version of Hydra.
    """
    parser = CommandParser(add_help=False)
    add_version_argument(parser)
    parser.parse_known_args(arguments)


def add_version_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--version``, which prints the version and exits."""
    parser.add_argument(
        "--version",
        action="version",
        version=f"mnistcnn {__version__}",
        help="print the version and exit",
    )


def parse_compare_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse ``arguments``, by default those of the process: paths, out, baseline, data_dir."""
    parser = CommandParser(
        prog="python -m mnistcnn.compare",
        description="Compare runs on the same test set. Prints a table and a verdict, and writes "
        "them with learning curves and the images on which the predictions differ most.",
        epilog="Runs that differ only in their seeds form a group, also across directories. But if "
        "two directories hold runs with the same settings and seeds, as before and after a change "
        "of the code, each group is compared with the group with the same settings in the first "
        "directory; a single group there is also the baseline of groups with other settings. "
        "Groups without a counterpart are left out, and a line says so. Two runs are compared by "
        "McNemar's exact test, groups by the paired difference over the seeds in common.",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=_directory,
        metavar="RUN_OR_SWEEP",
        help="a run's directory, or a directory of runs",
    )
    parser.add_argument(
        "--out",
        type=_directory,
        default=_default_out(),
        help="directory for the results (default: outputs/DATE/TIME-compare)",
    )
    parser.add_argument(
        "--baseline",
        help="settings of the group to compare with, e.g. aug=none; for directories with the same "
        "settings, one of the directories (default: the group of the first directory; in a sweep, "
        "the values that were typed first, otherwise the group that was started first)",
    )
    parser.add_argument(
        "--data-dir",
        default=os.environ.get("MNISTCNN_DATA_DIR"),
        help="directory of the MNIST files, if they have moved since the training",
    )
    add_version_argument(parser)
    return parser.parse_intermixed_args(arguments)


def parse_browse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse ``arguments``, by default those of the process: directory, open."""
    parser = CommandParser(
        prog="python -m mnistcnn.browse",
        description="Write index.html, a page of all runs, sweeps and comparisons below a "
        "directory, which can be searched by any setting and sorted by any column. What has been "
        "read is kept in .index.json, so that only runs that have changed are read again.",
    )
    parser.add_argument(
        "directory",
        nargs="?",
        type=_directory,
        default=Path("outputs"),
        metavar="DIR",
        help="directory of the runs, and of the page (default: outputs)",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the web browser")
    add_version_argument(parser)
    return parser.parse_args(arguments)


def _directory(text: str) -> Path:
    """Return a path; an empty text would be the current directory."""
    if not text.strip():
        raise argparse.ArgumentTypeError("give the name of a directory")
    return Path(text)


def _default_out() -> Path:
    now = datetime.now()
    return Path(f"outputs/{now:%Y-%m-%d}/{now:%H-%M-%S-%f}-compare")


def parse_reproduce_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse ``arguments``, by default those of the process."""
    parser = CommandParser(
        prog="scripts/reproduce",
        description="Run the report's experiments and show our results next to the report's.",
    )
    parser.add_argument(
        "--scale",
        choices=["quick", "cpu", "full"],
        default="quick",
        help="quick: minutes, 5,000 images; cpu: hours; full: for a GPU (default: quick)",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="number of seeds per experiment")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAME,...",
        help="run only these experiments",
    )
    parser.add_argument(
        "--out",
        type=_directory,
        default=Path("outputs/reproduction"),
        help="directory for the results (default: outputs/reproduction)",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="store the results in outputs/results.json, and show them in the repository's pages",
    )
    parser.add_argument(
        "--pages",
        action="store_true",
        help="run nothing: write the stored results to the repository's pages again",
    )
    add_version_argument(parser)
    parser.add_argument(
        "overrides", nargs="*", help="overrides for every command, e.g. hydra.launcher.jobs=1"
    )
    namespace = parser.parse_intermixed_args(arguments)
    if namespace.seeds is not None and namespace.seeds < 1:
        parser.error("--seeds: must be at least 1")
    if namespace.pages:
        parser.refuse_with_pages(namespace, ["scale", "seeds", "only", "out", "write"])
        if namespace.overrides:
            parser.error(f"--pages runs nothing: omit {' '.join(namespace.overrides)}")
    return namespace
