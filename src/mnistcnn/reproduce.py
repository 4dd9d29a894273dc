"""Command ``scripts/reproduce``: run the report's experiments.

Shows our results next to the report's.
"""

from mnistcnn.cli.arguments import parse_reproduce_arguments
from mnistcnn.system import signals, startup


def main() -> None:
    signals.exit_immediately()
    arguments = parse_reproduce_arguments()
    with startup.fast_imports():  # torch takes seconds to import
        from mnistcnn.cli.app import run_cli
        from mnistcnn.experiments.reproduction import reproduce
    run_cli(lambda: reproduce(**vars(arguments)))


if __name__ == "__main__":
    main()
