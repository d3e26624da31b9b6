"""Windows: a process and all that it starts end with us, as Linux has it by a signal.

A worker that is stuck in a library does not hear that the bot is gone, and a conversion does not
hear that its worker is.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    EXTENDED_LIMITS = 9
    KILL_ON_CLOSE = 0x2000
    SET_QUOTA_AND_TERMINATE = 0x0101

    class _Limits(ctypes.Structure):
        """JOBOBJECT_EXTENDED_LIMIT_INFORMATION, of which we set the flags alone."""

        _fields_ = (
            ("times", ctypes.c_int64 * 2),
            ("flags", wintypes.DWORD),
            ("working_set", ctypes.c_size_t * 2),
            ("processes", wintypes.DWORD),
            ("affinity", ctypes.c_size_t),
            ("classes", wintypes.DWORD * 2),
            ("transfers", ctypes.c_uint64 * 6),
            ("memory", ctypes.c_size_t * 4),
        )

    _kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel.CreateJobObjectW.restype = _kernel.OpenProcess.restype = wintypes.HANDLE

    class Job:
        """Holds a process; whatever is left in it is killed by ``close``, or when we end."""

        def __init__(self, pid: int) -> None:
            """Raises ``OSError``: the process is gone, or Windows refuses."""
            self._job = wintypes.HANDLE(_made(_kernel.CreateJobObjectW(None, None)))
            limits = _Limits(flags=KILL_ON_CLOSE)
            size = ctypes.sizeof(limits)
            try:
                _made(
                    _kernel.SetInformationJobObject(
                        self._job, EXTENDED_LIMITS, ctypes.byref(limits), size
                    )
                )
                process = wintypes.HANDLE(
                    _made(_kernel.OpenProcess(SET_QUOTA_AND_TERMINATE, False, pid))
                )
                try:
                    _made(_kernel.AssignProcessToJobObject(self._job, process))
                finally:
                    _kernel.CloseHandle(process)
            except OSError:
                self.close()
                raise

        def close(self) -> None:
            """Idempotent."""
            job, self._job = self._job, wintypes.HANDLE()
            if job:
                _kernel.CloseHandle(job)

    def _made(result: int | None) -> int:
        """What a function of Windows returned. Raises ``OSError`` where it failed."""
        if not result:
            raise ctypes.WinError(ctypes.get_last_error())
        return result

else:

    class Job:
        """Nothing: see ``environment.die_with``."""

        def __init__(self, pid: int) -> None:
            pass

        def close(self) -> None:
            pass
