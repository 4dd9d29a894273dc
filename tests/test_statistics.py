"""Against statsmodels, against scipy used otherwise, and by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import permutation_test, ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from mnistcnn.statistics import Mean, holm, mcnemar, mean_interval, paired_difference, seeds_needed

# mean_interval


def test_mean_interval_by_hand():
    # mean 2, sd 1, t(0.975, 2) = 4.302653: 2 -+ 4.302653 / sqrt(3)
    of_three = mean_interval([1, 2, 3])
    assert (of_three.n, of_three.mean, of_three.sd) == (3, 2.0, 1.0)
    assert of_three.ci95 == pytest.approx((-0.484138, 4.484138), abs=1e-6)


def test_mean_interval_is_that_of_scipy():
    values = np.random.default_rng(1).normal(0.99, 0.001, 7)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    result = mean_interval(values)
    assert result.ci95 == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert result.sd == pytest.approx(np.std(values, ddof=1), rel=1e-9)


def test_one_value_has_no_spread():
    assert mean_interval([0.5]) == Mean(1, 0.5, None, None)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_identical_values_have_an_interval_of_no_width(n):
    # numpy's mean of three 0.1 is not 0.1
    assert mean_interval([0.1] * n) == Mean(n, 0.1, 0.0, (0.1, 0.1))


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(ValueError, match="finite numbers"):
        mean_interval(values)


# mcnemar


def outcomes(only_a: int, only_b: int, both: int = 0, neither: int = 0) -> tuple:
    table = [(True, False)] * only_a + [(False, True)] * only_b
    table += [(True, True)] * both + [(False, False)] * neither
    return tuple(np.array(table, dtype=bool).T)


def test_mcnemar_by_hand():
    # 7 discordant images, 1 of them A's: p = 2 (C(7,0) + C(7,1)) / 2^7 = 2 * 8 / 128
    result = mcnemar(*outcomes(1, 6, both=90, neither=3))
    assert (result.n, result.only_a, result.only_b) == (100, 1, 6)
    assert result.p_value == pytest.approx(0.125, rel=1e-12)
    assert result.difference == -0.05  # B is wrong 4 times in 100, A 9 times
    # Clopper-Pearson of 1 of 7: [0.003610, 0.578723], since 1 - (1 - 0.003610)^7 = 0.025 and
    # (1 - q)^7 + 7 q (1 - q)^6 = 0.025; the interval is (2 q - 1) 7 / 100 of these
    assert result.ci95 == pytest.approx((-0.0694946, 0.0110212), abs=1e-6)


def test_mcnemar_with_every_difference_on_one_side():
    # p = 2 / 2^6; Clopper-Pearson of 6 of 6 is [0.025^(1/6), 1]
    result = mcnemar(*outcomes(6, 0, both=4))
    assert result.p_value == pytest.approx(2 / 64, rel=1e-12)
    assert result.difference == 0.6
    assert result.ci95 == pytest.approx(((2 * 0.025 ** (1 / 6) - 1) * 0.6, 0.6), rel=1e-9)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 5), (3, 3), (12, 25), (60, 41), (150, 100)])
def test_mcnemar_is_that_of_statsmodels(only_a, only_b):
    result = mcnemar(*outcomes(only_a, only_b, both=300, neither=9))
    expected = statsmodels_mcnemar([[300, only_a], [only_b, 9]], exact=True).pvalue
    assert result.p_value == pytest.approx(expected, rel=1e-9)


def test_mcnemar_is_the_other_way_round_with_a_and_b_exchanged():
    a, b = outcomes(4, 13, both=50)
    one, other = mcnemar(a, b), mcnemar(b, a)
    assert one.p_value == pytest.approx(other.p_value, rel=1e-12)
    assert one.difference == -other.difference
    assert one.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]), rel=1e-9)


def test_the_interval_of_mcnemar_excludes_zero_exactly_where_p_is_below_one_in_twenty():
    excluded = 0
    for discordant in range(1, 31):
        for only_a in range(discordant + 1):
            result = mcnemar(*outcomes(only_a, discordant - only_a))
            low, high = result.ci95
            assert -1 <= low <= result.difference <= high <= 1
            assert (low > 0 or high < 0) == (result.p_value < 0.05), (only_a, discordant)
            assert result.p_value != 0.05
            excluded += low > 0 or high < 0
    assert 100 < excluded < 495 - 100  # both answers were seen often


def test_networks_that_differ_nowhere():
    result = mcnemar(*outcomes(0, 0, both=5, neither=2))
    assert (result.p_value, result.difference, result.ci95) == (1.0, 0.0, (0.0, 0.0))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([True], [True, False]),
        ([], []),
        ([1, 0], [0, 1]),  # of digits and of counts ~ means something else
        ([[True]], [[True]]),
    ],
)
def test_mcnemar_wants_booleans_of_one_length(a, b):
    with pytest.raises(ValueError, match="boolean"):
        mcnemar(a, b)


# paired_difference


def of_differences(differences, **options):
    return paired_difference(np.zeros(len(differences)), differences, **options)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3], 2 / 8),  # only +++ and --- reach 6
        ([3, -1, 2], 4 / 8),  # +-(6, 4, 2, 0) are possible: 6 and 4 reach 4
        ([1, 1, 1, 1, 1, -1], 14 / 64),  # 6 in one way, 4 in six, and the same below zero
        ([1, -1], 1.0),
        ([0, 0, 0], 1.0),
        ([0, 0, 1], 1.0),
    ],
)
def test_sign_flips_by_hand(differences, p):
    assert of_differences(differences).p_value == p


def test_rounding_does_not_part_ties():
    # Six differences of one image in 10,000, five up and one down: 14 / 64, as above. In floating
    # point they differ by some 1e-16, and scipy alone misses some of the ties: 12 / 64.
    images = np.array([9857, 9851, 9867, 9931, 9914, 9941])
    signs = np.array([1, 1, 1, 1, 1, -1])
    a, b = images / 10_000, (images + signs) / 10_000
    alone = permutation_test((b - a,), np.mean, permutation_type="samples").pvalue
    assert alone < 14 / 64
    assert paired_difference(a, b).p_value == 14 / 64
    assert paired_difference(a[4:], b[4:]).p_value == 1.0


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_sign_flips_are_those_counted_one_by_one(scale):
    rng = np.random.default_rng(3)
    for n in (2, 5, 9):
        differences = rng.integers(-4, 8, n)
        patterns = np.array(list(itertools.product([1, -1], repeat=n)))
        reached = np.abs(patterns @ differences) >= abs(differences.sum())
        assert of_differences(differences * scale).p_value == reached.mean()


def test_many_seeds_are_flipped_at_random():
    differences = np.random.default_rng(4).normal(0.5, 1, 16)
    assert of_differences(differences, resamples=2**16).p_value == pytest.approx(
        of_differences(differences).p_value, abs=0.01
    )
    # no random pattern of 20 equal differences reaches the observed one, which counts itself
    result = of_differences([1.0] * 20)
    assert result.p_value == result.least_p == 2 / 10_000


def test_the_bootstrap_interval_by_hand():
    # The mean of four draws from 1..4. Of 256 the sum is 4 in 1, 5 in 4 and 6 in 10: 2.0% of them
    # are below 6 and 5.9% at most 6, so the 2.5% quantile is 6 / 4. Above it is the same.
    assert of_differences([1, 2, 3, 4]).ci95 == pytest.approx((1.5, 3.5), rel=1e-9)
    assert of_differences([-1, 3]).ci95 == pytest.approx((-1, 3), rel=1e-9)  # each has 1/4


def test_the_difference_is_b_minus_a():
    result = paired_difference([0.010, 0.012, 0.011], [0.009, 0.010, 0.010])
    assert result.n == 3
    assert result.mean == pytest.approx(-0.004 / 3, rel=1e-6)
    assert result.ci95 == pytest.approx((-0.002, -0.001), rel=1e-6)


def test_paired_difference_repeats_and_leaves_the_global_generator_alone():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 20))
    state = np.random.get_state()[1].copy()
    assert paired_difference(a, b) == paired_difference(a, b)
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("n", [2, 3, 5, 6, 10])
def test_identical_differences(n):
    result = paired_difference([0.98] * n, [0.99] * n)
    assert result.mean == pytest.approx(0.01, rel=1e-8)
    assert result.ci95 == (result.mean, result.mean)
    assert result.p_value == result.least_p == 2 / 2**n
    assert result.shown == (n >= 6)  # five seeds of five are p = 0.0625


def test_no_difference_at_all():
    result = paired_difference([0.98] * 6, [0.98] * 6)
    assert (result.mean, result.ci95, result.p_value, result.shown) == (0, (0, 0), 1, False)


def test_a_difference_is_shown_by_both_or_not_at_all():
    # the interval alone is not enough: five seeds that agree
    five = of_differences([1, 2, 3, 4, 5])
    assert five.ci95[0] > 0 and five.p_value == 2 / 32 and not five.shown
    assert of_differences([1, 2, 3, 4, 5, 6]).shown
    assert of_differences([-1, -2, -3, -4, -5, -6]).shown
    assert not of_differences([1, 2, 3, 4, 5, -6]).shown


@pytest.mark.parametrize("n", [6, 8])
def test_where_nothing_differs_little_is_shown(n):
    trials = 500
    noise = np.random.default_rng(n).normal(size=(2, trials, n))
    results = [paired_difference(a, b, resamples=300) for a, b in zip(*noise, strict=True)]
    limit = 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)
    assert 0.01 < np.mean([result.shown for result in results]) <= limit
    # what the test is for: the interval alone claims too much
    assert np.mean([result.ci95[0] > 0 or result.ci95[1] < 0 for result in results]) > limit


@pytest.mark.parametrize(
    ("a", "b"), [([1.0], [2.0]), ([1, 2], [1, 2, 3]), ([1, 2], [1, math.nan]), ([], [])]
)
def test_what_is_not_paired_is_refused(a, b):
    with pytest.raises(ValueError):
        paired_difference(a, b)


# seeds_needed


def spread_of(effect: float) -> np.ndarray:
    """Five differences whose mean is ``effect`` times their standard deviation."""
    values = np.array([-2.0, -1, 0, 1, 2])
    return values / values.std(ddof=1) + effect


@pytest.mark.parametrize("effect", [0.0285, 0.1, -0.5, 0.9, 1.3])
@pytest.mark.parametrize(("power", "level"), [(0.8, 0.05), (0.95, 0.05), (0.5, 0.2)])
def test_seeds_needed_is_the_sample_size_of_statsmodels(effect, power, level):
    exact = TTestPower().solve_power(abs(effect), power=power, alpha=level)
    fewest = math.ceil(1 + math.log2(1 / level))
    expected = None if exact > 10_000 else max(math.ceil(exact), fewest)
    assert seeds_needed(spread_of(effect), power, level) == expected


def test_seeds_needed_as_tables_have_it():
    # one-sample t-test, power 0.8, two-sided 0.05: d = 0.5 needs 34, d = 1 needs 10
    assert seeds_needed(spread_of(0.5)) == 34
    assert seeds_needed(spread_of(1.0)) == 10


def test_never_fewer_than_the_sign_flips_need():
    assert seeds_needed(spread_of(50)) == seeds_needed(spread_of(1e6)) == 6
    assert seeds_needed([0.1, 0.1, 0.1]) == 6
    assert seeds_needed([0.9911 - 0.991, 0.9904 - 0.9903]) == 6  # equal but for rounding
    assert seeds_needed([0.1, 0.1], level=0.01) == 8  # 2 / 2^8 = 0.0078
    assert seeds_needed([0.1, 0.1], level=2 / 2**6) == 6


def test_what_no_number_of_seeds_would_show():
    assert seeds_needed([0.0, 0.0]) is None
    assert seeds_needed([-1.0, 1.0]) is None
    assert seeds_needed(spread_of(0.01)) is None


def test_one_difference_has_no_spread():
    with pytest.raises(ValueError, match="at least 2"):
        seeds_needed([0.1])


# holm


def test_holm_by_hand():
    # 4 * 0.005 = 0.02, 3 * 0.01 = 0.03, 2 * 0.03 = 0.06, and 1 * 0.04 is raised to 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], rel=1e-12)
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_is_that_of_statsmodels():
    rng = np.random.default_rng(6)
    for n in (2, 5, 12):
        p = np.round(rng.uniform(0, 0.3, n), 2)  # with ties
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], rel=1e-12)
