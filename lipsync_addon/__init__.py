# SPDX-License-Identifier: GPL-3.0-or-later
"""The Blender side of Lip Sync Redub: reads strips, has the worker process re-dub them, swaps their media.

Only `register` needs bpy, so that packaging and the tests' helpers can import this package without it.
"""


def register() -> None:
    """Adds the panels, operators, settings and the `lipsync` command to Blender."""
    from . import headless, operators, panels, people, pick, preferences, properties, trial

    for module in (properties, people, preferences, operators, trial, pick, panels, headless):
        module.register()


def unregister() -> None:
    """Takes them away again and ends a running worker."""
    from . import headless, operators, panels, people, pick, preferences, properties, trial

    for module in (headless, panels, pick, trial, operators, preferences, people, properties):
        module.unregister()
