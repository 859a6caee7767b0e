"""Models of every architecture, with two layers and sizes that a test can afford."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
import transformers

#: Field of a config -> its value; a config takes those of its own fields. Sizes first, then what must fit to them.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 120),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "attention_hidden_size", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "depth"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"), 96),
    **dict.fromkeys(("ffn_hidden_size", "intermediate_size_mlp", "shared_intermediate_size"), 96),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 256),
    **dict.fromkeys(("head_dim", "d_kv", "kv_channels", "global_head_dim", "qk_nope_head_dim", "v_head_dim"), 16),
    **dict.fromkeys(("rotary_dim", "qk_rope_head_dim", "state_size", "mamba_d_state", "ssm_state_size"), 8),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_intermediate_size"), 32),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "moe_num_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 24),
    **dict.fromkeys(("sliding_window", "local_attention", "attention_chunk_size", "attention_window_size"), 32),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "index_n_heads", "o_groups"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("index_head_dim", "hidden_size_per_layer_input", "query_pre_attn_scalar", "laurel_rank"), 16),
    **dict.fromkeys(("index_topk", "lru_width"), 64),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("mamba_d_ssm",), 128),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("num_kv_shared_layers", "num_mtp_layers", "num_nextn_predict_layers"), 0),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"), 0),
    **dict.fromkeys(("cls_token_id", "sep_token_id", "unk_token_id"), 0),
    **dict.fromkeys(("embedding_multiplier", "attention_in_multiplier"), 3.0),
    **dict.fromkeys(("logits_scaling", "lm_head_multiplier"), 1.5),
    **dict.fromkeys(("residual_multiplier", "attention_multiplier", "attention_out_multiplier", "key_multiplier"), 0.3),
    "mamba_expand": 2,
    "use_mamba_kernels": False,
}
LATENT = ("DeepseekV2", "DeepseekV3", "Glm4MoeLite", "GlmMoeDsa", "Youtu")
HYBRID = ["linear_attention", "full_attention"]
#: What an architecture needs beside that, so that it has attention, and something of its own.
SPECIAL: dict[str, dict[str, Any]] = {
    "PhiForCausalLM": {"num_key_value_heads": 4},
    **{f"{name}ForCausalLM": {"num_key_value_heads": 4} for name in LATENT},
    "MistralForCausalLM": {"sliding_window": None},
    "MixtralForCausalLM": {"sliding_window": None},
    "Starcoder2ForCausalLM": {"sliding_window": None},
    "Phi3ForCausalLM": {"sliding_window": None},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]], "window_size": 32, "intermediate_size": 96},
    "Lfm2ForCausalLM": {"layer_types": ["conv", "full_attention"]},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"]},
    "Qwen3NextForCausalLM": {"layer_types": HYBRID},
    "Qwen3_5ForCausalLM": {"layer_types": HYBRID},
    "Qwen3_5MoeForCausalLM": {"layer_types": HYBRID},
    "OlmoHybridForCausalLM": {"layer_types": HYBRID},
    "GraniteMoeHybridForCausalLM": {"layer_types": ["mamba", "attention"]},
    "BambaForCausalLM": {"attn_layer_indices": [1]},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "RecurrentGemmaForCausalLM": {"block_types": ["recurrent", "attention"]},
    "NemotronHForCausalLM": {"layers_block_type": ["mamba", "attention"]},
    "Zamba2ForCausalLM": {"layers_block_type": ["mamba", "hybrid"], "hybrid_layer_ids": [1]},
    "Mamba2ForCausalLM": {"num_heads": 8, "head_dim": 16, "expand": 2},
    "BertLMHeadModel": {"is_decoder": True},
}


SCALED = {"rope_theta": 1e4, "original_max_position_embeddings": 64, "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **SCALED}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.5] * 8, **SCALED}
WINDOW = {"sliding_window": 32}
#: Settings that some models of an architecture have and others have not: architecture, what is set.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("BloomForCausalLM", {"apply_residual_connection_post_layernorm": True}),
    ("CohereForCausalLM", {"use_qk_norm": True}),
    ("FalconForCausalLM", {"alibi": True}),
    ("FalconForCausalLM", {"multi_query": False, "num_kv_heads": 4, "bias": True}),
    ("FalconForCausalLM", {"new_decoder_architecture": True}),
    ("FalconForCausalLM", {"parallel_attn": False}),
    ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}),
    ("GPT2LMHeadModel", {"scale_attn_weights": False}),
    ("GPTBigCodeForCausalLM", {"multi_query": False}),
    ("GPTNeoXForCausalLM", {"use_parallel_residual": False}),
    ("Gemma2ForCausalLM", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    ("Glm4MoeForCausalLM", {"use_qk_norm": True, "attention_bias": True}),
    ("GraniteForCausalLM", {"attention_multiplier": 0.25, "embedding_multiplier": 1.0, "logits_scaling": 1.0,
                            "residual_multiplier": 1.0}),
    ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    ("LlamaForCausalLM", {"head_dim": 24}),
    ("LlamaForCausalLM", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    ("LlamaForCausalLM", {"rope_parameters": LLAMA3}),
    ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "yarn", **SCALED}}),
    ("MistralForCausalLM", WINDOW),
    ("MixtralForCausalLM", WINDOW),
    ("OPTForCausalLM", {"do_layer_norm_before": False}),
    ("OPTForCausalLM", {"word_embed_proj_dim": 32}),
    ("OlmoForCausalLM", {"clip_qkv": 0.5}),
    ("OlmoeForCausalLM", {"clip_qkv": 0.5}),
    ("Phi3ForCausalLM", WINDOW),
    ("Phi3ForCausalLM", {"original_max_position_embeddings": 64, "rope_parameters": LONG}),
    ("PhiForCausalLM", {"num_key_value_heads": 2}),
    ("PhiForCausalLM", {"qk_layernorm": True, "num_key_value_heads": 4}),
    ("Qwen2ForCausalLM", {"max_window_layers": 1, "use_sliding_window": True, **WINDOW}),
    ("Qwen3ForCausalLM", {"attention_bias": True}),
    ("StableLmForCausalLM", {"qk_layernorm": True, "use_qkv_bias": True}),
    ("StableLmForCausalLM", {"use_parallel_residual": True}),
    ("Starcoder2ForCausalLM", WINDOW),
]  # fmt: skip


def listed() -> list[str]:
    """The architectures that the installed TransformerLens says it takes and transformers has code for, sorted."""
    try:
        from transformer_lens import loading_from_pretrained
    except ImportError:  # TransformerLens 4 derives everything from its adapters
        from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES as names
    else:
        source = Path(loading_from_pretrained.__file__).read_text(encoding="utf-8")
        names = set(re.findall(r"\"(\w+(?:For\w+|LMHeadModel|Model))\"", source))
    return sorted(name for name in names if getattr(getattr(transformers, name, None), "config_class", None))


def families() -> dict[str, tuple[str, dict[str, Any]]]:
    """How the table calls it -> architecture and settings: every architecture that is listed, and its variants."""
    found = {name: (name, {}) for name in listed()}
    variants = [(name, special) for name, special in VARIANTS if name in found]
    return found | {f"{name}, {_told(special)}": (name, special) for name, special in variants}


def _told(special: dict[str, Any]) -> str:
    """Settings in a few words: those of a nested table by its ``rope_type``."""
    flat = {name: value["rope_type"] if isinstance(value, dict) else value for name, value in special.items()}
    return ", ".join(f"{name} {value}" for name, value in flat.items())


def small_config(architecture: str, special: dict[str, Any] | None = None) -> Any:
    """A config of two layers, hidden size 64, 4 heads, 2 key-value heads where there are any, and 120 tokens."""
    config_class = getattr(transformers, architecture).config_class
    if not predicts_next_token(architecture):
        return config_class()
    return _shrunk(config_class, {**SPECIAL.get(architecture, {}), **(special or {})})


def _shrunk(config_class: type, special: dict[str, Any]) -> Any:
    names = {field.name for field in dataclasses.fields(config_class)}
    values = {name: value for name, value in SIZES.items() if name in names}
    for name, inner in (getattr(config_class, "sub_configs", None) or {}).items():
        if dataclasses.is_dataclass(inner):
            values[name] = _shrunk(inner, {}).to_dict()
    return config_class(**{**values, **special})


def predicts_next_token(architecture: str) -> bool:
    """Whether its name says that it is a causal language model."""
    return architecture.endswith(("ForCausalLM", "LMHeadModel"))


def save_tiny(architecture: str, folder: Path, special: dict[str, Any] | None = None, seed: int = 0) -> None:
    """Save a model of random weights, all of which matter; of one that is no causal language model the config alone."""
    config = small_config(architecture, special)
    if not predicts_next_token(architecture):
        from safetensors.torch import save_file

        config.architectures = [architecture]
        config.save_pretrained(folder)
        save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
        return
    torch.manual_seed(seed)
    model = getattr(transformers, architecture)(config).eval()
    size = sum(weight.numel() for weight in model.parameters())
    if size > 5_000_000:
        raise AssertionError(f"{architecture} has {size:,} weights: shrink its config")
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.15)
    model.save_pretrained(folder)
