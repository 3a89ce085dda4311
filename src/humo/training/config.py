"""A training recipe as frozen values: every setting with its limits and its default; read from a TOML file.

Published values are from the paper (arXiv 2509.08519), progressive training: two stages of 40,000 steps each, with the
parameters they train and the fraction of samples with audio. Learning rate, batch size, warmup and the weights of the
auxiliary losses are not published; the defaults are those of related projects (Wan2.1, Phantom, diffusers).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from humo.errors import did_you_mean
from humo.geometry import SIZE_MULTIPLE, snap_frames
from humo.guidance import MAX_SCALE
from humo.presets import PRESETS, ScaleName

ParameterGroup = Literal[
    "all", "self_attention", "text_attention", "audio", "feed_forward", "embeddings", "output",
    "guidance", "focus", "lips", "identity",
]  # fmt: skip
"""Group of parameters that a stage can train; `humo.training.trainable.PARAMETER_PATTERNS` defines each."""

ConditionSet = Literal["TIA", "TI", "TA", "IA", "T", "I", "A", "-"]
"""Conditions that are kept together in a sample: letters of TIA, ``-`` for none."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Side = Annotated[int, Field(ge=SIZE_MULTIPLE, multiple_of=SIZE_MULTIPLE)]
LossWeight = Annotated[float, Field(ge=0.0)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


def _as_sequence(value: Any) -> Any:
    """Return a sequence as it is, and a single value as a sequence of one."""
    return value if isinstance(value, list | tuple) else (value,)


class RecipeTable(BaseModel):
    """A table of a recipe. It is frozen and has no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NetworkConfig(RecipeTable):
    """Sizes of a network that is trained from scratch. Channels and widths that follow from its encoders are not here.

    Args:
        sigma_data_ratio: sigma_data of each latent channel, as a fraction of the channel's standard deviation. By
            default one value is used for all channels. Needs a network that predicts clean latents.
    """

    num_attention_heads: int = Field(ge=1)
    attention_head_dim: int = Field(ge=6, multiple_of=2)
    ffn_dim: int = Field(ge=1)
    num_layers: int = Field(ge=1)
    freq_dim: int = Field(default=256, ge=2, multiple_of=2)
    text_length: int = Field(default=512, ge=1)
    audio_bands: int = Field(default=5, ge=2)
    audio_hidden_dim: int = Field(default=512, ge=1)
    audio_tokens: int = Field(default=16, ge=1)
    audio_token_dim: int = Field(default=1536, ge=1)
    prediction: Literal["velocity", "sample"] = "velocity"
    sigma_data_ratio: float | None = Field(default=None, gt=0.0, le=2.0)

    @model_validator(mode="after")
    def _sigma_data_needs_sample_prediction(self) -> NetworkConfig:
        if self.sigma_data_ratio is not None and self.prediction != "sample":
            raise ValueError('sigma_data_ratio needs prediction = "sample"; set that, or remove sigma_data_ratio')
        return self


class ModelConfig(RecipeTable):
    """The model that training starts from: a model folder, or sizes of a network and folders of its components.

    Args:
        folder: model folder; components without a folder of their own are taken from it.
        preset: preset of the model; needed without a model folder.
        network: sizes of a network to train from scratch.
        reinitialize: parameter groups of the folder's network that are trained from scratch, as the audio modules when
            HuMo was trained from Wan2.1.
        vae, text_encoder, tokenizer, audio_encoder, feature_extractor: folders of single components.
    """

    folder: str | None = None
    preset: str | None = None
    network: NetworkConfig | None = None
    reinitialize: Annotated[tuple[ParameterGroup, ...], BeforeValidator(_as_sequence)] = ()
    vae: str | None = None
    text_encoder: str | None = None
    tokenizer: str | None = None
    audio_encoder: str | None = None
    feature_extractor: str | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> ModelConfig:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} is unknown; {did_you_mean(self.preset, PRESETS)}")
        if self.folder is None:
            needed = ("preset", "network", "vae", "text_encoder", "tokenizer", "audio_encoder", "feature_extractor")
            if missing := [name for name in needed if getattr(self, name) is None]:
                problem = f"{', '.join(missing)} must be set, because there is no model.folder"
                raise ValueError(f"{problem}; start from recipes/nano.toml")
        if self.reinitialize and self.network is not None:
            raise ValueError("reinitialize cannot be combined with network, which is all new; remove one of them")
        return self


class RenderConfig(RecipeTable):
    """Shards of rendered people that processes of low priority render during training.

    Args:
        workers: number of processes, with one thread each.
        keep_last: number of shards of each worker that stay; older ones are deleted. By default all stay.
        min_shards: number of shards at which training starts.
        seed, sizes, takes, take_frames, double_every, speeches, identities, people_per_shard, articulation: as in
            `humo.synthetic.shards.ShardConfig`.
        closeup: tighter framing and more frontal poses, 0 to 1.
    """

    workers: int = Field(default=1, ge=1)
    keep_last: int | None = Field(default=None, ge=1)
    min_shards: int = Field(default=1, ge=1)
    seed: Seed = 0
    sizes: tuple[tuple[Side, Side], ...] = Field(default=((96, 96),), min_length=1)
    takes: int = Field(default=8, ge=1)
    take_frames: int = Field(default=1, ge=1)
    double_every: int = Field(default=0, ge=0)
    speeches: int = Field(default=600, ge=20)
    identities: int = Field(default=24_000, ge=6)
    people_per_shard: int = Field(default=64, ge=1)
    closeup: Fraction = 0.8
    articulation: float = Field(default=1.5, ge=0.5, le=2.0)


class DataConfig(RecipeTable):
    """Clips to train on and their preprocessing. `humo.training.dataset` describes the format of a folder.

    Args:
        folder: folder of clips in HuMoSet's layout; or of shards (`humo data render --frames-per-look`), to which
            further shards may be added during training.
        extra_folders: further folders of clips; their clips get the folder's name as a prefix.
        name_column, caption_column: columns of video_caption.parquet; by default detected by their contents.
        split: split to train on, from truth/attributes.parquet if it exists; None for all.
        resolutions: (width, height) in pixels. A clip is resized to the one nearest to its aspect ratio, and cropped at
            its center.
        segments_per_clip: number of evenly spaced segments of a clip that is longer than the stages need.
        horizontal_flip: add every segment flipped, too.
        reference_augmentations: number of augmentations of a reference image, one of which a sample gets: 1 the image
            itself, 2 also flipped, 3 and 4 also zoomed.
        self_reference_prob: probability that the reference is a face cut out of the clip itself, shifted and scaled.
            Needs face masks.
        continuation_prob: probability that a sample's first one to three latent frames are given almost without noise,
            which teaches continuation. Recorded in the network's configuration.
        paraphrase_prob: probability that a sample has a paraphrase in place of the caption.
        max_bad_fraction: largest fraction of bad clips; with more, the run does not start.
        max_clips: number of clips to use, the first by name; by default all.
        still_reference_prob: of shards: probability that the reference shows the person at rest instead of speaking.
        max_speeches: of shards: number of speeches to encode; takes of the others have no audio.
        render: render shards into ``folder`` during training.
        cache: folder of encoded clips; by default ``cache`` in the output folder.
    """

    folder: str
    extra_folders: tuple[str, ...] = ()
    name_column: str | None = None
    caption_column: str | None = None
    split: str | None = "train"
    resolutions: tuple[tuple[Side, Side], ...] = Field(default=((832, 480), (480, 832)), min_length=1)
    segments_per_clip: int = Field(default=1, ge=1)
    horizontal_flip: bool = False
    reference_augmentations: int = Field(default=1, ge=1, le=4)
    self_reference_prob: Fraction = 0.0
    continuation_prob: Fraction = 0.0
    paraphrase_prob: Fraction = 0.0
    max_bad_fraction: Fraction = 0.05
    max_clips: int | None = Field(default=None, ge=1)
    still_reference_prob: Fraction = 0.5
    max_speeches: int | None = Field(default=None, ge=1)
    render: RenderConfig | None = None
    cache: str | None = None


CONDITION_PROBS: Mapping[ConditionSet, float] = MappingProxyType(
    {"TIA": 0.70, "TA": 0.08, "T": 0.08, "-": 0.06, "TI": 0.05, "I": 0.03}
)
"""Default probabilities of condition sets.

Every pass of guidance of both families is trained. Text is dropped in 9 % of the samples (published: 10 %).
"""


class Stage(RecipeTable):
    """A part of a run that trains one set of parameter groups.

    Args:
        name: name in the log.
        steps: number of optimizer steps.
        max_minutes: end the stage after this time, too, counted from its start or from the last resumption.
        train: parameter groups to train.
        audio_prob: probability that a sample has audio, at the first and at the last step; linear in between.
        condition_probs: conditions that are kept together -> probability; A has no effect without audio.
        frames: lengths, 4k + 1 each; a clip is used at every length that it reaches.
        batch_size: number of samples a step, over all processes and accumulated passes.
        learning_rate: largest learning rate.
        warmup_steps: number of steps of the linear warmup.
        lr_scheduler: shape of the decay to zero.
        decay_start: fraction of the steps at which the decay starts.
    """

    name: str = Field(min_length=1)
    steps: int = Field(ge=1)
    max_minutes: float | None = Field(default=None, gt=0.0)
    train: Annotated[tuple[ParameterGroup, ...], BeforeValidator(_as_sequence)] = Field(min_length=1)
    audio_prob: tuple[Fraction, Fraction] = (0.0, 0.0)
    condition_probs: Mapping[ConditionSet, Fraction] = Field(default_factory=lambda: dict(CONDITION_PROBS))
    frames: Annotated[tuple[int, ...], BeforeValidator(_as_sequence)] = Field(default=(97,), min_length=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-5, gt=0.0)
    warmup_steps: int = Field(default=1000, ge=0)
    lr_scheduler: Literal["constant", "linear", "cosine"] = "constant"
    decay_start: float = Field(default=0.0, ge=0.0, lt=1.0)

    @field_validator("frames")
    @classmethod
    def _are_4k_plus_1(cls, frames: tuple[int, ...]) -> tuple[int, ...]:
        for length in frames:
            if length < 1 or snap_frames(length) != length:
                raise ValueError(f"{length} is not 4k + 1; give {snap_frames(length)} or {snap_frames(length) + 4}")
        return tuple(sorted(set(frames)))

    @field_validator("condition_probs")
    @classmethod
    def _add_up_to_1(cls, probs: Mapping[ConditionSet, float]) -> Mapping[ConditionSet, float]:
        if abs(sum(probs.values()) - 1) > 1e-6:
            raise ValueError(f"the probabilities add up to {sum(probs.values()):g}; change them so that the sum is 1")
        return {kept: probs[kept] for kept in get_args(ConditionSet) if kept in probs}


PUBLISHED_STAGES: Mapping[int, Stage] = MappingProxyType(
    {
        0: Stage(name="text to video", steps=40_000, train=("all",), condition_probs={"T": 0.9, "-": 0.1}),
        1: Stage(name="subject", steps=40_000, train=("self_attention",)),
        2: Stage(name="sync", steps=40_000, train=("self_attention", "audio", "focus"), audio_prob=(0.2, 0.5)),
    }
)
"""Published stages 1 and 2; stage 0 is for a network that is trained from scratch, where the published one is Wan2.1.

A stage of a recipe with ``published_stage = 1`` has its values, except for the fields that the recipe gives.
"""


class LossConfig(RecipeTable):
    """Noise levels and weights of the losses.

    Args:
        logit_mean, logit_std: mean and standard deviation of the logit-normal noise levels.
        shift: shift of the noise levels, as the sampler's; 1 is none.
        uniform_prob: probability that a noise level is drawn from a uniform distribution instead.
        face, mouth, eyes: added to the loss weight (1) of a position on a face, on a mouth, in a band at the eyes.
            Needs ground truth; for eyes, shards.
        focus: weight of the focus-by-predicting loss, in stages that train ``focus``.
        lips: weight of the loss of the mouth curve predicted from audio tokens, in stages that train ``lips``.
        identity: weight of the loss of the face embedding predicted from video tokens, in stages that train
            ``identity``.
    """

    logit_mean: float = 0.0
    logit_std: float = Field(default=1.0, gt=0.0)
    shift: float = Field(default=1.0, gt=0.0)
    uniform_prob: Fraction = 0.0
    face: LossWeight = 0.0
    mouth: LossWeight = 0.0
    eyes: LossWeight = 0.0
    focus: LossWeight = 0.1
    lips: LossWeight = 0.1
    identity: LossWeight = 0.1


class OptimizerConfig(RecipeTable):
    """AdamW or Muon, gradient clipping, and the moving average of the weights.

    Args:
        betas, weight_decay: AdamW's.
        muon: use Muon for the matrices of the blocks, for a network that is trained from scratch; not with FSDP.
        muon_dtype: data type of Muon's iteration; by default bfloat16 on a GPU and float32 on a CPU. A CPU that
            multiplies in bfloat16 is three times as fast with it.
        max_grad_norm: gradients with a larger norm are scaled down to it.
        ema_decay: decay of the exponential moving average.
    """

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    weight_decay: LossWeight = 0.01
    muon: bool = False
    muon_dtype: Literal["float32", "bfloat16"] | None = None
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    ema_decay: float = Field(default=0.9999, ge=0.0, lt=1.0)


class CheckpointConfig(RecipeTable):
    """Checkpoints of a run.

    Args:
        every_minutes: minutes between two checkpoints; 0 writes one after every step.
        keep_last: number of checkpoints that stay.
    """

    every_minutes: float = Field(default=10.0, ge=0.0)
    keep_last: int = Field(default=2, ge=1)


class ValidationConfig(RecipeTable):
    """Videos generated with the averaged weights at a fixed seed, and losses on held-out clips.

    Args:
        every_steps: number of steps between two validations; 0 disables them.
        split: split of truth/attributes.parquet; without one, the first clips of the training data are used.
        num_videos: number of videos to generate.
        loss_clips: number of clips to measure the loss on.
        inference_steps: denoising steps of a video; by default the preset's.
        seed: seed of the videos and of the noise.
    """

    every_steps: int = Field(default=0, ge=0)
    split: str = "test"
    num_videos: int = Field(default=2, ge=0)
    loss_clips: int = Field(default=16, ge=0)
    inference_steps: int | None = Field(default=None, ge=1)
    seed: Seed = 0


class LoRASettings(RecipeTable):
    """LoRA on the linear layers of the stages' parameter groups, which are then not trained themselves."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=16.0, gt=0.0)


Range = tuple[Annotated[float, Field(ge=0.0, le=MAX_SCALE)], Annotated[float, Field(ge=0.0, le=MAX_SCALE)]]
"""Smallest and largest value of a guidance scale."""


class DistillConfig(RecipeTable):
    """Distillation of a student with few steps of one pass each (`humo.training.distillation`).

    Args:
        steps: number of steps of the student.
        teacher_steps_per_step: number of guided steps of the teacher for each of them.
        shift: shift of the noise schedule; by default the preset's.
        guidance_ranges: guidance scale (text, audio or image) -> range that the student is trained on. A scale without
            a range is fixed to the preset's.
        trajectories: number of trajectories of the teacher to learn from; they are stored with the encoded clips.
    """

    steps: int = Field(default=6, ge=1, le=1000)
    teacher_steps_per_step: int = Field(default=3, ge=1, le=100)
    shift: float | None = Field(default=None, ge=0.1, le=100.0)
    guidance_ranges: Mapping[ScaleName, Range] = Field(default_factory=dict)
    trajectories: int = Field(default=1000, ge=1)

    @field_validator("guidance_ranges")
    @classmethod
    def _are_in_order(cls, ranges: Mapping[str, tuple[float, float]]) -> Mapping[str, tuple[float, float]]:
        for name, (low, high) in ranges.items():
            if low > high:
                raise ValueError(f"{name} from {low:g} to {high:g} is not a range; give the smaller value first")
        return ranges


class ComputeConfig(RecipeTable):
    """Device, data type and parallelism.

    Args:
        device: as in a request.
        attention_backend: diffusers' name of the attention backend. On a CPU, ``_native_math`` is the fastest for
            training on short sequences.
        dtype: data type of the blocks; master weights and their averages are float32.
        compile: compile the blocks, which takes a minute at the start and makes a pass about a sixth faster.
        gradient_accumulation_steps: number of passes a step.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        fsdp: shard the weights over several processes (FSDP2) instead of replicating them.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention_backend: str = "native"
    compile: bool = False
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    gradient_checkpointing: bool = False
    fsdp: bool = True


class Recipe(RecipeTable):
    """A training run of a network."""

    output: str = Field(min_length=1)
    seed: Seed = 0
    model: ModelConfig
    data: DataConfig
    stages: tuple[Stage, ...] = Field(min_length=1)
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    validation: ValidationConfig = ValidationConfig()
    lora: LoRASettings | None = None
    distill: DistillConfig | None = None
    compute: ComputeConfig = ComputeConfig()
    tensorboard: bool = True

    @model_validator(mode="before")
    @classmethod
    def _fill_in_published_stages(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("stages"), list | tuple):
            return values
        return {**values, "stages": [_with_published(stage) for stage in values["stages"]]}

    @model_validator(mode="after")
    def _muon_needs_full_matrices(self) -> Recipe:
        if self.optimizer.muon and self.compute.fsdp:
            raise ValueError("optimizer.muon cannot be combined with FSDP; set compute.fsdp = false")
        return self

    @model_validator(mode="after")
    def _distillation_is_possible(self) -> Recipe:
        if self.distill is None:
            return self
        if self.model.network is not None:
            raise ValueError("distill needs a trained network; set model.folder, and remove model.network")
        first = self.stages[0]
        for stage in self.stages:
            for name in ("frames", "condition_probs", "audio_prob"):
                if getattr(stage, name) != getattr(first, name):
                    problem = f"{name} of stage {stage.name!r} differs from that of the first stage"
                    raise ValueError(f"{problem}; give all stages of a student the same")
            if heads := {"focus", "lips", "identity"} & set(stage.train):
                problem = f"{sorted(heads)[0]} cannot be trained in distillation"
                raise ValueError(f"{problem}; remove it from train of stage {stage.name!r}")
            if any("T" not in kept for kept in stage.condition_probs):
                problem = f"condition_probs of stage {stage.name!r} has samples without text, which no mode has"
                raise ValueError(f"{problem}; use condition sets with T")
        return self

    @model_validator(mode="after")
    def _batch_sizes_are_divisible(self) -> Recipe:
        for stage in self.stages:
            if stage.batch_size % self.compute.gradient_accumulation_steps:
                problem = f"batch_size {stage.batch_size} of stage {stage.name!r} is not a multiple of"
                passes = f"compute.gradient_accumulation_steps {self.compute.gradient_accumulation_steps}"
                raise ValueError(f"{problem} {passes}; change one of them")
        return self

    @property
    def steps(self) -> int:
        """Number of steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def cache(self) -> Path:
        """Folder of encoded clips."""
        return Path(self.data.cache) if self.data.cache else Path(self.output) / "cache"


def _with_published(stage: Any) -> Any:
    """Return the fields of a stage, with those of the published stage that it names."""
    if not isinstance(stage, Mapping) or "published_stage" not in stage:
        return stage
    number = stage["published_stage"]
    own = {name: value for name, value in stage.items() if name != "published_stage"}
    if number not in PUBLISHED_STAGES:
        known = ", ".join(map(str, PUBLISHED_STAGES))
        raise ValueError(f"published_stage {number!r} is unknown; choose among {known}")
    return PUBLISHED_STAGES[number].model_dump() | own
