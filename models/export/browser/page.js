// The page: settings, the sheet of images, and the steps of the selected image. The worker draws.
"use strict";

const element = (id) => document.getElementById(id);
const model = JSON.parse(element("model").textContent);
const [channels, height, width] = model.imageShape;
const worker = new Worker(URL.createObjectURL(new Blob([element("engine").textContent], { type: "text/javascript" })));
const WALL = 100;

// The first network draws the sheet. The second one, the teacher of a student, draws the selected image.
const DRAWS = 0, TEACHES = 1;
const taught = model.networks.length > 1;
const chosen = model.networks.at(-1); // the network whose sampler can be chosen

// images: those of the sheet. frames: of each network and image, the frames so far. finished: keys of complete images.
// follow: show each frame as it comes. busy: the selected image is not complete. waiting: a slider has moved since then.
// sliding: the last change was by a slider, so that images change at once when they are complete.
const state = { request: 0, selected: 0, images: [], frames: [], finished: new Set(), seconds: [], player: null };

const key = (network, image) => network * WALL + image;

/** Draw values on a canvas: one plane for grey, three for colours, or four for colours and opacity. */
function paint(canvas, values) {
  canvas.width = width;
  canvas.height = height;
  const pixels = new ImageData(width, height), size = width * height, [black, white] = model.greyLevels;
  pixels.data.fill(255);
  for (let i = 0; i < size; i++) {
    for (let channel = 0; channel < Math.max(channels, 3); channel++) {
      // Clamped arrays round half to even and clip, as the Python side does.
      const value = values[(channels >= 3 ? channel * size : 0) + i];
      pixels.data[4 * i + channel] = (value - black) * (255 / (white - black));
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function seedOf(id) {
  const seed = Math.min(Math.max(Math.floor(Number(element(id).value)) || 0, 0), Number.MAX_SAFE_INTEGER);
  element(id).value = seed;
  return seed;
}

const noise = () => ({ seed: seedOf("seed"), other: seedOf("other"), mix: Number(element("mix").value) });
const guidance = (network) => (network.guided ? Number(element("guidance").value) : 1);
const samplerOf = (network) => (network === chosen ? Number(element("steps").value) : network.sampler);

/** Return the evaluations of a network for an image, in words. */
function evaluations(network) {
  const { moves } = network.samplers[samplerOf(network)], guided = guidance(network) !== 1;
  const number = moves.reduce((sum, { evaluate }) => sum + (evaluate ? 1 + (guided && evaluate.guided) : 0), 0);
  return `${number} evaluation${number === 1 ? "" : "s"}`;
}

const framesOf = (network, image) => state.frames[network][image] ?? [];
const stepsOf = (network) => network.samplers[samplerOf(network)].steps;
const filmed = (image) => state.images.length < WALL || image === state.selected;

/** Ask the worker for all unfinished images: the selected one, the teacher's version of it, then the others.
 *
 * alone: ask for the selected image only, and for the others when it is complete. The worker cannot interrupt an
 * evaluation, so a slider would wait for the others.
 */
function request(alone = false) {
  const others = [...state.images.keys()].filter((image) => image !== state.selected).map((image) => [DRAWS, image]);
  const wanted = [[DRAWS, state.selected]];
  if (!alone) wanted.push(...(taught ? [[TEACHES, state.selected]] : []), ...others);
  const missing = wanted.filter(([network, image]) => {
    const lacksFilm = filmed(image) && framesOf(network, image).length < 2;
    return !state.finished.has(key(network, image)) || lacksFilm;
  });
  const jobs = missing.map(([index, image]) => {
    const network = model.networks[index], { label } = state.images[image];
    state.frames[index][image] = [];
    state.finished.delete(key(index, image));
    return { network: index, image, label, sampler: samplerOf(network), guidance: guidance(network), film: filmed(image) };
  });
  const busy = jobs.some(({ network, image }) => network === DRAWS && image === state.selected);
  Object.assign(state, { alone, busy, missing: jobs.length });
  if (jobs.length) delete document.body.dataset.finished;
  worker.postMessage({ id: ++state.request, jobs, ...noise() });
}

/** Begin again after a setting has changed. */
function restart(sliding = false) {
  stop();
  Object.assign(state, { follow: true, waiting: false, sliding, finished: new Set() });
  state.frames = model.networks.map(() => []);
  if (!sliding) {
    state.seconds = model.networks.map(() => []);
    for (const cell of element("sheet").children) cell.classList.remove("drawn");
  }
  const single = stepsOf(model.networks[DRAWS]) === 1;
  for (const id of ["timeline", "plays"]) element(id).hidden = single;
  element("noisy-title").textContent = single ? "noise" : "noisy image";
  describe(DRAWS);
  if (taught) {
    describe(TEACHES);
    showTeacher();
  }
  showValues();
  element("command").textContent = command();
  request(sliding);
}

/** Write the values of the sliders beside them. */
function showValues() {
  element("scale").textContent = guidance(chosen).toFixed(2);
  element("share").textContent = Number(element("mix").value).toFixed(2);
}

/** Begin again at once, or when the selected image is complete, so that it follows a slider. */
function slide() {
  delete document.body.dataset.finished;
  showValues();
  if (state.busy) state.waiting = true;
  else restart(true);
}

/** Return the command that draws the same images with PyTorch. */
function command() {
  const { seed, mix } = noise(), network = model.networks[DRAWS], { name, steps } = network.samplers[samplerOf(network)];
  if (mix > 0) return "No command draws images between two seeds.";
  const flags = [network.source];
  if (network.samplers.length > 1) flags.push(`--sampler ${name} --steps ${steps}`);
  if (guidance(network) !== 1) flags.push(`--guidance_scale ${guidance(network)}`);
  if (element("shown").value >= 0) flags.push(`--labels ${model.images[element("shown").value].word}`);
  flags.push(`--seed ${seed} --num_samples ${state.images.length}`);
  return `make generate ARGS="${flags.join(" ")}"`;
}

const duration = (seconds) => (seconds < 0.1 ? `${Math.ceil(1000 * seconds)} ms` : `${seconds.toFixed(2)} s`);

/** Return a list with the mean time of a network's images, in words. It is empty before the first image. */
function time(network) {
  const times = state.seconds[network], sum = times.reduce((sum, value) => sum + value, 0);
  return times.length ? [duration(sum / times.length)] : [];
}

/** Write below an image which network has drawn it, and how long it takes. */
function describe(network) {
  const usual = stepsOf(model.networks[network]) === 1 ? "image" : "clean estimate";
  const facts = [evaluations(model.networks[network]), ...time(network)];
  element(network === DRAWS ? "clean-title" : "teacher-title").textContent =
    taught ? `${model.networks[network].role}\n${facts.join(", ")}` : usual;
}

/** Show a step of the selected image. */
function show(step) {
  const frames = framesOf(DRAWS, state.selected), frame = frames[step];
  const slider = element("step"), steps = stepsOf(model.networks[DRAWS]);
  slider.max = Math.max(frames.length - 1, 0);
  slider.value = step;
  if (!frame) return;
  paint(element("noisy"), steps === 1 ? frames[0].noisy : frame.noisy);
  const clean = frame.clean ?? frames[1]?.clean;
  if (clean) paint(element("clean"), clean);
  element("where").textContent = `step ${step} of ${steps}, t = ${frame.t.toFixed(3)}`;
  element("clean").style.opacity = frame.clean ? 1 : 0;
  for (const [id, what] of [["noisy", "Noisy image"], ["clean", "Clean estimate"]]) {
    element(id).setAttribute("aria-label", `${what} of ${state.images[state.selected].name}, step ${step}`);
  }
}

/** Show the last frame of the teacher's image. */
function showTeacher() {
  const frame = framesOf(TEACHES, state.selected).at(-1);
  if (frame) paint(element("teacher"), frame.clean ?? frame.noisy);
  element("teacher").style.opacity = frame ? 1 : 0.35;
  element("teacher").setAttribute("aria-label", `Teacher's image of ${state.images[state.selected].name}`);
}

/** Mark an image of the sheet as the selected one. */
function mark(index) {
  state.selected = index;
  [...element("sheet").children].forEach((cell, other) => {
    cell.setAttribute("aria-checked", other === index);
    cell.tabIndex = other === index ? 0 : -1;
  });
}

function select(index, focus = false) {
  stop();
  mark(index);
  Object.assign(state, { follow: true, sliding: false });
  if (focus) element("sheet").children[index].focus();
  const drawn = model.networks.every((_, network) => framesOf(network, index).length > 1);
  if (framesOf(DRAWS, index).length) show(framesOf(DRAWS, index).length - 1);
  if (taught) showTeacher();
  if (!drawn) request();
}

/** Take a frame of an image. While a slider moves, only the last one is shown. */
function receiveFrame(data) {
  state.frames[data.network][data.image].push(data);
  if (state.sliding && data.done < 1) return;
  if (data.network === TEACHES) return showTeacher();
  paint(element("sheet").children[data.image].firstChild, data.clean ?? data.noisy);
  if (data.image === state.selected && state.follow) show(framesOf(DRAWS, data.image).length - 1);
}

function receiveEnd({ network, image, seconds }) {
  state.finished.add(key(network, image));
  state.seconds[network].push(seconds);
  describe(network);
  if (network === DRAWS) {
    element("sheet").children[image].classList.add("drawn");
    const done = state.images.filter((_, index) => state.finished.has(key(DRAWS, index))).length;
    element("status").textContent =
      `${done} of ${state.images.length} images, ${time(DRAWS)} each, ${evaluations(model.networks[DRAWS])}`;
    if (image === state.selected) state.busy = false;
  }
  if (state.waiting && !state.busy) restart(true);
  else if (--state.missing === 0) {
    document.body.dataset.finished = "";
    if (state.alone) request();
  }
}

worker.onmessage = ({ data }) => {
  if (data.error) element("status").textContent = `The images cannot be drawn: ${data.error}`;
  else if (data.id !== state.request) return;
  else if (data.finished) receiveEnd(data);
  else receiveFrame(data);
};

function stop() {
  clearInterval(state.player);
  state.player = null;
  element("play").textContent = "\u25b6";
}

/** Play the steps of the selected image, over three seconds at most. */
function play() {
  if (state.player) return stop();
  const last = () => framesOf(DRAWS, state.selected).length - 1;
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
  const options = chosen.samplers.map((sampler, index) => [sampler, index]).filter(([{ title }]) => title === element("sampler").value);
  element("steps").replaceChildren(
    ...options.map(([{ steps }, index]) => new Option(steps, index)),
  );
  const usual = options.find(([, index]) => index === chosen.sampler) ?? options[Math.floor(options.length / 2)];
  element("steps").value = usual[1];
}

/** Fill the sheet with an image of each class, a wall of all classes, or a wall of one. */
function fillSheet() {
  const one = Number(element("shown").value), wall = one !== -2;
  const turns = one >= 0 ? [model.images[one]] : model.images;
  state.images = wall ? Array.from({ length: WALL }, (_, index) => turns[index % turns.length]) : model.images;
  element("sheet").classList.toggle("wall", wall);
  element("sheet").classList.toggle("few", !wall && model.images.length <= 10);
  element("sheet").replaceChildren(...state.images.map(({ name }, index) => {
    const cell = document.createElement("button"), label = document.createElement("span");
    label.textContent = name;
    cell.type = "button";
    cell.setAttribute("role", "radio");
    if (wall) cell.setAttribute("aria-label", `${name}, image ${index}`);
    cell.append(document.createElement("canvas"), label);
    cell.addEventListener("click", () => select(index));
    paint(cell.firstChild, new Float32Array(channels * height * width).fill(model.greyLevels[0]));
    return cell;
  }));
  mark(0);
}

function build() {
  const titles = new Set(chosen.samplers.map(({ title }) => title));
  element("sampler").replaceChildren(...[...titles].map((title) => new Option(title, title)));
  element("sampler").value = chosen.samplers[chosen.sampler].title;
  fillSteps();
  element("guidance").value = chosen.guidance;
  element("guided").hidden = !chosen.guided;
  for (const id of ["sampled", "stepped"]) element(id).hidden = chosen.samplers.length === 1;
  element("compared").hidden = !taught;
  const classes = model.images.flatMap(({ label, name }, index) => (label === null ? [] : [new Option(`${WALL} of ${name}`, index)]));
  const each = classes.length ? "one of each" : `${model.images.length} images`;
  element("shown").replaceChildren(new Option(each, -2), new Option(`${WALL} images`, -1), ...classes);
  fillSheet();
}

function listen() {
  element("sampler").addEventListener("change", () => (fillSteps(), restart()));
  for (const id of ["seed", "other", "steps"]) element(id).addEventListener("change", () => restart());
  for (const id of ["guidance", "mix"]) element(id).addEventListener("input", slide);
  element("shown").addEventListener("change", () => (fillSheet(), restart()));
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
    if (index >= 0 && index < state.images.length) select(index, true);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT/.test(event.target.tagName)) return;
    if (event.key === "n") another();
    if (event.key === "p" && !element("timeline").hidden) play();
  });
}

build();
listen();
worker.postMessage({ model, weights: element("weights").textContent.split(" ") });
restart();
