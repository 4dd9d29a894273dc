"""Make a command start faster without changing its results.

This module does not import torch or numpy, because a command uses it before it imports them.
"""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from functools import cache, wraps
from typing import Any

from mnistcnn.system.resources import allowed_cores, available_cores

# The wrappers that torch puts around the methods of its optimizers, by the qualified names of
# their code; the second wraps ``step`` and also turns gradients off.
DISABLE_DYNAMO = "_disable_dynamo.<locals>.inner"
NO_GRADIENTS = "_use_grad_for_differentiable.<locals>._use_grad"


@contextlib.contextmanager
def fast_imports() -> Iterator[None]:
    """Import inside the context without garbage collection, and limit the libraries' threads.

    Imports create hardly any garbage, and searching for it takes a tenth of their time. The
    imported objects are excluded from later collections as well.
    """
    # in a program that has imported torch already, such as the tests, change nothing
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    limit_library_threads()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def limit_library_threads() -> None:
    """Make OpenBLAS and scikit-learn start no more threads than there are cores.

    OpenBLAS starts its threads when numpy is imported, one for each core that the affinity allows:
    it does not read the CPU quota of a container. scikit-learn counts cores with loky, which reads
    the quota of the root cgroup only. Environment variables set by the user take precedence.
    """
    if available_cores() < allowed_cores() and "OMP_NUM_THREADS" not in os.environ:
        for name in ("OPENBLAS_NUM_THREADS", "LOKY_MAX_CPU_COUNT"):
            os.environ.setdefault(name, str(available_cores()))


@cache
def without_dynamo_wrappers(optimizer_class: type) -> type:
    """Return a subclass of a torch optimizer that does not import torch's compiler.

    torch wraps the optimizers' methods to exclude them from ``torch.compile``. The wrappers
    import ``torch._dynamo`` at their first call, which takes a second and 150 MB even if nothing
    is compiled, and no option turns them off. They are recognised by the name of their code:
    if torch has other wrappers, the subclass behaves like the original class.
    """
    methods: dict[str, Any] = {}
    for name in dir(optimizer_class):
        method = getattr(optimizer_class, name)
        wrapper = getattr(getattr(method, "__code__", None), "co_qualname", None)
        if wrapper == DISABLE_DYNAMO:
            methods[name] = method.__wrapped__
        elif wrapper == NO_GRADIENTS:
            methods[name] = _without_gradients(method.__wrapped__)
    return type(optimizer_class.__name__, (optimizer_class,), methods)


def _without_gradients(step: Any) -> Any:
    import torch  # not at the top: this module is imported before torch

    @wraps(step)
    def wrapped_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return wrapped_step
