"""``humo train text``: train a tokenizer and a small umT5 encoder whose embeddings encode the attributes of captions.

    tokenizer   SentencePiece unigram model of all captions and paraphrases
    each step   a caption or a paraphrase of each drawn clip, with some tokens masked; a head for each attribute reads
                the embeddings; loss = mean cross-entropy over attributes
    end         accuracy on held-out clips; the folders of encoder and tokenizer

An attribute that a text does not mention can only be predicted from its frequency; this adds the same loss to every
text.

Shape suffixes: B batch, L positions, D width, A attributes, V values of an attribute.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from humo.conditioning.text import clean, encode_tokens, tokenize
from humo.model.seeding import seeded_generator
from humo.training.component_config import TextEncoderRecipe
from humo.training.dataset import CaptionedClip, no_clips_error, read_captioned_clips
from humo.training.loop import TrainingRun, train_component, training_run
from humo.training.sampler import ShuffledSampler

ENCODER, TOKENIZER, METRICS_FILE = "text_encoder", "tokenizer", "metrics.json"
"""Folders and file in the folder of a run."""

PAD, END, UNKNOWN = 0, 1, 2
"""Token IDs, as T5 has them."""

DROPOUT = 0.1
"""Dropout probability of the encoder."""

LOSS_NAMES = ("loss", "attribute_accuracy")
"""Logged values of a step; the first is minimized."""


class AttributeProbe(nn.Module):
    """The encoder with a head for each attribute: one attention query over the embeddings, then a linear layer.

    Args:
        encoder: umT5 encoder.
        sizes: number of values of each attribute.
    """

    def __init__(self, encoder: UMT5EncoderModel, sizes: Sequence[int]) -> None:
        super().__init__()
        width = encoder.config.d_model
        self.encoder = encoder
        self.queries = nn.Parameter(torch.randn(len(sizes), width) / width**0.5)
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in sizes)

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> list[Tensor]:
        """Return the logits (B, V) of each attribute."""
        hidden_BLD = encode_tokens(ids_BL, mask_BL, self.encoder)
        scores_BAL = torch.einsum("ad,bld->bal", self.queries, hidden_BLD) / hidden_BLD.shape[-1] ** 0.5
        weights = scores_BAL.masked_fill(mask_BL[:, None] == 0, float("-inf")).softmax(dim=-1)
        pooled_BAD = weights @ hidden_BLD
        return [head(pooled_BAD[:, number]) for number, head in enumerate(self.heads)]


@dataclass(frozen=True)
class CaptionData:
    """Clips and their target classes.

    Args:
        clips: clips to train on.
        held_out: clips to measure on.
        values: values of each attribute, over the training clips.
        targets: clip name -> class index of each attribute; -1 where the value is in no training clip.
    """

    clips: Sequence[CaptionedClip]
    held_out: Sequence[CaptionedClip]
    values: Sequence[Sequence[str]]
    targets: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class TextBatch:
    """Tokens and targets of a step in this process.

    Args:
        ids, mask: (B, L).
        targets: class indices, (B, A).
        dropout_seed: seed of the pass.
    """

    ids: Tensor
    mask: Tensor
    targets: Tensor
    dropout_seed: int


@training_run
def train_text_encoder(run: TrainingRun[TextEncoderRecipe]) -> Path:
    """Train the text encoder of a recipe (`humo.training.loop.TrainingFunction`).

    Returns:
        folder with ``text_encoder`` and ``tokenizer``.
    """
    recipe = run.recipe
    run.group.local_slice(recipe.batch_size)
    data = _read_data(recipe)
    tokenizer = train_tokenizer([text for clip in data.clips for text in clip.captions], recipe.vocab_size)
    probe = _build_probe(recipe, len(tokenizer), [len(values) for values in data.values]).to(run.group.device)
    train_component(
        run,
        probe,
        lambda step, sampler: _batches(run, tokenizer, data, step, sampler),
        lambda batch: _losses(run, probe, batch),
        LOSS_NAMES,
        lambda averaged: attribute_accuracy(averaged, tokenizer, recipe, data.held_out, data.targets),
    )
    if run.group.is_main:
        accuracy = attribute_accuracy(probe, tokenizer, recipe, data.held_out, data.targets)
        probe.encoder.save_pretrained(str(run.folder / ENCODER))
        tokenizer.save_pretrained(str(run.folder / TOKENIZER))
        (run.folder / METRICS_FILE).write_text(json.dumps(accuracy, indent=1) + "\n")
        run.note("accuracy: " + ", ".join(f"{name} {value:.0%}" for name, value in accuracy.items()))
    run.group.barrier()
    return run.folder


def check_data(recipe: TextEncoderRecipe) -> dict[str, int]:
    """Check the captions and attributes of a recipe and count its clips.

    Raises:
        RequestError: there are no clips, or an attribute is missing.
    """
    data = _read_data(recipe)
    return {"clips": len(data.clips), "held-out clips": len(data.held_out)}


def _read_data(recipe: TextEncoderRecipe) -> CaptionData:
    """Read captions and attributes, and number the values of each attribute."""
    by_split = read_captioned_clips(recipe.data, recipe.attributes)
    splits = by_split if recipe.data.split is None else (recipe.data.split, "")
    clips = [clip for split in splits for clip in by_split.get(split, ())][: recipe.data.max_clips]
    if not clips:
        raise no_clips_error(recipe.data)
    held_out = (by_split.get(recipe.validation.split) or clips)[: recipe.validation.loss_clips]
    values = [sorted(set(column)) for column in zip(*(clip.attributes for clip in clips), strict=True)]
    targets = {
        clip.name: [
            known.index(value) if value in known else -1 for value, known in zip(clip.attributes, values, strict=True)
        ]
        for clip in (*clips, *held_out)
    }
    return CaptionData(clips, held_out, values, targets)


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> T5Tokenizer:
    """Train a unigram tokenizer; every character of the texts is a token of its own, too.

    Args:
        texts: texts as written.
        vocab_size: largest number of tokens; there are fewer if the texts do not have as many.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([clean(text) for text in texts]),
        model_writer=model,
        model_type="unigram",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=PAD,
        eos_id=END,
        unk_id=UNKNOWN,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocab = [(pieces.id_to_piece(number), pieces.get_score(number)) for number in range(len(pieces))]
    return T5Tokenizer(vocab=vocab, extra_ids=0)


