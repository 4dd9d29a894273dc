"""The benchmark: that what it compares is the same, and that it counts and divides rightly."""

import itertools
import json
import tomllib
from types import SimpleNamespace

import pytest
import torch

from mnistcnn import baselines, bench, benchmark, benchmarking, fit, measuring, speed, stopwatch
from mnistcnn.bench import QUICK, Bench, Section
from mnistcnn.errors import PlainError, UsageError

from .conftest import ROOT, settings

CPU = torch.device("cpu")


@pytest.fixture
def small(digits, tmp_path) -> Bench:
    return Bench(QUICK, ["data=mnist5k", "device=cpu"], digits, tmp_path)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time that measurements see, in seconds: it stands still but for what a test adds."""
    now = [100.0]
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


# Measuring ---------------------------------------------------------------------------------------


def test_sides_take_turns_and_keep_their_order():
    calls, told = [], []
    counter = itertools.count()

    def side(name):
        return lambda: calls.append(name) or next(counter)

    values = measuring.alternate(
        {name: side(name) for name in "ABC"}, 3, lambda *heard: told.append(heard)
    )
    assert calls == list("ABCABCABC")
    assert values == {"A": [0, 3, 6], "B": [1, 4, 7], "C": [2, 5, 8]}
    assert told[4] == (2, "B", 4)


def test_a_spread_has_its_middle_its_quartiles_and_its_ends():
    values = measuring.spread([5.0, 1.0, 2.0, 9.0, 3.0])
    assert values.rounds == [5.0, 1.0, 2.0, 9.0, 3.0]
    assert (values.median, values.quartiles) == (3.0, (2.0, 5.0))
    assert (values.low, values.high) == (1.0, 9.0)


def test_ratios_are_those_of_each_round():
    values = bench.ratios([4.0, 9.0, 1.0], [2.0, 3.0, 4.0], 10)
    assert values.rounds == [20.0, 30.0, 2.5]
    assert bench.cell(values) == "20 (2.5 to 30)" and bench.cell(values, 0.1) == "200 (25 to 300)"


def test_an_exact_power_law_has_its_exact_exponent():
    x = [3187, 6375, 12750, 25500, 51000]
    law = measuring.power_law(x, [0.25 * n**1.5 for n in x])
    assert law.exponent == pytest.approx(1.5, abs=1e-12)
    assert law.factor == pytest.approx(0.25, rel=1e-10)
    assert law.error == pytest.approx(0, abs=1e-7)
    assert measuring.power_law([1, 2], [3, 6]).error is None


def test_a_rate_leaves_the_warm_up_out(clock):
    def work(on_batch):
        for seconds in itertools.chain([30.0, 20.0], itertools.repeat(0.5)):
            clock[0] += seconds
            on_batch(10)

    assert measuring.rate(work, CPU, seconds=2.0, warm_up=2) == 20.0
    with pytest.raises(ValueError, match="ended before"):
        measuring.rate(lambda on_batch: on_batch(1), CPU, 1.0, 1)


def test_the_fastest_size_is_the_rate_of_matrix_products(clock, monkeypatch):
    multiply = torch.mm

    def slow(one, other, **kwargs):
        clock[0] += {8: 1.0, 16: 2.0}[len(one)]
        return multiply(one, other, **kwargs)

    monkeypatch.setattr(torch, "mm", slow)
    rate = measuring.matrix_product_rate(CPU, torch.float32, 4.0, (8, 16))
    assert rate == 2 * 16**3 / 2.0


# What is compared --------------------------------------------------------------------------------


def test_the_plain_network_is_ours(digits):
    plain = baselines.network().eval()
    assert sum(parameter.numel() for parameter in plain.parameters()) == 14_178
    of = settings("data=mnist5k", "device=cpu")
    network = fit.fresh_network(of, digits).eval()
    network.normalise_by(baselines.MEAN, baselines.STD)
    plain.load_state_dict(
        dict(zip(plain.state_dict(), network.to(memory_format=torch.contiguous_format)
                 .parameters(), strict=True))
    )  # fmt: skip
    images = digits.test.pixels[:200].unsqueeze(1) / 255
    with torch.no_grad():
        theirs = plain((images - baselines.MEAN) / baselines.STD)
        torch.testing.assert_close(network(images), theirs, rtol=0, atol=1e-5)
        assert theirs.abs().max() > 0.05
    assert of.batch_size == baselines.BATCH_SIZE
    assert (of.optimizer.name, of.optimizer.lr) == ("adadelta", baselines.LEARNING_RATE)


def test_flop_are_counted_as_by_hand():
    # a multiplication and an addition for each weight and output pixel
    first = 2 * (26 * 26) * 8 * 9
    second = 2 * (11 * 11) * 8 * (8 * 9)
    linear = 2 * (200 * 64 + 64 * 10)
    # backward once for the weights and once for the inputs, which the first has no use for
    by_hand = 2 * first + 3 * (second + linear)
    counted = measuring.training_flop_per_sample(
        baselines.network(), baselines.loss_of, torch.zeros(4, 1, 28, 28), torch.zeros(4).long()
    )
    assert counted == by_hand == 693_504


def test_torchvision_reads_our_digits_and_trains_on_all_of_them(small):
    from torchvision.datasets import MNIST

    digits = small.digits
    theirs = MNIST(small.raw_files)
    assert torch.equal(theirs.data, torch.cat([digits.train.pixels, digits.validation.pixels]))
    assert torch.equal(theirs.targets, torch.cat([digits.train.labels, digits.validation.labels]))
    assert torch.equal(MNIST(small.raw_files, train=False).data, digits.test.pixels)

    class Epoch(Exception):
        pass

    sizes = []

    def on_batch(samples):
        sizes.append(samples)
        if samples < baselines.BATCH_SIZE:
            raise Epoch

    image, _ = baselines.training_images(small.raw_files, augmented=True)[0]
    assert image.shape == (1, 28, 28) and image.min() >= -baselines.MEAN / baselines.STD - 1e-6
    images = baselines.training_images(small.raw_files, augmented=False)
    with pytest.raises(Epoch):
        baselines.train(baselines.loader(images, workers=0), CPU, on_batch)
    assert sum(sizes) == len(digits.train) == 3400


def test_our_training_goes_on_from_call_to_call(small):
    class Enough(Exception):
        pass

    sizes = []

    def on_batch(samples):
        sizes.append(samples)
        if len(sizes) % 30 == 0:
            raise Enough

    work = bench.ours(small, small.settings("aug=full"))
    for _ in range(2):
        with pytest.raises(Enough):
            work(on_batch)
    assert sizes[:30] == [128] * 26 + [72] + [128] * 3  # an epoch, and on into the next
    assert sizes[30:] == [128] * 26 + [72] + [128] * 3


def test_of_two_ways_of_the_same_the_faster_counts():
    rates = {
        speed.OURS: [90.0, 100.0, 110.0], "theirs, 0 workers": [10.0, 10.0, 10.0],
        "theirs, 2 workers": [20.0, 25.0, 20.0], speed.MATRICES: [1.0, 1.0, 1.0],
    }  # fmt: skip
    section = Section([])
    speed._compare(section, "none", rates)
    assert [row[1:] for row in section.rows] == [
        [speed.OURS, "100 (90 to 110)", "", ""],
        ["theirs, 0 workers", "10 (10 to 10)", "10 (9 to 11)", ""],
        ["theirs, 2 workers", "20 (20 to 25)", "4.5 (4 to 5.5)", "yes"],
    ]
    values = section.values["none"]
    assert values["counts"] == {"theirs": "theirs, 2 workers"}
    assert values["ours to theirs"]["theirs, 2 workers"].rounds == [4.5, 4.0, 5.5]


def test_a_whole_fit_takes_longer_than_its_training(small):
    of = small.settings("epochs=2", "data.fraction=1")
    whole, training = speed._fit_seconds(small, of)
    assert 0 < training < whole


# Commands from outside ---------------------------------------------------------------------------


def test_a_run_is_timed_until_its_first_batch(tmp_path):
    overrides = ["data=mnist5k", "device=cpu"]
    seconds = stopwatch.seconds_to_first_batch(overrides, tmp_path / "run")
    assert 0.5 < seconds < 60
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["status"] == "interrupted"  # it was killed


def test_what_fails_is_told_and_not_timed(tmp_path, monkeypatch):
    with pytest.raises(PlainError, match="failed.*no such thing"):
        stopwatch.seconds_of(["-c", "raise SystemExit('no such thing')"])
    told = stopwatch.seconds_to_printed_time(["-c", "import time; print('at'); print(time.time())"])
    assert 0 < told < 30
    refuses = tmp_path / "refuses"
    refuses.write_text("#!/bin/sh\necho there is no $3 >&2\nexit 2\n")
    refuses.chmod(0o755)
    monkeypatch.setattr(stopwatch.sys, "executable", str(refuses))
    with pytest.raises(PlainError, match="not come to its first batch: there is no epoch=1"):
        stopwatch.seconds_to_first_batch(["epoch=1"], tmp_path / "run")


def test_seconds_are_those_of_the_history():
    history = [{"seconds": 3.0, "samples_per_second": 50.0},
               {"seconds": 2.5, "samples_per_second": 100.0}]  # fmt: skip
    assert stopwatch.epochs_seconds(history) == 5.5
    assert stopwatch.training_seconds(history, 100) == 3.0


# The command -------------------------------------------------------------------------------------


def test_a_quick_section_is_a_table_and_every_round(command, tmp_path):
    code, out, err = command(
        benchmark.main, "--quick", "--only", "augmentation", "--data", "mnist5k", "--device", "cpu",
        "--rounds", "2", "--out", "measured",
    )  # fmt: skip
    assert (code, err) == (0, "")
    written = json.loads((tmp_path / "measured" / benchmarking.JSON).read_text())
    assert (written["quick"], written["rounds"], written["data"]) == (True, 2, "mnist5k")
    machine = written["machine"]
    assert machine.keys() == {
        "processor", "cores", "threads", "gpu", "device", "versions", "git_commit", "date",
    }  # fmt: skip
    assert machine["processor"] and machine["versions"]["torch"] == torch.__version__.split("+")[0]
    assert machine["threads"] == torch.get_num_threads() and machine["cores"] >= 1
    values = written["sections"].pop("augmentation")["values"]
    assert written["sections"] == {}
    rates = values["images per second"]
    sides = ["aug=full", "aug=prose", "aug=rotate45_flip", "full, the report's way"]
    assert list(rates) == sides
    for side in sides:
        assert rates[side].keys() == {"rounds", "median", "quartiles", "low", "high"}
        assert len(rates[side]["rounds"]) == 2 and rates[side]["low"] > 0
    assert values["ours to theirs"]["rounds"] == [
        ours / theirs
        for ours, theirs in zip(*(rates[side]["rounds"] for side in sides[::3]), strict=True)
    ]
    text = (tmp_path / "measured" / benchmarking.MARKDOWN).read_text()
    assert "## Augmentation alone\n\n|" in text and "| aug=prose " in text
    assert "A smoke test" in text and text[text.index("## ") :].strip() in out


def test_an_unknown_section_is_refused_in_a_line(command, tmp_path):
    code, out, err = command(benchmark.main, "--only", "training,strat", "--out", "measured")
    assert (code, out) == (2, "")
    assert err == (
        "mnistcnn: --only: there is no strat; there are training, networks, augmentation, start, "
        "report, scaling\n"
    )
    assert not (tmp_path / "measured").exists()


def test_without_digits_each_section_says_so_and_the_next_follows(tmp_path, monkeypatch):
    def nothing(*_):
        raise UsageError("there are\nno digits")

    monkeypatch.setattr(benchmarking.data, "load", nothing)
    benchmarking.run(tmp_path, "mnist5k", "cpu", [], quick=True, rounds=None)
    text = (tmp_path / benchmarking.MARKDOWN).read_text()
    assert text.count("| not measured: there are no digits |") == len(benchmarking.SECTIONS) == 6


def test_one_section_that_cannot_be_measured_takes_no_other_along(small, monkeypatch):
    def fails(_):
        raise PlainError("out of luck")

    def works(_):
        return Section(["x"], [["1"]])

    sections = {"one": ("One", fails), "two": ("Two", works)}
    monkeypatch.setattr(benchmarking, "SECTIONS", sections)
    one, two = (benchmarking._measured(name, small) for name in sections)
    assert one.rows == [["not measured: out of luck"]] and one.title == "One"
    assert two.rows == [["1"]] and two.markdown().startswith("## Two\n\n| x")


def test_lightning_is_an_extra_of_the_benchmark_alone():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = extras["optional-dependencies"]
    assert extras["benchmark"] == ["lightning>=2.4"]
    assert not any("lightning" in text or "benchmark" in text for text in extras["test"])
    script = ROOT / "scripts" / "benchmark"
    assert script.stat().st_mode & 0o111 and "mnistcnn.benchmark" in script.read_text()
