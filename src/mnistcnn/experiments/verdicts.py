"""Phrase the results of comparisons: one paragraph for a pair, a table for several pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

from mnistcnn.experiments import statistics
from mnistcnn.experiments.documents import markdown_table
from mnistcnn.experiments.groups import Group
from mnistcnn.experiments.statistics import ALPHA, NO_INTERVAL, Interval, McNemar, Paired

NOT_SHOWN = "not shown"
COLUMNS = ["change", "from", "seeds", "test error, points", "95% interval", "p", "verdict"]


@dataclass(frozen=True)
class Pair:
    """Two groups with the same test set, and the result of their test, B minus A.

    ``result`` is None if the groups have no seed in common. ``seeds_needed`` is the result of
    :func:`statistics.seeds_needed`, or None for a McNemar test.
    """

    a: Group
    b: Group
    names: tuple[str, str]
    result: Paired | McNemar | None
    seeds_needed: int | None = None


@dataclass(frozen=True)
class Verdicts:
    """The results of tests in words: ``lead`` and a paragraph for one pair, a table for several.

    ``lead`` are the names of B and A, with which the first paragraph begins; None for a table.
    ``rows`` are those of the table, one per pair, also if there is only one pair.
    """

    rows: list[list[str]]
    paragraphs: list[str]
    lead: tuple[str, str] | None = None

    def markdown(self) -> list[str]:
        """Return paragraphs of Markdown."""
        if self.lead is None:
            return [markdown_table(COLUMNS, self.rows), *self.paragraphs]
        b, a = self.lead
        return [f"**{b}** against **{a}**: {' '.join(self.paragraphs)}"]


def verdicts(pairs: Sequence[Pair]) -> Verdicts:
    """Return sentences for one pair, a table and its explanation for several pairs.

    The p-values of several pairs are adjusted by Holm's method.
    """
    tested = [pair.result for pair in pairs if pair.result is not None]
    adjusted = iter(statistics.holm([result.p_value for result in tested]))
    p_values = [1.0 if pair.result is None else next(adjusted) for pair in pairs]
    min_seeds = statistics.min_seeds(len(tested)) if tested else 0
    rows = [_row(pair, p_value, min_seeds) for pair, p_value in zip(pairs, p_values, strict=True)]
    if len(pairs) == 1:
        return Verdicts(rows, [_sentences(pairs[0])], pairs[0].names[::-1])
    if not tested:
        return Verdicts(rows, [])
    paragraph = _tests_paragraph(len(tested))
    if any(result.ci95 is None for result in tested):
        paragraph += f" {NO_INTERVAL}"
    return Verdicts(rows, [paragraph])


def _tests_paragraph(comparisons: int) -> str:
    adjusted = f"p is adjusted for {comparisons} comparisons (Holm), the intervals are not. "
    return (
        f"{adjusted if comparisons > 1 else ''}"
        "Groups with several seeds in common are compared by the sign-flip test, which cannot show "
        "a difference with fewer than "
        f"{statistics.min_seeds(comparisons)} seeds at this number of comparisons. Single runs are "
        "compared by McNemar's exact test, which shows whether the two networks differ, but not "
        "whether other seeds would give the same result."
    )


def _row(pair: Pair, p_value: float, min_seeds: int) -> list[str]:
    result = pair.result
    if result is None:
        return [pair.names[1], pair.names[0], "0", "", "", "", "no seed in common"]
    is_single = isinstance(result, McNemar)
    difference = result.difference if isinstance(result, McNemar) else result.mean
    verdict = _verdict(difference, result.ci95, p_value, is_single)
    if verdict == NOT_SHOWN and pair.seeds_needed is not None:
        needed = max(pair.seeds_needed, result.n + 1, min_seeds)
        verdict += f": about {needed} seeds are needed"
    return [
        pair.names[1],
        pair.names[0],
        "1" if is_single else str(result.n),
        _points(difference),
        "" if result.ci95 is None else " to ".join(map(_points, result.ci95)),
        _format_p(p_value),
        verdict,
    ]


def _verdict(difference: float, interval: Interval | None, p_value: float, is_single: bool) -> str:
    """Return the verdict in a few words; ``is_single`` is true for two single runs."""
    if not statistics.is_significant(interval, p_value):
        return NOT_SHOWN
    if is_single:
        return "these two differ"
    return "helps" if difference < 0 else "harms"


def _sentences(pair: Pair) -> str:
    match pair.result:
        case None:
            return (
                "the two have no seed in common, so their runs cannot be paired. "
                "Run both with the same seeds."
            )
        case McNemar() as result:
            is_subset = len(pair.a.runs) + len(pair.b.runs) > 2
            prefix = "for the only seed in common, " if is_subset else ""
            return prefix + _mcnemar_sentences(result, *pair.names)
        case Paired() as result:
            return _paired_sentences(result, pair.seeds_needed)
    raise AssertionError(pair.result)


def _mcnemar_sentences(result: McNemar, name_a: str, name_b: str) -> str:
    verdict = _verdict(result.difference, result.ci95, result.p_value, is_single=True)
    sentence = "No difference is shown" if verdict == NOT_SHOWN else "These two networks differ"
    return (
        f"{_difference(result.difference, result.ci95, result.p_value)} (McNemar's exact test on "
        f"{result.n:,} test images: {result.only_a} correct only with {name_a}, {result.only_b} "
        f"correct only with {name_b}). {sentence}. One run of each does not show whether other "
        "seeds would give the same result; that takes at least six seeds of each."
    )


def _paired_sentences(result: Paired, seeds_needed: int | None) -> str:
    tests = "sign-flip test" if result.ci95 is None else "bootstrap interval, sign-flip test"
    text = (
        f"{_difference(result.mean, result.ci95, result.p_value)} (paired over the {result.n} "
        f"seeds in common: {tests}). "
    )
    verdict = _verdict(result.mean, result.ci95, result.p_value, is_single=False)
    if verdict != NOT_SHOWN:
        return text + f"It {verdict}."
    text += "No difference is shown."
    if result.ci95 is None:
        text += f" {NO_INTERVAL}"
    if result.min_p > ALPHA:
        text += f" With {result.n} seeds p cannot be below {result.min_p:.3g}."
    if result.mean == 0:
        return text + " The mean difference is zero."
    if seeds_needed is None:
        return text + " Showing a difference this small would take more than 10,000 seeds."
    needed = max(seeds_needed, result.n + 1)
    return text + f" Showing a difference of this size would take about {needed} seeds."


def _difference(difference: float, interval: Interval | None, p_value: float) -> str:
    text = f"test error {_points(difference)} points"
    if interval is not None:
        low, high = interval
        text += f" (95% interval {_points(low)} to {_points(high)})"
    return f"{text}, p = {_format_p(p_value)}"


def _points(value: float) -> str:
    """Format a difference in percentage points, with its sign; zero is never ``-0.000``."""
    return f"{round(100 * value, 3) + 0.0:+.3f}"


def _format_p(value: float) -> str:
    return f"{value:.3g}" if value >= 1e-99 else "below 1e-99"
