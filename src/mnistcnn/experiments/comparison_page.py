"""Write ``comparison.html``: verdicts, differences between pairs of groups, and disagreements."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnistcnn.experiments.disagreements import DisagreementImages
from mnistcnn.experiments.groups import Group
from mnistcnn.experiments.pairing import Pairing
from mnistcnn.experiments.statistics import McNemar
from mnistcnn.experiments.sweep_content import MAX_NAME, sweep_content
from mnistcnn.experiments.verdicts import COLUMNS, Pair, Verdicts
from mnistcnn.pages.render import shorten, write_page
from mnistcnn.pages.sprite import Sprite, pack_images
from mnistcnn.system.errors import format_error

log = logging.getLogger(__name__)

SCRIPTS = ["charts.js", "images.js", "groups.js", "comparison.js"]
MAX_PAIRS = 20  # whose images are on the page


def write_comparison_page(
    path: Path,
    pairing: Pairing,
    pairs: Sequence[Pair],
    verdicts: Verdicts,
    left_out: Sequence[str],
    images: DisagreementImages,
) -> None:
    """Write the page of a comparison. Raises WriteError."""
    content = sweep_content(pairing.groups, path.parent, pairing.directories)
    problem = ""
    try:
        sprite, disagreements = _disagreements(pairs[:MAX_PAIRS], images)
    except Exception as error:  # such as a test set that has moved
        log.debug("the page has no images", exc_info=True)
        sprite, disagreements, problem = None, [], format_error(error)
    data: dict[str, Any] = {
        "sections": {"groups": content.charts},
        "differences": [_difference(*each) for each in zip(pairs, verdicts.rows, strict=True)],
        "disagreements": disagreements,
        "classes": images.dataset.class_names if sprite else [],
        "sprite": sprite and sprite.layout | {"grey": images.dataset.test.pixels.ndim == 3},
    }
    write_page(
        path,
        "comparison.html",
        SCRIPTS,
        data,
        content=content,
        verdicts=verdicts,
        columns=COLUMNS,
        notes=[pairing.baseline_note.replace("`", ""), *pairing.notes],
        left_out=[line.removeprefix("- ") for line in left_out],
        sprite_url=sprite.url if sprite else "",
        has_seeds=any(row["seeds"] for row in data["differences"]),
        pair_names=[_pair_name(pair) for pair in pairs[:MAX_PAIRS]],
        more_pairs=max(0, len(pairs) - MAX_PAIRS),
        problem=problem,
    )


def _pair_name(pair: Pair) -> str:
    return f"{shorten(pair.names[1], MAX_NAME)} against {shorten(pair.names[0], MAX_NAME)}"


def _difference(pair: Pair, row: list[str]) -> dict[str, Any]:
    """Return the difference of a pair's test errors, with its interval and that of each seed."""
    result = pair.result
    *_, points, interval, p_value, verdict = row
    values: dict[str, Any] = {"name": _pair_name(pair), "value": None, "low": None, "high": None}
    if result is None:
        return values | {"seeds": [], "text": verdict}
    interval = f" ({interval})" if interval else ""
    low, high = result.ci95 or (None, None)
    is_single = isinstance(result, McNemar)
    return values | {
        "value": result.difference if isinstance(result, McNemar) else result.mean,
        "low": low,
        "high": high,
        "seeds": [] if is_single else _differences_by_seed(pair.a, pair.b),
        "text": f"{points}{interval}, p = {p_value}, {verdict.partition(':')[0]}",
    }


def _differences_by_seed(a: Group, b: Group) -> list[tuple[int, float]]:
    """Return (seed, test error of B - test error of A) for the seeds in common."""
    errors_a, errors_b = (
        dict(zip(group.seeds, group.values("test", "error").tolist(), strict=True))
        for group in (a, b)
    )
    return [(seed, errors_b[seed] - errors_a[seed]) for seed in errors_a if seed in errors_b]


def _disagreements(
    pairs: Sequence[Pair], images: DisagreementImages
) -> tuple[Sprite | None, list[dict[str, Any]]]:
    """Return the images of all pairs, and for each pair what its groups predict for them."""
    found = [images.of_pair(pair) for pair in pairs]
    indices = np.unique(np.concatenate([each.indices for each in found]))
    if not len(indices):
        return None, [{"images": [], "total": 0} for _ in pairs]
    sprite = pack_images(images.dataset.test.pixels.numpy()[indices])
    return sprite, [
        {
            "total": each.total,
            "images": [
                {
                    "position": int(np.searchsorted(indices, index)),
                    "index": int(index),
                    "label": int(images.labels[index]),
                    "predicted": [int(a.argmax()), int(b.argmax())],
                    "probability": [round(float(a.max()), 4), round(float(b.max()), 4)],
                }
                for index, a, b in zip(each.indices, each.a, each.b, strict=True)
            ],
        }
        for each in found
    ]
