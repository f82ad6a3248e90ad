"""Benchmarks: ratios against honest references in one run, written to results.md beside this file.

make bench                               all; about 35 minutes on two cores
make bench ARGS="pairs attention"        some
make bench ARGS="grid --device cuda"     the paper-size grid on a GPU, with 50,000 frames
"""

from __future__ import annotations

import argparse
import inspect
import json
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from threading import Lock
from unittest.mock import patch

import made
import numpy as np
import published
import torch

import sslsim
from sslsim.activations import extract as extraction
from sslsim.activations import shards as writer
from sslsim.activations.selection import states_of, utterances_of
from sslsim.activations.store import ActivationStore, array_files, attention_file, layer_file
from sslsim.comparison import engine
from sslsim.comparison.engine import Control, score_orders, score_pairs
from sslsim.comparison.heads import crop_rows, head_scores, rows_of
from sslsim.comparison.layers import jobs_of
from sslsim.encoders import load as models
from sslsim.encoders.lineup import Checkpoint
from sslsim.measures import layers as layer_measures
from sslsim.measures import moments, products
from sslsim.measures.attention import attention_similarity
from sslsim.measures.neighbours import SAMPLE
from sslsim.measures.products import Means, Side
from sslsim.significance.jackknife import Mismatches
from sslsim.significance.run import DRAWS, GROUPS, ROTATE_CHANCE, groups_of

RESULTS = Path(__file__).with_name("results.md")
FIVE = ("max_corr", "linreg", "svcca", "pwcca", "linear_cka_biased")
PAPER = (("base-a", 768, 13), ("base-b", 768, 13), ("large-a", 1024, 25), ("large-b", 1024, 25))
Rows = list[dict[str, object]]


