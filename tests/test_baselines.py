"""Words alone: found where sources differ by words, at chance where they do not, in any script."""

import numpy as np
import pytest

from univar_jax.statistics import baselines


def rows(word, size=120):
    """Two sources that differ by a word of their own, in common words by lot."""
    draws = np.random.default_rng(0)
    sources = np.array(["a", "b"])[np.arange(size) % 2]
    noise = [" ".join(draws.choice(list("qwertyuiop"), 6)) for _ in range(size)]
    return [f"{n} {word[s]}" for n, s in zip(noise, sources, strict=True)], sources, np.arange(size) // 2


def test_a_word_of_its_own_gives_a_source_away():
    texts, sources, groups = rows({"a": "therefore", "b": "hence"})
    found, right = baselines.tfidf(baselines.counts(texts), sources, groups, groups < 40)
    assert found["acc"] == found["f1"] == right.mean() == 1 and found["acc_ci"] == [1, 1]


def test_without_one_it_is_chance():
    texts, sources, groups = rows({"a": "thus", "b": "thus"}, 600)
    found, _ = baselines.tfidf(baselines.counts(texts), sources, groups, groups < 200)
    assert 0.35 < found["acc"] < 0.65


def test_a_character_is_a_word_where_no_space_parts_them():
    texts, sources, groups = rows({"a": "我认为他们不好", "b": "我认为他们很好"})
    assert baselines.tfidf(baselines.counts(texts), sources, groups, groups < 40)[0]["acc"] == 1
    assert baselines.counts(["我认为 abc"]).shape == (1, 4 + 3)  # 我 认 为 abc, and three pairs


@pytest.mark.parametrize(("texts", "labels"), [(["...", "!"], ["a", "b"]), (["one", "two"], ["a", "a"])])
def test_no_word_or_one_source_is_no_score(texts, labels):
    found, right = baselines.tfidf(baselines.counts(texts * 2), labels * 2, [0, 0, 1, 1], np.arange(4) < 2)
    assert found is None and len(right) == 0
