"""The report on one screen: metrics.json in, some lines out."""

from univar_jax import resamples


def say(m: dict) -> None:
    """Prints the figures of metrics.json that a reader looks for first."""

    def told(part: dict, ci: list[float] | None) -> str:
        few = ", few clusters" if part["groups"] < resamples.FEW_GROUPS else ""
        return f"{_ci(ci)}, {part['groups']} groups{few}"

    print(f"rows      {m['rows']:,} ({m['control_rows']:,} control), sources {len(m['source_names'])}")
    print(f"values    fit {m['n_fit']:,}, scored {m['n_scored']:,} of {m['groups']} question groups")
    parts = [(kind, e, p) for e in m["encoders"] for kind, p in (("values", e), ("control", e["control"]))]
    for kind, encoder, part in parts:
        if part and (knn := part["knn"]):
            score = f"k-NN {knn['acc']:.3f} {told(part, knn['acc_ci'])}, chance {part['chance']:.3f}"
            words = f", TF-IDF {part['tfidf']['acc']:.3f}" if part["tfidf"] else ""
            print(f"{kind:9} {encoder['encoder']}: {score}{words}, p {part['permutation_p']:.3f}")
    for p in m["paired"]:
        print(f"paired    {p['encoder']} - {p['against']}: {p['difference']:+.3f} {told(p, p['ci'])}, {p['verdict']}")
    for e in m["encoders"]:
        for a in e["across"]:
            score = f"k-NN {a['knn']['acc']:.3f} {told(a, a['knn']['acc_ci'])}, chance {a['chance']:.3f}"
            words = f", TF-IDF {a['tfidf']['acc']:.3f}" if a["tfidf"] else ""
            print(f"across    {e['encoder']}, {a['fit']} to {a['scored']}: {score}{words}")
        if (ratio := e["value_to_control"]) and ratio["ratio"]:
            words = f", TF-IDF {ratio['tfidf']['ratio']:.2f}" if ratio["tfidf"] and ratio["tfidf"]["ratio"] else ""
            print(f"ratio     {e['encoder']}: values to control {ratio['ratio']:.2f} {_ci(ratio['ci'])}{words}")
    _say_distances(m["distances"], m["map"])
    for note in m["notes"]:
        print(f"note      {note}")


def _ci(pair: list[float | None] | None) -> str:
    if not pair:
        return "no interval"
    return "[" + ", ".join("inf" if end is None else f"{end:.3f}" for end in pair) + "]"


def _say_distances(apart: dict, quality: dict) -> None:
    q = [v for i, row in enumerate(apart["q"]) for v in row[:i] if v is not None]
    if q:
        print(f"distances {sum(v < 0.05 for v in q)} of {len(q)} pairs of sources apart by energy (q < .05)")
    for name, found in apart["mantel"].items():
        if found and (test := found["energy"]):
            print(f"mantel    energy against {name}: r {test['r']:.2f}, p {test['p']:.4f}, {test['n']} rows")
    for name in ("umap", "pca"):
        if found := quality[name]:
            print(f"map       {name}: " + ", ".join(f"{key} {value:.2f}" for key, value in found.items()))
