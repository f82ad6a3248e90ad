"""Results are kept under all that they depend on, come back bit by bit, and are computed once."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest
from conftest import edited

import sslsim
from sslsim.activations import results
from sslsim.activations.results import code_of, kept, key_of
from sslsim.errors import SslsimError


@dataclass(frozen=True)
class Asked:
    n: int = 3
    names: tuple[str, ...] = ()


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.delenv("SSLSIM_FRESH")
    return []


@pytest.fixture
def counted(calls):
    """Return a kept function that notes each time it computes."""

    @kept
    def counted(stores, measures, *, frames=None, given=None, asked=Asked(), device="auto", executor=None):  # noqa: B008
        """Return a table with all that a table of results may hold."""
        calls.append(device)
        value = np.array([0.1 + 0.2, np.nan, -0.0, 1 / 3]) * (frames or 1)
        rank = pd.array([1, None, 3, 4], dtype="Int64")
        words = np.array(["a", "b", None, "d"], dtype=object)
        return pd.DataFrame({"value": value, "rank": rank, "word": words, "yes": [True, False, True, False]})

    return counted


def test_equal_calls_are_computed_once(make_store, counted, calls):
    stores = [make_store("a"), make_store("b", seed=1)]
    first = counted(stores, ["cca"])
    again = [counted(tuple(stores), ("cca",)), counted(stores, iter(["cca"]), device="cuda", executor=object())]
    again += [counted(measures=["cca"], stores=stores, frames=None, asked=Asked(n=np.int64(3)))]
    assert calls == ["auto"]
    for one in again:
        pd.testing.assert_frame_equal(first, one, check_exact=True)
        assert first.value.to_numpy().tobytes() == one.value.to_numpy().tobytes()
    pd.testing.assert_frame_equal(first, counted.__wrapped__(stores, ["cca"]), check_exact=True)
    again[0]["value"] = 0.0  # what a caller does to one leaves the next alone
    pd.testing.assert_frame_equal(first, counted(stores, ["cca"]))


RESAMPLING = sslsim.Resampling(permutations=2, blocks=2, rotations=2)
OF_STORES = {
    "compare": (sslsim.compare, (["max_corr", "svcca"],), {}),
    "neuron_partners": (sslsim.neuron_partners, (), {}),
    "evidence": (sslsim.evidence, (["linreg_r2", "neuron_count"],), {"resampling": RESAMPLING}),
    "attention_evidence": (sslsim.attention_evidence, (["js"],), {"resampling": RESAMPLING}),
    "compare_attention": (sslsim.compare_attention, (["js", "attention_cka"],), {}),
    "describe_heads": (sslsim.describe_heads, (), {}),
    "concentrations": (sslsim.analysis.concentrations, (), {}),
    "convergence": (sslsim.analysis.convergence, (["svcca"], [("a", "b")]), {}),
    "changed_neurons": (sslsim.analysis.changed_neurons, (), {"frames": 100}),
}


@pytest.mark.parametrize("name", OF_STORES)
def test_what_is_kept_is_what_is_computed(name, make_store, calls):
    function, arguments, options = OF_STORES[name]
    stores = [make_store("a", frames=(40, 50, 44, 60)), make_store("b", frames=(40, 50, 44, 60), finetuned_from="a")]
    computed = function.__wrapped__(stores, *arguments, **options)
    for _ in range(2):
        assert_same(function(stores, *arguments, **options), computed)
    assert list(stores[0].root.parent.glob(f"results/{name}-*.zip"))


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other, strict=True)
    elif isinstance(one, tuple):
        for each, same in zip(one, other, strict=True):
            assert_same(each, same)
    elif is_dataclass(one):
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    else:
        assert one == other


def test_whatever_the_numbers_depend_on_makes_another_result(make_store, counted, calls):
    a, b = make_store("a"), make_store("b", seed=1)
    given = np.arange(6.0)
    relabelled = replace(b, checkpoint=replace(b.checkpoint, finetuned_from="a"))
    spoken = replace(b, index=b.index.assign(speaker="t"))
    asked = [
        ([a, b], ["cca"], {}),
        ([b, a], ["cca"], {}),
        ([a], ["cca"], {}),
        ([a, b], ["cca", "svcca"], {}),
        ([a, b], ["cca"], {"frames": 5}),
        ([a, b], ["cca"], {"given": given}),
        ([a, b], ["cca"], {"given": given + 1e-12}),
        ([a, b], ["cca"], {"given": given.astype("f4")}),
        ([a, b], ["cca"], {"given": given.reshape(2, 3)}),
        ([a, b], ["cca"], {"given": pd.DataFrame({"x": given})}),
        ([a, b], ["cca"], {"given": pd.DataFrame({"y": given})}),
        ([a, b], ["cca"], {"given": {"log mel": 3}}),
        ([a, b], ["cca"], {"given": {"3"}}),
        ([a, b], ["cca"], {"asked": Asked(n=4)}),
        ([a, relabelled], ["cca"], {}),
        ([a, spoken], ["cca"], {}),
    ]
    for n, (stores, measures, options) in enumerate(asked, 1):
        counted(stores, measures, **options)
        assert len(calls) == n
    for stores, measures, options in asked:
        counted(stores, measures, **options)
    assert len(calls) == len(asked)
    counted(
        [a, edited(b, "layer 1", lambda x: x.__setitem__((3, 2), 0.5))], ["cca"]
    )  # one number, the same description
    assert len(calls) == len(asked) + 1
    moved = replace(b, checkpoint=replace(b.checkpoint, source="elsewhere"))
    counted([a, moved], ["cca"])
    assert len(calls) == len(asked) + 1


def test_a_changed_source_or_library_makes_another_key(tmp_path, monkeypatch):
    package = Path(results.__file__).parents[1]
    for name in ("measures", "comparison", "significance", "activations", "figures"):
        shutil.copytree(package / name, tmp_path / name)
    before = code_of("sslsim.analysis.layers", tmp_path)
    assert before == code_of("sslsim.analysis.layers", tmp_path)
    assert before != code_of("sslsim.analysis.finetuning", tmp_path)
    (tmp_path / "figures/style.py").write_text("other colours")
    assert before == code_of("sslsim.analysis.layers", tmp_path)
    keys = {before}
    for name in ("measures/neurons.py", "comparison/pieces.py", "significance/nulls.py", "activations/new.py"):
        with (tmp_path / name).open("a") as file:
            file.write("\n")
        keys.add(code_of("sslsim.analysis.layers", tmp_path))
    assert len(keys) == 5
    monkeypatch.setattr(results, "version", lambda name: "0")
    assert code_of("sslsim.analysis.layers", tmp_path) not in keys


def test_a_damaged_or_half_written_result_is_made_anew(make_store, counted, calls):
    stores = [make_store("a")]
    whole = counted(stores, ["cca"])
    (file,) = (stores[0].root.parent / "results").glob("counted-*.zip")
    content = file.read_bytes()
    places = range(0, len(content), 97)
    for place in places:
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        pd.testing.assert_frame_equal(whole, counted(stores, ["cca"]))
    assert len(calls) > len(places) / 2  # some bytes mean nothing
    before = len(calls)
    for end in (0, 9, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:end])
        pd.testing.assert_frame_equal(whole, counted(stores, ["cca"]))
    assert len(calls) == before + 4
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_fresh_computes_anew_and_overwrites(make_store, counted, calls, monkeypatch):
    stores = [make_store("a")]
    counted(stores, ["cca"])
    (file,) = (stores[0].root.parent / "results").glob("counted-*.zip")
    os.utime(file, (1, 1))
    monkeypatch.setenv("SSLSIM_FRESH", str(time.time() - 10))  # of a run: its notebooks share what one has computed
    for _ in range(2):
        counted(stores, ["cca"])
        assert len(calls) == 2
    monkeypatch.setenv("SSLSIM_FRESH", "1")
    counted(stores, ["cca"])
    assert len(calls) == 3
    monkeypatch.delenv("SSLSIM_FRESH")
    counted(stores, ["cca"])
    assert len(calls) == 3


def test_two_that_want_the_same_at_once_compute_it_once(make_store, calls, capsys):
    begun = threading.Event()

    @kept
    def slow(stores):
        calls.append(1)
        begun.set()
        time.sleep(0.6)
        return pd.DataFrame({"value": [1.0]}), np.arange(3)

    stores, found = [make_store("a")], []
    first = threading.Thread(target=lambda: found.append(slow(stores)))
    first.start()
    begun.wait(5)
    found.append(slow(stores))
    first.join()
    assert calls == [1]
    assert [type(one) for one in found] == [tuple, tuple]
    assert [one[1].tolist() for one in found] == [[0, 1, 2]] * 2
    assert ".zip: waiting for another process that is making it" in capsys.readouterr().out


def test_what_cannot_be_kept_is_computed(make_store, counted, calls, tmp_path):
    stores = [make_store("a")]
    for _ in range(2):
        counted(stores, ["cca"], given=lambda x: x)  # one function cannot be told from another
        counted([object()], ["cca"])
        counted([replace(stores[0], root=tmp_path / "nowhere" / "a")], ["cca"])
    assert len(calls) == 6
    assert not (tmp_path / "results").exists()
    (tmp_path / "results").write_text("in the way")
    for _ in range(2):
        counted(stores, ["cca"])
    assert len(calls) == 8

    @kept
    def odd(stores):
        return pd.DataFrame({"mixed": [1, "a"]})

    (tmp_path / "results").unlink()
    assert odd(stores).mixed.tolist() == [1, "a"]
    assert list((tmp_path / "results").iterdir()) == []


def test_a_failure_is_raised_and_leaves_nothing(make_store, calls, tmp_path):
    @kept
    def wrong(stores, n):
        raise SslsimError(f"{n} is wrong")

    stores = [make_store("a")]
    with pytest.raises(SslsimError, match="3 is wrong"):
        wrong(stores, 3)
    with pytest.raises(TypeError, match="missing a required argument: 'n'"):
        wrong(stores)
    assert not (tmp_path / "results").exists()


def test_only_dataclasses_of_this_package_are_made(make_store, counted, calls):
    stores = [make_store("a")]
    counted(stores, ["cca"])
    (file,) = (stores[0].root.parent / "results").glob("counted-*.zip")
    with ZipFile(file, "w") as parts:
        told = {"module": "subprocess", "name": "Popen", "fields": {"args": "true"}}
        parts.writestr("result.json", json.dumps(told))
    assert len(counted(stores, ["cca"])) == 4
    assert len(calls) == 2


def test_arguments_are_told_apart():
    told = [None, True, 1, 1.5, "1", ["1"], {"1"}, {"1": 1}, np.array([1]), np.array([1.0]), Asked(), Asked(1)]
    assert len({key_of({"x": value}) for value in told}) == len(told)
    assert key_of({"x": ("a", ["b"])}) == key_of({"x": [np.str_("a"), ("b",)]})
    with pytest.raises(TypeError, match="function cannot be part of a key"):
        key_of({"x": [lambda: 1]})


def test_a_result_in_the_place_of_another_is_computed_again(make_store, counted, calls):
    stores = [make_store("a")]
    for measure in ("cca", "svcca"):
        counted(stores, [measure])
    one, other = sorted((stores[0].root.parent / "results").glob("*.zip"))
    shutil.copy(one, other)
    for measure in ("cca", "svcca"):
        counted(stores, [measure])
    assert len(calls) == 3
