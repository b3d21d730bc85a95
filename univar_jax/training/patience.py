"""When a run has learnt all it will: decided by its scores so far alone, so that a resumed run decides the same."""

from collections.abc import Sequence

from univar_jax import files
from univar_jax.training import hosts, logs

SCORE = "eval/knn"


def known(workdir: str, step: int) -> list[float]:
    """The scores of RUN's evaluations up to a step, as metrics.jsonl has them."""
    lines = logs.lines(files.place(workdir, "workdir"))
    return [line[SCORE] for line in lines if line["step"] <= step and SCORE in line]


def over(scores: Sequence[float], patience: int) -> bool:
    """Whether none of the last `patience` scores is above the best one before them; never where patience is 0."""
    return 0 < patience < len(scores) and max(scores[-patience:]) <= max(scores[:-patience])


def ended(workdir: str, step: int, total: int, patience: int) -> bool:
    """Whether patience has ended at this step of RUN, which is said."""
    if not over(known(workdir, step), patience):
        return False
    why = f"no better {SCORE} in {patience} evaluations; a larger --config.patience goes on"
    hosts.say(f"{workdir} is finished after step {step} of {total}: {why}")
    return True
