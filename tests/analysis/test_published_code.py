"""Networks and preprocessing equal the published code: values that it computed once (data/README.md says how)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from humo.analysis import face_alignment, sync_scores
from humo.analysis.face_tracks import FaceTrack, TrackRules, crop_track, find_tracks, median_filter
from humo.analysis.mfcc import mfcc
from humo.analysis.networks import image_encoders as encoders
from humo.analysis.networks import video_reward as reward
from humo.analysis.networks.ir_face import IRFace
from humo.analysis.networks.musiq import Musiq, MusiqConfig
from humo.analysis.networks.s3fd import MEAN_RGB, S3FD, detect_faces
from humo.analysis.networks.syncnet import SyncNet
from humo.evaluation.metrics.perceptual import shrink_for_quality
from tests.analysis.formula import fill, fill_all, image, project, uniform

GOLDEN = load_file(Path(__file__).parent / "data" / "published.safetensors")
BOUND = 1e-5


def check(name: str, value: Any, bound: float = BOUND) -> None:
    """Compare with the published code's value, relative to its size where that exceeds 1."""
    expected = GOLDEN[name].astype(np.float64)
    actual = np.asarray(value, np.float64)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= bound * max(1.0, np.abs(expected).max())


def filled(network: Any) -> Any:
    """Return a network with weights by formula."""
    network.load_state_dict(fill_all(network.state_dict()))
    return network.eval()


@torch.inference_mode()
def test_musiq_scores_images_of_three_sizes() -> None:
    network = filled(Musiq(MusiqConfig(width=48, mlp_width=96, heads=3, layers=2)))
    images = [
        torch.from_numpy(image("musiq", *size)).movedim(-1, 0)[None] / 255
        for size in ((120, 208), (97, 61), (250, 130))
    ]
    check("musiq", [float(network(one)) for one in images])


def test_musiq_has_as_many_parameters_as_published() -> None:
    with torch.device("meta"):
        assert sum(one.numel() for one in Musiq().parameters()) == 27_125_825


@torch.inference_mode()
def test_syncnet_embeds_lips_and_audio() -> None:
    network = filled(SyncNet())
    assert sum(one.numel() for one in network.parameters()) == 13_631_616
    frames = np.stack([image(f"lip {number}", 224, 224) for number in range(7)]).astype(np.float32)
    check("syncnet_lips", network.embed_lips(torch.from_numpy(frames).permute(3, 0, 1, 2)))
    cepstra = torch.from_numpy(uniform("cepstra", (2, 1, 13, 20))).float()[:, 0] * 20
    check("syncnet_audio", network.embed_audio(cepstra))


def test_sync_scores_of_embeddings() -> None:
    lips, audio = (torch.from_numpy(uniform(f"embedding {name}", (40, 1024))).float() for name in ("lips", "audio"))
    audio[4:] = lips[:-4] + 0.3 * audio[4:]
    score = sync_scores.score_embeddings(lips, audio)
    check("sync_scores", [score.offset, score.distance, score.confidence])
    check("sync_windows", score.by_window)


@pytest.mark.parametrize(("name", "length"), [("mfcc", 16_000), ("mfcc_short", 300)])
def test_cepstra_of_speech(name: str, length: int) -> None:
    grain = (uniform("speech", (16_000,)) * 20_000).astype(np.int16)
    times = np.arange(16_000)
    samples = (grain * 0.2 + 9000 * np.sin(times * 0.05) * np.sin(times * 0.0007)).astype(np.int16)
    check(name, mfcc(samples[:length]))


@torch.inference_mode()
def test_s3fd_predicts_boxes_and_scores() -> None:
    boxes, scores = filled(S3FD())(torch.from_numpy(uniform("s3fd image", (1, 3, 96, 128))).float() * 200)
    check("s3fd_first", torch.cat([boxes[:40], scores[:40, None]], dim=1))
    check("s3fd_last", torch.cat([boxes[-8:], scores[-8:, None]], dim=1))
    check("s3fd_boxes", project("boxes", boxes.numpy(), 32))
    check("s3fd_scores", project("scores", scores.numpy(), 32))


