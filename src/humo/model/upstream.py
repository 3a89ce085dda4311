"""All imports of private or unstable names of diffusers and transformers.

A test imports and uses each of them, so that it fails first if a new release moves one.
"""

from diffusers.hooks import apply_group_offloading
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.loaders.lora_base import _fetch_state_dict as fetch_lora
from diffusers.models.attention import AttentionMixin, AttentionModuleMixin, FeedForward
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.attention_dispatch import _check_attention_backend_requirements as check_attention_backend
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding
from diffusers.models.normalization import FP32LayerNorm
from diffusers.utils import apply_lora_scale
from transformers.models.whisper.modeling_whisper import WhisperEncoder

__all__ = [
    "AttentionBackendName",
    "AttentionMixin",
    "AttentionModuleMixin",
    "DecoderOutput",
    "FP32LayerNorm",
    "FeedForward",
    "PixArtAlphaTextProjection",
    "TimestepEmbedding",
    "TransformerBlockMetadata",
    "TransformerBlockRegistry",
    "WhisperEncoder",
    "apply_group_offloading",
    "apply_lora_scale",
    "check_attention_backend",
    "dispatch_attention_fn",
    "fetch_lora",
]
