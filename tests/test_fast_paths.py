"""What was made faster gives what the plain way gives: the same losses, step after step."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

from mnistcnn import augment, data, engine, fit, models, optim, report
from mnistcnn.models import Classifier
from mnistcnn.seeding import Stream, seed_global

from .conftest import settings

STEPS = 50


class Watched(engine.Running):
    """Keeps each batch's loss."""

    def add(self, loss, *others):
        self.__dict__.setdefault("losses", []).append(loss.item())
        super().add(loss, *others)


def losses(network: Classifier, optimizer: Optimizer, digits, chosen) -> list[float]:
    """Of the first steps of a training."""
    schedule = optim.schedule(chosen.scheduler, optimizer, 1, STEPS)
    running = Watched(epoch=1)
    seed_global(chosen.seed, Stream.DROPOUT, 1)
    engine.train_epoch(
        network, fit.training_batches(digits.train, chosen, 1), F.cross_entropy, optimizer,
        schedule, torch.float32, running,
    )  # fmt: skip
    return running.losses


def as_written(network: Classifier) -> Classifier:
    """ReLU before pooling, on the whole image."""
    layers = list(network.body)
    for place, (one, other) in enumerate(zip(layers[:-1], layers[1:], strict=True)):
        if isinstance(one, nn.MaxPool2d) and isinstance(other, nn.ReLU):
            layers[place : place + 2] = [nn.ReLU(), nn.MaxPool2d(2)]
    network.body = nn.Sequential(*layers)
    network.seen = 28
    return network


def affine_by_matrices(images, angle, scale, shear, flip, interpolation):
    """With torch's own grid."""
    angle, shear, zero = torch.deg2rad(angle), torch.deg2rad(shear), torch.zeros_like(angle)
    cos, sin, tan, mirror = torch.cos(angle), torch.sin(angle), torch.tan(shear), 1 - 2 * flip
    row_x = torch.stack([(cos - sin * tan) * mirror, sin + cos * tan, zero], dim=1)
    row_y = torch.stack([-sin * mirror, cos, zero], dim=1)
    matrix = torch.stack([row_x, row_y], dim=1) / scale[:, None, None]
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=interpolation, align_corners=False)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.channels=[8,16,8]", "optimizer=sgd", "optimizer.momentum=0.9"],
        ["model.stride=2"],
        # At their own rates the last bit of a float32 grows beyond the limit in these steps, as it
        # does between two layouts in memory.
        ["aug=full", "optimizer.lr=0.2"],
        ["model.batch_norm=before_relu", "optimizer=adamw", "optimizer.lr=0.0002"],
        ["model=custom", "model.width=0.06", "optimizer.lr=0.00005"],
        ["model=vgg16", "model.width=0.06", "optimizer.lr=0.00002"],
    ],
)
def test_the_learning_curve_is_that_of_the_plain_way(digits, monkeypatch, overrides):
    chosen = settings("data=mnist5k", f"steps={STEPS}", "epochs=1", *overrides)
    fast = fit.fresh_network(chosen, digits)
    quick = losses(fast, optim.optimizer(chosen.optimizer, fast.parameters()), digits, chosen)

    plain = as_written(fit.fresh_network(chosen, digits))
    if not overrides:  # elsewhere layouts draw other masks, or rounding grows beyond the limit
        plain.to(memory_format=torch.contiguous_format)
    arguments = vars(chosen.optimizer) | {"foreach": False}
    tensor_by_tensor = optim.OPTIMIZERS[arguments.pop("name")][1]
    monkeypatch.setattr(augment, "affine", affine_by_matrices)
    slow = losses(plain, tensor_by_tensor(plain.parameters(), **arguments), digits, chosen)
    assert len(quick) == STEPS and quick[-1] < quick[0]
    torch.testing.assert_close(quick, slow, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("overrides", "seen"),
    [
        ([], 26),
        (["model.channels=[4,4,4]"], 22),
        (["model.stride=2"], 25),
        (["model.padding=2"], 28),
    ],
)
def test_what_is_cropped_is_what_nothing_depends_on(overrides, seen):
    """The report's padding of 0 and an odd number of pixels: pooling forgets the last ones."""
    torch.manual_seed(0)
    network = models.build(settings(*overrides).model).eval()
    assert network.seen == seen
    whole = as_written(network)
    images = torch.rand(64, 1, 28, 28, requires_grad=True)
    whole(images).abs().sum().backward()
    felt = images.grad.abs().sum(dim=(0, 1))
    assert felt[:seen, :seen].amax(dim=0).min() > 0
    assert felt[seen:].sum() == 0 and felt[:, seen:].sum() == 0


def test_a_run_reports_what_its_training_has_scored(digits):
    """As a network that is scored from its checkpoint alone."""
    chosen = settings("data=mnist5k")
    network = fit.fresh_network(chosen, digits)
    anew, _ = report._score(network, digits, torch.float32, None)
    row = {f"{name}_{key}": anew[part][key] for name, part in (("train", "train"),
           ("val", "validation")) for key in ("loss", "accuracy")}  # fmt: skip
    assert report._score(network, digits, torch.float32, row)[0] == anew


def test_images_are_taken_as_they_are_indexed(digits):
    indices = torch.tensor([5, 0, 5, 1999])
    taken = digits.train.take(indices)
    assert torch.equal(taken.pixels, digits.train.pixels[indices])
    assert torch.equal(taken.labels, digits.train.labels[indices])
    assert torch.equal(data.to_unit(taken.pixels)[:, 0], taken.pixels.float() / 255)
