from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
from conftest import tone

from sslsim.errors import SslsimError
from sslsim.speech.corpus import Subset, Utterance, read_corpus


def a_corpus(n):
    return [Utterance(f"u{i}", Path("nowhere") / str(i), f"s{i % 3}") for i in range(n)]


def test_a_subset_does_not_depend_on_order_and_hardly_on_what_else_is_there():
    utterances = a_corpus(50)
    chosen = {u.id for u in Subset(max_utterances=9).of(utterances)}
    assert len(chosen) == 9
    assert {u.id for u in Subset(max_utterances=9).of(utterances[::-1])} == chosen
    assert {u.id for u in Subset(max_utterances=9, seed=1).of(utterances)} != chosen
    for more in range(50, 60):
        other = {u.id for u in Subset(max_utterances=9).of([*utterances, *a_corpus(more + 1)[more:]])}
        assert len(chosen - other) <= 1
    assert Subset().of(utterances) == utterances
    each = Subset(per_speaker=2).of(utterances)
    assert sorted(u.speaker for u in each) == ["s0", "s0", "s1", "s1", "s2", "s2"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Subset(max_utterances=0),
            "max_utterances is 0; it must be a whole number, 1 or more, or None for no limit",
        ),
        (
            lambda: Subset(per_speaker=True),
            "per_speaker is True; it must be a whole number, 1 or more, or None for no limit",
        ),
        (
            lambda: Subset(max_utterances=2.0),
            "max_utterances is 2.0; it must be a whole number, 1 or more, or None for no limit",
        ),
        (
            lambda: Subset(max_seconds="9"),
            "max_seconds is '9'; it must be a number, at least one frame, 0.025, or None for no limit",
        ),
        (
            lambda: Subset(per_speaker="2"),
            "per_speaker is '2'; it must be a whole number, 1 or more, or None for no limit",
        ),
        (
            lambda: Subset(max_seconds=float("nan")),
            "max_seconds is nan; it must be a number, at least one frame, 0.025, or None",
        ),
        (
            lambda: Subset(per_speaker=0),
            "per_speaker is 0; it must be a whole number, 1 or more, or None for no limit",
        ),
        (
            lambda: Subset(max_seconds=0),
            "max_seconds is 0; it must be a number, at least one frame, 0.025, or None for no limit",
        ),
    ],
)
def test_a_subset_that_cannot_be(make, message):
    with pytest.raises(SslsimError, match=message):
        make()


@pytest.mark.parametrize(
    "subset", [Subset(max_utterances=9), Subset(per_speaker=3), Subset(max_utterances=5, per_speaker=2)]
)
def test_one_more_in_the_corpus_moves_at_most_one_in_and_one_out(subset):
    utterances = a_corpus(60)
    for left_out in range(60):
        rest = utterances[:left_out] + utterances[left_out + 1 :]
        whole, part = ({u.id for u in subset.of(some)} for some in (utterances, rest))
        assert len(whole - part) <= 1
        assert len(part - whole) <= 1


def test_a_subset_keeps_the_order_of_the_corpus_and_smaller_ones_are_parts_of_larger():
    utterances = a_corpus(40)
    before: set[str] = set()
    for n in range(1, 41):
        chosen = Subset(max_utterances=n).of(utterances)
        assert len(chosen) == n
        assert chosen == [u for u in utterances if u in chosen]
        assert before <= {u.id for u in chosen}
        before = {u.id for u in chosen}


def test_seeds_take_all_alike():
    utterances = a_corpus(20)
    times = dict.fromkeys((u.id for u in utterances), 0)
    for seed in range(400):
        for utterance in Subset(max_utterances=5, seed=seed).of(utterances):
            times[utterance.id] += 1
    assert sum(times.values()) == 2_000
    assert all(60 < n < 145 for n in times.values())  # 100 on average, 8.7 its standard deviation


def test_files_that_cannot_be_read_are_taken_to_be_reported(tmp_path):
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", tone(i, 8_000), 16_000)
    for name in ("x.wav", "y.flac"):
        (tmp_path / name).write_bytes(b"no sound")
    chosen = Subset(max_seconds=1.6).of(read_corpus(tmp_path))
    assert {"x", "y"} <= {u.id for u in chosen}
    assert len(chosen) == 5
    every = Subset(max_seconds=float("inf")).of(read_corpus(tmp_path))
    assert len(every) == 8


def test_seconds_go_to_later_ones_that_still_fit(tmp_path):
    lengths = {"long": 40_000, "short": 4_000}
    for i in range(4):
        for name, n in lengths.items():
            soundfile.write(tmp_path / f"{name}{i}.wav", tone(i, n), 16_000)
    for seed in range(6):
        chosen = Subset(max_seconds=2.4, seed=seed).of(read_corpus(tmp_path))
        assert [u.id for u in chosen] == ["short0", "short1", "short2", "short3"]
