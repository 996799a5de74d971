# SPDX-License-Identifier: GPL-3.0-or-later
# Blender's API is made when it starts: to pyright, all of it is Any.
from typing import Any

def __getattr__(name: str) -> Any: ...
