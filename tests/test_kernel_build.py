"""The C kernel: compilers, memory errors, the build command, and scripts/environment."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mnistcnn.kernels import conv_block
from mnistcnn.kernels.loader import instruction_set, load_library, open_library

from .blocks import CHANNELS, check_exactly, variants
from .conftest import ROOT

pytest.importorskip("setuptools", "77")
from mnistcnn.kernels.build import GENERIC_FLAGS, X86_FLAGS

C_FILE = ROOT / "src" / "mnistcnn" / "kernels" / "conv_block.c"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
SUPPORTED = {  # compiler flags of the variants that this processor can run
    "avx512": X86_FLAGS,
    "avx2": {"avx2": X86_FLAGS["avx2"]},
}.get(instruction_set() or "", {}) | {"generic": [*GENERIC_FLAGS["generic"], "-Wno-psabi"]}


def require_compiler(name: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")


def compile_library(directory: Path, *command: str) -> Path:
    library = directory / "conv_block.so"
    subprocess.run([*command, "-fPIC", "-shared", "-o", library, C_FILE], check=True, timeout=120)
    return library


def python_compiler() -> str | None:
    """Return the compiler that setuptools uses, if it is installed."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC")
    return shutil.which(shlex.split(command)[0]) if command else None


def test_the_kernels_are_built_where_there_is_a_compiler():
    if python_compiler() is None or instruction_set() is None:
        pytest.skip("no C compiler, or a processor without AVX2")
    assert load_library() is not None


# The source --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["avx512", "avx2", "generic"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_every_variant_compiles_without_warnings(compiler, variant, monkeypatch, tmp_path):
    require_compiler(compiler)
    if variant not in SUPPORTED:
        pytest.skip(f"this processor does not support {variant}")
    openmp = ["-fopenmp"] if compiler == "gcc" else []
    path = compile_library(tmp_path, compiler, "-O3", *SUPPORTED[variant], *openmp, *WARNINGS)
    library = open_library(str(path))
    monkeypatch.setattr(conv_block, "load_library", lambda: library)
    for channels in CHANNELS:
        for options in variants(channels, stride=1, padding=1):
            check_exactly(options)


RUN_CHECKS = """
import sys
from dataclasses import replace
import torch
from mnistcnn.kernels import conv_block
from mnistcnn.kernels.loader import open_library
from tests.blocks import CHANNELS, check_exactly, variants

library = open_library(sys.argv[1])
conv_block.load_library = lambda: library
torch.set_num_threads(2)
for channels in CHANNELS:
    for stride, padding in ((1, 0), (2, 2)):
        for options in variants(channels, stride, padding):
            check_exactly(replace(options, batch=min(options.batch, 3)))
print("done")
"""