def _build_probe(recipe: TextEncoderRecipe, vocab_size: int, sizes: Sequence[int]) -> AttributeProbe:
    """Build the encoder and its heads with initial weights that follow from the recipe's seed.

    Args:
        recipe: the run.
        vocab_size: number of tokens.
        sizes: number of values of each attribute.
    """
    network = recipe.network.model_dump()
    config = UMT5Config(vocab_size=vocab_size, dropout_rate=DROPOUT, pad_token_id=PAD, eos_token_id=END, **network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        probe = AttributeProbe(UMT5EncoderModel(config), sizes)
    init_local_attention(probe.encoder)
    return probe


ALIBI_SLOPES = ((1.0, 1.0), (0.5, 2.0), (2.0, 0.5), (0.0, 0.0))
"""Slopes of the initial attention bias for distances to the left and to the right, of the heads in turn.

**Source:** O. Press et al., "Train short, test long" (ALiBi, arXiv 2108.12409), for both directions.
"""


@torch.no_grad()
def init_local_attention(encoder: UMT5EncoderModel) -> None:
    """Initialize the relative attention bias so that heads attend to neighbors on one side or on both.

    A color and the thing that has it are neighbors in a caption. An optimizer needs thousands of steps to learn this: a
    bias moves by about one learning rate a step, and has to grow to several units.
    """
    for layer in encoder.modules():
        if isinstance(bias := getattr(layer, "relative_attention_bias", None), nn.Embedding):
            side = bias.num_embeddings // 2  # buckets of distances to the left, then to the right
            distances = torch.arange(side, dtype=bias.weight.dtype)
            for head in range(bias.embedding_dim):
                left, right = ALIBI_SLOPES[head % len(ALIBI_SLOPES)]
                bias.weight[:, head] -= torch.cat([distances * left, distances * right])


def _batches(
    run: TrainingRun[TextEncoderRecipe], tokenizer: Any, data: CaptionData, step: int, sampler: ShuffledSampler
) -> Iterator[TextBatch]:
    """Yield this process's batch of a step."""
    recipe = run.recipe
    generator = seeded_generator(recipe.seed, step)
    clips = [data.clips[sampler.draw("clips", len(data.clips))] for _ in range(recipe.batch_size)]
    texts = [clip.captions[int(torch.randint(len(clip.captions), (), generator=generator))] for clip in clips]
    local = run.group.local_slice(recipe.batch_size)
    ids, mask = tokenize(texts[local], tokenizer, recipe.max_length)
    masked = torch.rand(ids.shape, generator=generator) < recipe.mask_prob
    ids = torch.where(masked & (ids > UNKNOWN), UNKNOWN, ids)
    dropout_seed = int(torch.randint(2**31, (), generator=generator))
    yield TextBatch(ids, mask, torch.tensor([data.targets[clip.name] for clip in clips[local]]), dropout_seed)


def _losses(run: TrainingRun[TextEncoderRecipe], probe: AttributeProbe, batch: TextBatch) -> list[Tensor]:
    """Return mean cross-entropy and accuracy over attributes, in the order of `LOSS_NAMES`."""
    device, dtype = run.group.device, run.dtype
    torch.manual_seed(batch.dropout_seed)
    with torch.autocast(device.partition(":")[0], dtype, enabled=dtype is not torch.float32):
        logits = probe(batch.ids.to(device), batch.mask.to(device))
    targets = batch.targets.to(device)
    entropies = [F.cross_entropy(scores.float(), targets[:, number]) for number, scores in enumerate(logits)]
    correct = [(scores.argmax(dim=1) == targets[:, number]).float().mean() for number, scores in enumerate(logits)]
    return [torch.stack(entropies).mean(), torch.stack(correct).mean()]


@torch.no_grad()
def attribute_accuracy(
    probe: Any,
    tokenizer: Any,
    recipe: TextEncoderRecipe,
    clips: Sequence[CaptionedClip],
    targets: Mapping[str, Sequence[int]],
) -> dict[str, float]:
    """Return, for each attribute, the fraction of clips whose caption gives the true value."""
    ids, mask = tokenize([clip.captions[0] for clip in clips], tokenizer, recipe.max_length)
    device = probe.queries.device
    logits = probe(ids.to(device), mask.to(device))
    true = torch.tensor([targets[clip.name] for clip in clips], device=device)
    return {
        name: round(float((scores.argmax(dim=1) == true[:, number]).float().mean()), 4)
        for number, (name, scores) in enumerate(zip(recipe.attributes, logits, strict=True))
    }
