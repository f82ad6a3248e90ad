"""Exploring: figures of two chosen models, menus where ipywidgets is there, one line for a wrong name."""

import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure
from matplotlib.text import Text

from sslsim import Study
from sslsim.activations.store import Stores
from sslsim.errors import SslsimError
from sslsim.figures import explore, explore_heads, explore_layers, explore_neurons

HOW = {"frames": None, "device": "cpu"}


@pytest.fixture
def shown(monkeypatch):
    """Without ipywidgets; the figures that are displayed."""
    figures: list[Figure] = []
    monkeypatch.setattr(explore, "display", figures.append)
    monkeypatch.setattr(explore, "find_spec", lambda name: None)
    return figures


@pytest.fixture
def stores(make_store):
    return Stores([make_store("a"), make_store("b", n_layers=2, seed=1), make_store("log-mel", n_heads=0, n_layers=1)])


def test_two_models_are_drawn_and_nothing_is_written(stores, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    explore_neurons(stores, "a", "b", 2, "linreg", **HOW)
    assert [label.get_text() for label in shown[1].axes[0].get_xticklabels()] == ["other model"]
    assert [text.get_text() for text in shown[1].axes[0].get_legend().get_texts()][1] == "in random bases"
    explore_layers(stores, "b", "a", 1, "svcca", **HOW)
    lines = {line.get_label(): len(line.get_xdata()) for line in shown[3].axes[0].lines}
    assert lines == {"a": 3, "b": 3}  # pandas leaves the layer that b lacks blank
    assert "svcca with layer 1 of b" in shown[3].axes[0].get_ylabel()
    explore_neurons(stores, "a", "a", 0, "max_corr", **HOW)  # no partners in another model
    assert len(shown) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({*before, "results"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("log-me", "b", 0, "svcca"), "^x is 'log-me'; did you mean 'log-mel'\\?$"),
        (("a", "nosuch", 1, "svcca"), "^y is 'nosuch'; known: a, b, log-mel$"),
        (("a", "b", 9, "svcca"), "^layer is 9; give 0 to 2$"),
        (("b", "a", 2, "svcca"), "^layer is 2; give 0 to 1 of b$"),
        (("a", "b", 1, "svca"), "^measure is 'svca'; did you mean 'svcca'\\?$"),
        (("a", "b", 1, "pearson"), "^measure is 'pearson'; "),
    ],
)
def test_what_is_not_there_is_named_with_what_is(stores, shown, values, message):
    for draw in (explore_layers, explore_neurons):
        with pytest.raises(SslsimError, match=message):
            draw(stores, *values, **HOW)
    assert shown == []


def test_a_notebook_shows_the_line_alone(stores, shown, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell(user_ns={"draw": explore_layers, "stores": stores, "how": HOW})
    shell.run_cell("draw(stores, 'a', 'b', 9, 'svcca', **how)")
    assert capsys.readouterr().out.strip() == "layer is 9; give 0 to 2"


def test_a_head_beside_its_best_match(checkpoints, corpus, tmp_path, shown):
    study = Study(lineup=checkpoints / "lineup.toml", corpus=corpus, checkpoints=("wav2vec2-post", "hubert-post"))
    stores = study.extract(tmp_path)
    how = {"measure": "pearson", "corpus": study.whole_corpus(), "device": "cpu"}
    explore_heads(stores, "hubert-post", "wav2vec2-post", 1, 0, **how)
    assert len(shown) == 1
    told = " ".join(text.get_text() for text in shown[0].findobj(Text))
    assert "hubert-post, layer 1, head 0" in told
    assert "wav2vec2-post, layer" in told
    for values, message in {
        ("hubert-post", "wav2vec2-post", 0, 0): "layer is 0; give 1 to 3",
        ("hubert-post", "wav2vec2-post", 1, 7): "head is 7; give 0 to 3",
        ("hubert-post", "hubert-post", 1, 0): "x and y are both 'hubert-post'; choose two models",
    }.items():
        with pytest.raises(SslsimError, match=message):
            explore_heads(stores, *values, **how)


def test_stores_without_heads_are_named(make_store, shown):
    with pytest.raises(SslsimError, match="no attention in these stores"):
        explore_heads(Stores([make_store("log-mel", n_heads=0)]), "", "", 1, 0, measure="js", corpus=(), device="cpu")


def test_menus_where_there_are_widgets(stores, shown, monkeypatch):
    widgets = pytest.importorskip("ipywidgets")
    monkeypatch.setattr(explore, "find_spec", lambda name: "there")
    made = []
    monkeypatch.setattr(widgets, "interact", lambda show, **menus: made.append((show, menus)))
    explore_layers(stores, "b", "a", 1, "cca", **HOW)
    show, menus = made[0]
    assert {name: menu.value for name, menu in menus.items()} == {"x": "b", "y": "a", "layer": 1, "measure": "cca"}
    assert menus["x"].options == ("a", "b", "log-mel")
    assert menus["layer"].options == (0, 1, 2)
    assert {"max_corr", "svcca"} < {*menus["measure"].options}
    show(x="a", y="log-mel", layer=2, measure="svcca")
    assert len(shown) == 2
    with pytest.raises(SslsimError, match="layer is 2; give 0 to 0 of log-mel"):
        show(x="log-mel", y="a", layer=2, measure="svcca")


def test_a_report_draws_nothing(stores, shown, monkeypatch, capsys):
    monkeypatch.setenv("SSLSIM_STAGING", "somewhere")
    explore_neurons(stores, "a", "b", 9, "linreg", **HOW)
    assert shown == []
    assert "In JupyterLab" in capsys.readouterr().out
