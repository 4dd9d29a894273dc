"""Cores and memory that a process may use: affinity, cgroups, and what is derived from them."""

import os
from collections.abc import Callable

import pytest
import torch
from omegaconf import OmegaConf

from mnistcnn.cli import parallelism
from mnistcnn.system import devices, resources, startup

from .conftest import CONF, settings
from .test_startup import run_python

CORES, MEMORY = 64, 256 << 30  # of the simulated machine
V1_NO_LIMIT = "9223372036854771712"


@pytest.fixture
def machine(monkeypatch, tmp_path) -> Callable:
    """Simulate a machine; the result is a function to call with the content of its cgroup files.

    ``membership`` is the content of ``/proc/self/cgroup``, ``files`` are those below
    ``/sys/fs/cgroup``.
    """
    monkeypatch.setattr(resources, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(resources, "MOUNT", tmp_path / "mount")
    monkeypatch.setattr(resources, "_physical_memory", lambda: [MEMORY])
    monkeypatch.setattr(os, "cpu_count", lambda: CORES)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)), raising=False)

    def write(membership: str, files: dict[str, str]) -> None:
        (tmp_path / "membership").write_text(membership)
        for name, content in files.items():
            file = tmp_path / "mount" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)

    return write


V1 = "9:name=systemd:/\n4:memory:/jobs/7\n3:cpu,cpuacct:/jobs/7\n0::/\n"


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/job\n", {}, CORES),
        ("0::/job\n", {"job/cpu.max": "50000 100000\n"}, 1),
        ("0::/job\n", {"job/cpu.max": "250000 100000\n"}, 3),
        ("0::/job\n", {"job/cpu.max": "max 100000\n"}, CORES),
        ("0::/job\n", {"job/cpu.max": "9900000 100000\n"}, CORES),
        # the smallest limit of the cgroup and its ancestors
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000"}, 4),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "400000 100000"}, 2),
        # the cgroup's path on the host, while the mount is the container's own cgroup
        ("0::/docker/8f3a\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/../other\n", {"cpu.max": "200000 100000"}, 2),
        # both versions
        ("4:cpu:/\n0::/job\n", {"unified/job/cpu.max": "200000 100000"}, 2),
        # version 1
        (V1, {"cpu/jobs/7/cpu.cfs_quota_us": "-1", "cpu/jobs/7/cpu.cfs_period_us": "1000"}, CORES),
        (V1, {"cpu/jobs/7/cpu.cfs_quota_us": "500", "cpu/jobs/7/cpu.cfs_period_us": "1000"}, 1),
        (V1, {"cpu/jobs/cpu.cfs_quota_us": "2500", "cpu/jobs/cpu.cfs_period_us": "1000"}, 3),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "4000", "cpu,cpuacct/cpu.cfs_period_us": "1000"}, 4),
        # malformed files are no limits
        ("", {"cpu.max": "50000 100000"}, CORES),
        ("no colons\n::\n:", {}, CORES),
        ("0::/job\n", {"job/cpu.max": ""}, CORES),
        ("0::/job\n", {"job/cpu.max": "50000"}, CORES),
        ("0::/job\n", {"job/cpu.max": "50000 0"}, CORES),
        ("0::/job\n", {"job/cpu.max": "0 100000"}, CORES),
        ("0::/job\n", {"job/cpu.max": "half 100000"}, CORES),
        ("0::/job\n", {"job/cpu.max/directory": ""}, CORES),
        ("0::/job\n", {"job/cpu.max": "9" * 400 + " 1"}, CORES),
        (V1, {"cpu/jobs/7/cpu.cfs_quota_us": "500"}, CORES),
    ],
)
def test_available_cores(machine, membership, files, cores):
    machine(membership, files)
    assert resources.available_cores() == cores


def test_available_cores_without_cgroups(machine, monkeypatch):
    assert resources.available_cores() == CORES  # there is no /proc/self/cgroup
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert resources.available_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert resources.available_cores() == CORES
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert resources.available_cores() == 1


