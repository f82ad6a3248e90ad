"""Pictures and files of sounds: clips to be played in a page, and attention with the sound that it looks at."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import soundfile
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from sslsim.analysis.examples import Clip, HeadPair
from sslsim.figures.style import COLOURS, STYLE, styled
from sslsim.speech.recording import SAMPLE_RATE, WINDOW

STEP = 80  # samples, 5 ms, from one column of a spectrogram to the next
RANGE = 60.0  # dB from white to black
FADE = 80  # samples at both ends: a clip that begins in the middle of a sound would click
SIZE, DPI = (3.3, 2.7), 130  # inches and dots of the picture of a clip
GREYS, TINTS = 14, 5  # of a clip's picture, whose colours are few: a third of the bytes


@dataclass(frozen=True, eq=False)
class Card:
    """A sound to be played, with a picture of it, as `sslsim.Report.clips` shows it.

    Cards of one `group` and `row` stand together under these headings. `title` says what is heard, `alt` what the
    picture shows. `audio` is a FLAC file, `picture` a PNG file or nothing. `key` is the id by which tables lead here.
    """

    group: str
    row: str
    title: str
    alt: str
    audio: bytes
    picture: bytes = b""
    key: str = ""


def flac(samples: NDArray[np.float32]) -> bytes:
    """Return a FLAC file of samples at 16 kHz, 16 bits, faded in and out over 5 ms; all browsers play it."""
    fade = min(FADE, len(samples) // 2)
    ramp = np.ones(len(samples))
    ramp[:fade] = np.linspace(0, 1, fade, endpoint=False)
    ramp[len(ramp) - fade :] = ramp[:fade][::-1]
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples * ramp, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def spectrogram(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the power of 25 ms every 5 ms in dB below the loudest, (201, n): 0 to 8 kHz in steps of 40 Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, WINDOW // 2), WINDOW)[::STEP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW))) ** 2
    level = 10 * np.log10(np.maximum(power, 1e-10)).T
    return np.maximum(level - level.max(), -RANGE)


def sound_cards(clips: Sequence[Clip], chosen: pd.DataFrame) -> list[Card]:
    """Return each clip as a card, with headings that say what correlates with what.

    `clips` come from `sslsim.analysis.cut_clips`, the pairs `chosen` that they are of from `sslsim.analysis.extremes`.
    """
    cards: list[Card] = []
    for clip in clips:
        moment, pair, of_x = clip.moment, chosen.iloc[clip.moment["pair"]], clip.moment["side"] == "x"
        x, y = (f"{pair[f'model_{s}']}, layer {pair[f'layer_{s}']}, neuron {pair[f'neuron_{s}']}" for s in "xy")
        group = f"{moment['kind'].capitalize()}: {x} and its best partner {y}"
        group += f" (r = {pair.value:.2f}; in random bases {pair.rotated:.2f})"
        row = f"Strongest moments of {x if of_x else y}" + (", turned around" if not of_x and pair.value < 0 else "")
        phone, word = clip.label("phone"), clip.label("word")
        place = f"{moment['utterance']} at {moment['seconds']:.2f} s"
        place += (f", /{phone}/" if phone else "") + (f", in \u201c{word}\u201d" if word else "")
        z = f"z {moment['z']:.1f}, the other {moment['z_other']:.1f}"
        alt = f"Waveform, spectrogram and activations of both neurons around {place}. In the middle {z}."
        key = "-".join(["neuron", *(str(pair[f"{part}_{moment['side']}"]) for part in ("model", "layer", "neuron"))])
        cards.append(Card(group, row, f"{place}: {z}", alt, flac(clip.samples), _picture(clip), key))
    return cards


def _picture(clip: Clip) -> bytes:
    """Draw a clip: waveform under its phones, spectrogram, and activations (solid: the neuron; dashed: the other)."""
    sizes = ["font.size", "xtick.labelsize", "ytick.labelsize", "axes.labelsize"]
    with plt.rc_context(STYLE | dict.fromkeys(sizes, 7)):
        figure = Figure(figsize=SIZE, dpi=DPI)
        canvas = FigureCanvasAgg(figure)
        grid = {"height_ratios": [19, 43, 22], "hspace": 0.03, "left": 0.13, "right": 0.98, "bottom": 0.13, "top": 0.99}
        wave, power, trace = figure.subplots(3, sharex=True, gridspec_kw=grid)
        ends = (clip.begin, clip.begin + len(clip.samples) / SAMPLE_RATE)
        top = max(float(np.abs(clip.samples).max()), 1e-6)
        wave.plot(np.linspace(*ends, len(clip.samples)), clip.samples, color="0.3", linewidth=0.4)
        wave.set(ylim=(-1.1 * top, 1.9 * top), yticks=[])
        for mark in clip.marks[clip.marks.kind == "phone"].itertuples():  # along the top, with a line where it begins
            start, end = max(mark.start, ends[0]), min(mark.end, ends[1])
            wave.axvline(start, color="0.75", linewidth=0.5)
            if end - start > 0.02:  # of one that is cut to less there is no room for its name
                place = ((start + end) / 2, 0.99)
                wave.text(*place, mark.label, transform=wave.get_xaxis_transform(), ha="center", va="top", fontsize=6.5)
        _show_spectrogram(power, clip.samples, ends)
        power.set(yticks=[2, 4, 6], ylabel="kHz")
        trace.axhline(0, color="0.8", linewidth=0.6)
        trace.plot(clip.times, clip.z, color=COLOURS[0], linewidth=1.2)
        trace.plot(clip.times, clip.z_other, color=COLOURS[1], linewidth=1.2, linestyle="--")
        half = max(-ends[0], ends[1])
        trace.set(xlabel="s", ylabel="z", xlim=(-half, half))
        for ax in (wave, power, trace):
            ax.axvline(0, color="black", linewidth=0.5, linestyle=":")
            ax.yaxis.set_label_coords(-0.09, 0.5)
            if ax is not trace:
                ax.tick_params(bottom=False)
                ax.spines["bottom"].set_visible(False)
        wave.spines["left"].set_visible(False)
        canvas.draw()
    file = io.BytesIO()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    image.quantize(palette=_palette(), dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return file.getvalue()


def _palette() -> Image.Image:
    """Return the colours of a clip's picture: greys, and the two lines fading into white."""
    shades = [np.linspace(0, 1, GREYS)[:, None] * np.ones(3)]
    shades += [1 - np.linspace(1, 0, TINTS, endpoint=False)[:, None] * (1 - np.array(c)) for c in COLOURS[:2]]
    image = Image.new("P", (1, 1))
    image.putpalette(np.round(255 * np.vstack(shades)).astype(np.uint8).ravel().tolist())
    return image


