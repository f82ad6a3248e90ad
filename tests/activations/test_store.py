from __future__ import annotations

import html
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from sslsim.activations import store as store_module
from sslsim.activations.store import Stores, check_pairable, description_hash, file_hash, open_store
from sslsim.encoders.lineup import Checkpoint
from sslsim.errors import SslsimError


def test_what_is_written_is_read_back(make_store):
    store = make_store(frames=(5, 40, 12), queries=8)
    assert (store.n_layers, store.n_neurons, store.n_heads, store.n_frames) == (3, 6, 2, 57)
    assert store.attention_layers == 2
    assert store.index["start"].tolist() == [0, 5, 45]
    assert store.index["n_rows"].tolist() == [5, 8, 8]
    rng = np.random.default_rng(0)
    for u, (n, start) in enumerate(zip((5, 40, 12), (0, 5, 45), strict=True)):
        maps = rng.random((2, 2, min(8, n), n), dtype="f4")
        hidden, final = rng.standard_normal((3, n, 6), dtype="f4"), rng.standard_normal((n, 6), dtype="f4")
        maps /= maps.sum(axis=-1, keepdims=True)
        for layer in range(3):
            np.testing.assert_array_equal(store.layer(layer)[start : start + n], hidden[layer])
        np.testing.assert_array_equal(store.final()[start : start + n], final)
        for layer in (1, 2):
            np.testing.assert_array_equal(store.attention(layer, u), maps[layer - 1])


def test_arrays_are_memory_mapped_float32_and_read_only(make_store):
    store = make_store()
    for values in (store.layer(0), store.final(), store.attention(1, 0)):
        assert isinstance(values, np.memmap)
        assert values.dtype == np.float32
        with pytest.raises(ValueError, match="read-only"):
            values[...] = 0


def test_query_rows_are_all_or_evenly_spread(make_store):
    store = make_store(frames=(5, 40), queries=8)
    assert store.query_rows(0).tolist() == [0, 1, 2, 3, 4]
    assert store.query_rows(1).tolist() == [2, 7, 12, 17, 22, 27, 32, 37]
    every = make_store("all", frames=(5, 40), queries="all")
    assert every.query_rows(1).tolist() == list(range(40))
    assert every.attention(2, 1).shape == (2, 40, 40)


def test_without_queries_there_is_no_attention(make_store):
    store = make_store(queries=0)
    assert store.attention_layers == 0
    assert not list(store.root.glob("attention*"))
    with pytest.raises(SslsimError, match="model: no attention in this store; extract with queries above 0"):
        store.attention(1, 0)


def test_a_post_norm_model_has_no_other_final_layer(make_store):
    store = make_store(final_norm=False)
    np.testing.assert_array_equal(store.final(), store.layer(2))
    assert not (store.root / "final.npy").exists()


def test_numbers_out_of_range(make_store):
    store = make_store()
    for ask, message in (
        (lambda: store.layer(3), "model: no layer 3; there are 0 to 2"),
        (lambda: store.layer(-1), "model: no layer -1; there are 0 to 2"),
        (lambda: store.attention(0, 0), "model: no attention layer 0; there are 1 to 2"),
        (lambda: store.attention(1, 3), "model: no utterance 3; there are 0 to 2"),
        (lambda: store.query_rows(9), "model: no utterance 9; there are 0 to 2"),
    ):
        with pytest.raises(SslsimError, match=message):
            ask()


def test_a_store_is_frozen_and_shows_itself(make_store):
    store = make_store("<b>")
    with pytest.raises(FrozenInstanceError):
        store.n_layers = 4
    page = store._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "0 to 2; the last: raw residual stream, a final LayerNorm follows" in page
    assert "57 of 3 utterances, 0.0 minutes" in page
    for name, told in (("weights", "trained"), ("neurons", "6"), ("left out", "0 utterances"), ("store", store.root)):
        assert f'<th scope="row">{name}</th><td>{html.escape(str(told))}</td>' in page
    on_disk = sum(file.stat().st_size for file in store.root.glob("[lfa]*.npy"))
    assert f"{on_disk / 1e6:,.1f} MB" in page


def test_everything_that_a_store_shows_is_escaped(make_store):
    store = make_store()
    evil = "<script>alert(1)</script>"
    index = store.index.assign(n_samples=3_600 * 16_000)
    checkpoint = replace(store.checkpoint, name=evil, family=evil, size=evil, source=evil)
    page = replace(store, checkpoint=checkpoint, heard={"mask": evil}, index=index)._repr_html_()
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 5
    assert "utterances, 3.0 hours" in page


def test_ids_come_back_as_text(make_store):
    store = make_store()
    table = (store.root / "index.csv").read_text().replace("u0,s", "007,NA").replace("u1,s", ",s")
    (store.root / "index.csv").write_text(table)
    redescribe(store)
    index = open_store(store.root).index
    assert index["utterance"].tolist() == ["007", "", "u2"]
    assert index["speaker"].tolist() == ["NA", "s", "s"]


