"""Render HTML pages from templates: each is one file with its style, script and data.

A page makes no request, and a browser executes only its own script: the content security policy has
the hash of it. All values are escaped.
"""

import base64
import contextlib
import hashlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mnistcnn import __version__
from mnistcnn.system.atomic_files import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_LENGTH = 200  # characters of a value; a longer one is shortened
SCRIPTS = ("page.js", "tables.js")  # of all pages

_page_dir: ContextVar[Path] = ContextVar("page_dir")  # of the page that is being written


def write_page(path: Path, template: str, scripts: list[str], data: Any, **values: Any) -> None:
    """Render a file of ``templates/`` and write it to ``path``.

    ``scripts`` are the files of ``static/`` that the page executes after SCRIPTS, in their order,
    ``data`` is JSON for them, and ``values`` are the variables of the template. Raises WriteError,
    and ValueError if ``data`` has a number that is not finite.
    """
    sources = map(_static_text, [*SCRIPTS, *scripts])
    script = "".join(["(() => {\n'use strict';\n", *sources, "})();\n"])
    token = _page_dir.set(path.parent.absolute())
    try:
        text = _environment().get_template(template).render(
            kind=template.removesuffix(".html"),
            version=__version__,
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            data=data,
            **values,
        )  # fmt: skip
    finally:
        _page_dir.reset(token)
    # the name of a directory may have bytes that are not text
    write_text(path, text.encode(errors="backslashreplace").decode())


def shorten(value: object, length: int = MAX_LENGTH) -> str:
    """Return a value as text of at most ``length`` characters."""
    text = str(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def percent(value: float, digits: int = 2) -> str:
    """Return a fraction in percent: ``97.44%`` for 0.97436."""
    return f"{100 * value:.{digits}f}%"


def relative_url(path: str) -> str:
    """Return the URL of a file from its relative path with slashes.

    The names of directories may have any characters, also those with a meaning in a URL.
    """
    return quote(f"./{path}", safe="/", errors="surrogateescape")


def without_directories(text: str) -> str:
    """Replace the directories of absolute paths by ``…``: a page may be sent to somebody.

    Paths below the directory of the page or the working directory become relative to it. Names and
    passwords in URLs are replaced as well. If another directory has a space in its name, what
    follows the space remains.
    """
    text = re.sub(r"([A-Za-z][\w+.-]*://)[^\s/@]+@", r"\1…@", text)
    for folder, replacement in _own_directories():
        pattern = rf"(?<![\w.]){re.escape(folder)}"
        text = re.sub(rf"{pattern}/", replacement, text)
        text = re.sub(rf"{pattern}(?![\w.-])", replacement or ".", text)
    # a URL of the web is kept; a path may follow a scheme such as file:// or sqlite:///
    start = r"(?<![\w.…/])(?:(?:[A-Za-z][\w+.-]*:)?[/\\]+|(?:\.\./)+|~[\w.-]*/)"
    path = rf"(https?://\S*)|{start}(?:[^\s/\\:,'\"]+[/\\])+"
    return re.sub(path, lambda match: match[1] or "…/", text)


def _own_directories() -> Iterator[tuple[str, str]]:
    """Yield the directories of the page, of the process and of the user, and their replacements."""
    for find, replacement in ((_page_dir.get, ""), (Path.cwd, ""), (Path.home, "…/")):
        # no page is being written, the directory was removed, or the user has no home
        with contextlib.suppress(LookupError, OSError, RuntimeError):
            if (folder := find()) != Path(folder.anchor):
                yield str(folder), replacement


@cache
def _static_text(name: str) -> str:
    return (files(__package__) / "static" / name).read_text(encoding="utf-8")


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # takes time to import

    environment = Environment(
        loader=PackageLoader("mnistcnn.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shorten": shorten,
        "percent": percent,
        "relative_url": relative_url,
        "without_directories": without_directories,
    }
    environment.globals["static_text"] = _static_text
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment
