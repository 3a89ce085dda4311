"""Audio of every kind becomes mono at 16 kHz, or an error of one line."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soxr

from humo.errors import MediaError
from humo.media.audio import LAYOUTS, AudioTrack, load_audio, load_audio_track, mix, pad_or_trim, probe_audio
from tests.media.media_files import Array, to_int16, tone, write_audio


def noise(seconds: float, rate: int, channels: int) -> Array:
    generator = np.random.default_rng(3)
    return generator.uniform(-0.9, 0.9, (channels, round(seconds * rate) + 7)).astype(np.float32)


def resampled_whole(mono: Array, rate: int) -> Array:
    """The recipe in one go: soxr's HQ filter, then the length ceil(n * 16000 / rate)."""
    whole = soxr.resample(mono, rate, 16_000, quality="HQ")
    return pad_or_trim(whole, int(np.ceil(len(mono) * (16_000 / rate))))


def as_pcm24(samples: Array) -> Array:
    return (np.round(samples.astype(np.float64) * 2**23).astype(np.int32)) << 8


WHOLE_NUMBERS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "pcm_u8": (lambda x: np.round(x * 127 + 128).astype(np.uint8), lambda y: (y.astype(np.float32) - 128) / 128),
    "pcm_s16le": (to_int16, lambda y: y.astype(np.float32) / 32768),
    "pcm_s24le": (as_pcm24, lambda y: y.astype(np.float32) / 2**31),
    "pcm_s32le": (lambda x: (x * 2**31).astype(np.int32), lambda y: y.astype(np.float32) / 2**31),
    "flac": (to_int16, lambda y: y.astype(np.float32) / 32768),
}


@pytest.mark.parametrize("codec", sorted(WHOLE_NUMBERS))
def test_whole_numbers_are_scaled_by_their_full_scale(tmp_path: Path, codec: str) -> None:
    encode, decode = WHOLE_NUMBERS[codec]
    stored = encode(noise(0.5, 16_000, 1))
    path = write_audio(tmp_path / ("a.flac" if codec == "flac" else "a.wav"), stored, 16_000, codec=codec)
    assert np.array_equal(load_audio(path), decode(stored)[0])


def test_float_audio_at_16_khz_is_returned_bit_for_bit(tmp_path: Path) -> None:
    samples = noise(0.5, 16_000, 1)
    for codec, kind in [("pcm_f32le", np.float32), ("pcm_f64le", np.float64)]:
        path = write_audio(tmp_path / f"{codec}.wav", samples.astype(kind), 16_000, codec=codec)
        loaded = load_audio(str(path))
        assert loaded.dtype == np.float32
        assert loaded.tobytes() == samples[0].tobytes()


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 37_800, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_other_rates_and_channels_equal_the_mix_resampled_in_one_go(tmp_path: Path, rate: int, channels: int) -> None:
    samples = noise(0.8, rate, channels)
    path = write_audio(tmp_path / "a.wav", samples, rate, codec="pcm_f32le")
    expected = resampled_whole(samples.mean(axis=0) if channels < 3 else mix(samples, 1)[0], rate)
    assert np.array_equal(load_audio(path), expected)
    assert np.array_equal(load_audio((samples, rate)), expected)
    assert np.array_equal(load_audio((samples.T, rate)), expected)
    info = probe_audio(path)
    assert (info.num_samples, info.channels, info.sample_rate) == (len(expected), channels, rate)
    assert info.seconds == samples.shape[1] / rate


def hum(seconds: float, rate: int, channels: int) -> Array:
    """Noise below about 2 kHz, which every codec keeps and which fits itself at one delay only."""
    width = rate // 4_000
    sums = np.cumsum(np.random.default_rng(5).normal(0, 0.2, (channels, round(seconds * rate) + width)), axis=1)
    return np.asarray((sums[:, width:] - sums[:, :-width]) / width, np.float32)


COMPRESSED = [
    ("a.mp3", "libmp3lame", 44_100, 2), ("a.m4a", "aac", 44_100, 2), ("a.m4a", "aac", 48_000, 1),
    ("a.aac", "aac", 32_000, 2),
    ("a.opus", "libopus", 48_000, 2), ("a.ogg", "libvorbis", 44_100, 2), ("a.webm", "libopus", 48_000, 1),
    ("a.mkv", "flac", 22_050, 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "codec", "rate", "channels"), COMPRESSED)
