"""The shards of prepare made by an Apache Beam pipeline (extra [beam]) instead of this machine's processes."""

import importlib.util
from collections.abc import Iterator, Sequence

from univar_jax import files
from univar_jax.cli import UserError
from univar_jax.dataset import pairs
from univar_jax.encoders.tokens import Tokens

RUNNERS = ("DirectRunner", "DataflowRunner", "SparkRunner", "FlinkRunner")


def check(runner: str, out: str) -> None:
    """Finds, before anything is written, that a pipeline can run.

    Raises:
      UserError: no Beam, a runner that is not known, or an OUT on this disk that Dataflow's machines cannot see.
    """
    if runner not in RUNNERS:
        raise UserError(f"--runner={runner} is not known; use {', '.join(RUNNERS)}")
    if importlib.util.find_spec("apache_beam") is None:
        raise UserError(f"--runner={runner} needs apache_beam; pip install 'univar_jax[beam]' into a venv of its own")
    if runner == "DataflowRunner" and not files.remote(out):
        raise UserError(f"--runner={runner}: --out={out} is on this machine's disk; give one on gs://")


def make_shards(work: pairs.Work, jobs: list[pairs.Job], runner: str, options: Sequence[str]) -> list[dict]:
    """Makes shards on the runner's machines.

    Args:
      work: its folders are seen by all machines.
      jobs: a shard each.
      runner: one of RUNNERS.
      options: Beam's own flags, for example --project=P.

    Returns:
      What pairs.write_shard gave, in the order of jobs.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    class Write(beam.DoFn):
        """Holds the tokens of the work, read once a worker."""

        def setup(self) -> None:
            self.tokens = Tokens.load(work.parts)

        def process(self, job: pairs.Job) -> Iterator[str]:
            yield pairs.write_shard(work, self.tokens, job)["file"]

    with beam.Pipeline(runner=runner, options=PipelineOptions(list(options))) as pipeline:
        _ = pipeline | beam.Create(jobs) | beam.Reshuffle() | beam.ParDo(Write())
    # Each shard's facts lie beside the tokens; a shard that is not there is made here, and raises what went wrong.
    tokens = Tokens.load(work.parts)
    return [pairs.write_shard(work, tokens, job) for job in jobs]
