"""Which code computes a model's attention."""

from inductionlens.models import Model
from inductionlens.models.lens import is_bridge


def attention_code(model: Model) -> str:
    """What computes a model's attention, in words for the record, read off the model.

    A TransformerBridge around a Hugging Face model: that model's own implementation, such as ``eager``. All other
    models: TransformerLens's own code, and its class.
    """
    config = getattr(model.original_model, "config", None) if is_bridge(model) else None
    implementation = getattr(config, "_attn_implementation", None)
    return implementation or f"TransformerLens's own ({type(model.blocks[0].attn).__name__})"
