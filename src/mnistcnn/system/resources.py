"""Determine the cores and the memory that this process may use.

A container or a job scheduler limits them with control groups (cgroups), which ``os.cpu_count`` and
torch do not read. A limit of a cgroup also applies to the cgroups below it. The kernel documents
the files in Documentation/admin-guide/cgroup-v2.rst (version 2), and in
Documentation/scheduler/sched-bwc.rst and Documentation/admin-guide/cgroup-v1/memory.rst (version
1). A file that is missing or malformed is no limit.

This module imports the standard library only, because it is used before torch is imported.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MEMBERSHIP = Path("/proc/self/cgroup")  # the cgroups of this process
MOUNT = Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60  # bytes: memory.limit_in_bytes has a number above this if there is no limit


def available_cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    The minimum of :func:`allowed_cores` and the CPU quotas; half a core counts as one.
    """
    return max(1, min([allowed_cores(), *_cpu_quotas()]))


def allowed_cores() -> int:
    """Return the number of cores on which this process may run (its affinity), without quotas."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        cores = min(cores, len(os.sched_getaffinity(0)))
    return cores


def omp_num_threads() -> int | None:
    """Return the value of OMP_NUM_THREADS; None if it is not set to a number from 1."""
    value = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # the first level
    return int(value) or None if value.isdecimal() else None


def available_memory() -> int | None:
    """Return the memory that this process may use, in bytes; None if it is not known.

    The minimum of the physical memory and the limits of the cgroups. The limits include the memory
    of the other processes in the same cgroup.
    """
    return min([*_physical_memory(), *_memory_limits()], default=None)


def _physical_memory() -> list[int]:
    """Return the machine's memory in bytes, as a list of one number; empty if it is not known."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return []
    return [size] if size > 0 else []


def _cpu_quotas() -> Iterator[int]:
    """Yield the CPU quotas of the cgroups in cores, rounded up."""
    for cgroup in _cgroups("cpu"):
        for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
            match _read_numbers(*(cgroup / name for name in files)):
                case [quota, period] if quota > 0 and period > 0:  # microseconds
                    yield -(-quota // period)


def _memory_limits() -> Iterator[int]:
    """Yield the limits of the cgroups in bytes."""
    for cgroup in _cgroups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            match _read_numbers(cgroup / name):
                case [limit] if 0 < limit < NO_LIMIT:
                    yield limit


def _cgroups(controller: str) -> Iterator[Path]:
    """Yield the directories of this process's cgroups and all their ancestors.

    Some do not exist: in a container the path of a cgroup may be that on the host, while the mount
    has the container's cgroup as its root. The root is always one of the ancestors.
    """
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except (OSError, ValueError):  # not Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")  # number:controllers:path
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2, possibly together with version 1
            roots = [MOUNT, MOUNT / "unified"]
        elif controller in controllers.split(","):
            roots = [MOUNT / controllers, MOUNT / controller]
        else:
            continue
        cgroup = PurePosixPath(path.strip("/"))
        for root in roots:
            yield from (root / part for part in (cgroup, *cgroup.parents))


def _read_numbers(*files: Path) -> list[int]:
    """Return the numbers in ``files``; empty if a file is missing or has other words (``max``)."""
    try:
        return [int(word) for file in files for word in file.read_text().split()]
    except (OSError, ValueError):
        return []
