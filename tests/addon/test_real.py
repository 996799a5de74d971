# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole path with nothing replaced: Blender's strip and mixdown, the real worker, a face, a net, the new media."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import footage
import pytest

pytestmark = pytest.mark.blender

repository = Path(__file__).resolve().parents[2]
footage_folder = repository.parent / "shared" / "clips"
clips = sorted(footage_folder.iterdir()) if footage_folder.is_dir() else []
make_clip = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import portrait
portrait.write_clip(Path(sys.argv[2]), 25)
"""
make_net = """
import sys
from pathlib import Path
import torch
from core.nets.checkpoint import save_net
from core.nets.generator import Generator, GeneratorConfig
torch.manual_seed(1)
save_net(Path(sys.argv[1]), Generator(GeneratorConfig(width=0.125, align_blocks=1)), {})
"""


def in_runtime(code: str, *arguments: Path) -> None:
    """Runs code where torch and the examples' packages are, which bpy's Python need not have."""
    python = os.environ["LIPSYNC_TEST_PYTHON"]
    subprocess.run([python, "-c", code, *map(str, arguments)], cwd=repository, check=True)


@pytest.fixture
def shot(real_addon, tmp_path):
    """A second of the public-domain portrait in motion on the timeline, over a spoken sentence."""
    import bpy

    in_runtime(make_clip, repository / "examples", tmp_path / "clip.mp4")
    scene = bpy.context.scene
    scene.render.fps = 25
    editor = scene.sequence_editor_create()
    strips = editor.strips if hasattr(editor, "strips") else editor.sequences
    strip = strips.new_movie(name="shot", filepath=str(tmp_path / "clip.mp4"), channel=1, frame_start=1)
    try:
        speech = strips.new_sound(
            name="speech", filepath=str(repository / "examples" / "speech.flac"), channel=2, frame_start=1
        )
    except RuntimeError as e:
        pytest.skip(f"this bpy has no sound: {str(e).strip()}")
    strip.select, speech.select = True, False
    return strip


def check_new_media(strip, source: Path) -> None:
    """As many frames as before; the mouth's pixels are others, far from the face they are the same."""
    import av
    import numpy as np

    def pictures(path):
        with av.open(str(path)) as container:
            return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]

    old, new = pictures(source), pictures(strip.filepath)
    assert len(old) == len(new) == 25
    assert max(np.abs(a - b).max() for a, b in zip(old, new, strict=True)) > 20
    corner = max(np.abs(a[:100] - b[:100]).mean() for a, b in zip(old, new, strict=True))
    assert corner < 0.5


def test_a_shot_is_dubbed_by_the_real_worker_with_a_net_of_ones_own(real_addon, shot, tmp_path):
    import bpy

    in_runtime(make_net, tmp_path / "net.safetensors")
    preferences = bpy.context.preferences.addons[real_addon.root].preferences
    preferences.model, preferences.device = str(tmp_path / "net.safetensors"), "cpu"
    assert bpy.ops.lipsync.redub() == {"FINISHED"}
    check_new_media(shot, tmp_path / "clip.mp4")
    assert bpy.ops.lipsync.revert() == {"FINISHED"}
    assert shot.filepath == str(tmp_path / "clip.mp4")


def test_two_strips_of_one_movie_are_dubbed_at_once(real_addon, shot, tmp_path):
    """Both workers look for the same faces, and keep them in the same place."""
    import bpy

    in_runtime(make_net, tmp_path / "net.safetensors")
    preferences = bpy.context.preferences.addons[real_addon.root].preferences
    preferences.model, preferences.device, preferences.workers = str(tmp_path / "net.safetensors"), "cpu", 2
    editor = bpy.context.scene.sequence_editor
    strips = editor.strips if hasattr(editor, "strips") else editor.sequences
    second = strips.new_movie(name="second", filepath=shot.filepath, channel=3, frame_start=1)
    second.select = True
    assert bpy.ops.lipsync.redub() == {"FINISHED"}
    assert shot.filepath != second.filepath
    for strip in (shot, second):
        check_new_media(strip, tmp_path / "clip.mp4")


def test_a_shot_with_an_alpha_channel_keeps_it(real_addon, shot, tmp_path):
    """ProRes 4444 and the like: H.264 has no alpha, so the new media need a codec that not every container takes."""
    import av
    import bpy
    import numpy as np

    def alphas(path):
        with av.open(str(path)) as container:
            return [frame.to_ndarray()[..., 3] for frame in rgba(container)]

    def rgba(container):
        return (frame.reformat(width=640, height=360, format="rgba") for frame in container.decode(video=0))

    source = tmp_path / "matte.mov"
    with av.open(str(tmp_path / "clip.mp4")) as opaque, av.open(str(source), "w") as matte:
        stream = matte.add_stream("prores_ks", rate=25, options={"profile": "4444"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuva444p10le"
        for frame in rgba(opaque):
            samples = frame.to_ndarray()
            samples[:, :200, 3] = 0
            new = av.VideoFrame.from_ndarray(samples, format="rgba")
            new.pts, new.time_base = frame.pts, frame.time_base
            matte.mux(stream.encode(new))
        matte.mux(stream.encode(None))
    in_runtime(make_net, tmp_path / "net.safetensors")
    preferences = bpy.context.preferences.addons[real_addon.root].preferences
    preferences.model, preferences.device = str(tmp_path / "net.safetensors"), "cpu"
    shot.filepath = str(source)
    frames = shot.frame_duration
    assert bpy.ops.lipsync.redub() == {"FINISHED"}
    assert shot.filepath != str(source) and shot.frame_duration == frames == 25
    check_new_media(shot, source)
    old, new = alphas(source), alphas(shot.filepath)
    assert old[0].min() == 0 and old[0].max() == 255
    assert all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))


