#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""README.md shows code only as copies of files that the tests run. A block is announced by a comment on the line before:

    <!-- copied from examples/quantize_and_multiply.c -->

and holds the file, or where the file has lines with `README begin` and `README end`, what stands between them. This
checks that the copies are true; with --write it renews them.
"""
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- copied from (\S+) -->\n```\w+\n)(.*?)(\n```)", re.S)


def excerpt(path: str) -> str:
    text = (ROOT / path).read_text()
    marked = re.search(r"^[^\n]*README begin[^\n]*\n(.*?)^[^\n]*README end", text, re.S | re.M)
    return textwrap.dedent(marked.group(1) if marked else text).strip("\n")


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text()
    paths = [match[1] for match in BLOCK.findall(text)]
    if len(paths) < 4:
        print(f"expected copies for C, C++, Python and Swift, found {paths}")
        return 1
    renewed = BLOCK.sub(lambda m: m.group(1) + excerpt(m.group(2)) + m.group(4), text)
    if "--write" in sys.argv:
        readme.write_text(renewed)
    elif renewed != text:
        stale = [m.group(2) for m in BLOCK.finditer(text) if m.group(3) != excerpt(m.group(2))]
        print(f"README.md differs from {', '.join(stale)}: run scripts/check_readme.py --write")
        return 1
    print(f"README.md: {len(paths)} copies are true: {', '.join(paths)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
