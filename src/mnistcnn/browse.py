"""Command ``python -m mnistcnn.browse``: write a page of all runs below a directory."""

from mnistcnn.cli.arguments import parse_browse_arguments
from mnistcnn.system import signals, startup


def main() -> None:
    """Run ``python -m mnistcnn.browse``."""
    signals.exit_immediately()
    arguments = parse_browse_arguments()
    with startup.fast_imports():
        from mnistcnn.cli.app import run_cli
        from mnistcnn.experiments.browse import browse
    run_cli(lambda: browse(arguments.directory, arguments.open))


if __name__ == "__main__":
    main()