def _show_spectrogram(ax: Axes, samples: NDArray[np.float32], ends: tuple[float, float]) -> None:
    extent = (*ends, 0.0, SAMPLE_RATE / 2000)
    ax.imshow(spectrogram(samples), origin="lower", aspect="auto", extent=extent, cmap="Greys", vmin=-RANGE, vmax=0)


@styled()
def head_maps(pair: HeadPair) -> Figure:
    """Draw the attention of two heads on one utterance side by side, its spectrogram along the queries and the keys.

    Attention is in units of a uniform row; each map has its own scale, to the value that 1 % of its cells exceed. The
    stored query rows are evenly spaced, and each fills its share of the axis.
    """
    figure = plt.figure(figsize=(10.4, 5.2))
    seconds = len(pair.samples) / SAMPLE_RATE
    boxes = [(0.07, 0.80, 0.32, 0.12), (0.0, 0.10, 0.06, 0.68), (0.07, 0.10, 0.32, 0.68), (0.40, 0.10, 0.01, 0.68)]
    for left, name, rows in zip((0.06, 0.56), pair.names, pair.maps, strict=True):
        figure.text(left + 0.07, 1.02, name, fontsize=10)
        keys, queries, ax, bar = (figure.add_axes((left + x, y, width, height)) for x, y, width, height in boxes)
        _show_spectrogram(keys, pair.samples, (0.0, seconds))
        keys.set(xlim=(0, seconds), xticks=[], yticks=[])
        for mark in pair.marks[pair.marks.kind == "word"].itertuples():
            keys.text(mark.start, 1.02, mark.label, transform=keys.get_xaxis_transform(), rotation=55, fontsize=6.5)
        along = (0.0, SAMPLE_RATE / 2000, seconds, 0.0)
        queries.imshow(spectrogram(pair.samples).T, aspect="auto", extent=along, cmap="Greys", vmin=-RANGE, vmax=0)
        queries.set(ylim=(seconds, 0), xticks=[], ylabel="query, s")
        edges = pair.step * np.arange(rows.shape[1] + 1), np.linspace(0, seconds, len(rows) + 1)
        uniform = rows * rows.shape[1]
        mesh = ax.pcolormesh(*edges, uniform, cmap="viridis", vmin=0, vmax=np.quantile(uniform, 0.99), rasterized=True)
        ax.set(xlim=(0, seconds), ylim=(seconds, 0), xlabel="key, s", yticklabels=[])
        figure.colorbar(mesh, cax=bar).set_label("attention, in units of a uniform row", fontsize=8)
    return figure


def utterance_card(pair: HeadPair) -> Card:
    """Return the whole utterance of `head_maps`, to be played."""
    words = " ".join(pair.marks[pair.marks.kind == "word"].label.astype(str))
    title = f"{pair.utterance}, {len(pair.samples) / SAMPLE_RATE:.1f} s" + (f": {words}" if words else "")
    return Card("", "", title, "", flac(pair.samples))
