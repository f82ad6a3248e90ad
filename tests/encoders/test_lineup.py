from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import tone
from IPython.core.completer import IPCompleter, provisionalcompleter
from safetensors.torch import load_file

from sslsim.encoders.lineup import Checkpoint, checkpoint_fingerprint, locate, read_lineup, select
from sslsim.encoders.load import LogMel, load_encoder
from sslsim.encoders.log_mel import RECIPE
from sslsim.errors import SslsimError

TABLE = '[[checkpoint]]\nname = "a"\nsource = "org/a"\n'


def _lineup(tmp_path, text):
    (tmp_path / "lineup.toml").write_text(text)
    return read_lineup(tmp_path / "lineup.toml")


def test_a_lineup_is_read_in_order(checkpoints):
    lineup = read_lineup(checkpoints / "lineup.toml")
    assert [c.name for c in lineup][:3] == ["wav2vec2-post", "wav2vec2-post-ctc", "wav2vec2-pre"]
    assert lineup[1].finetuned_from == "wav2vec2-post"
    assert Path(lineup[0].source) == checkpoints / "wav2vec2-post"


def test_checkpoints_of_a_lineup_go_by_place_name_and_attribute(tmp_path):
    lineup = _lineup(tmp_path, TABLE + TABLE.replace('"a"', '"my-asr.2"') + TABLE.replace('"a"', '"2nd"'))
    assert isinstance(lineup, list)
    assert lineup[1] == lineup["my-asr.2"] == lineup.my_asr_2
    assert lineup._2nd == lineup[-1]
    assert lineup[:1] == [lineup["a"]]
    assert lineup[1:]._2nd == lineup[-1]
    assert lineup._ipython_key_completions_() == ["a", "my-asr.2", "2nd"]
    assert {"a", "my_asr_2", "_2nd", "index"} <= set(dir(lineup))
    assert pickle.loads(pickle.dumps(lineup)).my_asr_2 == lineup[1]
    with pytest.raises(SslsimError, match="no checkpoint 'my-asr' in the lineup; did you mean 'my-asr.2'"):
        lineup["my-asr"]
    with pytest.raises(AttributeError, match="no checkpoint 'b' in the lineup"):
        _ = lineup.b


def test_names_that_python_spells_alike_and_those_of_lists(tmp_path):
    lineup = _lineup(tmp_path, "".join(TABLE.replace('"a"', f'"{name}"') for name in ("a-b", "a_b", "sort")))
    assert lineup.a_b == lineup["a_b"] == lineup[1]
    assert callable(lineup.sort)
    assert dir(lineup).count("sort") == 1


def test_a_lineup_shows_itself_with_what_is_filled_in(tmp_path):
    page = _lineup(tmp_path, TABLE.replace("org/a", "<script>alert(1)") + 'family = "<b>"\n')._repr_html_()
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;" in page
    assert "<script>" not in page
    heads = [part.split("<")[0] for part in page.split('<th scope="col">')[1:]]
    assert heads == ["name", "source", "family", "weights"]


def test_a_lineup_completes_in_ipython(tmp_path):
    completer = IPCompleter(namespace={"lineup": _lineup(tmp_path, TABLE.replace('"a"', '"my-asr"'))})
    with provisionalcompleter():
        for typed, completed in (("lineup.my", "my_asr"), ('lineup["m', "my-asr")):
            assert completed in "".join(found.text for found in completer.completions(typed, len(typed)))


def test_every_field_of_a_table(tmp_path):
    text = TABLE + 'revision = "abc"\nfamily = "hubert"\nsize = "base"\n'
    text += TABLE.replace('"a"', '"b"') + 'seed_of = "a"\nfinetuned_from = "a"\nuntrained_seed = 3\n'
    assert _lineup(tmp_path, text) == [
        Checkpoint("a", "org/a", "abc", "hubert", "base"),
        Checkpoint("b", "org/a", finetuned_from="a", seed_of="a", untrained_seed=3),
    ]


