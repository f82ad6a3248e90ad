"""Labels that neurons prefer, on made activations whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from conftest import edited
from marked import pair_table
from sklearn.metrics import roc_auc_score

from sslsim.analysis import preferences
from sslsim.analysis.preferences import Labels, preferred_labels, same_label, selectivity


def made_labels(store, n_labels=5, seed=0):
    """Labels in runs of 3 frames."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(rng.integers(n_labels, size=store.n_frames // 3 + 1), 3)[: store.n_frames]
    return Labels(tuple("abcde"[:n_labels]), codes)


@pytest.fixture
def planted(make_store):
    """Neuron 2 rises and neuron 4 falls by two on label c."""
    store = make_store(frames=(40, 41, 43, 44) * 6, n_layers=2)
    labels = made_labels(store)

    def plant(layer):
        layer[labels.codes == 2, 2] += 2
        layer[labels.codes == 2, 4] -= 2

    return edited(store, "layer 1", plant), labels


def test_a_neuron_that_fires_on_a_label_is_recognised_whatever_its_scale(planted):
    store, labels = planted
    preferred = preferred_labels([store], labels).set_index(["layer", "neuron"])
    x = store.layer(1)[:].astype(float)
    z = (x - x.mean(0)) / x.std(0)
    means = np.array([z[labels.codes == label].mean(0) for label in range(5)])
    np.testing.assert_allclose(preferred.loc[1].mean_z.abs(), np.abs(means).max(0), rtol=1e-6)
    assert preferred.loc[(1, 2), "label"] == preferred.loc[(1, 4), "label"] == "c"
    assert preferred.loc[(1, 2), "mean_z"] > 1 > -1 > preferred.loc[(1, 4), "mean_z"]
    scaled = edited(store, "layer 1", lambda layer: np.copyto(layer, -3 * layer + 100))
    again = preferred_labels([scaled], labels).set_index(["layer", "neuron"])
    assert again.loc[1].label.tolist() == preferred.loc[1].label.tolist()
    np.testing.assert_allclose(again.loc[1].mean_z, -preferred.loc[1].mean_z, rtol=1e-4)


def test_preferences_leave_out_constant_neurons_and_utterances_without_marks(planted):
    store, labels = planted
    some = labels._replace(codes=np.where(np.arange(store.n_frames) < 500, labels.codes, -2))
    preferred = preferred_labels([edited(store, "layer 1", lambda x: np.copyto(x[:, 0], 7))], some)
    assert preferred[preferred.layer == 1].neuron.tolist() == [1, 2, 3, 4, 5]
    x = store.layer(1)[:500, 2].astype(float)
    expected = (x[labels.codes[:500] == 2].mean() - x.mean()) / x.std()
    assert preferred[(preferred.layer == 1) & (preferred.neuron == 2)].mean_z.item() == pytest.approx(expected)


def test_selectivity_is_the_auroc_of_the_preferred_label(planted):
    store, labels = planted
    pairs = pair_table([(("model", 1, 2), ("model", 1, 4)), (("model", 1, 2), ("model", 1, 3))], value=[-0.5, 0.5])
    table = selectivity(pairs, [store], labels, permutations=9)
    assert table.label_x.tolist() == ["c+", "c+"]
    assert table.label_y[0] == "c-"
    assert table.same_label.tolist() == [True, False]
    x, on = store.layer(1)[:], labels.codes == 2
    assert table.auroc_x[0] == pytest.approx(roc_auc_score(on, x[:, 2]))
    assert table.auroc_y[0] == pytest.approx(roc_auc_score(~on, x[:, 4]))
    assert table.p_x[0] == table.p_y[0] == 0.1
    assert table.chance_x[0] < 0.6 < 0.85 < table.auroc_x[0]
    assert selectivity(pairs[:0], [store], labels, permutations=9).empty


def test_ties_of_activations_count_half(make_store):
    store = edited(make_store(frames=(40,) * 12), "layer 1", lambda x: np.copyto(x, np.round(x)))
    labels = made_labels(store)
    table = selectivity(pair_table([(("model", 1, 0), ("model", 1, 1))], value=1), [store], labels, permutations=3)
    on = labels.codes == labels.names.index(table.label_x[0][0])
    expected = roc_auc_score(on, store.layer(1)[:, 0])
    assert table.auroc_x[0] == pytest.approx(expected if table.label_x[0][-1] == "+" else 1 - expected)


def test_chance_allows_for_slow_neurons_and_for_the_search(make_store):
    """Neurons that change slowly and have nothing to do with the labels are selective no more often than p says."""
    store = make_store(frames=(60, 62) * 20, n_layers=2, n_neurons=200)

    def slow(layer):
        for t in range(1, len(layer)):
            layer[t] += 0.9 * layer[t - 1]

    store = edited(store, "layer 1", slow)
    pairs = pair_table([(("model", 1, i), ("model", 1, i + 100)) for i in range(100)], value=1)
    tables = [selectivity(pairs, [store], made_labels(store, seed=s), permutations=9) for s in range(4)]
    p = np.concatenate([table[name] for table in tables for name in ("p_x", "p_y")])
    assert p.min() == 0.1
    assert 0.04 < (p <= 0.1).mean() < 0.17
    assert 0.4 < p.mean() < 0.7


def test_agreement_counts_the_label_with_its_sign_beside_shuffled_partners(monkeypatch):
    """Neurons 0 to 3 of m like a a b b, those of n a b b b; partners are i and i, of which the last anticorrelate."""
    preferred = pd.DataFrame({"model": list("mmmmnnnn"), "layer": 1, "neuron": [*range(4)] * 2})
    preferred = preferred.assign(label=list("aabbabbb"), mean_z=[1, 1, 1, 1, 1, 1, 1, -1])
    monkeypatch.setattr(preferences, "preferred_labels", lambda *_: preferred)
    partners = pair_table([(("m", 1, i), ("n", 1, i)) for i in range(4)], value=[0.9, 0.9, 0.9, -0.9])
    partners = partners.assign(p_rotation=[0.01, 0.5, 0.5, 0.01], relation="other model")
    labels = Labels(("a", "b"), np.zeros(20, dtype=int))
    row = same_label(partners, [], labels).iloc[0]
    assert row.relation == "other model"
    assert (row.pairs, row.same, row.beyond, row.same_beyond) == (4, 0.75, 2, 1.0)
    rng = np.random.default_rng(0)
    x, y = np.array(list("aabb")), np.array(list("abbb"))  # both signs taken off
    assert row.shuffled == pytest.approx(np.mean([(x == rng.permutation(y)).mean() for _ in range(4000)]), abs=0.02)
    assert (
        same_label(partners.assign(value=0.9), [], labels).same.item() == 0.5
    )  # one label on two sides is not the same
    assert same_label(partners.assign(relation="counterpart"), [], labels).empty
