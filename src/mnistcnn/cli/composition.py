"""Compose the settings of a sweep's jobs from their overrides."""

import copy
from collections.abc import Sequence
from functools import cache

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from mnistcnn.config.load import Settings, checked_settings, merge_with_schema


def compose_settings(
    config_name: str, schema: type[Settings], jobs: Sequence[Sequence[str]]
) -> list[Settings]:
    """Return the checked settings of each job, which is a list of overrides.

    Composing a configuration takes 20 times as long as changing its values: it is done once for all
    jobs that differ only in values. Raises the errors of Hydra and of :func:`checked_settings`.
    """
    compositions: dict[tuple[str, ...], DictConfig] = {}
    settings = []
    for job in jobs:
        overrides = [_parse(text) for text in job]
        key = tuple(
            override.key_or_group if _sets_value(override) else str(override.input_line)
            for override in overrides
        )
        if key not in compositions:
            config = merge_with_schema(schema, compose(config_name, list(job)))
            compositions[key] = config
        else:
            config = copy.deepcopy(compositions[key])
            values = [override for override in overrides if _sets_value(override)]
            ConfigLoaderImpl._apply_overrides_to_config(values, config)
        settings.append(checked_settings(schema, config))
    return settings


@cache  # the jobs of a sweep share most of their overrides
def _parse(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def _sets_value(override: Override) -> bool:
    """Return whether an override only replaces the value of a setting; a dict would be merged."""
    if override.is_add() or override.is_force_add() or override.is_delete():
        return False
    if isinstance(override.value(), dict):
        return False
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    return not loader.repository.group_exists(override.key_or_group)
