"""Benchmarks: ratios against honest references in one run, written to results.md beside this file.

make bench                               all but the last; about 35 minutes on two cores
make bench ARGS="pairs attention"        some
make bench ARGS="paper"                  evidence of the size of the paper
make bench ARGS="grid --device cuda"     the paper-size grid on a GPU, with 50,000 frames
tests/benchmarks/gpu.sh                  what needs a GPU: the embedded report, paper, agreement; 8 minutes at most
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from statistics import median

import made
import numpy as np
import published
import torch

import sslsim
from sslsim.activations.store import ActivationStore
from sslsim.encoders.files import checkpoint_fingerprint
from sslsim.encoders.lineup import Checkpoint
from sslsim.encoders.load import load_encoder
from sslsim.measures.arrays import mean
from sslsim.measures.products import Side, cross_products
from sslsim.reports.jobs import find
from sslsim.reports.parameters import read_parameters

RESULTS = Path(__file__).with_name("results.md")
FIVE = ("max_corr", "linreg", "svcca", "pwcca", "linear_cka_biased")
FOUR = ("max_corr", "linreg_r2", "svcca", "linear_cka_debiased")
GRID = (("base-a", 768, 13), ("base-b", 768, 13), ("large-a", 1024, 25), ("large-b", 1024, 25))
PAPER = (("base-a", 768, 13), ("base-b", 768, 13), ("base-c", 768, 13), *((f"large-{x}", 1024, 25) for x in "abcd"))
FEW = (("base-a", 768, 3), ("large-a", 1024, 3))
NOTEBOOKS = ("neurons", "layers")
CLAIMED = {
    "neurons": ("max_corr", "max_corr_in_bases", "neuron_excess", "neuron_count", "linreg_r2"),
    "layers": (),
}  # added to the settings
NOTHING = sslsim.Resampling(permutations=0, blocks=0, rotations=0)
CONTROLS = {
    "10 blocks left out": sslsim.Resampling(permutations=0, rotations=0),
    "20 random bases of both sides": sslsim.Resampling(permutations=0, blocks=0),
    "20 mismatches": sslsim.Resampling(blocks=0, rotations=0),
}
FLAGS = ("avx2", "avx512f")  # what decides how fast products are
Rows = list[dict[str, object]]


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Median seconds of each, run in turn, and the median of the ratios theirs / ours."""
    taken = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return median(a for a, _ in taken), median(b for _, b in taken), median(b / a for a, b in taken)


def compare(models: Sequence[ActivationStore], measures: Sequence[str] = FIVE, device: str = "cpu"):
    return sslsim.compare(models, list(measures), device=device)


def bench_products(device: str) -> Rows:
    """Products of two blocks from files, as comparisons make them, against torch.mm on arrays in memory."""
    rows: Rows = []
    n, threads = 20_000, torch.get_num_threads()
    for width in (768, 1024):
        blocks = 2 * threads
        with made.models(n, ("m", width, 2 * blocks)) as (model,):
            layers = [model.layer(i) for i in range(2 * blocks)]
            means = [mean(x) for x in layers]
            sides = [(layers[i : i + 2], torch.cat(means[i : i + 2])) for i in range(0, len(layers), 2)]
            pairs = [(sides[i], sides[i + 1]) for i in range(0, blocks, 2)]
            arrays = [tuple(torch.from_numpy(np.concatenate(x, axis=1)) for x, _ in pair) for pair in pairs]

            def piece(pair):
                torch.set_num_threads(1)
                cross_products(*(Side(*side, torch.float32) for side in pair))

            def ours(pairs=pairs):
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(piece, pairs))
                torch.set_num_threads(threads)

            def theirs(arrays=arrays):
                for x, y in arrays:
                    torch.mm(x.T, y)

            ours(), theirs()
            a, b, ratio = in_turn(ours, theirs, 7)
        work = 2 * n * (2 * width) ** 2 * len(pairs) / 1e9
        row = {"what": f"{2 * width} x {2 * width} neurons, {n:,} frames, float32", "ours": f"{work / a:.0f} GFlop/s"}
        row |= {"reference": f"torch.mm {work / b:.0f} GFlop/s", "ratio": f"{ratio:.2f}", "wanted": "0.80", "n": 7}
        rows.append(row)
    return rows


