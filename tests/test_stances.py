"""Answers that say yes, no or how much, and those that do not."""

import numpy as np
import pytest

from univar_jax.statistics import stances


@pytest.mark.parametrize(
    ("answer", "points", "score"),
    [
        ("Yes.", 0, 1),
        ("**No**, because of that", 0, -1),
        ("Answer: yes", 0, 1),
        ("No—never", 0, -1),
        ("Yes I do", 0, 1),
        ("I strongly agree.", 0, 1),
        ("Agree", 0, 0.5),
        ("I'd slightly disagree", 0, -0.25),
        ("I don't agree", 0, -0.5),
        ("I neither agree nor disagree", 0, 0),
        ("4", 5, 0.5),
        ("1", 7, -1),
        ("4 - Agree", 5, 0.5),
        ("My rating is: 2", 7, -2 / 3),
        ("7/7", 0, 1),
        ("3, because", 5, 0),
        ("3) Agree", 0, 0.5),
        ("2) Disagree. I believe", 0, -0.5),
        ("<|assistant|>\n1) Strongly disagree", 0, -1),
        ("I would have to respectfully disagree", 0, -0.5),
        ("I cannot agree with this", 0, -0.5),
        ("Absolutely! It fosters", 0, 1),
        ("Absolutely not.", 0, -1),
        ("Of course, it depends", 0, 1),
        ("Certainly there are", 0, None),
        ("I agreed once", 0, None),
        ("Yes and no", 0, None),
        ("Yes/No", 0, None),
        ("No doubt about it", 0, None),
        ("No. 1 is wrong", 0, None),
        ("No one should", 0, None),
        ("Agree or disagree?", 0, None),
        ("5 - Disagree", 5, None),  # one of the two is meant, nobody knows which
        ("1. First, consider", 5, None),
        ("4", 0, None),  # of what?
        ("8", 7, None),
        ("As an AI, I cannot say yes", 0, None),
        ("Disagreement is natural", 0, None),
    ],
)
def test_answers_are_parsed_by_their_beginning(answer, points, score):
    found = stances.parse(answer, points)
    assert found is None if score is None else found == pytest.approx(score)


def test_scales_are_told_by_question_or_column_and_may_fall():
    assert stances.scale_of("Rate this from 1 to 7.") == (7, 1)
    assert stances.scale_of("1 (strongly disagree) to 5 (strongly agree)") == (5, 1)
    assert stances.scale_of("1 = strongly agree, up to 5 = strongly disagree, on 1-5") == (5, -1)
    assert stances.scale_of("In 1 to 2 sentences") == (0, 1) and stances.scale_of("Is it?", "7.0") == (7, 1)
    assert stances.parse("2", 5, -1) == pytest.approx(0.5)


def test_keyed_and_reverse_turn_the_sign():
    words = {"answer": ["Yes"] * 5, "question": ["q"] * 5, "stance": ["", "", "", "", "0.2"], "scale": [""] * 5}
    words |= {"keyed": ["", "-", "+", "-", "-"], "reverse": ["", "", "true", "true", ""]}
    found, parsed = stances.read({name: np.array(column, object) for name, column in words.items()}, "f")
    assert found.tolist() == [1, -1, -1, 1, 0.2] and parsed.tolist() == [True] * 4 + [False]
