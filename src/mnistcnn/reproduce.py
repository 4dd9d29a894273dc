"""Command ``scripts/reproduce``: run the report's experiments.

Shows our results next to the report's.
"""

from mnistcnn.cli.arguments import parse_reproduce_arguments
from mnistcnn.system import signals, startup


def main() -> None:
    """Run ``scripts/reproduce``."""
    signals.exit_immediately()
    options = vars(parse_reproduce_arguments())
    pages_only = options.pop("pages")
    with startup.fast_imports():  # torch takes seconds to import
        from mnistcnn.cli.app import run_cli
        from mnistcnn.experiments.reproduction import reproduce
        from mnistcnn.experiments.results import write_pages
    run_cli(write_pages if pages_only else lambda: reproduce(**options))


if __name__ == "__main__":
    main()