def bench_pairs(device: str) -> Rows:
    """Five measures on all pairs of 8 layers x 768 against each from the data matrix as in published.py."""
    rows: Rows = []
    for n, wanted in ((6_000, 6), (20_000, 10)):
        with made.models(n, ("m", 768, 8)) as models:
            layers = [torch.from_numpy(np.array(models[0].layer(i))) for i in range(8)]
            compare(models, ["max_corr"])  # what is done once a process
            a, b, ratio = in_turn(lambda m=models: compare(m), lambda x=layers: published.five(x), 3)
            each_way = seconds(lambda x=layers: published.five(x, ordered=True))
            table, expected = compare(models), published.five(layers)
        grids = {name: table[table.measure == name].value.to_numpy().reshape(8, 8) for name in expected}
        worst = max(float(np.abs(grids[name] - grid.numpy()).max()) for name, grid in expected.items())
        assert worst < 1e-4, worst
        row = {"what": f"8 layers x 768, {n:,} frames, five measures", "ours": f"{a:.2f} s"}
        row |= {"as published": f"{b:.1f} s", "ratio": f"{ratio:.1f}"}
        row |= {"as published, each way by itself": f"{each_way:.1f} s"}
        row |= {"ratio of that (one run)": f"{each_way / a:.1f}", "wanted": str(wanted)}
        rows.append(row | {"largest difference": f"{worst:.0e}", "n": 3})
    return rows


def bench_attention(device: str) -> Rows:
    """All heads of two 12-layer 12-head models at T = 500 against the broadcast form, layer pair by layer pair."""
    rows: Rows = []
    a, b = made.attention(2, 12, 12, 500)
    sides = [[side.flatten(0, 1)] for side in (a, b)]
    for measure, wanted in (("pearson", 30), ("frobenius", 30), ("js", 12)):
        call = partial(sslsim.attention_similarity, measure, *sides)
        scores, taken = call(), median(seconds(call) for _ in range(5))
        start = time.perf_counter()
        expected = published.heads(measure, a, b)
        reference = time.perf_counter() - start
        worst = float(np.abs(scores - expected.numpy()).max())
        assert worst < 1e-4, (measure, worst)
        row = {"what": f"{measure}, 144 x 144 heads, T = 500", "ours": f"{taken:.3f} s"}
        row |= {"reference": f"broadcast {reference:.1f} s", "ratio": f"{reference / taken:.0f}"}
        rows.append(row | {"wanted": str(wanted), "largest difference": f"{worst:.0e}", "n": 5})
    return rows


def bench_frames(device: str) -> Rows:
    """Ten times the frames: ten times the time of what depends on frames, and no more memory."""
    rows: Rows = []
    for measures in (["max_corr"], FIVE):
        taken = []
        for n in (10_000, 100_000):
            with made.models(n, ("m", 768, 8)) as (model,):
                taken.append(alone("compare", "cpu", ",".join(measures), str(model.root)))
        small, large = taken
        row = {"what": f"8 layers x 768, {', '.join(measures)}"}
        row |= {"10,000 frames": f"{small['seconds']:.2f} s, {small['peak']:.2f} GB"}
        row |= {"100,000 frames": f"{large['seconds']:.2f} s, {large['peak']:.2f} GB"}
        row |= {"time": f"x {large['seconds'] / small['seconds']:.1f}"}
        row |= {"memory": f"{100 * (large['peak'] / small['peak'] - 1):+.0f} %"}
        rows.append(row | {"wanted": "x 8 to x 12, at most +10 %" if len(measures) == 1 else "", "n": 3})
    return rows


def compare_alone(device: str, measures: str, *roots: str) -> dict[str, float]:
    """Compare in one more process: its memory is that of the comparison, not of making layers."""
    stores = [sslsim.open(root) for root in roots]
    sslsim.compare(stores[:1], ["max_corr"], frames=1000, device=device)  # what is done once a process
    rounds = 3 if len(stores) == 1 else 1
    taken = min(seconds(lambda: compare(stores, measures.split(","), device)) for _ in range(rounds))
    return {"seconds": taken, "peak": peak()}


def bench_controls(device: str) -> Rows:
    """Cost of each control of two models, beside that of comparing them, a pair of layers scored both ways.

    Measures of layers and neurons: max_corr, linreg_r2, svcca, linear_cka_debiased, 4,000 frames; random bases are
    those of max_corr and of neurons_shared. Attention: pearson between the two larger embedded models, 4 rows of each
    of 100 utterances.
    """
    rows: Rows = []
    for width in (128, 768):
        with made.models(4_000, ("a", width, 6), ("b", width, 6)) as models:
            call = partial(sslsim.evidence, models, FOUR, between=[("a", "b")], device=device)
            rows += costs(call, 36, f"layers of {width} neurons")
            if width == 128:  # an assignment of 768 neurons takes a hundred times as long
                call = partial(sslsim.evidence, models, ["matched_corr"], between=[("a", "b")], device=device)
                rows += costs(call, 36, f"layers of {width} neurons, matched_corr alone")
    with tempfile.TemporaryDirectory() as out:
        stores = sslsim.Study(checkpoints=("w2v2-large", "hubert-large")).extract(out)
        call = partial(sslsim.attention_evidence, stores, ["pearson"], rows=4, device=device)
        return rows + costs(call, 36, "attention of 5 heads")


