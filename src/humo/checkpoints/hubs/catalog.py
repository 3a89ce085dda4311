"""Released models that can be downloaded: their repositories, the files they need, and their architectures.

**Source:** the published README (https://github.com/Phantom-video/HuMo at 17094e9) names these repositories on Hugging
Face, and that of Wan2.1 the same ones on ModelScope. ModelScope's own account has the copy of Whisper; no unchanged
copy of HuMo could be established there. Architectures: ``humo/configs/models/Wan_1.3B.yaml`` and ``Wan_14B_I2V.yaml``
of the published code, and the headers of the released Wan2.1, umT5 and Whisper files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from humo.checkpoints.architecture import (
    Architecture,
    AutoencoderArchitecture,
    SpeechEncoderArchitecture,
    TextEncoderArchitecture,
    TransformerArchitecture,
)
from humo.presets import HUMO_1_7B, HUMO_17B


@dataclass(frozen=True, slots=True)
class Repository:
    """Files of one repository.

    Args:
        repository: owner/name on Hugging Face.
        files: patterns of the files that are needed.
        license: license of these files.
        modelscope: owner/name on ModelScope; None if there is no known copy.
    """

    repository: str
    files: tuple[str, ...]
    license: str
    modelscope: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository.

    Args:
        repository, name: repository and path in it.
        bytes: its size.
        sha256: its checksum on the hub; None if the hub has none, as for small text files on Hugging Face.
    """

    repository: str
    name: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model that can be downloaded.

    Args:
        title: for people.
        gigabytes: approximate size of the download; the hub has the exact size.
        requirements: what is needed to run it, in a line.
        repositories: where its components come from.
        head_dim: channels of an attention head, if it is not the published 128.
    """

    title: str
    gigabytes: float
    requirements: str
    repositories: tuple[Repository, ...]
    head_dim: int | None = None


_AUTOENCODER_AND_TEXT = Repository(
    "Wan-AI/Wan2.1-T2V-1.3B",
    ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl/*"),
    "Apache-2.0",
    "Wan-AI/Wan2.1-T2V-1.3B",
)
_SPEECH = Repository(
    "openai/whisper-large-v3",
    ("config.json", "model.safetensors", "preprocessor_config.json"),
    "MIT",
    "AI-ModelScope/whisper-large-v3",
)
_HUMO = "bytedance-research/HuMo"

CATALOG: Mapping[str, CatalogEntry] = {
    "humo-1.7b": CatalogEntry(
        "HuMo-1.7B",
        22.0,
        "a GPU of 32 GB as published; 480 pixels",
        (Repository(_HUMO, ("HuMo-1.7B/*",), "Apache-2.0"), _AUTOENCODER_AND_TEXT, _SPEECH),
    ),
    "humo-17b": CatalogEntry(
        "HuMo-17B",
        83.0,
        "several GPUs of 80 GB as published; 480 and 720 pixels",
        (Repository(_HUMO, ("HuMo-17B/*",), "Apache-2.0"), _AUTOENCODER_AND_TEXT, _SPEECH),
    ),
}
"""Name -> model; the names are those of the presets."""


@dataclass(frozen=True, slots=True)
class LoraEntry:
    """A LoRA that can be downloaded.

    Args:
        title: for people.
        family: name of the preset whose network it fits.
        repository: where it is; its only pattern is the file.
        bytes, sha256: size and checksum that it is known to have.
    """

    title: str
    family: str
    repository: Repository
    bytes: int
    sha256: str

    @property
    def file(self) -> str:
        """Name of the file, without its folder."""
        return self.repository.files[0].rpartition("/")[2]


LORAS: Mapping[str, LoraEntry] = {
    "lightx2v": LoraEntry(
        "lightx2v: steps and guidance distilled, rank 64",
        HUMO_17B.name,
        Repository(
            "Kijai/WanVideo_comfy",
            ("Lightx2v/lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors",),
            "Apache-2.0",
        ),
        738_005_744,
        "85c4a61c30e0497aa44b91d93a893b624708461a56fe5485183b28fa07e2dfb3",
    ),
}
"""Name -> LoRA. Size and checksum are those of public lists of files, and are compared with the hub's."""

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


def _components(transformer: TransformerArchitecture) -> Mapping[str, Architecture]:
    return {
        "transformer": transformer,
        "vae": WAN_AUTOENCODER,
        "text_encoder": UMT5_XXL,
        "audio_encoder": WHISPER_LARGE_V3,
    }


RELEASED_ARCHITECTURES: Mapping[str, Mapping[str, Architecture]] = {
    "humo-17b": _components(_transformer(heads=40, ffn_dim=13_824, layers=40, in_channels=HUMO_17B.in_channels)),
    "humo-1.7b": _components(_transformer(heads=12, ffn_dim=8960, layers=30, in_channels=HUMO_1_7B.in_channels)),
}
"""Model -> component -> its architecture."""
