"""The model card that is uploaded with a pipeline."""

from __future__ import annotations

from humo.presets import Preset

AUTOMATIC_CARD = "automatically generated"
"""Text of the card that diffusers writes if a repository has none."""

TAGS = ("text-to-video", "image-to-video", "audio-to-video", "talking-head", "humo")

CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: image-to-video
tags:
{tags}
---

# {title}

Weights of [HuMo](https://arxiv.org/abs/2509.08519): a video of a person who speaks or sings, from a text prompt,
reference images and an audio track.

    from humo import HuMoPipeline, save_video

    pipe = HuMoPipeline.from_pretrained("OWNER/NAME")
    output = pipe("A woman talks.", images="face.png", audio="speech.wav")
    save_video(output, "out.mp4", audio="speech.wav")

## Intended use

Videos, music, teaching and research with people who have agreed to it. Do not generate videos that deceive,
defame or harass, or that show real people without their consent. `save_video` declares each video AI-generated, by
content credentials and a watermark.

## Limits

The network follows the voice of one person. Faces that are small in the frame, fast gestures and languages that are
rare in its training data come out less well. State here what these weights were trained on.
"""


def model_card(preset: Preset) -> str:
    """Return a model card with license, tags and intended use, in Markdown.

    Args:
        preset: of the pipeline.
    """
    return CARD.format(title=preset.title, tags="\n".join(f"- {tag}" for tag in TAGS))
