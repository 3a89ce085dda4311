"""Reads the marks of origin of a video: the record in it, its signed credentials, the watermark in its picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from humo.errors import MediaError
from humo.media.credentials import Credentials, read_credentials
from humo.media.provenance import Record, mark_of, read_record
from humo.media.video import read_video
from humo.media.watermark import Reading, read


@dataclass(frozen=True, slots=True)
class Marks:
    """What a video says of itself.

    Args:
        record: how it was made; None if it does not say.
        credentials: None if it is not signed.
        watermark: what was read of the picture.
    """

    record: Record | None
    credentials: Credentials | None
    watermark: Reading

    @property
    def is_ours(self) -> bool:
        """Whether anything in it says that this program made it."""
        signed = self.credentials is not None and bool(self.credentials.statement)
        return self.record is not None or signed or self.watermark.payload is not None

    @property
    def is_intact(self) -> bool:
        """Whether all marks are there, unchanged, and speak of the same video."""
        if self.record is None or self.credentials is None or self.watermark.payload is None:
            return False
        numbers = {self.watermark.payload, mark_of(self.record), self.credentials.statement.get("watermark")}
        return self.credentials.state != "Invalid" and len(numbers) == 1


def read_marks(path: Path) -> Marks:
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
        water = read(read_video(path, field="FILE").frames)
    except MediaError:
        if signed is None and record is None:
            raise
        water = Reading(None, 0.0)  # a picture so damaged that no decoder reads it
    return Marks(record, signed, water)