@pytest.mark.parametrize(
    ("source", "resolved"),
    [
        ("facebook/wav2vec2-base", "facebook/wav2vec2-base"),  # on the hub: no such folder here
        ("models/small", "{}/models/small"),  # models/ is here, so a folder is meant
        ("models/absent", "{}/models/absent"),
        ("./x/y", "{}/x/y"),
        ("../up", "{}/../up"),
        ("/abs/olute", "/abs/olute"),
        ("plain", "{}/plain"),
    ],
)
def test_sources_are_folders_beside_the_lineup_or_hub_ids(tmp_path, source, resolved):
    (tmp_path / "models" / "small").mkdir(parents=True)
    (checkpoint,) = _lineup(tmp_path, TABLE.replace("org/a", source))
    wanted = resolved.format(tmp_path)
    assert checkpoint.source == (str(Path(wanted).resolve()) if wanted.startswith("/") else wanted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"lineup '.*lineup.toml': no \[\[checkpoint\]\] tables"),
        ("checkpoint = 3", r"no \[\[checkpoint\]\] tables"),
        ("checkpoint = [3]", "checkpoint 1: 3 is not a table"),
        ("[[checkpoint", "lineup.toml': not TOML"),
        ("[[checkpoint]]\nsource = 'x'", "checkpoint 1: no name"),
        (TABLE + "[[checkpoint]]\nname = 'x'", "checkpoint 2: no source"),
        (TABLE + "famly = 'x'", "checkpoint 1: unknown key 'famly'; did you mean 'family'?"),
        (TABLE + "revision = 3", "checkpoint 1: revision is 3; it must be a string"),
        (TABLE.replace('"a"', '"a/b"'), "name 'a/b' may hold only letters, digits and ._\\+- \\(it names a folder"),
        (TABLE + TABLE, "'a' occurs twice; give each its own name"),
        (TABLE + 'finetuned_from = "a"\n', "'a' is finetuned from itself; name another one"),
        (TABLE + 'seed_of = "a"\n', "'a' is another seed of itself; name another one"),
        (TABLE + "seed_of = 'b'", "'a' is another seed of 'b', which is not in it; known: a"),
        (
            TABLE + 'seed_of = "b"\n' + TABLE.replace('"a"', '"b"') + 'seed_of = "a"\n',
            "'a' is another seed of 'b' is another seed of 'a'; name the first one in both",
        ),
        (TABLE + "untrained_seed = '1'", "untrained_seed is '1'; it must be a whole number, 0 or more"),
        (TABLE + "untrained_seed = -1", "untrained_seed is -1; it must be a whole number, 0 or more"),
        (TABLE + "untrained_seed = true", "untrained_seed is True; it must be a whole number, 0 or more"),
        (TABLE + "finetuned_from = 'b'", "'a' is finetuned from 'b', which is not in it; known: a"),
    ],
)
def test_bad_lineups(tmp_path, text, message):
    with pytest.raises(SslsimError, match=message):
        _lineup(tmp_path, text)


def test_no_lineup(tmp_path):
    with pytest.raises(SslsimError, match=r"lineup '.*nowhere.toml': no such file"):
        read_lineup(tmp_path / "nowhere.toml")


def test_select_keeps_the_order_asked_for_and_suggests():
    lineup = [Checkpoint(name, "x/y") for name in ("w2v2-base", "hubert-base", "hubert-large")]
    assert select(lineup, []) == lineup
    assert select(lineup, ["hubert-large", "w2v2-base", "hubert-large"]) == [lineup[2], lineup[0]]
    with pytest.raises(SslsimError, match="no checkpoint 'hubert-bse' in the lineup; did you mean 'hubert-base'?"):
        select(lineup, ["hubert-bse"])


def test_select_makes_untrained_twins():
    lineup = [Checkpoint("a", "org/a", "v1", "hubert", "base"), Checkpoint("b", "org/b", finetuned_from="a")]
    twin = Checkpoint("untrained-a-0", "org/a", "v1", "hubert", "base", untrained_seed=0)
    named = select(lineup, ["untrained:a", "b", "untrained:b:7"])
    assert named == [twin, lineup[1], Checkpoint("untrained-b-7", "org/b", untrained_seed=7)]
    assert [c.weights for c in named] == ["random, seed 0", "trained", "random, seed 7"]
    assert select(lineup, ["untrained:a", "untrained:a:0", "untrained:a:00"]) == [twin]
    with pytest.raises(SslsimError, match="no checkpoint 'aa' in the lineup; did you mean 'a'"):
        select(lineup, ["untrained:aa:1"])
    clash = [*lineup, Checkpoint("untrained-a-0", "org/c")]
    assert select(clash, ["untrained:a"]) == [twin]
    with pytest.raises(SslsimError, match="'untrained-a-0' names two of the chosen checkpoints; rename the one in the"):
        select(clash, ["untrained:a", "untrained-a-0"])


