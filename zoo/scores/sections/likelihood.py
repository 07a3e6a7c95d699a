"""Log-likelihoods: of importance weights, of normalising constants, of annealed latents."""

import math

from zoo.contract.capabilities import Explains, Normalises, Scores, Side, Weighs
from zoo.errors import require
from zoo.parts.annealing.latents import latent_ais
from zoo.parts.annealing.verdicts import SHORTER, judged
from zoo.parts.estimators import bits_per_dim
from zoo.scores.metrics import mean_and_error, share, wilson
from zoo.scores.scene import Scene

LOW_ESS = 10.0
LOOSE_SHARE = 0.1
"""Share of images with a low effective sample size above which the bound is called loose."""
AIS_IMAGES, AIS_CHAINS, AIS_STEPS = 100, 16, 1000
PARTITION_CHAINS, PARTITION_STEPS = 100, 14_500


def log_prob(scene: Scene) -> None:
    """Log-likelihood of the test images, bits/dim, and what importance weights say beside it."""
    method, columns = scene.method, scene.per_image
    assert isinstance(method, Scores)
    data, side, n = scene.data, method.side, len(columns["row"])
    weighs = isinstance(method, Weighs)
    how = f"{data.protocol}; {n} images" + (f", K={scene.num_samples} samples" if weighs else "")
    mean = mean_and_error(columns["log_prob"])
    _log_likelihood(scene, side, mean, how)
    if "baseline_log_prob" in columns:
        bits = (columns["log_prob"] - columns["baseline_log_prob"]) / (
            math.log(2) * math.prod(method.image_shape)
        )
        scene.put("gain_over_baseline", mean_and_error(bits), "bits/dim", side, how)
    if not weighs:
        return
    for name, of in (("elbo", Side.LOWER), ("rate", Side.ESTIMATE), ("distortion", Side.ESTIMATE)):
        scene.put(name, mean_and_error(columns[name]), "nats/image", of, how)
    ess = columns["ess"]
    low = share(ess < LOW_ESS)
    scene.put("ess_median", float(ess.median()), "samples", Side.ESTIMATE, how)
    scene.put("ess_below_10", low, "share of images", Side.ESTIMATE, how, interval=wilson(low.value, n))
    if low.value > LOOSE_SHARE:
        scene.warnings.append(
            f"the bound is loose: {low.value:.0%} of the images have an effective sample size below "
            f"{LOW_ESS:g} of {scene.num_samples}"
        )


def _log_likelihood(scene: Scene, side: Side, mean: tuple[float, float], how: str) -> None:
    key = "log_prob" if side is Side.EXACT else f"log_prob_{side.name.lower()}"
    scene.put(key, mean, "nats/image", side, how)
    if scene.data.pixels == "real":
        return  # grey levels without dithering have a density, not a probability: no bits
    dims = math.prod(scene.method.image_shape)
    opposite = {Side.LOWER: Side.UPPER, Side.UPPER: Side.LOWER}.get(side, side)
    bits = bits_per_dim(-mean[0], dims, bytes_scaled=scene.data.pixels == "deq")
    scene.put("bits_per_dim", (bits, mean[1] / (math.log(2) * dims)), "bits/dim", opposite, how)


def partition(scene: Scene) -> None:
    """Log-likelihood by the normalising constant: exact, or annealed and then judged."""
    method = scene.method
    assert isinstance(method, Normalises)
    with scene.stream("partition"):
        verdict = judged(method.log_partition, PARTITION_CHAINS, PARTITION_STEPS)
        if verdict.refusal is not None:
            verdict = judged(method.log_partition, PARTITION_CHAINS, SHORTER * PARTITION_STEPS)
    z = verdict.partition
    exact = z.num_steps == 0
    require(verdict.refusal is None, verdict.refusal or "")
    if verdict.rerun:
        scene.warnings.append(f"log Z may be low: anneal four times as long; {verdict.rerun}")
    how = "log Z by enumeration" if exact else f"AIS, {PARTITION_CHAINS} chains, {z.num_steps} distributions"
    how += "" if method.temperature == 1 else f", temperature {method.temperature:g}"
    bounded = method.energy_side is Side.UPPER
    sides = (Side.LOWER, Side.ESTIMATE) if bounded else (Side.EXACT, Side.OPTIMISTIC)
    side = sides[0 if exact else 1]
    scene.put("log_partition", (z.log_z, z.error), "nats", Side.EXACT if exact else Side.ESTIMATE, how)
    if not exact:
        scene.put("partition_ess", z.ess, f"of {PARTITION_CHAINS} chains", Side.ESTIMATE, how)
        scene.put("partition_spread", z.spread, "nats, of log-weights", Side.ESTIMATE, how)
    mean, error = mean_and_error(-scene.per_image["energy"] - z.log_z)
    n = len(scene.per_image["energy"])
    how += ", a bound on the energy" if bounded else ""
    _log_likelihood(
        scene, side, (mean, math.hypot(error, z.error)), f"{scene.data.protocol}; {n} images, {how}"
    )


def annealed(scene: Scene) -> None:
    """A second opinion on the importance bound: annealed importance sampling of the latents."""
    method = scene.method
    assert isinstance(method, Explains)
    x = scene.data.split("test").x[:AIS_IMAGES].to(method.device)
    found = scene.spread(
        "ais", len(x), lambda rows: tuple(latent_ais(method.explain(x[rows]), AIS_CHAINS, AIS_STEPS))
    )
    log_prob, ess, acceptance = found
    how = f"{scene.data.protocol}; first {len(x)} images, AIS from the prior, {AIS_CHAINS} chains, "
    how += f"{AIS_STEPS} distributions, acceptance {float(acceptance.mean()):.2f}"
    scene.put("log_prob_ais", mean_and_error(log_prob), "nats/image", Side.LOWER, how)
    scene.put("ais_ess_median", float(ess.median()), f"of {AIS_CHAINS} chains", Side.ESTIMATE, how)
    if "log_prob" in scene.per_image:
        difference = mean_and_error(log_prob - scene.per_image["log_prob"][: len(x)])
        how += f"; less the importance bound of the same images, K={scene.num_samples}"
        scene.put("ais_less_bound", difference, "nats/image", Side.ESTIMATE, how)
