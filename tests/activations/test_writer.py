from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import random_arrays

from sslsim.activations import shards as writer
from sslsim.activations.store import array_files, open_store
from sslsim.errors import SslsimError

FULL = OSError(28, "No space left on device")


@pytest.fixture
def small(make_store):
    """Make the store that others are to be like: three utterances, six array files."""
    return make_store("small", frames=(3, 7, 5), queries=2, n_neurons=2)


@pytest.fixture
def unsynced(monkeypatch):
    monkeypatch.setattr(writer, "_sync", lambda _path: None)


def arrays_of(store, u):
    return random_arrays(np.random.default_rng(u), store, u)


def write(root, store, runs=None, made_by="a test"):
    """Write what is missing of a store like another one, in runs of one utterance, and return what was written."""
    written = []
    with writer.drafting(root, lambda: (store, "work"), made_by) as draft:
        for run in [[u] for u in draft.missing()] if runs is None else runs:
            draft.write(run, lambda u: arrays_of(store, u))
            written += run
    return written


def files(root):
    """Everything in a folder, byte by byte."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def draft_folder(root):
    return root.parent / f".{root.name}.partial"


@pytest.fixture
def whole(small, tmp_path):
    """Bytes of a store written at once."""
    write(tmp_path / "whole", small)
    found = files(tmp_path / "whole")
    assert set(found) == {*array_files(small), "index.csv", "skipped.csv", "checksums.npy", "store.json"}
    return found


def failing(function, k, error):
    """Do as a function does until its k-th call, which raises an error."""
    calls = []

    def fail(*args, **options):
        calls.append(args)
        if len(calls) == k:
            raise error
        return function(*args, **options)

    return fail


@pytest.mark.parametrize("runs", [[[0, 1, 2]], [[2], [0], [1]], [[1, 2], [0]]], ids=str)
def test_any_cut_and_order_of_the_work_ends_in_the_same_bytes(small, whole, tmp_path, runs):
    write(tmp_path / "out", small, runs)
    assert files(tmp_path / "out") == whole
    store = open_store(tmp_path / "out")
    store.verify()
    np.testing.assert_array_equal(store.layer(1)[3:10], arrays_of(small, 1).hidden[1])


def test_a_worker_elsewhere_reads_what_it_must_know(small, whole, tmp_path):
    with writer.drafting(tmp_path / "out", lambda: (small, {"some": "work"}), "a test") as draft:
        for u in draft.missing():
            worker = pickle.loads(pickle.dumps(draft))
            assert worker.work == {"some": "work"}
            assert len(pickle.dumps(draft)) < 500  # it travels with every shard
            worker.write([u], partial(arrays_of, worker.store))
    assert files(tmp_path / "out") == whole


def test_what_is_there_is_not_planned_again(small, whole, tmp_path):
    with writer.drafting(tmp_path / "whole", lambda: pytest.fail("planned"), "another") as draft:
        assert draft is None
    assert files(tmp_path / "whole") == whole
    assert not draft_folder(tmp_path / "whole").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), FULL], ids=lambda e: type(e).__name__)
def test_interrupted_at_any_write_it_goes_on_to_the_same_bytes(small, whole, tmp_path, monkeypatch, unsynced, error):
    root, names = tmp_path / "out", len(array_files(small))
    for k in range(1, 3 * names + 1):
        with monkeypatch.context() as patch:
            patch.setattr(writer.os, "pwrite", failing(os.pwrite, k, error))
            told = "store '.*out': cannot be written: .*No space left on device" if error is FULL else None
            with pytest.raises(SslsimError if error is FULL else type(error), match=told):
                write(root, small)
        complete = (k - 1) // names
        assert not root.exists()
        assert draft_folder(root).exists() == (complete > 0)
        assert write(root, small) == list(range(complete, 3))
        assert files(root) == whole
        assert not draft_folder(root).exists()
        shutil.rmtree(root)


@pytest.mark.parametrize("share", [0.01, 0.4, 0.99])
def test_a_disk_that_takes_only_a_part_at_a_time(small, whole, tmp_path, monkeypatch, share):
    real, left = os.pwrite, [400]

    def some(file, content, place):
        n = real(file, content[: max(1, int(share * len(content)))], place)
        left[0] -= n
        if left[0] < 0:
            raise FULL
        return n

    with monkeypatch.context() as patch:
        patch.setattr(writer.os, "pwrite", some)
        with pytest.raises(SslsimError, match="cannot be written: .*No space left on device"):
            write(tmp_path / "out", small)
        left[0] = 10_000
        assert write(tmp_path / "out", small) == [1, 2]
    assert files(tmp_path / "out") == whole


@pytest.mark.parametrize("error", [KeyboardInterrupt(), FULL], ids=lambda e: type(e).__name__)
def test_interrupted_while_finishing_nothing_is_made_again(small, whole, tmp_path, monkeypatch, error):
    root, syncs = tmp_path / "out", len(whole) + 1
    for k in range(1, syncs + 1):
        with monkeypatch.context() as patch:
            patch.setattr(writer, "_sync", failing(writer._sync, k, error))
            with pytest.raises(SslsimError if error is FULL else type(error)):
                write(root, small)
        assert not root.exists()
        assert write(root, small) == []
        assert files(root) == whole
        shutil.rmtree(root)


def test_killed_between_being_in_place_and_being_tidy(small, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "tidy", failing(writer.tidy, 1, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", small)
    open_store(tmp_path / "out").verify()
    writer.tidy(tmp_path / "out")
    assert files(tmp_path / "out") == whole


def draft_of_two(root, small):
    """Leave a draft in which two of three utterances are complete."""
    with suppress(KeyboardInterrupt), writer.drafting(root, lambda: (small, "work"), "a test") as draft:
        for u in (0, 1):
            draft.write([u], lambda u: arrays_of(small, u))
        raise KeyboardInterrupt
    return draft_folder(root)


def damaged(content, kind, rng):
    if kind == "flip":
        place = rng.randrange(len(content))
        return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
    return {"empty": b"", "cut": content[: rng.randrange(len(content))], "zeros": bytes(len(content))}[kind]


@pytest.mark.parametrize("trials", [pytest.param(4, id="quick"), pytest.param(100, marks=pytest.mark.slow, id="many")])
def test_whatever_the_power_took_is_made_again(small, whole, tmp_path, unsynced, trials):
    root, rng = tmp_path / "out", random.Random(trials)
    kept = draft_of_two(root, small).rename(tmp_path / "kept")
    names = sorted(name for name, content in files(kept).items() if content)
    assert {".progress/0.npy", ".progress/1.npy", ".progress/identity", ".progress/plan.pickle"} < set(names)
    for name in names:
        for kind in ("flip", "empty", "cut", "zeros", "gone"):
            for _ in range(trials if kind in ("flip", "cut") else 1):
                shutil.copytree(kept, draft_folder(root))
                path = draft_folder(root) / name
                if kind == "gone":
                    path.unlink()
                else:
                    path.write_bytes(damaged(path.read_bytes(), kind, rng))
                written = write(root, small)
                assert {2} <= set(written) <= {0, 1, 2}, (name, kind)
                assert files(root) == whole, (name, kind)
                assert not draft_folder(root).exists()
                shutil.rmtree(root)


def test_no_flipped_bit_of_a_progress_file_is_believed_or_stops_anything(small, tmp_path):
    folder = draft_of_two(tmp_path / "out", small)
    file = folder / ".progress" / "1.npy"
    content = file.read_bytes()
    draft = writer.Draft(folder)
    assert draft.missing() == [2]
    for place in range(len(content)):
        for bit in range(8):
            file.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            assert draft.missing() in ([2], [1, 2])
            draft.verify()
            assert draft.missing() in ([2], [1, 2])


def test_what_another_version_made_is_begun_anew(small, whole, tmp_path):
    draft_of_two(tmp_path / "out", small)
    assert write(tmp_path / "out", small, made_by="other libraries") == [0, 1, 2]
    assert files(tmp_path / "out") == whole


@pytest.mark.parametrize("other", [{"fingerprint": "e" * 64}, {"frame_key": "e" * 64}, {"dtype": "float16"}], ids=str)
def test_a_draft_of_other_content_is_begun_anew(small, tmp_path, other):
    draft_of_two(tmp_path / "out", small)
    assert write(tmp_path / "out", replace(small, **other)) == [0, 1, 2]


def test_a_disk_too_small_is_refused_and_keeps_what_is_there(small, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(writer.shutil, "disk_usage", lambda _path: SimpleNamespace(free=0))
        with pytest.raises(SslsimError, match=r"needs 0\.0 GB, 0\.0 GB are free; use another disk, or fewer frames"):
            write(tmp_path / "new", small)
        assert not draft_folder(tmp_path / "new").exists()
    wide = replace(small, n_neurons=10**9)
    with pytest.raises(SslsimError, match=r"needs 240\.0 GB, .* GB are free"):
        write(tmp_path / "wide", wide)
    assert not draft_folder(tmp_path / "wide").exists()
    draft_of_two(tmp_path / "out", small)
    assert write(tmp_path / "out", small) == [2]
    assert files(tmp_path / "out") == whole


def test_a_plan_that_fails_leaves_nothing_and_keeps_what_is_there(small, tmp_path):
    def fail():
        raise SslsimError("does not load")

    with pytest.raises(SslsimError, match="does not load"), writer.drafting(tmp_path / "out", fail, "a test"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small"]
    draft_of_two(tmp_path / "out", small)
    with pytest.raises(SslsimError, match="does not load"), writer.drafting(tmp_path / "out", fail, "a test"):
        pass
    assert write(tmp_path / "out", small) == [2]


def test_arrays_of_another_size_are_refused(small, tmp_path):
    with pytest.raises(
        SslsimError, match="'small': made 56 bytes for layer_00.npy of utterance 'u0', where 24 have room"
    ):
        write_wrong(tmp_path / "out", small)
    assert not draft_folder(tmp_path / "out").exists()


def write_wrong(root, store):
    with writer.drafting(root, lambda: (store, None), "a test") as draft:
        draft.write([0], lambda _u: arrays_of(store, 1))


def test_a_place_that_cannot_be_written(small, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SslsimError, match="store '.*out': cannot be written: "):
        write(tmp_path / "file" / "out", small)


def test_who_waits_says_so_and_takes_what_the_other_made(small, whole, tmp_path, capsys):
    root, begun, go = tmp_path / "out", threading.Event(), threading.Event()

    def first():
        with writer.drafting(root, lambda: (small, None), "a test") as draft:
            begun.set()
            go.wait(60)
            draft.write([0, 1, 2], lambda u: arrays_of(small, u))

    other = threading.Thread(target=first)
    other.start()
    assert begun.wait(60)
    threading.Timer(0.7, go.set).start()
    with writer.drafting(root, lambda: pytest.fail("planned"), "a test") as draft:
        assert draft is None
    other.join()
    assert capsys.readouterr().out == "out: waiting for another process that is making it\n"
    assert files(root) == whole
    assert not draft_folder(root).exists()


def test_who_waits_goes_on_where_the_other_failed(small, whole, tmp_path):
    root, begun, go, failed = tmp_path / "out", threading.Event(), threading.Event(), []

    def first():
        try:
            with writer.drafting(root, lambda: (small, None), "a test") as draft:
                draft.write([0, 1], lambda u: arrays_of(small, u))
                begun.set()
                go.wait(60)
                raise MemoryError
        except MemoryError:
            failed.append(True)

    other = threading.Thread(target=first)
    other.start()
    assert begun.wait(60)
    threading.Timer(0.5, go.set).start()
    assert write(root, small) == [2]
    other.join()
    assert failed
    assert files(root) == whole


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_comes_as_another_is_through_leaves_no_empty_draft(small, whole, tmp_path, monkeypatch, when):
    """The other's draft may be put in its place between any two of our steps."""
    root, acquire, came = tmp_path / "out", writer.filelock.FileLock.acquire, []
    shutil.copytree(tmp_path / "whole", tmp_path / "made")
    assert not draft_folder(root).exists()

    def late(lock, **options):
        if when == "before" and not came:
            came.append((tmp_path / "made").rename(root))
        held = acquire(lock, **options)
        if when == "after" and not came:
            came.append((tmp_path / "made").rename(root))
        return held

    monkeypatch.setattr(writer.filelock.FileLock, "acquire", late)
    with writer.drafting(root, lambda: pytest.fail("planned"), "a test") as draft:
        assert draft is None
    assert came
    assert files(root) == whole
    assert not draft_folder(root).exists()


