# SPDX-License-Identifier: Apache-2.0
"""The text of HTML pages: no tags, and one space for any space."""

from __future__ import annotations

import html
import re
from pathlib import Path


def page_text(page: str) -> str:
    visible = re.sub(r"<(script|style|head)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", visible))).strip()


def folder_text(folder: Path) -> str:
    """Of all pages in the order of their names."""
    return " ".join(page_text(path.read_text(encoding="utf-8", errors="replace")) for path in sorted(folder.glob("*.html")))
