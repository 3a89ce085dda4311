"""A training recipe as a frozen value: every setting, its limits and its default; read from a TOML file.

Published values and where they come from: training.md of the method (the report's two stages; where it is silent, the
recipes of neighbouring projects). Whatever a recipe leaves out is the value here.
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

Part = Literal[
    "all", "self_attention", "text_attention", "audio", "feed_forward", "embeddings", "output",
    "scales", "focus", "lips", "identity",
]  # fmt: skip
"""What a stage can train; `parts.PATTERNS` says which weights each is."""

Kept = Literal["TIA", "TI", "TA", "IA", "T", "I", "A", "-"]
"""Conditions kept together in a sample: letters of TIA, ``-`` for none."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Side = Annotated[int, Field(ge=SIZE_MULTIPLE, multiple_of=SIZE_MULTIPLE)]
Weight = Annotated[float, Field(ge=0.0)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


def _several(given: Any) -> Any:
    """A list where one value was given alone."""
    return given if isinstance(given, list | tuple) else (given,)


class Table(BaseModel):
    """A table of a recipe: nothing unknown in it, nothing changed in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Network(Table):
    """A network to start from nothing. Channels and widths that its encoders decide are not settings.

    Args:
        sigma_data_share: of each latent channel's deviation is its sigma_data (`HuMoTransformer3DModel`); by default
            one number stands for all channels. For a network that predicts data.
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
    prediction: Literal["velocity", "data"] = "velocity"
    sigma_data_share: float | None = Field(default=None, gt=0.0, le=2.0)

    @model_validator(mode="after")
    def _sigma_is_for_data(self) -> Network:
        if self.sigma_data_share is not None and self.prediction != "data":
            raise ValueError('sigma_data_share is for prediction = "data"; set that, or leave it out')
        return self


class Model(Table):
    """What training starts from: a model folder, or a network from nothing and the folders of its encoders.

    Args:
        folder: a model folder; every part that is not named otherwise is taken from it.
        preset: the family, where no folder tells.
        network: start the network from nothing.
        fresh: parts of the folder's network that begin anew, as the audio modules when HuMo was made of Wan2.1.
        vae, text_encoder, tokenizer, audio_encoder, feature_extractor: folders of single parts.
    """

    folder: str | None = None
    preset: str | None = None
    network: Network | None = None
    fresh: Annotated[tuple[Part, ...], BeforeValidator(_several)] = ()
    vae: str | None = None
    text_encoder: str | None = None
    tokenizer: str | None = None
    audio_encoder: str | None = None
    feature_extractor: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Model:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} is not known; {did_you_mean(self.preset, PRESETS)}")
        if self.folder is None:
            needed = ("preset", "network", "vae", "text_encoder", "tokenizer", "audio_encoder", "feature_extractor")
            if missing := [name for name in needed if getattr(self, name) is None]:
                raise ValueError(f"without a model folder, {', '.join(missing)} must be given; see recipes/nano.toml")
        if self.fresh and self.network is not None:
            raise ValueError("fresh is for the network of a folder, and network is all new; leave one of them out")
        return self


class Render(Table):
    """Shards of rendered people, rendered beside the training by processes of the lowest priority.

    Args:
        workers: processes of one thread each.
        keep: so many shards of each worker stay, and the oldest go; by default all stay.
        begin: with this many shards there are, training begins.
        seed, sizes, takes, take_frames, double_every, speeches, identities, people_per_shard, closeness, articulation:
            as in `humo.synthetic.shards.ShardConfig`, where ``identities`` are ``people``.
    """

    workers: int = Field(default=1, ge=1)
    keep: int | None = Field(default=None, ge=1)
    begin: int = Field(default=1, ge=1)
    seed: Seed = 0
    sizes: tuple[tuple[Side, Side], ...] = Field(default=((96, 96),), min_length=1)
    takes: int = Field(default=8, ge=1)
    take_frames: int = Field(default=1, ge=1)
    double_every: int = Field(default=0, ge=0)
    speeches: int = Field(default=600, ge=20)
    identities: int = Field(default=24_000, ge=6)
    people_per_shard: int = Field(default=64, ge=1)
    closeness: Share = 0.8
    articulation: float = Field(default=1.5, ge=0.5, le=2.0)


