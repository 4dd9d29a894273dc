"""Compute statistics of several runs: confidence intervals, paired tests and the seeds needed.

All intervals are pairs (low, high) at 95%, all tests are two-sided at 0.05, and all differences
are B minus A.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
ALPHA = 0.05
MIN_INTERVAL_SEEDS = 3  # with two, Student's t interval is nine times the standard deviation
NO_INTERVAL = "There is no interval for fewer than three seeds."

Interval = tuple[float, float]


@dataclass(frozen=True)
class Mean:
    """Mean of n values; ``sd`` (n - 1 in the divisor) is None if n is 1, ``ci95`` if n < 3."""

    n: int
    mean: float
    sd: float | None
    ci95: Interval | None


def mean_interval(values: ArrayLike) -> Mean:
    """Return the mean of values (n,) with Student's t interval.

    The interval is mean ± t(0.975, n - 1) sd / sqrt(n), and None if n < MIN_INTERVAL_SEEDS.

    Raises ValueError if there are no values, or if a value is not finite.
    """
    from scipy.stats import t

    values = _finite(values, at_least=1)
    n = len(values)
    offsets = values - values[0]  # exactly zero for identical values, and so is their sd
    mean = float(values[0] + offsets.mean())
    if n == 1:
        return Mean(n, mean, None, None)
    sd = float(offsets.std(ddof=1))
    if n < MIN_INTERVAL_SEEDS:
        return Mean(n, mean, sd, None)
    half_width = float(t.isf((1 - CONFIDENCE) / 2, n - 1)) * sd / math.sqrt(n)
    return Mean(n, mean, sd, (mean - half_width, mean + half_width))


def format_percent(mean: Mean, with_interval: bool = False) -> str:
    """Format mean, standard deviation and 95% interval: ``97.44 ± 0.18 (97.21 to 97.66)``."""
    text = f"{100 * mean.mean:.2f}"
    if mean.sd is not None:
        text += f" ± {100 * mean.sd:.2f}"
    if with_interval and mean.ci95 is not None:
        low, high = mean.ci95
        text += f" ({100 * low:.2f} to {100 * high:.2f})"
    return text


@dataclass(frozen=True)
class McNemar:
    """The result of McNemar's test of two networks on the same n images.

    ``difference`` is error B - error A, in [-1, 1].
    """

    n: int
    only_a: int  # images that only A classifies correctly
    only_b: int
    difference: float
    ci95: Interval
    p_value: float


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """Run McNemar's exact test of two networks on the same images.

    ``correct_a`` and ``correct_b`` are boolean (N,), for the same images in the same order. The
    null hypothesis: of the images that exactly one network classifies correctly (discordant), each
    network has half.

    The interval of the difference is conditional on the number of discordant images: the
    Clopper-Pearson interval of A's share of them, scaled. It excludes zero if and only if
    p < 0.05; p = 0.05 itself cannot occur, because p is 1 or k / 2^(discordant - 1) for an integer
    k. Without discordant images, p is 1 and the interval is (0, 0).

    Raises ValueError if the arrays are empty, not boolean, or of different shapes.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(correct_a), np.asarray(correct_b)
    if a.shape != b.shape or a.ndim != 1 or not a.size or not a.dtype == b.dtype == bool:
        raise ValueError("expected two non-empty boolean arrays of the same length")
    n, only_a, only_b = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    if not discordant:
        return McNemar(n, 0, 0, 0.0, (0.0, 0.0), 1.0)
    test = binomtest(only_a, discordant)
    share = test.proportion_ci(CONFIDENCE, method="exact")
    low, high = (float(2 * limit - 1) * discordant / n for limit in (share.low, share.high))
    return McNemar(n, only_a, only_b, (only_a - only_b) / n, (low, high), float(test.pvalue))


@dataclass(frozen=True)
class Paired:
    """The mean difference B - A over n seeds; see :func:`paired_difference`."""

    n: int
    mean: float
    ci95: Interval | None
    p_value: float
    min_p: float  # the smallest p-value that is possible with n seeds


def is_significant(interval: Interval | None, p_value: float) -> bool:
    """Return whether there is an interval that excludes zero, and p <= 0.05."""
    if interval is None:
        return False
    low, high = interval
    return (low > 0 or high < 0) and p_value <= ALPHA


def min_seeds(comparisons: int = 1, level: float = ALPHA) -> int:
    """Return the smallest number of seeds with which the sign-flip test can reach p <= level.

    With several comparisons, p is multiplied by Holm's largest factor, their number.
    """
    return math.ceil(1 - math.log2(level / comparisons))  # 2 / 2^n <= level / comparisons


