"""Questions → answers of any model behind an OpenAI-compatible server, as a QA file.

Questions may be paraphrased before, questions and answers translated after; the folder DIR is described in `elicited`.
The key comes from OPENAI_API_KEY alone, that of a helper at another address from HELPER_API_KEY.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
from urllib.parse import urlsplit

from absl import flags

from univar_jax import cli
from univar_jax.cli import UserError

with cli.extra("elicit"):
    from univar_jax.asking import ask, bank, client, elicited, estimate, languages
    from univar_jax.asking.client import Limits, Server
    from univar_jax.asking.journal import Journal
    from univar_jax.asking.prompts import Asking
    from univar_jax.asking.work import Work
    from univar_jax.config import digest


@dataclasses.dataclass(frozen=True)
class Access:
    """Where and how fast; changes no answer's request.

    Attributes:
      base_url: of the server.
      helper_base_url: of the helper's; "" = the same.
      limits: of both.
      check_model: whether a model that the server does not list is an error.
    """

    base_url: str
    helper_base_url: str = ""
    limits: Limits = dataclasses.field(default_factory=Limits)
    check_model: bool = True


def elicit(
    work: Work,
    access: Access,
    out: str,
    settings: dict,
    *,
    prices: tuple[float | None, float | None] = (None, None),
    dry_run: bool = False,
    allow_missing: bool = False,
) -> None:
    """Asks what is not answered yet, and writes the QA file once all is.

    Args:
      work: what is asked.
      access: where.
      out: DIR, on a disk.
      settings: what makes the answers what they are, as work.settings gives them, with `dataset`.
      prices: of a million tokens in and out; None = not known.
      dry_run: say what there is to ask and stop; neither a file nor a server is touched.
      allow_missing: write the QA file without the requests that failed.

    Raises:
      UserError: for what the user can mend; answers that came are in the journal by then.
    """
    place = elicited.Place(elicited.folder(out), work.asking.model)
    if elicited.finished(place, settings):
        return
    journal = Journal(place.journal)
    helper = work.asking.helper_model or access.helper_base_url
    print(f"model     {work.asking.model} at {client.shown(access.base_url)}", flush=True)
    estimate.say(estimate.bill(work, journal, access.limits), work, prices, helper)
    if dry_run:
        return
    failures = ask.Failures()
    with journal.writing(settings):
        try:
            asyncio.run(_ask(work, access, journal, failures))
        except (client.Stopped, asyncio.CancelledError) as error:
            raise UserError(
                f"stopped by a signal; {len(journal):,} answers are in {place.journal}; the same command goes on"
            ) from error
        if failures and not allow_missing:
            raise UserError(
                f"{failures.total():,} requests failed, {failures.most()}; {len(journal):,} answers are in "
                f"{place.journal}; the same command asks only what is missing, --allow_missing does without"
            )
        addresses = {"base_url": access.base_url, "helper_base_url": access.helper_base_url}
        elicited.write(place, work, journal, settings, {k: client.shown(v) for k, v in addresses.items()})


async def _ask(work: Work, access: Access, journal: Journal, failures: ask.Failures) -> None:
    """All steps: each needs what the one before it wrote."""
    stop, limits, asking = asyncio.Event(), access.limits, work.asking
    ask.stop_by_signal(stop)
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    model = helper = Server(access.base_url, key, limits, stop)
    if access.helper_base_url:
        there = [urlsplit(url)[:2] for url in (access.base_url, access.helper_base_url)]
        if there[0] != there[1]:  # one provider's key is no other's business
            key = os.environ.get("HELPER_API_KEY", "").strip()
        helper = Server(access.helper_base_url, key, limits, stop, "helper_base_url")
    async with contextlib.AsyncExitStack() as stack:
        for one in dict.fromkeys((model, helper)):
            stack.push_async_callback(one.close)

        async def step(by: Server, requests: list) -> None:
            await ask.ask_all(by, requests, journal, limits.concurrency, failures)

        await model.check(asking.model, anyway=not access.check_model)
        if asking.paraphrase or (asking.translate_to and not asking.translate_command):
            await helper.check(asking.helper_model or asking.model, anyway=not access.check_model)
        await step(helper, work.paraphrases())
        await step(model, [answer.request for answer in work.answers(journal)])
        if asking.translate_command:
            await ask.by_command(work.translations(journal), journal)
        else:
            await step(helper, work.translations(journal))


def _work(f: flags.FlagValues) -> tuple[Work, dict]:
    """What the flags ask for, and all that makes its answers what they are."""
    langs, values = (sorted(set(filter(None, map(str.strip, f[name].value or [])))) for name in ("lang", "values"))
    questions = bank.read(f.questions, langs, values, f.questions_per_value)
    personas = bank.personas(f.personas)
    try:
        extra = json.loads(f.extra_body)
    except ValueError as error:
        raise UserError(f"--extra_body={f.extra_body}: no JSON ({error})") from error
    if not isinstance(extra, dict) or {"model", "messages", "stream", "n"} & set(extra):
        raise UserError(f"--extra_body={f.extra_body} should be a JSON object without model, messages, stream and n")
    names = [field.name for field in dataclasses.fields(Asking) if field.name != "extra_body"]
    asking = Asking(**{name: f[name].value for name in names}, extra_body=extra)
    work = Work(asking, questions, personas)
    settings = work.settings(
        questions=questions.sha256,
        lang=langs,
        values=values,
        questions_per_value=f.questions_per_value,
        personas=digest(list(personas.items())) if f.personas else "",
        dataset=f.dataset or questions.name,
    )
    return work, json.loads(json.dumps(settings))


def _main(f: flags.FlagValues) -> None:
    cli.require(f, "model", "base_url", "out")
    limits = Limits(**{field.name: f[field.name].value for field in dataclasses.fields(Limits)})
    access = Access(f.base_url, f.helper_base_url, limits, f.check_model)
    if f.translate_command and (f.helper_base_url or f.helper_model) and not f.paraphrase:
        raise UserError("--translate_command translates, so that there is nothing for a helper; leave one of them out")
    if f.translate_to and not languages.known(f.translate_to):
        raise UserError(f"--translate_to={f.translate_to} is no language that is known; give ISO 639-3, as eng")
    work, settings = _work(f)
    prices = (f.price_in, f.price_out)
    elicit(work, access, f.out, settings, prices=prices, dry_run=f.dry_run, allow_missing=f.allow_missing)


if __name__ == "__main__":
    text, number, real = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    text("questions", "", "Question file: question_id, lang, question and more; default: the package's own bank.")
    flags.DEFINE_list("lang", [], "Languages to ask in; default: all of the question file.")
    flags.DEFINE_list("values", [], "Values to ask about; default: all of the question file.")
    number("questions_per_value", 0, "Of each value the first so many questions; 0 = all.", lower_bound=0)
    text("model", None, "The model, as the server calls it.")
    text("base_url", None, "The server's address up to /v1, without /chat/completions.")
    text("out", None, "The folder DIR; it may hold several models.")
    text("dataset", "", "Column dataset of the answers; default: the question file's name.")
    text("personas", "", "Persona file: persona, prompt; the prompt is the system message.")
    text("system", "", "System message; stands before a persona's.")
    number("samples", 1, "Answers to each question.", lower_bound=1)
    number("seed", 0, "Of the requests' seeds.", lower_bound=0)
    real("temperature", 0.7, "Of the answers.", lower_bound=0)
    real("top_p", 1.0, "Of the answers.", lower_bound=0, upper_bound=1)
    number("max_new_tokens", 512, "The most tokens of an answer; sent as max_tokens.", lower_bound=1)
    text("extra_body", "{}", "Further keys of an answer's request as JSON; null takes one out.")
    number("paraphrase", 0, "Further wordings of each question, written by the helper.", lower_bound=0)
    text("translate_to", "", "Language (ISO 639-3) that questions and answers are translated into.")
    text("helper_model", "", "Model that paraphrases and translates; default: --model.")
    text("helper_base_url", "", "Its server; default: --base_url. Its key at another address: HELPER_API_KEY.")
    text("translate_command", "", 'Translates instead: reads lines {"text", "from", "to"}, writes lines {"text"}.')
    number("concurrency", 16, "Requests under way at a time.", lower_bound=1)
    real("requests_per_minute", 0, "The most that are sent in a minute; 0 = no limit.", lower_bound=0)
    number("retries", 6, "Of a request, after its first try.", lower_bound=0)
    real("timeout", 600, "Seconds a request may take.", lower_bound=0.01)
    real("backoff", 1, "Seconds before the first retry; doubled for each next one.", lower_bound=0)
    real("price_in", None, "Price of a million prompt tokens, in any currency.", lower_bound=0)
    real("price_out", None, "Price of a million answered tokens.", lower_bound=0)
    flags.DEFINE_bool("check_model", True, "Whether a model that the server does not list is an error.")
    flags.DEFINE_bool("dry_run", False, "Say what there is to ask and what it costs, and stop.")
    flags.DEFINE_bool("allow_missing", False, "Write the QA file without the requests that failed.")
    cli.run(_main)