def redescribe(store, **changes):
    """Bring store.json up to what the folder holds, with some changes."""
    path = store.root / "store.json"
    content = json.loads(path.read_text()) | changes
    content["files"] |= {name: (store.root / name).stat().st_size for name in content["hashes"]}
    content["hashes"] = {name: file_hash(store.root / name) for name in content["hashes"]}
    content["hash"] = description_hash(content)
    path.write_text(json.dumps(content))


def read_all(store):
    """Map every array file of a store."""
    return [store.final(), *(store.layer(i) for i in range(3)), *(store.attention(i, 0) for i in (1, 2))]


@pytest.mark.parametrize("place", [0, 9, 128, 700, -1])
@pytest.mark.parametrize(
    "name",
    ["layer_00.npy", "layer_02.npy", "final.npy", "attention_02.npy", "index.csv", "skipped.csv", "checksums.npy"],
)
def test_a_flipped_byte_is_refused_by_name(make_store, monkeypatch, name, place):
    store = make_store()
    monkeypatch.setattr("sslsim.activations.store._VERIFIED", set())
    path = store.root / name
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 4
    path.write_bytes(content)
    with pytest.raises(SslsimError, match=rf"store '.*model': {name}"):
        open_store(store.root).verify()
    with pytest.raises(SslsimError, match=rf"store '.*model': {name}"):
        read_all(open_store(store.root))


def test_every_byte_of_every_array_file_is_under_a_checksum(make_store, monkeypatch):
    store = make_store(frames=(1, 3), queries=2, n_neurons=2)
    names = [f"{name}.npy" for name in ("layer_00", "layer_01", "layer_02", "final", "attention_01", "attention_02")]
    assert sorted(names) == sorted({path.name for path in store.root.glob("*.npy")} - {"checksums.npy"})
    monkeypatch.setattr("sslsim.activations.store._VERIFIED", set())
    store.verify()
    for number, name in enumerate(names):
        content = (store.root / name).read_bytes()
        for place in range(number, len(content), 1 if number in (0, 5) else 7):
            flipped = content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
            (store.root / name).write_bytes(flipped)
            with pytest.raises(SslsimError, match=rf"store '.*model': {name}"):
                store.verify()
        (store.root / name).write_bytes(content)
    store.verify()


def test_the_damaged_utterance_is_named(make_store, monkeypatch):
    store = make_store()
    monkeypatch.setattr("sslsim.activations.store._VERIFIED", set())
    with (store.root / "layer_01.npy").open("r+b") as file:
        file.seek(-12 * 6 * 4, 2)
        file.write(b"?")
    with pytest.raises(SslsimError, match="layer_01.npy: the bytes of utterance 'u2' are not those written; delete"):
        store.layer(1)
    store.layer(0)


def test_bytes_are_checked_once_and_again_when_the_file_changes(make_store, monkeypatch):
    store, checked = make_store(), []
    monkeypatch.setattr("sslsim.activations.store._VERIFIED", set())
    real = store_module.checksums
    monkeypatch.setattr(store_module, "checksums", lambda *args: (checked.append(args[1]), real(*args))[1])
    for _ in range(3):
        open_store(store.root).layer(1)
    assert checked == ["layer_01.npy"]
    path = store.root / "layer_01.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").replace(path)
    with pytest.raises(SslsimError, match="layer_01.npy: the bytes of utterance 'u2' are not those written"):
        store.layer(1)


def test_a_store_of_version_1_is_refused_by_name(make_store):
    store = make_store()
    content = json.loads((store.root / "store.json").read_text())
    for key in ("hash", "hashes", "frames", "dtype"):  # what it did not have
        del content[key]
    (store.root / "store.json").write_text(json.dumps(content | {"version": 1}))
    with pytest.raises(SslsimError, match=r"store '.*model': version 1, this sslsim reads 2; delete this folder and"):
        open_store(store.root)


def test_a_flipped_byte_of_the_description_is_refused(make_store):
    store = make_store()
    path = store.root / "store.json"
    content = path.read_bytes()
    places = range(0, len(content), 7)
    refused = 0
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            read = open_store(store.root)
        except SslsimError as error:
            assert re.search("store.json is |version", str(error))  # noqa: PT017
            refused += 1
        else:  # white space
            assert read.frame_key == store.frame_key
    assert refused > 0.8 * len(places)


def test_frames_are_kept_evenly_and_pair_only_with_the_same(make_store):
    store, whole = make_store("some", kept=8, queries=0), make_store("whole", queries=0)
    assert store.frame_rows(1).tolist() == [2, 7, 12, 17, 22, 27, 32, 37]
    assert store.index.n_frames.tolist() == [5, 8, 8]
    assert store.layer(1).shape == (21, 6)
    with pytest.raises(SslsimError, match="some keeps 8 frames an utterance, whole all; extract both with the same"):
        check_pairable(store, whole)


