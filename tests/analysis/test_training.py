"""A training followed by its steps, against a made one, and what else differs between models."""

import numpy as np
import pytest
from test_contents import LENGTHS, QUICK, noise

import sslsim
from sslsim import analysis
from sslsim.activations import Stores
from sslsim.encoders.lineage import Lineage
from sslsim.encoders.lineup import Checkpoint
from sslsim.errors import Unanswered

SHARES = {1: 0.0, 10: 0.5, 100: 0.9, 200: 1.0}  # of the variance of a step that is that of the last


@pytest.fixture
def steps(tmp_path):
    """Return made stores: at each step, neurons mix those of the end with others of their own."""
    rng = np.random.default_rng(0)
    end = {f"u{u}": noise(rng, n, 12) for u, n in enumerate(LENGTHS)}
    stores = []
    for step, share in SHARES.items():
        mixed = {u: np.sqrt(share) * x + np.sqrt(1 - share) * noise(rng, len(x), 12) for u, x in end.items()}
        arrays = {u: np.stack([noise(rng, len(x), 12), x]) for u, x in mixed.items()}
        stores.append(sslsim.from_arrays(f"s{step}", arrays, tmp_path, series="s", step=step))
    return Stores(stores[::-1])


def test_similarity_to_the_end_is_that_of_the_mixture(steps):
    measures = ["linear_cka_debiased_raw", "linreg_r2"]
    over = analysis.over_training(steps, measures, resampling=QUICK)
    end = over[(over.reference == "to the last step") & (over.layer == 1)].set_index(["measure", "step"])
    for step, share in SHARES.items():
        cka, r2 = end.loc[(measures[0], step)], end.loc[(measures[1], step)]
        # neurons of one variance that correlate by sqrt(share) with their own and by 0 with others
        assert cka.value == pytest.approx(share, abs=0.05)
        assert r2.value == pytest.approx(share + (1 - share) * r2.chance, abs=0.05)
        assert cka.ci_low <= cka.value <= cka.ci_high
    assert (over.dimensions > 8).all()
    before = over[(over.reference == "to the step before") & (over.layer == 1) & (over.measure == measures[0])]
    # what both share with the end is what they share with one another
    assert before.value.tolist() == pytest.approx([0.0, 0.45, 0.9], abs=0.05)
    assert before.step.tolist() == [10, 100, 200]
    assert over[over.layer == 0].query("step != 200").value.max() < 0.1


def test_without_a_series_there_is_no_answer(make_store):
    with pytest.raises(Unanswered, match="^no series of two steps among the checkpoints; give them series and step"):
        analysis.over_training(Stores([make_store()]))


def test_what_else_differs_is_counted_by_relation():
    def model(name, family, size, **recipe):
        return Checkpoint(name, "x", family=family, size=size, recipe=recipe)

    models = (
        model("a", "one", "base", iterations=1, data="LS960"),
        model("b", "one", "large", iterations=1, data="LL60k"),
        model("c", "two", "base", iterations=2, data="LS960"),
        Checkpoint("d", "x", family="two", size="base", seed_of="c"),
    )
    told = analysis.also_differ(Lineage(models))
    assert told == (
        "Beside what is compared, models differ: pairs of same family also in iterations (0 of 1), data (1 of 1), size "
        "(1 of 1)".replace("iterations (0 of 1), ", "")
        + "; pairs of other family also in iterations (2 of 2), data (1 of 2), size (2 of 4). "
        "No recipe is told of d: what else differs is not known."
    )
    assert analysis.also_differ(Lineage(models[:1] + models[2:3])).endswith("also in iterations (1 of 1).")


def test_what_else_the_models_of_the_paper_differ_in():
    assert analysis.also_differ(Lineage(tuple(sslsim.read_lineup("paper")))) == (
        "Beside what is compared, models differ: pairs of same family also in iterations (1 of 2), data (2 of 2), norm "
        "(2 of 2), size (2 of 2); pairs of other family also in iterations (4 of 4), data (2 of 4), norm (2 of 4), "
        "size (2 of 4)."
    )
