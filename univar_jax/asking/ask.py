"""Many requests at once: into the journal as they are answered, with what failed and the time left."""

import asyncio
import collections
import dataclasses
import json
import os
import shlex
import signal
import time
from collections.abc import Sequence

from univar_jax.asking.client import Failed, Server, Stopped
from univar_jax.asking.journal import Journal
from univar_jax.asking.prompts import Request
from univar_jax.cli import UserError

_SAY_EVERY = 10.0  # seconds


class Failures(collections.Counter):
    """How many requests failed by which kind of reason, and of each kind the first one's words."""

    def __init__(self) -> None:
        super().__init__()
        self.words: dict[str, str] = {}

    def note(self, why: str) -> None:
        """Counts one; its kind is what stands before the first colon, since the rest may hold numbers."""
        kind = why.partition(":")[0]
        self[kind] += 1
        self.words.setdefault(kind, why)

    def most(self) -> str:
        """The most frequent reason, in words."""
        (kind, count), *_ = self.most_common(1)
        return f"{count:,} of them: {self.words[kind]}"


async def ask_all(
    server: Server, requests: Sequence[Request], journal: Journal, concurrency: int, failures: Failures
) -> None:
    """Asks what the journal lacks; each answer is in it before anything else happens.

    Args:
      server: that is asked.
      requests: in the order in which they start.
      journal: open for writing.
      concurrency: requests under way at a time.
      failures: takes those that failed; they are in no journal, so that the next run asks them again.

    Raises:
      UserError: the server takes none of them, so many in a row failed that it must be down, or the disk is full.
      Stopped: server.stop was set. Either way what was under way is answered and in the journal.
    """
    missing = [request for request in requests if request.key not in journal.records]
    if not missing:
        return
    step = _Step(server, missing, journal, failures, patience=max(10, 2 * concurrency))
    teller = asyncio.create_task(step.tell())
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(missing))):
                group.create_task(step.work())
    finally:
        teller.cancel()
    if server.stop.is_set():
        raise step.fault or Stopped


class _Step:
    """Requests of one kind, of which several workers take the next one each."""

    def __init__(
        self, server: Server, missing: list[Request], journal: Journal, failures: Failures, patience: int
    ) -> None:
        self._server, self._missing, self._journal, self._failures = server, missing, journal, failures
        self._todo, self._began = iter(missing), time.monotonic()
        self._done = self._in_a_row = 0  # answered; failed since the last answer
        self._patience = patience
        self.fault: UserError | None = None

    async def work(self) -> None:
        """Asks one after another until there are no more, or the server's `stop` is set."""
        for request in self._todo:
            try:
                await self._ask(request)
            except Stopped:
                return
            except UserError as error:  # what the others have under way may be paid for: it is waited for
                self.fault = self.fault or error
                self._server.stop.set()
                return

    async def _ask(self, request: Request) -> None:
        try:
            reply = await self._server.ask(request.body, request.key)
        except Failed as failed:
            self._failures.note(str(failed))
            # A question too long for the model says nothing of the others, unless none was ever answered.
            self._in_a_row += failed.tried or not self._journal.records
            if self._in_a_row >= self._patience:
                raise UserError(
                    f"{self._in_a_row} requests in a row failed ({failed}); {len(self._journal):,} answers are in the "
                    "journal; mend that, and the same command goes on"
                ) from failed
            return
        self._journal.add(request.key, _record(request) | {"reply": dataclasses.asdict(reply)})
        self._done, self._in_a_row = self._done + 1, 0

    async def tell(self) -> None:
        """Prints a line now and then, for ever."""
        while True:
            await asyncio.sleep(_SAY_EVERY)
            done, count, passed = self._done, len(self._missing), time.monotonic() - self._began
            left = clock((count - done) * passed / done) if done else "unknown time"
            print(
                f"{self._missing[0].kind} {done:,}/{count:,}  {self._server.sent:,} sent  "
                f"{self._failures.total():,} failed  {done / passed:.1f}/s  {left} left",
                flush=True,
            )


async def by_command(requests: Sequence[Request], journal: Journal) -> None:
    """Has a command translate what the journal lacks: {"text", "from", "to"} a line in, {"text"} a line out.

    All lines are counted before any is taken: by one line too few every text would get its neighbour's translation.

    Raises:
      UserError: the command is not there, fails, or gives another number of lines or no such lines.
    """
    missing = [request for request in requests if request.key not in journal.records]
    if not missing:
        return
    command = missing[0].body["command"]
    lines = [json.dumps({"text": request.body["text"], **request.about}) for request in missing]
    # It gets no key, which it needs none of.
    env = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(*shlex.split(command), stdin=pipe, stdout=pipe, env=env)
    except (OSError, ValueError) as error:
        raise UserError(f"--translate_command={command}: {error}") from error
    try:
        output, _ = await process.communicate("".join(line + "\n" for line in lines).encode())
    finally:
        if process.returncode is None:  # the second signal
            process.kill()
    if process.returncode:
        raise UserError(f"--translate_command={command} ended with {process.returncode}; mend it and run again")
    try:
        texts = [json.loads(line)["text"] for line in output.decode().splitlines() if line.strip()]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'--translate_command={command} should write lines of {{"text": "…"}}') from error
    if len(texts) != len(missing):
        raise UserError(f"--translate_command={command} gave {len(texts)} lines for {len(missing)} texts")
    for request, text in zip(missing, texts, strict=True):
        journal.add(request.key, _record(request) | {"reply": {"text": text, "tries": 1}})


def stop_by_signal(stop: asyncio.Event) -> None:
    """SIGINT and SIGTERM let what is under way be answered and recorded; the second of them waits for nothing."""
    task = asyncio.current_task()

    def stopped() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()
        print("stopping when what is under way is answered; once more to leave it", flush=True)

    for word in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(word, stopped)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def _record(request: Request) -> dict:
    return {"kind": request.kind, "about": request.about, "request": request.body}
