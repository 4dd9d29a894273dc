"""Decide how many jobs of a sweep run at the same time, with which devices and threads."""

import logging
import os
from collections.abc import Iterable, Sequence

import torch
from omegaconf import DictConfig

from mnistcnn.config.schema import EvaluateSettings, TrainSettings
from mnistcnn.models.registry import LARGE_NETWORK, create_meta_model
from mnistcnn.system.devices import resolve_device
from mnistcnn.system.resources import available_cores, available_memory, omp_num_threads

log = logging.getLogger(__name__)

# bytes: two parallel runs of the default network, each with its processes, take 2.2 GB in total
JOB_MEMORY = 1 << 30
COMMAND_MEMORY = 1 << 29


def job_slots(
    launcher: DictConfig, settings: Sequence[TrainSettings | EvaluateSettings], most: int
) -> list[str | None]:
    """Return a slot for each job that may run at the same time, but not more than ``most``.

    A slot is the GPU of its jobs, as in CUDA_VISIBLE_DEVICES, or None if they use the device of
    their settings. There is one slot for a launcher whose processes each run one job after the
    other.
    """
    if not _is_local(launcher):
        return [None]
    slots: list[str | None] = [None]
    devices = {resolve_device(each.device) for each in settings}
    if devices == {torch.device("cuda")}:  # any GPU
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        count = torch.cuda.device_count()
        slots = [*(visible.split(",")[:count] if visible else map(str, range(count)))]
    if devices != {torch.device("cpu")}:
        slots *= min(launcher.jobs_per_gpu, most)
    elif launcher.jobs == "auto":
        slots *= _max_jobs(settings)
    if launcher.jobs != "auto":
        slots = [slots[index % len(slots)] for index in range(min(launcher.jobs, most))]
    return slots[:most]


def _max_jobs(settings: Iterable[TrainSettings | EvaluateSettings]) -> int:
    """Return the number of jobs for which cores and memory suffice; 1 if a network is large."""
    trained = [each for each in settings if isinstance(each, TrainSettings)]
    models = {repr(each.model): each.model for each in trained}
    if any(
        create_meta_model(each).trained_parameter_count() >= LARGE_NETWORK
        for each in models.values()
    ):
        return 1
    jobs, memory = available_cores(), available_memory()
    if memory is not None:
        jobs = min(jobs, (memory - COMMAND_MEMORY) // JOB_MEMORY)
    return max(1, jobs)


def _is_local(launcher: DictConfig) -> bool:
    return launcher._target_.endswith(".ParallelLauncher")


def concurrent_jobs(launcher: DictConfig, sweeper: DictConfig, jobs: int, slots: int) -> int:
    """Return the number of jobs that run at the same time.

    ``jobs`` is the number of all jobs, or 0 if it is not known.
    """
    batch = min(jobs, sweeper.get("max_batch_size") or jobs) or sweeper.get("n_jobs", 1)
    limit = slots if _is_local(launcher) else launcher.get("array_parallelism") or batch
    return max(1, min(batch, limit))


def threads_per_job(launcher: DictConfig, concurrent: int) -> int | None:
    """Return a job's share of the cores if the jobs run on this machine, else None."""
    if not launcher._target_.endswith((".ParallelLauncher", ".LocalLauncher")):
        return None
    return omp_num_threads() or max(1, available_cores() // concurrent)


def limit_threads(threads: int | None) -> int | None:
    """Return the number of threads of a job in a sweep that was started with ``threads``.

    It is at most that of the cores here, unless OMP_NUM_THREADS says otherwise.
    """
    if threads is None:
        return None
    if chosen := omp_num_threads():
        return chosen
    cores = available_cores()
    if threads <= cores:
        return threads
    log.warning(
        "the sweep was started with %d threads per job, and there are %d cores here: the last "
        "digits of the results may differ",
        threads,
        cores,
    )
    return cores


def limit_slots(
    slots: list[str | None], launcher: DictConfig, threads: int | None
) -> list[str | None]:
    """Return fewer slots if ``jobs=auto`` and all jobs have more threads than there are cores.

    Then fewer jobs ran at the same time when their number was fixed, or OMP_NUM_THREADS is set.
    """
    if threads is None or launcher.get("jobs") != "auto" or slots[0] is not None:
        return slots
    return slots[: max(1, available_cores() // threads)]
