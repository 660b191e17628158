// The worker of the page. It draws the images one after the other, and leaves off when other settings arrive.
"use strict";

let model, network, decoder, current = 0;

const pause = () => new Promise((resume) => setTimeout(resume));

/** Return values of the model's space as an image. Pixels are one; latents must be decoded. */
const decoded = (values) => (decoder && values ? decoder.run(1, values).slice() : values);

/** Draw images. Each frame is a message, then `finished`. A newer request ends this one. */
async function drawAll({ id, sampler, images, seed, guidance }) {
  for (const { image, label } of images) {
    const started = performance.now();
    for (const frame of sample(model, network, model.samplers[sampler].moves, { seed, image, label, guidance })) {
      postMessage({ id, image, ...frame, noisy: decoded(frame.noisy), clean: decoded(frame.clean) });
      await pause();
      if (id !== current) return;
    }
    postMessage({ id, image, finished: true, seconds: (performance.now() - started) / 1000 });
  }
}

onmessage = ({ data }) => {
  try {
    if (data.model) {
      model = data.model;
      const [weights, decoderWeights] = data.weights.map((text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
      network = new Network(model.graph, weights);
      decoder = model.decoder && new Network(model.decoder, decoderWeights);
    } else {
      current = data.id;
      drawAll(data).catch((error) => postMessage({ error: String(error) }));
    }
  } catch (error) {
    postMessage({ error: String(error) });
  }
};
