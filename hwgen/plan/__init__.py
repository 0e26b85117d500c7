"""The planner."""

from hwgen.plan.planner import MODES, make_plan
from hwgen.plan.stages import Plan

__all__ = ["MODES", "Plan", "make_plan"]