class Data(Table):
    """The clips (`dataset` tells the folder's layout) and what becomes of them.

    Args:
        folder: in HuMoSet's layout; or of shards (`humo data synth --frames-per-look`), which may grow meanwhile.
        more: further folders of the same layout; clips of these are named by their folder, too.
        name_column, caption_column: of video_caption.parquet; found by their contents where not named.
        split: of truth/attributes.parquet, where there is one; clips of other splits are left alone.
        sizes: (width, height) in pixels; a clip takes the one nearest to its own aspect, cut to it at the centre.
        windows: pieces a clip is cut into, evenly spaced, where it is longer than the stages need.
        mirror: every piece also left to right.
        views: of each reference: 1 as it is, 2 left to right as well, 3 and 4 nearer, too; a sample sees one of them.
        own_faces: share of samples whose reference is a face cut out of the clip itself, moved and scaled, where the
            face masks are known.
        continued: share of samples whose first latent frames are shown nearly clean, so that the network learns to go
            on from what there is, as in long clips; says so in the weights' configuration.
        paraphrases: share of samples that read a paraphrase in place of the caption, where there are any.
        bad_share: more bad clips than this, and the run is refused before the first step.
        clips: use only so many, the first by name.
        still_references: of shards, the share of references that are the look's picture at rest, and not a frame in
            which it speaks.
        max_speeches: of shards, so many of their speeches are encoded; takes of the others have no audio.
        render: render shards into ``folder`` beside the training.
        cache: folder of encoded clips; by default ``cache`` in the output folder.
    """

    folder: str
    more: tuple[str, ...] = ()
    name_column: str | None = None
    caption_column: str | None = None
    split: str | None = "train"
    sizes: tuple[tuple[Side, Side], ...] = Field(default=((832, 480), (480, 832)), min_length=1)
    windows: int = Field(default=1, ge=1)
    mirror: bool = False
    views: int = Field(default=1, ge=1, le=4)
    own_faces: Share = 0.0
    continued: Share = 0.0
    paraphrases: Share = 0.0
    bad_share: Share = 0.05
    clips: int | None = Field(default=None, ge=1)
    still_references: Share = 0.5
    max_speeches: int | None = Field(default=None, ge=1)
    render: Render | None = None
    cache: str | None = None


KEEP: Mapping[Kept, float] = MappingProxyType({"TIA": 0.70, "TA": 0.08, "T": 0.08, "-": 0.06, "TI": 0.05, "I": 0.03})
"""Every pass of the guidance ladders of both families is trained; text is dropped in 9 % (published: 10 %)."""