def test_the_spectrogram_has_a_table_or_needs_none(tmp_path):
    (tmp_path / "log-mel").mkdir()  # a folder of that name is not meant
    lineup = _lineup(tmp_path, TABLE + '[[checkpoint]]\nname = "floor"\nsource = "log-mel"\nfamily = "none"\n')
    assert lineup[1] == Checkpoint("floor", "log-mel", family="none")
    assert lineup[1].weights == "none"
    bare = Checkpoint("log-mel", "log-mel")
    assert select(lineup, ["log-mel", "a", "floor", "log-mel"]) == [bare, lineup[0], lineup[1]]
    assert select(lineup, []) == lineup
    assert isinstance(load_encoder(bare), LogMel)
    named = [replace(lineup[0], name="log-mel"), lineup[1]]  # a lineup may give the name to another
    assert select(named, ["log-mel"]) == named[:1]
    with pytest.raises(SslsimError, match="'untrained:floor': log-mel has no weights, trained or not"):
        select(lineup, ["untrained:floor"])
    for name in ("untrained:log-mel", "untrained:log-mel:3"):
        with pytest.raises(SslsimError, match=f"{name}': log-mel has no weights|no checkpoint 'log-mel' in the lineup"):
            select(lineup, [name])


def test_the_spectrogram_has_a_fingerprint_of_its_recipe(monkeypatch):
    first = checkpoint_fingerprint(Checkpoint("log-mel", "log-mel"))
    assert first == checkpoint_fingerprint(Checkpoint("floor", "log-mel"))
    monkeypatch.setattr("sslsim.encoders.lineup.RECIPE", RECIPE.replace("80", "40"))
    assert checkpoint_fingerprint(Checkpoint("log-mel", "log-mel")) != first


def test_an_untrained_twin_needs_no_weights_and_its_fingerprint_follows_seed_and_settings(checkpoints, tmp_path):
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(checkpoints / "hubert-pre" / name, tmp_path)
    twins = [Checkpoint("x", str(tmp_path), untrained_seed=seed) for seed in (0, 1)]
    assert locate(twins[0]) == tmp_path
    whole = Checkpoint("y", str(checkpoints / "hubert-pre"), untrained_seed=0)
    prints = [checkpoint_fingerprint(c) for c in (*twins, whole, replace(whole, untrained_seed=None))]
    assert prints[0] == prints[2]
    assert len(set(prints)) == 3
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + "\n")
    assert checkpoint_fingerprint(twins[0]) != prints[0]


def test_the_fingerprint_follows_content_and_not_place(checkpoints, tmp_path):
    here, there = Checkpoint("a", str(checkpoints / "hubert-pre")), Checkpoint("b", str(tmp_path / "copy"))
    shutil.copytree(here.source, there.source)
    (tmp_path / "copy" / "README.md").write_text("not part of the model")
    assert checkpoint_fingerprint(here) == checkpoint_fingerprint(there)
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        before = checkpoint_fingerprint(there)
        with (tmp_path / "copy" / name).open("ab") as file:
            file.write(b"\n")
        assert checkpoint_fingerprint(there) != before


def test_folders_that_hold_no_checkpoint(checkpoints, tmp_path):
    with pytest.raises(SslsimError, match=r"checkpoint 'x': no folder '.*nowhere'"):
        locate(Checkpoint("x", str(tmp_path / "nowhere")))
    with pytest.raises(SslsimError, match=r"checkpoint 'x': no config.json in '.*'"):
        locate(Checkpoint("x", str(tmp_path)))
    shutil.copy(checkpoints / "hubert-pre" / "config.json", tmp_path)
    with pytest.raises(SslsimError, match=r"checkpoint 'x': no weights in '.*' \(model\*.safetensors\* or pytorch"):
        locate(Checkpoint("x", str(tmp_path)))
    with pytest.raises(SslsimError, match=r"checkpoint 'x': has a revision, but its source is a folder, '.*'"):
        locate(Checkpoint("x", str(tmp_path), revision="main"))


def test_a_hub_id_is_fetched_at_its_revision_and_without_pickles(checkpoints, monkeypatch):
    asked = []

    def snapshot_download(repo, *, revision, allow_patterns):
        asked.append((repo, revision, allow_patterns))
        return str(checkpoints / "wav2vec2-post")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert locate(Checkpoint("x", "org/name", revision="0" * 40)) == checkpoints / "wav2vec2-post"
    settings = ["config.json", "preprocessor_config.json", "processor_config.json"]
    assert asked == [("org/name", "0" * 40, [*settings, "model*.safetensors*"])]


def test_pickles_are_fetched_where_there_is_nothing_else(checkpoints, monkeypatch, tmp_path):
    shutil.copy(checkpoints / "wav2vec2-post" / "config.json", tmp_path)

    def snapshot_download(repo, *, revision, allow_patterns):
        if allow_patterns == ["pytorch_model*.bin*"]:
            (tmp_path / "pytorch_model.bin").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    locate(Checkpoint("x", "org/name"))
    assert (tmp_path / "pytorch_model.bin").exists()


