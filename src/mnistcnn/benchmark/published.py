"""Store measurements in ``scripts/benchmark.json`` and show them in ``scripts/README.md``."""

import json
import logging
from pathlib import Path
from typing import Any

from mnistcnn.benchmark.context import Section
from mnistcnn.benchmark.timing import Spread
from mnistcnn.experiments.documents import replace_block
from mnistcnn.runs.provenance import short_commit
from mnistcnn.system.atomic_files import write_json

log = logging.getLogger(__name__)

NOT_MEASURED = "not measured"
STORE = Path("scripts", "benchmark.json")
PAGE = Path("scripts", "README.md")


def store(root: Path, results: dict[str, Any]) -> None:
    """Add sections to those stored in a clone, and write all of them to its page.

    ``results`` is the content of ``benchmark.json``. A section replaces that of the same name and
    device, unless it could not be measured.
    """
    stored = json.loads((root / STORE).read_text())
    setup = results["setup"]
    for name, section in results["sections"].items():
        if not section["rows"][0][0].startswith(NOT_MEASURED):
            stored["sections"][f"{name} on {setup['device']}"] = {**section, "setup": setup}
    write_json(root / STORE, stored)
    write_page(root)


def write_page(root: Path) -> None:
    """Write the stored sections to ``scripts/README.md``."""
    replace_block(root / PAGE, "benchmark", to_markdown(json.loads((root / STORE).read_text())))
    log.info("Results: %s", root / PAGE)


def to_markdown(stored: dict[str, Any]) -> str:
    """Return Markdown of the sections in ``stored``, the content of ``scripts/benchmark.json``."""
    sections = stored["sections"].values()
    setups = [_describe_setup(section["setup"]) for section in sections]
    is_shared = len(set(setups)) == 1
    blocks = setups[:1] if is_shared else []
    for section, setup in zip(sections, setups, strict=True):
        rows = [[_cell(cell) for cell in row] for row in section["rows"]]
        notes = section["notes"] if is_shared else [*section["notes"], setup]
        device = section["setup"]["device"]
        title = section["title"] + ("" if device == "cpu" else f" ({device})")
        blocks.append(Section(section["header"], rows, notes).to_markdown(title, "###"))
    return "\n\n".join(blocks)


def _cell(cell: str | dict[str, Any]) -> str | Spread:
    return Spread(**cell) if isinstance(cell, dict) else cell


def _describe_setup(setup: dict[str, Any]) -> str:
    rounds = f"{setup['rounds']} round{'' if setup['rounds'] == 1 else 's'}"
    return (
        f"Measured on {setup['date'][:10]} at commit {short_commit(setup['git_commit'])}: "
        f"{setup['device']}, {setup['processor']}, {setup['cores']} cores, {setup['threads']} "
        f"threads, torch {setup['torch']}, `data={setup['data']}`, {rounds}."
    )
