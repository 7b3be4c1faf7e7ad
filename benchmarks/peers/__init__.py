# SPDX-License-Identifier: Apache-2.0
"""This library's 4-bit products beside those of other libraries, on one machine, in one run.

python -m peers --help
"""
