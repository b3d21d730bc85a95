"""What lies in a sentence-transformers folder around the encoder, read and written: pooling, unit norm, lengths."""

import json
from pathlib import Path

from etils import epath

from univar_jax.cli import UserError, one_line
from univar_jax.encoders.hfconfig import read_json, unknown

# Where sentence-transformers 2 to 5 say what a folder is made of; version 6 writes other names and reads both.
_KINDS = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
# Its switches of the older form, by the words of the newer.
_SWITCH = "pooling_mode_"
_SWITCHES = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "mean_sqrt_len": "mean_sqrt_len_tokens"}
_POOLINGS = ("mean", "cls")


def pooling(folder: epath.Path) -> str:
    """How the folder makes one vector of a text's states: mean (also where it does not say) or cls.

    Raises:
      UserError: another pooling, a module beside pooling and norm, or a prompt put before every text.
    """
    folder = epath.Path(folder)
    where = _KINDS["Pooling"]
    if (listed := folder / "modules.json").exists():
        for kind, path in _listed(listed):
            if kind not in _KINDS:
                raise unknown(listed, "type", kind, _KINDS)
            where = path if kind == "Pooling" else where
    settings = folder / "config_sentence_transformers.json"
    if settings.exists() and (prompt := read_json(settings).get("default_prompt_name")):
        raise unknown(settings, "default_prompt_name", prompt, ["null, and texts that have their prompt in them"])
    path = folder / where / "config.json"
    if not path.exists():
        return "mean"
    given = read_json(path)
    by_switch = {switch: word for word, switch in _SWITCHES.items()}
    on = [k.removeprefix(_SWITCH) for k, v in given.items() if k.startswith(_SWITCH) and v]
    modes = given.get(_SWITCH[:-1]) or [by_switch.get(switch, switch) for switch in on] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) > 1 or modes[0] not in _POOLINGS:
        raise unknown(path, _SWITCH[:-1], "+".join(modes), _POOLINGS)
    return modes[0]


def _listed(path: epath.Path) -> list[tuple[str, str]]:
    """The modules of modules.json: last word of the type, folder."""
    try:
        return [(str(m["type"]).rsplit(".", 1)[-1], str(m.get("path", ""))) for m in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is no list of modules ({one_line(error)}); fetch the file again") from error


def lower_cases(folder: epath.Path) -> bool:
    """Whether sentence-transformers would turn texts into small letters before the tokenizer."""
    path = epath.Path(folder) / "sentence_bert_config.json"
    return path.exists() and bool(read_json(path).get("do_lower_case"))


def write(folder: Path, pooling: str, width: int, positions: int, version: str) -> None:
    """Makes a folder with an encoder in it a sentence-transformers folder: pooling, unit norm, full length.

    Args:
      folder: local.
      pooling: mean or cls.
      width: of a vector.
      positions: the encoder's longest text in tokens.
      version: ours.
    """
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(_KINDS.items())
    ]
    write_json(folder / "modules.json", modules)
    switches = {_SWITCH + switch: word == pooling for word, switch in _SWITCHES.items()}
    write_json(folder / _KINDS["Pooling"] / "config.json", {"word_embedding_dimension": width} | switches)
    write_json(folder / _KINDS["Normalize"] / "config.json", {})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": positions, "do_lower_case": False})
    settings = {"__version__": {"univar_jax": version}, "prompts": {}, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", settings)


def write_json(path: Path, values: object) -> None:
    """Writes JSON for people to read."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
