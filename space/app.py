"""The studio as a Hugging Face Space: for visitors, embedded in the Space's page, on ZeroGPU where there is one.

python app.py                              the service, at the port that the Space expects
python app.py FOLDER DATABASE NAME DEVICE  a worker, which the service starts
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

try:
    import spaces  # before torch, which it changes on ZeroGPU
except ImportError:
    spaces = None

from humo.cli.serve import served_models
from humo.server.api_keys import VisitorKeys
from humo.server.file_store import FileStore
from humo.server.job_queue import JobQueue, JSONObject
from humo.server.serve import serve
from humo.server.settings import SECONDS_PER_DAY, Settings
from humo.server.worker import Worker, run_worker

PORT = 7860
"""Port at which a Space is reached."""

GPU_SECONDS = 120
"""Longest time that a video may use ZeroGPU."""

STORAGE = Path("/data")
"""Persistent storage of a Space that has some."""


def generate_video(folder: str, database: str, job_id: str, payload: JSONObject) -> JSONObject:
    """Run a job. ZeroGPU runs this function in a process of its own, which has a GPU.

    Args:
        folder: data folder of the service.
        database: URL of the job queue.
        job_id, payload: of the job.

    Returns:
        the job's result.
    """
    return worker_of(folder, database).run_job(job_id, payload)


@cache
def worker_of(folder: str, database: str) -> Worker:
    """Return the worker of this process, which keeps the model between jobs."""
    return Worker(FileStore(Path(folder)), JobQueue(database), "auto")


generate_on_gpu = generate_video if spaces is None else spaces.GPU(duration=GPU_SECONDS)(generate_video)


class SpaceWorker(Worker):
    """Worker whose jobs run in `generate_on_gpu`."""

    def run_job(self, job_id: str, payload: JSONObject) -> JSONObject:
        """Run a job, and return its result."""
        folder, database = sys.argv[1:3]
        result: JSONObject = generate_on_gpu(folder, database, job_id, payload)
        return result


def work(folder: str, database: str, name: str, device: str) -> None:
    """Run jobs until the service ends."""
    startup = getattr(getattr(spaces, "zero", None), "startup", None)
    if startup is not None:
        startup()  # tells ZeroGPU that the program is ready; the package calls it only with Gradio's own server
    run_worker(Path(folder), database, name, device, SpaceWorker)


def report(text: str, _: dict[str, Any]) -> None:
    """Print where the service listens."""
    print(text, flush=True)


def main() -> None:
    """Serve the page to visitors."""
    storage = STORAGE if os.access(STORAGE, os.W_OK) else Path.home()
    settings = Settings(
        folder=storage / "humo",
        host="0.0.0.0",
        port=int(os.environ.get("GRADIO_SERVER_PORT", PORT)),
        models=served_models(None),
        retention_seconds=SECONDS_PER_DAY,
        max_waiting_jobs=100,
        max_video_pixels=50_000_000,
        web_ui=True,
        embedders=("https://huggingface.co",),
    )
    serve(settings, VisitorKeys(), report, [str(Path(__file__).resolve())])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(*sys.argv[1:])
    else:
        main()
