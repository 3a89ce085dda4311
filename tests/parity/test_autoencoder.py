"""The video autoencoder equals the published one, normalization included."""

import torch

from humo.conditioning.image import decode_video, encode_blank, encode_video
from tests.parity.published import Golden, distance, within


@torch.no_grad()
def test_encoding_decoding_and_the_zero_video_equal_the_published_ones(published: Golden) -> None:
    vectors = published.tensors("vae")
    video = published.noise("vae_video", *vectors["reconstruction"].shape).clamp(-1, 1)[None]
    assert within(1e-6, "autoencoder: encode", encode_video(video, published.vae)[0], vectors["latents"])
    first = encode_video(video[:, :, :1], published.vae)[0]
    assert within(1e-6, "autoencoder: first frame", first, vectors["latents_first_frame"])
    decoded = decode_video(vectors["latents"][None], published.vae)[0]
    assert within(1e-6, "autoencoder: decode", decoded, vectors["reconstruction"])
    latents, height, width = vectors["zero_latents"].shape[1:]
    blank = encode_blank(latents, height, width, published.vae, torch.device("cpu"))
    assert within(1e-6, "autoencoder: zero video", blank[0], vectors["zero_latents"])


@torch.no_grad()
def test_a_shorter_blank_video_is_the_start_of_a_longer_one(published: Golden) -> None:
    long = encode_blank(40, 4, 6, published.vae, torch.device("cpu"))
    short = encode_blank(3, 4, 6, published.vae, torch.device("cpu"))
    assert distance(long[:, :, :3], short) <= 1e-6
