"""Token ids of views: each QA is tokenised once, and the ids of a view's QAs are joined."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from univar_jax import files
from univar_jax.files import Place

# encode_batch spreads a batch over threads; larger ones only hold more memory.
_BATCH = 2048


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The QAs of a corpus as token ids, and how they become a view's.

    Attributes:
      ids: all QAs' ids one after the other, without special tokens; [total] of `dtype`.
      starts: where each QA begins in ids; int64 [n + 1].
      prefix, suffix: the special tokens before and after a text, such as [CLS] and [SEP].
      texts, tokenizer: set where joining ids is not tokenising the joined text; views are tokenised whole.
    """

    ids: np.ndarray
    starts: np.ndarray
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    texts: Sequence[str] | None = None
    tokenizer: Tokenizer | None = None

    def view(self, qas: Sequence[int], max_tokens: int) -> tuple[np.ndarray, int]:
        """The ids of a view.

        Whole last QAs are dropped until it fits; only a first QA that is too long by itself is cut.

        Args:
          qas: the view's QAs in their order.
          max_tokens: cap, special tokens included.

        Returns:
          ids [at most max_tokens] with special tokens, and how many QAs are in it; 0 where the one was cut.
        """
        room = max_tokens - len(self.prefix) - len(self.suffix)
        sizes = np.cumsum(self.starts[np.asarray(qas) + 1] - self.starts[qas])
        # Where views are tokenised whole this is a first guess: the joint may cost or save a token.
        kept = max(1, int(np.searchsorted(sizes, room, side="right")))
        body = self._join(qas[:kept])
        while len(body) > room and kept > 1:
            kept -= 1
            body = self._join(qas[:kept])
        whole = len(body) <= room
        ids = np.concatenate([self.prefix, body[:room], self.suffix]).astype(self.ids.dtype)
        return ids, kept if whole else 0

    def _join(self, qas: Sequence[int]) -> np.ndarray:
        if self.tokenizer is not None:
            joined = "\n".join(self.texts[q] for q in qas)
            return np.array(self.tokenizer.encode(joined, add_special_tokens=False).ids)
        return np.concatenate([self.ids[self.starts[q] : self.starts[q + 1]] for q in qas])

    def save(self, folder: Place) -> None:
        """Writes what `load` maps into each worker."""
        for name, array in (("ids.npy", self.ids), ("starts.npy", self.starts)):
            with files.whole(folder / name) as file:
                np.save(file, array)
        tokenizer = self.tokenizer and self.tokenizer.to_str()
        rest = {"prefix": self.prefix, "suffix": self.suffix, "texts": self.texts, "tokenizer": tokenizer}
        files.write(folder / "rest.json", json.dumps(rest).encode())

    @classmethod
    def load(cls, folder: Place) -> "Tokens":
        """The tokens in `folder`; on a disk the ids are mapped rather than copied."""
        rest = json.loads((folder / "rest.json").read_text("utf-8"))
        rest["tokenizer"] = rest["tokenizer"] and Tokenizer.from_str(rest["tokenizer"])
        far = files.remote(folder)
        ids = np.load(io.BytesIO((folder / "ids.npy").read_bytes())) if far else np.load(folder / "ids.npy", "r")
        starts = np.load(io.BytesIO((folder / "starts.npy").read_bytes()))
        return cls(ids, starts, **rest)


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
    """Tokenises QAs, each once.

    Args:
      tokenizer: truncation and padding off.
      texts: the QAs' texts (qa.text).
    """
    chunks, sizes = [], []
    for i in range(0, len(texts), _BATCH):
        batch = tokenizer.encode_batch_fast(list(texts[i : i + _BATCH]), add_special_tokens=False)
        chunks += [np.array(e.ids, dtype(tokenizer)) for e in batch]
        sizes += [len(e.ids) for e in batch]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    ids = np.concatenate([np.zeros(0, dtype(tokenizer)), *chunks])
    tokens = Tokens(ids, starts, *_special(tokenizer))
    if separable(tokenizer):
        return tokens
    return dataclasses.replace(tokens, texts=list(texts), tokenizer=tokenizer)


def separable(tokenizer: Tokenizer) -> bool:
    r"""Whether ids(a + "\n" + b) == ids(a) + ids(b) for every a and b.

    True where the tokenizer's first act on a text is BERT's: control characters and spaces become breaks,
    each word is spelt by itself, and nothing looks across a break. Byte-level and sentencepiece tokenizers
    spell the newline or what follows it otherwise; added tokens that eat or hold a space would too.
    """
    state = json.loads(tokenizer.to_str())
    kinds = [(state.get(part) or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
    eats = any(t["lstrip"] or t["rstrip"] or len(t["content"].split()) > 1 for t in state["added_tokens"])
    return kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"] and not eats


def dtype(tokenizer: Tokenizer) -> np.dtype:
    """uint16 where every id fits, else int32."""
    return np.dtype(np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.int32)


def digest(tokenizer: Tokenizer) -> str:
    """sha256 of the tokenizer's whole definition; 64 hex digits."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def _special(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return tuple(full[:start]), tuple(full[start + len(bare) :])
