"""Videos keep their colors, timing and audio, and are written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from humo.errors import MediaError, StorageError
from humo.media.audio import AudioTrack
from humo.media.video import (
    AAC_RATES,
    VideoFormat,
    check_writable,
    estimate_video_bytes,
    read_metadata,
    read_video,
    to_uint8,
    write_video,
)
from tests.media.media_files import Array, tone, write_audio

WIDTH, HEIGHT = 96, 64


def scene(count: int) -> Iterator[Array]:
    """A bright square moving over a gradient."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    for number in range(count):
        frame = np.stack([columns * 2, rows * 3, np.full_like(rows, 90)], axis=-1).astype(np.uint8)
        frame[20:40, number % 60 : number % 60 + 20] = 240
        yield frame


def write_scene(path: Path, count: int, track: AudioTrack | None = None) -> int:
    return write_video(path, scene(count), VideoFormat(WIDTH, HEIGHT), track=track, metadata={})


@pytest.mark.parametrize("count", [1, 2, 97])
def test_every_frame_lasts_exactly_a_twenty_fifth(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.mp4"
    assert write_scene(path, count) == count
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 25
        assert stream.start_time == 0
        assert stream.time_base is not None
        assert stream.duration is not None
        assert stream.duration * stream.time_base == Fraction(count, 25)
        assert not container.streams.audio
        times = [(frame.pts or 0) * (frame.time_base or 0) for frame in container.decode(video=0)]
    assert times == [Fraction(number, 25) for number in range(count)]
    clip = read_video(path)
    assert clip.track is None
    assert clip.frames_per_second == 25.0
    assert clip.frames.shape == (count, HEIGHT, WIDTH, 3)
    error = np.abs(clip.frames.astype(int) - np.stack(list(scene(count))))
    assert error.mean() < 2.5


def test_colors_come_back_and_are_tagged_as_bt709_of_limited_range(tmp_path: Path) -> None:
    colors = [(c & 4 and 255, c & 2 and 255, c & 1 and 255) for c in range(8)] + [(200, 120, 90), (64, 64, 64)]
    bars = np.repeat(np.array(colors, np.uint8)[None], 64, axis=0).repeat(32, axis=1)
    path = tmp_path / "bars.mp4"
    write_video(path, [bars] * 5, VideoFormat(320, 64), metadata={})
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
        assert context.pix_fmt == "yuv420p"
    decoded = read_video(path).frames[2].astype(int)
    for number, color in enumerate(colors):
        inside = decoded[:, number * 32 + 8 : number * 32 + 24]
        assert np.abs(inside - np.array(color)).max() <= 4, color


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (48_000, 1), (22_050, 1), (37_800, 2)])
@pytest.mark.parametrize("audio_seconds", [0.4, 2.0, 5.0])
def test_audio_is_cut_or_filled_up_to_the_frames(
    tmp_path: Path, rate: int, channels: int, audio_seconds: float
) -> None:
    path = tmp_path / "a.mp4"
    track = AudioTrack(tone(audio_seconds, rate, channels), rate)
    write_scene(path, 33, track)
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert stream.rate in AAC_RATES
        assert stream.time_base is not None
        assert stream.duration is not None
        assert abs(float(stream.duration * stream.time_base) - 33 / 25) <= 1024 / stream.rate
        assert container.streams.video[0].start_time == 0
    stored = read_video(path).track
    assert stored is not None
    assert stored.seconds == 33 / 25
    assert len(stored.samples) == channels
    if rate == stored.sample_rate:
        common = min(track.samples.shape[1], stored.samples.shape[1])
        error = stored.samples[:, : common - 1024] - track.samples[:, : common - 1024]
        assert np.sqrt((error**2).mean()) < 0.01
        assert np.abs(stored.samples[:, common + 1024 :]).max(initial=0) < 0.01


def test_frames_are_taken_one_by_one(tmp_path: Path) -> None:
    alive = 0

    class Tracked(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def frames() -> Iterator[Array]:
        nonlocal alive
        for _ in range(100):
            alive += 1
            assert alive <= 3
            yield np.zeros((HEIGHT, WIDTH, 3), np.uint8).view(Tracked)

    assert write_video(tmp_path / "a.mp4", frames(), VideoFormat(WIDTH, HEIGHT), metadata={}) == 100


def test_the_same_frames_give_the_same_file_on_one_core_and_on_all(tmp_path: Path) -> None:
    script = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from tests.media.test_video import write_scene; write_scene(Path(sys.argv[2]), 40)\n"
    )
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot choose cores")
    arguments = [sys.executable, "-c", script, str(Path(__file__).parents[2]), str(tmp_path / "one.mp4")]
    ran = subprocess.run(arguments, capture_output=True, check=True)
    assert (ran.stdout, ran.stderr) == (b"", b"")
    write_scene(tmp_path / "all.mp4", 40)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "all.mp4").read_bytes()


def test_tags_survive_and_the_index_stands_before_the_images(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    tags = {"humo": '{"prompt": "你好"}', "comment": "made", "title": "Zoë"}
    write_video(path, scene(3), VideoFormat(WIDTH, HEIGHT), metadata=tags)
    assert tags.items() <= read_metadata(path).items()
    whole = path.read_bytes()
    assert whole.index(b"moov") < whole.index(b"mdat")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, OSError(28, "No space left"), SystemExit])
