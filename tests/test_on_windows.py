"""What only Windows has: consoles that are closed, jobs, interpreters that start another."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    import asyncio
    import subprocess
    import threading
    from pathlib import Path

    import psutil
    import pytest

    from bot import closed_console
    from bot.stopping import stop_on_signals
    from bot.vision.worker.handle import ProcessWorker
    from bot.vision.worker.job import Job

    SLEEPS = "import time; time.sleep(60)"
    PARENT = (
        "import subprocess, sys, time\n"
        f"print(subprocess.Popen([sys.executable, '-c', {SLEEPS!r}]).pid, flush=True)\n"
        "time.sleep(60)"
    )

    async def test_a_closed_console_is_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(closed_console, "GRACE_SECONDS", 0.0)
        stop = asyncio.Event()
        with stop_on_signals(stop):
            handler = closed_console._kept[-1]
            assert not handler(0), "Ctrl-C is somebody else's"
            # Windows calls it in a thread of its own.
            threading.Thread(target=handler, args=(2,)).start()
            await asyncio.wait_for(stop.wait(), 10)

    def test_whatever_is_left_in_a_job_ends_with_it() -> None:
        with subprocess.Popen(
            [sys.executable, "-c", f"input()\n{PARENT}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as parent:
            assert parent.stdin is not None and parent.stdout is not None
            job = Job(parent.pid)
            print(file=parent.stdin, flush=True)
            child = psutil.Process(int(parent.stdout.readline()))
            parent.kill()
            parent.wait()
            assert child.is_running()
            job.close()
            job.close()
            child.wait(timeout=10)

    def test_a_job_for_a_process_that_is_gone_is_refused() -> None:
        with subprocess.Popen([sys.executable, "-c", ""]) as gone:
            pass
        with pytest.raises(OSError):
            Job(gone.pid)

    async def test_the_worker_is_the_process_that_computes(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The ``python.exe`` of a virtual environment starts the one that it was made from."""
        launcher = tmp_path / "python.bat"
        launcher.write_text(f'@"{sys.executable}" %*\n')
        monkeypatch.setattr(sys, "executable", str(launcher))
        worker = await ProcessWorker.start(1, lambda _: None)
        try:
            assert "bot.vision.worker" in psutil.Process(worker.pid).cmdline()
            assert worker._process.pid != worker.pid
        finally:
            await worker.close()
        assert not psutil.pid_exists(worker.pid)
