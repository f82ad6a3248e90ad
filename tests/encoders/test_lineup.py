from __future__ import annotations

import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from IPython.core.completer import IPCompleter, provisionalcompleter

from sslsim.activations import Study
from sslsim.encoders.encoder import LogMel
from sslsim.encoders.lineup import Checkpoint, read_lineup, select, write_lineup
from sslsim.encoders.load import load_encoder
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


def test_checkpoints_of_a_lineup_go_by_place_and_name(tmp_path):
    lineup = _lineup(tmp_path, TABLE + TABLE.replace('"a"', '"my-asr.2"'))
    assert isinstance(lineup, list)
    assert lineup[1] == lineup["my-asr.2"]
    assert lineup[:1] == [lineup["a"]]
    assert lineup[1:]["my-asr.2"] == lineup[-1]
    assert pickle.loads(pickle.dumps(lineup)) == lineup
    with pytest.raises(SslsimError, match="no checkpoint 'my-asr' here; did you mean 'my-asr.2'"):
        lineup["my-asr"]


def test_a_lineup_shows_itself_with_what_is_filled_in(tmp_path):
    page = _lineup(tmp_path, TABLE.replace("org/a", "<script>alert(1)") + 'family = "<b>"\n')._repr_html_()
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;" in page
    assert "<script>" not in page
    heads = [part.split("<")[0] for part in page.split("<th>")[1:]]
    assert heads == ["name", "source", "family", "weights"]


def test_names_complete_in_ipython(tmp_path):
    completer = IPCompleter(namespace={"lineup": _lineup(tmp_path, TABLE.replace('"a"', '"my-asr"'))})
    with provisionalcompleter():
        found = [completion.text for completion in completer.completions('lineup["m', 9)]
    assert "my-asr" in "".join(found)


def test_every_field_of_a_table(tmp_path):
    text = TABLE + 'revision = "abc"\nfamily = "hubert"\nsize = "base"\n'
    text += 'series = "s"\nstep = 0\nrecipe = { iterations = 2, "data" = "LS960", shuffled = true }\n'
    text += TABLE.replace('"a"', '"b"') + 'seed_of = "a"\nfinetuned_from = "a"\nuntrained_seed = 3\n'
    tags = {"iterations": 2, "data": "LS960", "shuffled": True}
    assert _lineup(tmp_path, text) == [
        Checkpoint("a", "org/a", "abc", "hubert", "base", series="s", step=0, recipe=tags),
        Checkpoint("b", "org/a", finetuned_from="a", seed_of="a", untrained_seed=3),
    ]
    write_lineup(tmp_path / "again.toml", _lineup(tmp_path, text))
    assert read_lineup(tmp_path / "again.toml") == _lineup(tmp_path, text)
    assert '"iterations" = 2' in _lineup(tmp_path, text)._repr_html_()
    assert json.loads(json.dumps(asdict(_lineup(tmp_path, text)[0])))["recipe"] == [list(tag) for tag in tags.items()]


