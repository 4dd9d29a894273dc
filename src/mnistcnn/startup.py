"""What makes the first seconds of a command short; nothing here changes what it computes.

Nothing here imports more than the standard library: a command comes here before it imports torch.
"""

import contextlib
import gc
import sys
from collections.abc import Iterator
from functools import cache, wraps
from typing import Any

# The wrappers that torch puts around an optimizer's methods for its compiler, by their code: the
# second, around ``step``, also turns gradients off.
NOT_COMPILED = "_disable_dynamo.<locals>.inner"
WITHOUT_GRADIENTS = "_use_grad_for_differentiable.<locals>._use_grad"


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import torch and all else without looking for garbage, of which imports leave next to none.

    Python would look through what is there again and again, for a tenth of the time that it takes.
    What is there at the end is never looked through again.
    """
    # what is there may be a program of its own, as the tests are
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@cache
def eager(optimizer_class: type) -> type:
    """The same optimizer, which doesn't import torch's compiler in order not to use it.

    The methods of torch's optimizers are wrapped to tell ``torch.compile`` where to stop. To tell
    it, they import ``torch._dynamo`` when they are first called, a second and 150 MB, whether
    anything is compiled or not; there is no switch. Here the wrappers are left out that are known
    by their code. Where a torch has others, it is as slow as it was, and as right.
    """
    methods: dict[str, Any] = {}
    for name in dir(optimizer_class):
        method = getattr(optimizer_class, name)
        wrapper = getattr(getattr(method, "__code__", None), "co_qualname", None)
        if wrapper == NOT_COMPILED:
            methods[name] = method.__wrapped__
        elif wrapper == WITHOUT_GRADIENTS:
            methods[name] = _without_gradients(method.__wrapped__)
    return type(optimizer_class.__name__, (optimizer_class,), methods)


def _without_gradients(step: Any) -> Any:
    import torch  # only now: a command comes here before it has imported it

    @wraps(step)
    def stepping(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return stepping
