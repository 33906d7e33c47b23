/** The page: what is put in, and what comes out. */

import { loadClassifier } from "./classifier.js";
import { DrawingPad } from "./drawing.js";
import { decodeImage } from "./image_file.js";
import { prepareDrawing, prepareImage } from "./prepared_image.js";
import { ResultView } from "./result_view.js";

const HOW_TO_MAKE =
  "There are no models here. Make the site by python -m export.make_page " +
  "--export_dir=runs/digits/export --output_dir=build/page.";
// Pixels on each side of a drawing before it is prepared.
const DRAWN_PIXELS = 256;
// Of so few pixels each is shown as a square.
const TINY = 64;

const elements = Object.fromEntries(
  Array.from(document.querySelectorAll("[id]"), (element) => [
    element.id,
    element,
  ]),
);
const view = new ResultView(elements);
const pad = new DrawingPad(elements.pad, () => {
  hidePhoto();
  report("");
  elements.invitation.hidden = true;
  show((metadata) => prepareDrawing(pad.render(DRAWN_PIXELS), metadata));
});

// By their names, a function that reads the contents of each.
const models = new Map();
let wantedModel = null;
let usedModel = null;
let classifier = null;
// Prepares for a network what is shown, if there is something.
let prepare = null;
// What is shown next waits for what is computed, and it is the last of it.
let running = null;
let waiting = null;

/**
 * Classifies what a function prepares, with this network and those chosen next.
 *
 * @param {?(metadata: object) => Promise<Float32Array>} next
 */
function show(next) {
  prepare = next;
  return update();
}

function update() {
  waiting ??= (async () => {
    await running;
    await new Promise(requestAnimationFrame);
    waiting = null;
    running = classify(classifier);
    return running;
  })();
  return waiting;
}

async function classify(network) {
  if (!network || !prepare) {
    view.clear();
    return null;
  }
  const { metadata } = network;
  try {
    const start = performance.now();
    const image = await prepare(metadata);
    const preparation = performance.now() - start;
    const result = await network.classify(image);
    view.show({ metadata, image, preparation, ...result });
    return { probabilities: result.probabilities, image };
  } catch (error) {
    view.clear();
    report(`The image cannot be classified: ${error.message}.`);
    return null;
  }
}

/**
 * Classifies an image file, or uses the model that a .tflite file is.
 *
 * @param {File} file
 * @returns {Promise<?{probabilities: Float32Array, image: Float32Array}>}
 *     what the network says and what it has seen; null if there is none.
 */
async function openFile(file) {
  report("");
  if (file.name.endsWith(".tflite")) {
    return useModel(file.name, () => file.arrayBuffer());
  }
  try {
    const bitmap = await decodeImage(file);
    pad.clear();
    showPhoto(file, bitmap);
    return await show((metadata) => prepareImage(bitmap, metadata));
  } catch (error) {
    await clear();
    report(`${file.name} ${error.message}.`);
    return null;
  }
}

function clear() {
  report("");
  pad.clear();
  hidePhoto();
  elements.invitation.hidden = false;
  return show(null);
}

function showPhoto(file, { width, height }) {
  hidePhoto();
  elements.photo.src = URL.createObjectURL(file);
  elements.photo.classList.toggle("tiny", Math.max(width, height) < TINY);
  elements.photo.hidden = false;
  elements.invitation.hidden = true;
}

function hidePhoto() {
  URL.revokeObjectURL(elements.photo.src);
  elements.photo.hidden = true;
}

function report(message) {
  elements.message.textContent = message;
}

function addModel(name, label, read) {
  if (!models.has(name)) {
    elements.models.add(new Option(label, name));
  }
  models.set(name, read);
}

/** Changes the network; the one before stays if there is something wrong. */
async function useModel(name, read = models.get(name)) {
  wantedModel = name;
  elements.accelerator.textContent = "loading …";
  let loaded, contents;
  try {
    contents = new Uint8Array(await read());
    loaded = await loadClassifier(contents, {
      // Networks of integers are made for a CPU.
      tryGpu: !name.includes("int8"),
    });
  } catch (error) {
    report(`${name} ${error.message}.`);
  }
  if (name !== wantedModel) {
    loaded?.delete();
    return null;
  }
  if (!loaded) {
    elements.models.value = usedModel;
    elements.accelerator.textContent = classifier?.accelerator ?? "–";
    return null;
  }
  const earlier = classifier;
  classifier = loaded;
  usedModel = name;
  addModel(name, name, read);
  elements.models.value = name;
  view.showModel(classifier, contents.length);
  const isGray = classifier.metadata.channels === 1;
  elements.pad.hidden = elements["drawing-note"].hidden = !isGray;
  elements.invitation.textContent = isGray
    ? "Draw here, or choose, drop or paste an image"
    : "Choose, drop or paste an image";
  if (!isGray && !pad.isEmpty) {
    clear();
  }
  const result = await update();
  earlier?.delete();
  return result;
}

async function fetchBytes(path) {
  const response = await fetch(path);
  if (!response.ok) {
    throw new Error(`cannot be fetched: ${response.status}`);
  }
  return response.arrayBuffer();
}

function addExample({ file, name }) {
  const button = document.createElement("button");
  const image = new Image();
  button.type = "button";
  button.title = image.alt = name;
  image.src = file;
  button.append(image);
  button.addEventListener("click", async () => {
    try {
      openFile(new File([await fetchBytes(file)], name));
    } catch (error) {
      report(`${name} ${error.message}.`);
    }
  });
  elements.examples.append(button);
}

function listen() {
  elements.models.addEventListener("change", () => {
    report("");
    useModel(elements.models.value);
  });
  elements.clear.addEventListener("click", clear);
  elements.file.addEventListener("change", () => {
    const [file] = elements.file.files;
    if (file) {
      openFile(file);
    }
    // So that the same file may be chosen once more.
    elements.file.value = "";
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) {
      openFile(file);
    }
  });
  const { classList } = document.body;
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    classList.toggle("dropping", event.relatedTarget !== null);
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    classList.remove("dropping");
    const [file] = event.dataTransfer.files;
    if (file) {
      openFile(file);
    }
  });
}

async function start() {
  listen();
  elements.models.replaceChildren();
  const response = await fetch("models.json", { cache: "no-cache" });
  // Some servers send a page of theirs for a file that is missing.
  const site = await response.json().catch(() => null);
  if (!response.ok || !site?.models?.length) {
    report(HOW_TO_MAKE);
    return;
  }
  for (const { file, weights, bytes } of site.models) {
    const label = `${weights}, ${(bytes / 1e6).toFixed(2)} MB`;
    addModel(file, label, () => fetchBytes(file));
  }
  elements.models.disabled = false;
  site.examples.forEach(addExample);
  await useModel(site.models[0].file);
}

// For scripts: `openFile` as above, once `ready` is fulfilled, and `update`,
// which classifies once more what is shown.
window.lambdaKeras = { openFile, update, ready: start() };
