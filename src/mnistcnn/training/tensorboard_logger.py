"""Write a run's event files for TensorBoard, into the directory of the run."""

import sys
import threading
import time
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from mnistcnn.runs.directory import EVENT_FILES


def start(run_dir: Path, epochs: list[dict[str, float]]) -> "TensorBoardLogger":
    """Open a new event file and write those of the completed ``epochs`` that the others lack."""
    return TensorBoardLogger(run_dir, epochs)


class TensorBoardLogger:
    """The open event file of a run. It has each epoch in full after :meth:`log_epoch`."""

    def __init__(self, run_dir: Path, epochs: list[dict[str, float]]):
        # if TensorFlow is installed, tensorboard imports it, which takes seconds and prints
        # warnings; not if there is this module
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
        from torch.utils.tensorboard import SummaryWriter

        first = _first_epoch_to_write(run_dir, epochs)
        _wait_for_later_name(run_dir)
        _hide_errors_of_threads()
        self.writer = SummaryWriter(str(run_dir), purge_step=first)
        for epoch, values in enumerate(epochs[first - 1 :], first):
            self.log_epoch(epoch, values)

    def log_epoch(self, epoch: int, values: dict[str, float]) -> None:
        """Write the values of an epoch."""
        for name, value in values.items():
            self.writer.add_scalar(_epoch_tag(name), value, epoch)
        self.writer.flush()

    def finish(self, epochs: int, scores: dict[str, float], pictures: list[Path]) -> None:
        """Write the results of a run of ``epochs`` epochs, if there are any; close the file."""
        for name, value in scores.items():
            self.writer.add_scalar(f"final/{name}", value, epochs)
        for path in pictures:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self.writer.add_image(f"pictures/{path.stem}", pixels, epochs, dataformats="HWC")
        self.writer.close()


def _epoch_tag(name: str) -> str:
    return f"epoch/{name}"


def _first_epoch_to_write(run_dir: Path, epochs: list[dict[str, float]]) -> int:
    """Return the first of ``epochs`` that the event files lack, or else the last one.

    What the files have from this epoch on is dropped: the results of a run, which have the number
    of its last epoch, are written again.
    """
    logged = _read_tags(run_dir)
    for epoch, values in enumerate(epochs[:-1], 1):
        if not all((epoch, _epoch_tag(name)) in logged for name in values):
            return epoch
    return max(1, len(epochs))


def _read_tags(run_dir: Path) -> set[tuple[int, str]]:
    """Return the steps and tags in the event files, without those that TensorBoard drops."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    from tensorboard.compat.proto.event_pb2 import SessionLog

    tags: set[tuple[int, str]] = set()
    for file in sorted(run_dir.glob(EVENT_FILES)):
        for event in LegacyEventFileLoader(str(file)).Load():
            if event.session_log.status == SessionLog.START:
                tags = {(step, tag) for step, tag in tags if step < event.step}
            tags |= {(event.step, value.tag) for value in event.summary.value}
    return tags


@cache
def _hide_errors_of_threads() -> None:
    """Print no traceback if a thread of tensorboard fails: the next call raises its error."""
    previous = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            previous(arguments)

    threading.excepthook = hook


def _wait_for_later_name(run_dir: Path) -> None:
    """Wait, less than a second, until a new event file is the last one in the order of names.

    TensorBoard reads the files in this order. A name starts with the second of its creation.
    """
    now = time.time()
    if any(run_dir.glob(EVENT_FILES.replace("*", f"{int(now)}.*"))):
        time.sleep(int(now) + 1.01 - now)
