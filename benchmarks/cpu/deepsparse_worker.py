"""DeepSparse behind a pipe, in its own environment, since its last release needs numpy 1 and hwgen numpy 2.

PYTHON -m benchmarks.cpu.deepsparse_worker MODEL.onnx BATCHES.npy THREADS

Answers each line of standard input, all of it in JSON: at first its version and the first batch's output, then to a
number of calls their seconds, taken here.
"""

from __future__ import annotations

import json
import os
import sys

# Its statistics of use are sent to its makers unless this is set before the import.
os.environ["NM_DISABLE_ANALYTICS"] = "1"


def main(model: str, batches: str, threads: str) -> None:
    # The engine writes to standard output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import deepsparse
    import numpy as np

    from benchmarks.cpu.timing import timed

    words = np.load(batches)
    engine = deepsparse.compile_model(model, batch_size=words.shape[1], num_cores=int(threads))

    def call(batch: np.ndarray) -> list[np.ndarray]:
        return engine.run([batch], val_inp=False)

    def answer(value: object) -> None:
        print(json.dumps(value), file=answers, flush=True)

    answer({"version": deepsparse.__version__, "output": call(words[0])[0].tolist()})
    for line in sys.stdin:
        answer(timed(call, words, int(line)))


if __name__ == "__main__":
    main(*sys.argv[1:])
