"""Command ``python -m mnistcnn.train``: train one network, or a sweep of them with ``-m``."""

from mnistcnn.cli.arguments import handle_version_argument
from mnistcnn.system import signals, startup


def main() -> None:
    """Run ``python -m mnistcnn.train``."""
    signals.exit_immediately()
    handle_version_argument()
    with startup.fast_imports():  # torch takes seconds to import
        from mnistcnn.cli.hydra_command import run_hydra_command
        from mnistcnn.training.train_run import train_run
    run_hydra_command("train", train_run)


if __name__ == "__main__":
    main()