@pytest.mark.parametrize(
    ("membership", "files", "memory"),
    [
        ("0::/job\n", {}, MEMORY),
        ("0::/job\n", {"job/memory.max": "2147483648\n"}, 2 << 30),
        ("0::/job\n", {"job/memory.max": "max\n"}, MEMORY),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "2147483648"}, 2 << 30),
        ("0::/docker/8f3a\n", {"memory.max": "2147483648"}, 2 << 30),
        ("0::/job\n", {"job/memory.max": str(2 * MEMORY)}, MEMORY),
        (V1, {"memory/jobs/7/memory.limit_in_bytes": "2147483648"}, 2 << 30),
        (V1, {"memory/memory.limit_in_bytes": "2147483648"}, 2 << 30),
        (V1, {"memory/jobs/7/memory.limit_in_bytes": V1_NO_LIMIT}, MEMORY),
        ("0::/job\n", {"job/memory.max": "much"}, MEMORY),
        ("0::/job\n", {"job/memory.max": "0"}, MEMORY),
    ],
)
def test_available_memory(machine, membership, files, memory):
    machine(membership, files)
    assert resources.available_memory() == memory


def test_available_memory_is_none_if_it_is_not_known(machine, monkeypatch):
    monkeypatch.setattr(resources, "_physical_memory", list)
    assert resources.available_memory() is None
    machine(V1, {"memory/memory.limit_in_bytes": V1_NO_LIMIT})
    assert resources.available_memory() is None


def test_the_resources_of_this_machine():
    assert 1 <= resources.available_cores() <= resources.allowed_cores() <= os.cpu_count()
    memory = resources.available_memory()
    assert memory is None or memory > 100e6


# Threads and memory of a process -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("threads", "cores", "expected"), [(64, 2, [2]), (2, 2, []), (1, 4, [])], ids=str
)
def test_threads_are_lowered_to_the_cores_and_never_raised(monkeypatch, threads, cores, expected):
    calls = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(devices, "available_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    devices.configure_process(torch.device("cpu"))
    assert calls == expected
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))  # the user's choice
    devices.configure_process(torch.device("cpu"))
    assert calls == expected


@pytest.mark.parametrize(
    ("memory", "expected"), [(16 << 30, 1 << 30), (2 << 30, 1 << 29), (None, 1 << 30)]
)
def test_freed_memory_that_is_kept(monkeypatch, memory, expected):
    calls = {}

    class FakeLibrary:
        @staticmethod
        def mallopt(parameter: int, value: int) -> None:
            calls[parameter] = value

    monkeypatch.setattr(devices, "available_memory", lambda: memory)
    monkeypatch.setattr(devices.platform, "libc_ver", lambda: ("glibc", "2.39"))
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda _: FakeLibrary)
    devices.keep_freed_memory()
    assert calls == {-3: 32 << 20, -1: expected}


@pytest.mark.parametrize(
    ("cores", "environment", "expected"),
    [
        (2, {}, "2"),
        (8, {}, None),  # the affinity is the only limit, and OpenBLAS follows it
        (2, {"OPENBLAS_NUM_THREADS": "3"}, "3"),
        (2, {"OMP_NUM_THREADS": "1"}, None),
    ],
)
def test_threads_of_libraries(monkeypatch, cores, environment, expected):
    monkeypatch.setattr(os, "environ", dict(environment))
    monkeypatch.setattr(startup, "available_cores", lambda: cores)
    monkeypatch.setattr(startup, "allowed_cores", lambda: 8)
    startup.limit_library_threads()
    assert os.environ.get("OPENBLAS_NUM_THREADS") == expected
    if not environment:
        assert os.environ.get("LOKY_MAX_CPU_COUNT") == expected
    assert os.environ.get("OMP_NUM_THREADS") == environment.get("OMP_NUM_THREADS")