def test_whatever_interrupts_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, failure: BaseException | type[BaseException]
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"the old one")

    def frames() -> Iterator[Array]:
        yield from scene(60)
        raise failure

    with pytest.raises(failure if isinstance(failure, type) else OSError, match=None):
        write_video(path, frames(), VideoFormat(WIDTH, HEIGHT), metadata={}, track=AudioTrack(tone(1, 16_000), 16_000))
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert path.read_bytes() == b"the old one"
    write_scene(path, 2)
    assert len(read_video(path).frames) == 2


@pytest.mark.parametrize("limit", [1_000, 60_000, 400_000])
def test_a_disk_that_fills_up_is_a_storage_error_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    script = (
        "import resource, sys; from pathlib import Path; import numpy as np\n"
        "from humo.errors import StorageError; from humo.media.video import VideoFormat, write_video\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "noise = np.random.default_rng(0).integers(0, 256, (60, 128, 128, 3), dtype=np.uint8)\n"
        "try: write_video(Path(sys.argv[1]), noise, VideoFormat(128, 128), metadata={})\n"
        "except StorageError as error: print(error)\n"
    )
    pytest.importorskip("resource")
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.mp4"), str(limit)], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("output: ")
    assert ran.stdout.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((HEIGHT, WIDTH, 4), np.uint8), "shape"),
        (np.zeros((HEIGHT, WIDTH, 3), np.float32), "float32"),
        (None, "is empty"),
    ],
)
def test_frames_of_another_form_and_no_frames_are_refused(tmp_path: Path, frame: Array | None, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        write_video(tmp_path / "a.mp4", [] if frame is None else [frame], VideoFormat(WIDTH, HEIGHT), metadata={})
    with pytest.raises(MediaError, match="even"):
        write_video(tmp_path / "a.mp4", [], VideoFormat(95, HEIGHT), metadata={})
    assert not list(tmp_path.iterdir())


def test_a_place_to_write_is_tried_before_the_work(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.mp4"
    check_writable(target, bytes_needed=1000)
    assert not list(tmp_path.iterdir())
    with pytest.raises(StorageError, match="MB free"):
        check_writable(target, bytes_needed=10**18)
    with pytest.raises(MediaError, match="is empty"):
        write_video(target, [], VideoFormat(WIDTH, HEIGHT), metadata={})
    assert not list(tmp_path.iterdir())
    write_video(target, [np.zeros((HEIGHT, WIDTH, 3), np.uint8)], VideoFormat(WIDTH, HEIGHT), metadata={})
    assert [path.name for path in target.parent.iterdir()] == ["a.mp4"]
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    for path, needed, message in [
        (tmp_path / "a.avi", 0, "end in .mp4"),
        (tmp_path / "a", 0, "end in .mp4"),
        (tmp_path / "folder.mp4", 0, "is a folder"),
        (tmp_path / "file" / "a.mp4", 0, "cannot be written"),
        (tmp_path / ("x" * 300 + ".mp4"), 0, "its name has 304 bytes"),
        (tmp_path / "a\0b.mp4", 0, "cannot be written"),
        (tmp_path / "a.mp4", 10**18, "MB free"),
    ]:
        with pytest.raises(StorageError, match=message) as caught:
            check_writable(path, bytes_needed=needed, field="--output")
        assert str(caught.value).startswith("--output: ")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_found_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="Permission"):
        check_writable(tmp_path / "a.mp4", bytes_needed=0)


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    write_scene(tmp_path / "a.mp4", 1)
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.mp4").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(("width", "height", "frames"), [(64, 64, 1), (128, 96, 30)])
def test_no_video_is_larger_than_the_estimate(tmp_path: Path, width: int, height: int, frames: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    track = AudioTrack(np.random.default_rng(1).uniform(-1, 1, (2, 96_000 * 2)).astype(np.float32), 96_000)
    path = tmp_path / "a.mp4"
    write_video(path, noise, VideoFormat(width, height), metadata={"humo": "x" * 1_000_000}, track=track)
    assert path.stat().st_size < estimate_video_bytes(width, height, frames)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    audio = write_audio(tmp_path / "a.wav", tone(0.1, 16_000), 16_000, codec="pcm_f32le")
    with pytest.raises(MediaError, match="no video stream"):
        read_video(audio)
    write_scene(tmp_path / "a.mp4", 9)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:600])
    with pytest.raises(MediaError, match=r"cut\.mp4"):
        read_video(tmp_path / "cut.mp4")


def test_values_are_clipped_scaled_and_cut_to_bytes() -> None:
    values = np.array([-3, -1, -0.999, 0, 0.5, 0.9999, 1, 7], np.float32)
    video = np.broadcast_to(values, (3, 1, 1, 8)).copy()
    video[1] = -1
    frames = to_uint8(video)
    assert frames.shape == (1, 1, 8, 3)
    assert frames[0, 0, :, 0].tolist() == [0, 0, 0, 127, 191, 254, 255, 255]
    assert not frames[..., 1].any()
    video[0, 0, 0, 0] = np.nan
    with pytest.raises(MediaError, match="NaN"):
        to_uint8(video)
