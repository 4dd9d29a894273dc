"""Determine the software versions, the commit and the peak memory behind a result."""

import contextlib
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mnistcnn import __version__

PACKAGES = [
    "torch",
    "torchvision",
    "hydra-core",
    "omegaconf",
    "numpy",
    "scipy",
    "scikit-learn",
    "openTSNE",
    "matplotlib",
]


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    versions = {"python": sys.version.split()[0], "mnistcnn": __version__}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):  # openTSNE, where there is no wheel
            versions[name] = version(name)
    return versions


def git_commit() -> str | None:
    """Return the commit of this source, with ``-dirty`` appended if tracked source files differ.

    The repository's pages, which the measuring programs change, do not count. Return None if the
    package is not in a repository that tracks it.
    """
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            result = subprocess.run(
                ["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    source = [":/src/*.py", ":/conf/*.yaml", ":/pyproject.toml"]
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *source)
    commit = git("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and changed else commit


def short_commit(commit: str | None) -> str:
    """Shorten the result of :func:`git_commit` to seven digits, with ``-dirty`` if it has it."""
    if commit is None:
        return "unknown"
    return commit[:7] + ("-dirty" if commit.endswith("-dirty") else "")


def peak_memory_bytes() -> int | None:
    """Return the largest resident set of this process so far; None if it is not available."""
    # on Linux getrusage also counts the parent process before the exec
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
