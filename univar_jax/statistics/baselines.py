"""What words alone reach: TF-IDF and logistic regression, the yardstick that any encoder has to beat."""

import warnings
from collections.abc import Sequence

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression

from univar_jax.statistics import evaluate, resamples

# A word; in scripts that put no space between words each character is one.
_TOKEN = r"[^\W\u3040-\u9fff]+|[\u3040-\u9fff]"
# The most frequent words and pairs of words; more change the score by less than its interval and cost minutes.
FEATURES = 20_000


def counts(texts: Sequence[str]) -> sparse.csr_matrix:
    """How often each word and pair of neighbouring words occurs in each text, [n, v]; v may be 0.

    Counted once for all splits. Words of scored rows alone do no harm: their weights have no fit row to learn from.
    """
    try:
        vectorizer = CountVectorizer(ngram_range=(1, 2), token_pattern=_TOKEN, max_features=FEATURES, dtype=np.float32)
        return vectorizer.fit_transform(texts).tocsr()
    except ValueError:  # no text has a word
        return sparse.csr_matrix((len(texts), 0), dtype=np.float32)


def tfidf(
    counts_nv: sparse.csr_matrix, labels_n: Sequence[str], groups_n: Sequence[str], fit_n: np.ndarray, seed: int = 0
) -> tuple[dict | None, np.ndarray]:
    """Logistic regression on (1 + log tf) · idf, of unit length, fitted on one side of the rows, scored on the other.

    Args:
      counts_nv: as `counts` gives it, of these rows.
      labels_n: [n], every label on both sides.
      groups_n: [n] question groups.
      fit_n: bool [n].

    Returns:
      {"acc", "acc_ci", "f1"} and whether each scored row was named rightly, float [m]; None and nothing where there
      are fewer than two labels, or no word.
    """
    names_c, code_n = np.unique(np.asarray(labels_n), return_inverse=True)
    if len(names_c) < 2 or not counts_nv.shape[1]:
        return None, np.zeros(0)
    weigh = TfidfTransformer(sublinear_tf=True).fit(counts_nv[fit_n])
    model = LogisticRegression(C=10.0, max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 steps are enough for the score, if not for the sum
        model.fit(weigh.transform(counts_nv[fit_n]), code_n[fit_n])
    voted_m, truth_m = model.predict(weigh.transform(counts_nv[~fit_n])), code_n[~fit_n]
    right_m = (voted_m == truth_m).astype(float)
    acc_ci = resamples.interval(right_m, np.asarray(groups_n)[~fit_n], seed)
    return {"acc": float(right_m.mean()), "acc_ci": acc_ci, "f1": evaluate.weighted_f1(truth_m, voted_m)}, right_m
