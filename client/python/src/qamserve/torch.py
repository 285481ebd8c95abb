"""An artifact in PyTorch: its weights dequantized, so that transformers (or anything that takes a state dict) can run it.

    from qamserve.torch import load_model
    model = load_model("smollm2-5.5")          # a transformers model in float32

qamserve itself computes with the codes as they lie and rounds activations to 14 bits; logits differ by that and by the order
of float additions, some 1e-3.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Optional

import torch

from ._files import PathLike
from .artifact import ArtifactError, ArtifactReader

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ArtifactError", "load_artifact", "load_model"]


def load_artifact(folder: PathLike, dtype: Optional["torch.dtype"] = None) -> Dict[str, "torch.Tensor"]:
    """The state dict of the checkpoint that the artifact was made from, dequantized. `dtype`: of all tensors; None = float32.
    ArtifactError if the folder is no whole artifact."""
    state = {}
    for name, values in ArtifactReader(folder).items():
        tensor = torch.from_numpy(values)
        state[name] = tensor if dtype is None else tensor.to(dtype)
    return state


def load_model(folder: PathLike, dtype: Optional["torch.dtype"] = None, **config: Any) -> "PreTrainedModel":
    """A transformers model with the artifact's weights, in eval mode. Needs transformers; `config` replaces fields of its
    configuration."""
    from transformers import AutoConfig, AutoModelForCausalLM

    reader = ArtifactReader(folder)
    fields = reader.hf_config()
    settings = AutoConfig.for_model(fields.pop("model_type"), **{**fields, **config})
    model = AutoModelForCausalLM.from_config(settings, dtype=dtype or torch.float32)
    missing, unexpected = model.load_state_dict(load_artifact(folder, dtype), strict=False)
    model.tie_weights()
    # A tied head has no tensor of its own; anything else that is missing would be left at random.
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if settings.tie_word_embeddings else set()
    lost = [name for name in missing if name not in tied]
    if lost or unexpected:
        raise ArtifactError(f"{folder}: tensors do not fit transformers' {type(model).__name__}: missing {lost}, "
                            f"unexpected {unexpected}")
    return model.eval()
