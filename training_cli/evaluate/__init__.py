# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync-train evaluate`: how good is a model? `lips` measures the lips alone, `table` is the paper's Table 1."""