def seconds(call: Callable[[], object]) -> float:
    """Return what a call takes, or, where it returns an iterator, the last thing of it."""
    start = last = time.perf_counter()
    found = call()
    for _ in found if isinstance(found, Iterator) else ():
        start, last = last, time.perf_counter()
    return time.perf_counter() - start


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Median seconds of each, run in turn, and the median of the ratios theirs / ours."""
    taken = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return median(a for a, _ in taken), median(b for _, b in taken), median(b / a for a, b in taken)


def compare(stores, measures=FIVE, device="cpu"):
    return sslsim.compare(stores, list(measures), device=device, progress=False)


def bench_products(device: str) -> Rows:
    """Products of two blocks from the store, as the engine makes them, against torch.mm on arrays in memory."""
    rows: Rows = []
    n, threads = 20_000, torch.get_num_threads()
    for width in (768, 1024):
        blocks = 2 * threads
        with made.stores(n, ("m", width, 2 * blocks)) as (store,):
            layers = [store.layer(i) for i in range(2 * blocks)]
            means = [Means.of(x) for x in layers]
            sides = [(layers[i : i + 2], means[i : i + 2]) for i in range(0, len(layers), 2)]
            pairs = [(sides[i], sides[i + 1]) for i in range(0, blocks, 2)]

            def piece(pair):
                torch.set_num_threads(1)
                left, right = (Side(*side, torch.float32) for side in pair)
                products.cross_products(left, right, n)

            def ours(pairs=pairs):
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(piece, pairs))
                torch.set_num_threads(threads)

            arrays = [tuple(torch.from_numpy(np.concatenate(x, axis=1)) for x, _ in pair) for pair in pairs]

            def theirs(arrays=arrays):
                for x, y in arrays:
                    torch.mm(x.T, y)

            ours(), theirs()
            a, b, ratio = in_turn(ours, theirs, 7)
        work = 2 * n * (2 * width) ** 2 * len(pairs) / 1e9
        rows.append(
            {
                "what": f"{2 * width} x {2 * width} neurons, {n:,} frames, float32",
                "ours": f"{work / a:.0f} GFlop/s",
                "reference": f"torch.mm {work / b:.0f} GFlop/s",
                "ratio": f"{ratio:.2f}",
                "wanted": "0.80",
            }
        )
    return rows


def bench_pairs(device: str) -> Rows:
    """Five measures on all pairs of 8 layers x 768 against each from the data matrix as in published.py."""
    rows: Rows = []
    for n, wanted in ((6_000, 6), (20_000, 10)):
        with made.stores(n, ("m", 768, 8)) as stores:
            layers = [torch.from_numpy(np.array(stores[0].layer(i))) for i in range(8)]
            compare(stores, ["max_corr"])  # what is done once a process
            a, b, ratio = in_turn(lambda s=stores: compare(s), lambda x=layers: published.five(x), 3)
            each_way = seconds(lambda x=layers: published.five(x, ordered=True))
            table, expected = compare(stores), published.five(layers)
        worst = {
            name: float(np.abs(table[table.measure == name].value.to_numpy().reshape(8, 8) - grid.numpy()).max())
            for name, grid in expected.items()
        }
        assert max(worst.values()) < 1e-4, worst
        rows.append(
            {
                "what": f"8 layers x 768, {n:,} frames, five measures",
                "ours": f"{a:.2f} s",
                "as published": f"{b:.1f} s",
                "ratio": f"{ratio:.1f}",
                "as published, each way by itself": f"{each_way:.1f} s",
                "ratio of that (one run)": f"{each_way / a:.1f}",
                "wanted": str(wanted),
                "largest difference": f"{max(worst.values()):.0e}",
            }
        )
    return rows


def bench_attention(device: str) -> Rows:
    """All heads of two 12-layer 12-head models at T = 500 against the broadcast form, layer pair by layer pair."""
    rows: Rows = []
    a, b = made.attention(2, 12, 12, 500)
    sides = [[side.flatten(0, 1)] for side in (a, b)]
    for measure, wanted in (("pearson", 30), ("frobenius", 30), ("js", 12)):
        found = attention_similarity(measure, *sides)
        taken = [seconds(lambda m=measure: attention_similarity(m, *sides)) for _ in range(5)]
        start = time.perf_counter()
        expected = published.heads(measure, a, b)
        reference = time.perf_counter() - start
        worst = float(np.abs(found - expected.numpy()).max())
        assert worst < 1e-4, (measure, worst)
        rows.append(
            {
                "what": f"{measure}, 144 x 144 heads, T = 500",
                "ours": f"{median(taken):.3f} s",
                "reference": f"broadcast {reference:.1f} s",
                "ratio": f"{reference / median(taken):.0f}",
                "wanted": str(wanted),
                "largest difference": f"{worst:.0e}",
            }
        )
    return rows


def bench_frames(device: str) -> Rows:
    """Ten times the frames: ten times the time of what depends on frames, and no more memory."""
    rows: Rows = []
    for measures in (["max_corr"], FIVE):
        small, large = (alone("frames", str(n), ",".join(measures)) for n in (10_000, 100_000))
        rows.append(
            {
                "what": f"8 layers x 768, {', '.join(measures)}",
                "10,000 frames": f"{small['seconds']:.2f} s, {small['peak']:.2f} GB",
                "100,000 frames": f"{large['seconds']:.2f} s, {large['peak']:.2f} GB",
                "time": f"x {large['seconds'] / small['seconds']:.1f}",
                "memory": f"{100 * (large['peak'] / small['peak'] - 1):+.0f} %",
                "wanted": "x 8 to x 12, at most +10 %" if len(measures) == 1 else "",
            }
        )
    return rows


def bench_controls(device: str) -> Rows:
    """Cost of each control of two models, beside that of comparing them, a pair of layers scored both ways.

    Measures of layers and neurons: max_corr, linreg_r2, svcca, linear_cka_debiased, 4,000 frames. Random bases are
    those of max_corr and of the share of neurons; in a mismatch, which comes after the score on the same frames,
    max_corr is scored in one basis of each side too.
    Attention: pearson between the two larger embedded models, 4 rows of each of 100 utterances. A report leaves out
    groups and draws bases once, and makes 20 mismatches.
    """
    rows: Rows = []
    names = ("max_corr", "linreg_r2", "svcca", "linear_cka_debiased")
    for width in (128, 768):
        with made.stores(4_000, ("a", width, 6), ("b", width, 6)) as stores:
            states = states_of(stores, None)
            known = utterances_of(states).lengths
            turned = np.concatenate([np.arange(4_000)[made.UTTERANCE :], np.arange(made.UTTERANCE)])
            ways = {
                "the comparison": None,
                f"{GROUPS} groups left out": Control(
                    groups=groups_of(stores[0].index, known, GROUPS, "utterance").joined
                ),
                f"{DRAWS} random bases of both sides": Control(rotations=DRAWS),
            }
            score = partial(
                score_pairs, states, jobs=jobs_of(names), between={frozenset("ab")}, sample=SAMPLE, progress=False
            )
            found = {name: partial(score, control=control, device=device) for name, control in ways.items()}
            once = Control(rotations_chance=1, rotate=ROTATE_CHANCE, single=True)
            again = partial(score_orders, *score.args, **score.keywords, orders=[turned], control=once, device=device)
            found["a mismatch"] = again
            rows += costs(found, 36, f"layers of {width} neurons")
            if width == 128:  # an assignment of 768 neurons takes a hundred times as long
                score = partial(score, jobs=jobs_of(["matched_corr"]))
                bases = f"{DRAWS} random bases of both sides"
                found = {name: partial(score, control=ways[name]) for name in ("the comparison", bases)}
                rows += costs(found, 36, f"layers of {width} neurons, matched_corr alone")
    with tempfile.TemporaryDirectory() as out:
        pair, speech = ["w2v2-large", "hubert-large"], sslsim.DATA / "speech" / "manifest.csv"
        stores = sslsim.extract(sslsim.DATA / "lineup.toml", speech, out, checkpoints=pair, progress=False)
        used = rows_of(stores, 4)
        groups = groups_of(stores[0].index, [len(kept) for kept in used], GROUPS, "utterance")
        wrong = Mismatches.of(stores[0].index["length"].tolist(), 1, 0)
        score = partial(head_scores, stores, ["pearson"], used, device=device)
        crops = crop_rows(stores, used, wrong.strata)
        found = {
            "the comparison": score,
            f"{GROUPS} groups left out": partial(score, groups.members),
            "a mismatch": partial(score, crops=crops, partner=wrong.partners[0]),
        }
        rows += costs(found, 36, "attention of 5 heads")
    return rows


def costs(ways: dict[str, Callable[[], object]], pairs: int, of: str, rounds: int = 5) -> Rows:
    """Median milliseconds a pair, in turn; what is computed with the comparison counts less the comparison."""
    taken = [{name: seconds(call) for name, call in ways.items()} for _ in range(rounds + 1)][1:]
    alone = median(one["the comparison"] for one in taken)
    rows: Rows = []
    for name in ways:
        with_it = name not in ("the comparison", "a mismatch")
        cost = max(0.0, median(one[name] - (one["the comparison"] if with_it else 0) for one in taken))
        row = {"what": of, "control": name, "milliseconds a pair of layers": f"{1000 * cost / pairs:.1f}"}
        rows.append(row | {"of the comparison": f"{cost / alone:.1f}"})
    return rows


def frames_alone(n: str, measures: str) -> dict[str, float]:
    """Compare on that many frames, in one more process: its memory is that of the comparison, not of making layers."""
    with made.stores(int(n), ("m", 768, 8)) as stores:
        return alone("compare", str(stores[0].root), measures)


def compare_alone(root: str, measures: str) -> dict[str, float]:
    stores = [sslsim.open(root)]
    sslsim.compare(stores, ["max_corr"], frames=100, progress=False)
    taken = min(seconds(lambda: compare(stores, measures.split(","))) for _ in range(3))
    return {"seconds": taken, "peak": peak()}


def bench_grid(device: str) -> Rows:
    """Grid of the paper's size: 76 layers of two base and two large models, five measures."""
    frames = 20_000 if device == "cpu" else 50_000
    with made.stores(frames, *PAPER) as stores:
        found = alone("grid", device, *(str(store.root) for store in stores))
    shares = {name: value for name, value in found.items() if name not in ("seconds", "peak")}
    return [
        {
            "what": f"76 layers (2 x 13 x 768, 2 x 25 x 1024), {frames:,} frames, five measures, {device}",
            "time": f"{found['seconds'] / 60:.1f} min",
            "peak memory": f"{found['peak']:.1f} GB",
            "wanted": "25 min, 8 GB" if device == "cpu" else "2 min",
            "share of the threads' time": ", ".join(f"{name} {value:.0%}" for name, value in shares.items()),
        }
    ]


