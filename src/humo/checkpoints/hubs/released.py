"""The released models' sizes, for whoever asks before any weights are here.

**Source:** the published configurations and files' headers (method.md, 4; the released Wan2.1, umT5 and Whisper).
"""

from __future__ import annotations

from collections.abc import Mapping

from humo.checkpoints.architecture import (
    Architecture,
    AutoencoderArchitecture,
    SpeechEncoderArchitecture,
    TextEncoderArchitecture,
    TransformerArchitecture,
)

WHISPER_LARGE_V3 = SpeechEncoderArchitecture(
    d_model=1280,
    encoder_layers=32,
    encoder_attention_heads=20,
    encoder_ffn_dim=5120,
    num_mel_bins=128,
    max_source_positions=1500,
)
UMT5_XXL = TextEncoderArchitecture(
    vocab_size=256_384,
    d_model=4096,
    d_kv=64,
    d_ff=10_240,
    num_layers=24,
    num_heads=64,
    relative_attention_num_buckets=32,
)
WAN_AUTOENCODER = AutoencoderArchitecture(
    base_dim=96,
    z_dim=16,
    dim_mult=(1, 2, 4, 4),
    num_res_blocks=2,
    temperal_downsample=(False, True, True),
)


def _transformer(heads: int, ffn_dim: int, layers: int, in_channels: int) -> TransformerArchitecture:
    return TransformerArchitecture(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=128,
        in_channels=in_channels,
        out_channels=16,
        text_dim=4096,
        freq_dim=256,
        ffn_dim=ffn_dim,
        num_layers=layers,
        audio_width=1280,
        audio_hidden_dim=512,
        audio_token_dim=1536,
        audio_tokens=16,
    )


def _parts(transformer: TransformerArchitecture) -> Mapping[str, Architecture]:
    return {
        "transformer": transformer,
        "vae": WAN_AUTOENCODER,
        "text_encoder": UMT5_XXL,
        "audio_encoder": WHISPER_LARGE_V3,
    }


RELEASED_ARCHITECTURES: Mapping[str, Mapping[str, Architecture]] = {
    "humo-17b": _parts(_transformer(heads=40, ffn_dim=13_824, layers=40, in_channels=36)),
    "humo-1.7b": _parts(_transformer(heads=12, ffn_dim=8960, layers=30, in_channels=16)),
}
"""Model -> component -> its sizes."""