def test_s3fd_detects_faces_from_its_predictions() -> None:
    places = torch.from_numpy(uniform("detections", (60, 4))).float()
    centers, sizes = (places[:, :2] + 0.5) * 0.3 + 0.3, 0.15 + 0.1 * (places[:, 2:] + 0.5)
    boxes = torch.cat([centers - sizes / 2, centers + sizes / 2], dim=1)
    scores = torch.from_numpy(uniform("detection scores", (60,)) + 0.5).float()
    inputs: list[torch.Tensor] = []

    def network(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs.append(pixels)
        return boxes, scores

    faces = detect_faces(network, image("scene", 180, 320), 0.25, 0.5)  # type: ignore[arg-type]
    check("s3fd_input", project("s3fd", inputs[0].numpy(), 32))
    check("s3fd_detections", faces)
    assert MEAN_RGB == (123.0, 117.0, 104.0)


def detections() -> list[list[list[float]]]:
    """Three faces through 90 frames: with a gap, with single misses, and a small one in every second frame."""
    rows = []
    for frame in range(90):
        row: list[list[float]] = []
        if frame not in (20, 21, 22):
            row.append([100 + frame, 80 + 0.5 * frame, 260 + frame, 230 + 0.5 * frame])
        if frame % 7 != 3:
            row.append([400 - frame, 90.0, 560 - frame, 260.0])
        if frame % 2:
            row.insert(0, [10.0, 10.0, 60.0, 70.0])
        rows.append(row)
    return rows


def stored_tracks(prefix: str) -> list[NDArray[Any]]:
    return [GOLDEN[name] for name in sorted(GOLDEN) if name.startswith(prefix) and name[len(prefix) :].isdigit()]


@pytest.mark.parametrize("name", ["latentsync", "mocha"])
def test_face_tracks_of_both_published_trackers(name: str) -> None:
    rows = detections()
    if name == "mocha":
        rows = [[box for box in row if box[2] - box[0] > 100] for row in rows[23:]]
    tracks = find_tracks(rows, TrackRules(50, ends_at_misfit=name == "mocha"))
    expected = stored_tracks(f"tracks_{name}_")
    assert len(tracks) == len(expected) == 2
    for track, stored in zip(tracks, expected, strict=True):
        assert np.array_equal(track.frames, stored[:, 0])
        assert np.abs(track.boxes - stored[:, 1:]).max() < 1e-9


def test_the_tracker_of_mochabench_is_stopped_by_a_face_that_does_not_fit() -> None:
    assert len(find_tracks(detections(), TrackRules(50, ends_at_misfit=True))) == GOLDEN["tracks_mocha_count"] == 0


def test_crops_of_a_track() -> None:
    rows = stored_tracks("tracks_latentsync_")[-1]
    boxes = rows[:, 1:]
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / 2
    centers = [boxes[:, [axis, axis + 2]].mean(axis=1) for axis in (0, 1)]
    check("crop_smoothed", np.stack([median_filter(one) for one in (sides, *centers)]))
    picked = GOLDEN["crop_frames"].astype(int)
    frames = np.zeros((int(rows[-1, 0]) + 1, 360, 640, 3), np.uint8)
    for number in picked:
        frames[number] = image(f"crop {number}", 360, 640)
    crops = crop_track(frames, FaceTrack(rows[:, 0].astype(int), boxes))
    start = int(rows[0, 0])
    check("crops", np.stack([project("crop", crops[number - start], 32) for number in picked]))


@torch.inference_mode()
def test_ir_face_embeds_a_face() -> None:
    network = filled(IRFace(((64, 2), (128, 2), (256, 2), (512, 2))))
    check("ir_face", network(torch.from_numpy(uniform("face", (1, 3, 112, 112))).float() * 2))


@pytest.mark.parametrize("side", [112, 224])
def test_faces_are_aligned(side: int) -> None:
    points = np.array([[140.2, 120.5], [201.7, 110.1], [176.3, 160.9], [150.8, 195.4], [208.9, 186.2]], np.float32)
    template = face_alignment.TEMPLATE * (side / 112)
    check(f"align_matrix_{side}", face_alignment.similarity(points, template))
    aligned = face_alignment.align_face(image("portrait", 300, 340), points, side)
    check(f"aligned_{side}", project("aligned", aligned, 32))


def test_scrfd_decodes_faces_with_key_points() -> None:
    inputs: list[NDArray[np.float32]] = []

    def network(pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        inputs.append(pixels)
        shift = {"score": 0.01, "box": 2.5, "kps": 0.0}
        return [
            (uniform(f"{kind} {step}", ((320 // step) ** 2 * 2, width)) + shift[kind]).astype(np.float32)
            for kind, width in (("score", 1), ("box", 4), ("kps", 10))
            for step in (8, 16, 32)
        ]

    faces = face_alignment.detect(network, image("group", 240, 360), 320)
    check("scrfd_input", project("scrfd", inputs[0], 32))
    check("scrfd_detections", [[*face.box, face.score] for face in faces])
    check("scrfd_points", [face.points for face in faces])


@torch.inference_mode()
def test_clip_embeds_images_as_openai_does() -> None:
    """transformers' class with OpenAI's weights under its own names."""
    config = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"image_size": 224, "patch_size": 14, "projection_dim": 32}
    encoder = encoders.clip_encoder({**config, "hidden_act": "quick_gelu"})
    encoder.load_state_dict(_clip_weights(encoder.state_dict()))
    pixels = torch.from_numpy(uniform("clip image", (2, 3, 224, 224))).float() * 3
    check("clip", encoder(pixels).image_embeds)


def _clip_weights(shapes: Any) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    names = {
        "vision_model.embeddings.class_embedding": "class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "positional_embedding",
        "vision_model.pre_layrnorm.": "ln_pre.",
        "vision_model.post_layernorm.": "ln_post.",
        "vision_model.encoder.layers.": "transformer.resblocks.",
        ".layer_norm1.": ".ln_1.",
        ".layer_norm2.": ".ln_2.",
        ".mlp.fc1.": ".mlp.c_fc.",
        ".mlp.fc2.": ".mlp.c_proj.",
        ".self_attn.out_proj.": ".attn.out_proj.",
    }
    for name, value in shapes.items():
        theirs = _replaced(name, names)
        if name == "visual_projection.weight":
            weights[name] = fill("proj", (value.shape[1], value.shape[0])).T
        elif ".self_attn." in theirs:  # one matrix for query, key and value
            prefix, part = theirs.split(".self_attn.")
            kind, end = part.split("_proj.")
            shape = (3 * value.shape[0], *value.shape[1:])
            joined = fill(f"{prefix}.attn.in_proj_{end}", shape)
            weights[name] = joined.chunk(3)[("q", "k", "v").index(kind)]
        elif value.is_floating_point():
            weights[name] = fill(theirs, tuple(value.shape))
        else:
            weights[name] = value
    return weights


@torch.inference_mode()
def test_dino_embeds_images_as_facebook_does() -> None:
    """transformers' class with Facebook's weights under the names of their release, trained on larger images."""
    config = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 14}
    encoder = encoders.dino_encoder({**config, "image_size": 224})
    shapes = encoders.dino_encoder({**config, "image_size": 518}).state_dict()
    weights = encoders.rename_released(_released_dino(shapes), encoder.state_dict())
    encoder.load_state_dict(encoders.resize_positions(weights))
    pixels = torch.from_numpy(uniform("dino image", (1, 3, 224, 224))).float() * 3
    check("dino", encoder(pixels).pooler_output)


def _released_dino(shapes: Any) -> dict[str, torch.Tensor]:
    """Return weights by formula, with the names on Hugging Face; the formula reads Facebook's names."""
    released = {
        ".attention.q_proj.": ".attention.attention.query.",
        ".attention.k_proj.": ".attention.attention.key.",
        ".attention.v_proj.": ".attention.attention.value.",
        ".attention.o_proj.": ".attention.output.dense.",
    }
    published = {
        "embeddings.cls_token": "cls_token",
        "embeddings.mask_token": "mask_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
        "encoder.layer.": "blocks.",
        "layernorm.": "norm.",
        ".attention.output.dense.": ".attn.proj.",
        ".layer_scale1.lambda1": ".ls1.gamma",
        ".layer_scale2.lambda1": ".ls2.gamma",
    }
    weights: dict[str, torch.Tensor] = {}
    for name, value in shapes.items():
        stored = _replaced(name, released)
        theirs = _replaced(stored, published)
        if ".attention.attention." in theirs:  # one matrix for query, key and value
            prefix, part = theirs.split(".attention.attention.")
            kind, end = part.split(".")
            joined = fill(f"{prefix}.attn.qkv.{end}", (3 * value.shape[0], *value.shape[1:]))
            weights[stored] = joined.chunk(3)[("query", "key", "value").index(kind)]
        else:
            weights[stored] = fill(theirs, tuple(value.shape))
    return weights


def _replaced(name: str, parts: dict[str, str]) -> str:
    for old, new in parts.items():
        name = name.replace(old, new)
    return name


@torch.inference_mode()
def test_the_aesthetic_head() -> None:
    head = filled(torch.nn.Linear(32, 1))
    check("aesthetic", encoders.aesthetic_scores(torch.from_numpy(uniform("features", (3, 32))).float(), head))


def test_inputs_of_image_encoders() -> None:
    wide = torch.from_numpy(np.stack([image("frame a", 90, 160), image("frame b", 90, 160)]))
    tall, large = (torch.from_numpy(image(*one)[None]) for one in (("tall", 301, 250), ("large", 400, 700)))
    clip, dino = (encoders.CLIP_MEAN, encoders.CLIP_STD), (encoders.DINO_MEAN, encoders.DINO_STD)
    check("clip_input", project("clip", encoders.prepare(wide, 224, *clip, antialias=False).numpy(), 32))
    check("clip_input_tall", project("clip", encoders.prepare(tall, 224, *clip, antialias=False).numpy(), 32))
    check("dino_input", project("dino", encoders.prepare(large, 256, *dino, antialias=True).numpy(), 32))
    check("quality_input", project("quality", shrink_for_quality(large).numpy(), 32))


def test_frames_that_videoreward_rates() -> None:
    sizes = ((480, 832), (96, 96), (720, 1280), (832, 480), (300, 300))
    check("reward_sizes", [reward.rated_size(*size) for size in sizes])
    check("reward_counts", [reward.count_frames(count, 25.0) for count in (25, 49, 97, 101, 750, 5)])
    frames = torch.from_numpy(np.stack([image(f"reward {number}", 240, 416) for number in range(4)]))
    prepared = reward.prepare_frames(frames)
    shape = (1, 3, 1, 1)
    pixels = (prepared * torch.tensor(reward.STD).view(shape) + torch.tensor(reward.MEAN).view(shape)) * 255
    check("reward_resized", project("resized", pixels.numpy(), 32))
    patches, grid = reward.patchify(prepared)
    check("reward_grid", grid)
    check("reward_patches", project("patches", patches.numpy(), 32))


@torch.inference_mode()
def test_videoreward_scores_a_video() -> None:
    """With the weights as the published trainer names them."""
    from transformers import Qwen2VLConfig

    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    vision |= {"spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3}
    text: dict[str, Any] = {"vocab_size": 220, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    text |= {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "use_sliding_window": False}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, video_token_id=202, image_token_id=201)
    network = reward.VideoReward(config).eval()
    published = {_published_name(name): tuple(value.shape) for name, value in network.state_dict().items()}
    stored = {name: fill(name, shape) for name, shape in published.items()}
    network.load_state_dict(reward.plain_weights(stored, 1.0))
    tokens = torch.from_numpy(GOLDEN["reward_tokens"].astype(np.int64))
    patches = torch.from_numpy(uniform("patches", (48, 1176))).float() * 2
    check("reward", network(tokens, patches, (2, 4, 6), torch.tensor([210, 211, 212])))


def _published_name(name: str) -> str:
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def test_adapters_of_videoreward_are_merged() -> None:
    prefix = "base_model.model."
    stored = {
        f"{prefix}model.layers.0.q.base_layer.weight": fill("base", (6, 4)),
        f"{prefix}model.layers.0.q.lora_A.default.weight": fill("a", (2, 4)),
        f"{prefix}model.layers.0.q.lora_B.default.weight": fill("b", (6, 2)),
        f"{prefix}rm_head.original_module.weight": fill("old", (1, 4)),
        f"{prefix}rm_head.modules_to_save.default.weight": fill("new", (1, 4)),
        f"{prefix}visual.patch_embed.proj.weight": fill("visual", (3, 4)),
        f"{prefix}lm_head.weight": fill("head", (7, 4)),
    }
    weights = reward.plain_weights(stored, 2.0)
    assert weights.keys() == {
        "model.language_model.layers.0.q.weight",
        "rm_head.weight",
        "model.visual.patch_embed.proj.weight",
    }
    merged = fill("base", (6, 4)) + 2 * fill("b", (6, 2)) @ fill("a", (2, 4))
    assert torch.allclose(weights["model.language_model.layers.0.q.weight"], merged, atol=1e-6)
    assert torch.equal(weights["rm_head.weight"], fill("new", (1, 4)))
