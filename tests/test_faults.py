"""Runs that are killed, starved and stopped: what they leave, and how they go on.

What happens to a run happens in a process of its own, by its own hand: no part of the product knows
of these accidents.
"""

import contextlib
import io
import itertools
import json
import multiprocessing.forkserver
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mnistcnn import (
    checkpoint,
    engine,
    files,
    multirun,
    plots,
    rundir,
    signals,
    train,
    training,
)

from .conftest import ROOT, settings

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits")

# A second of training and one of pictures; three epochs of 22 batches.
SMALL = ["data=mnist5k", "epochs=3", "data.fraction=0.2", "batch_size=32", "aug=full",
         "tsne.samples=60", "tsne.perplexity=10"]  # fmt: skip
SAME = [
    rundir.BEST, rundir.LAST, rundir.PREDICTIONS, rundir.CONFIG, rundir.CURVES, rundir.TSNE,
    rundir.CONFUSION_CSV, rundir.NEIGHBOURS, rundir.SUMMARY,
]  # fmt: skip
MEASURED = {"seconds", "samples_per_second", "peak_memory_bytes"}


def timeless(value: object) -> object:
    if isinstance(value, dict):
        return {key: timeless(value[key]) for key in value if key not in MEASURED}
    if isinstance(value, list | tuple):
        return [timeless(each) for each in value]
    return value


def left(run: Path) -> dict[str, object]:
    """All that a run has to say, but for the time it took."""
    return {
        **{name: (run / name).read_bytes() for name in SAME},
        rundir.METRICS: timeless(json.loads((run / rundir.METRICS).read_text())),
        rundir.HISTORY: [timeless(row) for row in rundir.read_history(run)],
    }


def visible(run: Path) -> set[str]:
    return {file.name for file in run.iterdir()} - {rundir.LOCK}


