from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from sslsim.errors import SslsimError
from sslsim.lineup import Checkpoint, checkpoint_fingerprint, locate, read_lineup, select

TABLE = '[[checkpoint]]\nname = "a"\nsource = "org/a"\n'


def _lineup(tmp_path, text):
    (tmp_path / "lineup.toml").write_text(text)
    return read_lineup(tmp_path / "lineup.toml")


def test_a_lineup_is_read_in_order(checkpoints):
    lineup = read_lineup(checkpoints / "lineup.toml")
    assert [c.name for c in lineup][:3] == ["wav2vec2-post", "wav2vec2-post-ctc", "wav2vec2-pre"]
    assert lineup[1].finetuned_from == "wav2vec2-post"
    assert Path(lineup[0].source) == checkpoints / "wav2vec2-post"


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
