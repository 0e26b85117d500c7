from __future__ import annotations

import pytest

from rtl_templates.pipe import StreamBuffer
from sim.bench import build, run_bench

BEATS = {"x": list(range(30)), "y": list(range(30)), "care": [0xFFFF], "interval": 1, "latency": 1}


def test_reports_the_failing_assertion_only_when_one_fails():
    run_bench(StreamBuffer(16), "tests.rtl_templates.stream_bench", parameters=BEATS)
    with pytest.raises(AssertionError, match=r"(?s)tests\.rtl_templates\.stream_bench: .*interval_and_latency failed"):
        run_bench(StreamBuffer(16), "tests.rtl_templates.stream_bench", "interval_and_latency", {**BEATS, "latency": 2})


def test_a_module_that_does_not_exist_fails():
    with pytest.raises(AssertionError, match="no_such_module"):
        run_bench(StreamBuffer(16), "tests.no_such_module")


def test_equal_components_share_a_build():
    assert build(StreamBuffer(16)) == build(StreamBuffer(16))
    assert build(StreamBuffer(16)) != build(StreamBuffer(17))
