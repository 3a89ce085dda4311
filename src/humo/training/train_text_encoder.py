"""``humo train text``, the whole story: a tokenizer, and a small umT5 whose embeddings tell what captions say.

    tokenizer   sentencepiece's unigram model of all captions and paraphrases
    each step   a caption or a paraphrase of each drawn clip, some words hidden; for every attribute, a head that looks
                over all embeddings says what is true of the clip; loss = mean cross-entropy of all attributes.
                What a text does not mention can only be guessed as it is distributed, which costs every text the same.
    end         the share of attributes told from captions not trained on; two folders, encoder and tokenizer

Shape suffixes: B batch, L positions, D width, A attributes, V values of an attribute.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from humo.conditioning.text import clean, encode_tokens, tokenize
from humo.distributed.process_group import ProcessGroup, process_group
from humo.model.seeding import seeded_generator
from humo.training.collate import Decks
from humo.training.component_config import TextRecipe
from humo.training.dataset import Described, no_clips, read_words
from humo.training.loop import Lesson, Note, Progress, has_begun, train_part

ENCODER, TOKENIZER, FIGURES_FILE = "text_encoder", "tokenizer", "figures.json"
"""In the folder of a run."""

PAD, END, UNKNOWN = 0, 1, 2
"""Ids as T5 has them."""

DROPOUT = 0.1
EMBEDDING_DEVIATION = 1.0
"""Of the first embeddings, as T5's."""


class Reader(nn.Module):
    """The encoder, and for each attribute a head: a query over all embeddings, then a linear layer.

    Args:
        encoder: umT5's.
        sizes: how many values each attribute has.
    """

    def __init__(self, encoder: UMT5EncoderModel, sizes: Sequence[int]) -> None:
        super().__init__()
        width = encoder.config.d_model
        self.encoder = encoder
        self.queries = nn.Parameter(torch.randn(len(sizes), width) / width**0.5)
        self.answers = nn.ModuleList(nn.Linear(width, size) for size in sizes)

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> list[Tensor]:
        """Logits (B, V) of each attribute."""
        hidden_BLD = encode_tokens(ids_BL, mask_BL, self.encoder)
        scores_BAL = torch.einsum("ad,bld->bal", self.queries, hidden_BLD) / hidden_BLD.shape[-1] ** 0.5
        weights = scores_BAL.masked_fill(mask_BL[:, None] == 0, float("-inf")).softmax(dim=-1)
        seen_BAD = weights @ hidden_BLD
        return [answer(seen_BAD[:, number]) for number, answer in enumerate(self.answers)]


def train_text(
    recipe: TextRecipe,
    *,
    resume: bool = False,
    progress: Progress = lambda name, done, total: None,
    note: Note = lambda text: None,
) -> Path:
    """Do what a recipe says.

    Args:
        recipe: the whole run.
        resume: go on from the last checkpoint.
        progress: told (phase, done, total).
        note: told what is worth saying.

    Returns:
        the folder that holds ``text_encoder`` and ``tokenizer``.

    Raises:
        HuMoError: the recipe, the data or a checkpoint is at fault, or the disk is full.
    """
    with process_group(recipe.compute.device) as here:
        if not here.is_main:
            progress, note = (lambda name, done, total: None), (lambda text: None)
        has_begun(recipe, resume)
        here.local_slice(recipe.batch)
        described = read_words(recipe.data, recipe.attributes)
        wanted = described if recipe.data.split is None else (recipe.data.split, "")
        clips = [clip for split in wanted for clip in described.get(split, ())][: recipe.data.clips]
        if not clips:
            raise no_clips(recipe.data)
        others = (described.get(recipe.validation.split) or clips)[: recipe.validation.loss_clips]
        values = [sorted(set(column)) for column in zip(*(clip.attributes for clip in clips), strict=True)]
        tokenizer = make_tokenizer([words for clip in clips for words in clip.captions], recipe.vocabulary)
        reader = Reader(_encoder(recipe, len(tokenizer)), [len(every) for every in values]).to(here.device)
        answers = {
            clip.name: [
                every.index(word) if word in every else -1 for word, every in zip(clip.attributes, values, strict=True)
            ]
            for clip in (*clips, *others)
        }
        lesson = Lesson(
            ("loss", "told"),
            lambda step, decks: _losses(recipe, here, reader, tokenizer, clips, answers, step, decks),
            lambda part: told(part, tokenizer, recipe, others, answers),
        )
        train_part(recipe, reader, lesson, here, progress, note)
        made = Path(recipe.output)
        if here.is_main:
            figures = told(reader, tokenizer, recipe, others, answers)
            reader.encoder.save_pretrained(str(made / ENCODER))
            tokenizer.save_pretrained(str(made / TOKENIZER))
            (made / FIGURES_FILE).write_text(json.dumps(figures, indent=1) + "\n")
            note("told from captions: " + ", ".join(f"{name} {share:.0%}" for name, share in figures.items()))
        here.barrier()
        return made


