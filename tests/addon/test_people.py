# SPDX-License-Identifier: GPL-3.0-or-later
"""Two people in one shot: the editor clicks on a face in the preview, and that one says the speech.

Where Blender shows which pixel is not computed here but seen: a dot of known places is looked for in Blender's own
rendered pictures.
"""

from __future__ import annotations

from fractions import Fraction

import footage
import numpy as np
import pytest

pytestmark = pytest.mark.blender

size = 120, 90
"""Of the source."""
count = 30


def dot(frame):
    """Where the dot is: each frame has a place of its own."""
    return 30 + 2 * frame, 40 + frame % 10


def dotted(frame):
    rgb = np.full((size[1], size[0], 3), 90, np.uint8)
    x, y = dot(frame)
    rgb[y - 3 : y + 4, x - 3 : x + 4] = (250, 20, 20)
    return rgb


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mkv"
    with footage.av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv444p"
        for i in range(count):
            container.mux(stream.encode(footage.av.VideoFrame.from_ndarray(dotted(i), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def seen_at(cut, frame):
    """Where in the preview Blender shows the dot at a timeline frame, as a click would tell it."""
    cut.shown(frame, frame, "seen")
    with footage.av.open(str(cut.folder / "seen" / f"{frame:04d}.png")) as container:
        rgb = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    rows, columns = np.nonzero(rgb[..., 0] - rgb[..., 1] > 80)
    assert len(rows), "the dot is out of the picture"
    render = cut.scene.render
    aspect = render.pixel_aspect_x / render.pixel_aspect_y
    return (columns.mean() + 0.5 - rgb.shape[1] / 2) * aspect, rgb.shape[0] / 2 - rows.mean() - 0.5


def pick(cut, strip, frame):
    """What a click on the dot adds: frame, x and y."""
    import bpy

    cut.scene.frame_set(frame)
    cut.editor.active_strip = strip
    place = seen_at(cut, frame)
    assert bpy.ops.lipsync.pick_person(place=place) == {"FINISHED"}
    text = strip.lipsync_people[-1].face
    assert text.startswith("at:")
    return [int(number) for number in text[3:].split(",")]


@pytest.mark.parametrize("how", ["plain", "moved", "scaled", "turned", "mirrored", "trimmed", "meta", "wide pixels"])
def test_a_click_means_the_pixel_that_blender_shows_there(cut, clip, how):
    cut.scene.render.resolution_x, cut.scene.render.resolution_y = 320, 200
    strip = cut.movie(clip, start=11)
    at, change = 20, strip.transform
    if how == "moved":
        change.offset_x, change.offset_y = 40, -25
    elif how == "scaled":
        change.scale_x, change.scale_y, change.origin = 1.8, 1.5, (0.2, 0.7)
    elif how == "turned":
        change.rotation, change.scale_x, change.offset_y = 0.7, 1.4, 11
    elif how == "mirrored":
        strip.use_flip_x = strip.use_flip_y = True
        change.offset_x, change.rotation = 30, 0.3
    elif how == "trimmed":
        cut.trim(strip, 15, 36)
        strip.crop.min_x = 10
    elif how == "meta":
        meta = cut.strips.new_meta(name="meta", channel=3, frame_start=11)
        change.scale_x = change.scale_y = 1.3
        strip.move_to_meta(meta)
        at = 11  # a meta strip that a script makes plays only its first frame before Blender 5
        meta.transform.offset_x, meta.transform.scale_x, meta.transform.rotation = 20, 0.8, -0.2
        meta.use_flip_x = True
    elif how == "wide pixels":
        cut.scene.render.pixel_aspect_x, cut.scene.render.pixel_aspect_y = 3, 2
    frame, x, y = pick(cut, strip, at)
    assert frame == at - 11
    assert np.hypot(x - dot(frame)[0], y - dot(frame)[1]) <= 1.5


def test_a_click_into_a_dubbed_shot_counts_in_the_original(cut, echo, clip):
    """The new media begins later than the original; the next dub is made of the original all the same."""
    long = footage.movie(cut.folder / "long.mp4", 120)
    strip = cut.movie(long)
    cut.trim(strip, 61, 91)
    cut.speech()
    assert cut.redub() == {"FINISHED"} and cut.jobs(echo)[0]["start_frame"] == 60
    cut.scene.frame_set(70)
    cut.editor.active_strip = strip
    import bpy

    assert bpy.ops.lipsync.pick_person(place=(-100.0, 20.0)) == {"FINISHED"}
    assert strip.lipsync_people[0].face == "at:69,60,28"


def test_each_of_two_people_says_a_speech_of_their_own(cut, echo, clip):
    import bpy

    strip = cut.movie(footage.movie(cut.folder / "two.mp4", 50))
    cut.speech(name="for her", level=3000)
    cut.speech(name="for him", level=9000, channel=9, seconds=1.0)
    cut.editor.active_strip = strip
    cut.scene.frame_set(5)
    for place in ((-50, 10), (60, 10)):
        assert bpy.ops.lipsync.pick_person(place=place) == {"FINISHED"}
    assert [person.name for person in strip.lipsync_people] == ["Person 1", "Person 2"]
    with pytest.raises(RuntimeError, match="Choose a speech for each"):
        cut.redub()
    for person, speech in zip(strip.lipsync_people, ("for her", "for him"), strict=True):
        person.speech = speech
    assert cut.redub() == {"FINISHED"}
    (job,) = cut.jobs(echo)
    assert job["face"] == "at:4,110,38"
    ((face, _, start),) = job["others"]
    assert face == "at:4,220,38" and Fraction(start) == Fraction(job["speech_start"])
    if cut.addon.speech.mix.__module__ != "timeline":  # where this bpy has sound
        loudest = np.abs(footage.samples(echo / "0.wav").astype(int)).max()
        assert 2500 < loudest < 3500, "the first says the first speech and nothing else"


def test_one_picked_person_says_what_the_panel_says_and_is_no_longer_the_largest(cut, echo, clip):
    import bpy

    strip = cut.movie(footage.movie(cut.folder / "two.mp4", 50))
    cut.speech()
    cut.editor.active_strip = strip
    assert bpy.ops.lipsync.pick_person(place=(60, 10)) == {"FINISHED"}
    assert cut.redub() == {"FINISHED"}
    assert bpy.ops.lipsync.remove_person(index=0) == {"FINISHED"} and not len(strip.lipsync_people)
    assert cut.redub() == {"FINISHED"}
    assert [job["face"] for job in cut.jobs(echo)] == ["at:0,220,38", "largest"]
    assert not any(job["others"] for job in cut.jobs(echo))


def test_people_stay_with_the_strip_when_the_film_is_saved_and_opened(cut, echo, clip):
    """Picks that are lost with the file would have to be made anew for each version of the film."""
    import bpy

    strip = cut.movie(footage.movie(cut.folder / "two.mp4", 50))
    cut.speech(name="her line")
    cut.editor.active_strip = strip
    bpy.ops.lipsync.pick_person(place=(60, 10))
    strip.lipsync_people[0].name, strip.lipsync_people[0].speech = "Ada", "her line"
    bpy.ops.wm.save_as_mainfile(filepath=str(cut.folder / "film.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(cut.folder / "film.blend"))
    (strip,) = [s for s in cut.addon.strips.all_strips(bpy.context.scene) if s.type == "MOVIE"]
    (person,) = strip.lipsync_people
    assert (person.name, person.face, person.speech) == ("Ada", "at:0,220,38", "her line")


def test_clicks_that_mean_nobody_are_one_sentence_and_add_nothing(cut, echo, clip):
    import bpy

    strip = cut.movie(clip, start=11)
    cut.editor.active_strip = strip
    cut.scene.frame_set(5)
    with pytest.raises(RuntimeError, match="is not seen at frame 5"):
        bpy.ops.lipsync.pick_person(place=(0, 0))
    cut.scene.frame_set(15)
    with pytest.raises(RuntimeError, match="not in the picture of the strip “shot”"):
        bpy.ops.lipsync.pick_person(place=(150, 0))
    strip.transform.scale_x = 0
    with pytest.raises(RuntimeError, match="not in the picture"):
        bpy.ops.lipsync.pick_person(place=(10, 0))
    assert not len(strip.lipsync_people)
    cut.editor.active_strip = None
    assert not bpy.ops.lipsync.pick_person.poll()


@pytest.mark.parametrize("face", ["", "at:1,2", "at:1,2,3;rm", "track:1\n", "largest; x", "at:-1,2,3"])
def test_a_blend_file_with_other_words_in_a_pick_is_refused(cut, echo, clip, face):
    strip = cut.movie(footage.movie(cut.folder / "two.mp4", 50))
    cut.speech()
    strip.lipsync_people.add().face = face
    with pytest.raises(RuntimeError, match="has no place in the picture"):
        cut.redub()
    assert not cut.jobs(echo)


@pytest.mark.parametrize("part", ["second", "first", "far"])
def test_a_person_picked_before_the_split_is_known_in_both_parts(cut, echo, tmp_path, part):
    """The part without the click failed with advice for the command line, though the pick was there to see."""
    frames = 400 if part == "far" else 120
    strip = cut.movie(footage.movie(tmp_path / "long.mp4", frames), start=1)
    cut.speech(seconds=20)
    person = strip.lipsync_people.add()
    person.name, person.face = "Anna", "at:110,60,40" if part == "first" else "at:4,60,40"
    right = strip.split(frame=46 if part != "far" else 351, split_method="SOFT")
    chosen = strip if part == "first" else right
    for each in (strip, right):
        each.select = each == chosen
    if part == "far":
        cut.addon.strips.reach = 10
        with pytest.raises(RuntimeError, match=r"picked in frame 4 .* frames 350 to 399 that .* pick them again"):
            cut.redub()
        assert not cut.jobs(echo)
        return
    first, end = cut.addon.strips.visible(chosen)
    before = cut.shown(first, end - 1, "before")
    assert cut.redub() == {"FINISHED"}
    (job,) = cut.jobs(echo)
    made = range(job["start_frame"], job["start_frame"] + (job["frame_count"] or frames))
    assert int(person.face[3:].split(",")[0]) in made and set(before) <= set(made)
    assert cut.shown(first, end - 1, "after") == [n | footage.dubbed for n in before]
    assert not cut.addon.strips.outgrown(chosen)


def test_a_pick_does_not_make_more_than_up_to_it(cut, echo, tmp_path):
    strip = cut.movie(footage.movie(tmp_path / "long.mp4", 200), start=1)
    cut.trim(strip, 101, 121)
    cut.speech()
    strip.lipsync_people.add().face = "at:90,60,40"
    assert cut.redub() == {"FINISHED"}
    (job,) = cut.jobs(echo)
    assert (job["start_frame"], job["frame_count"]) == (90, 30)
    assert cut.shown(101, 120, "after") == [n | footage.dubbed for n in range(100, 120)]
