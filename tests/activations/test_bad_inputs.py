"""What users bring that cannot be used: each is refused, or left out, in one line that names it and says why."""

from __future__ import annotations

import json
import re
import shutil
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import tone
from safetensors.torch import load_file, save_file

from sslsim.activations.selection import check_pairable
from sslsim.activations.store import open_store
from sslsim.activations.study import Study
from sslsim.encoders.lineup import Checkpoint
from sslsim.errors import SslsimError
from sslsim.speech.corpus import Subset
from sslsim.speech.index import Segmentation

TABLE = '[[checkpoint]]\nname = "a"\nsource = "org/a"\n'


@dataclass
class World:
    """Where a row may make what it takes."""

    folder: Path
    checkpoints: Path
    corpus: Path
    clean: Path

    def extract(self, device: str = "cpu", **changes: Any) -> Any:
        asked = {"lineup": self.checkpoints / "lineup.toml", "corpus": self.corpus, "checkpoints": ("hubert-post",)}
        return Study(**asked | {"queries": 2} | changes).extract(self.folder / "out", device=device)

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path


# --- sounds: among good ones, in a folder


def sound(samples, rate=16_000, name="bad.wav", **options):
    """Write samples as they are."""

    def make(folder):
        soundfile.write(folder / name, samples() if callable(samples) else samples, rate, **options)

    return make


def cut(name, share, **options):
    """Write a good sound and keep a share of the file, or so many bytes."""

    def make(folder):
        soundfile.write(folder / name, tone(9, 32_000), 16_000, **options)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content)) if share < 1 else share])

    return make


def content(content, name="bad.wav"):
    """Write bytes."""
    return lambda folder: (folder / name).write_bytes(content)


def spoilt(value):
    """Return a sound with one sample that is none."""

    def samples():
        made = tone(9, 8_000)
        made[4_321] = value
        return made

    return samples


def header_only(folder):
    with wave.open(str(folder / "bad.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(16_000))
    (folder / "bad.wav").write_bytes((folder / "bad.wav").read_bytes()[:44])


def damaged_flac(folder):
    soundfile.write(folder / "bad.flac", tone(9, 32_000), 16_000)
    made = bytearray((folder / "bad.flac").read_bytes())
    made[20_000:20_200] = bytes(200)
    (folder / "bad.flac").write_bytes(made)


def of_no_rate(folder):
    soundfile.write(folder / "bad.wav", tone(9, 8_000), 16_000)
    made = bytearray((folder / "bad.wav").read_bytes())
    made[24:28] = bytes(4)
    (folder / "bad.wav").write_bytes(made)


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9
SHORT = r"shorter than one frame \(400 samples\)$"
UNKNOWN = r"^not audio, or damaged: Format not recognised\.$"
SILENT = "^silent: no sample is further from the mean than the last of 16 bits$"

SOUNDS = [
    ("an empty file", content(b""), "^empty: 0 bytes$"),
    ("399 samples", sound(tone(9, 399)), f"^399 samples at 16 kHz, {SHORT}"),
    ("too short once resampled", sound(tone(9, 1_197), 48_000), f"^399 samples at 16 kHz, {SHORT}"),
    ("no samples", sound(np.zeros(0)), "^holds no samples$"),
    ("only a wav's header", header_only, "^cut off: 0 of 16,000 bytes of samples are there$"),
    ("half a wav", cut("bad.wav", 0.5), r"^cut off: 31,978 of 64,000 bytes of samples are there$"),
    ("a wav within its header", cut("bad.wav", 30), "^cut off: it ends before its samples$"),
    ("a wav less one byte", cut("bad.wav", 64_043), "^cut off: 63,999 of 64,000 bytes of samples are there$"),
    ("half a flac", cut("bad.flac", 0.5), "^not audio, or damaged: .*lost sync"),
    ("a flac with a hole", damaged_flac, "^not audio, or damaged: .*flac decoder"),
    ("half an ogg", cut("bad.ogg", 0.5), "^cut off: its last page is (incomplete|not there)$"),
    ("half an opus", cut("bad.opus", 0.5, format="OGG", subtype="OPUS"), "^cut off: its last page is incomplete$"),
    ("half an mp3", cut("bad.mp3", 0.5), r"^cut off: [\d,]+ of 32,000 samples can be read$"),
    ("an mp3's first bytes", cut("bad.mp3", 60), UNKNOWN),
    ("half an aiff, called wav", cut("bad.wav", 0.5, format="AIFF"), "^cut off: 31,981 of 64,008 bytes of samples are"),
    (
        "half a sphere file",
        cut("bad.WAV", 0.5, format="NIST"),
        "^cut off: 31,488 of 64,000 bytes of samples are there$",
    ),
    ("text called wav", content(b"this is no sound\n" * 99), UNKNOWN),
    ("text called flac", content(b"neither is this\n" * 99, "bad.flac"), UNKNOWN),
    ("a picture", content(PNG, "bad.mp3"), UNKNOWN),
    ("a web page instead of a download", content(b"<!DOCTYPE html><title>404</title>", "bad.ogg"), UNKNOWN),
    ("null bytes", content(bytes(9_999)), UNKNOWN),
    ("a wav of no rate", of_no_rate, "^not audio, or damaged: Internal error"),
    ("a folder", lambda folder: (folder / "bad.wav").mkdir(), "^a folder, not a file$"),
    ("a link to nothing", lambda folder: (folder / "bad.wav").symlink_to("absent.wav"), "^no such file$"),
    ("zeros", sound(np.zeros(8_000)), SILENT),
    ("a constant", sound(np.full(8_000, 0.25)), SILENT),
    ("a constant to be resampled", sound(np.full(22_050, 0.25), 22_050), SILENT),
    ("channels that cancel", sound(lambda: np.stack([tone(9, 8_000), -tone(9, 8_000)], 1)), "^its channels cancel "),
    ("not a number", sound(spoilt(np.nan), subtype="FLOAT"), "^sample 4321 is NaN or infinite$"),
    ("infinite", sound(spoilt(-np.inf), subtype="FLOAT"), "^sample 4321 is NaN or infinite$"),
    ("huge", sound(spoilt(1e30), subtype="FLOAT"), r"^sample 4321 is larger than 1e\+12$"),
    ("too long", sound(lambda: tone(9, 48_000)), r"^3\.0 s, longer than longest_seconds = 2$"),
]


# --- the rest: what is asked for


def options(**options):
    """Ask for an extraction that cannot be."""
    return lambda world: world.extract(**options)


def manifest(name, text):
    """Write a manifest and extract it."""
    return lambda world: world.extract(corpus=world.write(name, text))


def lineup(text):
    """Write a lineup and extract it."""
    return lambda world: world.extract(lineup=world.write("lineup.toml", text), checkpoints=())


def checkpoint(spoil):
    """Spoil a copy of a checkpoint and extract with it."""

    def make(world):
        folder = world.folder / "copy"
        shutil.copytree(world.checkpoints / "hubert-post", folder)
        spoil(folder)
        return world.extract(lineup=[Checkpoint("x", str(folder))], checkpoints=())

    return make


def settings(name, **changes):
    """Change a checkpoint's settings."""

    def spoil(folder):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))

    return spoil


