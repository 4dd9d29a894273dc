"""Commands that are shown to the user can be pasted into a shell."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mnistcnn.system import quoting


@pytest.mark.parametrize(
    "value",
    [
        "/a/b",
        "/a b",
        "/a=b,c",
        "/it's",
        "/back\\slash",
        "/back\\'s",
        "/end\\",
        "/x~y",
        "/é",
        '/"q"',
        "/[a]{b:c}",
        "runs/a",
        "./a",
        "../a",
        "12",
        "1e5",
        ".5",
        "null",
        "True",
        "nan",
        "-a",
        "",
    ],
)
def test_text_survives_the_shell_and_hydra(value):
    command = quoting.format_command("m", ["-m", quoting.override("key", value)])
    *start, argument = shlex.split(command)
    assert start == ["python", "-m", "m", "-m"]
    (parsed,) = OverridesParser.create().parse_overrides([argument])
    assert parsed.value() == value and isinstance(parsed.value(), str)


def test_what_needs_no_quotes_has_none():
    arguments = [
        "-m",
        "seed=0,1",
        quoting.override("hydra.sweep.dir", "outputs/sweep-1"),
    ]
    assert quoting.format_command("mnistcnn.train", arguments) == (
        "python -m mnistcnn.train -m seed=0,1 hydra.sweep.dir=outputs/sweep-1"
    )
    assert quoting.format_command("m", ["seed=range(2)"]) == "python -m m 'seed=range(2)'"
