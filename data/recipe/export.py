"""Write the trained models as ordinary Hugging Face folders: `python export.py NAME`.

Weights are stored as float16; load them with dtype=torch.float32. A folder that is no
older than the training it comes from is left as it is.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from lineup import RECIPES
from paths import BUILD, CHECKPOINTS, fresh
from torch import nn
from trained import trained_model
from transformers import AutoModel, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor
from zoo import VOCABULARY


def export(name: str, folder: Path, step: int | None = None) -> None:
    """Write one model, or what it was at a step that is kept; the folder appears only when it is complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model = trained_model(name, step)
    model.half().save_pretrained(partial)
    _preprocessor(name).save_pretrained(partial)
    if RECIPES[name].ctc:
        _tokenizer(partial)
    (partial / "model.safetensors").chmod(0o644)
    verify(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def _preprocessor(name: str) -> Wav2Vec2FeatureExtractor:
    # As the public ones: a mask goes with layer-norm extractors only.
    return Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=16_000,
        padding_value=0.0,
        do_normalize=True,
        return_attention_mask=RECIPES[name].size == "large",
    )


def _tokenizer(folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"),
        pad_token="<pad>",
        unk_token="<pad>",
        bos_token=None,
        eos_token=None,
        word_delimiter_token="|",
        do_lower_case=False,
    ).save_pretrained(folder)


def verify(folder: Path) -> None:
    """Refuse a folder that does not load whole."""
    _, info = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    missing = {key for key in info["missing_keys"] if "masked_spec_embed" not in key}
    if missing or info["mismatched_keys"]:
        raise ValueError(f"{folder} does not load whole: missing {missing}, mismatched {info['mismatched_keys']}")
    Wav2Vec2FeatureExtractor.from_pretrained(folder)
    if (folder / "vocab.json").exists():
        Wav2Vec2Processor.from_pretrained(folder)


def loaded(name: str) -> nn.Module:
    """Return the encoder as a user gets it: from the folder, in float32."""
    return AutoModel.from_pretrained(CHECKPOINTS / name, dtype=torch.float32).eval()


if __name__ == "__main__":
    CHECKPOINTS.mkdir(exist_ok=True)
    model = sys.argv[1]
    for step in (None, *RECIPES[model].kept):
        shipped = CHECKPOINTS / (model if step is None else f"{model}-{step}")
        if not fresh(shipped / "model.safetensors", BUILD / "runs" / model / "done"):
            export(model, shipped, step)