def weights(change):
    """Change a checkpoint's weights."""

    def spoil(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return spoil


def infinite(tensors):
    tensors["encoder.layers.1.final_layer_norm.bias"][3] = float("inf")


def store(spoil, use=lambda s: s.verify()):
    """Spoil a copy of a store, open and use it."""

    def make(world):
        folder = shutil.copytree(world.clean, world.folder / "store")
        spoil(folder)
        return use(open_store(folder))

    return make


def flipped(folder):
    made = bytearray((folder / "shard_0000.bin").read_bytes())
    made[99] ^= 1
    (folder / "shard_0000.bin").write_bytes(made)


def older(folder):
    path = folder / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))


def empty_folder(world):
    (world.folder / "speech").mkdir()
    return world.extract(corpus=world.folder / "speech")


def nothing_good(world):
    (world.folder / "speech").mkdir()
    soundfile.write(world.folder / "speech" / "z.wav", np.zeros(9_000), 16_000)
    return world.extract(corpus=world.folder / "speech")


def other_corpus(world):
    (other,) = world.extract(subset=Subset(max_utterances=2))
    shutil.move(other.root, world.folder / "other")
    shutil.rmtree(world.folder / "out")
    check_pairable(open_store(world.clean), open_store(world.folder / "other"))


AGAIN = "; delete this folder and extract again$"
CIRCLE = TABLE + 'seed_of = "b"\n' + TABLE.replace('"a"', '"b"') + 'seed_of = "a"\n'
SAME = "id,path\nu1,a.wav\nu1,b.wav\n"

