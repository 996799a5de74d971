# SPDX-License-Identifier: GPL-3.0-or-later
"""Training and evaluation of the nets in core: `lipsync-train`."""
