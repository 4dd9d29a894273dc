"""A function in a process of its own: how it ends, and what becomes of it when its caller ends."""

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

from mnistcnn import apart

ROOT = Path(__file__).parent.parent  # not conftest's: nothing here waits for torch
PROC = Path("/proc")  # of Linux


@pytest.fixture(scope="module", autouse=True)
def no_server_is_left():
    """Later tests want a server that has imported what they run, not this file."""
    yield
    multiprocessing.forkserver._forkserver._stop()


def state(pid: int) -> str:
    """``R``, ``S``, ``Z`` and so on, as in proc(5); ``""`` where there is no such process."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return ""


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# What is called in the other process -------------------------------------------------------------


def write(path: Path, text: str) -> None:
    path.write_text(f"{text} in {os.getpid()}")


def leave(code: object) -> None:
    sys.exit(code)


def fail() -> None:
    raise ZeroDivisionError("by zero")


def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)


def linger(path: Path) -> None:
    """Note who waits here, and how the wait ended."""
    path.write_text(str(os.getpid()))
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        path.with_name("tidied").write_text("")
        raise


def be_deaf(path: Path) -> None:
    while True:
        try:
            linger(path)
        except KeyboardInterrupt:
            continue


# -------------------------------------------------------------------------------------------------


def test_arguments_reach_another_process(tmp_path):
    assert apart.call(write, tmp_path / "file", "written") == 0
    text, _, pid = (tmp_path / "file").read_text().partition(" in ")
    assert text == "written" and int(pid) != os.getpid()


@pytest.mark.parametrize(
    ("function", "argument", "code"),
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
def test_exit_codes(function, argument, code):
    assert apart.call(function, *argument) == code


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "ended with exit code 1"),
        (130, "ended with exit code 130"),
        (-9, "killed by SIGKILL (out of memory?)"),
        (-15, "killed by SIGTERM"),
        (-11, "killed by SIGSEGV"),
        (-250, "killed by signal 250"),
    ],
)
def test_exit_codes_in_words(code, words):
    assert apart.describe(code) == words


def interrupt_once(condition: Callable[[], object]) -> None:
    """Interrupt this process, and it alone, as soon as the condition holds."""

    def wait_and_interrupt() -> None:
        wait_for(condition)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait_and_interrupt, daemon=True).start()


def test_an_interrupt_lets_the_other_tidy_up_and_is_raised_again(tmp_path, monkeypatch):
    interrupt_once((tmp_path / "pid").exists)
    with pytest.raises(KeyboardInterrupt):
        apart.call(linger, tmp_path / "pid")
    assert (tmp_path / "tidied").exists()


@pytest.mark.skipif(not PROC.exists(), reason="asks /proc about processes")
def test_who_does_not_listen_to_an_interrupt_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "PATIENCE", 1.0)
    interrupt_once((tmp_path / "pid").exists)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        apart.call(be_deaf, tmp_path / "pid")
    assert time.monotonic() - start < 30  # not the minute that it would have waited
    assert state(int((tmp_path / "pid").read_text())) in ("", "Z")


@pytest.mark.skipif(not PROC.exists(), reason="asks /proc about processes")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_other_ends_with_its_caller(tmp_path, number):
    pid = tmp_path / "pid"
    call = f"from tests.test_apart import *; apart.call(linger, Path({str(pid)!r}))"
    with subprocess.Popen([sys.executable, "-c", call], cwd=ROOT) as caller:
        wait_for(lambda: pid.exists() and pid.read_text())
        lingering = int(pid.read_text())
        assert state(lingering) in ("R", "S", "D")
        caller.send_signal(number)
    wait_for(lambda: state(lingering) in ("", "Z"), seconds=10)
    assert (tmp_path / "tidied").exists()  # nobody was left to ask it, and it heard all the same


def test_an_interrupt_while_the_server_imports_ends_it_quietly(tmp_path):
    """In a session of its own, as of a terminal: everyone in it is interrupted."""
    (tmp_path / "slow.py").write_text(
        "import pathlib, sys, time\n"
        "if 'forkserver' in ' '.join(sys.orig_argv):\n"
        "    pathlib.Path('importing').touch()\n"
        "    time.sleep(2)\n"
        "def function():\n"
        "    pathlib.Path('called').touch()\n"
    )
    call = (
        "import slow, sys\n"
        "from mnistcnn import apart\n"
        "try: apart.call(slow.function)\n"
        "except KeyboardInterrupt: sys.exit('interrupted')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", call],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as caller:  # fmt: skip
        wait_for((tmp_path / "importing").exists)
        time.sleep(0.5)
        os.killpg(caller.pid, signal.SIGINT)
        _, said = caller.communicate()  # until the server has ended, too
    assert (caller.returncode, said) == (1, "interrupted\n")
    assert not (tmp_path / "called").exists()
