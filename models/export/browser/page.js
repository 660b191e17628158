// The page: settings, the sheet of images, and the steps of the selected image. The worker draws.
"use strict";

const element = (id) => document.getElementById(id);
const model = JSON.parse(element("model").textContent);
const [channels, height, width] = model.imageShape;
const worker = new Worker(URL.createObjectURL(new Blob([element("engine").textContent], { type: "text/javascript" })));

// frames: of each image, its frames so far; finished: the images that are complete; follow: show each frame as it comes.
const state = { request: 0, selected: 0, frames: [], finished: new Set(), seconds: [], follow: true, player: null };

/** Draw values on a canvas, one plane for grey or three for colours. */
function paint(canvas, values) {
  canvas.width = width;
  canvas.height = height;
  const pixels = new ImageData(width, height), size = width * height, [black, white] = model.greyLevels;
  for (let i = 0; i < size; i++) {
    for (let channel = 0; channel < 3; channel++) {
      // Clamped arrays round half to even and clip, as the Python side does.
      const value = values[(channels === 3 ? channel * size : 0) + i];
      pixels.data[4 * i + channel] = (value - black) * (255 / (white - black));
    }
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

const settings = () => ({
  sampler: Number(element("steps").value),
  seed: Math.min(Math.max(Math.floor(Number(element("seed").value)) || 0, 0), Number.MAX_SAFE_INTEGER),
  guidance: model.guided ? Number(element("guidance").value) : 1,
});

/** Ask the worker for all images that are not finished, the selected one first. */
function request() {
  const missing = model.images.map((_, index) => index).filter((index) => !state.finished.has(index));
  missing.sort((one, other) => (other === state.selected) - (one === state.selected));
  missing.forEach((index) => (state.frames[index] = []));
  const images = missing.map((index) => ({ image: index, label: model.images[index].label }));
  state.request++;
  worker.postMessage({ id: state.request, images, ...settings() });
}

/** Begin again after a setting has changed. */
function restart() {
  stop();
  state.finished.clear();
  state.seconds = [];
  state.follow = true;
  for (const cell of element("sheet").children) cell.classList.remove("drawn");
  element("seed").value = settings().seed;
  element("scale").textContent = settings().guidance.toFixed(2);
  element("command").textContent = command();
  request();
}

/** Return the command that draws the same images with PyTorch. */
function command() {
  const { seed, sampler, guidance } = settings(), { name, steps } = model.samplers[sampler];
  const scale = guidance === 1 ? "" : ` --guidance_scale ${guidance}`;
  const flags = `${model.source} --sampler ${name} --steps ${steps}${scale} --seed ${seed} --num_samples ${model.images.length}`;
  return `make generate ARGS="${flags}"`;
}

/** Show a step of the selected image. */
function show(step) {
  const frames = state.frames[state.selected] ?? [], frame = frames[step];
  const slider = element("step");
  slider.max = Math.max(frames.length - 1, 0);
  slider.value = step;
  if (!frame) return;
  paint(element("noisy"), frame.noisy);
  const clean = frame.clean ?? frames[1]?.clean;
  if (clean) paint(element("clean"), clean);
  const { steps } = model.samplers[settings().sampler];
  element("where").textContent = `step ${step} of ${steps}, t = ${frame.t.toFixed(3)}`;
  element("clean").style.opacity = frame.clean ? 1 : 0;
  for (const [id, what] of [["noisy", "Noisy image"], ["clean", "Clean estimate"]]) {
    element(id).setAttribute("aria-label", `${what} of ${model.images[state.selected].name}, step ${step}`);
  }
}

function select(index, focus = false) {
  stop();
  state.selected = index;
  state.follow = true;
  [...element("sheet").children].forEach((cell, other) => {
    cell.setAttribute("aria-checked", other === index);
    cell.tabIndex = other === index ? 0 : -1;
  });
  if (focus) element("sheet").children[index].focus();
  if (state.frames[index]?.length) show(state.frames[index].length - 1);
  else if (state.request) request();
}

worker.onmessage = ({ data }) => {
  if (data.error) {
    element("status").textContent = `The images cannot be drawn: ${data.error}`;
    return;
  }
  if (data.id !== state.request) return;
  const cell = element("sheet").children[data.image];
  if (data.finished) {
    state.finished.add(data.image);
    state.seconds.push(data.seconds);
    cell.classList.add("drawn");
    const mean = state.seconds.reduce((sum, value) => sum + value) / state.seconds.length;
    const { nfe } = model.samplers[settings().sampler];
    element("status").textContent =
      `${state.finished.size} of ${model.images.length} images, ${mean.toFixed(2)} s each, ${nfe} evaluations`;
    document.body.dataset.finished = state.finished.size === model.images.length ? state.request : "";
    return;
  }
  state.frames[data.image].push(data);
  paint(cell.firstChild, data.clean ?? data.noisy);
  if (data.image === state.selected && state.follow) show(state.frames[data.image].length - 1);
};

function stop() {
  clearInterval(state.player);
  state.player = null;
  element("play").textContent = "\u25b6";
}

/** Play the steps of the selected image, over three seconds at most. */
function play() {
  if (state.player) return stop();
  const last = () => (state.frames[state.selected] ?? []).length - 1;
  let step = 0;
  state.follow = false;
  element("play").textContent = "\u23f8";
  show(step);
  state.player = setInterval(() => {
    if (step >= last()) return stop();
    show(++step);
  }, Math.min(300, 3000 / Math.max(last(), 1)));
}

function another() {
  element("seed").value = Math.floor(Math.random() * 1e6);
  restart();
}

function fillSteps() {
  const options = model.samplers.map((sampler, index) => [sampler, index]).filter(([{ name }]) => name === element("sampler").value);
  element("steps").replaceChildren(
    ...options.map(([{ steps }, index]) => new Option(steps, index)),
  );
  const usual = options.find(([, index]) => index === model.sampler) ?? options[Math.floor(options.length / 2)];
  element("steps").value = usual[1];
}

function build() {
  const titles = new Map(model.samplers.map(({ name, title }) => [name, title]));
  element("sampler").replaceChildren(...[...titles].map(([name, title]) => new Option(title, name)));
  element("sampler").value = model.samplers[model.sampler].name;
  fillSteps();
  element("guidance").value = model.guidance;
  element("guided").hidden = !model.guided;
  element("sheet").classList.toggle("few", model.images.length <= 10);
  model.images.forEach(({ name }, index) => {
    const cell = document.createElement("button"), label = document.createElement("span");
    label.textContent = name;
    cell.type = "button";
    cell.setAttribute("role", "radio");
    cell.append(document.createElement("canvas"), label);
    cell.addEventListener("click", () => select(index));
    element("sheet").append(cell);
    paint(cell.firstChild, new Float32Array(channels * height * width).fill(model.greyLevels[0]));
  });
}

function listen() {
  element("sampler").addEventListener("change", () => (fillSteps(), restart()));
  for (const id of ["seed", "steps", "guidance"]) element(id).addEventListener("change", restart);
  element("guidance").addEventListener("input", () => (element("scale").textContent = settings().guidance.toFixed(2)));
  element("settings").addEventListener("submit", (event) => event.preventDefault());
  element("another").addEventListener("click", another);
  element("play").addEventListener("click", play);
  element("step").addEventListener("input", () => {
    stop();
    state.follow = false;
    show(Number(element("step").value));
  });
  element("sheet").addEventListener("keydown", (event) => {
    const columns = getComputedStyle(element("sheet")).gridTemplateColumns.split(" ").length;
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const index = state.selected + move;
    if (move === undefined) return;
    event.preventDefault();
    if (index >= 0 && index < model.images.length) select(index, true);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT/.test(event.target.tagName)) return;
    if (event.key === "n") another();
    if (event.key === "p") play();
  });
}

build();
listen();
worker.postMessage({ model, weights: element("weights").textContent.split(" ") });
select(0);
restart();