def costs(call: Callable[..., object], pairs: int, of: str, rounds: int = 5) -> Rows:
    """Median milliseconds a pair, in turn, of the comparison and of what each control adds to it."""
    ways = {"the comparison": NOTHING} | CONTROLS
    taken = [{name: seconds(partial(call, resampling=way)) for name, way in ways.items()} for _ in range(rounds + 1)]
    alone = median(one["the comparison"] for one in taken[1:])  # the first round warms up
    rows: Rows = []
    for name in ways:
        added = alone if name == "the comparison" else median(one[name] - one["the comparison"] for one in taken[1:])
        row = {"what": of, "control": name, "milliseconds a pair of layers": f"{1000 * max(0.0, added) / pairs:.1f}"}
        rows.append(row | {"of the comparison": f"{max(0.0, added) / alone:.1f}", "n": rounds})
    return rows


def bench_grid(device: str) -> Rows:
    """Grid of the paper's size: 76 layers of two base and two large models, five measures."""
    frames = 20_000 if device == "cpu" else 50_000
    with made.models(frames, *GRID) as models:
        found = alone("compare", device, ",".join(FIVE), *(str(model.root) for model in models))
    row = {"what": f"76 layers (2 x 13 x 768, 2 x 25 x 1024), {frames:,} frames, five measures, {device}"}
    row |= {"time": f"{found['seconds'] / 60:.1f} min", "peak memory": f"{found['peak']:.1f} GB"}
    return [row | {"wanted": "25 min, 8 GB" if device == "cpu" else "2 min", "n": 1}]


def bench_paper(device: str) -> Rows:
    """Evidence of layers of different checkpoints, seven of the paper's sizes (139 layers), 4,000 frames.

    Default measures and controls of each notebook, on stores of made arrays. Memory is that of a process that opens
    them; on a GPU, its own is said too.
    """
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        roots = [str(store.root) for store in made.stores(Path(folder), 4_000, PAPER)]
        for notebook in NOTEBOOKS:
            rows.append(paper_row(notebook, device, alone("evidence", device, notebook, *roots)))
            rows[-1]["wanted, both together"] = "60 min on 2 cores, 10 min on 16" if device == "cpu" else "3 min"
    return rows


def paper_row(what: str, device: str, found: dict[str, float]) -> dict[str, object]:
    row: dict[str, object] = {"what": f"{what}: {found['pairs']:,.0f} pairs of layers, {device}", "n": 1}
    row |= {"time": f"{found['seconds'] / 60:.1f} min", "of CPU": f"{found['cpu'] / 60:.1f} min"}
    row |= {"of a pair": f"{found['seconds'] / found['pairs']:.3f} s", "peak memory": f"{found['peak']:.1f} GB"}
    return row | ({"on the GPU": f"{found['gpu']:.1f} GB"} if device != "cpu" else {})


def evidence_alone(device: str, notebook: str, *roots: str) -> dict[str, float]:
    stores = [sslsim.open(root) for root in roots]
    before = time.process_time()
    taken = seconds(lambda: made_evidence(stores, notebook, device))
    found = {"seconds": taken, "cpu": time.process_time() - before, "peak": peak()}
    found["pairs"] = sum(a * b for a, b in combinations([store.n_layers for store in stores], 2))
    return found | ({"gpu": torch.cuda.max_memory_allocated() / 1e9} if device != "cpu" else {})


def made_evidence(stores: Sequence[ActivationStore], notebook: str, device: str) -> sslsim.Evidence:
    """Evidence as a notebook makes it, between different checkpoints."""
    told = {name: one.default for name, one in read_parameters(find([notebook])[0]).items()}
    measures = dict.fromkeys([*told["measures"], *CLAIMED[notebook]])
    counts = {name: told[name] for name in ("permutations", "blocks", "rotations") if name in told}
    between = list(combinations([store.name for store in stores], 2))
    how = {"between": between, "resampling": sslsim.Resampling(**counts)}
    return sslsim.evidence(stores, list(measures), frames=told["frames"], device=device, **how)