def test_compressed_audio_comes_back_in_time_and_loudness(
    tmp_path: Path, name: str, codec: str, rate: int, channels: int
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    samples = hum(2.0, rate, channels)
    samples[:, : rate // 2] = 0
    kind = "s16" in {f.name for f in av.Codec(codec, "w").audio_formats or []}
    path = write_audio(tmp_path / name, to_int16(samples) if kind else samples, rate, codec=codec)
    loaded = load_audio(path)
    assert probe_audio(path).num_samples == len(loaded)
    assert abs(len(loaded) / 16_000 - 2.0) < 0.08
    expected = resampled_whole(mix(samples, 1)[0], rate)
    common = min(len(loaded), len(expected))
    lags = range(-1200, 1201)
    inner = expected[2000 : common - 2000]
    match = [float(loaded[2000 + lag : common - 2000 + lag] @ inner) for lag in lags]
    delay = lags[int(np.argmax(match))]
    assert abs(delay) <= (1100 if name.endswith(".aac") else 2)  # raw ADTS notes no encoder delay
    energy = float(inner @ inner)
    assert abs(max(match) / energy - 1) < 0.1


def test_the_audio_of_a_video_and_of_a_late_clock_starts_at_its_first_sample(tmp_path: Path) -> None:
    samples = to_int16(tone(1.0, 16_000))
    late = write_audio(tmp_path / "late.mkv", samples, 16_000, codec="pcm_s16le", start=2.5)
    assert np.array_equal(load_audio(late), samples[0] / np.float32(32768))
    assert load_audio_track(late, seconds=0.5).samples.shape == (1, 8_000)


def test_arrays_may_be_whole_numbers_and_one_dimensional() -> None:
    samples = to_int16(noise(0.2, 16_000, 1))[0]
    expected = samples.astype(np.float32) / 32768
    assert np.array_equal(load_audio(samples), expected)
    assert np.array_equal(load_audio((samples, 16_000)), expected)
    assert np.array_equal(load_audio(expected.astype(np.float64)), expected)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros(0, np.float32), "shape"),
        (np.zeros((2, 3, 4), np.float32), "shape"),
        (np.zeros(9, np.complex64), "complex64"),
        (np.zeros(9, np.uint16), "uint16"),
        (np.array([0.0, np.nan]), "not numbers"),
        (np.array([0.0, np.inf]), "not numbers"),
        ((np.zeros(9, np.float32), 0), "0 Hz"),
    ],
)
def test_an_array_that_is_no_audio_is_refused(source: Array | tuple[Array, int], message: str) -> None:
    with pytest.raises(MediaError, match=message):
        load_audio(source)


def test_a_track_keeps_its_rate_and_channels_and_has_the_wanted_length(tmp_path: Path) -> None:
    for channels, kept in [(1, 1), (2, 2), (6, 6)]:
        samples = noise(1.0, 44_100, channels)
        path = write_audio(tmp_path / "a.wav", samples, 44_100, codec="pcm_f32le")
        expected = samples
        for seconds in (0.5, 1.0, 1.48):
            track = load_audio_track(path, seconds=seconds)
            length = round(seconds * 44_100)
            assert isinstance(track, AudioTrack)
            assert (track.samples.shape, track.sample_rate) == ((kept, length), 44_100)
            assert track.seconds == pytest.approx(seconds, abs=1e-4)
            common = min(length, samples.shape[1])
            assert np.array_equal(track.samples[:, :common], expected[:, :common])
            assert not track.samples[:, common:].any()