def grid_alone(device: str, *roots: str) -> dict[str, float]:
    stores = [sslsim.open(root) for root in roots]
    with clocked(GRID_PARTS) as clock:
        taken = seconds(lambda: compare(stores, device=device))
    found = {"seconds": taken, "peak": peak()}
    if device != "cpu":  # whose work ends when it is waited for, not when it is asked for
        return found
    shares = {name: value / taken / torch.get_num_threads() for name, value in clock.items()}
    return found | shares | {"other": 1 - sum(shares.values())}


def bench_extraction(device: str) -> Rows:
    """Activations of 10 s utterances, all frames and 16 rows of every map, against bare loops of forward passes.

    Random weights, FLAC files, arrays written to disk. No time includes loading weights or hashing them. A loop
    decodes, runs the model with all outputs (eager attention) and appends arrays to one file a layer; it checks nothing
    and does not wait for the disk. Ratio: reference / ours; the wanted 0.95, 5 % overhead, is against the faster loop.
    """
    with tempfile.TemporaryDirectory() as folder:
        base = made.encoder(Path(folder), "base")
        rows = [*overhead(base, Path(folder)), *cost(base, 12), *cost(made.encoder(Path(folder), "large"), 6)]
        shutil.rmtree(Path(folder) / "large")
        return rows + hour(base)


