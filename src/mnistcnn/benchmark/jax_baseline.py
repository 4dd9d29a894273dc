"""The JAX baseline: train the report's default network, compiled, on images in memory.

``python -m mnistcnn.benchmark.jax_baseline FOLDER SECONDS PLATFORM`` prints images per second. It
is a process of its own because JAX starts threads, and a process with threads should not be forked,
as it is for the workers of a DataLoader.
"""

import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

BATCH_SIZE = 128
DROPOUT = 0.5
LEARNING_RATE, RHO, EPSILON = 1.0, 0.9, 1e-6  # of Adadelta
MEAN, STD = 0.131, 0.3085  # of the pixels of MNIST, as in the report
SHAPES = [(8, 1, 3, 3), (8, 8, 3, 3), (64, 200), (10, 64)]  # of the weights, as in torch

Parameters = list[tuple[Array, Array]]  # weight and bias of each layer
State = tuple[Parameters, Parameters, Parameters]  # parameters, and the two averages of Adadelta


def initial_state(parameters: Parameters) -> State:
    """Return the state before the first step."""
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    return parameters, zeros, zeros


def loss_fn(parameters: Parameters, pixels: Array, labels: Array, key: Array | None) -> Array:
    """Return the mean cross-entropy, in nats, of pixels (N, 28, 28) uint8.

    Without a ``key`` there is no dropout.
    """
    (hidden, hidden_bias), (head, head_bias) = parameters[2:]
    x = (pixels[:, None] / 255 - MEAN) / STD
    for weight, bias in parameters[:2]:
        x = lax.conv_general_dilated(x, weight, (1, 1), "VALID") + bias[:, None, None]
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        x = jax.nn.relu(x)
        if key is not None:
            key, layer_key = jax.random.split(key)
            kept = jax.random.bernoulli(layer_key, 1 - DROPOUT, (*x.shape[:2], 1, 1))
            x = x * kept / (1 - DROPOUT)
    x = jax.nn.relu(x.reshape(len(x), -1) @ hidden.T + hidden_bias)
    log_probabilities = jax.nn.log_softmax(x @ head.T + head_bias)
    return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1).mean()


def training_step(state: State, pixels: Array, labels: Array, key: Array | None) -> State:
    """Return the state after a step of Adadelta."""
    parameters, squares, updates = state
    gradients = jax.grad(loss_fn)(parameters, pixels, labels, key)
    average = partial(jax.tree.map, lambda mean, value: RHO * mean + (1 - RHO) * value**2)
    squares = average(squares, gradients)
    deltas = jax.tree.map(
        lambda gradient, s, u: gradient * jnp.sqrt((u + EPSILON) / (s + EPSILON)),
        *(gradients, squares, updates),
    )
    parameters = jax.tree.map(lambda p, delta: p - LEARNING_RATE * delta, parameters, deltas)
    return parameters, squares, average(updates, deltas)


def train_epoch(state: State, pixels: Array, labels: Array, key: Array) -> State:
    """Return the state after an epoch of shuffled batches, without an incomplete last one."""
    batches = len(labels) // BATCH_SIZE
    order = jax.random.permutation(key, len(labels))[: batches * BATCH_SIZE]

    def step(state: State, batch: tuple[Array, Array]) -> tuple[State, None]:
        indices, key = batch
        return training_step(state, pixels[indices], labels[indices], key), None

    inputs = order.reshape(batches, BATCH_SIZE), jax.random.split(key, batches)
    return lax.scan(step, state, inputs)[0]


def epoch_rate(folder: Path, min_seconds: float) -> float:
    """Return the images per second of epochs of at least ``min_seconds``, without compilation.

    The training images in ``folder``, in the format of MNIST, are used except the last 15 percent.
    """
    pixels = np.fromfile(folder / "train-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 28, 28)
    labels = np.fromfile(folder / "train-labels-idx1-ubyte", np.uint8)[8:].astype(np.int32)
    count = round(0.85 * len(labels))
    images = jnp.asarray(pixels[:count]), jnp.asarray(labels[:count])
    generator, parameters = np.random.default_rng(0), []
    for shape in SHAPES:  # uniform, as in torch
        draw = partial(generator.uniform, -(bound := np.prod(shape[1:]) ** -0.5), bound)
        parameters.append((jnp.float32(draw(shape)), jnp.float32(draw(shape[:1]))))
    state, key = initial_state(parameters), jax.random.key(0)
    epoch = jax.jit(train_epoch).lower(state, *images, key).compile()
    epochs, start = 0, time.perf_counter()
    while epochs == 0 or time.perf_counter() - start < min_seconds:
        state = jax.block_until_ready(epoch(state, *images, jax.random.fold_in(key, epochs)))
        epochs += 1
    return epochs * (count // BATCH_SIZE * BATCH_SIZE) / (time.perf_counter() - start)


if __name__ == "__main__":
    jax.config.update("jax_platforms", sys.argv[3])
    print(epoch_rate(Path(sys.argv[1]), float(sys.argv[2])))
