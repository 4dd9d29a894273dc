"""The forward pass in training, by ``torch.compile`` or without: whichever is faster here."""

import logging
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mnistcnn.errors import PlainError

log = logging.getLogger(__name__)

MODES = ("none", "default", "reduce-overhead", "max-autotune")  # but for the first, torch.compile's
# Where launching kernels takes longer than running them, as in small networks, a recorded CUDA
# graph takes all launches at once; with large networks it does no harm.
TRIED_MODE = "reduce-overhead"
WARM_UP, TRIED = 5, 20  # steps, of each way
PAYS = 60.0  # seconds: compiling may take most of a minute, which must be won back


class Forward:
    """Calls a network, images (N, 1, 28, 28) to logits (N, 10), once per training step.

    ``mode`` is one of MODES, or ``auto``: off CUDA that is ``none``, so that a run is repeatable;
    on CUDA the first steps are timed, then, if ``steps`` such steps are a long training, some more
    are taken compiled, and what took less time does the rest. Nothing is computed twice.

    ``chosen`` is the mode in use. Where the first compiled call fails, ``auto`` goes on without,
    and a mode that was asked for raises PlainError. What fails later, as in compiling the backward
    pass, is raised as it is.
    """

    def __init__(self, network: nn.Module, mode: str, steps: int, device: torch.device):
        self._network, self._steps, self._device = network, steps, device
        self._trial = self._try() if mode == "auto" and device.type == "cuda" else None
        self._asked = mode != "auto"
        self._times: list[float] = []
        self._use("none" if mode == "auto" else mode)

    def __call__(self, images: Tensor) -> Tensor:
        if self._trial is not None:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._times.append(time.perf_counter())
            next(self._trial)
        if self._proven:
            return self._call(images)
        try:
            logits = self._call(images)
            self._proven = True
            return logits
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of a missing compiler, of a GPU that is too old, ...
            reason = " ".join(str(error).split())[:200]
            if self._asked:
                raise PlainError(
                    f"compile={self.chosen} does not work here ({type(error).__name__}: {reason}): "
                    "compile=none does without"
                ) from error
            log.info("going on uncompiled: torch.compile does not work here (%s)", reason)
            self._trial = None
            self._use("none")
            return self._network(images)

    def _use(self, mode: str) -> None:
        self.chosen = mode
        self._proven = mode == "none"
        self._call: Callable[[Tensor], Tensor] = self._network
        if mode != "none":  # the last batch of a pass has another size: a graph for each
            self._call = torch.compile(self._network, mode=mode, dynamic=False)

    def _try(self):
        """Goes on by one with each step."""
        plain = yield from self._measured()
        if plain * self._steps > PAYS:
            self._use(TRIED_MODE)
            compiled = yield from self._measured()
            log.info(
                "a batch takes %.2f ms compiled and %.2f ms uncompiled",
                1000 * compiled, 1000 * plain,
            )  # fmt: skip
            if compiled >= plain:
                self._use("none")
        self._trial = None
        yield

    def _measured(self):
        """Median seconds of a step: an epoch that ends meanwhile, with all its scores, is none."""
        for _ in range(WARM_UP):
            yield
        self._times = self._times[-1:]
        for _ in range(TRIED):
            yield
        return statistics.median(
            later - earlier for earlier, later in zip(self._times, self._times[1:], strict=False)
        )
