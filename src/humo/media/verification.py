"""Read a video's provenance: generation record, content credentials (C2PA) and watermark."""

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
    """Provenance of a video.

    Args:
        record: the generation record; None if there is none.
        credentials: the content credentials; None if the video is not signed.
        watermark: what was detected in the frames.
    """

    record: GenerationRecord | None
    credentials: Credentials | None
    watermark: Detection

    @property
    def is_from_humo(self) -> bool:
        """True if record, credentials or watermark come from HuMo."""
        signed = self.credentials is not None and bool(self.credentials.assertion)
        return self.record is not None or signed or self.watermark.payload is not None

    @property
    def is_intact(self) -> bool:
        """True if record, credentials and watermark are present, unchanged and belong to the same video."""
        if self.record is None or self.credentials is None or self.watermark.payload is None:
            return False
        numbers = {self.watermark.payload, watermark_payload(self.record), self.credentials.assertion.get("watermark")}
        return self.credentials.state != "Invalid" and len(numbers) == 1


def read_provenance(path: Path) -> ProvenanceReport:
    """Read the provenance of a video.

    Args:
        path: an .mp4 from any source.

    Raises:
        MediaError: it cannot be read as a video.
    """
    credentials = read_credentials(path)
    try:
        record = read_record(path, field="FILE")
    except MediaError:  # of another program, or damaged: treated as none
        record = None
    try:
        watermark = detect_watermark(read_video(path, field="FILE").frames)
    except MediaError:
        if credentials is None and record is None:
            raise
        watermark = Detection(None, 0.0)  # frames that no decoder can read
    return ProvenanceReport(record, credentials, watermark)
