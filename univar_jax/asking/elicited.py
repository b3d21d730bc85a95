"""The folder DIR that elicit fills.

For each model a journal (journal/NAME.jsonl, one line an answer as it came), and once all are there the QA file
(qa/NAME.csv); manifest.json, written last, says of each model what it was asked with and what came back. A "/" in a
model's name is "__" in file names.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

from univar_jax import __version__, files
from univar_jax.asking import answered
from univar_jax.asking.journal import Journal, alone
from univar_jax.asking.work import Work
from univar_jax.cli import UserError

_MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Place:
    """A model's files in DIR."""

    folder: Path
    model: str

    @property
    def journal(self) -> Path:
        """One line an answer."""
        return self.folder / "journal" / f"{self.model.replace('/', '__')}.jsonl"

    @property
    def qa(self) -> Path:
        """The QA file."""
        return self.folder / "qa" / f"{self.model.replace('/', '__')}.csv"

    def manifest(self) -> dict:
        """What manifest.json says of all models."""
        path = self.folder / _MANIFEST
        try:
            found = json.loads(path.read_text("utf-8")) if path.exists() else {"models": {}}
            return {"models": dict(found["models"])}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no manifest of elicit's; move it away and run again") from error


def write(place: Place, work: Work, journal: Journal, settings: dict, addresses: dict[str, str]) -> None:
    """Writes the QA file and the model's entry of manifest.json, and says what came back.

    Args:
      place: of the model in DIR.
      work: what was asked.
      journal: what was answered.
      settings: that made the answers what they are.
      addresses: of the servers, without credentials; for the manifest.

    Raises:
      UserError: there is no answer, or another QA file where this one should be.
    """
    table = answered.rows(work, journal, settings["dataset"])
    if not table:
        raise UserError("no request was answered, so there is no QA file to write")
    counts = answered.counts(work, journal, table)
    data = answered.as_csv(table, bool(work.asking.translate_to))
    entry = place.manifest()["models"].get(place.model)
    if place.qa.exists() and place.qa.read_bytes() != data and not (entry and _wrote(place, entry)):
        raise UserError(f"{place.qa} is not what elicit wrote; move it away, and the same command writes its own")
    place.qa.parent.mkdir(exist_ok=True)
    for leftover in files.leftovers(place.qa.parent, place.qa.name):  # of a killed one; the journal's lock is ours
        leftover.unlink(missing_ok=True)
    files.write(place.qa, data)
    entry = {
        "settings": settings,
        **addresses,
        "counts": counts,
        "qa": {"file": f"qa/{place.qa.name}", "rows": len(table), "sha256": hashlib.sha256(data).hexdigest()},
        "version": __version__,
    }
    with alone(place.folder / "journal"):  # another model's elicit may be at its end too
        manifest = place.manifest()
        manifest["models"][place.model] = entry
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        files.write(place.folder / _MANIFEST, text.encode())
    for name in sorted(set(counts["reported"]) - {place.model}):
        print(f"note      {counts['reported'][name]:,} answers came under the name {name!r}", flush=True)
    words = ("asked", "answered", "retried", "lost", "empty", "refused", "truncated", "wrong_language")
    print("          " + ", ".join(f"{word.replace('_', ' ')} {counts[word]:,}" for word in words))
    print(f"wrote     {place.qa}: {len(table):,} answers", flush=True)


def folder(out: str) -> Path:
    """DIR; UserError where it is in a bucket, or holds what elicit did not write."""
    path = files.place(out, "out")
    if files.remote(path):
        raise UserError(f"--out={out} is in a bucket, where no journal can be appended to; give a folder on a disk")
    ours = {"journal", "qa", _MANIFEST}
    if path.exists() and (not path.is_dir() or {p.name for p in path.iterdir() if p.name[0] != "."} - ours):
        raise UserError(f"--out={path} exists and is no folder of elicit's; give another one")
    return Path(path)


def finished(place: Place, settings: dict) -> bool:
    """Whether the QA file is there, whole and made with these settings.

    Raises:
      UserError: the model was asked with other settings, or its QA file is not what elicit wrote.
    """
    entry = place.manifest()["models"].get(place.model)
    begun = Journal(place.journal)
    made = entry["settings"] if entry else begun.settings if begun.records else None
    if made is not None and made != settings:
        told = ", ".join(
            f"--{key}={str(settings.get(key))[:40]} was {str(made.get(key))[:40]}"
            for key in sorted(made | settings)
            if made.get(key) != settings.get(key)
        )
        raise UserError(f"--out={place.folder} holds {place.model} asked otherwise ({told}); give another --out")
    if not place.qa.exists():
        return False
    if not place.journal.exists():
        raise UserError(f"{place.qa} is there without {place.journal}, which it would be made of; give another --out")
    if not entry or not _wrote(place, entry) or entry["counts"]["asked"] > entry["counts"]["answered"]:
        return False  # killed before the manifest, or by --allow_missing; what is missing may come now
    print(f"{place.qa} is finished and the same: {entry['qa']['rows']:,} answers", flush=True)
    return True


def _wrote(place: Place, entry: dict) -> bool:
    return hashlib.sha256(place.qa.read_bytes()).hexdigest() == entry["qa"]["sha256"]
