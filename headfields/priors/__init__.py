"""Priors over heads: trained on scans of many people, fitted to new ones."""

from headfields.priors.evaluate import SurfaceErrors, surface_errors
from headfields.priors.fit import FIT_WEIGHTS, FittedCodes, fit_scans
from headfields.priors.losses import PriorWeights
from headfields.priors.prior import Prior, load_prior
from headfields.priors.ranges import CodeRange, CodeRanges
from headfields.priors.recipes import PAPER_RECIPE, SMALL_POINTS_RECIPE, SMALL_RECIPE, PriorRecipe
from headfields.priors.rows import CodeTable
from headfields.priors.schedule import PriorSchedule
from headfields.priors.starts import principal_codes
from headfields.priors.terms import PriorCodes, prior_terms
from headfields.priors.trainer import PriorResult, PriorTrainer

__all__ = [
    "FIT_WEIGHTS",
    "PAPER_RECIPE",
    "SMALL_POINTS_RECIPE",
    "SMALL_RECIPE",
    "CodeRange",
    "CodeRanges",
    "CodeTable",
    "FittedCodes",
    "Prior",
    "PriorCodes",
    "PriorRecipe",
    "PriorResult",
    "PriorSchedule",
    "PriorTrainer",
    "PriorWeights",
    "SurfaceErrors",
    "fit_scans",
    "load_prior",
    "principal_codes",
    "prior_terms",
    "surface_errors",
]
