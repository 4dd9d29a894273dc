"""The benchmark: its baselines equal our network and data, and its measurements are correct."""

import itertools
import json
import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from mnistcnn.benchmark import __main__ as benchmark
from mnistcnn.benchmark import (
    baselines,
    commands,
    context,
    measure,
    parts,
    published,
    throughput,
    timing,
)
from mnistcnn.benchmark.context import Context, Section
from mnistcnn.evaluation.embedding import Embedding
from mnistcnn.kernels.conv_block import conv_blocks
from mnistcnn.system.atomic_files import write_json
from mnistcnn.system.errors import MnistcnnError, UsageError
from mnistcnn.training.trainer import build_model

from .conftest import ROOT, settings

CPU = torch.device("cpu")
FAST_COMPILATION = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # of JAX
)


@pytest.fixture
def quick(splits, tmp_path) -> Context:
    quick = Context(CPU, ["data=mnist5k", "device=cpu"], 1, True, tmp_path)
    quick.splits = splits
    return quick


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Return the current time of the measurements, in seconds; only a test changes it."""
    now = [100.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


# Timing ------------------------------------------------------------------------------------------


def test_measurements_alternate_and_keep_their_order():
    calls = []
    counter = itertools.count()

    def measurement(name):
        return lambda: calls.append(name) or next(counter)

    values = timing.alternate({name: measurement(name) for name in "ABC"}, 3)
    assert calls == list("ABCABCABC")
    assert values == {"A": [0, 3, 6], "B": [1, 4, 7], "C": [2, 5, 8]}


def test_a_stop_signal_ends_the_alternation(monkeypatch):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr(timing.signals, "raise_if_stopped", stop)
    calls = []
    with pytest.raises(KeyboardInterrupt):
        timing.alternate({"A": lambda: calls.append("A"), "B": lambda: calls.append("B")}, 3)
    assert calls == ["A"]


def test_spread_has_median_minimum_and_maximum():
    values = timing.spread([5.0, 1.0, 2.0, 9.0, 3.0])
    assert values == timing.Spread([5.0, 1.0, 2.0, 9.0, 3.0], median=3.0, low=1.0, high=9.0)
    assert str(values) == "3 (1 to 9)" and str(timing.spread([5.0])) == "5"
    assert timing.spread([1.0, 2.0], 1000).rounds == [1000.0, 2000.0]
    assert str(timing.spread([1234.5, 0.012345])) == "617 (0.0123 to 1,234)"


def test_ratios_are_computed_within_each_round():
    values = timing.ratios([4.0, 9.0, 1.0], [2.0, 3.0, 4.0], 10)
    assert values.rounds == [20.0, 30.0, 2.5]
    assert str(values) == "20 (2.5 to 30)"


def test_rate_excludes_the_warm_up(clock):
    meter = timing.RateMeter(CPU, min_seconds=2.0, warm_up=2)
    batches = 0
    for seconds in itertools.chain([30.0, 20.0], itertools.repeat(0.5)):
        clock[0] += seconds
        batches += 1
        if meter.add(10):
            break
    assert batches == 6
    assert meter.rate == 20.0


def test_matrix_product_rate_is_that_of_the_fastest_size(clock, monkeypatch):
    multiply = torch.mm

    def slow_multiply(a, b, **kwargs):
        clock[0] += {8: 1.0, 16: 2.0}[len(a)]
        return multiply(a, b, **kwargs)

    monkeypatch.setattr(torch, "mm", slow_multiply)
    assert (
        timing.matrix_product_rate(CPU, torch.float32, (8, 16), min_seconds=4.0) == 2 * 16**3 / 2.0
    )


def test_parts_are_measured_in_microseconds_as_medians(clock):
    timer = timing.PartTimer(CPU)
    for seconds in (9.0, 1e-6, 3e-6):
        with timer.part("all"):
            clock[0] += 1e-6
            with timer.part("a part"):
                clock[0] += seconds
    assert timer.microseconds() == pytest.approx({"a part": 3.0, "all": 4.0}, rel=1e-3)


def test_the_number_of_threads_is_restored_after_an_error():
    before = torch.get_num_threads()

    @timing.torch_threads(before + 1)
    def fail() -> None:
        raise MnistcnnError(f"with {torch.get_num_threads()} threads")

    with pytest.raises(MnistcnnError, match=f"with {before + 1} threads"):
        fail()
    assert torch.get_num_threads() == before


def test_flop_count_agrees_with_a_manual_one():
    # a multiplication and an addition for each weight and output pixel
    first = 2 * (26 * 26) * 8 * 9
    second = 2 * (11 * 11) * 8 * (8 * 9)
    linear = 2 * (200 * 64 + 64 * 10)
    # the backward pass computes gradients of the weights and, except in the first layer, of inputs
    expected = 2 * first + 3 * (second + linear)
    images, labels = torch.zeros(4, 1, 28, 28), torch.zeros(4).long()
    flop = timing.training_flop_per_sample(
        baselines.build_network(), baselines.loss_fn, images, labels
    )
    assert flop == expected == 693_504


def test_flop_count_includes_the_operations_of_the_c_kernels(quick):
    flops = []
    for kernels in quick.kernels:
        chosen = quick.settings(f"kernels={kernels}")
        model = quick.trainer(chosen).model
        images, labels = torch.zeros(2, 1, 28, 28), torch.zeros(2).long()
        flops.append(timing.training_flop_per_sample(model, cross_entropy, images, labels))
        assert [block.native for block in conv_blocks(model)] == [kernels == "native"] * 2
    # 26 x 26 pixels of an image: 24 x 24 and 10 x 10 outputs of the convolutions
    expected = 4 * 576 * 8 * 9 + 6 * 100 * 8 * 72 + 6 * (200 * 64 + 64 * 10)
    assert flops == [expected] * len(quick.kernels)


# Baselines ---------------------------------------------------------------------------------------


def test_baseline_network_equals_the_default_network(splits):
    baseline = baselines.build_network().eval()
    assert sum(parameter.numel() for parameter in baseline.parameters()) == 14_178
    default = settings("data=mnist5k", "device=cpu")
    model = build_model(default, splits).eval()
    model.set_normalization(baselines.MEAN, baselines.STD)
    weights = [parameter.detach().contiguous() for parameter in model.parameters()]
    baseline.load_state_dict(dict(zip(baseline.state_dict(), weights, strict=True)))
    images = splits.test.pixels[:200].unsqueeze(1) / 255
    with torch.no_grad():
        expected = baseline((images - baselines.MEAN) / baselines.STD)
        torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5)
        assert expected.abs().max() > 0.05
    assert default.batch_size == baselines.BATCH_SIZE
    assert (default.optimizer.name, default.optimizer.lr) == ("adadelta", baselines.LEARNING_RATE)


def test_torchvision_reads_the_same_images(quick):
    from torchvision.datasets import MNIST

    splits, mnist = quick.splits, MNIST(quick.raw_files)
    assert torch.equal(mnist.data, torch.cat([splits.train.pixels, splits.validation.pixels]))
    assert torch.equal(mnist.targets, torch.cat([splits.train.labels, splits.validation.labels]))
    test = MNIST(quick.raw_files, train=False)
    assert torch.equal(test.data, splits.test.pixels)
    assert torch.equal(test.targets, splits.test.labels)
    image, _ = baselines.training_images(quick.raw_files, augmented=True)[0]
    assert image.shape == (1, 28, 28) and image.min() >= -baselines.MEAN / baselines.STD - 1e-6


def test_plain_baseline_trains_on_all_training_images(quick):
    images = baselines.training_images(quick.raw_files, augmented=False)
    work = baselines.train(baselines.build_loader(images, workers=0, device=CPU), CPU)
    sizes = list(itertools.islice(work, 28))
    assert sum(sizes[:27]) == len(quick.splits.train) == 3400
    assert sizes[27] == baselines.BATCH_SIZE  # of the next epoch


@pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed")
def test_jax_takes_the_steps_of_the_plain_baseline(quick, tmp_path):
    """In a subprocess, because JAX starts threads."""
    network = baselines.build_network().eval()  # without dropout
    optimizer = torch.optim.Adadelta(network.parameters(), lr=baselines.LEARNING_RATE)
    pixels, labels = quick.splits.train.pixels[:160], quick.splits.train.labels[:160]
    arrays = {"pixels": pixels.numpy(), "labels": labels.numpy().astype(np.int32)}
    initial = [each.detach().numpy().copy() for each in network.parameters()]
    np.savez(tmp_path / "initial.npz", *initial, **arrays)
    raw_files = {"train-images-idx3-ubyte": pixels, "train-labels-idx1-ubyte": labels}
    baselines.write_raw_files(tmp_path, raw_files)
    code = """