def bench_report(device: str) -> Rows:
    """All notebooks on the embedded data, extraction included, and again in the same folder."""
    kept = {name: value for name, value in os.environ.items() if name != "SSLSIM_FRESH"}
    with tempfile.TemporaryDirectory() as out:
        call = [sys.executable, "-m", "sslsim", "run", "--device", device, "--out", out]
        first = seconds(partial(subprocess.run, call, check=True, env=kept))
        notebooks = json.loads((Path(out) / "run.json").read_text())["notebooks"]
        again = seconds(partial(subprocess.run, call, check=True, env=kept))
    rows: Rows = [{"what": name, "time": f"{one['seconds']:.0f} s", "n": 1} for name, one in notebooks.items()]
    wanted = "4 min on 2 cores, again 1 min" if device == "cpu" else ""
    return [*rows, {"what": "all", "time": f"{first:.0f} s", "again": f"{again:.0f} s", "n": 1, "wanted": wanted}]


def bench_agreement(device: str) -> Rows:
    """Evidence of a base and a large model of three layers each, by the processor and by the device."""
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        stores = made.stores(Path(folder), 4_000, FEW)
        for notebook in NOTEBOOKS:
            ours, theirs = (made_evidence(stores, notebook, where) for where in (device, "cpu"))
            assert ours.pairs.drop(columns="value").equals(theirs.pairs.drop(columns="value"))
            arrays = [(e.pairs.value.to_numpy()[None], e.null, e.left_out, e.rotated) for e in (ours, theirs)]
            names = ("score", "mismatches", "blocks left out", "random bases")
            for measure in ours.pairs.measure.unique():
                these = (ours.pairs.measure == measure).to_numpy()
                row: dict[str, object] = {"what": measure, "scores": int(these.sum())}
                for name, a, b in zip(names, *arrays, strict=True):
                    off = np.abs(a[:, these] - b[:, these])
                    row[name] = f"{np.nanmax(off):.0e}" if np.isfinite(off).any() else ""
                rows.append(row | {"wanted": "1e-04"})
    return rows


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


def extract(checkpoint: Checkpoint, sounds: Path, out: Path, **kept: int | None) -> ActivationStore:
    return sslsim.Study([checkpoint], sounds, **kept).extract(out)[0]


def loading(checkpoint: Checkpoint) -> float:
    """Seconds of what every extraction does once for a checkpoint: hash its files and load its weights."""
    return seconds(lambda: (checkpoint_fingerprint(checkpoint), load_encoder(checkpoint)))


def overhead(checkpoint: Checkpoint, folder: Path, count: int = 12, rounds: int = 5) -> Rows:
    """Rows of extraction against bare loops, and of reading its checksums again."""
    from transformers import AutoFeatureExtractor, AutoModel

    sounds, threads = made.sounds(folder / "sounds", count), torch.get_num_threads()
    model = AutoModel.from_pretrained(checkpoint.source, attn_implementation="eager").eval()
    bare = partial(published.activations, model, AutoFeatureExtractor.from_pretrained(checkpoint.source), sounds)
    out, loop_out = folder / "ours", folder / "loop"
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: extract(checkpoint, folder / "sounds", out),
        f"{threads} threads of Python, one of torch each": lambda: bare(loop_out, 16, threads),
        f"one utterance at a time, {threads} threads of torch": lambda: bare(loop_out, 16, 1),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for i in range(rounds + 1):  # the first round warms up
        for way, call in ways.items():
            shutil.rmtree(out if way == "ours" else loop_out, ignore_errors=True)
            once = loading(checkpoint) if way == "ours" else 0.0
            taken[way] += [seconds(call) - once] if i else []
    store = sslsim.open(next(path for path in out.iterdir() if (path / "store.json").exists()))
    worst = largest_difference(store, loop_out)
    assert worst < 1e-3, worst
    ours = taken.pop("ours")
    fastest = min(taken, key=lambda way: median(taken[way]))
    rows: Rows = []
    for way, theirs in taken.items():
        row = {"what": f"{checkpoint.name}, {count} utterances; loop: {way}", "ours": f"{median(ours):.2f} s"}
        row |= {"reference": f"{median(theirs):.2f} s", "wanted": "0.95" if way == fastest else ""}
        row |= {"ratio": f"{median(b / a for a, b in zip(ours, theirs, strict=True)):.2f}"}
        rows.append(row | {"largest difference": f"{worst:.0e}", "n": rounds})
    rows.append(verifying(store))
    shutil.rmtree(out), shutil.rmtree(loop_out)
    return rows


def largest_difference(store: ActivationStore, loop: Path) -> float:
    """Compare a store with what the loop wrote in order, each layer in units of its standard deviation."""
    worst = 0.0
    for i in range(store.n_layers):
        ours, theirs = np.array(store.layer(i)).ravel(), np.fromfile(loop / f"layer_{i:02d}", "f4")
        worst = max(worst, float(np.abs(ours - theirs).max() / theirs.std()))
    return worst


