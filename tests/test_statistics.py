"""Statistics, compared with statsmodels, other functions of scipy, and computations by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import permutation_test, ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from mnistcnn.experiments.statistics import (
    Mean,
    Paired,
    holm,
    is_significant,
    mcnemar,
    mean_interval,
    paired_difference,
    seeds_needed,
)

# mean_interval


def test_mean_interval_by_hand():
    # mean 2, sd 1, t(0.975, 2) = 4.302653: 2 -+ 4.302653 / sqrt(3)
    result = mean_interval([1, 2, 3])
    assert (result.n, result.mean, result.sd) == (3, 2.0, 1.0)
    assert result.ci95 == pytest.approx((-0.484138, 4.484138), abs=1e-6)


def test_mean_interval_equals_scipy():
    values = np.random.default_rng(1).normal(0.99, 0.001, 7)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    result = mean_interval(values)
    assert result.ci95 == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert result.sd == pytest.approx(np.std(values, ddof=1), rel=1e-9)


def test_mean_interval_of_one_value_has_no_sd():
    assert mean_interval([0.5]) == Mean(1, 0.5, None, None)


def test_two_values_have_an_sd_but_no_interval():
    assert mean_interval([0.25, 0.75]) == Mean(2, 0.5, pytest.approx(0.5**0.5 / 2), None)
    result = paired_difference([0.5, 0.5], [0.25, 0.75])
    assert (result.mean, result.ci95, result.p_value) == (0, None, 1)
    assert not is_significant(None, 0.01)


@pytest.mark.parametrize("n", [3, 7])
def test_mean_interval_of_identical_values_has_zero_width(n):
    # numpy's mean of three 0.1 is not 0.1
    assert mean_interval([0.1] * n) == Mean(n, 0.1, 0.0, (0.1, 0.1))


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_mean_interval_rejects_invalid_values(values):
    with pytest.raises(ValueError, match="finite numbers"):
        mean_interval(values)


# mcnemar


def outcomes(only_a: int, only_b: int, both: int = 0, neither: int = 0) -> tuple:
    table = [(True, False)] * only_a + [(False, True)] * only_b
    table += [(True, True)] * both + [(False, False)] * neither
    return tuple(np.array(table, dtype=bool).T)


def test_mcnemar_by_hand():
    # 7 discordant images, 1 of them correct with A: p = 2 (C(7,0) + C(7,1)) / 2^7 = 2 * 8 / 128
    result = mcnemar(*outcomes(1, 6, both=90, neither=3))
    assert (result.n, result.only_a, result.only_b) == (100, 1, 6)
    assert result.p_value == pytest.approx(0.125, rel=1e-12)
    assert result.difference == -0.05  # B is wrong 4 times in 100, A 9 times
    # Clopper-Pearson of 1 of 7: [0.003610, 0.578723], since 1 - (1 - 0.003610)^7 = 0.025 and
    # (1 - q)^7 + 7 q (1 - q)^6 = 0.025; the interval is (2 q - 1) 7 / 100 of these
    assert result.ci95 == pytest.approx((-0.0694946, 0.0110212), abs=1e-6)


def test_mcnemar_if_one_network_is_never_worse():
    # p = 2 / 2^6; Clopper-Pearson of 6 of 6 is [0.025^(1/6), 1]
    result = mcnemar(*outcomes(6, 0, both=4))
    assert result.p_value == pytest.approx(2 / 64, rel=1e-12)
    assert result.difference == 0.6
    assert result.ci95 == pytest.approx(((2 * 0.025 ** (1 / 6) - 1) * 0.6, 0.6), rel=1e-9)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 5), (3, 3), (12, 25), (60, 41), (150, 100)])
def test_mcnemar_equals_statsmodels(only_a, only_b):
    result = mcnemar(*outcomes(only_a, only_b, both=300, neither=9))
    expected = statsmodels_mcnemar([[300, only_a], [only_b, 9]], exact=True).pvalue
    assert result.p_value == pytest.approx(expected, rel=1e-9)


def test_mcnemar_is_antisymmetric():
    a, b = outcomes(4, 13, both=50)
    result, exchanged = mcnemar(a, b), mcnemar(b, a)
    assert result.p_value == pytest.approx(exchanged.p_value, rel=1e-12)
    assert result.difference == -exchanged.difference
    assert result.ci95 == pytest.approx((-exchanged.ci95[1], -exchanged.ci95[0]), rel=1e-9)


def test_mcnemar_interval_excludes_zero_if_and_only_if_p_is_below_5_percent():
    excluded = 0
    for discordant in range(1, 31):
        for only_a in range(discordant + 1):
            result = mcnemar(*outcomes(only_a, discordant - only_a))
            low, high = result.ci95
            assert -1 <= low <= result.difference <= high <= 1
            assert (low > 0 or high < 0) == (result.p_value < 0.05), (only_a, discordant)
            assert result.p_value != 0.05
            excluded += low > 0 or high < 0
    assert 100 < excluded < 495 - 100  # both cases occur often


def test_mcnemar_without_discordant_images():
    result = mcnemar(*outcomes(0, 0, both=5, neither=2))
    assert (result.p_value, result.difference, result.ci95) == (1.0, 0.0, (0.0, 0.0))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([True], [True, False]),
        ([], []),
        ([1, 0], [0, 1]),  # integers, for which ~ is not a logical not
        ([[True]], [[True]]),
    ],
)
def test_mcnemar_rejects_arrays_that_are_not_boolean_or_differ_in_length(a, b):
    with pytest.raises(ValueError, match="boolean"):
        mcnemar(a, b)


# paired_difference


def significant(result: Paired) -> bool:
    return is_significant(result.ci95, result.p_value)


def paired_with_zero(differences, **options):
    """Test differences from zero: A is zero for every seed, and B the difference."""
    return paired_difference(np.zeros(len(differences)), differences, **options)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3], 2 / 8),  # only +++ and --- give 6 or -6
        ([3, -1, 2], 4 / 8),  # of the sums 6, 4, 2, 0 and their negatives, +-6 and +-4
        ([1, 1, 1, 1, 1, -1], 14 / 64),  # +-6 in one pattern each, +-4 in six each
        ([1, -1], 1.0),
        ([0, 0, 0], 1.0),
        ([0, 0, 1], 1.0),
    ],
)
def test_sign_flip_test_by_hand(differences, p):
    assert paired_with_zero(differences).p_value == p


def test_rounding_errors_do_not_break_ties():
    # Six differences of one image in 10,000, five positive and one negative: 14 / 64, as above. In
    # floating point they differ by about 1e-16, and scipy by itself misses some ties: 12 / 64.
    images = np.array([9857, 9851, 9867, 9931, 9914, 9941])
    signs = np.array([1, 1, 1, 1, 1, -1])
    a, b = images / 10_000, (images + signs) / 10_000
    scipy_p = permutation_test((b - a,), np.mean, permutation_type="samples").pvalue
    assert scipy_p < 14 / 64
    assert paired_difference(a, b).p_value == 14 / 64
    assert paired_difference(a[4:], b[4:]).p_value == 1.0


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_sign_flip_test_equals_an_enumeration_of_all_patterns(scale):
    rng = np.random.default_rng(3)
    for n in (2, 5, 9):
        differences = rng.integers(-4, 8, n)
        patterns = np.array(list(itertools.product([1, -1], repeat=n)))
        as_extreme = np.abs(patterns @ differences) >= abs(differences.sum())
        assert paired_with_zero(differences * scale).p_value == as_extreme.mean()


def test_sign_patterns_of_many_seeds_are_sampled():
    differences = np.random.default_rng(4).normal(0.5, 1, 16)
    assert paired_with_zero(differences, resamples=2**16).p_value == pytest.approx(
        paired_with_zero(differences).p_value, abs=0.01
    )
    # no random pattern of 20 equal differences is as extreme as the observed one, which is counted
    result = paired_with_zero([1.0] * 20)
    assert result.p_value == result.min_p == 2 / 10_000


def test_bootstrap_interval_by_hand():
    # The mean of four draws from 1..4. Of the 256 samples, 1 has the sum 4, 4 have 5 and 10 have 6:
    # 2.0% are below 6 and 5.9% at most 6, hence the 2.5% quantile is 6 / 4. The upper end is
    # symmetric.
    assert paired_with_zero([1, 2, 3, 4]).ci95 == pytest.approx((1.5, 3.5), rel=1e-9)
    # the means -1 and 3 have a probability of 1/27 each
    assert paired_with_zero([-1, 1, 3]).ci95 == pytest.approx((-1, 3), rel=1e-9)


def test_difference_is_b_minus_a():
    result = paired_difference([0.010, 0.012, 0.011], [0.009, 0.010, 0.010])
    assert result.n == 3
    assert result.mean == pytest.approx(-0.004 / 3, rel=1e-6)
    assert result.ci95 == pytest.approx((-0.002, -0.001), rel=1e-6)


def test_paired_difference_is_reproducible_and_does_not_use_the_global_generator():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 20))
    state = np.random.get_state()[1].copy()
    assert paired_difference(a, b) == paired_difference(a, b)
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("n", [3, 5, 6, 10])
def test_identical_differences(n):
    result = paired_difference([0.98] * n, [0.99] * n)
    assert result.mean == pytest.approx(0.01, rel=1e-8)
    assert result.ci95 == (result.mean, result.mean)
    assert result.p_value == result.min_p == 2 / 2**n
    assert significant(result) == (n >= 6)  # p = 0.0625 for five seeds


def test_zero_differences():
    result = paired_difference([0.98] * 6, [0.98] * 6)
    assert (result.mean, result.ci95, result.p_value) == (0, (0, 0), 1)
    assert not significant(result)


def test_significance_requires_the_interval_and_the_p_value():
    # with five seeds of the same sign the interval excludes zero, but p is too large
    five = paired_with_zero([1, 2, 3, 4, 5])
    assert five.ci95[0] > 0 and five.p_value == 2 / 32 and not significant(five)
    assert significant(paired_with_zero([1, 2, 3, 4, 5, 6]))
    assert significant(paired_with_zero([-1, -2, -3, -4, -5, -6]))
    assert not significant(paired_with_zero([1, 2, 3, 4, 5, -6]))


@pytest.mark.parametrize("n", [6, 8])
def test_false_positives_are_at_most_5_percent(n):
    trials = 500
    noise = np.random.default_rng(n).normal(size=(2, trials, n))
    results = [paired_difference(a, b, resamples=300) for a, b in zip(*noise, strict=True)]
    limit = 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)
    assert 0.01 < np.mean([significant(result) for result in results]) <= limit
    # the interval alone would give too many, hence the additional test
    assert np.mean([result.ci95[0] > 0 or result.ci95[1] < 0 for result in results]) > limit


@pytest.mark.parametrize(
    ("a", "b"), [([1.0], [2.0]), ([1, 2], [1, 2, 3]), ([1, 2], [1, math.nan]), ([], [])]
)
def test_paired_difference_rejects_invalid_values(a, b):
    with pytest.raises(ValueError, match=r"expected a list|cannot be paired"):
        paired_difference(a, b)


# seeds_needed


def differences_with(effect: float) -> np.ndarray:
    """Return five differences whose mean is ``effect`` times their standard deviation."""
    values = np.array([-2.0, -1, 0, 1, 2])
    return values / values.std(ddof=1) + effect


@pytest.mark.parametrize("effect", [0.0285, 0.1, -0.5, 0.9, 1.3])
@pytest.mark.parametrize(("power", "level"), [(0.8, 0.05), (0.95, 0.05), (0.5, 0.2)])
def test_seeds_needed_equals_the_sample_size_of_statsmodels(effect, power, level):
    exact = TTestPower().solve_power(abs(effect), power=power, alpha=level)
    fewest = math.ceil(1 + math.log2(1 / level))
    expected = None if exact > 10_000 else max(math.ceil(exact), fewest)
    assert seeds_needed(differences_with(effect), power, level) == expected


def test_seeds_needed_equals_published_tables():
    # one-sample t-test, power 0.8, two-sided 0.05: d = 0.5 needs 34, d = 1 needs 10
    assert seeds_needed(differences_with(0.5)) == 34
    assert seeds_needed(differences_with(1.0)) == 10


def test_seeds_needed_is_at_least_the_minimum_of_the_sign_flip_test():
    assert seeds_needed(differences_with(50)) == seeds_needed(differences_with(1e6)) == 6
    assert seeds_needed([0.1, 0.1, 0.1]) == 6
    assert seeds_needed([0.9911 - 0.991, 0.9904 - 0.9903]) == 6  # equal except for rounding
    assert seeds_needed([0.1, 0.1], level=0.01) == 8  # 2 / 2^8 = 0.0078
    assert seeds_needed([0.1, 0.1], level=2 / 2**6) == 6


def test_seeds_needed_is_none_if_no_number_of_seeds_is_enough():
    assert seeds_needed([0.0, 0.0]) is None
    assert seeds_needed([-1.0, 1.0]) is None
    assert seeds_needed(differences_with(0.01)) is None


def test_seeds_needed_rejects_a_single_difference():
    with pytest.raises(ValueError, match="at least 2"):
        seeds_needed([0.1])


# holm


def test_holm_by_hand():
    # 4 * 0.005 = 0.02, 3 * 0.01 = 0.03, 2 * 0.03 = 0.06, and 1 * 0.04 is raised to 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], rel=1e-12)
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_equals_statsmodels():
    rng = np.random.default_rng(6)
    for n in (2, 5, 12):
        p = np.round(rng.uniform(0, 0.3, n), 2)  # with ties
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], rel=1e-12)
