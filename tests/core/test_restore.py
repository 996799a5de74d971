# SPDX-License-Identifier: GPL-3.0-or-later
"""The user's own restoration net: what it gives reaches the lips and nothing else, and a wrong file says so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from core import compose, redub
from core.errors import ModelError
from core.job import RedubJob
from core.restore import Restorer

shape = (240, 320, 3)
angles = np.linspace(0, 2 * np.pi, 22, endpoint=False)
face = np.column_stack([0.5 + 0.36 * np.cos(angles), 0.62 + 0.25 * np.sin(angles)]).astype(np.float32)
to_crop = np.array([[0.01, 0, -1.1], [0, 0.01, -0.7]])


def net(path: Path, kind: str = "Identity", *, size: int = 256, weight: int | None = None, channels: int = 3) -> str:
    """An ONNX file: the picture as it is (Identity), its negative (Neg), or times its second input `w`."""
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, channels, size, size])
    made = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, channels, size, size])
    inputs, nodes = [picture], [helper.make_node(kind, ["input"], ["output"])]
    if weight is not None:
        inputs.append(helper.make_tensor_value_info("w", weight, [1]))
        cast = helper.make_node("Cast", ["w"], ["share"], to=TensorProto.FLOAT)
        nodes = [cast, helper.make_node("Mul", ["input", "share"], ["output"])]
    graph = helper.make_graph(nodes, "net", inputs, [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return str(path)


def laid() -> tuple[compose.Patch, np.ndarray]:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    source = np.stack([columns / 2 + 40, rows / 2 + 60, 90 + 0 * rows], -1).astype(np.uint8)
    crop = np.full((96, 96, 3), (150, 110, 100), np.uint8)
    patch = compose.patch(crop, face, to_crop, shape)
    assert patch is not None
    return patch, source


def test_a_net_that_changes_nothing_changes_nothing_and_one_that_inverts_inverts(tmp_path: Path) -> None:
    patch, source = laid()
    sure = patch.alpha > 0.99
    same = Restorer(net(tmp_path / "same.onnx")).restore(patch, source, to_crop)
    assert np.abs(same.rgb - patch.rgb)[sure].mean() < 1.5
    assert (same.alpha == patch.alpha).all() and (same.x, same.y) == (patch.x, patch.y)
    inverted = Restorer(net(tmp_path / "neg.onnx", "Neg", size=512)).restore(patch, source, to_crop)
    assert np.abs(inverted.rgb - (255 - patch.rgb))[sure].mean() < 1.5


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_codeformers_weight_reaches_the_net(kind: int, tmp_path: Path) -> None:
    patch, source = laid()
    sure = patch.alpha > 0.99
    path = net(tmp_path / "w.onnx", weight=kind)
    grey = Restorer(path, 0.0).restore(patch, source, to_crop).rgb[sure]
    full = Restorer(path, 1.0).restore(patch, source, to_crop).rgb[sure]
    assert np.abs(grey - 127.5).max() < 1 and np.abs(full - patch.rgb[sure]).mean() < 1.5


def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no net")
    wrong = {
        str(tmp_path / "missing.onnx"): "does not exist",
        str(broken): "no ONNX model",
        net(tmp_path / "small.onnx", size=96): "not 256 x 256 or 512 x 512",
        net(tmp_path / "grey.onnx", channels=1): "does not take one RGB picture",
    }
    for path, sentence in wrong.items():
        with pytest.raises(ModelError, match=sentence) as caught:
            Restorer(path)
        assert caught.value.hint
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match="needs onnxruntime") as caught:
        Restorer(net(tmp_path / "good.onnx"))
    assert "pip install" in caught.value.hint


def test_a_job_restores_the_lips_and_a_wrong_net_leaves_nothing_behind(
    make_clip: Callable[..., Path], make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    given = {"video": str(make_clip(6)), "speech": str(make_speech(0.4)), "model": str(tiny_model), "silence": "off"}
    (tmp_path / "made").mkdir()
    debug = tmp_path / "stages"
    output = str(tmp_path / "made" / "out.mkv")
    with pytest.raises(ModelError):
        redub.run(RedubJob(**given, output=output, restore=str(tmp_path / "none.onnx")))  # type: ignore[arg-type]
    assert not list((tmp_path / "made").iterdir())
    path = net(tmp_path / "neg.onnx", "Neg")
    redub.run(RedubJob(**given, output=output, restore=path, debug=str(debug)))  # type: ignore[arg-type]
    names = {p.stem.split("_", 1)[1] for p in debug.glob("000003_*.png")}
    assert {"patch", "restored", "sharpened", "grained", "mask", "before", "after"} <= names
