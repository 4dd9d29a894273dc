"""Sections about the parts of a run: of a training step, blocks of a network, and t-SNE."""

import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice

import numpy as np
import torch

from mnistcnn.benchmark.context import Context, Section
from mnistcnn.benchmark.timing import PartTimer, alternate, ratios, spread
from mnistcnn.data.augment import augment_batch, sample_parameters
from mnistcnn.data.batches import (
    batch_slices,
    evaluation_batches,
    pass_order,
    to_float,
    training_batches,
)
from mnistcnn.evaluation import embedding
from mnistcnn.evaluation.embedding import Embedding
from mnistcnn.evaluation.inference import infer
from mnistcnn.kernels.conv_block import ConvBlock, conv_blocks
from mnistcnn.system.devices import place_model
from mnistcnn.system.errors import MnistcnnError
from mnistcnn.system.random_streams import Stream, torch_generator
from mnistcnn.training.flat_parameters import zero_gradients

BATCH_SIZE = 128
CHANNELS = [(1, 8), (8, 8), (1, 32), (32, 32), (32, 64), (64, 32), (16, 16), (3, 5)]


def step(context: Context) -> Section:
    """Measure the parts of a training step of the default network, with all kernels."""
    header = [f"microseconds, kernels={name}" for name in context.kernels]
    section = Section(["", *header])
    measurements = {name: partial(_step_parts, context, name) for name in context.kernels}
    rounds = alternate(measurements, context.rounds).values()
    for part in next(iter(rounds))[0]:
        section.rows.append([part, *(spread(each[part] for each in values) for values in rounds)])
    section.notes.append(
        "Batches of 128. The forward pass includes normalisation and blocks, which are measured "
        "once more by themselves. The whole step starts with the forward pass."
    )
    return section


def _step_parts(context: Context, kernels: str) -> dict[str, float]:
    """Return the median microseconds of each part: ``training_step`` and ``training_batches``."""
    settings = context.settings("aug=full", f"kernels={kernels}")
    trainer, train = context.trainer(settings), context.splits.train
    model, metrics, optimizer = trainer.model, trainer.metrics, trainer.optimizer
    order = pass_order(settings.seed, 1, len(train)).to(context.device)
    generator = torch_generator(settings.seed, Stream.AUGMENT, 1)
    parameters = sample_parameters(settings.aug, len(train), generator).to(context.device)
    timer = PartTimer(context.device)
    slices = cycle(batch_slices(len(train), settings.batch_size))
    for part in islice(slices, 5 if context.quick else 400):
        with timer.part("batch: gather, to float"):
            batch = train.take(order[part])
            images = to_float(batch.pixels)
        with timer.part("augmentation (aug=full)"):
            images = augment_batch(images, parameters[part], settings.aug)
        with model.autocast():
            with timer.part("normalisation"):
                hidden = model.normalize(images)
            for number, block in enumerate(conv_blocks(model), 1):
                with timer.part(f"forward, block {number}"):
                    hidden = block(hidden)
            with timer.part("forward"):
                logits = trainer.forward(images)
        with timer.part("loss"):
            loss = trainer.loss_fn(logits.float(), batch.labels)
        with timer.part("metrics"):
            correct = (logits.detach().argmax(dim=1) == batch.labels).sum()
            metrics.add(loss, correct, len(batch), optimizer.param_groups[0]["lr"])
        with timer.part("backward"):
            zero_gradients(optimizer)
            loss.backward()
        with timer.part("optimizer"):
            optimizer.step()
        with timer.part("scheduler"):
            trainer.scheduler.step()
        with timer.part("whole step"):
            trainer.step(images, batch.labels)
    return timer.microseconds()


def kernels(context: Context) -> Section:
    """Measure blocks of convolution, pooling, ReLU and dropout, by the C kernel and by torch."""
    if "native" not in context.kernels:
        raise MnistcnnError("the C kernels cannot be used")
    microseconds = [f"{name}, microseconds" for name in context.kernels]
    section = Section(["channels", *microseconds, "torch / native", "native forward, GFLOP/s"])
    for channels in CHANNELS:
        label = "{} to {}".format(*channels)
        measurements = {
            f"{label}, {name}": partial(_block_parts, context, *channels, name == "native")
            for name in context.kernels
        }
        native, other = alternate(measurements, context.rounds).values()
        both = [[each["forward and backward"] for each in rounds] for rounds in (native, other)]
        flop = BATCH_SIZE * _convolution_flop(*channels)
        rate = spread(flop / each["forward"] / 1e3 for each in native)
        section.rows.append([label, *map(spread, both), ratios(both[1], both[0]), rate])
    section.notes.append(
        f"Forward and backward pass, with dropout, of {BATCH_SIZE} images: of 26 x 26 pixels with "
        "one channel, of 12 x 12 with several, as in the default network."
    )
    return section


def _input_size(in_channels: int) -> int:
    return 26 if in_channels == 1 else 12


def _convolution_flop(in_channels: int, out_channels: int) -> int:
    """Return the FLOP of the convolution of one image."""
    return 2 * 9 * in_channels * out_channels * (_input_size(in_channels) - 2) ** 2


def _block_parts(
    context: Context, in_channels: int, out_channels: int, native: bool
) -> dict[str, float]:
    """Return the median microseconds of the forward pass, and of forward and backward pass."""
    block = ConvBlock(in_channels, out_channels, dropout=0.5)
    block.native = native
    place_model(block, context.device)
    size = _input_size(in_channels)
    images = torch.rand(BATCH_SIZE, in_channels, size, size)
    images = images.to(memory_format=torch.channels_last)
    images.requires_grad = in_channels > 1  # the first block of a network has no gradient
    inputs = [each for each in (images, *block.parameters()) if each.requires_grad]
    gradient, timer = torch.ones_like(block(images)), PartTimer(context.device)
    for _ in range(3 if context.quick else 200):
        with timer.part("forward and backward"):
            with timer.part("forward"):
                output = block(images)
            torch.autograd.grad(output, inputs, gradient)
    return timer.microseconds()


def tsne(context: Context) -> Section:
    """Measure t-SNE of test features of a trained network, by openTSNE and by scikit-learn."""
    section = Section(["images", "", "seconds", "KL divergence"])
    libraries = {
        "openTSNE": embedding.embed_with_opentsne,
        "scikit-learn": embedding.embed_with_scikit_learn,
    }
    features = _test_features(context)
    for embed in libraries.values():
        _timed_tsne(embed, features[:100])  # imports the library
    for count in (2_000,) if context.quick else (2_000, 10_000):
        sample = features[:count]
        work = {name: partial(_timed_tsne, embed, sample) for name, embed in libraries.items()}
        for name, rounds in alternate(work, context.rounds).items():
            section.rows.append([f"{len(sample):,}", name, *map(spread, zip(*rounds, strict=True))])
    return section


def _test_features(context: Context) -> np.ndarray:
    """Return the test features (N, 64) of the default network after one epoch."""
    settings = context.settings()
    trainer = context.trainer(settings)
    for images, labels in training_batches(context.splits.train, settings, 1):
        trainer.step(images, labels)
    batches = evaluation_batches(context.splits.test)
    features = infer(trainer.model, batches, with_features=True).features
    assert features is not None
    return features


def _timed_tsne(embed: Callable[..., Embedding], features: np.ndarray) -> tuple[float, float]:
    """Return the seconds and the KL divergence of an embedding with the default settings."""
    start = time.perf_counter()
    result = embed(features, 30.0, "pca", 0, torch.get_num_threads())
    return time.perf_counter() - start, result.kl_divergence
