"""The benchmarks run: a smoke run of each ends well and prints its table. What they measure is for docs/benchmarks.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.scenario


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("step", "through the release ns"),
        ("guard", "guarded / plain"),
        ("pause", "longest pause: median"),
        ("rehearsal", "events replayed"),
        ("otp", "clients cut off"),
        ("ingest", "publishers a core"),
        ("fanout", "streamd / C"),
    ],
)
def test_a_smoke_run_of_each_benchmark_prints_its_table(name, column):
    command = [sys.executable, "-m", f"scripts.bench.{name}", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"### {name}\n" in done.stdout
    assert column in done.stdout
    assert "crash" not in done.stderr
