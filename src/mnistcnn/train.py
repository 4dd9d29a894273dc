"""The command ``python -m mnistcnn.train``: one configuration, one network, one directory."""

from mnistcnn import signals, startup


def main() -> None:
    signals.exit_at_once()
    with startup.importing():
        from mnistcnn import command_line  # seconds: it imports torch

    command_line.run_app("train", "mnistcnn.training:run")


if __name__ == "__main__":
    main()
