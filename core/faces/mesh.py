# SPDX-License-Identifier: GPL-3.0-or-later
"""The points of MediaPipe's face mesh (478 of them) that we use, by number."""

from __future__ import annotations

import numpy as np

point_count = 478

rigid = (33, 133, 362, 263, 168, 6, 98, 327, 2)
"""Eye corners, nose bridge, nose wings and base: points that speech does not move, so that a crop placed by them
tells the net nothing of the lips it replaces."""

rigid_in_crop = np.array(
    [
        (0.237, 0.221),
        (0.398, 0.227),
        (0.602, 0.227),
        (0.763, 0.221),
        (0.500, 0.194),
        (0.500, 0.240),
        (0.401, 0.479),
        (0.599, 0.479),
        (0.500, 0.491),
    ]
)
"""Where they lie in the crop, 0…1 from its left and top edge: the Procrustes mean of 90 people's faces, measured by us,
made symmetric and placed so that the crop's middle row runs under the nose and an open jaw still fits."""

lips_outer = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
lips_inner = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
lips = lips_outer + lips_inner
upper_lip, lower_lip = 13, 14
"""Middle of the inner lips."""
forehead, chin = 10, 152
face_oval = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""The face's outline, clockwise from the forehead as the viewer sees it."""
jaw_line = face_oval[face_oval.index(361) : face_oval.index(132) + 1]
"""Its part from ear to ear under the mouth."""


def lip_opening(points: np.ndarray) -> np.ndarray:
    """Inner-lip opening over face height, (…,), of mesh points (…, 478, 2). Closed lips give about 0.

    The height runs from the forehead to the nose's base, doubled: the chin moves with the very lips that are measured.
    """
    opening = np.linalg.norm(points[..., upper_lip, :] - points[..., lower_lip, :], axis=-1)
    height = 2 * np.linalg.norm(points[..., forehead, :] - points[..., 2, :], axis=-1)
    return opening / height
