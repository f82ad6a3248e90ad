from __future__ import annotations

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from sslsim.activations import shards
from sslsim.activations.selection import check_pairable
from sslsim.activations.shards import cut
from sslsim.activations.store import Stores, open_store, signed
from sslsim.errors import SslsimError


def test_what_is_written_is_read_back(make_store):
    store = make_store(frames=(5, 40, 12), queries=8)
    assert (store.n_layers, store.n_neurons, store.n_heads, store.n_frames) == (3, 6, 2, 57)
    assert store.attention_layers == 2
    assert store.index["start"].tolist() == [0, 5, 45]
    assert store.index["n_rows"].tolist() == [2, 16, 6]
    rng = np.random.default_rng(0)
    for u, (n, start) in enumerate(zip((5, 40, 12), (0, 5, 45), strict=True)):
        maps = rng.random((2, 2, store.index.n_rows[u], n), dtype="f4")
        hidden, final = rng.standard_normal((3, n, 6), dtype="f4"), rng.standard_normal((n, 6), dtype="f4")
        maps /= maps.sum(axis=-1, keepdims=True)
        for layer in range(3):
            np.testing.assert_array_equal(store.layer(layer)[start : start + n], hidden[layer])
        np.testing.assert_array_equal(store.final()[start : start + n], final)
        for layer in (1, 2):
            np.testing.assert_array_equal(store.attention(layer, u), maps[layer - 1])


def test_a_layer_is_indexed_like_an_array(make_store):
    layer = make_store().layer(1)
    array = np.asarray(layer)
    assert layer.shape == array.shape == (57, 6)
    assert len(layer) == 57
    copy = np.array(layer)
    copy[:] = 0  # that of one shard is a part of a file that nobody may write to
    keys = (3, -1, slice(None), slice(2, 50, 7), slice(9, 2, -1), [50, 4, 4, 5], array[:, 0] > 0, ..., np.arange(0))
    for rows in keys:
        np.testing.assert_array_equal(layer[rows], array[rows])
        assert layer[rows].dtype == np.float32
        np.testing.assert_array_equal(layer[rows, 2], array[rows][..., 2])
        np.testing.assert_array_equal(layer[rows, 1:4], array[rows][..., 1:4])
    with pytest.raises(IndexError):
        layer[57]
    with pytest.raises(IndexError, match="take one or a slice"):
        layer[[1, 2], [3, 4]]


def test_query_rows_are_all_or_at_common_positions_as_many_as_asked_for_on_average(make_store):
    store = make_store(frames=(5, 40), queries=8)
    rows = store.query_rows(1)
    assert rows.tolist() == [1, 4, 6, 9, 12, 14, 17, 22, 25, 27, 30, 33, 35, 38]
    assert store.query_rows(0).tolist() == [1, 3]
    assert store.attention(2, 1).shape == (2, 14, 40)
    every = make_store("all", frames=(5, 40), queries=None)
    assert every.query_rows(1).tolist() == list(range(40))
    assert every.attention(2, 1).shape == (2, 40, 40)


def test_frames_are_kept_at_common_positions_and_pair_only_with_the_same(make_store):
    store, whole = make_store("some", kept=24, queries=0), make_store("whole", queries=0)
    assert store.index.n_frames.tolist() == [2, 16, 6]
    assert store.frame_rows(1)[:2].tolist() == store.frame_rows(2)[:2].tolist() == [1, 3]
    assert store.layer(1).shape == (24, 6)
    with pytest.raises(SslsimError, match="some keeps 24 frames, whole 57; extract both with the same frames"):
        check_pairable(store, whole)
    check_pairable(whole, make_store("ample", kept=57, queries=0))


def test_a_store_without_attention_says_why(make_store):
    with pytest.raises(SslsimError, match="model: no attention in this store; extract with queries above 0"):
        make_store(queries=0).attention(1, 0)
    store = make_store("mel", n_heads=0, queries=4)
    assert store.attention_layers == 0
    with pytest.raises(SslsimError, match="mel: no attention in this store; the checkpoint has no heads"):
        store.attention(1, 0)


