# SPDX-License-Identifier: Apache-2.0
"""`python -m peers`."""

from .cli import app

app(prog_name="peers")
