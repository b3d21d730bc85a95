"""tokens: joined ids are the joined text's ids, wherever that is claimed; caps drop whole QAs; nothing is too long."""

import json
import random
import unicodedata

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from univar_jax import qa
from univar_jax.encoders import models as encoders
from univar_jax.encoders import tokens

from .conftest import SAMPLE

NASTY = [
    "", " ", "\n", "🙂👩‍👩‍👧🏽", "漢字かな交じり文。", "e\u0301\u0327 tail\u0301",
    "\u0301 begins with an accent", "[SEP] a [CLS]", "[SEP]", "a[MASK]b", "[sep]", "tab\there\ttoo",
    "bell\x07 nul\x00 del\x7f bs\x08", "x" * 300, "é" * 120, "zero\u200dwidth\u200bjoin",
    "no\u00a0break\u3000ideographic\u2028line\u2029paragraph\x85next", "\ufeffbom",
    "ﬁ ligature İ ß ΑΣ", "##ing ##s", "العربية हिन्दी ไทย", "right\u202eto\u202cleft",
    "\ud7ff\ue000\uffff\U0010ffff", "...", "-", "\r\n\r", "Q: A:", "한국어 \u1112\u1161\u11ab",
    "\u0345", "�",
]  # fmt: skip


@pytest.fixture(scope="module")
def bert(minilm):
    return encoders.tokenizer(minilm)


@pytest.fixture(scope="module")
def sample():
    answers = qa.read(str(SAMPLE))
    assert len(set(answers.columns["lang"])) >= 3
    return list(map(qa.text, answers.columns["question"], answers.columns["answer"]))


def trained(model, trainer, texts):
    tokenizer = Tokenizer(model)
    if isinstance(model, models.BPE) and not model.unk_token:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(texts, trainer)
    pair = [(word, tokenizer.token_to_id(word)) for word in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=pair)
    return tokenizer


@pytest.fixture(scope="module")
def byte_level(sample):
    words = {"special_tokens": ["<s>", "</s>"], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    return trained(models.BPE(), trainers.BpeTrainer(vocab_size=600, show_progress=False, **words), sample[:100])


@pytest.fixture(scope="module")
def metaspace(sample):
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    return trained(models.BPE(unk_token="<unk>"), trainer, sample[:100])


def assert_joins(tokenizer, texts, views):
    """Each view's ids are those that the tokenizer gives for the joined text."""
    spelt = tokens.tokenize(tokenizer, texts)
    wholes = tokenizer.encode_batch(["\n".join(texts[q] for q in view) for view in views])
    for view, whole in zip(views, wholes, strict=True):
        ids, kept = spelt.view(view, 10**6)
        assert ids.tolist() == whole.ids and kept == len(view), [texts[q] for q in view]
    return spelt


def handfuls(n, count, most, seed=0):
    rng = random.Random(seed)
    return [rng.sample(range(n), rng.randint(1, min(n, most))) for _ in range(count)]


def test_minilm_joins_the_sample_in_all_its_languages(bert, sample):
    spelt = assert_joins(bert, sample, handfuls(len(sample), 1500, 6))
    assert spelt.tokenizer is None  # by joining, not by spelling each view


def test_minilm_joins_nasty_texts_in_every_pair(bert):
    texts = [qa.text(q, a) for q in NASTY[:8] for a in NASTY] + [qa.text(q, "a") for q in NASTY]
    assert_joins(bert, texts, handfuls(len(texts), 2000, 5))
    # And bare, where nothing but the newline stands between them.
    assert_joins(bert, NASTY, [[i, j] for i in range(len(NASTY)) for j in range(len(NASTY)) if i != j])


def random_text(rng):
    """Up to 30 characters of any plane, with breaks, accents and joiners more often than chance."""
    kinds = [(0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x1FFF), (0x2000, 0x206F), (0x3000, 0x9FFF)]
    kinds += [(0, 0x1F), (0xE000, 0xFFFF), (0x1F300, 0x1FAFF), (0x10000, 0x10FFFF)]
    return "".join(chr(rng.randint(*rng.choice(kinds))) for _ in range(rng.randint(0, 30)))


def test_minilm_joins_random_unicode(bert):
    rng = random.Random(7)
    texts = [random_text(rng) for _ in range(3000)]
    assert len({unicodedata.category(c) for text in texts for c in text}) > 25
    assert_joins(bert, texts, handfuls(3000, 3000, 4, seed=1))


@pytest.mark.parametrize("name", ["byte_level", "metaspace"])
def test_other_tokenizers_spell_each_view_whole(name, request, sample):
    tokenizer = request.getfixturevalue(name)
    texts = sample[::40] + NASTY
    spelt = assert_joins(tokenizer, texts, handfuls(len(texts), 300, 5))
    assert spelt.tokenizer is not None
    # Were joining the same for these too, the fallback would be for nothing.
    bare = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts[:2]]
    assert tokenizer.encode("\n".join(texts[:2]), add_special_tokens=False).ids != bare[0] + bare[1]


