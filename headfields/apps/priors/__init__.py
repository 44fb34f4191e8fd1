"""Priors over heads: trained on scans of many people, fitted to scans of new ones."""

from typing import TYPE_CHECKING

from headfields.apps.priors.fit import fit_scans
from headfields.apps.priors.principal_codes import principal_codes
from headfields.apps.priors.prior import Prior, load_prior
from headfields.apps.priors.recipes import PAPER_RECIPE, SMALL_RECIPE
from headfields.apps.priors.trainer import PriorTrainer
from headfields.old_names import deprecated_names

__all__ = [
    "PAPER_RECIPE",
    "SMALL_RECIPE",
    "Prior",
    "PriorTrainer",
    "fit_scans",
    "load_prior",
    "principal_codes",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
