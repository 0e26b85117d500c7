from __future__ import annotations

from rtl_templates.pipe import StreamBuffer
from sim.bench import run_bench


def test_stream_buffer():
    run_bench(StreamBuffer(16), "tests.rtl_templates.pipe_bench")
