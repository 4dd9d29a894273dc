"""Compose the settings of a sweep's jobs from their overrides."""

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
            override.key_or_group if sets_value else str(override.input_line)
            for override, sets_value in overrides
        )
        if key not in compositions:
            compositions[key] = merge_with_schema(schema, compose(config_name, list(job)))
        else:  # replace the values of the previous job, which has set the same keys
            values = [override for override, sets_value in overrides if sets_value]
            ConfigLoaderImpl._apply_overrides_to_config(values, compositions[key])
        settings.append(checked_settings(schema, compositions[key]))
    return settings


@cache  # the jobs of a sweep share most of their overrides
def _parse(text: str) -> tuple[Override, bool]:
    """Return an override, and whether all it does is to replace the value of a setting."""
    override = OverridesParser.create().parse_override(text)
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    return override, not (
        override.is_add()
        or override.is_force_add()
        or override.is_delete()
        or isinstance(override.value(), dict)  # would be merged with the previous value
        or loader.repository.group_exists(override.key_or_group)
    )