import sys
from pathlib import Path
import jax, numpy as np
from mnistcnn.benchmark import jax_baseline
assert "torch" not in sys.modules
arrays = np.load("initial.npz")
values = [arrays[f"arr_{i}"] for i in range(8)]
state = jax_baseline.initial_state(list(zip(values[::2], values[1::2])))
step = jax.jit(jax_baseline.training_step)
for _ in range(2):
    state = step(state, arrays["pixels"], arrays["labels"], None)
np.savez("final.npz", *jax.tree.leaves(state[0]))
print(jax_baseline.epoch_rate(Path("MNIST/raw"), 0.01))
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FAST_COMPILATION}
    output = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    assert float(output) > 0

    for _ in range(2):
        images = (pixels.unsqueeze(1) / 255 - baselines.MEAN) / baselines.STD
        optimizer.zero_grad()
        baselines.loss_fn(network(images), labels).backward()
        optimizer.step()
    final = np.load(tmp_path / "final.npz").values()
    for parameter, start, value in zip(network.parameters(), initial, final, strict=True):
        expected = parameter.detach().numpy()
        np.testing.assert_allclose(value, expected, atol=2e-5)
        assert np.abs(expected - start).max() > 1e-3


def test_our_training_continues_in_the_next_round(quick):
    work = quick.train("aug=full")
    for _ in range(2):
        sizes = list(itertools.islice(work, 30))
        assert sizes == [128] * 26 + [72] + [128] * 3  # an epoch and three batches of the next
        list(itertools.islice(work, 24))  # the rest of that epoch


