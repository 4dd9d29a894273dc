"""Command ``scripts/reproduce``: run the report's experiments; write its results next to ours."""

from mnistcnn.cli.arguments import parse_reproduce_arguments
from mnistcnn.system import signals, startup


def main() -> None:
    signals.exit_immediately()
    arguments = parse_reproduce_arguments()
    with startup.fast_imports():  # torch takes seconds to import
        from mnistcnn.cli.app import run_cli
        from mnistcnn.experiments import reproduction
    run_cli(lambda: reproduction.main(arguments))


if __name__ == "__main__":
    main()