def test_a_audio_that_is_too_long_is_refused_and_decoding_stops_there(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", to_int16(tone(3.0, 8_000)), 8_000, codec="pcm_s16le")
    for read in (load_audio, probe_audio):
        assert read(path, max_seconds=3.0) is not None
        with pytest.raises(MediaError, match="longer than 2 seconds"):
            read(path, max_seconds=2)
    with pytest.raises(MediaError, match="longer"):
        load_audio(np.zeros(32_001, np.float32), max_seconds=2)


def test_a_header_that_lies_about_the_length_changes_nothing(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", to_int16(tone(1.0, 16_000)), 16_000, codec="pcm_s16le")
    whole = bytearray(path.read_bytes())
    at = whole.index(b"data") + 4
    whole[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(whole)
    assert probe_audio(path).num_samples == len(load_audio(path)) == 16_000


def silent_video(path: Path) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        output.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        output.mux(stream.encode(None))
    return path


def test_missing_empty_folder_foreign_and_silent_files_are_distinguished(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "letter.wav").write_text("Dear all, " * 100)
    write_audio(tmp_path / "part.wav", to_int16(tone(0.1, 16_000)), 16_000, codec="pcm_s16le")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\npart.wav\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.txt").write_text(f"ffconcat version 1.0\nfile '{tmp_path / 'part.wav'}'\n")
    header = bytearray((tmp_path / "part.wav").read_bytes()[:78])
    header[-4:] = bytes(4)
    (tmp_path / "header.wav").write_bytes(header)
    silent_video(tmp_path / "silent.mp4")
    for name, message in [
        ("absent.wav", "no file"), (".", "folder"), ("empty.wav", "is empty"), ("letter.wav", "not audio"),
        ("list.m3u8", "not audio"), ("list.txt", "not audio"), ("silent.mp4", "no audio stream"),
        ("header.wav", "holds no samples"),
    ]:  # fmt: skip
        for read in (load_audio, probe_audio):
            with pytest.raises(MediaError, match=message) as caught:
                read(tmp_path / name, field="audio")
            assert "\n" not in str(caught.value)
        with pytest.raises(MediaError, match=message):
            load_audio_track(tmp_path / name, seconds=1.0)


def test_a_file_with_samples_that_are_not_numbers_is_refused(tmp_path: Path) -> None:
    samples = tone(0.2, 16_000)
    samples[0, 100] = np.nan
    path = write_audio(tmp_path / "nan.wav", samples, 16_000, codec="pcm_f32le")
    for read in (load_audio, probe_audio):
        with pytest.raises(MediaError, match=r"nan\.wav.*not numbers"):
            read(path)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp3", "libmp3lame"), ("a.m4a", "aac"), ("a.flac", "flac"), ("a.opus", "libopus")]
)
def test_damaged_files_give_their_audio_or_one_line(
    tmp_path: Path, name: str, codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    rate = 48_000
    samples = tone(1.0, rate)
    kind = "s16" in {f.name for f in av.Codec(codec, "w").audio_formats or []}
    path = write_audio(tmp_path / name, to_int16(samples) if kind else samples, rate, codec=codec)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for trial in range(40):
        scrambled = bytearray(whole[: generator.integers(10, len(whole))] if trial % 2 else whole)
        for place in generator.integers(0, len(scrambled), 8):
            scrambled[place] = generator.integers(256)
        path.write_bytes(scrambled)
        try:
            num_samples = len(load_audio(path))
        except MediaError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert probe_audio(path).num_samples == num_samples
    assert refused or "damaged packets" in caplog.text


def test_tags_that_are_not_text_do_not_matter(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.mp3", to_int16(tone(0.5, 44_100)), 44_100, codec="libmp3lame")
    content = path.read_bytes()
    tag = b"TIT2" + struct.pack(">I", 5) + b"\0\0" + b"\0\xff\xfe\xe9\xe8"
    start = content.index(b"\xff\xfb")
    path.write_bytes(b"ID3\x03\x00\x00\0\0\0" + bytes([len(tag)]) + tag + content[start:] + b"TAG" + b"\xe9" * 125)
    assert len(load_audio(path)) > 7_000


def test_nothing_is_printed_whatever_is_read(tmp_path: Path) -> None:
    whole = write_audio(tmp_path / "a.mp3", to_int16(tone(1.0, 44_100)), 44_100, codec="libmp3lame").read_bytes()
    (tmp_path / "a.mp3").write_bytes(whole[: len(whole) // 2 + 11])
    (tmp_path / "b.mp4").write_bytes(bytes(200) + b"ftyp" + whole[:300])
    script = (
        "import sys; from humo.errors import MediaError; from humo.media.audio import load_audio\n"
        "for path in sys.argv[1:]:\n"
        "    try: load_audio(path)\n"
        "    except MediaError: pass\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "always", "-c", script, str(tmp_path / "a.mp3"), str(tmp_path / "b.mp4")],
        capture_output=True,
    )
    assert (ran.returncode, ran.stdout) == (0, b"")
    assert ran.stderr.replace(b"audio: damaged packets of a.mp3 are left out: 1\n", b"") == b""


def loudness(samples: Array) -> float:
    """Root mean square in decibels of full scale."""
    return float(20 * np.log10(np.sqrt(np.square(samples).mean()) + 1e-12))


@pytest.mark.parametrize("channels", [3, 4, 5, 6, 7, 8])
def test_speech_in_the_center_keeps_its_level(channels: int) -> None:
    samples = np.zeros((channels, 16_000), np.float32)
    name = {3: "FR", 4: "FC", 5: "FC", 6: "FC", 7: "FC", 8: "FC"}[channels]
    samples[[c.name for c in av.AudioLayout(LAYOUTS[channels]).channels].index(name)] = tone(1.0, 16_000)[0]
    lost = loudness(tone(1.0, 16_000)) - loudness(load_audio((samples, 16_000)))
    assert lost == pytest.approx(6.02 if name == "FR" else 3.01, abs=0.01)
    assert mix(samples, 2).shape == (2, 16_000)


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("leak", [0.0, 0.05])
def test_channels_of_opposite_phase_are_subtracted_with_a_warning(
    rate: int, leak: float, caplog: pytest.LogCaptureFixture
) -> None:
    voice = hum(1.0, rate, 1)[0]
    opposite = load_audio((np.stack([voice, (leak - 1) * voice]), rate))
    assert "cancel each other out" in caplog.text
    caplog.clear()
    alone = load_audio((voice, rate))
    assert loudness(opposite) == pytest.approx(loudness(alone), abs=0.3)
    load_audio((np.stack([voice, 0.5 * voice]), rate))
    load_audio((np.zeros((2, rate), np.float32), rate))
    load_audio((hum(1.0, rate, 2), rate))
    assert not caplog.text


def test_a_damaged_packet_is_left_out_and_the_rest_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pieces = [
        write_audio(tmp_path / f"{name}.mp3", to_int16(tone(2.0, 44_100, hertz=hertz)), 44_100, codec="libmp3lame")
        for name, hertz in (("a", 440.0), ("b", 880.0))
    ]
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(pieces[0].read_bytes() + b"\0" * 700 + pieces[1].read_bytes())
    loaded = load_audio(joined)
    assert len(loaded) / 16_000 == pytest.approx(4.0, abs=0.15)
    assert loudness(loaded[-16_000:]) == pytest.approx(loudness(loaded[:16_000]), abs=1.0)
    assert probe_audio(joined).num_samples == len(loaded)


def test_pieces_of_other_formats_are_converted_to_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = write_audio(tmp_path / "a.mp3", to_int16(tone(2.0, 44_100, 2)), 44_100, codec="libmp3lame")
    second = write_audio(tmp_path / "b.mp3", to_int16(tone(2.0, 22_050, 1)), 22_050, codec="libmp3lame")
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    loaded = load_audio(joined)
    assert len(loaded) / 16_000 == pytest.approx(4.0, abs=0.2)
    assert loudness(loaded[-16_000:-4_000]) > -20
    assert "changes its format" in caplog.text


def test_the_default_track_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(2)]
        streams[0].disposition = av.stream.Disposition(0)
        streams[1].disposition = av.stream.Disposition.default
        for stream, samples in zip(streams, (np.zeros((1, 16_000)), tone(1.0, 16_000)), strict=True):
            frame = av.AudioFrame.from_ndarray(to_int16(samples), format="s16", layout="mono")
            frame.sample_rate = 16_000
            output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    assert loudness(load_audio(path)) > -20
    assert "track 2 of two.mkv is used, its default one" in caplog.text