def test_an_error_of_one_store_is_not_lost_on_another_that_is_there(small, whole, tmp_path):
    """Several drafts are open at a time; an exception passes through all of them."""
    with (
        pytest.raises(SslsimError, match="store '.*out': cannot be written: .*No space left"),
        writer.drafting(tmp_path / "out", lambda: (small, None), "a test"),
        writer.drafting(tmp_path / "whole", lambda: pytest.fail("planned"), "a test"),
    ):
        raise FULL
    assert not draft_folder(tmp_path / "out").exists()


def test_without_locks_the_first_to_finish_stays(small, whole, tmp_path, monkeypatch):
    def none(_lock, **_options):
        raise NotImplementedError

    monkeypatch.setattr(writer.filelock.FileLock, "acquire", none)
    root = tmp_path / "out"
    with writer.drafting(root, lambda: (small, None), "a test") as draft:
        draft.write([0, 1], lambda u: arrays_of(small, u))
        assert write(root, small) == [2]  # the other, meanwhile
        draft.write([2], lambda u: arrays_of(small, u))
    assert files(root) == whole
    assert not draft_folder(root).exists()


STEPS = ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "shutil.rmtree")


def killed_at(k, root, small):
    """Write a store in a child that is killed before its k-th step on the disk; return how many steps it took."""
    reader, told = os.pipe()
    child = os.fork()
    if child:
        os.close(told)
        with open(reader, "rb") as steps:
            taken = len(steps.read())
        os.waitpid(child, 0)
        return taken
    steps = 0

    def step():
        nonlocal steps
        steps += 1
        os.write(told, b".")
        if steps == k:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event, args):
        if event in STEPS and args and isinstance(args[0], str) and "out" in args[0]:
            step()

    def torn(file, content, place, write=os.pwrite):
        step()
        return write(file, content[: -(-len(content) // 2)], place)

    try:
        writer.os.pwrite, writer._sync = torn, lambda _path: step()
        sys.addaudithook(audit)
        write(root, small)
    finally:
        os._exit(0)


def state_of(root):
    if root.exists():
        return "in place, not tidy" if (root / ".progress").exists() else "complete"
    if not draft_folder(root).exists():
        return "nothing"
    finishing = ", finishing" if (draft_folder(root) / "index.csv").exists() else ""
    return f"{len(list((draft_folder(root) / '.progress').glob('*.npy')))} of 3{finishing}"


def kill_everywhere(folder, again):
    """Kill at every step, and the resumed one at some; print the states that were met and what came out otherwise."""
    folder, rng = Path(folder), random.Random(0)
    small, whole = open_store(folder / "small"), files(folder / "whole")
    root, states, wrong = folder / "out", Counter(), []
    last = killed_at(0, root, small)
    for k in range(1, last + 1):
        shutil.rmtree(root, ignore_errors=True)
        for kill in [k, *(rng.randint(1, last) for _ in range(int(again)))]:
            killed_at(kill, root, small)
            states[state_of(root)] += 1
        killed_at(0, root, small)
        writer.tidy(root)  # as the next extraction does
        if files(root) != whole or draft_folder(root).exists():
            wrong.append(k)
    print(json.dumps({"steps": last, "states": states, "wrong": wrong}))


@pytest.mark.parametrize("again", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_any_step_on_the_disk_it_ends_in_the_same_bytes(small, whole, tmp_path, again):
    code = f"import test_writer; test_writer.kill_everywhere({str(tmp_path)!r}, {again})"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=True)
    found = json.loads(done.stdout)
    print(found)
    assert found["steps"] > 60
    assert found["wrong"] == []
    met = {"nothing", "0 of 3", "1 of 3", "2 of 3", "3 of 3", "3 of 3, finishing", "in place, not tidy"}
    assert met <= set(found["states"])