@pytest.mark.parametrize("variant", sorted({instruction_set() or "generic", "generic"}))
def test_the_sanitizers_find_no_fault(variant, tmp_path):
    """Neither reads and writes outside of the arrays nor undefined behaviour."""
    require_compiler("gcc")
    located = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(located).is_absolute():
        pytest.skip("GCC has no libasan.so")
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    path = compile_library(
        tmp_path, "gcc", "-O1", "-g", "-fopenmp", *SUPPORTED[variant], *sanitizers
    )
    environment = {
        "LD_PRELOAD": located,
        "ASAN_OPTIONS": "detect_leaks=0",
        "OMP_WAIT_POLICY": "passive",  # other tests use the cores
    }
    result = subprocess.run(
        [sys.executable, "-c", RUN_CHECKS, path],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


# The build command -------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path) -> Path:
    """Return a copy of the files that the build command needs."""
    copy = tmp_path / "source"
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "src", copy / "src", ignore=ignored)
    shutil.copytree(ROOT / "conf", copy / "conf", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def build(source: Path, **environment: str) -> tuple[dict[str, bytes], str]:
    """Run the build command; return the libraries by variant, and standard error."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CC", "CFLAGS")}
    code = "import setuptools; setuptools.setup()"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "--quiet", "build_ext", "--build-lib=out"],
        cwd=source,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    files = (source / "out").rglob("conv_block_*")
    return {file.name.split(".")[0][11:]: file.read_bytes() for file in files}, result.stderr


EXPECTED_VARIANTS = GENERIC_FLAGS if instruction_set() == "generic" else X86_FLAGS


@pytest.mark.parametrize(("compiler", "openmp"), [("gcc", True), ("clang", False)])
def test_the_build_command_compiles_the_variants_of_the_processors(source, compiler, openmp):
    """Only GCC's OpenMP is the library that torch has loaded."""
    require_compiler(compiler)
    libraries, _ = build(source, CC=compiler)
    assert libraries.keys() == EXPECTED_VARIANTS.keys()
    for content in libraries.values():
        assert (b"libgomp" in content) == openmp and b"libomp" not in content


def test_the_build_command_only_warns_without_a_compiler(source, tmp_path):
    (tmp_path / "empty").mkdir()
    libraries, stderr = build(source, PATH=str(tmp_path / "empty"))
    assert libraries == {}
    lines = [line for line in stderr.splitlines() if line]
    assert len(lines) == len(EXPECTED_VARIANTS)
    for line, variant in zip(lines, EXPECTED_VARIANTS, strict=True):
        assert line.startswith("warning: ") and f'conv_block_{variant}" failed: ' in line


# scripts/environment -----------------------------------------------------------------------------

# records its arguments, and runs only the build command
PYTHON = f"""#!/bin/sh
echo "$@" >> "$CALLS"
case $* in *build_ext*) exec {shlex.quote(sys.executable)} "$@" ;; esac
"""


@pytest.fixture
def installed(source) -> Path:
    """Return a repository in whose .venv the package seems to be installed."""
    shutil.copytree(ROOT / "scripts", source / "scripts")
    binaries = source / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name in ("python", "pip"):
        (binaries / name).write_text(PYTHON)
        (binaries / name).chmod(0o755)
    (source / ".venv" / "installed").write_text(f"{source}\n")
    return source


def run_script(root: Path, **environment: str) -> tuple[list[str], str]:
    """Run ``scripts/run``; return the calls of Python, and standard error."""
    calls = root / "calls"
    calls.write_text("")
    result = subprocess.run(
        [root / "scripts" / "run", "seed=1"],
        env=os.environ | {"CALLS": str(calls)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return calls.read_text().splitlines(), result.stderr


def kernels_of(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "src/mnistcnn/kernels").glob("*.so"))


TRAIN = "-m mnistcnn.train seed=1"


def make_newer(path: Path, than: Path) -> None:
    time = than.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(time, time))


@pytest.mark.parametrize("name", ["conv_block.c", "build.py"])
def test_the_kernels_are_compiled_when_they_have_changed(installed, name):
    if python_compiler() is None:
        pytest.skip("no C compiler")
    stamp = installed / ".venv" / "installed"
    assert run_script(installed) == ([TRAIN], "") and kernels_of(installed) == []
    os.utime(stamp, ns=(0, 0))
    os.utime(installed / "pyproject.toml", ns=(0, 0))
    for each in ("conv_block.c", "build.py"):
        os.utime(installed / "src/mnistcnn/kernels" / each, ns=(0, 0))
    make_newer(installed / "src/mnistcnn/kernels" / name, than=stamp)
    calls, stderr = run_script(installed)
    assert stderr == "" and len(calls) == 2 and calls[1] == TRAIN
    assert "build_ext" in calls[0] and "pip" not in calls[0]
    assert len(kernels_of(installed)) == len(EXPECTED_VARIANTS)
    assert not (installed / "build").exists()
    assert run_script(installed) == ([TRAIN], "")


def test_a_kernel_that_does_not_compile_is_reported_in_one_line(installed):
    kernels = installed / "src/mnistcnn/kernels"
    (kernels / "conv_block_avx2.old.so").write_bytes(b"of the previous source")
    (kernels / "conv_block.c").write_text("this is not C\n")
    make_newer(kernels / "conv_block.c", than=installed / ".venv" / "installed")
    calls, stderr = run_script(installed)
    assert calls[-1] == TRAIN and kernels_of(installed) == []
    log = installed / ".venv" / "kernels.log"
    assert stderr == (
        "warning: the C kernels could not be built, torch computes instead "
        f"(the reason is in {log})\n"
    )
    assert "this is not C" in log.read_text() or "No such file" in log.read_text()


def test_the_installation_brings_setuptools_for_later_builds(installed):
    (installed / ".venv" / "installed").unlink()
    calls, _ = run_script(installed)
    install, train = calls
    assert install.startswith("-m pip install ") and install.endswith(f"--editable {installed}")
    assert "setuptools>=77" in install and train == TRAIN
    assert run_script(installed) == ([TRAIN], "")
