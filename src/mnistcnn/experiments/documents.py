"""Write Markdown pages: tables, pictures, HTML with its pictures, blocks of the repository's."""

import base64
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import mnistcnn
from mnistcnn.system.atomic_files import write_text
from mnistcnn.system.errors import MnistcnnError, UsageError

log = logging.getLogger(__name__)

STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}"
    "img{max-width:100%}code{background:#f2f2f2}"
)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown; cells are converted by ``str``."""
    from tabulate import tabulate  # imported only if a table is printed

    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True)


def draw_pictures(folder: Path, draw_functions: dict[str, Callable[[Path], None]]) -> list[str]:
    """Draw each picture by the name of its file, and return their Markdown.

    A picture that cannot be drawn is a warning, and a line of the Markdown with the reason.
    """
    blocks = []
    for name, draw in draw_functions.items():
        try:
            draw(folder / name)
            blocks.append(f"![{name}]({name})")
        except Exception as error:
            log.debug("%s was not drawn", name, exc_info=True)
            kind = "" if isinstance(error, MnistcnnError) else f"{type(error).__name__}: "
            line = f"{name} was not drawn: {kind}{next(iter(str(error).splitlines()), '')}"
            log.warning("%s", line)
            blocks.append(line)
    return blocks


def plain_text(text: str) -> str:
    """Return Markdown without pictures and without the signs of headings, bold text and code."""
    text = re.sub(r"^!\[.*\]\(.*\)\n*", "", text, flags=re.MULTILINE)
    text = re.sub(r"^#+ ", "", text, flags=re.MULTILINE)
    return re.sub(r"(\*\*|`)(.+?)\1", r"\2", text).strip()


def to_html(text: str, title: str, folder: Path) -> str:
    """Convert Markdown to one HTML page that contains its pictures.

    The pictures' names are relative to ``folder``.
    """
    import markdown

    def data_url(match: re.Match[str]) -> str:
        content = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{content}"'

    body = markdown.markdown(text, extensions=["tables", "fenced_code"])
    body = re.sub(r'src="([^"]+)"', data_url, body)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )


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
