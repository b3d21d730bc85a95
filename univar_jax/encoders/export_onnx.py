"""An exported folder → onnx/model.onnx in it, made through torch; and its vectors by onnxruntime alone."""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from univar_jax.cli import UserError, one_line
from univar_jax.encoders import models

# Where sentence-transformers' ONNX backend and transformers.js look.
_MODEL, _DATA = Path("onnx", "model.onnx"), "model.onnx_data"
_ONE_FILE = 2_000_000_000  # bytes of tensors: protobuf's limit is 2 GiB, and the graph wants some too
_SLOTS = 8192  # tokens of a batch, padding included: attention wants memory for their number times the length


def installed() -> bool:
    """Whether onnx, onnxscript and onnxruntime are there; none is imported."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


def write(folder: Path) -> None:
    """Writes folder/onnx/model.onnx, the same bytes each time; above 2 GB the tensors lie in model.onnx_data beside it.

    Inputs: input_ids and attention_mask, int64 [batch, tokens], padded on the right. Outputs: last_hidden_state and
    sentence_embedding, float32 [batch, tokens, width] and [batch, width], this pooled as 1_Pooling says, of unit norm.

    Raises:
      UserError: the extra [onnx] is not installed; `models.read_config` or transformers refuse the folder.
    """
    if not installed():
        raise UserError("ONNX needs packages that are not installed: pip install 'univar_jax[onnx]'")
    import onnx_ir

    config = models.read_config(epath.Path(folder))
    with _quiet():
        model = _trace(_load(Path(folder)), config)
    onnx_ir.passes.common.ClearMetadataAndDocStringPass()(model)  # stack traces, with this machine's paths
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    path = Path(folder) / _MODEL
    path.parent.mkdir(exist_ok=True)
    path.with_name(_DATA).unlink(missing_ok=True)  # an earlier model's
    onnx_ir.save(model, path, external_data=_DATA if size > _ONE_FILE else None)


def _load(folder: Path) -> Any:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        # Eager, MPNet's only one, masks by a large number, not by -inf: ModernBERT's windows of padding are no NaN.
        model, told = transformers.AutoModel.from_pretrained(
            folder, dtype="float32", local_files_only=True, attn_implementation="eager", output_loading_info=True
        )
    except Exception as error:  # each broken file has a kind of its own, some of them Rust's
        raise UserError(f"{folder} is not loaded by transformers ({one_line(error)}); export it again") from error
    # What is not in the file was made up at random; a pooler's output goes nowhere here.
    if missing := sorted(name for name in told["missing_keys"] if not name.startswith("pooler.")):
        raise UserError(f"{folder} lacks tensors ({len(missing)}, such as {missing[0]}); export it again")
    return model


def _trace(encoder: Any, config: models.EncoderConfig) -> Any:
    """The onnx_ir.Model of transformers' encoder, pooling and norm."""
    import torch

    class Embedder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            places = {"position_ids": attention_mask * (attention_mask.cumsum(1) - 1)} if config.stretch else {}
            hidden_rtd = self.encoder(input_ids, attention_mask=attention_mask, **places).last_hidden_state
            z_rd, real_rt1 = hidden_rtd[:, 0], attention_mask[:, :, None].to(hidden_rtd.dtype)
            if config.pooling == "mean":
                z_rd = (hidden_rtd * real_rt1).sum(1) / real_rt1.sum(1).clamp(min=1)
            return hidden_rtd, torch.nn.functional.normalize(z_rd, dim=1)

    if config.stretch:
        encoder.rotary_emb.forward = _stretched(encoder.config)
    # Two rows, one of them padded: an axis of 1 would be traced as always 1.
    mask_rt = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    return torch.onnx.export(
        Embedder().eval(),
        (torch.where(mask_rt == 1, config.vocab - 1, config.pad), mask_rt),
        input_names=["input_ids", "attention_mask"],
        output_names=["last_hidden_state", "sentence_embedding"],
        dynamic_shapes=({0: "batch", 1: "tokens"},) * 2,
        opset_version=18,  # what the exporter's ops are written in; fewer runtimes read the later ones
        verbose=False,
    ).model


def _stretched(config: Any) -> Callable:
    """NomicBERT's rotary angles by each text's own length, as in `places.stretched`."""
    # transformers' forward takes the longest text of the batch, behind an `if` on a tensor, which cannot be traced.
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    def forward(x: Any, position_ids: Any) -> tuple[Any, Any]:
        length_r11 = position_ids.amax(1)[:, None, None] + 1  # all padding has position 0
        frequency_r1k, scale = ROPE_INIT_FUNCTIONS["dynamic"](config, x.device, seq_len=length_r11)
        angle_rtk = (position_ids[:, :, None] * frequency_r1k).repeat(1, 1, 2)
        return angle_rtk.cos() * scale, angle_rtk.sin() * scale

    return forward


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter and transformers say on their way: stderr is for mistakes."""
    with contextlib.ExitStack() as after, warnings.catch_warnings(action="ignore"):
        after.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.WARNING)
        yield


def embed(folder: Path, texts: list[str]) -> np.ndarray:
    """Unit vectors of texts, float32 [texts, width], by onnxruntime on the CPU; texts are cut at the positions.

    Raises:
      UserError: onnxruntime or onnx/model.onnx is missing, or `models.read_config` refuses the folder.
    """
    path = Path(folder) / _MODEL
    if not path.exists() or not importlib.util.find_spec("onnxruntime"):
        raise UserError(f"{path} or onnxruntime is missing: pip install 'univar_jax[onnx]', export again with --onnx")
    import onnxruntime

    config, tokenizer = models.read_config(epath.Path(folder)), models.tokenizer(epath.Path(folder))
    tokenizer.enable_truncation(config.positions)  # keeps the mark at a text's end, as sentence-transformers does
    tokens = tokenizer.encode_batch(texts)
    (options := onnxruntime.SessionOptions()).log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    z_nd = np.zeros((len(texts), config.width), np.float32)
    rows = max(1, _SLOTS // max(map(len, tokens), default=1))
    for start in range(0, len(tokens), rows):
        batch = tokens[start : start + rows]
        for text in batch:
            text.pad(max(map(len, batch)), pad_id=config.pad)
        given = {"input_ids": [text.ids for text in batch], "attention_mask": [text.attention_mask for text in batch]}
        given = {name: np.array(values, np.int64) for name, values in given.items()}
        z_nd[start : start + rows] = session.run(["sentence_embedding"], given)[0]
    return z_nd