def test_a_shot_is_dubbed_with_the_bundled_net(real_addon, shot, tmp_path):
    import bpy

    bpy.context.preferences.addons[real_addon.root].preferences.device = "cpu"
    assert bpy.ops.lipsync.redub() == {"FINISHED"}
    check_new_media(shot, tmp_path / "clip.mp4")


def test_a_trial_is_a_movie_of_the_moment_with_its_speech_and_the_shot_stays(real_addon, shot, tmp_path):
    import av
    import bpy
    import numpy as np

    bpy.context.preferences.addons[real_addon.root].preferences.device = "cpu"
    scene = bpy.context.scene
    scene.sequence_editor.active_strip = shot
    scene.frame_current = 13
    assert bpy.ops.lipsync.trial(seconds=0.6) == {"FINISHED"}
    assert shot.filepath == str(tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        old = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)][5:20]
    made = Path(bpy.app.tempdir, "lipsync", "clip_lipsync_001.mp4")
    with av.open(str(made)) as container:
        new = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    with av.open(str(made)) as container:
        sound = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
    assert len(new) == 15 and np.abs(sound).max() > 0.05
    assert max(np.abs(a - b).max() for a, b in zip(old, new, strict=True)) > 20
    assert max(np.abs(a[:100] - b[:100]).mean() for a, b in zip(old, new, strict=True)) < 2, "not the same moment"


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_portrait_and_a_speech_are_a_talking_shot(real_addon, shot, tmp_path, kind):
    """One picture held for a second: each of the new ones differs from it at the mouth and nowhere else."""
    import av
    import bpy
    import numpy as np

    def pixels(path):
        with av.open(str(path)) as container:
            return next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)

    still = tmp_path / f"portrait.{kind}"
    with av.open(str(tmp_path / "clip.mp4")) as container:
        next(container.decode(video=0)).save(str(still))
    scene = bpy.context.scene
    editor = scene.sequence_editor
    strips = editor.strips if hasattr(editor, "strips") else editor.sequences
    strips.remove(shot)
    strip = strips.new_image(name="portrait", filepath=str(still), channel=1, frame_start=6)
    setattr(strip, real_addon.strips._handles[1], 31)
    strip.select = True
    bpy.context.preferences.addons[real_addon.root].preferences.device = "cpu"
    assert bpy.ops.lipsync.redub() == {"FINISHED"}
    assert real_addon.strips.visible(strip) == (6, 31) and len(strip.elements) == 25
    old, new = pixels(still), [pixels(Path(strip.directory, element.filename)) for element in strip.elements]
    changed = [np.abs(one - old).max(axis=-1) for one in new]
    limit = 0 if kind == "png" else 8
    assert all(difference[:100].max() <= limit for difference in changed), "it changes far from the face"
    spread = np.ptp(new, axis=0).max(axis=-1)
    assert spread.max() > 30, "the lips do not move"
    assert bpy.ops.lipsync.revert() == {"FINISHED"}
    assert [element.filename for element in strip.elements] == [still.name]
    assert real_addon.strips.visible(strip) == (6, 31)


@pytest.mark.skipif(not clips, reason="no folder ../shared/clips beside the project")
@pytest.mark.parametrize("kind", ["GRID*.mpg", "VRT_1*.mp4"])
def test_real_footage_on_the_timeline_gets_new_lips_and_its_old_ones_back(real_addon, shot, tmp_path, kind):
    """MPEG-1, and a variable frame rate: what Blender counts and shows is what the new media have."""
    import bpy

    source = next(clip for clip in clips if clip.match(kind))
    path = str(shutil.copy(source, tmp_path))
    editor = bpy.context.scene.sequence_editor
    strips = editor.strips if hasattr(editor, "strips") else editor.sequences
    strips.remove(shot)
    shot = strips.new_movie(name="real", filepath=path, channel=1, frame_start=1)
    shot.select = True
    frames = shot.frame_duration
    bpy.context.preferences.addons[real_addon.root].preferences.device = "cpu"
    assert bpy.ops.lipsync.redub() == {"FINISHED"}
    assert shot.filepath != path and shot.frame_duration == frames > 70
    assert shot.elements[0].orig_width > 0
    assert bpy.ops.lipsync.revert() == {"FINISHED"}
    assert shot.filepath == path and shot.frame_duration == frames
    assert Path(path).read_bytes() == source.read_bytes()


def test_a_shot_without_a_face_is_one_sentence_and_stays(real_addon, shot, tmp_path):
    import bpy

    in_runtime(make_net, tmp_path / "net.safetensors")
    preferences = bpy.context.preferences.addons[real_addon.root].preferences
    preferences.model, preferences.device = str(tmp_path / "net.safetensors"), "cpu"
    shot.filepath = str(footage.movie(tmp_path / "bars.mp4", 25))
    with pytest.raises(RuntimeError, match="There is no face in") as caught:
        bpy.ops.lipsync.redub()
    assert "Traceback" not in str(caught.value)
    assert shot.filepath == str(tmp_path / "bars.mp4") and not (tmp_path / "lipsync").exists()
