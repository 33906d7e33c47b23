/** Exported networks, run by LiteRT.js. */

import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

import { readModelFile } from "./model_file.js";

// Of a probability; a GPU computes with half precision.
const LARGEST_DIFFERENCE = 1e-2;

let runtime = null;

/**
 * Loads a network, onto the GPU if it computes the same there.
 *
 * @param {Uint8Array} contents of a `.tflite` file of an export.
 * @param {{tryGpu: boolean}} options networks of integers gain nothing.
 * @returns {Promise<Classifier>}
 * @throws {Error} if it is no such file or cannot be run; says why.
 */
export async function loadClassifier(contents, { tryGpu }) {
  const { model, metadata } = await readModelFile(contents);
  runtime ??= loadLiteRt(new URL("litert/", import.meta.url).href);
  try {
    await runtime;
  } catch (error) {
    runtime = null;
    throw new Error(`needs WebAssembly, which does not load: ${error}`);
  }
  let compiled = null;
  let classifier;
  try {
    compiled = await loadAndCompile(model, { accelerator: "wasm" });
    classifier = new Classifier(compiled, metadata, "WebAssembly");
    // Here it shows whether input and output are as the metadata say.
    await classifier.classify(makeProbe(metadata));
  } catch (error) {
    compiled?.delete();
    throw new Error(`cannot be run: ${error.message ?? error}`);
  }
  const onGpu = tryGpu && (await loadOnGpu(model, classifier));
  if (onGpu) {
    classifier.delete();
    return onGpu;
  }
  return classifier;
}

/** Returns the same on the GPU, or null if it cannot be. */
async function loadOnGpu(model, classifier) {
  if (!navigator.gpu) {
    return null;
  }
  let compiled = null;
  try {
    compiled = await loadAndCompile(model, { accelerator: "webgpu" });
    // To run a part of a network there, LiteRT.js needs what few browsers have.
    if (compiled.isFullyAccelerated) {
      const { metadata } = classifier;
      const onGpu = new Classifier(compiled, metadata, "WebGPU");
      const probe = makeProbe(metadata);
      const { probabilities } = await onGpu.classify(probe);
      const expected = await classifier.classify(probe);
      const isSame = expected.probabilities.every(
        (value, index) =>
          Math.abs(value - probabilities[index]) <= LARGEST_DIFFERENCE,
      );
      if (isSame) {
        return onGpu;
      }
    }
  } catch (error) {
    console.info("There is no WebGPU for this network:", error);
  }
  compiled?.delete();
  return null;
}

function makeProbe({ image_size: size, channels }) {
  return Float32Array.from(
    { length: size * size * channels },
    (_, index) => (index * 37) % 256,
  );
}

class Classifier {
  #compiled;

  /** `accelerator` is what computes, in words. */
  constructor(compiled, metadata, accelerator) {
    this.#compiled = compiled;
    this.metadata = metadata;
    this.accelerator = accelerator;
  }

  /**
   * Runs the network.
   *
   * @param {Float32Array} image what `prepareImage` returns.
   * @returns {Promise<{probabilities: Float32Array, milliseconds: number}>}
   */
  async classify(image) {
    const { class_names: names, image_size: size, channels } = this.metadata;
    const input = new Tensor(image, [1, size, size, channels]);
    let outputs = [];
    try {
      const start = performance.now();
      outputs = await this.#compiled.run(input);
      const probabilities = await outputs[0].data();
      const milliseconds = performance.now() - start;
      if (probabilities.length !== names.length) {
        throw new Error(
          `it has ${probabilities.length} classes and ${names.length} names`,
        );
      }
      return { probabilities, milliseconds };
    } finally {
      input.delete();
      outputs.forEach((output) => output.delete());
    }
  }

  delete() {
    this.#compiled.delete();
  }
}