def extract(checkpoint: Checkpoint, sounds: Path, out: Path, **options: object) -> ActivationStore:
    """Extract with all threads busy, however few the sounds."""
    each = -(-len(list(sounds.iterdir())) // torch.get_num_threads())
    options = {"shard_seconds": min(extraction.SHARD_SECONDS, float(each * made.SOUND)), "progress": False} | options
    return sslsim.extract([checkpoint], sounds, out, **options)[0]


def overhead(checkpoint: Checkpoint, folder: Path, count: int = 12, rounds: int = 5) -> Rows:
    """Rows of extraction against bare loops, and of reading its checksums again."""
    from transformers import AutoFeatureExtractor, AutoModel

    sounds, threads = made.sounds(folder / "sounds", count), torch.get_num_threads()
    encoder, fingerprint = models.load_encoder(checkpoint), models.checkpoint_fingerprint(checkpoint)
    model = AutoModel.from_pretrained(checkpoint.source, attn_implementation="eager").eval()
    preprocess = AutoFeatureExtractor.from_pretrained(checkpoint.source)
    out, loop_out = folder / "ours", folder / "loop"

    def bare(workers: int) -> None:
        published.activations(model, preprocess, sounds, loop_out, 16, workers)

    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: extract(checkpoint, folder / "sounds", out),
        f"{threads} threads of Python, one of torch each": partial(bare, threads),
        f"one utterance at a time, {threads} threads of torch": partial(bare, 1),
    }
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    known = [
        patch.object(models, "load_encoder", lambda *_: encoder),
        patch.object(extraction, "checkpoint_fingerprint", lambda _: fingerprint),
    ]
    with known[0], known[1], clocked(EXTRACTION_PARTS) as clock:
        for i in range(rounds + 1):
            if i == 1:  # the first round was to warm up
                clock.update(dict.fromkeys(clock, 0.0))
            for way, call in ways.items():
                shutil.rmtree(out if way == "ours" else loop_out, ignore_errors=True)
                cpu = time.process_time()
                wall = seconds(call)
                taken[way] += [(wall, time.process_time() - cpu)] if i else []
    (root,) = out.iterdir()
    store = sslsim.open(root)
    worst = largest_difference(store, loop_out)
    assert worst < 1e-3, worst
    shares = {
        part: value / sum(wall for wall, _ in taken["ours"]) for part, value in clock.items() if part != "loading"
    }
    rows: Rows = []
    ours = taken.pop("ours")
    fastest = min(taken, key=lambda way: median(wall for wall, _ in taken[way]))
    for way, theirs in taken.items():
        (a, a_cpu), (b, b_cpu) = (np.median(times, axis=0) for times in (ours, theirs))
        rows.append(
            {
                "what": f"{checkpoint.name}, {count} utterances; loop: {way}",
                "ours": f"{a:.2f} s ({a_cpu:.1f} s of CPU)",
                "reference": f"{b:.2f} s ({b_cpu:.1f} s of CPU)",
                "ratio": f"{median(y / x for (x, _), (y, _) in zip(ours, theirs, strict=True)):.2f}",
                "wanted": "0.95" if way == fastest else "",
                "ratio of CPU": f"{median(y / x for (_, x), (_, y) in zip(ours, theirs, strict=True)):.2f}",
                "largest difference": f"{worst:.0e}",
                "share of our time": ", ".join(f"{part} {share:.1%}" for part, share in shares.items()),
            }
        )
    rows.append(verifying(store))
    for path in (out, loop_out):
        shutil.rmtree(path)
    return rows


