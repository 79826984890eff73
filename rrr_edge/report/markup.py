"""HTML, SVG and Markdown from strings: whatever is not marked as safe is escaped."""

import re
from collections.abc import Iterable
from html import escape
from typing import TypeAlias

# What is not rendered, but keeps GitHub from making mentions of names and links of addresses.
_NOTHING = "<!-- -->"
_MARKDOWN = str.maketrans(
    {c: f"\\{c}" for c in "\\`*_[]|~#"}
    | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " ", "@": f"@{_NOTHING}"}
)
_ADDRESS = re.compile(r"(?<=\w)(?=://)|(?<=www)(?=\.)", re.IGNORECASE)


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Attribute: TypeAlias = str | float | bool | None

# Elements of HTML that have no end.
_VOID = {"meta", "link", "img"}
# Neither XML nor HTML can write these.
_UNWRITABLE = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0), 0xFFFE, 0xFFFF} - {9, 10, 13}, "\ufffd")


def element(name: str, /, *children: str, **attributes: Attribute) -> Markup:
    """One element. Attributes are escaped too; those that are None or False are left out, and True has no value.

    `class_` becomes class, `stroke_width` stroke-width; numbers keep two decimals.
    """
    begin = name + "".join(_attribute(key, value) for key, value in attributes.items())
    return Markup(f"<{begin}>" if name in _VOID else f"<{begin}>{together(children)}</{name}>")


def together(parts: Iterable[str]) -> Markup:
    return Markup("".join(part if isinstance(part, Markup) else _escaped(part) for part in parts))


def plain_markdown(words: str) -> str:
    """Markdown that shows `words` on one line as they are, whatever they hold."""
    return _ADDRESS.sub(_NOTHING, words.translate(_MARKDOWN))


def _attribute(key: str, value: Attribute) -> str:
    key = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {key}"
    text = value if isinstance(value, str) else f"{round(value, 2):g}" if abs(value) < 1e5 else f"{value:.0f}"
    return f' {key}="{_escaped(text)}"'


def _escaped(words: str) -> str:
    return escape(words.translate(_UNWRITABLE))
