// Draws an image: the moves of a sampler, which Python has exported with all their numbers.
"use strict";

// Noise at t = 1 as a function of normals, as in `models/diffusion/noise.py`.
const INITIAL_NOISES = {
  gaussian: (x) => x,
  uniform: (x) => Math.sqrt(3) * erf(x * Math.SQRT1_2),
  bernoulli: (x) => (x < 0 ? -1 : 1),
};

/** Return the noise on the arc from one noise to another. weight: in [0, 1]. As `slerp` of `interpolation.py`. */
function slerp(one, other, weight) {
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const cosine = dot(one, other) / Math.sqrt(dot(one, one) * dot(other, other));
  const angle = Math.acos(Math.min(Math.max(cosine, -1), 1)), far = angle > 1e-4;
  const left = far ? Math.sin((1 - weight) * angle) / Math.sin(angle) : 1 - weight;
  const right = far ? Math.sin(weight * angle) / Math.sin(angle) : weight;
  return one.map((value, i) => left * value + right * other[i]);
}

/** Return the sum of the sources, each times its coefficient. */
function mix(sources, coefficients) {
  const sums = new Float64Array(sources[0].length);
  coefficients.forEach((coefficient, index) => {
    const source = sources[index];
    for (let i = 0; i < sums.length; i++) sums[i] += coefficient * source[i];
  });
  return Float32Array.from(sums);
}

/** Return the clean estimate of noisy values, guided and clipped. scale: u + scale * (c - u), as in `guidance.py`. */
function estimate(model, network, noisy, { t, scale, clean, guided }, label, guidance) {
  const labels = !guided || guidance === 1 || label === null ? [label ?? model.nullLabel] : [label, model.nullLabel];
  const size = noisy.length, input = new Float32Array(size * labels.length);
  labels.forEach((_, half) => noisy.forEach((value, i) => (input[half * size + i] = scale * value)));
  const output = network.run(labels.length, input, labels.map(() => t), labels);
  const [low, high] = model.bounds ?? [-Infinity, Infinity];
  return noisy.map((value, i) => {
    const conditional = output[i], other = labels.length > 1 ? output[size + i] : conditional;
    const mixed = labels.length > 1 ? other + guidance * (conditional - other) : conditional;
    return Math.min(Math.max(clean[0] * value + clean[1] * mixed, low), high);
  });
}

/** Yield { noisy, clean, t, done } for the start and after every step. moves: as `sampling.py` describes them.
 *
 * The first noise is that of a seed, or lies on the arc to that of the seed `other`. mix: the place on the arc.
 */
function* sample(model, network, moves, { seed, other, mix: weight, image, label, guidance }) {
  const size = count(model.shape);
  let draws = 0, evaluations = 0;
  const draw = () => normals(seed, image, draws++, size);
  const normal = weight ? slerp(draw(), normals(other, image, 0, size), weight) : draw();
  const sources = [normal.map(INITIAL_NOISES[model.initialNoise])], total = moves.filter((move) => move.evaluate).length;
  yield { noisy: sources[0], clean: null, t: 1, done: 0 };
  for (const { draw: fresh, evaluate, step } of moves) {
    if (fresh) sources.push(draw());
    if (evaluate) {
      evaluations++;
      sources.push(estimate(model, network, mix(sources, evaluate.mix), evaluate, label, guidance));
    }
    if (step) yield { noisy: mix(sources, step.mix), clean: sources[step.estimate], t: step.t, done: evaluations / total };
  }
}
