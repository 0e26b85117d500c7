"""Keyword spotting on Google Speech Commands: the network of the complementary-sparsity paper, trained for real.

    python -m hwgen.examples.gsc train --data DIR --out FOLDER
    python -m hwgen.examples.gsc evaluate --data DIR

DIR has one folder a class with recordings of one second; see `recordings`.
"""