class Stage(Table):
    """A stretch of training with one set of trained parts.

    Args:
        name: for logs.
        steps: of the optimiser.
        train: the parts.
        audio_share: share of samples that hear their sound, at the first and at the last step; even in between.
        keep: conditions kept together -> share of samples; "A" only counts in samples that hear.
        frames: lengths, 4k + 1 each; a clip takes part in every one it is long enough for.
        batch: samples a step, over all processes and accumulated passes.
        learning_rate: the highest.
        warmup: steps of its even rise.
        schedule: how it falls to zero from ``decay_from`` (a share of the steps) on.
    """

    name: str = Field(min_length=1)
    steps: int = Field(ge=1)
    train: Annotated[tuple[Part, ...], BeforeValidator(_several)] = Field(min_length=1)
    audio_share: tuple[Share, Share] = (0.0, 0.0)
    keep: Mapping[Kept, Share] = Field(default_factory=lambda: dict(KEEP))
    frames: Annotated[tuple[int, ...], BeforeValidator(_several)] = Field(default=(97,), min_length=1)
    batch: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-5, gt=0.0)
    warmup: int = Field(default=1000, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    decay_from: float = Field(default=0.0, ge=0.0, lt=1.0)

    @field_validator("frames")
    @classmethod
    def _of_the_form(cls, frames: tuple[int, ...]) -> tuple[int, ...]:
        for length in frames:
            if length < 1 or snap_frames(length) != length:
                raise ValueError(f"{length} frames are not 4k + 1; the nearest below is {snap_frames(length)}")
        return tuple(sorted(set(frames)))

    @field_validator("keep")
    @classmethod
    def _adds_up(cls, keep: Mapping[Kept, float]) -> Mapping[Kept, float]:
        if abs(sum(keep.values()) - 1) > 1e-6:
            raise ValueError(f"the shares add up to {sum(keep.values()):g}, and must to 1; change one of them")
        return {kept: keep[kept] for kept in get_args(Kept) if kept in keep}


PUBLISHED: Mapping[int, Stage] = MappingProxyType(
    {
        0: Stage(name="text to video", steps=40_000, train=("all",), keep={"T": 0.9, "-": 0.1}),
        1: Stage(name="subject", steps=40_000, train=("self_attention",)),
        2: Stage(name="sync", steps=40_000, train=("self_attention", "audio", "focus"), audio_share=(0.2, 0.5)),
    }
)
"""The published stages; 0 is Wan2.1's own, for a network that starts from nothing. A recipe's stage that says
``published = 1`` is that one but for the fields it gives."""


class Loss(Table):
    """What is minimised.

    Args:
        time_mean, time_deviation: of the logit-normal noise level.
        shift: of the noise levels drawn, as that of the sampler; 1 is none.
        uniform: share of noise levels drawn evenly instead.
        face, mouth, eyes: added to the weight (1) of a place that lies on a face, on a mouth, at the height of the
            eyes; where the truth is known (eyes: in shards).
        focus: weight of the focus-by-predicting loss, in stages that train ``focus``.
        lips: weight of the loss from audio tokens to the true mouth curve, in stages that train ``lips``.
        identity: weight of the loss from video tokens to the reference's face embedding, in stages that train
            ``identity``.
    """

    time_mean: float = 0.0
    time_deviation: float = Field(default=1.0, gt=0.0)
    shift: float = Field(default=1.0, gt=0.0)
    uniform: Share = 0.0
    face: Weight = 0.0
    mouth: Weight = 0.0
    eyes: Weight = 0.0
    focus: Weight = 0.1
    lips: Weight = 0.1
    identity: Weight = 0.1


class Optimiser(Table):
    """AdamW, the longest gradient that is not shortened, and how long the moving average of the weights remembers.

    Args:
        betas, weight_decay: AdamW's.
        muon: take Muon for the matrices of the blocks (not with shards): for a network that starts from nothing.
        muon_precision: of its iteration; by default bfloat16 on a GPU and float32 on a CPU, where bfloat16 is three
            times as fast if the CPU multiplies it.
        clip: the longest gradient.
        ema: share of the average kept at a step.
    """

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    weight_decay: Weight = 0.01
    muon: bool = False
    muon_precision: Literal["float32", "bfloat16"] | None = None
    clip: float = Field(default=1.0, gt=0.0)
    ema: float = Field(default=0.9999, ge=0.0, lt=1.0)


class Checkpoints(Table):
    """Minutes between two (0: after every step), and how many are kept."""

    minutes: float = Field(default=10.0, ge=0.0)
    keep: int = Field(default=2, ge=1)


class Validation(Table):
    """Clips made with the averaged weights at fixed seeds, and the loss on clips that are not trained on.

    Args:
        steps: between two validations; 0 is never.
        split: of truth/attributes.parquet; where there is none, the first clips of the training data stand in.
        clips: how many are made, each with its sound.
        loss_clips: over how many the loss is measured.
        inference_steps: of each clip made; by default the family's.
        seed: of their noise.
    """

    steps: int = Field(default=0, ge=0)
    split: str = "test"
    clips: int = Field(default=2, ge=0)
    loss_clips: int = Field(default=16, ge=0)
    inference_steps: int | None = Field(default=None, ge=1)
    seed: Seed = 0


class Lora(Table):
    """Train low-rank additions to the linear layers of the stages' parts, in place of the parts."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=16.0, gt=0.0)


Range = tuple[Annotated[float, Field(ge=0.0, le=MAX_SCALE)], Annotated[float, Field(ge=0.0, le=MAX_SCALE)]]
"""The lowest and the highest of a scale."""


class Distill(Table):
    """A student of the network: one pass a step, few steps, told the guidance scales (`humo.training.distillation`).

    Args:
        steps: that the student takes.
        teacher_steps: guided steps of the teacher within each of them.
        shift: of the noise schedule; by default the family's.
        scales: of text, audio and image -> the lowest and the highest that the student is told; one of them that is
            not named is always the family's.
        walks: of the teacher, each from noise to a clip, from which the student learns; kept with the encoded clips.
    """

    steps: int = Field(default=6, ge=1, le=1000)
    teacher_steps: int = Field(default=3, ge=1, le=100)
    shift: float | None = Field(default=None, ge=0.1, le=100.0)
    scales: Mapping[ScaleName, Range] = Field(default_factory=dict)
    walks: int = Field(default=1000, ge=1)

    @field_validator("scales")
    @classmethod
    def _in_order(cls, scales: Mapping[str, tuple[float, float]]) -> Mapping[str, tuple[float, float]]:
        for name, (low, high) in scales.items():
            if low > high:
                raise ValueError(f"{name} from {low:g} to {high:g} is no range; give the lowest first")
        return scales


class Compute(Table):
    """Where and how precisely.

    Args:
        device: as in a request.
        attention: diffusers' name of the attention kernel; on a CPU ``_native_math`` is the faster one while training
            on short sequences.
        precision: of the blocks; weights are kept and averaged in float32 whatever it is.
        compile: let torch compile the blocks, a minute at the start for a sixth of each pass.
        accumulation: passes a step.
        gradient_checkpointing: compute the blocks again on the way back, in less memory.
        shard: several processes hold a part of the weights each (FSDP2), rather than all of them.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    attention: str = "native"
    compile: bool = False
    accumulation: int = Field(default=1, ge=1)
    gradient_checkpointing: bool = False
    shard: bool = True


class Recipe(Table):
    """A whole run."""

    output: str = Field(min_length=1)
    seed: Seed = 0
    model: Model
    data: Data
    stages: tuple[Stage, ...] = Field(min_length=1)
    loss: Loss = Loss()
    optimiser: Optimiser = Optimiser()
    checkpoints: Checkpoints = Checkpoints()
    validation: Validation = Validation()
    lora: Lora | None = None
    distill: Distill | None = None
    compute: Compute = Compute()
    tensorboard: bool = True

    @model_validator(mode="before")
    @classmethod
    def _published_stages(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or not isinstance(given.get("stages"), list | tuple):
            return given
        return {**given, "stages": [_with_published(stage) for stage in given["stages"]]}

    @model_validator(mode="after")
    def _muon_sees_whole_matrices(self) -> Recipe:
        if self.optimiser.muon and self.compute.shard:
            raise ValueError("optimiser.muon needs whole matrices; set compute.shard = false beside it")
        return self

    @model_validator(mode="after")
    def _a_student_has_a_teacher(self) -> Recipe:
        if self.distill is not None and self.model.network is not None:
            raise ValueError(
                "distill needs a network that has learned something; give model.folder, and no model.network"
            )
        first = self.stages[0]
        for stage in self.stages if self.distill is not None else ():
            if (stage.frames, stage.keep, stage.audio_share) != (first.frames, first.keep, first.audio_share):
                raise ValueError(
                    f"{stage.name!r} has other frames, keep or audio_share than the first stage; copy those"
                )
            if heads := {"focus", "lips", "identity"} & set(stage.train):
                raise ValueError(f"a student learns no {sorted(heads)[0]}; take it out of train of {stage.name!r}")
            if any("T" not in kept for kept in stage.keep):
                raise ValueError(f"keep of {stage.name!r} has samples without text, which no request makes; leave T")
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Recipe:
        for stage in self.stages:
            if stage.batch % self.compute.accumulation:
                problem = f"the batch of stage {stage.name!r} ({stage.batch}) cannot be divided into"
                raise ValueError(f"{problem} {self.compute.accumulation} accumulated passes; change one")
        return self

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def cache(self) -> Path:
        """Folder of encoded clips."""
        return Path(self.data.cache) if self.data.cache else Path(self.output) / "cache"


def _with_published(stage: Any) -> Any:
    if not isinstance(stage, Mapping) or "published" not in stage:
        return stage
    number, own = stage["published"], {name: value for name, value in stage.items() if name != "published"}
    if number not in PUBLISHED:
        raise ValueError(f"there is no published stage {number!r}; known are {', '.join(map(str, PUBLISHED))}")
    return PUBLISHED[number].model_dump() | own