def verifying(store: ActivationStore, rounds: int = 5) -> dict[str, object]:
    """Row of what it costs to check a store that the system holds in memory, as it is when first opened."""
    size = sum(file.stat().st_size for file in store.root.rglob("*") if file.is_file()) / 1e9
    content = np.random.default_rng(0).bytes(100_000_000)
    a, b, _ = in_turn(store.verify, lambda: zlib.crc32(content), rounds)
    row: dict[str, object] = {"what": f"verify() of {size:.2f} GB in the page cache", "ours": f"{size / a:.2f} GB/s"}
    row |= {"reference": f"zlib.crc32 of bytes in memory {0.1 / b:.2f} GB/s"}
    return row | {"ratio": f"{(size / a) / (0.1 / b):.2f}", "n": rounds}


def cost(checkpoint: Checkpoint, count: int) -> Rows:
    """Row of the time and memory of one extraction in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        made.sounds(Path(folder) / "sounds", count)
        found = alone("extract", checkpoint.source, f"{folder}/sounds", "none", "16")
    pace = found["seconds"] / (count * made.SOUND)
    what = f"{checkpoint.name}, {count} utterances, in a new process: seconds a second of audio; peak memory"
    return [{"what": what, "ours": f"{pace:.3f}; {found['peak']:.2f} GB", "n": 1}]


def hour(checkpoint: Checkpoint, few: int = 6, many: int = 360) -> Rows:
    """Row of the memory of much audio against that of little."""
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for count in (few, many):
            made.sounds(Path(folder) / str(count), count)
            found.append(alone("extract", checkpoint.source, f"{folder}/{count}", str(8 * count), "2"))
    short, long = found
    minutes = [f"{count * made.SOUND / 60:g} min" for count in (few, many)]
    row = {"what": f"{checkpoint.name}, 8 frames and 2 rows an utterance: peak memory of {minutes[1]} of audio"}
    row |= {"ours": f"{long['peak']:.2f} GB ({long['seconds']:.0f} s)"}
    row |= {"reference": f"{minutes[0]}: {short['peak']:.2f} GB", "ratio": f"{short['peak'] / long['peak']:.2f}"}
    return [row | {"wanted": "0.90 (at most +10 %)", "n": 1}]


def extract_alone(source: str, sounds: str, frames: str, queries: str) -> dict[str, float]:
    checkpoint = Checkpoint(Path(source).name, source)
    kept = {"frames": None if frames == "none" else int(frames), "queries": int(queries)}
    once = loading(checkpoint)
    with tempfile.TemporaryDirectory() as out:
        taken = seconds(lambda: extract(checkpoint, Path(sounds), Path(out), **kept))
    return {"seconds": taken - once, "peak": peak()}


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
    "report": bench_report,
    "paper": bench_paper,
    "agreement": bench_agreement,
}
ASKED_FOR = ("report", "paper", "agreement")  # they take long, or need a GPU
ALONE = {"compare": compare_alone, "extract": extract_alone, "evidence": evidence_alone}


def machine(device: str) -> str:
    file = Path("/proc/cpuinfo")
    told = file.read_text() if file.exists() else ""
    cpu = re.search(r"model name\s*:\s*(.*)", told)
    name = cpu[1] if cpu else platform.processor() or platform.machine()
    name += f" ({', '.join(flag for flag in FLAGS if f' {flag} ' in told) or 'neither AVX2 nor AVX-512'})"
    if device != "cpu":
        name += f", {torch.cuda.get_device_name(device)}"
    packages = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "numpy", "sslsim"))
    return f"{date.today()}, {name}, {torch.get_num_threads()} threads, {packages}; n is how often a time was taken"


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
    os.environ["SSLSIM_FRESH"] = "1"  # what is timed is computed
    if sys.argv[1:2] == ["--alone"]:
        print(json.dumps(ALONE[sys.argv[2]](*sys.argv[3:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=", ".join(BENCHMARKS))
    parser.add_argument("--device", default="cpu", help="of the grid, the controls, paper, agreement")
    asked = parser.parse_args()
    if unknown := set(asked.benchmarks) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in asked.benchmarks or [name for name in BENCHMARKS if name not in ASKED_FOR]:
        rows = BENCHMARKS[name](asked.device)
        text = f"{inspect.getdoc(BENCHMARKS[name])}\n{machine(asked.device)}.\n\n{table(rows)}"
        print(f"\n{name}: {text}", flush=True)
        write(name if asked.device == "cpu" else f"{name} on {asked.device}", text)


if __name__ == "__main__":
    main()
