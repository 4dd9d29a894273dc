"""Choose which groups of runs are compared, which one is the baseline, and how they are named."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mnistcnn.experiments.groups import (
    Group,
    group_key,
    group_runs,
    label,
    matches,
    typed_key,
    varying_keys,
)
from mnistcnn.experiments.sweep_file import NOT_TYPED, Position
from mnistcnn.runs.store import Run
from mnistcnn.system.errors import UsageError

MAX_CHOICES = 12  # groups that an error names


@dataclass(frozen=True)
class Collection:
    """The usable runs below a directory, in the order as typed; ``name`` is short and unique.

    ``positions`` are the positions of the groups by which the runs are sorted. Runs that are not
    usable count for these.
    """

    path: Path
    name: str
    runs: list[Run]
    positions: dict[str, Position]


@dataclass(frozen=True)
class NamedPair:
    """A baseline, another group, and the names that tell the two apart."""

    a: Group
    b: Group
    names: tuple[str, str]


@dataclass(frozen=True)
class Pairing:
    """What is compared: ``groups`` by their unique names, baselines first, and ``pairs`` of them.

    ``directories`` has the directory of each group, or is empty if runs of several directories form
    groups. ``baseline_note`` says which group is the baseline and why, and ``notes`` which groups
    are left out.
    """

    groups: dict[str, Group]
    pairs: list[NamedPair]
    baseline_note: str
    directories: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def pair_groups(collections: Sequence[Collection], baseline: str | None) -> Pairing:
    """Pair each group with its baseline; there is at least one pair.

    Runs that differ only in their seeds form a group, also across collections; the baseline is the
    group that ``baseline`` describes, for example ``aug=none``, by default the first group of the
    first collection. But if a run occurs in two collections, for example before and after a change
    of the code, each collection has its own groups, and the baseline of a group is the group with
    the same settings in the first collection; ``baseline`` then names another collection.

    Raises UsageError if there is nothing to compare, or if ``baseline`` is not valid.
    """
    collections = [each for each in collections if each.runs]
    key = _directory_key(collections)
    identities = [{(key(run), run.seed) for run in collection.runs} for collection in collections]
    if sum(map(len, identities)) > len(set().union(*identities)):
        return _pair_directories(collections, baseline, key)
    return _pair_settings(collections, baseline)


def _directory_key(collections: Sequence[Collection]) -> Callable[[Run], str]:
    """Return the function whose result is equal for runs of the same group in two directories.

    ``precision=auto`` may have chosen differently for the same command on another device.
    """
    for collection in collections:
        if len(set(map(group_key, collection.runs))) > len(set(map(typed_key, collection.runs))):
            return group_key
    return typed_key


# Groups across directories -----------------------------------------------------------------------


def _pair_settings(collections: Sequence[Collection], baseline: str | None) -> Pairing:
    runs = [run for collection in collections for run in collection.runs]
    groups = [Group([run]) for run in runs] if len(runs) == 2 else group_runs(runs)
    if len(groups) < 2:
        raise UsageError("these runs differ only in their seeds: there is nothing to compare")
    named = _name_groups(groups)
    if baseline is None:
        why = f"{_why_first(groups, collections)}; `--baseline` selects another"
    else:
        selected = _select_baseline(named, baseline)
        named = {selected: named[selected], **named}
        why = "selected by `--baseline`"
    first, *others = named.values()
    pairs = [
        NamedPair(first, other, names)
        for other, names in zip(others, _pair_names(first, others), strict=True)
    ]
    return Pairing(named, pairs, f"Baseline: {next(iter(named))}, {why}.")


def _name_groups(groups: Sequence[Group]) -> dict[str, Group]:
    """Name groups by their varying settings, or by their directories if none varies."""
    if keys := _differing_keys(groups):
        return {label(group.settings, keys): group for group in groups}
    names = short_names([group.runs[0].path for group in groups])
    return dict(zip(names, groups, strict=True))


def _why_first(groups: Sequence[Group], collections: Sequence[Collection]) -> str:
    """Return why the first of these groups is the baseline."""
    collection = collections[0]
    reason = f"of the first directory, {collection.name}"
    candidates = [group for group in groups if _is_in(group, collection)]
    if len(candidates) == 1:
        return reason
    why = _why_before_others(candidates, collection.positions)
    return why if len(collections) == 1 else f"{reason}, {why} there"


def _why_before_others(groups: Sequence[Group], positions: dict[str, Position]) -> str:
    """Return why the first of at least two groups of a directory comes before the others."""
    keys = [group_key(group.runs[0]) for group in groups]
    if keys[0] == keys[1] and groups[0].seeds != groups[1].seeds:
        return "the lower seed"
    first, *others = (positions[key] for key in keys)
    second = others[0]
    if first.sweep == second.sweep and first.values != second.values:
        pairs = zip(first.values, second.values, strict=True)
        index = next(a for a, b in pairs if a != b)
        return "the default" if index == NOT_TYPED else "which was typed first"
    if (first.sweep_start, first.start) == (second.sweep_start, second.start):
        return "the first in the order of the directories' names"
    if first.start < min(other.start for other in others):
        return "which was started first"
    return "of the sweep that was started first"


def _is_in(group: Group, collection: Collection) -> bool:
    return any(run.path == each.path for run in group.runs for each in collection.runs)


def _select_baseline(groups: dict[str, Group], baseline: str) -> str:
    """Return the name of the only group that matches. Raises UsageError if there is none.

    ``baseline`` is such a name, which may be that of a directory, or the values of some settings.
    """
    if baseline in groups:
        return baseline
    matching = [name for name, group in groups.items() if matches(group.settings, baseline.split())]
    if len(matching) == 1:
        return matching[0]
    raise UsageError(
        f"--baseline={baseline!r} matches {len(matching) or 'none'} of the {len(groups)} groups: "
        f"choose one of {_list_choices(matching or list(groups))}"
    )


def _list_choices(names: Sequence[str]) -> str:
    text = ", ".join(repr(name) if " " in name else name for name in names[:MAX_CHOICES])
    return text + (f" and {len(names) - MAX_CHOICES} more" if len(names) > MAX_CHOICES else "")


def _pair_names(baseline: Group, others: Sequence[Group]) -> list[tuple[str, str]]:
    """Name the baseline and each other group by the settings in which they differ.

    If several of the others would get the same name, the settings in which these differ are added.
    """
    keys = [_differing_keys([baseline, other]) for other in others]
    same_name: dict[str, list[int]] = {}
    for index, other in enumerate(others):
        same_name.setdefault(label(other.settings, keys[index]), []).append(index)
    for indices in same_name.values():
        if len(indices) > 1:
            extra = _differing_keys([others[index] for index in indices])
            for index in indices:
                keys[index] += [key for key in extra if key not in keys[index]]
    return [_names_by(baseline, other, used) for other, used in zip(others, keys, strict=True)]


def _names_by(a: Group, b: Group, keys: Sequence[str]) -> tuple[str, str]:
    """Name two groups by these settings, or by their directories if there are none."""
    if keys:
        return label(a.settings, keys), label(b.settings, keys)
    name_a, name_b = _name_groups([a, b])
    return name_a, name_b


def _differing_keys(groups: Sequence[Group]) -> list[str]:
    """Return the varying settings; the seed is included for two single runs only."""
    runs = [run for group in groups for run in group.runs]
    return [key for key in varying_keys(runs) if key != "seed" or len(runs) == 2]


# Each directory with its own groups --------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A group of a directory, and the settings by which groups of directories are paired."""

    directory: str
    name: str
    key: str
    group: Group