def status(run: Path) -> str:
    return json.loads((run / rundir.METRICS).read_text())["status"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    training.run(settings(*SMALL), out)
    return out


@pytest.fixture(scope="module")
def undisturbed_sketch(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run_apart(sketch, out)
    return out


def assert_same(run: Path, undisturbed: Path) -> None:
    one, other = left(run), left(undisturbed)
    assert [name for name in one if one[name] != other[name]] == []
    assert visible(run) == visible(undisturbed)  # nothing half written lies about


# Accidents ---------------------------------------------------------------------------------------

# Of a write: with half of the content there, with all of it, and with the new name given.
PLACES = ("half", "before", "after")


def befall(place: str, number: int, do: Callable[[Path], None]) -> None:
    """Let ``do(path)`` happen at that place of the write ``number`` (from 1) of this process."""
    count = itertools.count(1)
    real_telling, real_to_disk, real_replace = files._telling, files._to_disk, os.replace
    current: list[Path] = []

    @contextlib.contextmanager
    def telling(path: Path):
        current[:] = [path] if next(count) == number else []
        if current and place == "start":
            do(path)
        with real_telling(path):
            yield

    def to_disk(file) -> None:
        file.flush()
        if current and place == "half":
            os.ftruncate(file.fileno(), os.fstat(file.fileno()).st_size // 2)
            do(current[0])
        real_to_disk(file)

    def replace(source, target) -> None:
        if current and place == "before":
            do(current[0])
        real_replace(source, target)
        if current and place == "after":
            do(current[0])

    files._telling, files._to_disk, os.replace = telling, to_disk, replace


def kill(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_the_disk(path: Path) -> None:
    """No file of this process grows beyond a few bytes from now on; the kernel sees to it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))


def forbid(path: Path) -> None:
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    files.tempfile.mkstemp = refuse


def delete(path: Path) -> None:
    shutil.rmtree(path.parent)


def sketch(out: Path, typed: Sequence[str] = SMALL) -> None:
    """A run, begun or gone on with, whose pictures are what would be drawn: a third of the time."""

    def picture(path: Path, *drawn: object) -> None:
        text = json.dumps(timeless(drawn), default=lambda array: array.tolist())
        rundir.write_text(path, text)

    for name in ("confusion", "misclassified", "neighbours", "augmented", "tsne", "curves"):
        setattr(plots, name, picture)
    # what a person does who finds the directory: without a configuration nothing was begun
    training.run(settings(*typed), out, go_on=(out / rundir.CONFIG).exists())


def sketch_and_die(out: Path, place: str, number: int) -> None:
    befall(place, number, kill)
    sketch(out)


def count_writes(out: Path, names) -> None:
    real = files._telling

    def telling(path: Path):
        names.send(path.name)
        return real(path)

    files._telling = telling
    sketch(out)
    names.send(None)


def command(arguments: list[str], said, place: str, number: int, accident: str) -> None:
    """The command in this process; its exit code and what it printed go to ``said``."""
    befall(place, number, globals()[accident])
    sys.argv = ["mnistcnn", *arguments]
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            train.main()
        except SystemExit as stop:
            code = stop.code
    said.send((code, out.getvalue(), err.getvalue()))


def process(function: Callable, *arguments: object) -> multiprocessing.Process:
    """A started process that has all imported already; it ends with the test at the latest."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *multirun.HEAVY])
    started = context.Process(target=function, args=arguments)
    started.start()
    return started


def run_apart(function: Callable, *arguments: object) -> None:
    running = process(function, *arguments)
    running.join()
    assert running.exitcode == 0


@pytest.fixture(scope="module", autouse=True)
def a_server_of_our_own():
    """Later tests want a server that has imported what they run, not this file."""
    multiprocessing.forkserver._forkserver._stop()
    yield
    multiprocessing.forkserver._forkserver._stop()


@pytest.fixture(scope="module")
def writes(tmp_path_factory) -> list[str]:
    """The names of the files that a run writes, in their order."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    out = tmp_path_factory.mktemp("writes") / "run"
    counting = process(count_writes, out, sender)
    names = list(iter(receiver.recv, None))
    counting.join()
    assert names[:3] == [rundir.CONFIG, rundir.METRICS, rundir.LAST]
    assert names[-1] == rundir.METRICS and len(names) > 25
    return names


# Killed ------------------------------------------------------------------------------------------


def test_runs_that_are_killed_at_random_moments(undisturbed_sketch, tmp_path, request):
    """Once or twice each; every other run saves after each batch."""
    saving = [*SMALL, "checkpoint.minutes=0"]
    run_apart(sketch, tmp_path / "saving", saving)
    seconds = json.loads((tmp_path / "saving" / rundir.METRICS).read_text())["seconds"]["total"]
    process(time.sleep, 0).join()  # the server is there
    died = 0
    for seed in range(request.config.getoption("--kills")):
        draw, out = random.Random(seed), tmp_path / f"seed-{seed}"
        chosen, alike = (SMALL, undisturbed_sketch) if seed % 2 else (saving, tmp_path / "saving")
        moments = [draw.uniform(0, 1.2 * seconds) for _ in range(draw.randint(1, 2))]
        print(f"seed {seed}: to be killed after {moments} s")
        for moment in moments:
            running = process(sketch, out, chosen)
            time.sleep(moment)
            running.kill()
            running.join()
            died += running.exitcode == -signal.SIGKILL
        run_apart(sketch, out, chosen)
        assert_same(out, alike)
    assert died > 0


def status_or_none(out: Path) -> str | None:
    return status(out) if (out / rundir.METRICS).exists() else None


def test_runs_that_are_killed_while_they_write(undisturbed_sketch, writes, tmp_path):
    """Every write of a checkpoint at every place of it, and some of the others."""
    of_checkpoints = [n for n, name in enumerate(writes, 1) if name in (rundir.BEST, rundir.LAST)]
    others = [n for n in range(1, len(writes) + 1) if n not in of_checkpoints]
    draw = random.Random(0)
    moments = list(itertools.product(of_checkpoints, PLACES))
    moments += [(n, draw.choice(PLACES)) for n in draw.sample(others, 6)]
    for number, place in moments:
        out = tmp_path / f"{number}-{place}"
        dying = process(sketch_and_die, out, place, number)
        dying.join()
        assert dying.exitcode == -signal.SIGKILL
        run_apart(sketch, out)
        assert_same(out, undisturbed_sketch)


# Starved -----------------------------------------------------------------------------------------


def commanded(arguments: list[str], place: str, number: int, accident: str) -> tuple[int, str, str]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    running = process(command, arguments, sender, place, number, accident)
    said = receiver.recv()
    running.join()
    return said


def test_a_disk_that_is_full_from_any_write_on(undisturbed_sketch, writes, tmp_path):
    for number, name in enumerate(writes, 1):
        out = tmp_path / f"{number}-{name}"
        code, _, err = commanded([*SMALL, f"hydra.run.dir={out}"], "start", number, "fill_the_disk")
        lines = err.splitlines()
        assert code == 1 and "Traceback" not in err and len(lines) <= 2, (number, err)
        if name in rundir.RESULTS and name != rundir.PREDICTIONS:
            assert lines[0].startswith("mnistcnn: the numbers are whole, but not written: ")
            assert json.loads((out / rundir.METRICS).read_text())["test"]["accuracy"] > 0
        else:
            assert lines[0] == f"mnistcnn: {out / name} cannot be written: File too large"
        if number > 1:
            assert lines[1] == f"to go on: python -m mnistcnn.train resume={out}"
            assert status_or_none(out) in ("interrupted", None)  # it could not even say "failed"
        if number > 3:
            assert checkpoint.load(out / rundir.LAST).training is not None
        run_apart(sketch, out)
        assert_same(out, undisturbed_sketch)


@pytest.mark.parametrize(
    ("accident", "reason"),
    [("forbid", "Permission denied"), ("delete", "No such file or directory")],
)
@pytest.mark.parametrize("name", [rundir.LAST, rundir.PREDICTIONS])
def test_a_directory_that_goes_or_may_no_longer_be_written(
    writes, tmp_path, accident, reason, name
):
    out = tmp_path / "run"
    number = len(writes) - writes[::-1].index(name)  # the last write of that file
    code, _, err = commanded([*SMALL, f"hydra.run.dir={out}"], "start", number, accident)
    first, *others = err.splitlines()
    assert (code, first) == (1, f"mnistcnn: {out / name} cannot be written: {reason}")
    if accident == "delete":
        assert others == [] and not out.exists()
    else:
        assert others == [f"to go on: python -m mnistcnn.train resume={out}"]
        assert checkpoint.load(out / rundir.LAST).epoch >= 2


def lose_the_gpu(path: Path) -> None:
    def fail(*_, **__):
        raise RuntimeError(
            "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously "
            "reported at some other API call\nCompile with TORCH_USE_CUDA_DSA"
        )

    engine.train_epoch = fail


def test_a_device_that_goes_away(undisturbed, writes, tmp_path):
    out = tmp_path / "run"
    number = writes.index(rundir.HISTORY) + 1
    code, _, err = commanded([*SMALL, f"hydra.run.dir={out}"], "start", number, "lose_the_gpu")
    first, second = err.splitlines()
    assert code == 1 and first == (
        "mnistcnn: RuntimeError: CUDA error: unspecified launch failure "
        "(HYDRA_FULL_ERROR=1 shows where)"
    )
    assert second == f"to go on: python -m mnistcnn.train resume={out}"
    assert status(out) == "failed" and "Traceback" in (out / rundir.LOG).read_text()
    assert checkpoint.load(out / rundir.LAST).epoch == 1
    training.run(settings(*SMALL), out, go_on=True)
    assert_same(out, undisturbed)


# Stopped -----------------------------------------------------------------------------------------


def start(*arguments: str, cwd: Path = ROOT) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "mnistcnn.train", *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


STOPS = {
    signal.SIGINT: (130, "interrupted from the keyboard"),
    signal.SIGTERM: (143, "stopped by SIGTERM"),
    signal.SIGUSR1: (138, "stopped by SIGUSR1"),
}


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
def test_a_signal_stops_a_run_between_two_batches(undisturbed, tmp_path, number):
    out = tmp_path / "a run's"
    run_dir = '''hydra.run.dir="''' + str(out) + '"'
    with start(*SMALL, run_dir) as running:
        wait_for(lambda: (out / rundir.HISTORY).exists() or running.poll() is not None)
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    code, reason = STOPS[number]
    first, second = err.splitlines()
    assert (running.returncode, first) == (code, f"mnistcnn: {reason}")
    written = json.loads((out / rundir.METRICS).read_text())
    assert (written["status"], written["error"]) == ("interrupted", reason)
    assert (out / rundir.LOG).read_text().count("stopped") <= 1
    last = checkpoint.load(out / rundir.LAST)
    assert 1 <= last.epoch < 3 and last.step >= 22

    said, _, typed = second.partition("python -m mnistcnn.train ")
    assert said == "to go on: "
    with start(*shlex.split(typed)) as running:
        told, err = running.communicate(timeout=120)
    assert (running.returncode, err) == (0, "")
    assert f"going on after epoch {last.epoch} of 3" in told
    assert_same(out, undisturbed)


def test_a_stop_in_the_middle_of_an_epoch_keeps_every_step(undisturbed, tmp_path, monkeypatch):
    """In the second epoch, and while it is scored."""
    for after in (23, 30, 44, 45):  # 22 batches, then one of each of two scored parts
        out, seen = tmp_path / str(after), itertools.count(1)

        @contextlib.contextmanager
        def deferred(seen=seen, after=after):
            yield lambda: signal.SIGTERM if next(seen) > after + 2 else None  # 2 score epoch 1

        with monkeypatch.context() as patched:
            patched.setattr("mnistcnn.signals.deferred", deferred)
            with pytest.raises(KeyboardInterrupt):
                training.run(settings(*SMALL), out)
        last = checkpoint.load(out / rundir.LAST)
        assert last.step == min(after, 44) and last.epoch == 1
        training.run(settings(*SMALL), out, go_on=True)
        assert_same(out, undisturbed)


def test_a_stop_while_an_epoch_is_scored_does_not_slow_its_training_down(tmp_path, monkeypatch):
    asked = iter(23 * [None] + [signal.SIGTERM])  # 22 batches, the training part; validation

    @contextlib.contextmanager
    def deferred():
        yield lambda: next(asked, None)

    real = engine.infer

    def slow(*arguments):
        time.sleep(1)
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr("mnistcnn.signals.deferred", deferred)
        patched.setattr(engine, "infer", slow)
        with pytest.raises(KeyboardInterrupt):
            training.run(settings(*SMALL, "epochs=2"), tmp_path)
    last = checkpoint.load(tmp_path / rundir.LAST)
    assert (last.epoch, last.step) == (0, 22)
    training.run(settings(*SMALL, "epochs=2"), tmp_path, go_on=True)
    for row in rundir.read_history(tmp_path):
        assert row["samples_per_second"] > 680 / 0.9


class Swallows:
    """Lets no exception out, as destructors and callbacks do not."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)


def test_a_signal_that_python_swallowed_is_heard_all_the_same(tmp_path, monkeypatch):
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    real = plots.confusion

    def swallowing(*arguments):
        real(*arguments)
        Swallows()

    monkeypatch.setattr(plots, "confusion", swallowing)
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    signals.listen()
    try:
        with pytest.raises(signals.Stopped):
            training.run(settings(*SMALL), tmp_path)
    finally:
        signals.listen()  # nothing was asked
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert status(tmp_path) == "interrupted" and not (tmp_path / rundir.TSNE).exists()
    assert not told


def test_a_second_interrupt_ends_it_at_once(tmp_path):
    out = tmp_path / "run"
    # seconds for a batch, and most of them in one call of torch's
    slow = ["data=mnist5k", "model=custom", "batch_size=128", f"hydra.run.dir={out}"]
    with start(*slow) as running:
        wait_for(lambda: (out / rundir.LAST).exists())
        time.sleep(1)
        running.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        running.wait(timeout=60)
        err = running.stderr.read()
    assert (running.returncode, err) == (130, "mnistcnn: stopped at once\n")
    assert checkpoint.load(out / rundir.LAST).step == 0 and status(out) == "interrupted"


@pytest.mark.parametrize("module", ["train", "evaluate", "compare", "reproduce"])
def test_an_interrupt_while_torch_is_imported(module):
    typed = ["nowhere"] if module == "compare" else []
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", f"mnistcnn.{module}", *typed],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        for line in running.stderr:
            if line.endswith("numpy\n"):  # on the way to torch
                break
        running.send_signal(signal.SIGINT)
        err = running.stderr.read()
    assert running.returncode == 130
    assert "mnistcnn: stopped at once" in err and "Traceback" not in err


def test_a_run_that_is_being_written_is_left_alone(tmp_path):
    out = tmp_path / "run"
    with start(*SMALL, "epochs=50", f"hydra.run.dir={out}") as running:
        wait_for(lambda: (out / rundir.HISTORY).exists())
        with start(f"resume={out}") as second:
            _, err = second.communicate(timeout=60)
        assert running.poll() is None
        running.kill()
    assert second.returncode == 2
    assert err == (
        f"mnistcnn: {out} is being written by another process: wait for it, or stop it first\n"
    )


# The promise -------------------------------------------------------------------------------------


def test_the_third_job_of_a_multirun_is_the_same_as_that_job_alone(tmp_path):
    with start("-m", *SMALL, "seed=1,2,0", f"hydra.sweep.dir={tmp_path}/sweep") as running:
        running.communicate(timeout=120)
    assert running.returncode == 0
    (third,) = (tmp_path / "sweep").glob("seed-0-*")
    with start(*SMALL, "seed=0", f"hydra.run.dir={tmp_path}/alone") as running:
        running.communicate(timeout=120)
    assert_same(third, tmp_path / "alone")


def test_the_third_run_of_a_process_is_the_same_as_that_run_alone(undisturbed, tmp_path):
    training.run(settings(*SMALL, "seed=1"), tmp_path / "first")
    training.run(settings(*SMALL, "model=fcnet", "aug=none"), tmp_path / "second")
    training.run(settings(*SMALL), tmp_path / "third")
    assert_same(tmp_path / "third", undisturbed)


def test_a_job_that_was_killed_goes_on_where_it_was(tmp_path):
    """The same command does not begin a run anew that had come far."""
    sweep_dir, epochs = tmp_path / "sweep", 30  # a second passes until the job is asked to stop
    typed = ["-m", *SMALL, f"epochs={epochs}", "seed=0", f"hydra.sweep.dir={sweep_dir}"]
    with start(*typed) as running:
        wait_for(lambda: list(sweep_dir.glob(f"*/{rundir.HISTORY}")))
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 143
    first, second = err.splitlines()
    assert first == "mnistcnn: stopped by SIGTERM" and second.startswith("mnistcnn: 1 run is not")
    (out,) = (path for path in sweep_dir.iterdir() if path.is_dir())
    done = checkpoint.load(out / rundir.LAST).epoch
    assert status(out) == "interrupted" and done >= 1
    with start(*typed) as running:
        told, _ = running.communicate(timeout=120)
    assert running.returncode == 0 and f"going on after epoch {done} of {epochs}" in told
    training.run(settings(*SMALL, f"epochs={epochs}"), tmp_path / "undisturbed")
    assert_same(out, tmp_path / "undisturbed")
