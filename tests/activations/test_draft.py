from __future__ import annotations

import json
import os
import pickle
import platform
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import random_arrays

from sslsim.activations import draft as drafts
from sslsim.activations import shards
from sslsim.activations.draft import drafting
from sslsim.activations.store import open_store
from sslsim.errors import SslsimError

FULL = OSError(28, "No space left on device")
WRITES = 7  # of an utterance: three layers and a final one, attention of two; and of its shard, the checksums


@pytest.fixture
def small(make_store):
    """Make the store that others are to be like: three utterances, each a shard of its own."""
    return by_utterance(make_store("small", frames=(3, 7, 5), queries=2, n_neurons=2))


def by_utterance(store):
    return replace(store, shards=list(range(len(store.index))))


@pytest.fixture
def unsynced(monkeypatch):
    monkeypatch.setattr(drafts, "_sync", lambda _path: None)


def arrays_of(store):
    return lambda row: random_arrays(np.random.default_rng(int(row.utterance[1:])), store, row)


def write(root, store, order=None):
    """Write what is missing of a store like another one, and return which utterances were written."""
    written = []
    with drafting(root, lambda: store) as draft:
        tasks = draft.tasks()
        for task in tasks if order is None else [tasks[number] for number in order]:
            task.write(arrays_of(store))
            written += [int(name[1:]) for name in task.store.index.utterance]
    return written