CALLS = [
    ("no corpus", options(corpus="nowhere"), "^corpus 'nowhere': no such folder or manifest$"),
    ("a folder without audio", empty_folder, r"speech': no audio in this folder \(looked for \.wav, \.flac, \.ogg"),
    ("no good file at all", nothing_good, "^no utterance of the corpus can be used: 'z': silent: "),
    ("a corpus of a wrong type", options(corpus=["a.wav"]), "^corpus of type list: give a folder, a manifest, or one"),
    ("a workbook", manifest("m.xlsx", "PK"), r"m.xlsx': neither a folder nor a manifest \(\.csv, \.tsv, \.jsonl, "),
    ("an empty manifest", manifest("m.csv", ""), "m.csv': no column 'path'; its columns are none; "),
    ("a manifest without path", manifest("m.csv", "id,file\n1,a\n"), "no column 'path'; its columns are id, file; "),
    ("a manifest without rows", manifest("m.csv", "id,path\n"), "m.csv': lists no utterance$"),
    ("a row without path", manifest("m.csv", "id,path\nu1,\n"), "m.csv': row 1 has no path$"),
    ("a row too long", manifest("m.csv", "id,path\nu1,a,b\n"), "cannot be read: its rows have more values than there"),
    ("an id twice", manifest("m.csv", SAME), "m.csv': id 'u1' occurs twice; every utterance needs its own$"),
    ("a manifest in Latin-1", manifest("m.csv", "id,path\nä,a\n".encode("latin-1")), "cannot be read: .*utf-8"),
    ("torn json", manifest("m.jsonl", '{"id": 1, "pa'), "m.jsonl': cannot be read: line 1 is not JSON: "),
    (
        "a list in json",
        manifest("m.jsonl", "[1]"),
        "m.jsonl': cannot be read: line 1 is not an object with id and path$",
    ),
    (
        "frames 0",
        options(frames=1),
        "^frames is 1; it must be a whole number, 2 or more, or",
    ),
    (
        "queries in words",
        options(queries="all"),
        "^queries is 'all'; it must be a whole number, 0 or more, or None for",
    ),
    ("half a query", options(queries=2.5), "^queries is 2.5; it must be a whole number, 0 or more"),
    ("strict in words", options(strict="no"), "^strict is 'no'; it must be true or false$"),
    (
        "few seconds",
        options(subset=Subset(max_seconds=0.1)),
        "^max_seconds is 0.1; no utterance is so short, give more$",
    ),
    ("whole numbers", options(dtype="int8"), "^dtype is 'int8'; known: float32, bfloat16, float16$"),
    ("no such device", options(device="abacus"), "^device 'abacus' cannot be used: "),
    (
        "a checkpoint misspelt",
        options(checkpoints=("huber-pre",)),
        "no checkpoint 'huber-pre' in the lineup; did you mean",
    ),
    ("an unknown twin", options(checkpoints=("untrained:x",)), "^no checkpoint 'x' in the lineup; known: hubert-post,"),
    ("no lineup", options(lineup="nowhere.toml"), "^lineup 'nowhere.toml': cannot be read: No such file or directory$"),
    ("torn toml", lineup("[[checkpoint"), "lineup.toml': not TOML: "),
    ("an empty lineup", lineup(""), r"lineup.toml': expected \[\[checkpoint\]\] tables and nothing else$"),
    ("an unknown key", lineup(TABLE + "famly = 'x'"), r"checkpoint 1: unknown key 'famly'; did you mean 'family'\?$"),
    ("a table without source", lineup("[[checkpoint]]\nname = 'x'"), "lineup.toml', checkpoint 1: no source$"),
    ("a name twice", lineup(TABLE + TABLE), "lineup.toml': 'a' occurs twice; give each its own name$"),
    ("a name that climbs", lineup(TABLE.replace('"a"', '"../a"')), "name '../a' may hold only letters, digits and"),
    ("a circle", lineup(CIRCLE), "'a' is another seed of 'b' is another seed of 'a'; name the first one in both$"),
    ("an origin that is not there", lineup(TABLE + "seed_of = 'b'"), "is another seed of 'b', which is not in it"),
    (
        "a seed in words",
        lineup(TABLE + "untrained_seed = '1'"),
        "untrained_seed is '1'; it must be a whole number, 0 or",
    ),
    (
        "no network",
        lineup(TABLE),
        "^checkpoint 'a': no folder 'org/a', and it could not be had from the hub: ",
    ),
    ("no such folder", lineup(TABLE.replace("org/a", "./models/a")), "^checkpoint 'a': no folder '.*/models/a'$"),
    (
        "no config",
        checkpoint(lambda f: (f / "config.json").unlink()),
        "^checkpoint 'x': no config.json in '.*copy'; a fol",
    ),
    ("torn config", checkpoint(lambda f: (f / "config.json").write_text("{")), "'.*copy' does not load: .*JSON"),
    ("no weights", checkpoint(lambda f: (f / "model.safetensors").unlink()), "^checkpoint 'x': no weights in '.*copy'"),
    (
        "junk weights",
        checkpoint(lambda f: (f / "model.safetensors").write_bytes(b"junk" * 9)),
        "model.safetensors in '.*copy' is cut off or damaged",
    ),
    (
        "half the weights",
        checkpoint(weights(lambda t: t.pop("encoder.layer_norm.bias"))),
        "lacks weights .1.: encoder.lay",
    ),
    (
        "infinite weights",
        checkpoint(weights(infinite)),
        "layer 2 is NaN or infinite for utterance 'ann/a'; its weights",
    ),
    (
        "8 kHz",
        checkpoint(settings("preprocessor_config.json", sampling_rate=8_000)),
        "^checkpoint 'x': wants audio at 8000 Hz, not 16000 or 24000$",
    ),
    (
        "a hop of 10 ms",
        checkpoint(settings("config.json", conv_stride=[5, 2, 2, 2, 2, 2, 1])),
        "^checkpoint 'x': makes one frame every 10 ms; 13.3 to 80 ms are supported$",
    ),
    (
        "a checkpoint of nothing known",
        checkpoint(settings("config.json", model_type="nonsense")),
        "^checkpoint 'x': '.*copy' does not load: .*nonsense",
    ),
    (
        "a flipped bit",
        store(flipped),
        f"store': shard_0000.bin: its bytes are not those written{AGAIN}",
    ),
    ("a store of before", store(older), rf"store': version 1, this sslsim reads \d+{AGAIN}"),
    ("a store without a shard", store(lambda f: (f / "shard_0000.bin").unlink()), f"shard_0000.bin is missing{AGAIN}"),
    ("a store without its index", store(lambda f: (f / "index.csv").unlink()), "index.csv is not as it was written"),
    (
        "an index that was edited",
        store(lambda f: swap(f / "index.csv", "ann", "bob")),
        "index.csv is not as it was written",
    ),
    ("a torn description", store(lambda f: (f / "store.json").write_text("{")), f"store.json is damaged{AGAIN}"),
    ("no store", store(lambda f: (f / "store.json").unlink()), "store': no store.json there$"),
    ("a layer too many", store(lambda f: None, lambda s: s.layer(9)), "^hubert-post: no layer 9; there are 0 to 3$"),
    ("stores of two corpora", other_corpus, "^layers cannot be paired: .* extract both from the same corpus$"),
]