def make_tokenizer(texts: Sequence[str], vocabulary: int) -> T5Tokenizer:
    """A unigram tokenizer of these texts; every letter of them is a piece of its own, too.

    Args:
        texts: as written.
        vocabulary: pieces at most; fewer where the texts have no more.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([clean(text) for text in texts]),
        model_writer=model,
        model_type="unigram",
        vocab_size=vocabulary,
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
    ranked = [(pieces.id_to_piece(number), pieces.get_score(number)) for number in range(len(pieces))]
    return T5Tokenizer(vocab=ranked, extra_ids=0)


def _encoder(recipe: TextRecipe, vocabulary: int) -> UMT5EncoderModel:
    """A new encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        sizes = recipe.network.model_dump()
        config = UMT5Config(vocab_size=vocabulary, dropout_rate=DROPOUT, pad_token_id=PAD, eos_token_id=END, **sizes)
        encoder = UMT5EncoderModel(config)
    look_near(encoder)
    return encoder


SLOPES = ((1.0, 1.0), (0.5, 2.0), (2.0, 0.5), (0.0, 0.0))
"""Of the heads in turn: what a step to the left and one to the right costs attention at first."""


@torch.no_grad()
def look_near(encoder: UMT5EncoderModel) -> None:
    """Let the heads of an encoder that starts from nothing look at their neighbours, to one side or to both.

    What a colour belongs to is beside it. Left to itself, an optimiser needs thousands of steps to find that out: the
    bias of a distance moves by a learning rate a step, and has to become several units.
    """
    for layer in encoder.modules():
        if isinstance(bias := getattr(layer, "relative_attention_bias", None), nn.Embedding):
            side = bias.num_embeddings // 2  # buckets of distances to the left, then to the right
            steps = torch.arange(side, dtype=bias.weight.dtype)
            for head in range(bias.embedding_dim):
                left, right = SLOPES[head % len(SLOPES)]
                bias.weight[:, head] -= torch.cat([steps * left, steps * right])


def _losses(
    recipe: TextRecipe,
    here: ProcessGroup,
    reader: Reader,
    tokenizer: Any,
    clips: Sequence[Described],
    answers: Mapping[str, Sequence[int]],
    step: int,
    decks: Decks,
) -> list[Tensor]:
    """The mean cross-entropy of this process's share of a step's texts, and the share of attributes told."""
    generator = seeded_generator(recipe.seed, step)
    drawn = [clips[decks.draw("clips", len(clips))] for _ in range(recipe.batch)]
    texts = [one.captions[int(torch.randint(len(one.captions), (), generator=generator))] for one in drawn]
    share = here.local_slice(recipe.batch)
    ids, mask = tokenize(texts[share], tokenizer, recipe.length)
    hidden = torch.rand(ids.shape, generator=generator) < recipe.guess
    ids = torch.where(hidden & (ids > UNKNOWN), UNKNOWN, ids)
    torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))  # of the dropout
    precision = getattr(torch, recipe.compute.precision)
    with torch.autocast(here.device.partition(":")[0], precision, enabled=precision is not torch.float32):
        logits = reader(ids.to(here.device), mask.to(here.device))
    true = torch.tensor([answers[one.name] for one in drawn[share]], device=here.device)
    terms = [F.cross_entropy(one.float(), true[:, number]) for number, one in enumerate(logits)]
    right = [(one.argmax(dim=1) == true[:, number]).float().mean() for number, one in enumerate(logits)]
    return [torch.stack(terms).mean(), torch.stack(right).mean()]


@torch.no_grad()
def told(
    reader: Any, tokenizer: Any, recipe: TextRecipe, clips: Sequence[Described], answers: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Share of clips whose captions, the long ones, tell each attribute."""
    ids, mask = tokenize([clip.captions[0] for clip in clips], tokenizer, recipe.length)
    device = reader.queries.device
    logits = reader(ids.to(device), mask.to(device))
    true = torch.tensor([answers[clip.name] for clip in clips], device=device)
    return {
        name: round(float((one.argmax(dim=1) == true[:, number]).float().mean()), 4)
        for number, (name, one) in enumerate(zip(recipe.attributes, logits, strict=True))
    }
