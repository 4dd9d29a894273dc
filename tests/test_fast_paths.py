"""The faster implementations give the same results as the plain ones, step after step."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from mnistcnn import IMAGE_SIZE
from mnistcnn.config.schema import TrainSettings
from mnistcnn.data import augment
from mnistcnn.data.batches import to_float, training_batches
from mnistcnn.data.dataset import DatasetSplits
from mnistcnn.evaluation import artifacts
from mnistcnn.kernels.conv_block import ConvBlock
from mnistcnn.kernels.selection import select_kernels
from mnistcnn.models.classifier import Classifier
from mnistcnn.models.registry import create_model
from mnistcnn.system.random_streams import Stream, seed_global
from mnistcnn.training.flat_parameters import flatten_parameters
from mnistcnn.training.optim import OPTIMIZERS, build_optimizer, build_scheduler
from mnistcnn.training.step import TrainMetrics, training_step
from mnistcnn.training.trainer import build_model

from .conftest import settings

STEPS = 50


def batch_losses(
    model: Classifier, optimizer: Optimizer, splits: DatasetSplits, chosen: TrainSettings
) -> list[float]:
    """The loss of each batch of the first epoch, of STEPS steps."""
    losses = []

    def loss_fn(logits: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, labels)
        losses.append(loss.item())
        return loss

    scheduler = build_scheduler(chosen.scheduler, optimizer, 1, STEPS)
    metrics = TrainMetrics(epoch=1)
    seed_global(chosen.seed, Stream.DROPOUT, 1)
    model.train()
    for images, labels in training_batches(splits.train, chosen, 1):
        training_step(model, images, labels, loss_fn, optimizer, scheduler, metrics)
    return losses


def as_written(model: Classifier) -> Classifier:
    """Put ReLU before pooling, as layers of their own, and process the whole image."""
    layers: list[nn.Module] = []
    for module in model.body:
        layers += module if isinstance(module, ConvBlock) else [module]
    for index, (first, second) in enumerate(pairwise(layers)):
        if isinstance(first, nn.MaxPool2d) and isinstance(second, nn.ReLU):
            layers[index : index + 2] = [nn.ReLU(), nn.MaxPool2d(2)]
    model.body = nn.Sequential(*layers)
    model.crop_size = IMAGE_SIZE
    return model


def affine_by_matrices(images, angle, scale, shear, flip, interpolation):
    """``augment.affine`` with the grid of torch's ``affine_grid``."""
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
        # With their default rates, a difference in the last bit of a float32 grows beyond the
        # tolerance within these steps, as it does between two memory formats.
        ["optimizer.lr=0.2"],
        ["model.channels=[8,16,8]", "optimizer=sgd", "optimizer.momentum=0.9"],
        ["model.stride=2", "optimizer.lr=0.2"],
        ["aug=full", "optimizer.lr=0.2"],
        ["model.batch_norm=before_relu", "optimizer=adamw", "optimizer.lr=0.0002"],
        ["model=custom", "model.width=0.06", "optimizer.lr=0.00005"],
        ["model=vgg16", "model.width=0.06", "optimizer.lr=0.00002"],
    ],
)
def test_the_learning_curve_equals_that_of_the_plain_implementation(splits, monkeypatch, overrides):
    chosen = settings("data=mnist5k", f"steps={STEPS}", "epochs=1", *overrides)
    fast_model = build_model(chosen, splits)
    select_kernels(fast_model, "auto", "float32", chosen.compile)
    fast_optimizer = build_optimizer(chosen.optimizer, flatten_parameters(fast_model))
    fast = batch_losses(fast_model, fast_optimizer, splits, chosen)

    plain_model = as_written(build_model(chosen, splits))
    if (
        chosen.model.name == "convnet"
    ):  # in others, memory formats draw other masks or round too much
        plain_model.to(memory_format=torch.contiguous_format)
    arguments = vars(chosen.optimizer) | {"foreach": False}
    optimizer_class = OPTIMIZERS[arguments.pop("name")]
    plain_optimizer = optimizer_class(plain_model.parameters(), **arguments)
    monkeypatch.setattr(augment, "affine", affine_by_matrices)
    plain = batch_losses(plain_model, plain_optimizer, splits, chosen)

    assert len(fast) == STEPS and fast[-1] < fast[0]
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("overrides", "crop_size"),
    [
        ([], 26),
        (["model.channels=[4,4,4]"], 22),
        (["model.stride=2"], 25),
        (["model.padding=2"], 28),
    ],
)
def test_exactly_the_pixels_without_effect_are_cropped(overrides, crop_size):
    """Without padding, pooling drops the last row and column of an odd-sized input."""
    torch.manual_seed(0)
    model = create_model(settings(*overrides).model).eval()
    assert model.crop_size == crop_size
    uncropped = as_written(model)
    images = torch.rand(64, 1, 28, 28, requires_grad=True)
    uncropped(images).abs().sum().backward()
    effect = images.grad.abs().sum(dim=(0, 1))
    assert effect[:crop_size, :crop_size].amax(dim=0).min() > 0
    assert effect[crop_size:].sum() == 0 and effect[:, crop_size:].sum() == 0


def test_scores_from_training_equal_newly_computed_scores(splits):
    """As for a model that is loaded from its checkpoint."""
    model = build_model(settings("data=mnist5k"), splits)
    test = artifacts._predict_test(model, splits)
    computed = artifacts._score_splits(model, splits, test, None)
    row = {
        f"{prefix}_{key}": computed[split][key]
        for prefix, split in (("train", "train"), ("val", "validation"))
        for key in ("loss", "accuracy")
    }
    assert artifacts._score_splits(model, splits, test, row) == computed


def test_take_equals_indexing(splits):
    indices = torch.tensor([5, 0, 5, 1999])
    taken = splits.train.take(indices)
    assert torch.equal(taken.pixels, splits.train.pixels[indices])
    assert torch.equal(taken.labels, splits.train.labels[indices])
    assert torch.equal(to_float(taken.pixels)[:, 0], taken.pixels.float() / 255)