def changed(bert, change):
    state = json.loads(bert.to_str())
    change(state)
    return Tokenizer.from_str(json.dumps(state))


def added(state, **values):
    content = {"id": 30522, "content": "new", "single_word": False, "special": False, "normalized": True}
    state["added_tokens"].append(content | {"lstrip": False, "rstrip": False} | values)


NOT_SEPARABLE = {
    "eats left": lambda s: added(s, lstrip=True),
    "eats right": lambda s: added(s, rstrip=True),
    "holds a break": lambda s: added(s, content="end\nQ"),
    "holds a space": lambda s: added(s, content="end q"),
    "no BERT normalizer": lambda s: s.update(normalizer={"type": "NFC"}),
    "no BERT words": lambda s: s.update(pre_tokenizer={"type": "WhitespaceSplit"}),
    "no words at all": lambda s: s.update(pre_tokenizer=None),
}


@pytest.mark.parametrize("case", NOT_SEPARABLE)
def test_what_could_look_across_a_break_is_not_joined(bert, case):
    tokenizer = changed(bert, NOT_SEPARABLE[case])
    assert tokens.separable(bert) and not tokens.separable(tokenizer)
    assert_joins(tokenizer, ["Q: the end", "Q: new end", "new"], [[0, 1], [1, 0], [2, 1, 0], [1, 2]])


def test_a_token_that_spans_the_break_would_show(bert):
    tokenizer = changed(bert, NOT_SEPARABLE["holds a space"])
    assert 30522 in tokenizer.encode("the end\nQ: why").ids


def test_a_plain_added_token_still_joins(bert):
    tokenizer = changed(bert, added)
    assert tokens.separable(tokenizer)
    assert_joins(tokenizer, ["new", "a new", "renew newer", "Q: new"], handfuls(4, 50, 4))


# -- caps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "byte_level", "metaspace"])
def test_a_cap_drops_whole_last_qas_and_no_more_than_it_must(name, request, sample):
    tokenizer, texts = request.getfixturevalue(name), [t[:150] for t in sample[::30]]
    spelt = tokens.tokenize(tokenizer, texts)
    for view in handfuls(len(texts), 100, 8):
        longs = [len(tokenizer.encode("\n".join(texts[q] for q in view[:k])).ids) for k in range(1, len(view) + 1)]
        for cap in {8, 40, 100, 101, longs[0] - 1, longs[0], longs[-1] - 1, longs[-1]}:
            ids, kept = spelt.view(view, cap)
            assert len(ids) <= cap
            assert kept == sum(long <= cap for long in longs)
            whole = tokenizer.encode("\n".join(texts[q] for q in view[: max(kept, 1)])).ids
            # Only a first QA that does not fit is cut, and even then the view ends as every view.
            assert ids.tolist() == (whole if kept else whole[: cap - 1] + whole[-1:])


def test_special_tokens_stand_at_both_ends_of_every_view(bert, byte_level):
    for tokenizer, ends in ((bert, (101, 102)), (byte_level, (0, 1))):
        spelt = tokens.tokenize(tokenizer, ["word " * 50, "", "[SEP]"])
        for view, cap in (([0], 8), ([0, 1, 2], 1000), ([1], 8), ([2, 1], 8)):
            ids = spelt.view(view, cap)[0]
            assert (ids[0], ids[-1]) == ends


def test_a_tokenizer_without_special_tokens_adds_none(byte_level):
    bare = Tokenizer.from_str(byte_level.to_str())
    bare.post_processor = processors.ByteLevel()
    spelt = tokens.tokenize(bare, ["some words"])
    assert (spelt.prefix, spelt.suffix) == ((), ())
    assert spelt.view([0], 100)[0].tolist() == bare.encode("some words").ids


# -- storage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, kind", [(65_536, np.uint16), (65_537, np.int32)])
def test_ids_are_uint16_where_every_id_fits(size, kind):
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(size)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ids, _ = tokens.tokenize(tokenizer, [f"w{size - 1} w1"]).view([0], 8)
    assert ids.dtype == kind and ids.tolist() == [size - 1, 1]


@pytest.mark.parametrize("name", ["bert", "byte_level"])
def test_load_gives_what_was_saved(name, request, sample, tmp_path):
    saved = tokens.tokenize(request.getfixturevalue(name), sample[:50] + NASTY)
    saved.save(tmp_path)
    loaded = tokens.Tokens.load(tmp_path)
    for view in handfuls(50 + len(NASTY), 100, 6):
        (ids, kept), (again, kept_again) = saved.view(view, 64), loaded.view(view, 64)
        assert kept == kept_again and ids.dtype == again.dtype
        np.testing.assert_array_equal(ids, again)


def test_a_digest_knows_the_whole_tokenizer(bert):
    again = Tokenizer.from_str(bert.to_str())
    assert tokens.digest(again) == tokens.digest(bert) != tokens.digest(changed(bert, added))
