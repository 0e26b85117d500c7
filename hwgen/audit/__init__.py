"""How good a sparse, quantised network is beside the dense one: one number is never enough.

    from hwgen.audit import audit, predictor

    models = {"dense": predictor(dense), "sparse": predictor(sparse), "int8": predictor(packed)}
    result = audit(models, x, labels)
    result.worse, result.models["int8"].accuracy, result.differences

Whoever has the models' outputs already gives them to `compare_outputs`. Importing this needs numpy only.
"""

from hwgen.audit.evaluation import NOISE_LEVELS, audit
from hwgen.audit.figures import Audit, Difference, ModelFigures, NoiseFigures, WorseClass, compare_outputs
from hwgen.audit.predictors import Predictor, predictor

__all__ = [
    "NOISE_LEVELS",
    "Audit",
    "Difference",
    "ModelFigures",
    "NoiseFigures",
    "Predictor",
    "WorseClass",
    "audit",
    "compare_outputs",
    "predictor",
]
