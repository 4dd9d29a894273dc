"""Composing the settings of a sweep's jobs: the same as composing each job by itself."""

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import ConfigCompositionException
from omegaconf.errors import OmegaConfBaseException

from mnistcnn.cli import composition
from mnistcnn.cli.composition import compose_settings
from mnistcnn.config.load import to_settings
from mnistcnn.config.schema import TrainSettings
from mnistcnn.system.errors import SettingError

JOBS = [
    ["seed=0", "epochs=2"],
    ["seed=1", "epochs=2"],
    ["seed=1", "epochs=3"],
    ["model=custom", "model.width=0.25"],
    ["model=custom", "model.width=0.5"],
    ["model=convnet", "model.channels=[4,8]"],
    ["model=convnet", "model.channels=[4]"],
    ["model.width=0.5", "model=custom"],
    ["experiment=smoke", "seed=3"],
    ["experiment=smoke", "seed=4"],
    ["aug=full", "aug.rotation=3", "aug.scale=[0.9,1.1]"],
    ["aug=full", "aug.rotation=4", "aug.scale=[0.5,2]"],
    ["optimizer=adam", "optimizer.lr=1e-3"],
    ["optimizer=adam", "optimizer.lr=0.1"],
    ["early_stopping.patience=null"],
    ["early_stopping.patience=2"],
    ["seed=5", "seed=6"],
    ["checkpoint={minutes:1}"],
    ["checkpoint={keep_last:false}"],
    ["+seed=7"],
    ["++seed=8"],
    ["data.dir='/a b'"],
    ["data.dir=${oc.env:HOME}"],
]


@pytest.fixture(autouse=True)
def configuration():
    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        yield


def composed_alone(job: list[str]) -> TrainSettings:
    return to_settings(TrainSettings, compose("train", job))


def test_settings_are_those_of_each_job_by_itself():
    jobs = [job for job in JOBS if job != ["+seed=7"]]  # the key exists
    assert compose_settings("train", TrainSettings, jobs) == list(map(composed_alone, jobs))


def test_jobs_that_differ_in_values_alone_are_composed_once(monkeypatch):
    composed = []

    def count(name: str, overrides: list[str]):
        composed.append(overrides)
        return compose(name, overrides)

    monkeypatch.setattr(composition, "compose", count)
    jobs = [[f"aug={aug}", f"seed={n}", "epochs=1"] for n in range(20) for aug in ("none", "full")]
    settings = compose_settings("train", TrainSettings, jobs)
    assert [(each.aug.name, each.seed) for each in settings] == [
        (aug, n) for n in range(20) for aug in ("none", "full")
    ]
    assert composed == jobs[:2]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("epochs=0", SettingError),
        ("epochs=many", (ConfigCompositionException, OmegaConfBaseException)),
        ("epochs=null", (ConfigCompositionException, OmegaConfBaseException)),
    ],
)
def test_a_bad_value_of_a_later_job_is_refused(bad, error):
    with pytest.raises(error):
        compose_settings("train", TrainSettings, [["epochs=1"], [bad]])
    with pytest.raises(ConfigCompositionException, match="nonsense"):
        compose_settings("train", TrainSettings, [["nonsense=1"], ["nonsense=2"]])
