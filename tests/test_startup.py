"""What a command imports before its first batch, and after it."""

import subprocess
import sys

import pytest
import torch

from mnistcnn import optim, startup

from .conftest import ROOT, TINY, settings

# Most of a second each, and more together than torch. None is needed to train.
HEAVY = ["matplotlib", "scipy", "sklearn", "torch._dynamo", "torchinfo", "torchvision", "tabulate"]
TELL = f"""
import sys

def heavy():
    return sorted({{name for name in {HEAVY} if name in sys.modules}})
"""


def fresh(*lines: str) -> str:
    """What a new interpreter prints that runs these lines."""
    done = subprocess.run(
        [sys.executable, "-c", TELL + "\n".join(lines)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("room", ["training", "evaluation", "command_line", "comparison"])
def test_nothing_heavy_is_imported_before_it_is_needed(room):
    assert fresh(f"import mnistcnn.{room}", "print(heavy())") == "[]"


def test_a_training_step_imports_nothing_heavy():
    lines = [
        "import torch",
        "from mnistcnn import checkpoint, engine, models, optim",
        "from tests.conftest import settings",
        "batch = torch.rand(4, 1, 28, 28), torch.arange(4)",
        "for name in optim.OPTIMIZERS:",
        "    composed = settings(f'optimizer={name}')",
        "    network = models.build(composed.model)",
        "    optimizer = optim.optimizer(composed.optimizer, network.parameters())",
        "    schedule = optim.schedule(composed.scheduler, optimizer, 1, 2)",
        "    engine.train_epoch(network, [batch, batch], optim.LOSSES['cross_entropy'], optimizer,",
        "                       schedule, torch.float32, engine.Running(epoch=1))",
        "    state = checkpoint.optimizer_state(optimizer)",
        "    checkpoint.restore_optimizer(optimizer, state)",
        "print(heavy())",
    ]
    assert fresh(*lines) == "[]"


def test_a_job_finds_everything_heavy_imported(tmp_path):
    lines = [
        "from importlib import import_module",
        "from mnistcnn import multirun",
        "from tests.conftest import settings",
        "for name in multirun.HEAVY:",
        "    import_module(name)",
        "before = set(sys.modules)",
        "from pathlib import Path",
        "from mnistcnn import training",
        f"training.run(settings(*{TINY}), Path({str(tmp_path / 'run')!r}))",
        f"late = [m for m in set(sys.modules) - before if m.startswith(tuple({HEAVY}))]",
        "print([name for name in late if name.count('.') < 2])",  # its small parts aside
    ]
    assert fresh(*lines) == "[]"


def trained(optimizer_class: type, **arguments) -> list[torch.Tensor]:
    """Weights after some steps, a way through ``state_dict``, and some more."""
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    optimizer = optimizer_class(network.parameters(), **arguments)
    for _ in range(2):
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            network(torch.randn(4, 3)).square().sum().backward()
            optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    return [*network.parameters(), *optimizer.state_dict()["state"][0].values()]


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_an_optimizer_without_the_compiler_computes_the_same(name):
    arguments = vars(settings(f"optimizer={name}").optimizer) | {}
    _, torchs = optim.OPTIMIZERS[arguments.pop("name")]
    ours = startup.eager(torchs)
    assert issubclass(ours, torchs) and ours.__name__ == torchs.__name__
    for one, other in zip(trained(torchs, **arguments), trained(ours, **arguments), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def test_methods_that_are_wrapped_otherwise_stay_as_they_are():
    class Foreign(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            return "its own"

    assert startup.eager(Foreign).step is Foreign.step
    assert startup.eager(Foreign)([torch.nn.Parameter(torch.zeros(1))]).step() == "its own"


def test_imports_are_made_without_looking_for_garbage():
    lines = [
        "import gc",
        "from mnistcnn import startup",
        "try:",
        "    with startup.importing():",
        "        within = gc.isenabled()",
        "        import no_such_package",
        "except ImportError:",
        "    print(within, gc.isenabled(), gc.get_freeze_count() > 0, heavy())",
    ]
    assert fresh(*lines) == "False True True []"
