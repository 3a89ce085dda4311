"""Infer a component's architecture from the shapes of its tensors, and write the configuration that follows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from humo.errors import CheckpointError
from humo.geometry import AUDIO_WINDOW

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name -> shape, under the published names or those of diffusers."""

ConfigHints = Mapping[str, Any]
"""The ``config.json`` beside the weights, or empty. It has sizes that no shape shows, such as the number of heads."""

_TAKE_UNCHANGED_FILE = "take the complete, unchanged file"

ATTENTION_HEAD_DIM = 128
"""Channels of one attention head in both published families."""

AUDIO_BANDS = 5
"""Groups that the audio encoder's layers are pooled into."""

WHISPER_ATTENTION_HEAD_DIM = 64
"""Channels of one attention head in every published Whisper."""


@dataclass(frozen=True, slots=True)
class TransformerArchitecture:
    """Sizes of the video transformer, under the names of its configuration."""

    patch_size: tuple[int, int, int]
    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    out_channels: int
    text_dim: int
    freq_dim: int
    ffn_dim: int
    num_layers: int
    audio_width: int
    audio_hidden_dim: int
    audio_token_dim: int
    audio_tokens: int
    audio_window: int = AUDIO_WINDOW
    audio_bands: int = AUDIO_BANDS
    text_length: int = 512
    eps: float = 1e-6
    scale_inputs: int = 0

    @property
    def width(self) -> int:
        """Channels of a video token."""
        return self.num_attention_heads * self.attention_head_dim

    def config(self) -> dict[str, Any]:
        """Return the contents of ``config.json``, except for the keys that distillation adds."""
        sizes = asdict(self) | {"patch_size": list(self.patch_size)}
        del sizes["scale_inputs"]
        return {"_class_name": "HuMoTransformer3DModel", **sizes}

    def published_config(self) -> dict[str, Any]:
        """Return the sizes under the names of the published code; the number of heads is in no tensor."""
        return {
            "model_type": "i2v" if self.in_channels > self.out_channels else "t2v",
            "in_dim": self.in_channels,
            "dim": self.width,
            "ffn_dim": self.ffn_dim,
            "freq_dim": self.freq_dim,
            "num_heads": self.num_attention_heads,
            "num_layers": self.num_layers,
            "text_len": self.text_length,
        }


GUIDANCE_EMBEDDER = "guidance_embedder.linear_1.weight"
"""Tensor that only distilled networks have, which take the guidance scales as an input."""

PIXEL_CHANNELS = 3
"""Red, green, blue."""

LINEAR_ENCODER = "linear_encoder.weight"
"""Tensor that only small autoencoders have."""


@dataclass(frozen=True, slots=True)
class AutoencoderArchitecture:
    """Sizes of Wan2.1's autoencoder, under the names of diffusers' ``AutoencoderKLWan``."""

    base_dim: int
    z_dim: int
    dim_mult: tuple[int, ...]
    num_res_blocks: int
    temperal_downsample: tuple[bool, ...]

    def config(self) -> dict[str, Any]:
        """Return the contents of ``config.json``."""
        lists = {"dim_mult": list(self.dim_mult), "temperal_downsample": list(self.temperal_downsample)}
        return {"_class_name": "AutoencoderKLWan", **asdict(self), **lists, "attn_scales": [], "dropout": 0.0}

    @property
    def pixel_channels(self) -> int:
        """Input channels of the first convolution and output channels of the last one."""
        return PIXEL_CHANNELS

    @property
    def decoder_width(self) -> int:
        """The decoder's base width."""
        return self.base_dim


@dataclass(frozen=True, slots=True)
class ShortcutArchitecture(AutoencoderArchitecture):
    """Sizes of a small autoencoder (`humo.model.autoencoder`), which has a linear code beside its convolutions."""

    decoder_base_dim: int | None
    in_channels: int

    @property
    def pixel_channels(self) -> int:
        """Input channels of the first convolution and output channels of the last one."""
        return self.in_channels

    @property
    def decoder_width(self) -> int:
        """The decoder's base width."""
        return self.decoder_base_dim or self.base_dim


