"""Reads the marks of origin of a video: the record in it, its signed credentials, the watermark in its picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from humo.errors import MediaError
from humo.media.credentials import Credentials, read_credentials
from humo.media.provenance import GenerationRecord, read_record, watermark_payload
from humo.media.video import read_video
from humo.media.watermark import Detection, detect_watermark


@dataclass(frozen=True, slots=True)
class ProvenanceReport:
    """What a video says of itself.

    Args:
        record: how it was made; None if it does not say.
        credentials: None if it is not signed.
        watermark: what was read of the picture.
    """

    record: GenerationRecord | None
    credentials: Credentials | None
    watermark: Detection

    @property
    def is_from_humo(self) -> bool:
        """Whether anything in it says that this program made it."""
        signed = self.credentials is not None and bool(self.credentials.assertion)
        return self.record is not None or signed or self.watermark.payload is not None

    @property
    def is_intact(self) -> bool:
        """Whether all marks are there, unchanged, and speak of the same video."""
        if self.record is None or self.credentials is None or self.watermark.payload is None:
            return False
        numbers = {self.watermark.payload, watermark_payload(self.record), self.credentials.assertion.get("watermark")}
        return self.credentials.state != "Invalid" and len(numbers) == 1


def read_provenance(path: Path) -> ProvenanceReport:
    """The marks of a video.

    Args:
        path: an .mp4, ours or not.

    Raises:
        MediaError: it cannot be read as a video.
    """
    signed = read_credentials(path)
    try:
        record = read_record(path, field="FILE")
    except MediaError:  # of others, or damaged: as if there were none
        record = None
    try:
        water = detect_watermark(read_video(path, field="FILE").frames)
    except MediaError:
        if signed is None and record is None:
            raise
        water = Detection(None, 0.0)  # a picture so damaged that no decoder reads it
    return ProvenanceReport(record, signed, water)
