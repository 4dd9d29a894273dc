"""Numbers of several runs to intervals, paired tests and how many seeds a claim needs.

Every interval is a pair (low, high) at 95%, every test is two-sided at 0.05, and every difference
is B minus A.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
LEVEL = 0.05

Interval = tuple[float, float]


@dataclass(frozen=True)
class Mean:
    """Mean of n values; ``sd`` (n - 1 in the divisor) and ``ci95`` are None where n is 1."""

    n: int
    mean: float
    sd: float | None
    ci95: Interval | None


def mean_interval(values: ArrayLike) -> Mean:
    """Mean of values (n,) with Student's t interval: mean -+ t(0.975, n - 1) sd / sqrt(n).

    Raises ValueError where there are no values, or where one is not finite.
    """
    from scipy.stats import t

    values = _finite(values, at_least=1)
    n = len(values)
    offsets = values - values[0]  # identical values so have a spread of exactly zero
    mean = float(values[0] + offsets.mean())
    if n == 1:
        return Mean(n, mean, None, None)
    sd = float(offsets.std(ddof=1))
    half_width = float(t.isf((1 - CONFIDENCE) / 2, n - 1)) * sd / math.sqrt(n)
    return Mean(n, mean, sd, (mean - half_width, mean + half_width))


@dataclass(frozen=True)
class McNemar:
    """Two networks on the same n images. ``difference`` is error B - error A, in [-1, 1]."""

    n: int
    only_a: int  # images that A alone has right
    only_b: int
    difference: float
    ci95: Interval
    p_value: float


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """McNemar's exact test: of the images that one network alone has right, are half A's?

    ``correct_a`` and ``correct_b`` are boolean (N,), of the same images in the same order.

    The interval of the difference takes the number of those (discordant) images as given: it is
    the Clopper-Pearson interval of A's share of them, scaled. It excludes zero exactly where
    p < 0.05. The two cannot part at p = 0.05 itself: p is 1 or k / 2^(discordant - 1) for a whole
    k, which never is 1/20. Without discordant images p is 1 and the interval (0, 0).

    Raises ValueError for arrays that are empty, not boolean, or of different shapes.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(correct_a), np.asarray(correct_b)
    if a.shape != b.shape or a.ndim != 1 or not a.size or (a.dtype, b.dtype) != (bool, bool):
        raise ValueError("two boolean arrays of the same images are needed")
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
    """The mean difference B - A over n seeds: see :func:`paired_difference`."""

    n: int
    mean: float
    ci95: Interval
    p_value: float
    least_p: float  # the smallest p-value that n seeds can give
    shown: bool


def shown(interval: Interval, p_value: float) -> bool:
    """Whether there is a difference: the interval excludes zero, and p <= 0.05."""
    low, high = interval
    return (low > 0 or high < 0) and p_value <= LEVEL


def fewest_seeds(comparisons: int = 1, level: float = LEVEL) -> int:
    """With how many the sign-flip test can give p <= level, times Holm's largest factor."""
    return math.ceil(1 - math.log2(level / comparisons))  # 2 / 2^n <= level / comparisons


def paired_difference(a: ArrayLike, b: ArrayLike, resamples: int = 9_999) -> Paired:
    """Is B different from A? One measure (S,) of each, for the same S >= 2 seeds in one order.

    ``ci95`` is the percentile bootstrap interval over seeds (BCa would estimate its corrections
    from a handful of values, and has none where all differences are equal). ``p_value`` is of the
    sign-flip permutation test of the mean: of all 2^S sign patterns where these are at most
    ``resamples``, of that many random ones otherwise. Both are seeded, so results repeat.

    A difference is ``shown`` where the interval excludes zero and p <= 0.05. Both are asked for:
    the bootstrap tells how large the difference is, but is too narrow with few seeds, by at least
    sqrt((S - 1) / S) (Hesterberg, The American Statistician 69, 2015); the sign-flip test tells no
    size, but holds its level exactly with any S if A and B are exchangeable within a seed. With
    fewer than six seeds it can show nothing: ``least_p`` is 2 / 2^S.

    Raises ValueError for fewer than two seeds, different shapes, or values that are not finite.
    """
    from scipy.stats import bootstrap, permutation_test

    a, b = _finite(a, at_least=2), _finite(b, at_least=2)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} values cannot be paired with {len(b)}")
    # Differences in whole steps of about 1e-10 of the largest value: subtracting leaves rounding
    # errors that part what is equal, and the test must count ties. Sums of integers are exact.
    largest = max(np.abs(a).max(), np.abs(b).max()) or 1.0
    step = 10.0 ** (math.floor(math.log10(largest)) - 10)
    steps = np.rint((b - a) / step).astype(np.int64)

    # scipy before 1.15 knows the generator by this name only
    options = {"n_resamples": resamples, "random_state": np.random.default_rng(0)}
    spread = bootstrap(
        (steps,), np.mean, confidence_level=CONFIDENCE, method="percentile", **options
    ).confidence_interval
    test = permutation_test((steps,), np.sum, permutation_type="samples", **options)
    low, high, p_value = float(spread.low * step), float(spread.high * step), float(test.pvalue)
    n = len(steps)
    return Paired(
        n=n,
        mean=float(steps.mean() * step),
        ci95=(low, high),
        p_value=p_value,
        least_p=2 / min(2**n, resamples + 1),  # drawn at random, the data count as one pattern
        shown=shown((low, high), p_value),
    )


def seeds_needed(differences: ArrayLike, power: float = 0.8, level: float = LEVEL) -> int | None:
    """How many seeds would show a mean difference like that of ``differences`` (S,), S >= 2.

    The smallest number with which a two-sided paired t-test at ``level`` has ``power``, both in
    ]0, 1[, if the true mean and standard deviation are those observed: its t squared is
    noncentral F(1, n - 1), with n (mean / sd)^2 (Cohen, Statistical Power Analysis, 1988). Never
    fewer than can give the sign-flip test p <= level, which is 6 for 0.05.

    None where the mean is zero or more than 10,000 seeds would be needed. A rough guide: the
    observed difference is itself uncertain, and too large where it was picked for being large.

    Raises ValueError for fewer than two differences, or one that is not finite.
    """
    from scipy.stats import f, ncf

    observed = mean_interval(_finite(differences, at_least=2))
    if observed.mean == 0:
        return None
    # equal differences may have no spread at all; with a thousandth, any n has the power
    effect = observed.mean / max(observed.sd, abs(observed.mean) / 1000)

    def power_with(n: int) -> float:
        return ncf.sf(f.isf(level, 1, n - 1), 1, n - 1, n * effect**2)

    fewest, most = fewest_seeds(level=level), 10_000
    n = bisect_left(range(most + 1), power, lo=fewest, key=power_with)
    return n if n <= most else None


def holm(p_values: ArrayLike) -> list[float]:
    """Holm's adjusted p-values, at most 1, in the order given (Scand. J. Statistics 6, 1979).

    Rejecting where they are at most 0.05 keeps the chance of any false rejection at 5%.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    # the smallest times m, the next times m - 1, ...; none below one that comes before it
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1.0).tolist()


def _finite(values: ArrayLike, at_least: int) -> np.ndarray:
    """(n,) float64, or ValueError."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < at_least or not np.isfinite(array).all():
        raise ValueError(f"a list of finite numbers is needed, at least {at_least} of them")
    return array
