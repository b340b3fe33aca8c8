"""The names of concepts as spoken by synthetic voices, as small spectrograms."""

from __future__ import annotations

import io
import subprocess
import tempfile
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

VOICES = {
    "kal": ("flite", "-voice", "kal16"),
    "awb": ("flite", "-voice", "awb"),
    "rms": ("flite", "-voice", "rms"),
    "slt": ("flite", "-voice", "slt"),
    "en-gb": ("espeak-ng", "-v", "en-gb"),
    "en-us-f3": ("espeak-ng", "-v", "en-us+f3"),
}
"""Voices by name: four speakers of Flite, two of eSpeak NG (a British man, an American woman)."""
BANDS, FRAMES = 32, 32
RANGE, STEP = 60.0, 2.0
"""Decibels below the loudest cell that are kept, and the step in which they are stored."""


def speak(voice: str, text: str) -> tuple[int, np.ndarray]:
    """Samples per second and samples in [-1, 1] of a text in a voice."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        program = VOICES[voice]
        say = ["-t", text, "-o", str(path)] if program[0] == "flite" else ["-w", str(path), "--", text]
        subprocess.run([*program, *say], check=True, capture_output=True)
        with wave.open(io.BytesIO(path.read_bytes())) as sound:
            rate, content = sound.getframerate(), sound.readframes(sound.getnframes())
    return rate, np.frombuffer(content, "<i2").astype(np.float64) / 32768


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)


def spectrogram(rate: int, samples: np.ndarray) -> np.ndarray:
    """Log-mel spectrogram, uint8 [band, frame], the highest band first.

    Windows of 25 ms every 10 ms, pre-emphasis 0.97, 32 triangular mel bands from 60 to 7,600 Hz, decibels below the
    loudest cell down to -60, silence at both ends (45 dB below the loudest) cut, time averaged into 32 equal parts.
    0 is -60 dB, 240 is 0 dB, in steps of 2 dB (8 units).
    """
    size, hop, transform = rate // 40, rate // 100, 512 if rate <= 16000 else 1024
    samples = np.append(samples[:1], samples[1:] - 0.97 * samples[:-1])
    starts = range(0, len(samples) - size, hop)
    windows = np.stack([samples[i : i + size] for i in starts]) * np.hanning(size)
    power = np.abs(np.fft.rfft(windows, transform)) ** 2
    at, edges = _mel(np.fft.rfftfreq(transform, 1 / rate)), np.linspace(_mel(60.0), _mel(7600.0), BANDS + 2)
    rising = (at[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - at[None]) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.clip(np.minimum(rising, falling), 0, None)
    # Summed by numpy itself and not by the linear algebra library, whose order of summation depends on the processor.
    level = 10 * np.log10(np.stack([(power * row).sum(1) for row in filters], 1) + 1e-10)
    top = level.max()
    loud = np.flatnonzero(level.max(1) > top - 45)
    level = np.clip(level[loud[0] : loud[-1] + 1] - top + RANGE, 0, RANGE)
    total = np.vstack([np.zeros(BANDS), np.cumsum(level, 0)])
    borders = np.linspace(0, len(level), FRAMES + 1)
    summed = np.stack([np.interp(borders, np.arange(len(level) + 1), total[:, j]) for j in range(BANDS)], 1)
    mean = np.diff(summed, axis=0) * FRAMES / len(level)
    return (np.round(mean.T[::-1] / STEP) * (240 * STEP / RANGE)).astype(np.uint8)


def spectrograms(voice: str, texts: list[str]) -> np.ndarray:
    """Spectrograms of texts, uint8 [text, 32, 32]."""
    # More at once than there may be processors: most of the time goes into starting and waiting.
    with ThreadPoolExecutor(8) as executor:
        return np.stack(list(executor.map(lambda text: spectrogram(*speak(voice, text)), texts)))
