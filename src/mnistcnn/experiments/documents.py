"""Write Markdown: tables, pictures, its conversion to HTML, blocks of the repository's pages."""

import base64
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import mnistcnn
from mnistcnn.system.atomic_files import write_text
from mnistcnn.system.errors import MnistcnnError, UsageError

log = logging.getLogger(__name__)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown; cells are converted by ``str``."""
    from tabulate import tabulate  # imported only if a table is printed

    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True)


def draw_pictures(folder: Path, draw_functions: dict[str, Callable[[Path], None]]) -> list[str]:
    """Draw each picture by the name of its file, and return their Markdown.

    A picture that cannot be drawn is a warning, and a line of the Markdown with the reason.
    """
    return [
        write_or_warn(folder / name, draw) or f"![{name}]({name})"
        for name, draw in draw_functions.items()
    ]


def write_or_warn(path: Path, write: Callable[[Path], None]) -> str:
    """Call ``write(path)``; log an exception as a warning, and return the line with its reason.

    The line is empty if the file was written.
    """
    try:
        write(path)
        return ""
    except Exception as error:
        log.debug("%s was not written", path.name, exc_info=True)
        kind = "" if isinstance(error, MnistcnnError) else f"{type(error).__name__}: "
        line = f"{path.name} was not written: {kind}{next(iter(str(error).splitlines()), '')}"
        log.warning("%s", line)
        return line


def plain_text(text: str) -> str:
    """Return Markdown without pictures and without the signs of headings, bold text and code."""
    text = re.sub(r"^!\[.*\]\(.*\)\n*", "", text, flags=re.MULTILINE)
    text = re.sub(r"^#+ ", "", text, flags=re.MULTILINE)
    return re.sub(r"(\*\*|`)(.+?)\1", r"\2", text).strip()


def to_html(text: str, folder: Path) -> str:
    """Convert Markdown to HTML that contains its pictures; HTML in the text is escaped.

    The pictures' names are relative to ``folder``.
    """
    from markdown import Markdown

    def data_url(match: re.Match[str]) -> str:
        content = base64.b64encode((folder / match[2]).read_bytes()).decode()
        return f'{match[1]}"data:image/png;base64,{content}"'

    converter = Markdown(extensions=["tables", "fenced_code"])
    converter.preprocessors.deregister("html_block")
    converter.inlinePatterns.deregister("html")
    return re.sub(r'(<img [^>]*?src=)"([^"]+)"', data_url, converter.convert(text))


# Pages of the repository, with blocks that the measuring programs write ------------------------


def repository() -> Path:
    """Return the root of the clone that this package is imported from.

    Raises UsageError if it is not imported from a clone.
    """
    root = Path(mnistcnn.__file__).resolve().parents[2]
    if not (root / "outputs" / "README.md").is_file():
        raise UsageError("--write and --pages change pages of the repository: use them in a clone")
    return root


def read_block(page: Path, name: str) -> str:
    """Return the text between the comments ``begin NAME`` and ``end NAME`` of a page."""
    return _split_at_block(page, name)[1].strip("\n")


def replace_block(page: Path, name: str, text: str) -> None:
    """Replace the text between the comments ``begin NAME`` and ``end NAME`` of a page."""
    before, _, after = _split_at_block(page, name)
    write_text(page, f"{before}\n\n{text}\n\n{after}")


def _split_at_block(page: Path, name: str) -> tuple[str, str, str]:
    begin, end = rf"<!-- begin {name}\b[^>]*-->", rf"<!-- end {name} -->"
    match = re.fullmatch(rf"(.*{begin})(.*)({end}.*)", page.read_text(), re.DOTALL)
    if match is None:
        raise UsageError(f"{page} has no block {name}")
    return match[1], match[2], match[3]
