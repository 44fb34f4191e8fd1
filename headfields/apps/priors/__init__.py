"""Priors over heads: trained on scans of many people, fitted to scans of new ones."""

from headfields.apps.priors.code_statistics import CodeStatistics, PriorStatistics
from headfields.apps.priors.code_table import CodeTable
from headfields.apps.priors.codes import PriorCodes
from headfields.apps.priors.evaluate import SurfaceErrors, surface_errors
from headfields.apps.priors.fit import FIT_WEIGHTS, FittedCodes, fit_scans
from headfields.apps.priors.losses import PriorWeights, prior_terms
from headfields.apps.priors.principal_codes import principal_codes
from headfields.apps.priors.prior import Prior, load_prior
from headfields.apps.priors.recipes import PAPER_RECIPE, SMALL_POINTS_RECIPE, SMALL_RECIPE, PriorRecipe
from headfields.apps.priors.schedule import PriorSchedule
from headfields.apps.priors.trainer import PriorResult, PriorTrainer

__all__ = [
    "FIT_WEIGHTS",
    "PAPER_RECIPE",
    "SMALL_POINTS_RECIPE",
    "SMALL_RECIPE",
    "CodeStatistics",
    "CodeTable",
    "FittedCodes",
    "Prior",
    "PriorCodes",
    "PriorRecipe",
    "PriorResult",
    "PriorSchedule",
    "PriorStatistics",
    "PriorTrainer",
    "PriorWeights",
    "SurfaceErrors",
    "fit_scans",
    "load_prior",
    "principal_codes",
    "prior_terms",
    "surface_errors",
]
