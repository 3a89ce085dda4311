"""Released models that can be downloaded: their repositories, the files they need, and their architectures.

**Source:** the published README (https://github.com/Phantom-video/HuMo at 17094e9) names these repositories on Hugging
Face, and that of Wan2.1 the same ones on ModelScope. ModelScope's own account has the copy of Whisper; no unchanged
copy of HuMo could be established there. The files for home use are those that ComfyUI's users have: Comfy-Org's
repositories, which ModelScope has under the same names, Kijai's, and a GGUF one. Their sizes and checksums are those of
public lists of files, and are compared with the hub's. Architectures: ``humo/configs/models/Wan_1.3B.yaml`` and
``Wan_14B_I2V.yaml`` of the published code, and the headers of the released Wan2.1, umT5 and Whisper files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from humo.checkpoints.architecture import (
    Architecture,
    AutoencoderArchitecture,
    SpeechEncoderArchitecture,
    TextEncoderArchitecture,
    TransformerArchitecture,
)
from humo.presets import HUMO_1_7B, HUMO_17B


@dataclass(frozen=True, slots=True)
class KnownFile:
    """Size and checksum that a public file is known to have.

    Args:
        bytes: its size.
        sha256: its checksum.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Repository:
    """Files of one repository.

    Args:
        repository: owner/name on Hugging Face.
        files: patterns of the files that are needed.
        license: license of these files.
        modelscope: owner/name on ModelScope; None if there is no known copy.
        modelscope_files: patterns of the files there, if they are others.
        folder: ComfyUI's folder of such files, which are used as they are; None for files that are converted.
        known: file name -> its size and checksum, which the hub's are compared with.
    """

    repository: str
    files: tuple[str, ...]
    license: str
    modelscope: str | None = None
    modelscope_files: tuple[str, ...] | None = None
    folder: str | None = None
    known: Mapping[str, KnownFile] = field(default_factory=dict)


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
        repositories: where its components come from; the network's is the first.
        family: name of its preset.
        quant_type: type of the network's blocks and number of scales; None if they are not quantized.
        head_dim: channels of an attention head, if it is not the published 128.
    """

    title: str
    gigabytes: float
    requirements: str
    repositories: tuple[Repository, ...]
    family: str
    quant_type: tuple[str, int] | None = None
    head_dim: int | None = None

    @property
    def is_linked(self) -> bool:
        """True if the model folder points to the downloaded files, which are not converted."""
        return all(one.folder is not None for one in self.repositories)


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

_UMT5_FP8 = Repository(
    "Comfy-Org/Wan_2.1_ComfyUI_repackaged",
    ("split_files/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",),
    "Apache-2.0",
    "Comfy-Org/Wan_2.1_ComfyUI_repackaged",
    folder="text_encoders",
    known={
        "umt5_xxl_fp8_e4m3fn_scaled.safetensors": KnownFile(
            6_735_906_897, "c3355d30191f1f066b26d93fba017ae9809dce6c627dda5f6a66eaa651204f68"
        )
    },
)
_WHISPER_FP16 = Repository(
    "Kijai/WanVideo_comfy",
    ("HuMo/whisper_large_v3_encoder_fp16.safetensors",),
    "MIT",
    "Comfy-Org/HuMo_ComfyUI",
    modelscope_files=("split_files/audio_encoders/whisper_large_v3_fp16.safetensors",),  # encoder and decoder
    folder="audio_encoders",
    known={
        "whisper_large_v3_fp16.safetensors": KnownFile(
            3_087_130_976, "a8e94b85976e5864ba3e9525c7e6c83b2a1eca42d4b797a0c7c24d778e40fd95"
        )
    },
)
_WAN_VAE = Repository(
    "Comfy-Org/Wan_2.2_ComfyUI_Repackaged",
    ("split_files/vae/wan_2.1_vae.safetensors",),
    "Apache-2.0",
    "Comfy-Org/Wan_2.2_ComfyUI_Repackaged",
    folder="vae",
    known={
        "wan_2.1_vae.safetensors": KnownFile(
            253_815_318, "2fc39d31359a4b0a64f55876d8ff7fa8d780956ae2cb13463b0223e15148976b"
        )
    },
)
_SMALL_COMPANIONS = (_UMT5_FP8, _WHISPER_FP16, _WAN_VAE)
"""The text encoder in scaled fp8, Whisper's encoder in fp16, and the autoencoder: 8.3 GB."""