def largest_difference(store: ActivationStore, loop: Path) -> float:
    """Compare a store with what the loop wrote in order, each file in units of its standard deviation."""
    names = [layer_file(i) for i in range(store.n_layers)]
    names += [attention_file(i) for i in range(1, store.attention_layers + 1)]
    worst = 0.0
    for name in names:
        ours, theirs = np.load(store.root / name).ravel(), np.fromfile(loop / Path(name).stem, "f4")
        worst = max(worst, float(np.abs(ours - theirs).max() / theirs.std()))
    return worst


def verifying(store: ActivationStore, rounds: int = 5) -> dict[str, object]:
    """Row of what it costs to check a store that the system holds in memory, as it is when first opened."""
    size = sum((store.root / name).stat().st_size for name in array_files(store)) / 1e9
    content = np.random.default_rng(0).bytes(100_000_000)
    a, b, _ = in_turn(store.verify, lambda: zlib.crc32(content), rounds)
    return {
        "what": f"verify() of {size:.2f} GB in the page cache",
        "ours": f"{size / a:.2f} GB/s",
        "reference": f"zlib.crc32 of bytes in memory {0.1 / b:.2f} GB/s",
        "ratio": f"{(size / a) / (0.1 / b):.2f}",
    }


def cost(checkpoint: Checkpoint, count: int) -> Rows:
    """Row of the time and memory of one extraction in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        made.sounds(Path(folder) / "sounds", count)
        found = alone("extract", checkpoint.source, f"{folder}/sounds", "all", "16")
    pace = found["seconds"] / (count * made.SOUND)
    what = f"{checkpoint.name}, {count} utterances, in a new process: seconds a second of audio; peak memory"
    return [{"what": what, "ours": f"{pace:.3f}; {found['peak']:.2f} GB"}]


def hour(checkpoint: Checkpoint, few: int = 6, many: int = 360) -> Rows:
    """Row of the memory of much audio against that of little."""
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for count in (few, many):
            made.sounds(Path(folder) / str(count), count)
            found.append(alone("extract", checkpoint.source, f"{folder}/{count}", "8", "2"))
    short, long = found
    minutes = [f"{count * made.SOUND / 60:g} min" for count in (few, many)]
    return [
        {
            "what": f"{checkpoint.name}, 8 frames and 2 rows an utterance: peak memory of {minutes[1]} of audio",
            "ours": f"{long['peak']:.2f} GB ({long['seconds']:.0f} s)",
            "reference": f"{minutes[0]}: {short['peak']:.2f} GB",
            "ratio": f"{short['peak'] / long['peak']:.2f}",
            "wanted": "0.90 (at most +10 %)",
        }
    ]


def extract_alone(source: str, sounds: str, frames: str, queries: str) -> dict[str, float]:
    kept = frames if frames == "all" else int(frames)
    with tempfile.TemporaryDirectory() as out, clocked(EXTRACTION_PARTS) as clock:
        checkpoint = Checkpoint(Path(source).name, source)
        taken = seconds(lambda: extract(checkpoint, Path(sounds), Path(out), frames=kept, queries=int(queries)))
    return {"seconds": taken - clock["loading"], "peak": peak()}


GRID_PARTS = (
    (products, "multiply", "products of frames"),
    (moments, "multiply", "products of a pair"),
    (layer_measures, "multiply", "products of a pair"),
    (torch.linalg, "eigh", "decompositions"),
    (torch.linalg, "eigvalsh", "decompositions"),
    (torch.linalg, "svd", "decompositions"),
    (torch.linalg, "qr", "decompositions"),
    (Side, "near_zero", "reading and centring"),
    (engine, "_load", "reading and centring"),
    (engine, "_save", "reading and centring"),
    (products, "mean", "reading and centring"),
)
EXTRACTION_PARTS = (
    (models, "load_encoder", "loading"),
    (extraction, "checkpoint_fingerprint", "loading"),  # reads the same file
    (extraction, "_look", "decoding all audio once before"),
    (writer, "_sync", "waiting for the disk (fsync)"),
)


@contextmanager
def clocked(places: Sequence[tuple[object, str, str]]):
    """Seconds spent in parts of the package, summed over its threads."""
    spent = dict.fromkeys((what for _, _, what in places), 0.0)

    lock = Lock()

    def wrap(name, function):
        def timed(*args, **options):
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                with lock:
                    spent[name] += time.perf_counter() - start

        return timed

    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for (owner, name, what), (_, _, function) in zip(places, before, strict=True):
        setattr(owner, name, wrap(what, function))
    try:
        yield spent
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def peak() -> float:
    """Peak memory of this process in GB, pages of mapped files included."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says on Linux includes the process that started this one
        return int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e9 / 1024)


