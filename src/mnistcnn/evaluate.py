"""Command ``python -m mnistcnn.evaluate``: write the metrics and pictures of a checkpoint."""

from mnistcnn.cli.arguments import handle_version_argument
from mnistcnn.system import signals, startup


def main() -> None:
    """Run ``python -m mnistcnn.evaluate``."""
    signals.exit_immediately()
    handle_version_argument()
    with startup.fast_imports():  # torch takes seconds to import
        from mnistcnn.cli.hydra_command import run_hydra_command
        from mnistcnn.evaluation.evaluate_run import evaluate_run
    run_hydra_command("evaluate", evaluate_run)


if __name__ == "__main__":
    main()
