"""Run a model over images in evaluation mode."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from mnistcnn.evaluation.metrics import Predictions
from mnistcnn.models.classifier import Classifier
from mnistcnn.system import signals


@torch.inference_mode()
def infer(
    model: Classifier,
    batches: Iterable[tuple[Tensor, Tensor]],
    with_features: bool = False,
) -> Predictions:
    """Predict all batches in one pass in evaluation mode.

    ``batches`` yields images (N, 1, 28, 28) float32 in [0, 1] and labels (N,) int64 on the
    model's device. Log-probabilities and features are returned as float32 on the CPU, in the order
    of the batches. Features are kept only if ``with_features`` is set,
    because those of a large network on a large split take much memory.

    Raises Stopped before the next batch if a stop signal was received.
    """
    model.eval()
    labels, log_probabilities, features = [], [], []
    for images, batch_labels in batches:
        signals.raise_if_stopped()
        batch_features, logits = model.features_and_logits(images)
        labels.append(batch_labels)
        log_probabilities.append(logits.float().log_softmax(dim=1))
        if with_features:
            features.append(batch_features.float())
    return Predictions(
        _to_numpy(labels),
        _to_numpy(log_probabilities),
        _to_numpy(features) if with_features else None,
    )


def _to_numpy(tensors: list[Tensor]) -> np.ndarray:
    """Concatenate tensors along the first dimension and copy them to the CPU."""
    return torch.cat(tensors).cpu().numpy()