def alone(name: str, *args: str) -> dict[str, float]:
    """Run ``<name>_alone`` in a new process."""
    call = [sys.executable, __file__, "--alone", name, *args]
    return json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


BENCHMARKS = {
    "products": bench_products,
    "pairs": bench_pairs,
    "attention": bench_attention,
    "frames": bench_frames,
    "controls": bench_controls,
    "grid": bench_grid,
    "extraction": bench_extraction,
}
ALONE = {"frames": frames_alone, "compare": compare_alone, "grid": grid_alone, "extract": extract_alone}


def machine(device: str) -> str:
    cpu = (
        re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
        if Path("/proc/cpuinfo").exists()
        else None
    )
    name = cpu[1] if cpu else platform.processor() or platform.machine()
    if device != "cpu":
        name += f", {torch.cuda.get_device_name(device)}"
    packages = ("torch", "transformers", "numpy", "sslsim")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{date.today()}, {name}, {torch.get_num_threads()} threads, {versions}"


def table(rows: Rows) -> str:
    heads = list(dict.fromkeys(key for row in rows for key in row))
    lines = [heads, ["---"] * len(heads), *([str(row.get(head, "")) for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(name: str, text: str) -> None:
    """Put a section into the results, in place of the one of its name."""
    old = RESULTS.read_text() if RESULTS.exists() else "# Benchmarks\n\nWritten by `make bench`.\n"
    parts = re.split(r"(?m)^(?=## )", old)
    kept = [part for part in parts[1:] if not part.startswith(f"## {name}\n")]
    order = [*BENCHMARKS, *(f"{name} on cuda" for name in BENCHMARKS)]
    sections = sorted([*kept, f"## {name}\n\n{text}"], key=lambda part: order.index(part.split("\n")[0][3:]))
    RESULTS.write_text("\n\n".join(part.strip() for part in (parts[0], *sections)) + "\n")


def main() -> None:
    if sys.argv[1:2] == ["--alone"]:
        print(json.dumps(ALONE[sys.argv[2]](*sys.argv[3:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=", ".join(BENCHMARKS))
    parser.add_argument("--device", default="cpu", help="of the grid")
    asked = parser.parse_args()
    if unknown := set(asked.benchmarks) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in asked.benchmarks or BENCHMARKS:
        rows = BENCHMARKS[name](asked.device)
        text = f"{inspect.getdoc(BENCHMARKS[name])}\n{machine(asked.device)}.\n\n{table(rows)}"
        print(f"\n{name}: {text}", flush=True)
        write(name if asked.device == "cpu" else f"{name} on {asked.device}", text)


if __name__ == "__main__":
    main()
