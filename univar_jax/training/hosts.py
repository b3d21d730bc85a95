"""The processes of a run: how they find one another, who speaks, who is late, and how all stop at the same step."""

import importlib.util
import os
import signal
import socket
import threading
from pathlib import Path
from types import FrameType

import jax
from absl import flags
from jax._src import distributed  # the only way to the coordinator's keys and barriers; Orbax takes it, too
from jax.experimental import multihost_utils

from univar_jax import cli
from univar_jax.cli import UserError

_HOSTS = "univar/hosts/"
LATE = 600  # seconds that processes wait for one another


def define_flags() -> None:
    """Flags of a stage that may be many processes; without them the cluster is asked."""
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where no cluster says it.")
    flags.DEFINE_integer("num_processes", None, "Processes of the run, where no cluster says it.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0, where no cluster says it.", lower_bound=0)


def join(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins the run's other processes, if there are any; before jax is asked for devices.

    Given nothing: the processes of a SLURM job step, of a GKE or Cloud TPU slice, or those that
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name.

    Raises:
      UserError: some flags without the others, or a process that did not come in time.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise UserError(
            f"{', '.join(missing)} missing: many processes need --coordinator, --num_processes, --process_id"
        )
    if missing:
        found = _found()
        if found is None:
            return
    else:
        found = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
        if process_id >= num_processes:
            raise UserError(f"--process_id={process_id} is not below --num_processes={num_processes}; count from 0")
    try:
        jax.distributed.initialize(**found, initialization_timeout=LATE)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the run's processes did not find one another: {cli.one_line(error)[:200]}") from error
    _client().key_value_set(f"{_HOSTS}{jax.process_index()}", socket.gethostname())


def _found() -> dict | None:
    """What the environment says of other processes, as arguments of jax.distributed.initialize; None = one process."""
    env = os.environ
    if "JAX_COORDINATOR_ADDRESS" in env:
        names = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
        return {key: int(env[name]) for key, name in names.items() if name in env}
    if "SLURM_PROCID" in env:
        # By step: a job of many tasks may still start a stage once, by srun --ntasks=1 or in its batch script.
        return {} if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1 else None
    names = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES") or ""
    if "," in names or "MEGASCALE_COORDINATOR_ADDRESS" in env:
        return {}
    # A plain TPU VM: only its metadata server knows whether it is one of many, and jax asks it.
    chips = importlib.util.find_spec("libtpu") and (Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists())
    return {} if chips and env.get("JAX_PLATFORMS", "tpu") != "cpu" else None


def speaks() -> bool:
    """Whether this process is the one that prints and writes files."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line, once for all processes."""
    if speaks():
        print(text, flush=True)


def names() -> list[str]:
    """The processes' hosts, by process number."""
    if jax.process_count() == 1:
        return [socket.gethostname()]
    return [_client().blocking_key_value_get(f"{_HOSTS}{n}", LATE * 1000) for n in range(jax.process_count())]


def meet(place: str, seconds: float = LATE) -> None:
    """Waits until all processes are here.

    Args:
      place: a name that the run uses once.
      seconds: to wait at most.

    Raises:
      UserError: naming the hosts that did not come.
    """
    count = jax.process_count()
    if count == 1:
        return
    here = f"univar/{place}/"
    _client().key_value_set(f"{here}{jax.process_index()}", "")
    try:
        _client().wait_at_barrier(here, int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        came = {int(key.rsplit("/", 1)[1]) for key, _ in _client().key_value_dir_get(here)}
        late = [f"{name} (process {n})" for n, name in enumerate(names()) if n not in came]
        if not late:
            raise UserError(f"the processes did not meet at '{place}': {cli.one_line(error)[:200]}") from error
        raise UserError(
            f"{', '.join(late)} did not come to '{place}' within {seconds:g} s; see what that process says, "
            "and start all of them again: the run goes on from its last checkpoint"
        ) from error


def _client() -> object:
    return distributed.global_state.client


class Stop:
    """A scheduler's wish that the run end (SIGTERM to any of its processes), to be asked for after each step."""

    def __enter__(self) -> "Stop":
        self._wanted, self._old = False, None
        # With many processes jax's own service hears the signal and tells the others.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGTERM, self._hear)
        return self

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._wanted = True

    def __exit__(self, *_: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGTERM, self._old)

    def wanted(self, step: int) -> bool:
        """Whether to save and end now; the same answer in all processes, which all ask after each step."""
        if jax.process_count() == 1:
            return self._wanted
        return multihost_utils.reached_preemption_sync_point(step)


def hear_no_more() -> None:
    """Ignores SIGTERM while the process ends, which takes seconds: all is saved, so it is to end with 0."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def agreed(value: bool) -> bool:
    """Process 0's answer, in all processes, which all ask; costs nothing where there is one."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(value))