def test_tags_that_json_writes_in_another_way_than_toml_come_back(tmp_path):
    tags = {'o"dd.\u00e9 key': '"\x7f\\ \u00fc', "rate": float("inf"), "decay": 1e-07, "large": 1e22, "n": 3}
    write_lineup(tmp_path / "lineup.toml", [Checkpoint("a", "org/a", series='"s\x7f"', step=1, recipe=tags)])
    (again,) = read_lineup(tmp_path / "lineup.toml")
    assert (dict(again.recipe), again.series) == (tags, '"s\x7f"')


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
        ("", r"lineup '.*lineup.toml': expected \[\[checkpoint\]\] tables and nothing else"),
        ("checkpoint = 3", r"expected \[\[checkpoint\]\] tables"),
        (TABLE + TABLE.replace("checkpoint", "checkpiont"), r"expected \[\[checkpoint\]\] tables and nothing else"),
        ("checkpoint = [3]", "checkpoint 1: 3 is not a table"),
        ("[[checkpoint", "lineup.toml': not TOML"),
        ("[[checkpoint]]\nsource = 'x'", "checkpoint 1: no name"),
        (TABLE + "[[checkpoint]]\nname = 'x'", "checkpoint 2: no source"),
        (TABLE + "famly = 'x'", "checkpoint 1: unknown key 'famly'; did you mean 'family'?"),
        (TABLE + "revision = 3", "checkpoint 1: revision is 3; it must be a string"),
        (TABLE.replace('"a"', '"a/b"'), "name 'a/b' may hold only letters, digits and ._\\+-, 100 of them \\(it names"),
        (TABLE + TABLE, "'a' occurs twice; give each its own name"),
        (TABLE + 'finetuned_from = "a"\n', "'a' is finetuned from 'a'; name the first"),
        (TABLE + 'seed_of = "a"\n', "'a' is another seed of 'a'; name the first"),
        (TABLE + "seed_of = 'b'", "'a' is another seed of 'b', which is not in it; known: a"),
        (
            TABLE + 'seed_of = "b"\n' + TABLE.replace('"a"', '"b"') + 'seed_of = "a"\n',
            "'a' is another seed of 'b' is another seed of 'a'; name the first one in both",
        ),
        (TABLE + "untrained_seed = '1'", "untrained_seed is '1'; it must be a whole number, 0 or more"),
        (TABLE + "untrained_seed = -1", "untrained_seed is -1; it must be a whole number, 0 or more"),
        (TABLE + "untrained_seed = true", "untrained_seed is True; it must be a whole number, 0 or more"),
        (TABLE + "step = 3", "checkpoint 1: series and step go together; give both or neither"),
        (TABLE + "series = 's'", "checkpoint 1: series and step go together; give both or neither"),
        (TABLE + "times = 0.02", "checkpoint 1: times is 0.02; give the centre of the first frame and the step"),
        (TABLE + "times = [0, 0.02]\nrevision = 'abc'", "times says that 'org/a' has arrays, which have no revision"),
        (TABLE + "series = 's'\nstep = -1", "step is -1; it must be a whole number, 0 or more"),
        (TABLE + "recipe = 3", "recipe is 3; give a table of text and numbers, {data = "),
        (TABLE + "recipe = {a = [1]}", "recipe is {'a': \\[1\\]}; give a table of text and numbers"),
        (
            TABLE + "series = 's'\nstep = 1\n" + TABLE.replace('"a"', '"b"') + "series = 's'\nstep = 1",
            "step 1 of the series 's' occurs twice; give each its own",
        ),
        (TABLE + "finetuned_from = 'b'", "'a' is finetuned from 'b', which is not in it; known: a"),
    ],
)
def test_bad_lineups(tmp_path, text, message):
    with pytest.raises(SslsimError, match=message):
        _lineup(tmp_path, text)


def test_no_lineup(tmp_path):
    with pytest.raises(SslsimError, match=r"lineup '.*nowhere.toml': cannot be read: No such file"):
        read_lineup(tmp_path / "nowhere.toml")


def test_select_keeps_the_order_asked_for_and_suggests():
    lineup = [Checkpoint(name, "x/y") for name in ("w2v2-base", "hubert-base", "hubert-large")]
    assert select(lineup, []) == lineup
    assert select(lineup, ["hubert-large", "w2v2-base", "hubert-large"]) == [lineup[2], lineup[0]]
    with pytest.raises(SslsimError, match="no checkpoint 'hubert-bse' in the lineup; did you mean 'hubert-base'?"):
        select(lineup, ["hubert-bse"])


def test_all_of_a_lineup_is_without_earlier_steps_of_a_series(tmp_path):
    steps = [Checkpoint(f"s{n}", "x/y", series="s", step=n) for n in (5, 20, 10)]
    lineup = [Checkpoint("a", "x/y"), *steps]
    assert [each.name for each in select(lineup, [])] == ["a", "s20"]
    assert [each.name for each in select(lineup, ["s5", "a"])] == ["s5", "a"]
    study = Study(lineup=lineup)
    assert study.series().checkpoints == ("s5", "s20", "s10")
    assert replace(study, checkpoints=("a", "s10")).series().checkpoints == ("s5", "s20", "s10")
    assert replace(study, checkpoints=("a",)).series() is None
    assert Study(lineup=lineup[:2]).series() is None


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
    with pytest.raises(SslsimError, match="'untrained:floor': floor has no weights that could be drawn at random"):
        select(lineup, ["untrained:floor"])
    for name in ("untrained:log-mel", "untrained:log-mel:3"):
        with pytest.raises(SslsimError, match=f"{name}': log-mel has no weights|no checkpoint 'log-mel' in the lineup"):
            select(lineup, [name])


def test_names_and_lineups_that_cannot_be_chosen_from(tmp_path):
    one = Checkpoint("x", "somewhere")
    for lineup, names, message in (
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