def files(root):
    """Everything in a folder, byte by byte."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def draft_folder(root):
    return root.parent / f".{root.name}.partial"


def nothing_but(tmp_path, *names):
    return sorted(path.name for path in tmp_path.iterdir()) == sorted(["small", *names])


@pytest.fixture
def whole(small, tmp_path):
    """Bytes of a store written at once."""
    write(tmp_path / "whole", small)
    found = files(tmp_path / "whole")
    assert set(found) == {*(f"shard_000{i}.bin" for i in range(3)), "index.csv", "skipped.csv", "store.json"}
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


def test_any_order_of_the_work_ends_in_the_same_bytes(small, whole, tmp_path):
    write(tmp_path / "out", small, [2, 0, 1])
    assert files(tmp_path / "out") == whole
    assert nothing_but(tmp_path, "whole", "out")
    store = open_store(tmp_path / "out")
    store.verify()
    row = next(store.index[1:2].itertuples())
    np.testing.assert_array_equal(store.layer(1)[3:10], arrays_of(small)(row).hidden[1])


def test_a_worker_elsewhere_gets_its_part_of_the_index_alone(small, whole, tmp_path):
    with drafting(tmp_path / "out", lambda: small) as draft:
        for number, task in enumerate(draft.tasks()):
            task = pickle.loads(pickle.dumps(task))
            assert task.store.index.utterance.tolist() == [f"u{number}"]
            task.write(arrays_of(task.store))
    assert files(tmp_path / "out") == whole


def test_nothing_in_a_store_or_its_draft_is_a_pickle(small, whole, tmp_path):
    folder = draft_of_two(tmp_path / "out", small)
    for content in [*files(folder).values(), *whole.values()]:
        with pytest.raises((pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError)):
            pickle.loads(content)


def test_what_is_there_is_not_planned_again(small, whole, tmp_path):
    with drafting(tmp_path / "whole", lambda: pytest.fail("planned")) as draft:
        assert draft is None
    assert files(tmp_path / "whole") == whole
    assert nothing_but(tmp_path, "whole")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), FULL], ids=lambda e: type(e).__name__)
def test_interrupted_at_any_write_it_goes_on_to_the_same_bytes(small, whole, tmp_path, monkeypatch, unsynced, error):
    root = tmp_path / "out"
    for k in range(1, 3 * WRITES + 1):
        with monkeypatch.context() as patch:
            patch.setattr(shards.os, "pwrite", failing(os.pwrite, k, error))
            told = "store '.*out': cannot be written: .*No space left on device" if error is FULL else None
            with pytest.raises(SslsimError if error is FULL else type(error), match=told):
                write(root, small)
        complete = (k - 1) // WRITES
        assert not root.exists()
        assert draft_folder(root).exists() == (complete > 0)
        assert write(root, small) == list(range(complete, 3))
        assert files(root) == whole
        assert nothing_but(tmp_path, "whole", "out")
        shutil.rmtree(root)


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_disk_that_takes_only_a_part_at_a_time(small, whole, tmp_path, monkeypatch, share):
    real, left = os.pwrite, [500]

    def some(file, content, place):
        n = real(file, content[: max(1, int(share * len(content)))], place)
        left[0] -= n
        if left[0] < 0:
            raise FULL
        return n

    with monkeypatch.context() as patch:
        patch.setattr(shards.os, "pwrite", some)
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
            patch.setattr(drafts, "_sync", failing(drafts._sync, k, error))
            with pytest.raises(SslsimError if error is FULL else type(error)):
                write(root, small)
        assert not root.exists()
        assert write(root, small) == []
        assert files(root) == whole
        shutil.rmtree(root)


def draft_of_two(root, small):
    """Leave a draft in which two of three utterances are complete."""
    with suppress(KeyboardInterrupt), drafting(root, lambda: small) as draft:
        for task in draft.tasks()[:2]:
            task.write(arrays_of(small))
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
    names = sorted(files(kept))
    assert names == ["index.csv", "shard_0000.bin", "shard_0001.bin", "skipped.csv", "store.json"]
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
                shutil.rmtree(root)


@pytest.mark.parametrize(
    "other", [{"fingerprint": "e" * 64}, {"dtype": "float16"}, {"versions": {"torch": "1"}}], ids=str
)
def test_a_draft_of_other_content_or_libraries_is_begun_anew(small, tmp_path, other):
    draft_of_two(tmp_path / "out", small)
    assert write(tmp_path / "out", replace(small, **other)) == [0, 1, 2]


def of_another(folder, monkeypatch):
    me = os.geteuid()
    monkeypatch.setattr(drafts.os, "geteuid", lambda: me + 1)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (of_another, r"is of user \d+ with the mode drwxr-xr-x; user \d+ uses only"),
        (lambda folder, _: folder.chmod(0o777), "with the mode drwxrwxrwx"),
        (lambda folder, _: folder.chmod(0o775), "with the mode drwxrwxr-x"),
        (lambda folder, _: folder.rename(folder.with_name("x")).chmod(0o755), None),
        (lambda folder, _: (folder.rename(folder.with_name("x")), folder.symlink_to("x")), "with the mode lrwx"),
        (lambda folder, _: (folder.rename(folder.with_name("x")), folder.write_text("")), "with the mode -rw"),
    ],
)
def test_a_draft_that_another_may_have_written_is_refused_and_left(small, tmp_path, monkeypatch, spoil, found):
    root = tmp_path / "out"
    folder = draft_of_two(root, small)
    assert folder.stat().st_mode & 0o777 == 0o755
    spoil(folder, monkeypatch)
    if found is None:  # moved away: there is none
        assert write(root, small) == [0, 1, 2]
        return
    before = files(tmp_path)
    with pytest.raises(SslsimError, match=f"^'.*/.out.partial' .*{found}.*: remove it, or have") as caught:
        write(root, small)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == before


def test_a_draft_is_not_written_to_by_others_whatever_the_umask(small, whole, tmp_path):
    before = os.umask(0)
    try:
        draft_of_two(tmp_path / "out", small)
        assert write(tmp_path / "out", small) == [2]
    finally:
        os.umask(before)
    assert files(tmp_path / "out") == whole


def test_a_disk_too_small_is_refused_and_keeps_what_is_there(small, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(drafts.shutil, "disk_usage", lambda _path: SimpleNamespace(free=0))
        with pytest.raises(SslsimError, match=r"needs [\d.]+ k?B.* in .*, where 0 bytes are free; use another"):
            write(tmp_path / "new", small)
    with pytest.raises(SslsimError, match=r"store 'small': needs 240 GB in .*, where .*B are free"):
        write(tmp_path / "wide", replace(small, n_neurons=10**9))
    assert nothing_but(tmp_path, "whole")
    draft_of_two(tmp_path / "out", small)
    assert write(tmp_path / "out", small) == [2]
    assert files(tmp_path / "out") == whole


def test_a_plan_that_fails_leaves_nothing_and_keeps_what_is_there(small, tmp_path):
    def fail():
        raise SslsimError("does not load")

    with pytest.raises(SslsimError, match="does not load"), drafting(tmp_path / "out", fail):
        pass
    assert nothing_but(tmp_path)
    draft_of_two(tmp_path / "out", small)
    with pytest.raises(SslsimError, match="does not load"), drafting(tmp_path / "out", fail):
        pass
    assert write(tmp_path / "out", small) == [2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.hidden[0].__setitem__((-1, -1), np.nan), "layer 0 is NaN or infinite for utterance 'u0'; its"),
        (lambda a: a.final.__setitem__((0, 0), np.inf), "final layer is NaN or infinite for utterance 'u0'"),
        (lambda a: a.attention[0].fill(np.nan), "attention of layer 1 is NaN or infinite for utterance 'u0'"),
        (
            lambda a: setattr(a, "hidden", a.hidden[:, :2]),
            r"layer 0 of utterance 'u0' has the shape \(2, 2\), not \(",
        ),
        (lambda a: setattr(a, "hidden", a.hidden[:2]), "gave other layers for utterance 'u0' than before"),
        (lambda a: setattr(a, "final", None), "gave other layers for utterance 'u0' than before"),
    ],
)
def test_arrays_that_cannot_be_kept_are_named_and_nothing_stays(small, tmp_path, change, message):
    def spoilt(row):
        arrays = arrays_of(small)(row)
        change(arrays)
        return arrays

    with (
        pytest.raises(SslsimError, match=f"checkpoint 'small': {message}"),
        drafting(tmp_path / "out", lambda: small) as draft,
    ):
        draft.tasks()[0].write(spoilt)
    assert nothing_but(tmp_path)


def test_a_place_that_cannot_be_written(small, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SslsimError, match="store '.*out': cannot be written: "):
        write(tmp_path / "file" / "out", small)


@pytest.mark.parametrize("fails", [False, True])
def test_who_waits_says_so_and_goes_on_from_there(small, whole, tmp_path, capsys, fails):
    root, begun, go = tmp_path / "out", threading.Event(), threading.Event()

    def first():
        with suppress(MemoryError), drafting(root, lambda: small) as draft:
            *most, last = draft.tasks()
            for task in most:
                task.write(arrays_of(small))
            begun.set()
            go.wait(60)
            if fails:
                raise MemoryError
            last.write(arrays_of(small))

    other = threading.Thread(target=first)
    other.start()
    assert begun.wait(60)
    threading.Timer(0.5, go.set).start()
    with drafting(root, lambda: small) as draft:
        assert (draft is not None) == fails
        for task in draft.tasks() if draft else []:
            task.write(arrays_of(small))
    other.join()
    assert capsys.readouterr().out == "out: waiting for another process that is making it\n"
    assert files(root) == whole
    assert nothing_but(tmp_path, "whole", "out")


def test_an_error_of_one_store_is_not_lost_on_another_that_is_there(small, whole, tmp_path):
    """Several drafts are open at a time; an exception passes through all of them."""
    with (
        pytest.raises(SslsimError, match="store '.*out': cannot be written: .*No space left"),
        drafting(tmp_path / "out", lambda: small),
        drafting(tmp_path / "whole", lambda: pytest.fail("planned")),
    ):
        raise FULL
    assert not draft_folder(tmp_path / "out").exists()


def test_without_locks_the_first_to_finish_stays(small, whole, tmp_path, monkeypatch):
    def none(_lock, **_options):
        raise NotImplementedError

    monkeypatch.setattr(drafts.filelock.FileLock, "acquire", none)
    root = tmp_path / "out"
    with drafting(root, lambda: small) as draft:
        tasks = draft.tasks()
        for task in tasks[:2]:
            task.write(arrays_of(small))
        assert write(root, small) == [2]  # the other, meanwhile
    assert files(root) == whole
    assert nothing_but(tmp_path, "whole", "out")


def test_what_a_killed_process_left_is_cleared_and_what_a_living_one_has_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".pieces.{platform.node()}.{dead.pid}.x"
    other = tmp_path / f".pieces.{platform.node()}.{os.getppid()}.x"
    elsewhere = tmp_path / f".pieces.not-{platform.node()}.{dead.pid}.x"
    planted = [tmp_path / f".pieces.{platform.node()}.{pid}.x" for pid in ("9" * 19, "9" * 200, "²", "0", "-1")]
    for folder in (left, other, elsewhere, *planted):
        folder.mkdir()
    drafts.remove_stale(tmp_path, ".pieces.*")
    assert not left.exists()
    assert all(folder.exists() for folder in (other, elsewhere, *planted))


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
        return write(file, content[: max(48, -(-len(content) // 2))], place)

    try:
        shards.os.pwrite, drafts._sync = torn, lambda _path: step()
        sys.addaudithook(audit)
        write(root, small)
    finally:
        os._exit(0)


def state_of(root):
    if root.exists():
        return "complete"
    return f"{len(list(draft_folder(root).glob('shard*')))} of 3" if draft_folder(root).exists() else "nothing"


def kill_everywhere(folder, again):
    """Kill at every step, and the resumed one at some; print the states that were met and what came out otherwise."""
    folder, rng = Path(folder), random.Random(0)
    small, whole = by_utterance(open_store(folder / "small")), files(folder / "whole")
    root, states, wrong = folder / "out", Counter(), []
    last = killed_at(0, root, small)
    for k in range(1, last + 1):
        shutil.rmtree(root, ignore_errors=True)
        for kill in [k, *(rng.randint(1, last) for _ in range(int(again)))]:
            killed_at(kill, root, small)
            states[state_of(root)] += 1
        killed_at(0, root, small)
        if files(root) != whole or draft_folder(root).exists():
            wrong.append(k)
    print(json.dumps({"steps": last, "states": states, "wrong": wrong}))


@pytest.mark.parametrize("again", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_any_step_on_the_disk_it_ends_in_the_same_bytes(small, whole, tmp_path, again):
    code = f"import test_draft; test_draft.kill_everywhere({str(tmp_path)!r}, {again})"
    places = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    options = {"env": os.environ | {"PYTHONPATH": places}, "capture_output": True, "check": True}
    done = subprocess.run([sys.executable, "-c", code], **options)
    found = json.loads(done.stdout)
    print(found)
    assert found["steps"] > 60
    assert found["wrong"] == []
    assert {"nothing", "0 of 3", "1 of 3", "2 of 3", "3 of 3", "complete"} <= set(found["states"])
