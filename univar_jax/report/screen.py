"""The report on one screen: metrics.json in, some lines out."""

from univar_jax.statistics import resamples


def say(m: dict) -> None:
    """Prints the figures of metrics.json that a reader looks for first."""
    _line("rows", f"{m['rows']:,} ({m['control_rows']:,} control), sources {len(m['source_names'])}")
    _line("values", f"fit {m['n_fit']:,}, scored {m['n_scored']:,} of {m['groups']} question groups")
    for e in m["encoders"]:
        for kind, part in (("values", e), ("control", e["control"])):
            if part and part["knn"]:
                _line(kind, f"{e['encoder']}: {_score(part)}, p {part['permutation_p']:.3f}")
        if (ratio := e["value_to_control"]) and ratio["ratio"] is not None:
            words = f", TF-IDF {ratio['tfidf']['ratio']:.2f}" if ratio["tfidf"] and ratio["tfidf"]["ratio"] else ""
            _line("ratio", f"{e['encoder']}: values to control {ratio['ratio']:.2f} {_ends(ratio['ci'])}{words}")
        for a in e["across"]:
            _line("across", f"{e['encoder']}, {a['fit']} to {a['scored']}: {_score(a)}")
    for p in m["paired"]:
        sure = f"{_ends(p['ci'])}, {_groups(p)}, {p['verdict']}"
        _line("paired", f"{p['encoder']} - {p['against']}: {p['difference']:+.3f} {sure}")
    _distances(m["distances"])
    for name in ("umap", "pca"):
        if found := m["map"][name]:
            _line("map", f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in found.items()))
    for note in m["notes"]:
        _line("note", note)


def say_placed(m: dict) -> None:
    """Prints what place.json says of each of my sources."""
    _line("reference", f"{m['reference']['rows']:,} rows, sources {m['reference']['sources']}; {m['encoder']['name']}")
    for found in m["mine"]:
        _line("placed", found["headline"])
        for row in found["nearest"][1:4]:
            share = f"nearest in {100 * row['nearest_share']:.0f} % of resamples"
            _line("", f"{row['source']}: energy {row['energy']:.3f} {_ends(row['ci'])}, {share}, q {row['q']:.3f}")
    for note in m["notes"]:
        _line("note", note)


def say_compared(m: dict) -> None:
    """Prints what compare.json says of each pair, and of its values those that moved."""
    for row in m["pairs"]:
        _line("pair", f"{row['before']} to {row['after']}")
        if row["not_enough"]:
            few = row["not_enough"]
            _line("", f"not enough: {few['groups']} common question groups, {few['needed_groups']} are needed")
            continue
        _line(
            "shift",
            f"{row['shift']:.3f} {_ends(row['shift_ci'])}, noise alone {_ends(row['noise_band'])}, {_groups(row)}",
        )
        _line("energy", f"{row['energy']:.3f} {_ends(row['energy_ci'])}, p {row['p']:.3f}, q {row['q']:.3f}")
        if tested := {v: part for v, part in row["by_value"].items() if not part["not_enough"]}:
            moved = sorted((v for v in tested if tested[v]["q"] < 0.05), key=lambda v: -tested[v]["shift"])
            told = f": {', '.join(moved[:5])}{' …' if len(moved) > 5 else ''}" if moved else ""
            _line("values", f"{len(moved)} of {len(tested)} moved (q < .05){told}")
    for note in m["notes"]:
        _line("note", note)


def say_bounds(rows: list[dict]) -> None:
    """Prints a line for each bound, those that do not pass first."""
    for row in sorted(rows, key=lambda row: row["pass"]):
        what = f"{row['source']}, {row['value'] or 'all questions'}"
        found = "no figure" if row["distance"] is None else f"{row['distance']:.3f} {_ends(row['ci'])}"
        if row["needed_groups"]:
            found += f" of {row['groups']} groups, some {row['needed_groups']:,} are needed"
        law = f"{row['tier']} {row['limit']:g} ({row['owner']}, {row['date']}: {row['reason']})"
        _line("pass" if row["pass"] else "FAIL", f"{row['verdict']}: {what}: {found}; {law}")


def _line(word: str, text: str) -> None:
    print(f"{word:9} {text}")


def _score(part: dict) -> str:
    """k-NN with its interval, chance, and what words alone reach."""
    knn, words = part["knn"], f", TF-IDF {part['tfidf']['acc']:.3f}" if part["tfidf"] else ""
    return f"k-NN {knn['acc']:.3f} {_ends(knn['acc_ci'])}, {_groups(part)}, chance {part['chance']:.3f}{words}"


def _groups(part: dict) -> str:
    return f"{part['groups']} groups" + (", few clusters" if part["groups"] < resamples.FEW_GROUPS else "")


def _ends(pair: list[float | None] | None) -> str:
    if not pair:
        return "no interval"
    return "[" + ", ".join("inf" if end is None else f"{end:.3f}" for end in pair) + "]"


def _distances(apart: dict) -> None:
    q = [v for i, row in enumerate(apart["q"]) for v in row[:i] if v is not None]
    if q:
        _line("distances", f"{sum(v < 0.05 for v in q)} of {len(q)} pairs of sources apart by energy (q < .05)")
    for name, found in apart["mantel"].items():
        if found and (test := found["energy"]):
            _line("mantel", f"energy against {name}: r {test['r']:.2f}, p {test['p']:.4f}, {test['n']} units")