def test_a_checkpoint_without_heads_has_no_attention(make_store):
    store = make_store(n_heads=0, queries=4)
    assert store.attention_layers == 0
    with pytest.raises(SslsimError, match="model: no attention in this store; the checkpoint has no heads"):
        store.attention(1, 0)


def test_damaged_stores_are_refused_by_name(make_store):
    store = make_store()
    with (store.root / "layer_01.npy").open("ab") as file:
        file.write(b"x")
    message = r"store '.*model': layer_01.npy is 1,497 bytes, not 1,496; delete this folder and extract again"
    with pytest.raises(SslsimError, match=message):
        open_store(store.root)
    (store.root / "layer_01.npy").unlink()
    with pytest.raises(SslsimError, match="layer_01.npy is missing; delete this folder and extract again"):
        open_store(store.root)
    redescribe(store, version=99)
    with pytest.raises(SslsimError, match=r"store '.*model': version 99, this sslsim reads 2; delete this folder"):
        open_store(store.root)
    for text in ("{", "[]", "{}", '{"version": 2}'):
        (store.root / "store.json").write_text(text)
        with pytest.raises(SslsimError, match="store.json is damaged; delete this folder and extract again"):
            open_store(store.root)


def test_what_is_no_store_is_refused_with_a_hint(make_store, tmp_path):
    with pytest.raises(SslsimError, match=r"store '.*nowhere': no store.json there$"):
        open_store(tmp_path / "nowhere")
    make_store("one")
    make_store("two")
    with pytest.raises(SslsimError, match="no store.json there; it holds the stores one, two"):
        open_store(tmp_path)


def test_stores_pair_iff_they_hold_the_same_frames_and_rows(make_store):
    a = make_store("A", seed=0)
    check_pairable(a, make_store("B", seed=1, n_layers=5, n_neurons=3, final_norm=False))
    for other, message in (
        ({"frames": (5, 40, 13)}, "A has 57 frames, B2 58; extract both from the same corpus"),
        ({"audio": "x"}, "A and B2 heard other audio for utterance 'u0'; extract both from the same corpus"),
        ({"frames": (5, 52)}, "A and B2 hold 3 and 2 utterances; extract both from the same corpus"),
        ({"queries": "all"}, "A keeps 8 attention query rows an utterance, B2 all; extract both with the same queries"),
    ):
        b = make_store("B2", **other)
        with pytest.raises(SslsimError, match=f"layers cannot be paired: {message}"):
            check_pairable(a, b)
        for file in b.root.iterdir():
            file.unlink()
        b.root.rmdir()


def test_stores_of_other_utterances_do_not_pair(make_store, monkeypatch):
    a, b = make_store("A"), make_store("B", audio="x")
    b.index["utterance"] = ["v0", "v1", "v2"]
    with pytest.raises(SslsimError, match=r"A and B hold other utterances \('u0' against 'v0'\)"):
        check_pairable(a, b)


def test_frame_counts_are_written_with_thousands(make_store):
    a, b = make_store("A", frames=(49_812,), queries=1), make_store("B", frames=(49_763,), queries=1)
    message = "layers cannot be paired: A has 49,812 frames, B 49,763; extract both from the same corpus"
    with pytest.raises(SslsimError, match=message):
        check_pairable(a, b)


def test_files_are_opened_one_at_a_time_however_many_threads_ask(make_store, monkeypatch):
    """Numpy parses headers with ast, which fails in Python 3.11 when two threads do."""
    store, load, inside, most = make_store(), np.load, [], []

    def watched(*arguments, **options):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return load(*arguments, **options)

    read_all(store)
    monkeypatch.setattr(np, "load", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: (store.layer(i % 3), store.final(), store.attention(1, 0)), range(12)))
    assert len(most) == 36
    assert max(most) == 1


def test_stores_go_by_place_and_name_and_show_themselves(make_store):
    first, second = (replace(make_store(name), checkpoint=Checkpoint(name, "x", family="<b>")) for name in ("a-1", "b"))
    stores = Stores([first, second])
    assert stores["a-1"] is stores.a_1 is stores[0] is first
    assert stores[1:] == [second]
    assert stores._ipython_key_completions_() == ["a-1", "b"]
    with pytest.raises(SslsimError, match="no checkpoint 'a-2' in these stores; did you mean 'a-1'"):
        stores["a-2"]
    with pytest.raises(AttributeError, match="no checkpoint 'c' in these stores"):
        _ = stores.c
    page = stores._repr_html_()
    assert "&lt;b&gt;" in page
    assert page.count("<tr>") == 3