def _pair_directories(
    collections: Sequence[Collection], baseline: str | None, key: Callable[[Run], str]
) -> Pairing:
    first, *others = _first_directory(collections, baseline)
    keys = [
        key
        for key in varying_keys(run for each in collections for run in each.runs)
        if key != "seed"
    ]
    baselines = {entry.key: entry for entry in _entries(first, key, keys)}
    entries = [
        *baselines.values(),
        *(entry for each in others for entry in _entries(each, key, keys, list(baselines))),
    ]
    # a single group is also the baseline of groups with other settings
    fallback = next(iter(baselines.values())) if len(baselines) == 1 else None
    pairs = [
        (a, b)
        for b in entries[len(baselines) :]
        if (a := baselines.get(b.key, fallback)) is not None
    ]
    if not pairs:
        raise UsageError(
            f"no other directory has runs with the settings of a run in {first.name}: "
            "there is nothing to compare"
        )
    paired = {a.name for a, _ in pairs} | {b.name for _, b in pairs}
    compared = [entry for entry in entries if entry.name in paired]
    left_out = [entry.name for entry in entries if entry.name not in paired]
    notes = [f"Only in one directory and not compared: {', '.join(left_out)}"] if left_out else []
    notes += [
        f"The runs of {b.name} are copies of those of {a.name}: their metrics are equal."
        for a, b in pairs
        if _is_copy(a.group, b.group)
    ]
    what = "the group with the same settings in " if fallback is None else ""
    why = "the first directory; `--baseline` selects another"
    if baseline is not None:
        why = "selected by `--baseline`"
    return Pairing(
        {entry.name: entry.group for entry in compared},
        [NamedPair(a.group, b.group, _entry_names(a, b)) for a, b in pairs],
        f"Baseline: {what}{first.name}, {why}.",
        [entry.directory for entry in compared],
        notes,
    )


