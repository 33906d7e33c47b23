/** TensorFlow Lite files of an export, which carry what is said of them. */

const METADATA_FILE = "metadata.json";
const CHECKSUM_FILE = "model.sha256";
const END_SIZE = 22;
const LONGEST_COMMENT = 65535;

/**
 * Splits a file into the model and the archive behind it.
 *
 * @param {Uint8Array} contents of a `.tflite` file.
 * @returns {Promise<{model: Uint8Array, metadata: object}>} what
 *     `Classifier.describe` of export/trained_classifier.py returned.
 * @throws {Error} if it was not written by export.export_model, or has been
 *     damaged since; says which.
 */
export async function readModelFile(contents) {
  let entries, metadata;
  try {
    entries = readArchive(contents);
    metadata = JSON.parse(decodeText(entries[METADATA_FILE].data));
  } catch (error) {
    throw new Error("is no whole .tflite file of export.export_model", {
      cause: error,
    });
  }
  if (!isMetadata(metadata)) {
    throw new Error("has metadata that export.export_model does not write");
  }
  const model = contents.subarray(0, entries[METADATA_FILE].offset);
  const checksum = entries[CHECKSUM_FILE];
  // Files of earlier versions have none, and only pages that came by https
  // or from this machine can compute it.
  if (checksum && globalThis.crypto?.subtle) {
    const digest = await crypto.subtle.digest("SHA-256", model);
    if (toHexadecimal(digest) !== decodeText(checksum.data)) {
      throw new Error("is damaged: the checksum of the model is another");
    }
  }
  return { model, metadata };
}

/** Returns the files of a zip archive at the end, which are not compressed. */
function readArchive(contents) {
  const view = new DataView(
    contents.buffer,
    contents.byteOffset,
    contents.byteLength,
  );
  const end = findEnd(view);
  const count = view.getUint16(end + 10, true);
  const entries = {};
  let position = view.getUint32(end + 16, true);
  for (let number = 0; number < count; number++) {
    const size = view.getUint32(position + 24, true);
    const nameSize = view.getUint16(position + 28, true);
    const extraSize = view.getUint16(position + 30, true);
    const commentSize = view.getUint16(position + 32, true);
    const offset = view.getUint32(position + 42, true);
    const nameAt = position + 46;
    const name = decodeText(contents.subarray(nameAt, nameAt + nameSize));
    // The sizes of what is between an entry's header and its data.
    const begin =
      offset +
      30 +
      view.getUint16(offset + 26, true) +
      view.getUint16(offset + 28, true);
    entries[name] = { offset, data: contents.subarray(begin, begin + size) };
    position = nameAt + nameSize + extraSize + commentSize;
  }
  return entries;
}

function findEnd(view) {
  const last = view.byteLength - END_SIZE;
  for (let end = last; end >= last - LONGEST_COMMENT; end--) {
    if (view.getUint32(end, true) === 0x06054b50) {
      return end;
    }
  }
  throw new Error("There is no archive.");
}

function decodeText(bytes) {
  return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
}

function toHexadecimal(buffer) {
  return Array.from(new Uint8Array(buffer), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}

function isMetadata(metadata) {
  return (
    Array.isArray(metadata?.class_names) &&
    metadata.class_names.length > 0 &&
    metadata.class_names.every((name) => typeof name === "string") &&
    Number.isInteger(metadata.image_size) &&
    metadata.image_size >= 1 &&
    [1, 3].includes(metadata.channels) &&
    metadata.crop_fraction > 0 &&
    metadata.crop_fraction <= 1
  );
}