# Commands ----------------------------------------------------------------------------------------


def test_time_to_first_batch_ends_the_run(quick):
    run_dir = quick.new_dir()
    quick.new_dir = lambda: run_dir
    assert 0.5 < commands.seconds_to_first_batch(quick) < 60
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["status"] == "interrupted"  # the process was killed


def test_failed_commands_are_errors_with_a_reason(quick, tmp_path, monkeypatch):
    with pytest.raises(MnistcnnError, match="failed: no such thing"):
        commands.command_seconds("-c", "raise SystemExit('no such thing')")
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho cannot run $2 >&2\nexit 2\n")
    failing.chmod(0o755)
    monkeypatch.setattr(commands.sys, "executable", str(failing))
    with pytest.raises(MnistcnnError, match=r"no first batch: cannot run mnistcnn\.train"):
        commands.seconds_to_first_batch(quick)


def test_timed_run_reads_the_durations_of_the_run(quick, monkeypatch):
    history = [
        {"seconds": 3.0, "samples_per_second": 50.0},
        {"seconds": 2.5, "samples_per_second": 100.0},
    ]
    metrics = {
        "seconds": {"fit": 5.6, "total": 6.0},
        "data": {"train": 100},
        "peak_memory_bytes": 5_000_000,
    }

    def write_run(*arguments):
        (run_dir,) = [a.partition("=")[2] for a in arguments if a.startswith("hydra.run.dir=")]
        assert arguments[-2] == "epochs=2"
        folder = Path(run_dir.strip("'"))
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
        return 7.0

    monkeypatch.setattr(commands, "command_seconds", write_run)
    assert commands.timed_run(quick, "epochs=2") == commands.TimedRun(
        command_seconds=7.0,
        phases={"fit": 5.6, "total": 6.0},
        epoch_seconds=5.5,
        training_seconds=3.0,
        peak_megabytes=5.0,
    )


