"""Subprocesses: exit codes, and how a child ends if its parent is interrupted or dies."""

import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mnistcnn.system import subprocesses

ROOT = Path(__file__).parent.parent  # not that of conftest, which imports torch
PROC = Path("/proc")  # on Linux only


@pytest.fixture(scope="module", autouse=True)
def stop_fork_server():
    """Stop the fork server, which has imported this file instead of what later tests run."""
    yield
    multiprocessing.forkserver._forkserver._stop()


def process_state(pid: int) -> str:
    """Return ``R``, ``S``, ``Z`` and so on, as in proc(5); empty if there is no such process."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return ""


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.02)


# Functions that run in the child -----------------------------------------------------------------


def write(path: Path, text: str) -> None:
    path.write_text(f"{text} in {os.getpid()}")


def leave(code: object) -> None:
    sys.exit(code)


def fail() -> None:
    raise ZeroDivisionError("by zero")


def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)


def sleep(path: Path) -> None:
    """Write the process id to ``path``; if interrupted, create ``cleaned-up`` next to it."""
    path.write_text(str(os.getpid()))
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        path.with_name("cleaned-up").write_text("")
        raise


def sleep_despite_interrupts(path: Path) -> None:
    while True:
        try:
            sleep(path)
        except KeyboardInterrupt:
            continue


# -------------------------------------------------------------------------------------------------


def run_in_subprocess(function: Callable, *arguments: object) -> int | None:
    """Return the exit code of a child, which is stopped if this process is interrupted."""
    process = subprocesses.start_process(function, *arguments)
    try:
        process.join()
    except KeyboardInterrupt:
        subprocesses.stop_children(signal.SIGINT)
        raise
    return process.exitcode


def test_arguments_are_passed_to_another_process(tmp_path):
    assert run_in_subprocess(write, tmp_path / "file", "written") == 0
    text, _, pid = (tmp_path / "file").read_text().partition(" in ")
    assert text == "written" and int(pid) != os.getpid()


@pytest.mark.parametrize(
    ("function", "arguments", "code"),
    [
        (leave, (0,), 0),
        (leave, (None,), 0),
        (leave, (3,), 3),
        (leave, ("a reason",), 1),
        (fail, (), 1),
        (kill_itself, (signal.SIGKILL,), -9),
        (kill_itself, (signal.SIGTERM,), 143),
        (kill_itself, (signal.SIGUSR1,), 138),
        (kill_itself, (signal.SIGHUP,), -1),
        (kill_itself, (signal.SIGINT,), 130),
    ],
)
def test_exit_codes(function, arguments, code):
    assert run_in_subprocess(function, *arguments) == code


@pytest.mark.parametrize(
    ("code", "description"),
    [
        (1, "ended with exit code 1"),
        (130, "ended with exit code 130"),
        (-9, "killed by SIGKILL (out of memory?)"),
        (-15, "killed by SIGTERM"),
        (-11, "killed by SIGSEGV"),
        (-250, "killed by signal 250"),
    ],
)
def test_descriptions_of_exit_codes(code, description):
    assert subprocesses.describe_exit_code(code) == description


def interrupt_once(condition: Callable[[], object]) -> None:
    """Interrupt only this process, not its children, as soon as the condition holds."""

    def wait_and_interrupt() -> None:
        wait_for(condition)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait_and_interrupt, daemon=True).start()


def test_an_interrupt_lets_the_child_clean_up_and_is_raised_again(tmp_path):
    interrupt_once((tmp_path / "pid").exists)
    with pytest.raises(KeyboardInterrupt):
        run_in_subprocess(sleep, tmp_path / "pid")
    assert (tmp_path / "cleaned-up").exists()


@pytest.mark.skipif(not PROC.exists(), reason="reads /proc")
def test_a_child_that_ignores_interrupts_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocesses, "STOP_TIMEOUT", 1.0)
    interrupt_once((tmp_path / "pid").exists)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_in_subprocess(sleep_despite_interrupts, tmp_path / "pid")
    assert time.monotonic() - start < 30  # the child sleeps for 60 seconds
    assert process_state(int((tmp_path / "pid").read_text())) in ("", "Z")


@pytest.mark.skipif(not PROC.exists(), reason="reads /proc")
def test_a_second_stop_signal_leaves_no_child_running(tmp_path):
    pids = [tmp_path / "a" / "pid", tmp_path / "b" / "pid"]
    code = (
        "from mnistcnn.system import signals\n"
        "from tests.test_subprocesses import *\n"
        "signals.install_handlers()\n"
        f"for name in {[str(pid) for pid in pids]!r}:\n"
        "    Path(name).parent.mkdir()\n"
        "    child = subprocesses.start_process(sleep, Path(name))\n"
        "try: child.join()\n"
        "except KeyboardInterrupt: subprocesses.stop_children(signal.SIGTERM)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE) as parent:
        wait_for(lambda: all(pid.exists() and pid.read_text() for pid in pids))
        for _ in range(2):
            parent.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        parent.communicate(timeout=30)  # the children sleep for 60 seconds
    for pid in pids:
        assert process_state(int(pid.read_text())) in ("", "Z")
        assert pid.with_name("cleaned-up").exists()


@pytest.mark.skipif(not PROC.exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_child_ends_with_its_parent(tmp_path, number):
    pid = tmp_path / "pid"
    code = f"from tests.test_subprocesses import *\nrun_in_subprocess(sleep, Path({str(pid)!r}))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as parent:
        wait_for(lambda: pid.exists() and pid.read_text())
        child = int(pid.read_text())
        assert process_state(child) in ("R", "S", "D")
        parent.send_signal(number)
    wait_for(lambda: process_state(child) in ("", "Z"), seconds=10)
    assert (tmp_path / "cleaned-up").exists()  # the child stopped itself


def test_an_interrupt_while_the_fork_server_imports_prints_no_traceback(tmp_path):
    """Signal a whole process group, as a terminal does."""
    (tmp_path / "slow.py").write_text(
        "import pathlib, sys, time\n"
        "if 'forkserver' in ' '.join(sys.orig_argv):\n"
        "    pathlib.Path('importing').touch()\n"
        "    time.sleep(2)\n"
        "def function():\n"
        "    pathlib.Path('called').touch()\n"
    )
    code = (
        "import slow, sys\n"
        f"sys.path.append({str(ROOT)!r})\n"
        "from tests.test_subprocesses import run_in_subprocess\n"
        "try: run_in_subprocess(slow.function)\n"
        "except KeyboardInterrupt: sys.exit('interrupted')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        wait_for((tmp_path / "importing").exists)
        time.sleep(0.5)
        os.killpg(parent.pid, signal.SIGINT)
        _, err = parent.communicate()  # returns after the fork server has ended, too
    assert (parent.returncode, err) == (1, "interrupted\n")
    assert not (tmp_path / "called").exists()
