# SPDX-License-Identifier: GPL-3.0-or-later
"""The sidebar: what it offers and says. An error in drawing leaves the editor without any button.

There is no window here, so the layout is a stand-in that writes down what is drawn into it.
"""

from __future__ import annotations

from types import SimpleNamespace

import footage
import pytest

pytestmark = pytest.mark.blender


class Layout:
    """Takes everything that a UILayout takes, and keeps its words."""

    def __init__(self, words):
        self.words, self.active, self.enabled, self.scale_y = words, True, True, 1.0

    def column(self, align=False):
        return Layout(self.words)

    row = box = column

    def label(self, text="", icon="NONE"):
        self.words.append(text)

    def prop(self, data, name, text=None, icon="NONE"):
        assert name in data.bl_rna.properties
        self.words.append(f"{name}={getattr(data, name)}")

    def prop_search(self, data, name, where, what, text="", icon="NONE"):
        assert name in data.bl_rna.properties and what in where.bl_rna.properties
        self.words.append(f"{name}={getattr(data, name)}")

    def operator(self, name, text="", icon="NONE"):
        self.words.append(f"[{text or name}]")
        return SimpleNamespace()

    def progress(self, factor, text):
        self.words.append(f"{text} {factor}")


@pytest.fixture
def drawn(cut):
    """Draws the panel, and gives its words."""
    import bpy

    def draw(panel="LIPSYNC_PT_sequencer"):
        words = []
        preferences = SimpleNamespace(
            system=SimpleNamespace(ui_scale=1.0), addons=bpy.context.preferences.addons
        )  # without a window its scale is 0
        context = SimpleNamespace(scene=cut.scene, preferences=preferences, region=SimpleNamespace(width=400))
        getattr(cut.addon.panels, panel).draw(SimpleNamespace(layout=Layout(words)), context)
        return "\n".join(words)

    return draw


def test_the_pictures_settings_are_there_with_their_values(cut, drawn):
    cut.scene.lipsync.strength = 0.5
    words = drawn("LIPSYNC_PT_picture").split("\n")
    assert [word.partition("=")[0] for word in words] == list(cut.addon.properties.of_the_picture)
    assert "strength=0.5" in words


def test_it_says_what_to_do_first(cut, drawn):
    assert "Select a movie or image strip" in drawn()


def test_it_offers_to_dub_and_to_go_back(cut, echo, drawn, tmp_path):
    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 90))
    cut.trim(strip, 31, 61)
    cut.speech()
    words = drawn()
    assert "[Re-dub Strip]" in words and "All sound over the strip" in words and "face=largest" in words
    assert cut.redub() == {"FINISHED"}
    assert "Original: clip.mp4" in drawn() and "is longer than" not in drawn()
    cut.trim(strip, 21, 71)
    assert "is longer than" in drawn()
    cut.movie(footage.movie(tmp_path / "other.mp4", 30), start=101)
    assert "[Re-dub 2 Strips]" in drawn()


def test_it_lists_the_people_of_the_active_strip(cut, echo, drawn, tmp_path):
    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 30))
    assert "lipsync.pick_person" not in drawn(), "no strip is active"
    cut.editor.active_strip = strip
    assert "lipsync.pick_person" in drawn() and "lipsync.remove_person" not in drawn()
    for name, speech in (("Ada", "her line"), ("Ben", "")):
        person = strip.lipsync_people.add()
        person.name, person.speech = name, speech
    words = drawn()
    assert words.index("name=Ada") < words.index("speech=her line") < words.index("name=Ben")
    assert words.count("[lipsync.remove_person]") == 2


def test_a_running_job_shows_how_far_it_is_and_how_to_stop_it(cut, drawn, monkeypatch):
    monkeypatch.setattr(cut.addon.operators, "running", SimpleNamespace(text="Making the lips", fraction=0.5))
    assert drawn() == "Making the lips  50% 0.5\n[Cancel]"


def test_a_missing_runtime_is_told_where_the_editor_looks(cut, drawn):
    import bpy

    bpy.context.preferences.addons[cut.addon.root].preferences.python = "/nowhere/python"
    words = drawn()
    assert "/nowhere/python" in words and "[Open Preferences]" in words
