"""A training of Gaussians that come and go, of whole images of a ball."""

from headfields.losses import L1DSSIM, SplatExtent, SplatOpacity
from headfields.training import MCMC, DensityControl, Trainer
from tests.avatar.test_splat_avatar import Colored, avatar


def make(control, out=None, seed=0, **options):
    rates = {"position": 0.02, "log_scale": 0.02, "opacity_logit": 0.05, "color": 0.05}
    losses = [L1DSSIM(0.0), SplatOpacity(), SplatExtent()]
    return Trainer(
        avatar(30), Colored(), losses, learning_rates=rates, ema=0, weight_decay=0.0, bar=False, device="cpu",
        callbacks=[control], out=out, seed=seed, **options,
    )  # fmt: skip


CONTROLS = {
    "density": lambda: DensityControl(start=2, every=4, gradient=1e-6, size=0.02, reset_every=10, most=90),
    "absolute": lambda: DensityControl(start=2, every=4, gradient=1e-6, size=0.02, absolute=True, reset_every=None),
    "mcmc": lambda: MCMC(start=2, every=4, growth=0.4, most=90, least_opacity=0.2),
}
