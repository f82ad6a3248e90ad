"""Pieces of a comparison: the same bits on any executor, few at a time on a GPU, and nothing left behind."""

import errno
import multiprocessing
import os
import pickle
import platform
import shutil
import stat
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from pretend import Here, pretend_cuda

from sslsim.activations.selection import LayerView
from sslsim.comparison import crops, engine, pieces, scratch
from sslsim.comparison.heads import compare_attention
from sslsim.comparison.layers import compare, neuron_partners
from sslsim.errors import SslsimError
from sslsim.parallel import executor as dask_executor
from sslsim.parallel import workers_on
from sslsim.resources import size_told
from sslsim.significance.evidence import Resampling
from sslsim.significance.run import evidence


@pytest.fixture
def stores(make_store):
    sizes = [("a", 6), ("b", 9), ("c", 4)]
    return [make_store(name, n_neurons=n, frames=(30, 40, 51), seed=i) for i, (name, n) in enumerate(sizes)]


# one of each kind
KINDS = ["matched_corr", "neuron_count", "svcca_raw", "pwcca", "linear_cka_debiased", "linreg_heldout", "rbf_cka"]
KINDS += ["mutual_knn", "js", "attention_cka"]


def bits(stores, device="cpu", **options):
    tables = compare(stores, KINDS, device=device, **options), neuron_partners(stores, device=device, **options)
    return [table.value.to_numpy().tobytes() for table in tables]


def test_threads_and_processes_give_the_same_bits(stores, monkeypatch):
    expected = bits(stores)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert bits(stores, executor=executor) == expected
    monkeypatch.setattr(engine, "BATCH_NEURONS", 9)
    monkeypatch.setattr(crops, "WORK", 1)
    before, expected = torch.get_num_threads(), bits(stores)
    for threads in (1, 3):
        with ThreadPoolExecutor(threads) as executor:
            assert bits(stores, executor=executor) == expected
    assert torch.get_num_threads() == before


def test_wide_layers_give_the_same_bits_too(make_store, monkeypatch):
    """Their products are large, and they are paired in float32."""
    monkeypatch.setattr(engine, "BATCH_NEURONS", 600)
    sizes = (("a", 300), ("b", 280))
    wide = [make_store(name, n_neurons=n, frames=(900, 1000), seed=n, n_layers=2) for name, n in sizes]
    measures = ["max_corr", "linreg", "svcca", "pwcca", "linear_cka_debiased"]
    expected = compare(wide, measures, device="cpu").value.to_numpy()
    with ThreadPoolExecutor(3) as executor:
        assert np.array_equal(compare(wide, measures, executor=executor, device="cpu").value, expected)


def test_small_layers_are_read_once_whatever_is_computed_of_them(stores, monkeypatch):
    read, whole = LayerView._read, []

    def counted(view, rows):
        whole.extend([view.label] * (rows == slice(None)))
        return read(view, rows)

    monkeypatch.setattr(LayerView, "_read", counted)
    how = {"frames": 90, "resampling": Resampling(2, blocks=2), "device": "cpu"}
    with ThreadPoolExecutor(1) as executor:
        evidence(stores, ["svcca", "mutual_knn"], executor=executor, **how)
    assert sorted(whole) == sorted((store.name, layer) for store in stores for layer in store.layer_numbers)


def test_a_dask_cluster_gives_the_same_bits(stores, tmp_path, monkeypatch):
    import distributed  # its import alone takes seconds

    expected = bits(stores)
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0", "local_directory": tmp_path / "dask"}
    with distributed.LocalCluster(**options) as cluster:
        assert bits(stores, executor=dask_executor(cluster.scheduler_address)) == expected


def test_everything_is_computed_on_the_device(stores):
    expected = [np.frombuffer(each) for each in bits(stores[:2])]
    with pretend_cuda():
        there = [np.frombuffer(each) for each in bits(stores[:2], device="cuda", executor=Here())]
    for one, other in zip(there, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_gpu_has_few_pieces_at_a_time_whatever_the_executor(stores, monkeypatch):
    """Eight threads, as eight workers of a cluster: two pieces at a time, of layers and of attention."""
    now, most, lock = [0], [0], threading.Lock()

    def counted(function):
        def piece(*call):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.01)
            try:
                return function(*call)
            finally:
                with lock:
                    now[0] -= 1

        return piece

    monkeypatch.setattr(engine, "BATCH_NEURONS", 1)
    monkeypatch.setattr(crops, "WORK", 1)
    for name in ("moments_of_batch", "pairs_of_batches"):
        monkeypatch.setattr(pieces, name, counted(getattr(pieces, name)))
    monkeypatch.setattr(crops, "sum_jobs", counted(crops.sum_jobs))

    def at_a_time(run):
        most[0] = 0
        with ThreadPoolExecutor(8) as executor:
            run(executor)
        return most[0]

    def layers(executor):
        return compare(stores, ["max_corr"], executor=executor, device="cpu")

    def attention(executor):
        return compare_attention(stores, ["js"], executor=executor, device="cpu")

    assert at_a_time(layers) > 2
    assert at_a_time(attention) > 2
    assert workers_on("cuda") == 2
    for module in (engine, crops):
        monkeypatch.setattr(module, "workers_on", lambda device: workers_on("cuda"))
    assert at_a_time(layers) <= 2
    assert at_a_time(attention) <= 2