def test_runs_of_all_sizes_are_measured(quick, monkeypatch):
    calls = []

    def timed_run(_, *overrides):
        calls.append(overrides[-1])
        return commands.TimedRun(9.0, {}, 3.0, 2.0, 800.0)

    monkeypatch.setattr(commands, "timed_run", timed_run)
    section = commands.scaling(quick)
    assert section.header == ["", "epoch seconds", "training seconds", "peak megabytes"]
    assert [row[0] for row in section.rows] == calls
    assert {name.partition("=")[0] for name in calls} == {"data.fraction", "epochs", "batch_size"}
    assert [cell.median for cell in section.rows[0][1:]] == [3.0, 2.0, 800.0]


# Sections in this process ------------------------------------------------------------------------


@pytest.fixture
def rates(monkeypatch) -> dict[str, list[float]]:
    """Return the rates of three rounds; the sections get them in place of measurements."""
    values = {}

    def alternate(measurements, rounds):
        return {name: values.get(name, [1.0, 1.0, 1.0]) for name in measurements}

    monkeypatch.setattr(throughput, "alternate", alternate)
    monkeypatch.setattr(throughput.torch, "get_num_threads", lambda: 2)
    return values


def test_our_rate_is_compared_with_each_baseline(quick, rates, monkeypatch):
    monkeypatch.setattr(baselines, "is_installed", lambda name, device: name == "JAX")
    plain = "plain PyTorch baseline"
    rates |= {
        "mnistcnn": [60.0, 60.0, 66.0],
        f"{plain}, 0 workers": [6.0, 10.0, 6.0],
        f"{plain}, 2 workers": [5.0, 12.0, 3.0],
        "JAX": [12.0, 15.0, 11.0],
        "mnistcnn, 1 thread": [30.0, 36.0, 30.0],
        f"{plain}, 0 workers, 1 thread": [3.0, 4.0, 5.0],
    }
    section = throughput.training(quick)
    ratios = {(aug, name): ratio for aug, name, _, ratio in section.rows}
    assert ratios["none", "mnistcnn"] == ratios["none", "mnistcnn, 1 thread"] == ""
    assert ratios["none", "JAX"].rounds == [5.0, 4.0, 6.0]
    assert ratios["full", f"{plain}, 2 workers"].rounds == [12.0, 5.0, 22.0]
    assert ratios["full", f"{plain}, 0 workers, 1 thread"].rounds == [10.0, 9.0, 6.0]
    assert ("none", "mnistcnn, kernels=torch") in ratios or quick.kernels == ["torch"]
    assert ("full", "JAX") not in ratios
    assert ["none", "Lightning", "not installed", ""] in section.rows
    assert section.notes[0] == (
        "aug=none: mnistcnn on one thread is faster than the fastest plain PyTorch baseline by a "
        "factor of 5 (3 to 5)."
    )


def test_a_block_is_compared_between_the_kernels(quick, monkeypatch):
    if quick.kernels == ["torch"]:
        pytest.skip("the C kernels are not built")
    assert parts._block_parts(quick, 3, 5, native=True).keys() == {
        "forward",
        "forward and backward",
    }

    def block_parts(_, in_channels, out_channels, native):
        return {"forward": 100.0, "forward and backward": 300.0 if native else 1200.0}

    monkeypatch.setattr(parts, "_block_parts", block_parts)
    rows = {row[0]: row[1:] for row in parts.kernels(quick).rows}
    assert [each.median for each in rows["1 to 8"][:3]] == [300.0, 1200.0, 4.0]
    # the convolution has 24 x 24 outputs for one channel, 10 x 10 for several
    assert rows["1 to 8"][3].median == pytest.approx(128 * 2 * 576 * 8 * 9 / 100e-6 / 1e9)
    assert rows["32 to 64"][3].median == pytest.approx(128 * 2 * 100 * 64 * 32 * 9 / 100e-6 / 1e9)


