"""The law of views: which QAs make pair i of seed s (arXiv 2404.07900, section 1.2 of its training code).

A pair is two views of one source; a view is uniform 1..max_qas QAs of it, drawn without replacement.
Sources come in proportion to their size: an epoch visits every QA once, in a shuffled order, and the QA
visited only names the source. Every draw is a function of (seed, split, i), so that any worker can make any
pair and a run can start at any step.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

# Words of the counter that keep the two kinds of draws apart.
_ORDER, _PAIR = 1, 2
SPLITS = ("train", "eval")


@dataclasses.dataclass(frozen=True)
class Law:
    """The views of one split.

    Attributes:
      seed: the config's seed, 0 or more.
      split: one of SPLITS; each has draws of its own.
      sizes: QAs of each source, at least 2.
      max_qas: λ, the largest number of QAs in a view; a smaller source has fewer.
      disjoint: whether the two views of a pair share no QA (the paper's may).
    """

    seed: int
    split: str
    sizes: tuple[int, ...]
    max_qas: int
    disjoint: bool

    def pair(self, i: int) -> tuple[int, list[int], list[int]]:
        """Pair i: (source, QAs of the anchor, QAs of the key), QAs counted inside their source."""
        source = self.source(i)
        size = self.sizes[source]
        most = min(self.max_qas, size // 2 if self.disjoint else size)
        # Raw words rather than numpy's distributions, whose streams may change between versions.
        words = iter(self._raw(i, _PAIR, 2 + 2 * most).tolist())
        anchors, keys = 1 + _below(most, words), 1 + _below(most, words)
        if self.disjoint:
            drawn = _choose(size, anchors + keys, words)
            return source, drawn[:anchors], drawn[anchors:]
        return source, _choose(size, anchors, words), _choose(size, keys, words)

    def source(self, i: int) -> int:
        """The source of pair i."""
        epoch, place = divmod(i, sum(self.sizes))
        return int(np.searchsorted(np.cumsum(self.sizes), self._order(epoch)[place], side="right"))

    def _order(self, epoch: int) -> np.ndarray:
        return _shuffled(self, epoch)

    def _raw(self, i: int, kind: int, words: int) -> np.ndarray:
        key = np.array([self.seed, SPLITS.index(self.split)], np.uint64)
        return np.random.Philox(key=key, counter=[0, 0, i, kind]).random_raw(words)


@functools.lru_cache(maxsize=2)  # the epoch at hand, and its neighbour where a shard crosses
def _shuffled(law: Law, epoch: int) -> np.ndarray:
    return np.argsort(law._raw(epoch, _ORDER, sum(law.sizes)), kind="stable")


def _below(n: int, words: Iterator[int]) -> int:
    """Uniform in 0..n-1; the bias of the product rule is below n / 2**64."""
    return next(words) * n >> 64


def _choose(n: int, k: int, words: Iterator[int]) -> list[int]:
    """k of 0..n-1 without replacement in random order: Fisher-Yates that remembers only what moved."""
    moved: dict[int, int] = {}
    chosen = []
    for i in range(k):
        j = i + _below(n - i, words)
        chosen.append(moved.get(j, j))
        moved[j] = moved.get(i, i)
    return chosen