def swap(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.fixture(scope="module")
def clean(checkpoints, corpus, tmp_path_factory):
    """Return the folder of a store of good files alone."""
    out = tmp_path_factory.mktemp("clean")
    study = Study(checkpoints / "lineup.toml", corpus, ("hubert-post",), queries=2)
    return study.extract(out, device="cpu")[0].root


def numbers(root):
    """Return the bytes of every array file of a store."""
    return {path.name: path.read_bytes() for path in root.glob("*.bin")}


def left(out):
    return sorted(path.name for path in out.iterdir() if not path.name.startswith("speech-")) if out.exists() else []


@pytest.mark.parametrize(("make", "message"), [pytest.param(*row[1:], id=row[0]) for row in CALLS])
def test_what_cannot_be_is_refused_in_one_line(tmp_path, checkpoints, corpus, clean, make, message):
    world = World(tmp_path, checkpoints, corpus, clean)
    with pytest.raises(SslsimError, match=message) as caught:
        make(world)
    assert "\n" not in str(caught.value)
    assert left(tmp_path / "out") == []


def test_a_file_that_only_a_manifest_knows_is_left_out_or_named(tmp_path, checkpoints, corpus, clean):
    world = World(tmp_path, checkpoints, corpus, clean)
    names = ["ann/a.wav", "ann/b.flac", "absent.wav", "bob/c.wav", "bob/d.flac"]
    rows = [f"{Path(name).with_suffix('')},{corpus / name},{Path(name).parent.name}" for name in names]
    path = world.write("m.csv", "\n".join(["id,path,speaker", *rows]))
    with pytest.raises(SslsimError, match="'absent': no such file; mend them or drop strict"):
        world.extract(corpus=path, strict=True)
    assert left(tmp_path / "out") == []
    (store,) = world.extract(corpus=path)
    assert store.skipped.values.tolist() == [["absent", str(corpus / "absent.wav"), "no such file"]]
    assert numbers(store.root) == numbers(clean)


def test_all_bad_files_together_leave_the_good_ones_as_they_were(tmp_path, checkpoints, corpus, clean, capfd):
    world = World(tmp_path, checkpoints, corpus, clean)
    speech = shutil.copytree(corpus, tmp_path / "speech")
    for number, (_, make, _) in enumerate(SOUNDS):
        folder = speech / f"{'abz'[number % 3]}{number}"
        folder.mkdir()
        make(folder)
    (store,) = world.extract(corpus=speech, segmentation=Segmentation(piece_seconds=2, longest_seconds=2))
    reasons = dict(zip(store.skipped.utterance, store.skipped.reason, strict=True))
    for number, (name, _, message) in enumerate(SOUNDS):
        assert re.search(message, reasons[f"{'abz'[number % 3]}{number}/bad"]), name
    assert numbers(store.root) == numbers(clean)
    said = capfd.readouterr().out
    assert f"left out {len(SOUNDS)} that cannot be used (skipped.csv in each store): " in said
    assert f"; and {len(SOUNDS) - 5} more" in said
