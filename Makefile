# SPDX-License-Identifier: GPL-3.0-or-later
# Needs make and Python 3.11. Every target makes .venv when it is missing or older than the lists of packages.

PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3),python3.11)
run = .venv/bin/python

export VIDEO SPEECH WAV2LIP VIDEOS MANIFEST MINUTES CLIPS

.PHONY: demo test lint extension bench default-model

# build/demo: before.mp4, after.mp4, sheet.png, report.json and the .blend.  Own footage: make demo VIDEO=… SPEECH=…
demo: .venv/.ready
	$(run) examples/demo.py --out build/demo $${VIDEO:+--video "$$VIDEO"} $${SPEECH:+--speech "$$SPEECH"}

# A file's tests stay in one process: what a module's fixtures trained or drew is made once.  At most four processes,
# each of which may hold some gigabytes.
test: .venv/.ready
	$(run) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: .venv/.ready
	$(run) -m ruff check .
	$(run) -m pyright

# build/lip_sync_redub.zip, to be installed in Blender.
extension: .venv/.ready
	$(run) -m lipsync_addon.package build/lip_sync_redub.zip

# build/bench.json.  Against Wav2Lip: make bench WAV2LIP=/path/to/its/checkout
bench: .venv/.ready
	$(run) benchmarks/bench.py --out build/bench.json $${WAV2LIP:+--wav2lip "$$WAV2LIP"}

# The bundled model anew, or what is left of it: make default-model VIDEOS=FOLDER MANIFEST=FILE.csv CLIPS=FOLDER MINUTES=9
default-model: .venv/.ready
	$(run) examples/default_model.py $${VIDEOS:+--videos "$$VIDEOS"} $${MANIFEST:+--manifest "$$MANIFEST"} \
	  $${MINUTES:+--minutes "$$MINUTES"} $${CLIPS:+--clips "$$CLIPS"}

.venv/.ready: pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.version_info[:2] == (3, 11) or sys.exit("Python 3.11 is needed: make PYTHON=/path/to/python3.11 …")'
	"$(PYTHON)" -m venv .venv
	$(run) -m pip install --quiet --constraint constraints.txt --editable '.[train,blender,c2pa,face-alignment,dev]'
	touch $@