@dataclass(frozen=True, slots=True)
class TextEncoderArchitecture:
    """Sizes of the umT5 encoder, under the names of transformers' ``UMT5Config``."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int

    def config(self) -> dict[str, Any]:
        """Return the contents of ``config.json``."""
        return {
            "architectures": ["UMT5EncoderModel"],
            "model_type": "umt5",
            **asdict(self),
            "feed_forward_proj": "gated-gelu",
            "relative_attention_max_distance": 128,
            "layer_norm_epsilon": 1e-6,
            "dropout_rate": 0.1,
            "is_encoder_decoder": True,
            "tie_word_embeddings": True,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "decoder_start_token_id": 0,
        }


@dataclass(frozen=True, slots=True)
class SpeechEncoderArchitecture:
    """Sizes of Whisper's encoder, under the names of transformers' ``WhisperConfig``."""

    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    num_mel_bins: int
    max_source_positions: int

    def config(self) -> dict[str, Any]:
        """Return the contents of ``config.json``."""
        return {
            "architectures": ["SpeechEncoder"],
            "model_type": "whisper",
            **asdict(self),
            "decoder_attention_heads": self.encoder_attention_heads,  # the default need not divide the width
        }


Architecture = TransformerArchitecture | AutoencoderArchitecture | TextEncoderArchitecture | SpeechEncoderArchitecture


def infer_transformer(
    shapes: Shapes, config_hints: ConfigHints, head_dim: int | None = None
) -> TransformerArchitecture:
    """Infer the transformer's sizes.

    Args:
        shapes: of its tensors.
        config_hints: the configuration beside it, published or of diffusers.
        head_dim: channels of one attention head, if the configuration does not give it and it is not 128.

    Raises:
        CheckpointError: a tensor is missing, or the width cannot be divided into heads.
    """
    width, in_channels, *patch = _shape_of_first(shapes, 5, "patch_embedding.weight")
    out_rows, _ = _shape_of_first(shapes, 2, "head.head.weight", "proj_out.weight")
    hidden, audio_in = _shape_of_first(
        shapes, 2, "audio_proj.audio_proj_glob_1.layer.weight", "audio_proj.proj_1.weight"
    )
    audio_out, _ = _shape_of_first(shapes, 2, "audio_proj.audio_proj_glob_3.layer.weight", "audio_proj.proj_3.weight")
    (token_dim,) = _shape_of_first(shapes, 1, "audio_proj.audio_proj_glob_norm.layer.weight", "audio_proj.norm.weight")
    window = int(config_hints.get("audio_window", AUDIO_WINDOW))
    bands = int(config_hints.get("audio_bands", AUDIO_BANDS))
    if head_dim is None:
        num_heads = config_hints.get("num_attention_heads") or (
            config_hints.get("dim") == width and config_hints.get("num_heads")
        )
        head_dim = width // int(num_heads) if num_heads else ATTENTION_HEAD_DIM
    return TransformerArchitecture(
        patch_size=(patch[0], patch[1], patch[2]),
        num_attention_heads=_divide_evenly(
            width, head_dim, "channels into heads", "give the width of a head with --head-dim"
        ),
        attention_head_dim=head_dim,
        in_channels=in_channels,
        out_channels=_divide_evenly(out_rows, math.prod(patch), "output rows into patches"),
        text_dim=_shape_of_first(
            shapes, 2, "text_embedding.0.weight", "condition_embedder.text_embedder.linear_1.weight"
        )[1],
        freq_dim=_shape_of_first(
            shapes, 2, "time_embedding.0.weight", "condition_embedder.time_embedder.linear_1.weight"
        )[1],
        ffn_dim=_shape_of_first(shapes, 2, "blocks.0.ffn.0.weight", "blocks.0.ffn.net.0.proj.weight")[0],
        num_layers=_count_indices(shapes, r"blocks\.(\d+)\."),
        audio_width=_divide_evenly(audio_in, window * bands, "audio inputs into windows and bands"),
        audio_hidden_dim=hidden,
        audio_token_dim=token_dim,
        audio_tokens=_divide_evenly(audio_out, token_dim, "audio outputs into tokens"),
        audio_window=window,
        audio_bands=bands,
        text_length=int(config_hints.get("text_length", config_hints.get("text_len", 512))),
        eps=float(config_hints.get("eps", 1e-6)),
        scale_inputs=shapes.get(GUIDANCE_EMBEDDER, (0, 0))[1],
    )


def infer_autoencoder(shapes: Shapes, config_hints: ConfigHints) -> AutoencoderArchitecture:
    """Infer the autoencoder's sizes from its encoder: widths, levels and residual blocks.

    Args:
        shapes: of its tensors.
        config_hints: ``decoder_base_dim`` of a small one; all other sizes follow from shapes.

    Raises:
        CheckpointError: a tensor is missing.
    """
    base = _shape_of_first(shapes, 5, "encoder.conv1.weight", "encoder.conv_in.weight")[0]
    z_dim = _shape_of_first(shapes, 5, "conv2.weight", "post_quant_conv.weight")[0]
    widths: list[list[int]] = [[]]
    downsample: list[bool] = []
    for index in range(_count_indices(shapes, r"encoder\.(?:downsamples|down_blocks)\.(\d+)\.")):
        names = (f"encoder.downsamples.{index}", f"encoder.down_blocks.{index}")
        if any(f"{name}.resample.1.weight" in shapes for name in names):
            downsample.append(any(f"{name}.time_conv.weight" in shapes for name in names))
            widths.append([])
        else:
            widths[-1].append(
                _shape_of_first(shapes, 5, f"{names[0]}.residual.6.weight", f"{names[1]}.conv2.weight")[0]
            )
    if not all(widths) or len({len(level) for level in widths}) != 1:
        problem = (
            f"has an encoder whose levels have {[len(level) for level in widths]} residual blocks, not equally many"
        )
        raise CheckpointError("vae", problem, "take Wan2.1's autoencoder")
    architecture = AutoencoderArchitecture(
        base_dim=base,
        z_dim=z_dim,
        dim_mult=tuple(_divide_evenly(level[0], base, "channels into multiples of the base width") for level in widths),
        num_res_blocks=len(widths[0]),
        temperal_downsample=tuple(downsample),
    )
    if LINEAR_ENCODER not in shapes:
        return architecture
    decoder_dim = config_hints.get("decoder_base_dim")
    in_channels = _shape_of_first(shapes, 5, "encoder.conv_in.weight")[1]
    return ShortcutArchitecture(
        **asdict(architecture), decoder_base_dim=decoder_dim and int(decoder_dim), in_channels=in_channels
    )


def infer_text_encoder(shapes: Shapes, config_hints: ConfigHints) -> TextEncoderArchitecture:
    """Infer the text encoder's sizes.

    Args:
        shapes: of its tensors.
        config_hints: not used; every size follows from shapes.

    Raises:
        CheckpointError: a tensor is missing.
    """
    first = "encoder.block.0.layer"
    vocabulary, width = _shape_of_first(shapes, 2, "token_embedding.weight", "shared.weight")
    inner, _ = _shape_of_first(shapes, 2, "blocks.0.attn.q.weight", f"{first}.0.SelfAttention.q.weight")
    buckets, heads = _shape_of_first(
        shapes,
        2,
        "blocks.0.pos_embedding.embedding.weight",
        f"{first}.0.SelfAttention.relative_attention_bias.weight",
    )
    return TextEncoderArchitecture(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=_divide_evenly(inner, heads, "channels into heads"),
        d_ff=_shape_of_first(shapes, 2, "blocks.0.ffn.fc1.weight", f"{first}.1.DenseReluDense.wi_1.weight")[0],
        num_layers=_count_indices(shapes, r"(?:blocks|encoder\.block)\.(\d+)\."),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
    )


def infer_speech_encoder(shapes: Shapes, config_hints: ConfigHints) -> SpeechEncoderArchitecture:
    """Infer the audio encoder's sizes.

    Args:
        shapes: of its tensors, without any prefix.
        config_hints: Whisper's configuration; without it a head has 64 channels.

    Raises:
        CheckpointError: a tensor is missing.
    """
    width, mel_bins, _ = _shape_of_first(shapes, 3, "conv1.weight")
    num_heads = config_hints.get("encoder_attention_heads")
    return SpeechEncoderArchitecture(
        d_model=width,
        encoder_layers=_count_indices(shapes, r"layers\.(\d+)\."),
        encoder_attention_heads=int(num_heads)
        if num_heads
        else _divide_evenly(width, WHISPER_ATTENTION_HEAD_DIM, "channels into heads"),
        encoder_ffn_dim=_shape_of_first(shapes, 2, "layers.0.fc1.weight")[0],
        num_mel_bins=mel_bins,
        max_source_positions=_shape_of_first(shapes, 2, "embed_positions.weight")[0],
    )


def _shape_of_first(shapes: Shapes, rank: int, *names: str) -> tuple[int, ...]:
    """Return the shape of the first of these tensors that exists; it must have ``rank`` dimensions."""
    for name in names:
        if name in shapes:
            if len(shapes[name]) != rank:
                problem = f"has shape {shapes[name]}, which has not {rank} dimensions"
                raise CheckpointError(name, problem, _TAKE_UNCHANGED_FILE)
            return shapes[name]
    raise CheckpointError(names[0], "is missing from the weights", _TAKE_UNCHANGED_FILE)


def _count_indices(names: Iterable[str], pattern: str) -> int:
    """Return one more than the largest number that the pattern matches at the start of a name."""
    return 1 + max((int(index[1]) for name in names if (index := re.match(pattern, name))), default=-1)


def _divide_evenly(number: int, divisor: int, what: str, remedy: str = _TAKE_UNCHANGED_FILE) -> int:
    """Return the quotient, or raise CheckpointError if there is a remainder."""
    if divisor < 1 or number % divisor:
        raise CheckpointError("weights", f"cannot divide {number} {what} of {divisor}", remedy)
    return number // divisor