def _network(repository: str, file: str, *, modelscope: bool = False, known: KnownFile | None = None) -> Repository:
    """Return the repository of a network that is used as it is."""
    return Repository(
        repository,
        (file,),
        "Apache-2.0",
        repository if modelscope else None,
        folder="diffusion_models",
        known={} if known is None else {PurePosixPath(file).name: known},
    )


def _gguf(quantization: str, gigabytes: float, quant_type: str) -> CatalogEntry:
    return CatalogEntry(
        f"HuMo-17B, {quantization}",
        gigabytes,
        HOME_GPU,
        (_network("VeryAladeen/Wan2_1-HuMo_17B-GGUF", f"*{quantization}.gguf"), *_SMALL_COMPANIONS),
        "humo-17b",
        (quant_type, 0),
    )


HOME_GPU = "a GPU of 12 GB; 480 and 720 pixels"
"""Requirements of the 17B network in eight bits or fewer, whose blocks are streamed where they do not fit."""

CATALOG: Mapping[str, CatalogEntry] = {
    "humo-17b-fp8": CatalogEntry(
        "HuMo-17B, fp8",
        25.4,
        HOME_GPU,
        (
            _network(
                "Comfy-Org/HuMo_ComfyUI",
                "split_files/diffusion_models/humo_17B_fp8_e4m3fn.safetensors",
                modelscope=True,
            ),
            *_SMALL_COMPANIONS,
        ),
        "humo-17b",
        ("F8_E4M3", 0),
    ),
    "humo-17b-fp8-scaled": CatalogEntry(
        "HuMo-17B, fp8 with scales",
        26.2,
        HOME_GPU,
        (
            _network(
                "Kijai/WanVideo_comfy_fp8_scaled",
                "HuMo/Wan2_1-HuMo-14B_fp8_e4m3fn_scaled_KJ.safetensors",
                known=KnownFile(17_892_294_098, "a67ed82a7c008892f9192cdc5b23bbfe2e2a8e2f87d0b5b8dfb0226fafec022d"),
            ),
            *_SMALL_COMPANIONS,
        ),
        "humo-17b",
        ("F8_E4M3", 1),
    ),
    "humo-17b-q5": _gguf("Q5_K_M", 20.1, "Q5_K"),
    "humo-17b-q4": _gguf("Q4_K_S", 17.9, "Q4_K"),
    "humo-17b-q3": _gguf("Q3_K_M", 16.1, "Q3_K"),
    "humo-1.7b-fp16": CatalogEntry(
        "HuMo-1.7B, fp16",
        11.7,
        "a GPU of 8 GB; 480 pixels",
        (
            _network(
                "Comfy-Org/HuMo_ComfyUI",
                "split_files/diffusion_models/humo_1.7B_fp16.safetensors",
                modelscope=True,
                known=KnownFile(3_483_511_088, "3f8c08e7db17e807397b9a9ed9d9b28a6e42c8083029395674e95544191b1b15"),
            ),
            *_SMALL_COMPANIONS,
        ),
        "humo-1.7b",
    ),
    "humo-1.7b": CatalogEntry(
        "HuMo-1.7B",
        22.0,
        "a GPU of 32 GB as published; 480 pixels",
        (Repository(_HUMO, ("HuMo-1.7B/*",), "Apache-2.0"), _AUTOENCODER_AND_TEXT, _SPEECH),
        "humo-1.7b",
    ),
    "humo-17b": CatalogEntry(
        "HuMo-17B",
        83.0,
        "several GPUs of 80 GB as published; 480 and 720 pixels",
        (Repository(_HUMO, ("HuMo-17B/*",), "Apache-2.0"), _AUTOENCODER_AND_TEXT, _SPEECH),
        "humo-17b",
    ),
}
"""Name -> model."""


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
