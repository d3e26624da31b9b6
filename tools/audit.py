"""Look the locked packages up among the known vulnerabilities: ``make audit``.

Exit status 1 when one is known. Where the data can't be reached it says so and nothing is judged,
with status 0: a build must not depend on a service on the other side of the world.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SECONDS = 180


def main(lock: str) -> int:
    command = [sys.executable, "-m", "pip_audit", "--requirement", lock, "--format", "json"]
    # Every package is in the lock with its hash: nothing has to be resolved or fetched.
    command += ["--require-hashes", "--disable-pip", "--progress-spinner", "off", "--timeout", "5"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return unknown(lock, f"no answer in {SECONDS} s")
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return unknown(lock, last[:300])
    asked = [package for package in found if "vulns" in package]
    if not asked:
        return unknown(lock, "the service knows none of the packages")
    bad = [package for package in asked if package["vulns"]]
    for package in bad:
        for flaw in package["vulns"]:
            mended = ", ".join(flaw.get("fix_versions", ())) or "no version yet"
            print(f"{package['name']} {package['version']}: {flaw['id']} (mended in {mended})")
    skipped = len(found) - len(asked)
    print(
        f"audit: {lock}: {len(bad)} of {len(asked)} packages have known vulnerabilities"
        + (f"; {skipped} could not be looked up" if skipped else "")
    )
    return 1 if bad else 0


def unknown(lock: str, why: str) -> int:
    print(f"audit: {lock}: NOT CHECKED, the data can't be reached here ({why})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