def test_a_post_norm_model_has_no_other_final_layer(make_store):
    store = make_store(final_norm=False)
    np.testing.assert_array_equal(store.final(), store.layer(2))


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


def test_shards_are_cut_by_audio_and_are_never_too_many():
    assert cut([10.0, 10.0, 10.0, 25.0, 6.0, 40.0, 1.0]) == [0, 3, 4, 5, 6]
    assert cut([5.0]) == [0]
    assert len(cut([20.0] * 9_000)) <= 1.1 * shards.MOST


def test_a_store_is_frozen(make_store):
    with pytest.raises(FrozenInstanceError):
        make_store().n_layers = 4


def test_stores_go_by_place_and_name_and_show_themselves(make_store):
    first, second = (make_store(name, family="<b>") for name in ("a-1", "b"))
    stores = Stores([first, second])
    assert stores["a-1"] is stores[0] is first
    assert stores[1:] == stores.only(["b"]) == [second]
    assert stores.only(["b", "a-1"]) == stores
    assert stores.lineage.relation("a-1", "b") == "same family"
    assert stores._ipython_key_completions_() == ["a-1", "b"]
    with pytest.raises(SslsimError, match="no checkpoint 'a-2' here; did you mean 'a-1'"):
        stores["a-2"]
    page = stores._repr_html_()
    assert "&lt;b&gt;" in page
    assert page.count("<tr>") == 2


def redescribe(store, **changes):
    """Bring store.json up to what the folder holds, with some changes."""
    path = store.root / "store.json"
    content = json.loads(path.read_text()) | changes
    content["hashes"] = {n: hashlib.sha256((store.root / n).read_bytes()).hexdigest() for n in content["hashes"]}
    path.write_text(json.dumps(signed(content)))


def test_ids_come_back_as_text(make_store):
    store = make_store()
    table = (store.root / "index.csv").read_text().replace("u0,s", "007,NA").replace("u1,s", ",s")
    (store.root / "index.csv").write_text(table)
    redescribe(store)
    index = open_store(store.root).index
    assert index["utterance"].tolist() == ["007", "", "u2"]
    assert index["speaker"].tolist() == ["NA", "s", "s"]


def flip(path, place, bit=2):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def read_all(store):
    """Read every number of a store."""
    for layer in (store.final(), *(store.layer(i) for i in range(store.n_layers))):
        for rows in (slice(0, 20), np.arange(len(layer))[::3], slice(None)):
            layer[rows]
    for u in range(len(store.index)):
        for layer in range(1, store.attention_layers + 1):
            store.attention(layer, u)


def test_every_byte_is_under_a_checksum(make_store):
    store = make_store(frames=(1, 3), queries=2, n_neurons=2)
    store.verify()
    read_all(store)
    for file in sorted(store.root.glob("*.*")):
        content = file.read_bytes()
        for place in range(0, len(content), 7 if file.suffix == ".bin" else 97):
            flip(file, place, place % 8)
            told = "store.json is |version" if file.suffix == ".json" else file.name
            for ask in (lambda: open_store(store.root).verify(), lambda: read_all(open_store(store.root))):
                with pytest.raises(SslsimError, match=f"store '.*model': ({told})"):
                    ask()
        file.write_bytes(content)
    open_store(store.root).verify()


def test_only_what_is_read_is_checked(make_store):
    store = make_store(frames=(5, 40, 12), n_neurons=6)
    layout, row = store.layouts[1], 43  # of the second shard, whose frames are 40 and 12
    flip(store.root / "shard_0001.bin", 4 * (layout.frames[-1] * 6 + row * 6))
    store.layer(1)[:48]
    store.layer(1)[[0, 47, 49, 56]]
    store.layer(0)[:]
    store.attention(2, 1)
    told = "shard_0001.bin: its bytes are not those written; delete this folder and extract again"
    for ask in (lambda: store.layer(1)[48], lambda: store.layer(1)[40:50], store.verify):
        with pytest.raises(SslsimError, match=told):
            ask()


