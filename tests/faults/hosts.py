"""Two processes beside one: how far the losses of a run are apart."""

import numpy as np

from tests.faults import place as places
from tests.faults.place import Place

STEPS = 8
LIMIT = 1e-5
# Both are compiled the same, in half the time: of a run of eight steps that is most.
_XLA = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def measure(place: Place) -> list[float]:
    """Trains over two processes of four devices and over one of eight.

    Returns:
      How far the two losses of each step are apart.
    """
    losses = []
    for processes, words in ((2, []), (1, ["--config.mesh_fsdp=1"])):
        workdir = place.fresh(f"processes-{processes}")
        few = [f"--config.steps={STEPS}", "--config.save_every_steps=0"]
        places.wait(place.train(workdir, *few, *words, devices=8 // processes, processes=processes, xla=_XLA))
        found = list(places.lines(workdir))
        if [line["step"] for line in found] != list(range(1, STEPS + 1)):
            raise SystemExit(f"{workdir}: metrics.jsonl has not each of {STEPS} steps once")
        losses.append([line["loss"] for line in found])
    return np.abs(np.subtract(*losses)).tolist()