def _first_directory(collections: Sequence[Collection], baseline: str | None) -> list[Collection]:
    """Return the collections with the one that ``baseline`` names first."""
    if baseline is None:
        return list(collections)
    for collection in collections:
        if baseline == collection.name or Path(baseline).absolute() == collection.path.absolute():
            return [collection, *(each for each in collections if each is not collection)]
    raise UsageError(
        f"--baseline={baseline!r}: these directories hold the same runs, and each group is "
        "compared with the group with its settings in another directory: choose one of "
        f"{_list_choices([each.name for each in collections])}"
    )


def _entries(
    collection: Collection,
    key: Callable[[Run], str],
    names: Sequence[str],
    order: Sequence[str] = (),
) -> list[_Entry]:
    """Return the groups of a directory; those in ``order``, which are keys, come first."""
    name = collection.name
    entries = [
        _Entry(
            name,
            f"{name}: {label(group.settings, names)}" if names else name,
            key(group.runs[0]),
            group,
        )
        for group in group_runs(collection.runs)
    ]
    ranks = {key: rank for rank, key in enumerate(order)}
    return sorted(entries, key=lambda entry: ranks.get(entry.key, len(ranks)))


def _entry_names(a: _Entry, b: _Entry) -> tuple[str, str]:
    """Name two entries, with their seeds if they are single runs with different seeds."""
    if len(a.group.runs) == len(b.group.runs) == 1 and a.group.seeds != b.group.seeds:
        separator = ": " if a.name == a.directory else " "
        name_a, name_b = (f"{each.name}{separator}seed={each.group.seeds[0]}" for each in (a, b))
        return name_a, name_b
    return a.name, b.name


def _is_copy(a: Group, b: Group) -> bool:
    return [run.metrics for run in a.runs] == [run.metrics for run in b.runs]


def short_names(paths: Sequence[Path]) -> list[str]:
    """Name different directories by as many of their last components as tell them apart."""
    # Path.resolve would also replace links by what they point to
    parts = [Path(os.path.abspath(path)).parts for path in paths]  # noqa: PTH100
    for count in range(1, max(map(len, parts))):
        names = [str(Path(*each[-count:])) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
