"""Log-likelihoods: of importance weights, of normalising constants, of annealed latents."""

import math

from torch import Tensor

from zoo.contract.capabilities import Explains, Normalises, Scores, Side, Weighs
from zoo.errors import require
from zoo.parts.annealing.latents import latent_ais
from zoo.parts.annealing.verdicts import SHORTER, judged
from zoo.parts.estimators import bits_per_dim
from zoo.scores.metrics import mean_and_error, proportion, wilson
from zoo.scores.results import Measure, Protocol
from zoo.scores.scene import Scene, drawn, part_of
from zoo.scores.section import Section, energies, likelihoods

LOW_ESS = 10.0
LOOSE_SHARE = 0.1
"""Share of images with a low effective sample size above which the bound is called loose."""
AIS_IMAGES, AIS_CHAINS, AIS_STEPS = 100, 16, 1000
PARTITION_CHAINS = 100


def log_prob(scene: Scene) -> None:
    """Log-likelihood of the test images, bits/dim, and what importance weights say beside it."""
    method, columns = scene.method, scene.per_image
    assert isinstance(method, Scores)
    side, n = method.side, len(columns["row"])
    weighs = isinstance(method, Weighs)
    if weighs:
        how = scene.treated(f"{n} images, K={scene.num_samples} samples", num_samples=scene.num_samples)
    else:
        drawn_from = method.scored_by(scene.num_samples)
        how = scene.treated(f"{n} images" + (f", {drawn_from}" if drawn_from else ""))
    _log_likelihood(scene, side, mean_and_error(columns["log_prob"]), how)
    if "baseline_log_prob" in columns:
        bits = (columns["log_prob"] - columns["baseline_log_prob"]) / (
            math.log(2) * math.prod(method.image_shape)
        )
        scene.put("gain_over_baseline", mean_and_error(bits), how, side=side)
    if not weighs:
        return
    _put(scene, "elbo", "bernoulli_elbo", Side.LOWER, mean_and_error(columns["elbo"]), how)
    scene.put("rate", mean_and_error(columns["rate"]), how)
    distortion = mean_and_error(columns["distortion"])
    _put(scene, "distortion", "bernoulli_distortion", Side.ESTIMATE, distortion, how)
    ess = columns["ess"]
    low = proportion(ess < LOW_ESS)
    scene.put("ess_median", float(ess.median()), how)
    scene.put("ess_below_10", low, how, interval=wilson(low.value, n))
    warn_if_loose(scene, "the bound", ess, scene.num_samples)


def warn_if_loose(scene: Scene, bound: str, ess: Tensor, count: int) -> None:
    """Say so where many images have an effective sample size [N] that is low, of `count` samples."""
    low = float((ess < LOW_ESS).double().mean())
    if low > LOOSE_SHARE:
        scene.warnings.append(
            f"{bound} is loose: {low:.0%} of the images have an effective sample size below {LOW_ESS:g} "
            f"of {count}"
        )


def _log_likelihood(scene: Scene, side: Side, mean: tuple[float, float], how: Protocol) -> None:
    _put(scene, BY_SIDE[side], "bernoulli_score", side, mean, how)
    if scene.data.pixels in ("real", "pseudo"):
        return  # grey levels without dithering have a density, or a score, not a probability: no bits
    dims = math.prod(scene.method.image_shape)
    dithered = scene.data.pixels == "deq"
    bits = bits_per_dim(-mean[0], dims, bytes_scaled=dithered)
    # the mean log density of a byte's dithered pixels is no more than the log-probability of the byte
    side = side.plus(Side.LOWER if dithered else Side.EXACT).opposite
    scene.put("bits_per_dim", (bits, mean[1] / (math.log(2) * dims)), how, side=side)


def _put(
    scene: Scene, key: str, as_score: str, side: Side, value: tuple[float, float], how: Protocol
) -> None:
    """A log-likelihood or a part of it; of `pseudo` pixels it is a score, under its own name."""
    if scene.data.pixels == "pseudo":
        key, side = as_score, Side.ESTIMATE
    scene.put(key, value, how, side=side)


