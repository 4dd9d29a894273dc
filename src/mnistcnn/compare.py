"""Command ``python -m mnistcnn.compare``: compare runs or groups of runs on the same test set."""

from mnistcnn.cli.arguments import parse_compare_arguments
from mnistcnn.system import signals, startup


def main() -> None:
    """Run ``python -m mnistcnn.compare``."""
    signals.exit_immediately()
    arguments = parse_compare_arguments()
    with startup.fast_imports():  # torch takes seconds to import
        from mnistcnn.cli.app import run_cli
        from mnistcnn.experiments.comparison import run_comparison
    run_cli(lambda: run_comparison(**vars(arguments)))


if __name__ == "__main__":
    main()