def test_a_file_that_was_replaced_is_checked_again(make_store):
    store = make_store(frames=(5,))
    read_all(store)
    path = store.root / "shard_0000.bin"
    path.with_suffix(".new").write_bytes(path.read_bytes())
    flip(path.with_suffix(".new"), 0)
    path.with_suffix(".new").replace(path)
    with pytest.raises(SslsimError, match="its bytes are not those written"):
        store.layer(0)[0]


def test_threads_read_one_store(make_store):
    store = make_store(frames=(40,) * 4)
    expected = [np.asarray(store.layer(i % 3)) for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for i, found in enumerate(pool.map(lambda i: store.layer(i % 3)[:], range(12))):
            np.testing.assert_array_equal(found, expected[i])


def test_damaged_stores_are_refused_by_name(make_store):
    store = make_store()
    path = store.root / "shard_0001.bin"
    with path.open("ab") as file:
        file.write(b"x")
    size = store.layouts[1].size
    message = rf"store '.*model': shard_0001.bin is {size + 1:,} bytes, not {size:,}; delete this folder and extract"
    with pytest.raises(SslsimError, match=message):
        open_store(store.root)
    path.unlink()
    with pytest.raises(SslsimError, match="shard_0001.bin is missing; delete this folder and extract again"):
        open_store(store.root)
    with pytest.raises(SslsimError, match="shard_0001.bin: .*No such file.*; delete this folder"):
        store.layer(0)[20]
    for version in (1, 2, 99):
        redescribe(store, version=version)
        with pytest.raises(SslsimError, match=rf"store '.*model': version {version}, this sslsim reads 6; delete this"):
            open_store(store.root)
    redescribe(store, version=6, position_rule="every other")
    with pytest.raises(SslsimError, match=r"model': position_rule every other, this sslsim reads floor.*; delete this"):
        open_store(store.root)
    for text in ("{", "[]", "{}", '{"version": 6}'):
        (store.root / "store.json").write_text(text)
        with pytest.raises(SslsimError, match="store.json is (damaged|not as it was written); delete this folder"):
            open_store(store.root)


def test_what_is_no_store_is_refused_with_a_hint(make_store, tmp_path):
    with pytest.raises(SslsimError, match=r"store '.*nowhere': no store.json there$"):
        open_store(tmp_path / "nowhere")
    make_store("one")
    make_store("two")
    with pytest.raises(SslsimError, match="no store.json there; it holds the stores one, two"):
        open_store(tmp_path)


def test_the_description_tells_rules_and_fields(make_store):
    content = json.loads((make_store().root / "store.json").read_text())
    assert content["version"] == 6
    assert content["frame_rule"] == "the centre of frame i is sample hop i + centre at the rate of the clock"
    assert re.match(r"floor\(\(k \+ 1/2\) stride\)", content["position_rule"])
    assert content["checkpoint"]["name"] == "model"
    assert (content["frames"], content["frame_stride"]) == (None, 1.0)


def test_stores_pair_iff_they_hold_the_same_frames_and_rows(make_store):
    a = make_store("A", seed=0)
    check_pairable(a, make_store("B", seed=1, n_layers=5, n_neurons=3, final_norm=False))
    for number, (other, message) in enumerate(
        (
            (
                {"frames": (5, 40, 1_300)},
                r"A and B0 hold utterances of other lengths \('u2': 12 and 1,300 frames\); extract both",
            ),
            ({"audio": "x"}, "A and B1 were given other audio; extract both from the same corpus"),
            ({"frames": (5, 52)}, "A and B2 hold other utterances; extract both from the same corpus"),
            ({"queries": None}, "A keeps 8 query rows of an attention map, B3 all; extract both with the same"),
        )
    ):
        with pytest.raises(SslsimError, match=f"layers cannot be paired: {message}"):
            check_pairable(a, make_store(f"B{number}", **other))
    b = make_store("C", audio="x")
    b.index["utterance"] = ["v0", "v1", "v2"]
    with pytest.raises(SslsimError, match="A and C hold other utterances; extract both"):
        check_pairable(a, replace(b))