def paired_difference(a: ArrayLike, b: ArrayLike, resamples: int = 9_999) -> Paired:
    """Test whether B differs from A, given one value (S,) of each for the same S >= 2 seeds.

    ``ci95`` is the percentile bootstrap interval over seeds, and None if S < MIN_INTERVAL_SEEDS.
    (BCa would estimate its corrections from a handful of values, and is undefined if all
    differences are equal.) ``p_value`` is that of the sign-flip permutation test of the mean, over
    all 2^S sign patterns, or over ``resamples`` random ones if there are more. Both have fixed
    seeds, so that results are reproducible.

    :func:`is_significant` needs both: the interval excludes zero, and p <= 0.05. The bootstrap
    estimates the size of the difference, but with few seeds its interval is too narrow by a factor
    of at least sqrt((S - 1) / S) (Hesterberg, The American Statistician 69, 2015). The sign-flip
    test estimates no size, but has exactly its nominal level for any S if A and B are exchangeable
    within a seed. With fewer than six seeds it cannot be significant: ``min_p`` is 2 / 2^S.

    Raises ValueError if there are fewer than two seeds, shapes differ, or a value is not finite.
    """
    from scipy.stats import bootstrap, permutation_test

    a, b = _finite(a, at_least=2), _finite(b, at_least=2)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} values cannot be paired with {len(b)}")
    # Round the differences to integer multiples of about 1e-10 of the largest value: the rounding
    # errors of the subtraction would break ties, which the test must count. Integer sums are exact.
    largest = max(np.abs(a).max(), np.abs(b).max()) or 1.0
    step = 10.0 ** (math.floor(math.log10(largest)) - 10)
    steps = np.rint((b - a) / step).astype(np.int64)

    # scipy before 1.15 has no other name for the argument ``random_state``
    options: dict[str, Any] = {"n_resamples": resamples, "random_state": np.random.default_rng(0)}
    ci95 = None
    if len(steps) >= MIN_INTERVAL_SEEDS:
        interval = bootstrap(
            (steps,), np.mean, confidence_level=CONFIDENCE, method="percentile", **options
        ).confidence_interval
        ci95 = (float(interval.low * step), float(interval.high * step))
    test = permutation_test((steps,), np.sum, permutation_type="samples", **options)
    p_value = float(test.pvalue)
    n = len(steps)
    return Paired(
        n=n,
        mean=float(steps.mean() * step),
        ci95=ci95,
        p_value=p_value,
        min_p=2 / min(2**n, resamples + 1),  # the observed pattern is added to the random ones
    )


def seeds_needed(differences: ArrayLike, power: float = 0.8, level: float = ALPHA) -> int | None:
    """Return the number of seeds needed to show a mean difference like that of ``differences``.

    ``differences`` are (S,), S >= 2. The result is the smallest n for which a two-sided paired
    t-test at ``level`` has ``power``, both in (0, 1), if the true mean and standard deviation are
    the observed ones: t squared is then noncentral F(1, n - 1) with noncentrality n (mean / sd)^2
    (Cohen, Statistical Power Analysis, 1988). It is at least the number of seeds with which the
    sign-flip test can reach p <= level, 6 for 0.05.

    Return None if the mean is zero or more than 10,000 seeds would be needed. The result is a rough
    guide: the observed difference is itself uncertain, and biased upwards if it was selected for
    being large.

    Raises ValueError if there are fewer than two differences, or if one is not finite.
    """
    from scipy.stats import f, ncf

    observed = mean_interval(_finite(differences, at_least=2))
    if observed.mean == 0:
        return None
    assert observed.sd is not None  # there are at least two differences
    # The sd of equal differences is zero; with a thousandth of the mean, any n has the power.
    effect = observed.mean / max(observed.sd, abs(observed.mean) / 1000)

    def power_with(n: int) -> float:
        return float(ncf.sf(f.isf(level, 1, n - 1), 1, n - 1, n * effect**2))

    fewest, most = min_seeds(level=level), 10_000
    n = bisect_left(range(most + 1), power, lo=fewest, key=power_with)
    return n if n <= most else None


def holm(p_values: ArrayLike) -> list[float]:
    """Return Holm's adjusted p-values, at most 1, in the given order (Scand. J. Stat. 6, 1979).

    Rejecting the hypotheses with p <= 0.05 keeps the probability of any false rejection at 5%.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    # the smallest times m, the next times m - 1, ..., each at least the one before it
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1.0).tolist()


def _finite(values: ArrayLike, at_least: int) -> np.ndarray:
    """Return values as float64 (n,). Raises ValueError if they are too few or not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < at_least or not np.isfinite(array).all():
        raise ValueError(f"expected a list of at least {at_least} finite numbers")
    return array
