# SPDX-License-Identifier: Apache-2.0
"""Texts of HTML pages: what a reader sees, a paragraph a line, without menus."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

BREAKS = {"p", "div", "li", "h1", "h2", "h3", "h4", "h5", "h6", "br", "pre", "tr", "dt", "dd", "blockquote", "title", "ul", "ol"}
HIDDEN = {"script", "style", "head"}


class _Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.lines = [""]
        self.hidden = 0
        self.exact = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in BREAKS:
            self.lines.append("")
        self.hidden += tag in HIDDEN
        self.exact += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in BREAKS:
            self.lines.append("")
        self.hidden -= tag in HIDDEN
        self.exact -= tag == "pre"

    def handle_data(self, data: str) -> None:
        if self.hidden:
            return
        if self.exact:
            first, *others = data.split("\n")
            self.lines[-1] += first
            self.lines.extend(others)
        else:
            self.lines[-1] += re.sub(r"\s+", " ", data)


def page_text(path: Path) -> str:
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8", errors="replace"))
    return "\n".join(line for line in (line.strip() for line in reader.lines) if line)


def folder_text(folder: Path) -> str:
    """Of all pages in the order of their names."""
    return "\n\n".join(page_text(path) for path in sorted(folder.glob("*.html")))
