"""A store of arrays is a store like any other."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as torch_file

import sslsim
from sslsim.activations.arrays import ArrayFiles
from sslsim.activations.extraction import encoded_again
from sslsim.activations.selection import check_pairable
from sslsim.cli import main
from sslsim.errors import SslsimError
from sslsim.speech.recording import Clock

LENGTHS = {"a": 30, "b": 41, "c": 25, "d": 33}


def made(seed=0, layers=2, neurons=5, lengths=LENGTHS, scale=1.0):
    rng = np.random.default_rng(seed)
    return {name: scale * rng.standard_normal((layers, n, neurons)) for name, n in lengths.items()}


def test_what_is_given_is_kept_and_opened_again(tmp_path):
    arrays = made()
    store = sslsim.from_arrays("mine", arrays, tmp_path, speakers={"b": "s1"}, family="f", untrained_seed=3)
    assert (store.n_layers, store.n_neurons, store.n_frames, store.attention_layers) == (2, 5, 129, 0)
    assert store.index.speaker.tolist() == ["", "s1", "", ""]
    assert (store.checkpoint.family, store.checkpoint.weights) == ("f", "random, seed 3")
    for i in range(2):
        np.testing.assert_array_equal(store.layer(i), np.concatenate([x[i] for x in arrays.values()]).astype("f4"))
    store.verify()
    again = sslsim.open(store.root)
    assert again.checkpoint == store.checkpoint
    times = [file.stat().st_mtime_ns for file in store.root.iterdir()]
    same = sslsim.from_arrays("mine", arrays, tmp_path, speakers={"b": "s1"}, family="g", finetuned_from=None)
    assert (same.root, same.checkpoint.family) == (store.root, "g")
    assert [file.stat().st_mtime_ns for file in store.root.iterdir()] == times
    arrays["a"][0, 0, 0] += 1
    assert sslsim.from_arrays("mine", arrays, tmp_path).root != store.root
    assert sslsim.from_arrays("mine", made(), tmp_path).root != store.root  # other speakers


def test_stores_of_the_same_utterances_can_be_compared(tmp_path):
    a = sslsim.from_arrays("a", made(0), tmp_path, family="one")
    b = sslsim.from_arrays("b", made(1, 3, 8), tmp_path, family="two")
    check_pairable(a, b)
    assert set(sslsim.compare([a, b], ["svcca"], frames=90, device="cpu").n_frames) <= set(range(80, 91))
    how = sslsim.Resampling(permutations=2, blocks=2)
    found = sslsim.evidence([a, b], ["max_corr", "linear_cka_debiased"], resampling=how, device="cpu")
    assert np.isfinite(found.pairs.value).all()
    for lengths, told in (({**LENGTHS, "b": 42}, "utterances of other lengths"), ({"a": 30}, "other utterances")):
        with pytest.raises(SslsimError, match=f"a and c hold {told}"):
            check_pairable(a, sslsim.from_arrays("c", made(lengths=lengths), tmp_path))


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({}, {}, "store 'm': no arrays, or none with a frame; give at least one utterance"),
        (
            {"u": np.ones((3, 4))},
            {},
            r"array of utterance 'u' has the shape \(3, 4\); give \(layers, frames, neurons\)",
        ),
        ({"u": np.ones((1, 0, 4))}, {}, "no arrays, or none with a frame; give at least one utterance"),
        ({"u": np.ones((0, 2, 4))}, {}, r"has the shape \(0, 2, 4\)"),
        (
            {"u": np.broadcast_to(np.float32(1), (1, 2, 10**9))},
            {},
            "has 1,000,000,000 neurons; a layer may have 20,000",
        ),
        ({"u": torch.ones((1, 2, 3), device="meta")}, {}, "array of utterance 'u' is no array of real numbers: "),
        (made(scale=1e-20), {}, "the largest number of layer 0 is .*e-20 in size; scale it to between 1e-15 and 1e"),
        (made(scale=1e20), {}, "the largest number of layer 0 is .*e[+]20 in size; scale it to between 1e-15 and"),
        (made(), {"folder": ""}, "store 'm': folder is ''; say where the store is to lie"),
        (made(), {"folder": None}, "store 'm': folder is None; say where the store is to lie"),
        (made(), {"folder": "a\0b"}, "store 'm': folder is 'a.x00b'; say where the store is to lie"),
        (made(), {"like": "reports/store/w2v2"}, "store 'm': like is reports/store/w2v2; give a store of frames, as"),
        (made(), {"times": (0.0, 1e300)}, r"times is \(0.0, 1e[+]300\); give the centre of the first frame"),
        (made(), {"name": 101 * "m"}, "name 'm*' may hold only letters, digits and ._[+]-, 100 of them"),
        ({"u": "x"}, {}, "array of utterance 'u' is no array of real numbers: it is <U1"),
        ({"u": np.full((1, 2, 3), np.nan)}, {}, "array of utterance 'u' is NaN or infinite in float32"),
        ({"u": np.full((1, 2, 3), 1e99)}, {}, "is NaN or infinite in float32"),
        (made() | {"e": np.ones((3, 4, 5))}, {}, "of utterance 'e' has 3 layers of 5 neurons, the first 2 layers of 5"),
        (made(), {"familiy": "x"}, "store 'm': unknown key 'familiy'; did you mean 'family'"),
        (made(), {"untrained_seed": "x"}, "untrained_seed is 'x'; it must be a whole number"),
        (made(), {"speakers": {"z": "s"}}, "store 'm': speakers has 'z', arrays has not; known: a, b, c, d"),
        (made(), {"name": "a/b"}, "name 'a/b' may hold only letters, digits"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_is_written(tmp_path, arrays, options, message):
    with pytest.raises(SslsimError, match=message):
        sslsim.from_arrays(**{"name": "m", "arrays": arrays, "folder": tmp_path / "new", **options})
    assert not (tmp_path / "new").exists()


def test_a_store_of_other_arrays_in_its_place_is_refused(tmp_path):
    (first, one), (second, two) = ((made(seed), sslsim.from_arrays("a", made(seed), tmp_path)) for seed in (0, 1))
    for store, name in ((one, "kept"), (two, one.root.name)):
        store.root.rename(tmp_path / name)
    told = rf"store '.*{one.root.name}': its fingerprint is {two.fingerprint}, not {one.fingerprint} as asked for"
    with pytest.raises(SslsimError, match=told):
        sslsim.from_arrays("a", first, tmp_path)
    assert sslsim.from_arrays("a", second, tmp_path).root == two.root


def test_arrays_like_a_store_are_paired_with_it_and_other_clocks_in_units(make_store, tmp_path):
    store = make_store(frames=(30, 41, 12))
    parts = np.split(store.layer(1)[:], store.index.start.to_numpy()[1:])
    x = {u: part[None] for u, part in zip(store.index.utterance, parts, strict=True)}
    codes = sslsim.from_arrays("codes", x, tmp_path / "s", like=store, times=(0.0125, 0.02))
    assert codes.frame_key == store.frame_key
    assert codes.index.waveform.tolist() == store.index.waveform.tolist()
    table = sslsim.compare([store, codes], ["linreg"])
    same = table[(table.model_x == "codes") & (table.model_y == "model") & (table.layer_y == 1)]
    assert same.value.item() == pytest.approx(1, abs=1e-5)
    halves = {u: (v[:, 0 : v.shape[1] // 2 * 2 : 2] + v[:, 1 : v.shape[1] // 2 * 2 : 2]) / 2 for u, v in x.items()}
    slow = sslsim.from_arrays("slow", halves, tmp_path / "s", like=store, times=(0.0225, 0.04))
    assert slow.times(0)[:2].tolist() == [0.0225, 0.0625]
    with pytest.raises(SslsimError, match=r"frames are every 20 ms \(model\) and every 40 ms \(slow\); compare a unit"):
        sslsim.compare([store, slow], ["linreg"])
    a, b = sslsim.in_units([codes, slow], "40ms")  # two frames of 20 ms are what one of 40 is the mean of
    np.testing.assert_allclose(a.layer(0)[:15], b.layer(0)[:15], rtol=1e-4, atol=1e-5)
    assert sslsim.compare([a, b], ["linreg"]).value.min() > 0.9


def test_arrays_like_a_store_have_its_clock_unless_other_times_are_said(make_store, tmp_path):
    clock = Clock(1067, 1500, 750, 80_000)  # 13.3 ms, no whole number of nanoseconds
    arrays = {f"u{u}": np.random.default_rng(u).random((1, n, 4)) for u, n in enumerate((30, 41, 12))}
    first = sslsim.from_arrays("first", arrays, tmp_path, times=(0.009375, 0.0133375))
    assert first.clock.rate == 1_000_000_000
    like = replace(make_store(frames=(30, 41, 12)), clock=clock)
    for times in (None, (0.009375, 0.0133375), (0.0093754, 0.0133372)):
        assert sslsim.from_arrays("own", arrays, tmp_path, times=times, like=like).clock == clock
    assert sslsim.from_arrays("own", arrays, tmp_path, times=(0.01, 0.015), like=like).clock.milliseconds == 15
    assert sslsim.from_arrays("own", arrays, tmp_path, times=(0.0125, 0.02), like=like).clock == Clock()
    codec = sslsim.from_arrays("codec", arrays, tmp_path, times=(0.0, 1 / 75))
    assert codec.clock.times(np.array([270_000])).item() == pytest.approx(3600, abs=1e-4)  # no drift within an hour


def test_arrays_that_are_not_like_the_store_that_they_are_said_to_be_like(make_store, tmp_path):
    store = make_store(frames=(30, 41, 12))
    arrays = {f"u{u}": np.random.default_rng(u).random((1, n, 4)) for u, n in enumerate((30, 41, 12))}
    with pytest.raises(SslsimError, match="^store 'a': like is .*; give a store of frames, as sslsim.open does$"):
        sslsim.from_arrays("a", arrays, tmp_path / "s", like=sslsim.in_units([store], "40ms")[0])
    with pytest.raises(SslsimError, match="^store 'a': speakers are those of model, which it is like; leave them out$"):
        sslsim.from_arrays("a", arrays, tmp_path / "s", like=store, speakers={"u0": "zoe"})
    told = "^store 'a': utterance 'u0' has 30 frames every 40 ms, and lasts 0.60 s; give the times of your frames$"
    with pytest.raises(SslsimError, match=told):
        sslsim.from_arrays("a", arrays, tmp_path / "s", like=store, times=(0.0225, 0.04))
    long = {u: array[:, : array.shape[1] // 2] for u, array in arrays.items()}
    told = (
        "^store 'a': frames every 20 ms end at 4. % of an utterance .median.; give the times of your frames, or arrays"
    )
    with pytest.raises(SslsimError, match=told):
        sslsim.from_arrays("a", long, tmp_path / "s", like=store)
    assert not (tmp_path / "s").exists()
    plus = {u: np.random.default_rng(0).random((1, array.shape[1] + 1, 4)) for u, array in arrays.items()}
    with pytest.raises(SslsimError, match=r"hold utterances of other lengths \('u0': 30 and 31 frames\); extract both"):
        check_pairable(store, sslsim.from_arrays("plus", plus, tmp_path / "s", like=store))
    shifted = sslsim.from_arrays("shifted", arrays, tmp_path / "s", like=store, times=(0.0, 0.02))
    told = r"frames are every 20 ms from 12.5 ms on \(model\) and every 20 ms from 0 ms on \(shifted\); compare a unit"
    with pytest.raises(SslsimError, match=told):
        check_pairable(store, shifted)


def test_a_mapping_that_gives_other_arrays_the_second_time_is_refused(tmp_path):
    class Drawn(dict):
        def __getitem__(self, name):
            return np.random.default_rng().random((1, 9, 2))

    with pytest.raises(SslsimError, match="^store 'a': array of utterance 'u' changed while it was read$"):
        sslsim.from_arrays("a", Drawn(u=None), tmp_path)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize("name", ["c\rd", "\ra", "c\nd", 'c"d', "c,d", " c", "NA", "01"])
def test_every_name_of_an_utterance_and_a_speaker_is_read_back(tmp_path, name):
    store = sslsim.from_arrays("a", {name: np.random.default_rng(0).random((1, 9, 2))}, tmp_path, speakers={name: name})
    assert sslsim.open(store.root).index[["utterance", "speaker"]].to_numpy().tolist() == [[name, name]]


@pytest.mark.parametrize("times", [0.02, (0.0, 0.0), (-1.0, 0.02), ("a", "b"), (0.0, float("nan")), (0.1,)])
def test_times_that_are_none_are_refused(tmp_path, times):
    with pytest.raises(SslsimError, match="times is .*; give the centre of the first frame and the step to the next"):
        sslsim.from_arrays("a", {"u": np.ones((1, 9, 2)) * np.arange(9)[:, None]}, tmp_path / "s", times=times)


def test_arrays_like_a_store_are_of_its_utterances(make_store, tmp_path):
    with pytest.raises(SslsimError, match="^store 'a': arrays are of 1 utterances, model of 3; not of both is 'u1'; "):
        sslsim.from_arrays("a", {"u0": np.random.default_rng(0).random((1, 5, 2))}, tmp_path / "s", like=make_store())


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", " by layer.safetensors"])
def test_a_folder_of_files_is_imported(make_store, tmp_path, suffix, capsys):
    store, folder = make_store(frames=(30, 41, 12)), tmp_path / "own"
    folder.mkdir()
    parts = np.split(np.stack([store.layer(1)[:], store.layer(2)[:]]), store.index.start.to_numpy()[1:], axis=1)
    for name, part in zip(store.index.utterance[::-1], parts[::-1], strict=True):
        if suffix == ".npy":
            np.save(folder / f"{name}.npy", part)
        else:
            layers = {"0": part[0].copy(), "1": part[1].copy()} if "layer" in suffix else {"x": part.copy()}
            save_file(layers, folder / f"{name}.safetensors")
    command = ["import", str(folder), "--name", "own", "--out", str(tmp_path / "s"), "--like", str(store.root)]
    assert main([*command, "--times", "0.0125,0.02", "--family", "codec"]) == 0
    root = capsys.readouterr().out.split(", ")[-1].strip()
    own = sslsim.open(root)
    assert (own.checkpoint.family, own.frame_key, own.n_layers) == ("codec", store.frame_key, 2)
    np.testing.assert_array_equal(own.layer(0)[:], store.layer(1)[:])
    np.testing.assert_array_equal(own.layer(1)[:], store.layer(2)[:])
    np.save(folder / "of-no-utterance.npy", np.ones((1, 3, 2)))  # as of those that a subset leaves out
    assert main([*command, "--times", "0.0125,0.02", "--family", "codec"]) == 0
    capsys.readouterr()
    assert main([*command, "--times", "0.0125,0.02", "--family", "other"]) == 2
    assert "is there already, of the family 'codec'; delete it first, or give another name" in capsys.readouterr().err
    assert main([*command, "--times", "0.1"]) == 2
    assert main([*command, "--times", "a,b"]) == 2
    assert "--times a,b: give two numbers of seconds, such as 0.0125,0.02" in capsys.readouterr().err


@pytest.fixture
def own(tmp_path, corpus, checkpoints):
    """Return a study of an encoder and of a folder of arrays, one frame every 40 ms, and the folder."""
    rng, folder = np.random.default_rng(0), tmp_path / "own"
    for utterance in sslsim.Study(corpus=corpus).utterances():
        (folder / utterance.id).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{utterance.id}.npy", rng.standard_normal((2, 14, 8)))
    np.save(
        folder / "another.npy", np.ones((5, 2))
    )  # of no utterance of the corpus, as of one that a subset leaves out
    text = f'[[checkpoint]]\nname = "model"\nsource = "{checkpoints / "hubert-post"}"\n'
    text += '[[checkpoint]]\nname = "codes"\nsource = "own"\nfamily = "codec"\ntimes = [0.02, 0.04]\n'
    (tmp_path / "lineup.toml").write_text(text)
    return sslsim.Study(lineup=tmp_path / "lineup.toml", corpus=corpus, frames=30), folder


def test_a_folder_of_arrays_stands_in_a_lineup(own, tmp_path):
    study, folder = own
    encoder, codes = stores = study.extract(tmp_path / "store", device="cpu")
    assert (codes.checkpoint.source, codes.checkpoint.family, codes.n_layers) == (str(folder.resolve()), "codec", 2)
    assert codes.index.utterance.tolist() == encoder.index.utterance.tolist()
    np.testing.assert_allclose(codes.times(0), 0.02 + 0.04 * codes.frame_rows(0))
    assert codes.n_frames <= 30 < codes.index.length.sum()  # as many as of encoders are kept
    assert (
        len(sslsim.compare(sslsim.in_units(stores, "utterance"), ["linear_cka_debiased"]))
        == (encoder.n_layers + 2) ** 2
    )
    assert study.extract(tmp_path / "store", device="cpu")[1].root == codes.root
    assert [store.name for store in replace(study, checkpoints=("codes", "log-mel")).extract(tmp_path / "s")] == [
        "codes",
        "log-mel",
    ]
    with pytest.raises(SslsimError, match="checkpoint 'codes': is made of arrays, and of these no other frames were"):
        list(encoded_again(codes, {0: np.zeros(9, "f4")}))
    with pytest.raises(SslsimError, match="'untrained:codes': codes has no weights that could be drawn at random"):
        replace(study, checkpoints=("untrained:codes",)).selected()


def test_the_checkpoints_of_a_lineup_are_shown_with_its_arrays(own, capsys):
    assert main(["checkpoints", "--lineup", str(own[0].lineup)]) == 0
    model, codes = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert model[:2] == ["model", "4"]
    assert codes == ["codes", "codec", "arrays"]


def test_frames_of_arrays_are_kept_as_those_of_the_store_that_they_are_like(make_store, tmp_path):
    store = make_store(frames=(30, 41, 12), kept=20)
    arrays = {
        u: np.arange(1.0, 1 + n)[None, :, None] for u, n in zip(store.index.utterance, store.index.length, strict=True)
    }
    own = sslsim.from_arrays("own", arrays, tmp_path / "s", like=store)
    assert own.frame_key == store.frame_key
    assert own.layer(0)[:, 0].tolist() == [1 + row for u in range(3) for row in store.frame_rows(u)]
    check_pairable(own, store)


def test_arrays_in_a_lineup_that_cannot_be_taken(own, tmp_path, capsys):
    study, folder = own
    with pytest.raises(SslsimError, match="checkpoint 'codes': is made of arrays; name an encoder, or log-mel, whose"):
        replace(study, checkpoints=("codes",)).extract(tmp_path / "store")
    text = Path(study.lineup).read_text()
    Path(study.lineup).write_text(text.replace("times = ", "# "))
    told = (
        "'codes': no config.json in '.*own'; '.*.npy' is an array: a folder of arrays needs times in the lineup, such"
    )
    with pytest.raises(SslsimError, match=told):
        study.extract(tmp_path / "store")
    Path(study.lineup).write_text(text)
    call = ["run", "layers", "--lineup", str(study.lineup), "--corpus", str(study.corpus), "--out", str(tmp_path / "o")]
    for unit, told in (
        ("20ms", "unit is '20ms', and frames of codes are every 40 ms"),
        ("wrd", "unit is 'wrd', and the"),
    ):
        assert main([*call, "--dry-run", "--unit", unit]) == 2
        assert told in capsys.readouterr().err
    assert main([*call, "--dry-run", "--unit", "40ms"]) == 0
    assert "model, and arrays of codes: 4 utterances" in capsys.readouterr().out
    steps = [f'[[checkpoint]]\nname = "s{n}"\nseries = "s"\nstep = {n}' for n in (1, 2)]
    source = re.search('source = ".*"', text)[0]
    Path(study.lineup).write_text("\n".join([text, *(f"{step}\n{source}" for step in steps)]))
    assert main([*call, "--dry-run", "--unit", "40ms"]) == 0
    assert "model, s2, s1, and arrays of codes: 4 utterances" in capsys.readouterr().out
    Path(study.lineup).write_text(text)
    first = study.utterances()[0].id
    (folder / f"{first}.npy").unlink()
    with pytest.raises(SslsimError, match=rf"'codes': '.*own' has arrays of 4 utterances, and none of '{first}'; add"):
        study.extract(tmp_path / "store", device="cpu")
    for file in [file for file in folder.rglob("*.npy") if file.name != "another.npy"]:
        file.unlink()
    with pytest.raises(SslsimError, match=rf"'codes': '.*own' has none of '{first}', but of 'another'; call files of"):
        study.extract(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_files_of_arrays_are_found_as_files_of_audio_are(tmp_path):
    folder, elsewhere = tmp_path / "own", tmp_path / "elsewhere"
    for place in (folder / "sub", folder / ".ipynb_checkpoints", elsewhere):
        place.mkdir(parents=True)
        np.save(place / "x.npy", np.random.default_rng(0).random((3, 2)))
    (folder / "sub" / "x.npy").rename(folder / "sub" / "x.NPY")
    (folder / "linked").symlink_to(elsewhere)
    torch_file(
        {"0": torch.ones((3, 2), dtype=torch.bfloat16).cumsum(0), "1": torch.ones((3, 2), dtype=torch.bfloat16)},
        folder / "b.safetensors",
    )
    arrays = ArrayFiles(folder)
    assert set(arrays) == {"sub/x", "linked/x", "b"}
    assert arrays["b"].shape == (2, 3, 2)
    store = sslsim.from_arrays("x", {"b": arrays["b"]}, tmp_path / "s")
    assert store.layer(0)[:, 0].tolist() == [1, 2, 3]


def test_folders_and_files_that_cannot_be_imported(tmp_path):
    with pytest.raises(SslsimError, match="activations '.*': no file .npy or .safetensors; give one for each utt"):
        ArrayFiles(tmp_path)
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(SslsimError, match="activations '.*a.npy': cannot be read: .*; mend it or take it away"):
        sslsim.from_arrays("x", ArrayFiles(tmp_path), tmp_path / "s")
    save_file({"0": np.ones((3, 2), "f4")}, tmp_path / "a.safetensors")
    with pytest.raises(SslsimError, match="two files of one utterance; give one for each utterance, called by its id"):
        ArrayFiles(tmp_path)
    (tmp_path / "a.npy").unlink()
    for tensors, told in (
        ({"layer0": np.ones((3, 2), "f4"), "layer1": np.ones((3, 2), "f4")}, "its tensors are layer0, layer1, not"),
        ({}, "its tensors are none, not layers 0, 1 and on"),
    ):
        save_file(tensors, tmp_path / "a.safetensors")
        with pytest.raises(SslsimError, match=rf"activations '.*a.safetensors': cannot be read: {told}"):
            sslsim.from_arrays("x", ArrayFiles(tmp_path), tmp_path / "s")
    (tmp_path / "a.safetensors").unlink()
    np.savez(tmp_path / "a.npz", x=np.ones((1, 3, 2)))
    with pytest.raises(SslsimError, match="activations '.*a.npz': cannot be read: it holds several arrays; mend it or"):
        sslsim.from_arrays("x", ArrayFiles(tmp_path), tmp_path / "s")
    with pytest.raises(SslsimError, match="has 20,001 neurons; a layer may have 20,000; give components, or some of"):
        sslsim.from_arrays("x", {"u": np.ones((1, 2, 20_001))}, tmp_path / "s")
