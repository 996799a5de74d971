# SPDX-License-Identifier: GPL-3.0-or-later
"""The nets of LPIPS-AttnWav2Lip."""
