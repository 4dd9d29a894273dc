"""Names and phrases that were replaced by standard terms must not come back."""

import re
import subprocess

import pytest

from .conftest import ROOT

# Identifiers, matched as whole words.
IDENTIFIERS = """
    go_on fresh_network until_asked close_epoch LOOK_EVERY loss_of settle to_unit normalise_by
    PATIENCE GRACE ELSEWHERE OF_THE_COMMAND take_hold _watched CheckFirst _Refused _tell
    _tell_of _conclude _Impatience PlainError may_pass DamagedError eager under_way _do _todo
    HEAVY _began _place _inlay _drawn _Training _plain fewest_seeds least_p override_errors
    rundir exit_at_once
""".split()

# Phrases, matched without regard to case and line breaks.
PHRASES = """
    go on with
    goes on with
    going on with
    goes on where
    to go on:
    begins anew
    begin anew
    nobody has
    nobody reads
    nobody listens
    everything is in
    all of it is in
    is there already
    another process is at it
    the report's way
    who typed
    what is there
    is at it
    who pressed
    whoever
    swallowed
    a floor
    the floor
    downward
    rooms
    this room
    the house
""".strip().splitlines()

IGNORED = ("tests/test_wording.py",)


def tracked_texts() -> dict[str, str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git repository")
    texts = {}
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in (".png", ".gz") or name in IGNORED or not path.is_file():
            continue
        texts[name] = path.read_text()
    return texts


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return tracked_texts()


@pytest.mark.parametrize("identifier", IDENTIFIERS)
def test_replaced_identifiers_are_gone(texts, identifier):
    pattern = re.compile(rf"\b{identifier}\b")
    assert [name for name, text in texts.items() if pattern.search(text)] == []


@pytest.mark.parametrize("phrase", [phrase.strip() for phrase in PHRASES])
def test_replaced_phrases_are_gone(texts, phrase):
    words = r"[\s#]+".join(map(re.escape, phrase.split()))
    pattern = re.compile(rf"\b{words}(?!\w)", re.IGNORECASE)
    assert [name for name, text in texts.items() if pattern.search(text)] == []
