# SPDX-License-Identifier: Apache-2.0
"""Definitions and example sentences from WordNet's data files (Debian's package wordnet-base)."""
from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("/usr/share/wordnet")


@dataclass
class Gloss:
    words: str
    definition: str
    examples: list[str]


def read_glosses() -> list[Gloss]:
    """All synsets in the order of the files: about 117,000."""
    glosses = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (FOLDER / f"data.{part}").read_text(encoding="utf-8", errors="replace").splitlines():
            if not line.startswith("  "):  # the licence
                glosses.append(parse(line))
    return glosses


def parse(line: str) -> Gloss:
    fields, _, text = line.partition(" | ")
    columns = fields.split()
    count = int(columns[3], 16)
    words = ", ".join(word.replace("_", " ") for word in columns[4 : 4 + 2 * count : 2])
    definition = text.split('"', 1)[0].strip(" ;")
    return Gloss(words, definition or text.strip(), re.findall(r'"([^"]+)"', text))


def sample(glosses: list[Gloss], count: int) -> list[Gloss]:
    """A fixed choice of those that have an example of more than two words, in the order of the files."""
    usable = [i for i, g in enumerate(glosses) if g.examples and len(g.examples[0].split()) > 2]
    return [glosses[i] for i in sorted(random.Random(2026).sample(usable, min(count, len(usable))))]
