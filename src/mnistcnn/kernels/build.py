"""Compile the C kernels: the ``build_ext`` command of setuptools, as named in pyproject.toml."""

import copy
import platform
import subprocess

from setuptools import Extension
from setuptools.command.build_ext import build_ext

# Compiler flags by instruction set. The best one of the processor is chosen when the kernels are
# loaded, so that a wheel runs on all processors of an architecture.
X86_FLAGS = {
    "avx512": ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mavx2", "-mfma"],
    "avx2": ["-mavx2", "-mfma"],
}
GENERIC_FLAGS: dict[str, list[str]] = {"generic": []}


class BuildKernels(build_ext):  # type: ignore[misc]  # mypy does not read setuptools
    """Compile each extension once per instruction set; ``conv_block`` to ``conv_block_avx2``.

    With GCC the kernels use OpenMP: torch loads the same library, and its threads are shared. With
    other compilers, which have another library, they use one thread. A failure is only a warning
    (``optional`` in pyproject.toml): without the kernels, torch computes everything.
    """

    def finalize_options(self) -> None:
        """Replace each extension by its variants, for this command only."""
        is_x86 = platform.machine().lower() in ("x86_64", "amd64")
        flags = X86_FLAGS if is_x86 else GENERIC_FLAGS
        declared = self.distribution.ext_modules
        self.distribution.ext_modules = [
            _variant(extension, name, flags[name]) for extension in declared for name in flags
        ]
        super().finalize_options()
        self.distribution.ext_modules = declared

    def build_extension(self, ext: Extension) -> None:
        """Compile one variant."""
        if _is_gcc(getattr(self.compiler, "compiler_so", [])):
            ext.extra_compile_args.append("-fopenmp")
            ext.extra_link_args.append("-fopenmp")
        super().build_extension(ext)


def _variant(extension: Extension, name: str, flags: list[str]) -> Extension:
    variant = copy.copy(extension)
    variant.name = f"{extension.name}_{name}"
    variant.extra_compile_args = ["-O3", *flags]
    variant.extra_link_args = []
    return variant


def _is_gcc(compiler: list[str]) -> bool:
    """Return whether the command ``compiler`` is GCC, and not Clang under its name."""
    try:
        command = [compiler[0], "-dM", "-E", "-x", "c", "/dev/null"]
        macros = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, IndexError, subprocess.CalledProcessError):
        return False
    return "__GNUC__" in macros and "__clang__" not in macros