def test_offline_is_one_clear_line():
    message = r"checkpoint 'x': no folder 'org/name', and it could not be had from the hub at revision v1 \(\w+: .+\)$"
    with pytest.raises(SslsimError, match=message) as caught:
        locate(Checkpoint("x", "org/name", revision="v1"))
    assert "\n" not in str(caught.value)


COMMIT, OLDER = "5" * 40, "a" * 40


@pytest.fixture
def hub(checkpoints, tmp_path, monkeypatch):
    """Return a cache as the hub's client keeps it: two commits of org/tiny, main is the later one, v1 the older."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--org--tiny"
    for commit, ref, name in ((COMMIT, "main", "wav2vec2-post-ctc"), (OLDER, "v1", "hubert-pre")):
        shutil.copytree(checkpoints / name, repo / "snapshots" / commit)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / ref).write_text(commit)
    return repo


def pickled(folder):
    """Replace safetensors by pickled weights, as older checkpoints on the hub have them."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("pickles", [False, True])
@pytest.mark.parametrize(
    ("revision", "commit", "name"),
    [
        (None, COMMIT, "wav2vec2-post"),
        ("main", COMMIT, "wav2vec2-post"),
        (COMMIT, COMMIT, "wav2vec2-post"),
        ("v1", OLDER, "hubert-pre"),
        (OLDER, OLDER, "hubert-pre"),
    ],
)
def test_a_hub_id_is_found_in_the_cache_with_no_network(hub, checkpoints, revision, commit, name, pickles):
    if pickles:
        pickled(hub / "snapshots" / commit)
    checkpoint = Checkpoint("x", "org/tiny", revision=revision)
    assert locate(checkpoint) == hub / "snapshots" / commit
    encoded = load_encoder(checkpoint).encode(tone(0, 4_000), [0])
    wanted = load_encoder(Checkpoint("y", str(checkpoints / name))).encode(tone(0, 4_000), [0])
    np.testing.assert_array_equal(encoded.hidden, wanted.hidden)
    np.testing.assert_array_equal(encoded.attention, wanted.attention)
    whole = checkpoint_fingerprint(Checkpoint("y", str(hub / "snapshots" / commit)))
    assert checkpoint_fingerprint(checkpoint) == whole


def test_an_untrained_twin_of_a_hub_id_needs_only_its_settings(hub):
    (hub / "snapshots" / OLDER / "model.safetensors").unlink()
    twin = load_encoder(Checkpoint("x", "org/tiny", revision=OLDER, untrained_seed=1))
    assert twin.anatomy.n_layers == 4
    with pytest.raises(SslsimError, match=f"checkpoint 'x': no weights in '.*{OLDER}'"):
        load_encoder(Checkpoint("x", "org/tiny", revision=OLDER))


@pytest.mark.parametrize("revision", ["v2", "b" * 40])
def test_a_revision_that_is_not_in_the_cache(hub, revision):
    message = f"checkpoint 'x': no folder 'org/tiny', and it could not be had from the hub at revision {revision} \\("
    with pytest.raises(SslsimError, match=message) as caught:
        load_encoder(Checkpoint("x", "org/tiny", revision=revision))
    assert "\n" not in str(caught.value)


def test_a_cache_given_by_the_environment(hub):
    code = """
import numpy as np
from sslsim.encoders.lineup import Checkpoint
from sslsim.encoders.load import load_encoder
print(load_encoder(Checkpoint("x", "org/tiny")).encode(np.ones(4_000, "f4"), []).hidden.shape)
"""
    environment = {"HF_HOME": str(hub.parents[1]), "HF_HUB_OFFLINE": "1"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, timeout=120
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "(4, 12, 24)\n", "")


def test_names_and_lineups_that_cannot_be_chosen_from(tmp_path):
    one = Checkpoint("x", "somewhere")
    for lineup, names, message in (
        ([one], "x", "checkpoints is 'x'; give a list of names"),
        ([], [], "the lineup is empty; give at least one checkpoint"),
        ([one, Checkpoint("x", "elsewhere")], [], "'x' occurs twice in the lineup; give each its own name"),
    ):
        with pytest.raises(SslsimError, match=message):
            select(lineup, names)
    with pytest.raises(SslsimError, match="cannot be read: Is a directory"):
        read_lineup(tmp_path)


def test_the_papers_lineup_comes_along(tmp_path, monkeypatch):
    names = [checkpoint.name for checkpoint in read_lineup("paper")]
    assert len(names) == 7
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper").write_text('[[checkpoint]]\nname = "own"\nsource = "log-mel"\n')
    assert [checkpoint.name for checkpoint in read_lineup("paper")] == ["own"]  # a file of the name is what is meant
