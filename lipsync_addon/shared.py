# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of `core` that Blender's Python loads: standard library only.

`core` lies beside this package, in the extension (where both are sub-packages) and in a checkout (where they are not).
"""

if __name__.count(".") > 1:
    from .. import core  # pyright: ignore[reportAttributeAccessIssue]
    from ..core import client, errors, job  # pyright: ignore[reportMissingImports]
else:
    import core
    from core import client, errors, job

__all__ = ["client", "core", "errors", "job"]
