"""The examples, run as a user runs them; cameras and microphones are stood in for by modules of the same interface."""

from __future__ import annotations

import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"

PICAMERA2 = """
import numpy as np
class Picamera2:
    def __enter__(self): self.frames = 0; return self
    def __exit__(self, *error): pass
    def create_preview_configuration(self, main): assert main == {"size": (640, 480), "format": "BGR888"}; return main
    def start(self, configuration): pass
    def capture_array(self):
        self.frames += 1
        if self.frames > 2: raise KeyboardInterrupt
        frame = np.zeros((480, 640, 3), np.uint8)
        frame[..., self.frames] = 220
        return frame
"""

SOUNDDEVICE = """
import numpy as np
class InputStream:
    def __init__(self, samplerate, channels, dtype): assert (samplerate, channels, dtype) == (8000, 1, "float32")
    def __enter__(self): self.at = 0; return self
    def __exit__(self, *error): pass
    def read(self, count):
        if self.at > 9000: raise KeyboardInterrupt
        t = np.arange(self.at, self.at + count); self.at += count
        return np.sin(2 * np.pi * 3000 * t / 8000).astype(np.float32)[:, None], False
"""


def run(script: str, *arguments: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    search = [str(path)] if path else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*search, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def tone(path: Path, hertz: float) -> Path:
    samples = (20000 * np.sin(2 * np.pi * hertz * np.arange(4800) / 8000)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    return path


@pytest.mark.parametrize("script", ["camera_classifier.py", "keyword_spotter.py"])
def test_short(script: str) -> None:
    assert len((EXAMPLES / script).read_text().splitlines()) < 40


def test_camera_classifier_on_a_folder(colour_bundle: Path, tmp_path: Path) -> None:
    for index, place in enumerate(("red.png", "class/green.png", "blue.png")):
        pixels = np.full((30, 40, 3), 20, np.uint8)
        pixels[..., index] = 230
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / place)
    (tmp_path / "notes.txt").write_text("no image")
    np.save(tmp_path / "array.npy", np.zeros((30, 40, 3), np.uint8))
    result = run("camera_classifier.py", colour_bundle, tmp_path)
    assert result.returncode == 0, result.stderr
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [line[0] for line in lines] == ["blue.png", "class/green.png", "red.png"]
    assert [line[1].split()[0] for line in lines] == ["blue", "green", "red"]
    assert all(len(line) == 4 for line in lines)


def test_camera_classifier_on_a_camera(colour_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "picamera2.py").write_text(PICAMERA2)
    result = run("camera_classifier.py", colour_bundle, path=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["green", "blue"]


def test_keyword_spotter_on_files(pitch_bundle: Path, tmp_path: Path) -> None:
    result = run("keyword_spotter.py", pitch_bundle, tone(tmp_path / "a.wav", 300), tone(tmp_path / "b.wav", 3000))
    assert result.returncode == 0, result.stderr
    assert [line.split("\t")[1] for line in result.stdout.splitlines()] == ["low", "high"]


def test_keyword_spotter_on_a_microphone(pitch_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text(SOUNDDEVICE)
    result = run("keyword_spotter.py", pitch_bundle, path=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].split("\t")[:2] == ["microphone", "high"]


def test_errors_are_one_line(colour_bundle: Path, pitch_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.png").write_text("no picture")
    for result, message in (
        (run("camera_classifier.py", tmp_path / "none.edge", tmp_path), "none.edge: no such file"),
        (run("camera_classifier.py", colour_bundle, tmp_path / "folder"), "not an image"),
        (run("camera_classifier.py", colour_bundle, tmp_path / "none"), "no folder with images"),
        (run("camera_classifier.py", colour_bundle), "sudo apt install python3-picamera2"),
        (run("keyword_spotter.py", tmp_path / "none.edge"), "none.edge: no such file"),
        (run("keyword_spotter.py", pitch_bundle, tmp_path / "none.wav"), "none.wav: no such WAV file"),
        (run("keyword_spotter.py", pitch_bundle), "pip install sounddevice"),
    ):
        assert result.returncode == 1 and message in result.stderr
        assert result.stderr.count("\n") == 1, result.stderr
    usage = run("keyword_spotter.py")
    assert usage.returncode == 1 and usage.stderr.startswith("Spots keywords")