def test_kernels_are_not_compared_on_a_gpu(tmp_path):
    gpu = Context(torch.device("cuda"), [], 1, True, tmp_path)
    with pytest.raises(MnistcnnError, match="the C kernels cannot be used"):
        parts.kernels(gpu)


def test_both_libraries_embed_the_test_features(quick, monkeypatch):
    def embed(name, divergence):
        def embed(features, perplexity, init, seed, threads):
            assert features.shape[1] == 64 and (perplexity, init) == (30, "pca")
            return Embedding(features[:, :2], divergence, name)

        return embed

    monkeypatch.setattr(parts.embedding, "embed_with_opentsne", embed("openTSNE", 0.5))
    monkeypatch.setattr(parts.embedding, "embed_with_scikit_learn", embed("scikit-learn", 0.75))
    rows = parts.tsne(quick).rows
    assert [(row[0], row[1], row[3].median) for row in rows] == [
        ("1,000", "openTSNE", 0.5),
        ("1,000", "scikit-learn", 0.75),
    ]
    assert all(0 <= row[2].median < 1 for row in rows)


# scripts/benchmark -------------------------------------------------------------------------------


def test_quick_section_writes_a_table_and_all_rounds(command, tmp_path):
    code, out, err = command(
        benchmark.main, "--quick", "--only", "step", "--data", "mnist5k", "--device", "cpu",
        "--rounds", "2", "--out", "measured",
    )  # fmt: skip
    assert (code, err) == (0, "")
    results = json.loads((tmp_path / "measured" / "benchmark.json").read_text())
    setup = results["setup"]
    assert (setup["quick"], setup["rounds"], setup["data"]) == (True, 2, "mnist5k")
    assert setup["processor"] and setup["torch"] == torch.__version__.split("+")[0]
    assert setup["threads"] == torch.get_num_threads() and setup["cores"] >= 1
    assert {"date", "device", "git_commit", "jax", "lightning"} < setup.keys()
    assert list(results["sections"]) == ["step"]
    rows = results["sections"]["step"]["rows"]
    assert [row[0] for row in rows] == [
        "batch: gather, to float", "augmentation (aug=full)", "normalisation", "forward, block 1",
        "forward, block 2", "forward", "loss", "metrics", "backward", "optimizer", "scheduler",
        "whole step",
    ]  # fmt: skip
    for _, *kernels in rows:
        for times in kernels:
            assert times.keys() == {"rounds", "median", "low", "high"}
            assert len(times["rounds"]) == 2 and times["low"] > 0
    text = (tmp_path / "measured" / "benchmark.md").read_text()
    assert "## A training step, part by part\n\n|" in text and "| optimizer " in text
    assert "numbers of `--quick` are meaningless" in text
    assert text[text.index("## A training step") :].strip() in out


SETUP = {
    "date": "2026-11-25T02:50:00+00:00", "rounds": 3, "data": "mnist", "processor": "a CPU",
    "cores": 2, "threads": 2, "device": "cpu", "git_commit": "0123456789abcdef", "torch": "2.14.1",
}  # fmt: skip


def section(value: float) -> dict:
    cell = {"rounds": [value] * 2, "median": value, "low": value, "high": value}
    return {"title": "A table", "header": ["", "images/s"], "rows": [["a", cell]], "notes": ["n"]}


