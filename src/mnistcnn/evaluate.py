"""The command ``python -m mnistcnn.evaluate``: the report of a run, from its checkpoint alone."""

from mnistcnn import signals, startup


def main() -> None:
    signals.exit_at_once()
    with startup.importing():
        from mnistcnn import command_line  # seconds: it imports torch

    command_line.run_app("evaluate", "mnistcnn.evaluation:run")


if __name__ == "__main__":
    main()
