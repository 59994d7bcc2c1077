"""Publish a moving test picture with sound for ever: `python scripts/demo.py rtmp://HOST:PORT/live/NAME`.

ffmpeg makes it where there is one, otherwise PyAV, which is installed if it is missing. A publisher that ends is
started again after a second; SIGTERM and Ctrl-C end it and what it started.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, NoReturn

WIDTH, HEIGHT, RATE, SAMPLES = 1280, 720, 30, 48_000
TONE = 440
AGAIN_SECONDS = 1.0


def main(url: str) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        publish = with_ffmpeg if shutil.which("ffmpeg") else with_pyav
        if publish is with_pyav:
            need_pyav()
        while True:
            publish(url)
            print(f"demo: the publisher ended; again in {AGAIN_SECONDS:g} s", file=sys.stderr)
            time.sleep(AGAIN_SECONDS)
    except KeyboardInterrupt:
        sys.exit(0)


def with_ffmpeg(url: str) -> None:
    """testsrc2 has a clock and moving shapes in it: a frozen or jumping picture shows at once."""
    command = ["ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", "-re"]
    command += ["-f", "lavfi", "-i", f"testsrc2=size={WIDTH}x{HEIGHT}:rate={RATE}"]
    command += ["-f", "lavfi", "-i", f"sine=frequency={TONE}:beep_factor=4:sample_rate={SAMPLES}"]
    command += ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-b:v", "2500k"]
    command += ["-g", str(2 * RATE), "-bf", "2", "-c:a", "aac", "-b:a", "128k"]
    command += ["-metadata", "title=streamd demo", "-f", "flv", url]
    publisher = subprocess.Popen(command)
    try:
        publisher.wait()
    finally:
        publisher.terminate()
        publisher.wait()


def need_pyav() -> None:
    if importlib.util.find_spec("av"):
        return
    print("demo: there is no ffmpeg; installing PyAV into .venv ...", file=sys.stderr)
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "-e", ".[demo]"], check=False
    )
    if installed.returncode:
        sys.exit("demo: PyAV could not be installed either. Install ffmpeg, or publish with OBS.")


def with_pyav(url: str) -> None:
    """The same with FFmpeg's libraries: bars that move, a tone that beeps every second."""
    import av

    picture = av.filter.Graph()
    source = picture.add("testsrc2", f"size={WIDTH}x{HEIGHT}:rate={RATE}")
    sink = picture.add("buffersink")
    source.link_to(sink)
    picture.configure()
    try:
        with av.open(url, "w", format="flv") as out:
            out.metadata["title"] = "streamd demo"
            video = out.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "g": str(2 * RATE)})
            video.width, video.height, video.pix_fmt, video.bit_rate = WIDTH, HEIGHT, "yuv420p", 2_500_000
            audio = out.add_stream("aac", rate=SAMPLES, layout="mono")
            begin, sample, number = time.monotonic(), 0, 0
            while True:
                out.mux(video.encode(picture.vpull().reformat(format="yuv420p")))
                number += 1
                while sample < number * SAMPLES // RATE:
                    out.mux(audio.encode(tone(av, sample)))
                    sample += 1024
                time.sleep(max(0.0, begin + number / RATE - time.monotonic()))
    except (OSError, av.error.FFmpegError) as e:
        print(f"demo: {e}", file=sys.stderr)


def tone(av: Any, sample: int) -> Any:
    """1024 samples of the tone from `sample` on, silent but for the first tenth of each second."""
    import array

    values = array.array("h")
    for at in range(sample, sample + 1024):
        loud = at % SAMPLES < SAMPLES // 10
        values.append(int(8000 * math.sin(2 * math.pi * TONE * at / SAMPLES)) if loud else 0)
    frame = av.AudioFrame(format="s16", layout="mono", samples=len(values))
    frame.planes[0].update(values.tobytes())
    frame.sample_rate, frame.pts = SAMPLES, sample
    return frame


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
