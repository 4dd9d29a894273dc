"""Start-up time: which modules a command imports before its first batch."""

import subprocess
import sys

import pytest
import torch

from mnistcnn.system.startup import without_dynamo_wrappers
from mnistcnn.training.optim import OPTIMIZERS

from .conftest import ROOT, TINY, settings

# slow to import, and not needed for training
SLOW_MODULES = [
    "matplotlib",
    "openTSNE",
    "scipy",
    "sklearn",
    "torch._dynamo",
    "torchinfo",
    "torchvision",
    "tabulate",
]
PREAMBLE = f"""
import sys

def slow_modules():
    return sorted({{name for name in {SLOW_MODULES} if name in sys.modules}})
"""


def run_python(*lines: str) -> str:
    """Return the last line printed by a new interpreter that runs these lines."""
    result = subprocess.run(
        [sys.executable, "-c", PREAMBLE + "\n".join(lines)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "module",
    [
        "training.train_run",
        "evaluation.evaluate_run",
        "cli.hydra_command",
        "experiments.comparison",
    ],
)
def test_commands_import_no_slow_modules_at_start(module):
    assert run_python(f"import mnistcnn.{module}", "print(slow_modules())") == "[]"


@pytest.mark.parametrize("command", ["train", "evaluate", "compare", "reproduce"])
def test_version_is_printed_without_importing_torch_or_hydra(command):
    lines = [
        f"from mnistcnn.{command} import main",
        "sys.argv = ['mnistcnn', '--version']",
        "try:",
        "    main()",
        "except SystemExit as stop:",
        "    print(stop.code, sorted({'torch', 'hydra', 'numpy'} & set(sys.modules)))",
    ]
    assert run_python(*lines) == "0 []"


def test_a_training_step_imports_no_slow_modules():
    lines = [
        "import torch",
        "from mnistcnn.models.registry import create_model",
        "from mnistcnn.training.flat_parameters import flatten_parameters",
        "from mnistcnn.training.step import TrainMetrics, training_step",
        "from mnistcnn.training.optim import LOSSES, OPTIMIZERS, build_optimizer, build_scheduler",
        "from tests.conftest import settings",
        "images, labels = torch.rand(4, 1, 28, 28), torch.arange(4)",
        "for name in OPTIMIZERS:",
        "    composed = settings(f'optimizer={name}')",
        "    model = create_model(composed.model)",
        "    optimizer = build_optimizer(composed.optimizer, flatten_parameters(model))",
        "    scheduler = build_scheduler(composed.scheduler, optimizer, 1, 2)",
        "    metrics = TrainMetrics(epoch=1)",
        "    for _ in range(2):",
        "        training_step(model, images, labels, LOSSES['cross_entropy'], optimizer,",
        "                      scheduler, metrics)",
        "    optimizer.load_state_dict(optimizer.state_dict())",
        "print(slow_modules())",
    ]
    assert run_python(*lines) == "[]"


def test_the_modules_preloaded_for_jobs_are_complete(tmp_path):
    lines = [
        "from contextlib import suppress",
        "from importlib import import_module",
        "from pathlib import Path",
        "from mnistcnn.experiments.job_process import PRELOAD_FOR_PICTURES, PRELOAD_MODULES",
        "from tests.conftest import settings",
        "for name in PRELOAD_MODULES + PRELOAD_FOR_PICTURES:",
        "    with suppress(ModuleNotFoundError):  # openTSNE is not installed everywhere",
        "        import_module(name)",
        "preloaded = set(sys.modules)",
        "from mnistcnn.training.train_run import train_run",
        f"train_run(settings(*{TINY}), Path({str(tmp_path / 'run')!r}))",
        f"late = [m for m in set(sys.modules) - preloaded if m.startswith(tuple({SLOW_MODULES}))]",
        "print([name for name in late if name.count('.') < 2])",  # deeper modules are small
    ]
    assert run_python(*lines) == "[]"


def test_a_run_without_pictures_imports_no_modules_for_them(tmp_path):
    overrides = [*TINY, "pictures=false"]
    lines = [
        "from pathlib import Path",
        "from mnistcnn.experiments.job_process import PRELOAD_MODULES",
        "from tests.conftest import settings",
        "for name in PRELOAD_MODULES:",
        "    __import__(name)",
        "from mnistcnn.training.train_run import train_run",
        f"train_run(settings(*{overrides}), Path({str(tmp_path / 'run')!r}))",
        "print(slow_modules())",
    ]
    assert run_python(*lines) == "['scipy', 'sklearn', 'torchinfo']"


def train_with(optimizer_class: type, **arguments) -> list[torch.Tensor]:
    """Weights and optimizer state after some steps, a reload of the state, and more steps."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = optimizer_class(model.parameters(), **arguments)
    for _ in range(2):
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            model(torch.randn(4, 3)).square().sum().backward()
            optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    return [*model.parameters(), *optimizer.state_dict()["state"][0].values()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_without_dynamo_wrappers_computes_the_same(name):
    arguments = vars(settings(f"optimizer={name}").optimizer) | {}
    original = OPTIMIZERS[arguments.pop("name")]
    unwrapped = without_dynamo_wrappers(original)
    assert issubclass(unwrapped, original) and unwrapped.__name__ == original.__name__
    expected, actual = (train_with(each, **arguments) for each in (original, unwrapped))
    for first, second in zip(expected, actual, strict=True):
        assert torch.equal(torch.as_tensor(first), torch.as_tensor(second))


def test_methods_with_unknown_wrappers_are_not_changed():
    class OtherOptimizer(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            return "unchanged"

    assert without_dynamo_wrappers(OtherOptimizer).step is OtherOptimizer.step
    optimizer = without_dynamo_wrappers(OtherOptimizer)([torch.nn.Parameter(torch.zeros(1))])
    assert optimizer.step() == "unchanged"


def test_garbage_collection_is_off_during_imports_only():
    lines = [
        "import gc",
        "from mnistcnn.system import startup",
        "try:",
        "    with startup.fast_imports():",
        "        enabled_inside = gc.isenabled()",
        "        import no_such_package",
        "except ImportError:",
        "    print(enabled_inside, gc.isenabled(), gc.get_freeze_count() > 0, slow_modules())",
    ]
    assert run_python(*lines) == "False True True []"
