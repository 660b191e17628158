// Draws an image: the moves of a sampler, which Python has exported with all their numbers.
"use strict";

// Noise at t = 1 as a function of normals, as in `models/diffusion/noise.py`.
const INITIAL_NOISES = {
  gaussian: (x) => x,
  uniform: (x) => Math.sqrt(3) * erf(x * Math.SQRT1_2),
  bernoulli: (x) => (x < 0 ? -1 : 1),
};

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
function estimate(model, network, noisy, { t, scale, clean }, label, guidance) {
  const labels = guidance === 1 || label === null ? [label ?? model.nullLabel] : [label, model.nullLabel];
  const size = noisy.length, input = new Float32Array(size * labels.length);
  labels.forEach((_, half) => noisy.forEach((value, i) => (input[half * size + i] = scale * value)));
  const output = network.run(labels.length, input, labels.map(() => t), labels);
  const [low, high] = model.bounds ?? [-Infinity, Infinity];
  return noisy.map((value, i) => {
    const conditional = output[i], other = labels.length > 1 ? output[size + i] : conditional;
    const guided = labels.length > 1 ? other + guidance * (conditional - other) : conditional;
    return Math.min(Math.max(clean[0] * value + clean[1] * guided, low), high);
  });
}

/** Yield { noisy, clean, t, done } for the start and after every step. moves: as `sampling.py` describes them. */
function* sample(model, network, moves, { seed, image, label, guidance }) {
  const size = count(model.shape);
  let draws = 0, evaluations = 0;
  const draw = () => normals(seed, image, draws++, size);
  const sources = [draw().map(INITIAL_NOISES[model.initialNoise])], total = moves.filter((move) => move.evaluate).length;
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