def test_openblas_is_limited_before_numpy_is_imported(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    lines = [
        "import os",
        "from mnistcnn.system import startup",
        "startup.available_cores, startup.allowed_cores = lambda: 1, lambda: 4",
        "with startup.fast_imports():",
        "    import numpy",
        "print(os.environ['OPENBLAS_NUM_THREADS'], 'torch' in sys.modules)",
    ]
    assert run_python(*lines) == "1 False"


# Jobs of a sweep ---------------------------------------------------------------------------------

PARALLEL = OmegaConf.load(CONF / "hydra" / "launcher" / "local.yaml")


@pytest.mark.parametrize(
    ("cores", "memory", "jobs"),
    [
        (8, 64 << 30, 8),
        (8, 4 << 30, 3),
        (8, 2 << 30, 1),
        (8, 100 << 20, 1),
        (1, 64 << 30, 1),
        (8, None, 8),
    ],
)
def test_jobs_side_by_side(monkeypatch, cores, memory, jobs):
    monkeypatch.setattr(parallelism, "available_cores", lambda: cores)
    monkeypatch.setattr(parallelism, "available_memory", lambda: memory)
    assert parallelism.job_slots(PARALLEL, [settings()], 20) == [None] * jobs
    # which use all cores by themselves
    for large in ("model=custom", "model=vgg16", "model=resnet50"):
        assert parallelism.job_slots(PARALLEL, [settings(), settings(large)], 20) == [None]
    assert (
        parallelism.job_slots(PARALLEL, [settings("model=custom", "model.width=0.25")], 20)
        == [None] * jobs
    )
    chosen = dict(PARALLEL) | {"jobs": 5}
    launcher = OmegaConf.create(chosen)
    assert parallelism.job_slots(launcher, [settings("model=custom")], 20) == [None] * 5
    # no more than there are jobs
    assert parallelism.job_slots(launcher, [settings("model=custom")], 3) == [None] * 3
    assert parallelism.job_slots(PARALLEL, [settings()], 1) == [None]


@pytest.mark.parametrize(
    ("options", "device", "slots"),
    [
        ({}, "auto", ["0", "1"]),
        ({"jobs_per_gpu": 2}, "cuda", ["0", "1", "0", "1"]),
        ({"jobs": 1}, "auto", ["0"]),
        ({"jobs": 3}, "auto", ["0", "1", "0"]),
        ({"jobs": 2}, "cpu", [None, None]),
        ({}, "cuda:1", [None]),  # as the settings say
        ({"jobs": 2}, "cuda:1", [None, None]),
    ],
)
def test_one_job_per_gpu(monkeypatch, options, device, slots):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    launcher = OmegaConf.create(dict(PARALLEL) | options)
    assert parallelism.job_slots(launcher, [settings(f"device={device}")], 20) == slots
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    visible = [slot and {"0": "5", "1": "7"}[slot] for slot in slots]
    assert parallelism.job_slots(launcher, [settings(f"device={device}")], 20) == visible


LOCAL = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"}
SLURM = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"}


@pytest.mark.parametrize(
    ("launcher", "sweeper", "jobs", "slots", "concurrent", "threads"),
    [
        (PARALLEL, {}, 3, 8, 3, 2),
        (PARALLEL, {}, 20, 4, 4, 2),
        (PARALLEL, {}, 20, 20, 20, 1),
        (PARALLEL, {}, 20, 1, 1, 8),
        (PARALLEL, {"n_jobs": 2}, 0, 8, 2, 4),  # optuna
        (LOCAL, {}, 4, 1, 4, 2),
        (LOCAL, {"max_batch_size": 2}, 4, 1, 2, 4),
        (LOCAL, {"n_jobs": 1}, 0, 1, 1, 8),
        (SLURM | {"array_parallelism": 8}, {}, 20, 1, 8, None),
    ],
)
def test_concurrent_jobs_share_the_cores(
    monkeypatch, launcher, sweeper, jobs, slots, concurrent, threads
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(parallelism, "available_cores", lambda: 8)
    launcher, sweeper = OmegaConf.create(launcher), OmegaConf.create(sweeper)
    assert parallelism.concurrent_jobs(launcher, sweeper, jobs, slots) == concurrent
    assert parallelism.threads_per_job(launcher, concurrent) == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert parallelism.threads_per_job(launcher, concurrent) == (threads and 3)


def test_the_number_of_threads_is_at_most_that_of_the_cores(monkeypatch, caplog):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(parallelism, "available_cores", lambda: 2)
    assert parallelism.limit_threads(None) is None
    assert parallelism.limit_threads(1) == 1 and caplog.text == ""
    assert parallelism.limit_threads(4) == 2
    assert "started with 4 threads per job, and there are 2 cores here" in caplog.text
    caplog.clear()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # the user's choice
    assert [parallelism.limit_threads(stored) for stored in (None, 1, 4)] == [None, 3, 3]
    assert caplog.text == ""


def test_jobs_with_a_fixed_number_of_threads_use_no_more_than_all_cores(monkeypatch):
    """A sweep that began with a single run, which had all threads."""
    monkeypatch.setattr(parallelism, "available_cores", lambda: 8)

    def count(slots: list[str | None], threads: int | None, **options: object) -> int:
        launcher = OmegaConf.create(dict(PARALLEL) | options)
        return len(parallelism.limit_slots(slots, launcher, threads))

    assert [count([None] * 8, threads) for threads in (1, 2, 8, 16, None)] == [8, 4, 1, 1, 8]
    assert count([None] * 8, 8, jobs=8) == 8  # as set
    assert count(["0", "1"], 8) == 2