def test_sections_are_stored_and_shown_in_the_page(tmp_path):
    (tmp_path / "scripts").mkdir()
    page = tmp_path / published.PAGE
    page.write_text("before\n<!-- begin benchmark -->\n<!-- end benchmark -->\nafter\n")
    write_json(tmp_path / published.STORE, {"sections": {}})
    for sections in ({"start": section(1), "training": section(2)}, {"start": section(3)}):
        published.store(tmp_path, {"setup": SETUP, "sections": sections})
    text = page.read_text()
    assert "| a  | 3 (3 to 3)" in text and "| a  | 2 (2 to 2)" in text and "1 (1 to 1)" not in text
    assert "-->\n\nMeasured on 2026-11-25 at commit 0123456: cpu, a CPU, 2 cores" in text
    assert "\n\n### A table\n\n| " in text and text.count("Measured on") == 1
    assert text.endswith("\nafter\n")

    missing = section(4) | {"rows": [["not measured: no data"]]}
    gpu = {"setup": SETUP | {"device": "cuda:0 (a GPU)"}, "sections": {"start": section(5)}}
    published.store(tmp_path, {"setup": SETUP, "sections": {"training": missing}})
    published.store(tmp_path, gpu)
    text = page.read_text()
    assert all(f"{value} ({value} to {value})" in text for value in (2, 3, 5))
    assert text.count("\n\nn\n\nMeasured on 2026-11-25 at commit 0123456: c") == 3


@pytest.mark.parametrize("arguments", [["--quick"], ["--data", "mnist5k"]])
def test_other_measurements_are_not_stored(command, arguments):
    code, _, err = command(benchmark.main, "--write", *arguments)
    assert code == 2 and "--write: the pages show measurements with --data mnist" in err


def test_the_help_lists_all_sections(command):
    code, out, _ = command(benchmark.main, "--help")
    assert code == 0 and ", ".join(measure.SECTIONS) in " ".join(out.split())


def test_unknown_section_is_refused(command, tmp_path):
    code, out, err = command(benchmark.main, "--only", "training,strat", "--out", "measured")
    assert (code, out) == (2, "")
    assert err == (
        "mnistcnn: --only: no section strat; choose from training, step, kernels, networks, "
        "start, artifacts, tsne, scaling\n"
    )
    assert not (tmp_path / "measured").exists()


def test_rounds_must_be_positive(command):
    code, _, err = command(benchmark.main, "--rounds", "0")
    assert code == 2 and "--rounds: must be at least 1" in err


def test_missing_dataset_is_reported_in_each_section(command, tmp_path, monkeypatch):
    def missing(*_):
        raise UsageError("there are\nno images")

    monkeypatch.setattr(context, "load_splits", missing)
    code, _, err = command(benchmark.main, "--only", "step,training", "--out", "measured")
    assert (code, err) == (0, "")
    text = (tmp_path / "measured" / "benchmark.md").read_text()
    assert text.count("| not measured: there are no images |") == 2


def test_section_that_fails_does_not_affect_the_next(command, tmp_path, monkeypatch):
    def fail(_):
        raise MnistcnnError("it failed")

    sections = {"one": ("One", fail), "two": ("Two", lambda _: Section(["x"], [["1"]]))}
    monkeypatch.setattr(measure, "SECTIONS", sections)
    code, _, err = command(benchmark.main, "--out", "measured")
    assert (code, err) == (0, "")
    text = (tmp_path / "measured" / "benchmark.md").read_text()
    assert "## One\n\n|" in text and "| not measured: it failed |" in text
    assert "## Two\n\n| x" in text


def test_other_frameworks_are_optional_dependencies_of_the_benchmark_only():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert extras["benchmark"] == ["lightning>=2.4", "jax>=0.5"]
    required = [*extras["test"], *project["dependencies"]]
    assert not any(word in text for text in required for word in ("lightning", "jax", "benchmark"))
    script = ROOT / "scripts" / "benchmark"
    assert script.stat().st_mode & 0o111 and "mnistcnn.benchmark" in script.read_text()
