"""Store the trained parameters of a model, and their gradients, in one tensor each."""

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

# Elements that an optimizer updates at once: several operations in turn read the same 4 MB, which
# remain in the processor's cache. Adamax takes 40% of the time of a single large tensor.
PART_SIZE = 1_000_000


def flatten_parameters(model: nn.Module) -> list[Parameter]:
    """Make all trained parameters and their gradients views of one tensor, and return its parts.

    An optimizer of the parts, each (PART_SIZE,) or smaller, needs few operations: those of a small
    network are a single one. The parameters, float32 on one device, are stored in their order in
    the model, those with four dimensions in channels-last order. :func:`zero_gradients` must be
    called before each backward pass.
    """
    parameters = [each for each in model.parameters() if each.requires_grad]
    values = torch.cat([_in_memory_order(each.detach()) for each in parameters])
    gradients = torch.zeros_like(values)
    sizes = [each.numel() for each in parameters]
    for parameter, value, gradient in zip(
        parameters, values.split(sizes), gradients.split(sizes), strict=True
    ):
        shape = parameter.shape
        parameter.data = _as_parameter(value, shape)
        parameter.grad = _as_parameter(gradient, shape)
    parts = [Parameter(part) for part in values.split(PART_SIZE)]
    for part, gradient in zip(parts, gradients.split(PART_SIZE), strict=True):
        part.grad = gradient
    return parts


def zero_gradients(optimizer: Optimizer) -> None:
    """Set the gradients of an optimizer's parameters to zero.

    ``Optimizer.zero_grad`` takes ten times as long for a single tensor, and would by default remove
    the gradients.
    """
    for group in optimizer.param_groups:
        for parameters in group["params"]:
            if parameters.grad is not None:
                parameters.grad.zero_()


def _in_memory_order(parameter: Tensor) -> Tensor:
    """Return a parameter's values (P,) in the order in which they are stored."""
    return (parameter.permute(0, 2, 3, 1) if parameter.dim() == 4 else parameter).reshape(-1)


def _as_parameter(part: Tensor, shape: torch.Size) -> Tensor:
    """Return the inverse of :func:`_in_memory_order`, a view."""
    if len(shape) != 4:
        return part.view(shape)
    out_channels, in_channels, height, width = shape
    return part.view(out_channels, height, width, in_channels).permute(0, 3, 1, 2)
