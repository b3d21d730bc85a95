"""How much of the gap between a weak teacher and the ceiling a student recovers (PGR, arXiv 2312.09390).

    PGR = (student - weak) / (ceiling - weak)           of accuracies on the same items, means over seeds

weak is whoever labelled what the student learnt: one teacher, or the vote of all of them. Intervals resample whole
groups, all three together. Where the ceiling is not clearly above weak there is no gap, and no PGR.
"""

import math
from collections.abc import Sequence

import numpy as np

from univar_jax.cli import UserError
from univar_jax.statistics import moves, resamples
from univar_jax.statistics.predictions import HARD, SOFT, Predicted, Table, vote

HOLDS, FAILS, NOT_SHOWN = "holds", "does not hold: below its teacher", "not shown"
NO_GAP = "the ceiling is not above weak"

BySeed = dict[str, Predicted]


def measure(table: Table, seed: int) -> dict:
    """Every model's accuracy and every student's PGR; keys as transfer.json's `pgr`.

    Raises:
      UserError: no weak model, no student, or no ceiling of a student's name; seeds that do not match.
    """
    weak = {name: of for (role, name, _), of in table.models.items() if role == "weak"}
    ceilings = {name: of for (role, name, _), of in table.models.items() if role == "ceiling"}
    students = {(name, by, None): of for (role, name, by), of in table.models.items() if role == "student"}
    if not (weak and students):
        raise UserError(f"--predictions: {len(weak)} weak models and {len(students)} students; give one of each")
    if missing := sorted({name for name, _, _ in students} - set(ceilings)):
        raise UserError(f"--predictions: student {missing[0]!r} has no ceiling; give rows of role ceiling by its name")
    ties: dict[str, int] = {}
    teachers = weak | _votes(weak, ties, "weak") if len(weak) > 1 else dict(weak)
    if unknown := sorted({by for _, by, _ in students} - set(teachers)):
        raise UserError(f"--predictions: {unknown[0]!r} needs several weak models, for a soft one with probabilities")
    for name in ceilings:
        single = {by: of for (who, by, _), of in students.items() if who == name and by in weak}
        if len(single) > 1:
            students |= {(name, how, how): of for how, of in _votes(single, ties, f"students {name}").items()}
    accuracies = [_accuracy(table, "weak", name, of, seed) for name, of in teachers.items()]
    accuracies += [_accuracy(table, "ceiling", name, of, seed) for name, of in ceilings.items()]
    found = []
    for (name, by, ensemble), of in students.items():
        about = {"name": name, "taught_by": by, "ensemble": ensemble}
        found.append(about | recovered(table, teachers[by], of, ceilings[name], f"{name} by {by}", seed))
    groups = resamples.groups_of(table.groups_m)
    out = {"items": len(table.truth_m), "left_out": table.left_out, "groups": groups, "classes": table.classes}
    out |= {"few_clusters": groups < resamples.FEW_GROUPS, "chance": 1 / len(table.classes), "ties": ties}
    return out | {"accuracies": accuracies, "students": found}


def recovered(table: Table, weak: BySeed, student: BySeed, ceiling: BySeed, what: str, seed: int) -> dict:
    """The PGR of one student, or why there is none; keys as transfer.json's `pgr.students`."""
    seeds = sorted(student)
    three = [_seeds(of, seeds, what) for of in (weak, student, ceiling)]
    right_3sm = np.array([[of.label_m == table.truth_m for of in model] for model in three], float)
    weak_m, student_m, ceiling_m = right_3sm.mean(1)
    groups_m, groups = table.groups_m, resamples.groups_of(table.groups_m)
    gain, gap = (resamples.paired(of_m, weak_m, groups_m, seed) for of_m in (student_m, ceiling_m))
    acc_3s = right_3sm.mean(2)
    out = dict(zip(("weak", "student", "ceiling"), acc_3s.mean(1).tolist(), strict=True))
    out |= {"student_ci": resamples.interval(student_m, groups_m, seed), "gain": gain, "gap": gap}
    out |= {"pgr": None, "ci": None, "by_seed": {}, "no_pgr": None, "groups_needed": None, "seeds": len(seeds)}
    if groups < moves.MIN_GROUPS:
        few = {"verdict": moves.NOT_ENOUGH, "no_pgr": moves.NOT_ENOUGH}
        return out | few | {"groups_needed": moves.MIN_GROUPS}
    out["verdict"] = {"above": HOLDS, "below": FAILS}.get(gain["verdict"], NOT_SHOWN)
    if gap["verdict"] != "above":
        needed = moves.groups_needed(groups, gap["difference"], gap["ci"][0], 0.0)
        return out | {"no_pgr": NO_GAP, "groups_needed": needed}
    ratio = resamples.paired_ratio(student_m - weak_m, ceiling_m - weak_m, groups_m, seed)
    for name, (w, s, c) in zip(seeds, acc_3s.T.tolist(), strict=True):
        out["by_seed"][name] = (s - w) / (c - w) if not math.isclose(c, w) else None
    return out | {"pgr": ratio["ratio"], "ci": ratio["ci"]}


def _votes(models: dict[str, BySeed], ties: dict[str, int], what: str) -> dict[str, BySeed]:
    """The soft and the hard vote of some models, seed by seed; no soft one where probabilities are missing."""
    seeds = sorted(max(models.values(), key=len))
    chosen = {seed: [_seeds(of, [seed], what)[0] for of in models.values()] for seed in seeds}
    out = {}
    for how in (SOFT, HARD):
        if how == SOFT and any(of.p_mc is None for said in chosen.values() for of in said):
            continue
        made = {seed: vote(said, how) for seed, said in chosen.items()}
        ties[f"{what}: {how}"] = sum(tied for _, tied in made.values())
        out[how] = {seed: of for seed, (of, _) in made.items()}
    return out


def _seeds(of: BySeed, seeds: Sequence[str], what: str) -> list[Predicted]:
    """A model's predictions at some seeds; one that has a single seed has it for all."""
    if len(of) == 1:
        return list(of.values()) * len(seeds)
    if missing := sorted(set(seeds) - set(of)):
        raise UserError(f"--predictions: {what}: seed {missing[0]!r} is not there of all; there are {', '.join(of)}")
    return [of[seed] for seed in seeds]


def _accuracy(table: Table, role: str, name: str, of: BySeed, seed: int) -> dict:
    right_sm = np.array([said.label_m == table.truth_m for said in of.values()], float)
    by_seed = dict(zip(of, right_sm.mean(1).tolist(), strict=True))
    ci = resamples.interval(right_sm.mean(0), table.groups_m, seed)
    return {"role": role, "name": name, "acc": float(right_sm.mean()), "acc_ci": ci, "by_seed": by_seed}
