"""The device "cpu" beside the engines that a user would pick instead; `python -m benchmarks.cpu --help`.

    networks.py   what is computed: a network or a layer, its inputs, and the float network that engines get
    graphs.py     the float network for torch and as ONNX graphs, float and int8
    engines.py    the other engines; deepsparse_worker.py runs in an environment of its own
    timing.py     blocks of calls, round robin
    measure.py    one measurement: every side, in a process that is pinned before it loads any of them
    results.py    figures, ratios and tables

hwgen itself imports none of the engines: `pip install -e '.[bench]'` brings them.
"""