def partition(scene: Scene) -> None:
    """Log-likelihood by the normalising constant: exact, or annealed and then judged."""
    method = scene.method
    assert isinstance(method, Normalises)
    with scene.stream("partition"):
        verdict = judged(method.log_partition, PARTITION_CHAINS, method.partition_steps)
        if verdict.refusal is not None:
            verdict = judged(method.log_partition, PARTITION_CHAINS, SHORTER * method.partition_steps)
    z = verdict.partition
    exact = z.num_steps == 0
    require(verdict.refusal is None, verdict.refusal or "")
    mean, error = mean_and_error(-scene.per_image["energy"] - z.log_z)
    impossible = scene.data.pixels == "binary" and mean > 0
    require(not impossible, f"the mean of log p(x) must be at most 0 nats, got {mean:.1f}: log Z is too low")
    if verdict.rerun:
        scene.warnings.append(f"log Z may be low: anneal four times as long; {verdict.rerun}")
    how = "log Z by enumeration" if exact else f"AIS, {PARTITION_CHAINS} chains, {z.num_steps} distributions"
    how += "" if method.temperature == 1 else f", temperature {method.temperature:g}"
    side_of_z = Side.EXACT if exact else Side.LOW  # E Z = Z of weights, so E log Z <= log Z
    alone = Protocol("", how)
    scene.put("log_partition", (z.log_z, z.error), alone, side=side_of_z)
    if not exact:
        scene.put("partition_ess", z.ess, alone, of=PARTITION_CHAINS)
        scene.put("partition_spread", z.spread, alone)
    n = len(scene.per_image["energy"])
    how += ", a bound on the energy" if method.energy_side is not Side.EXACT else ""
    side = method.energy_side.plus(side_of_z).opposite
    _log_likelihood(scene, side, (mean, math.hypot(error, z.error)), scene.treated(f"{n} images, {how}"))


def annealed(scene: Scene) -> None:
    """A second opinion on the importance bound: annealed importance sampling of the latents."""
    method = scene.method
    assert isinstance(method, Explains)
    scored = scene.per_image["row"].long()
    rows = drawn(len(scored), AIS_IMAGES)
    x = scene.data.split("test", scored[rows]).x.to(method.device)
    found = scene.spread(
        "ais", len(x), lambda part: tuple(latent_ais(method.explain(x[part]), AIS_CHAINS, AIS_STEPS))
    )
    log_prob, ess, acceptance = found
    how = f"{part_of(len(x), len(scored))} images, AIS from the prior, {AIS_CHAINS} chains, "
    how += f"{AIS_STEPS} distributions, acceptance {float(acceptance.mean()):.2f}"
    _put(scene, "log_prob_ais", "bernoulli_ais", Side.LOWER, mean_and_error(log_prob), scene.treated(how))
    scene.put("ais_ess_median", float(ess.median()), scene.treated(how), of=AIS_CHAINS)
    if "log_prob" in scene.per_image:
        difference = mean_and_error(log_prob - scene.per_image["log_prob"][rows])
        how += f"; less the importance bound of the same images, K={scene.num_samples}"
        scene.put("ais_less_bound", difference, scene.treated(how), side=Side.LOWER.minus(method.side))


NATS = "nats/image"
LOG_PROBS = {
    "log_prob": Measure(NATS, Side.EXACT, "higher", board=90, headline=10),
    "log_prob_lower": Measure(NATS, Side.LOWER, "higher", board=91, headline=11),
    "log_prob_upper": Measure(NATS, Side.UPPER),
    "log_prob_estimate": Measure(NATS, Side.ESTIMATE, "higher", board=92, headline=12),
    "log_prob_optimistic": Measure(NATS, Side.HIGH, "higher", board=93, headline=13),
    "log_prob_pessimistic": Measure(NATS, Side.LOW),
}
BY_SIDE = {measure.side: name for name, measure in LOG_PROBS.items()}
LIKELIHOODS = LOG_PROBS | {
    "bernoulli_score": Measure(NATS, better="higher", board=94, headline=14),
    "bits_per_dim": Measure("bits/dim", better="lower", board=120, headline=20),
}
"""What every log-likelihood is put as; the side of a log p(x) is in its name."""

LOG_PROB = Section(
    (Scores,),
    log_prob,
    LIKELIHOODS
    | {
        "gain_over_baseline": Measure("bits/dim", better="higher", board=110, headline=80),
        "elbo": Measure(NATS, Side.LOWER),
        "rate": Measure(NATS),
        "distortion": Measure(NATS),
        "bernoulli_elbo": Measure(NATS),
        "bernoulli_distortion": Measure(NATS),
        "ess_median": Measure("samples"),
        "ess_below_10": Measure("share of images"),
    },
    "test log p(x) in nats with its side, bits/dim, bits above the method's own noise; with importance "
    "weights L_K, ELBO, rate, distortion, effective sample size",
    reads=(likelihoods,),
)
PARTITION = Section(
    (Normalises,),
    partition,
    LIKELIHOODS
    | {
        "log_partition": Measure("nats"),
        "partition_ess": Measure("of {} chains"),
        "partition_spread": Measure("nats, of log-weights"),
    },
    "log Z by enumeration (up to 20 units in a layer), else by AIS with error, effective sample size and "
    "rerun flag, four times as long where the first run is refused; log p(x)",
    reads=(energies,),
)
AIS = Section(
    (Explains,),
    annealed,
    {
        "log_prob_ais": Measure(NATS, Side.LOWER),
        "bernoulli_ais": Measure(NATS),
        "ais_ess_median": Measure("of {} chains"),
        "ais_less_bound": Measure(NATS),
    },
    "log p(x) by annealing the latents from the prior: a second opinion on L_K",
    on_request=True,
)
