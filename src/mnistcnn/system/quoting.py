"""Quote commands that are shown to the user, so that they can be pasted into a shell."""

import re
import shlex
from collections.abc import Iterable, Sequence


def format_command(module: str, arguments: Sequence[str]) -> str:
    """Return ``python -m MODULE ARGUMENTS`` with the arguments quoted for the shell."""
    return join_arguments(["python", "-m", module, *arguments])


def join_arguments(arguments: Iterable[str]) -> str:
    """Return the arguments in one line, each quoted for the shell if necessary."""
    return " ".join(map(quote_argument, arguments))


def quote_argument(text: str) -> str:
    """Return ``text`` quoted for the shell if necessary, in double quotes if that is readable."""
    if "'" in text and not re.search(r'["$`\\!]', text):
        return f'"{text}"'
    return shlex.quote(text)


def override(key: str, value: object) -> str:
    """Return ``key=value``, with the value quoted for Hydra's grammar if necessary.

    For values that are text, such as the name of a directory: lists and numbers in text are quoted
    as well, so that Hydra does not parse them.
    """
    return f"{key}={_quote_value(str(value))}"


def _quote_value(text: str) -> str:
    is_plain = re.fullmatch(r"(\.{0,2}/|[A-Za-z_])[\w/.+@%-]*", text, re.ASCII)
    if is_plain and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    # a backslash is an escape only before a quote
    quoted = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + match[2].replace("'", "\\'"), text)
    return f"'{quoted}'"
