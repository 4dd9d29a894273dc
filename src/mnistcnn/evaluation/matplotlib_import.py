"""Import matplotlib, also if the user's settings for it cause an error.

On import, matplotlib reads the first matplotlibrc that it finds (in the current directory, then in
the user's home) and the variable MPLBACKEND. A file that is not UTF-8, or a backend that is not
installed, is an error: Jupyter names a backend that only its own environment has. This module is
slow to import; import it in functions that draw.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def _without_user_settings() -> Iterator[None]:
    """Unset MPLBACKEND, and change to the directory with matplotlib's own matplotlibrc."""
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None and spec.origin is not None  # the first import found it
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        del sys.modules[name]  # the first import has loaded some of them
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        with contextlib.chdir(Path(spec.origin).with_name("mpl-data")):
            yield
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


# a program that imports matplotlib later gets the user's settings unless they cause an error
try:
    import matplotlib
except ImportError:  # it is not installed
    raise
except Exception:
    with _without_user_settings():
        import matplotlib

__all__ = ["matplotlib"]
