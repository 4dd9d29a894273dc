"""Identify a run by a hash of the settings that decide its results."""

import hashlib
import json
from dataclasses import asdict

from mnistcnn.config.load import flatten
from mnistcnn.config.schema import TrainSettings

# Which pictures a run has, and what they show.
PICTURE_KEYS = (
    "pictures",
    "tsne.samples",
    "tsne.of",
    "tsne.perplexity",
    "neighbours.targets",
    "neighbours.k",
)
# Settings that may differ between equal runs: the device, compilation, the kernels, the location of
# the data, how often a checkpoint is saved and whether the last one is kept, the logger, and the
# pictures.
NON_IDENTITY_KEYS = (
    "device",
    "compile",
    "kernels",
    "data.dir",
    "data.mirrors",
    "checkpoint.minutes",
    "checkpoint.keep_last",
    "logger.name",
    *PICTURE_KEYS,
)


def config_sha256(settings: TrainSettings) -> str:
    """Return the SHA-256 (hex) of the settings without NON_IDENTITY_KEYS: equal for equal runs."""
    values = flatten(asdict(settings))
    identity = {key: value for key, value in values.items() if key not in NON_IDENTITY_KEYS}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
