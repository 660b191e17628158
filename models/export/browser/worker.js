// The worker of the page. It draws the images one after the other, and stops when other settings arrive.
"use strict";

let model, networks, decoder, current = 0;

const channel = new MessageChannel();

/** Let messages of the page arrive. A timer would wait for 4 ms, a tenth of an image. */
const pause = () => new Promise((resume) => {
  channel.port1.onmessage = resume;
  channel.port2.postMessage(null);
});

/** Return values of the model's space as an image. Latents are decoded; pixels are returned unchanged. */
const decoded = (values) => (decoder && values ? decoder.run(1, values).slice() : values);

/** Draw images. Post every frame, or the last one alone without `film`, then `finished`. A newer request ends this one. */
async function drawAll({ id, jobs, ...noise }) {
  for (const { network, sampler, film, ...job } of jobs) {
    const started = performance.now(), { image } = job, { moves } = model.networks[network].samplers[sampler];
    for (const frame of sample(model, networks[network], moves, { ...noise, ...job })) {
      if (film || frame.done === 1) {
        postMessage({ id, network, image, ...frame, noisy: decoded(frame.noisy), clean: decoded(frame.clean) });
      }
      await pause();
      if (id !== current) return;
    }
    postMessage({ id, network, image, finished: true, seconds: (performance.now() - started) / 1000 });
  }
}

onmessage = ({ data }) => {
  try {
    if (data.model) {
      model = data.model;
      const weights = data.weights.map((text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
      networks = model.networks.map(({ graph }, index) => new Network(graph, weights[index]));
      decoder = model.decoder && new Network(model.decoder, weights[networks.length]);
    } else {
      current = data.id;
      drawAll(data).catch((error) => postMessage({ error: String(error) }));
    }
  } catch (error) {
    postMessage({ error: String(error) });
  }
};