def test_the_scratch_folder_is_private_beside_the_stores_and_removed(stores, monkeypatch):
    folder = stores[0].root.parent
    before, seen, pair = sorted(folder.iterdir()), [], pieces.pairs_of_batches

    def spied(inner, *rest):
        scratch = next(each for each in inner.parents if each.parent == folder)
        seen.append(stat.S_IMODE(scratch.stat().st_mode))
        return pair(inner, *rest)

    monkeypatch.setattr(pieces, "pairs_of_batches", spied)
    compare(stores, ["max_corr"], device="cpu")
    assert set(seen) == {0o700}
    monkeypatch.setattr(pieces, "pairs_of_batches", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compare(stores, ["max_corr"], device="cpu")
    assert sorted({*folder.iterdir()} - {folder / "results"}) == before


class Planted:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


def foreign(scratch, monkeypatch):
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)


def linked(scratch, _):
    scratch.symlink_to(scratch.rename(scratch.with_name("moved")))


@pytest.mark.parametrize("spoil", [foreign, linked, lambda scratch, _: scratch.chmod(0o777)])
@pytest.mark.parametrize("piece", ["moments_of_batch", "pairs_of_batches", "frames_of_batches"])
def test_no_pickle_is_read_that_another_may_have_written(stores, tmp_path, monkeypatch, piece, spoil):
    real, ran = getattr(pieces, piece), tmp_path / "ran"

    def planted(inner, *rest):
        with monkeypatch.context() as patch:
            for file in inner.glob("*.pickle"):
                file.write_bytes(pickle.dumps(Planted(ran)))
            spoil(inner.parents[1], patch)
            pieces.forget(inner.parents[1])
            return real(inner, *rest)

    monkeypatch.setattr(pieces, piece, planted)
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(SslsimError, match=r"\.pieces\..*' is of user \d+ with") as caught,
    ):
        compare(stores, ["max_corr", "mutual_knn"], device="cpu", executor=pool)
    assert "\n" not in str(caught.value)
    assert not ran.exists()


def test_what_a_run_has_left_is_gone_when_the_next_begins(stores, monkeypatch):
    """Moments of many runs together would take more room than the stores."""
    seen, once = [], {name: getattr(pieces, name) for name in ("moments_of_batch", "samples_of_batch")}

    def spied(name, folder, *rest):
        seen.append({file.parent for file in folder.parents[1].glob("*/*/*-*.pickle")})
        return once[name](folder, *rest)

    for name in once:
        monkeypatch.setattr(pieces, name, partial(spied, name))
    with ThreadPoolExecutor(1) as pool:
        evidence(stores, ["svcca", "mutual_knn"], resampling=Resampling(2, 3, 0), device="cpu", executor=pool)
    assert {len(left) for left in seen} == {0, 1}  # nothing, or the same of other layers


def test_a_full_disk_is_said_and_nothing_is_left(stores, monkeypatch):
    folder = stores[0].root.parent
    before = sorted(folder.iterdir())

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scratch.pickle, "Pickler", full)
    with pytest.raises(
        SslsimError, match=r"kept in '.*\.pieces.*', where [0-9.,]+ .?B are free: No space left on device"
    ):
        compare(stores, ["max_corr"], device="cpu")
    assert sorted(folder.iterdir()) == before


def test_too_little_room_is_said_before_anything_is_computed(stores, monkeypatch):
    folder = stores[0].root.parent
    before, needed = sorted(folder.iterdir()), 16 * sum(s.n_layers * s.n_neurons**2 for s in stores)
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    told = rf"^moments of layers: needs {size_told(needed)} in '.*\.pieces.*', where {size_told(needed - 1)} are free; "
    told += "make room there or compare fewer checkpoints at a time"
    with pytest.raises(SslsimError, match=told):
        compare(stores, ["svcca"], device="cpu")
    assert sorted(folder.iterdir()) == before
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    assert len(compare(stores, ["svcca"], device="cpu"))


def test_stores_that_cannot_be_written_beside_are_compared_all_the_same(stores, monkeypatch):
    expected = compare(stores, ["max_corr"], device="cpu")
    make = tempfile.mkdtemp

    def refuse(**options):
        if "dir" in options:
            raise PermissionError("read-only")
        return make(**options)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    pd.testing.assert_frame_equal(compare(stores, ["max_corr"], device="cpu"), expected)


def test_scratch_folders_of_killed_processes_are_swept(stores):
    folder = stores[0].root.parent
    gone = folder / f".pieces.{platform.node()}.999999999.abc"
    elsewhere, alive = folder / ".pieces.another-machine.1.abc", folder / f".pieces.{platform.node()}.{os.getpid()}.abc"
    for each in (gone, elsewhere, alive):
        each.mkdir()
    compare(stores, ["max_corr"], device="cpu")
    assert [each.exists() for each in (gone, elsewhere, alive)] == [False, True, True]
