/** What happens to an image before a network sees it, as in Python. */

import { resizeColumns, resizeRows } from "./resize.js";

// Photographs are read in strips of so many pixels, to take little memory.
const STRIP_PIXELS = 2 ** 20;

/**
 * Cuts the central square out of an image and resizes it.
 *
 * To the same numbers as `prepare_image` of export/preprocessing.py, but for
 * gray made of a colored JPEG, which Python takes from the file as it is.
 *
 * @param {ImageBitmap | OffscreenCanvas} bitmap made with
 *     `premultiplyAlpha: "none"`.
 * @param {{image_size: number, channels: number, crop_fraction: number}}
 *     metadata of the network.
 * @returns {Promise<Float32Array>} `image_size * image_size * channels` values
 *     from 0 to 255.
 */
export async function prepareImage(bitmap, metadata) {
  const { image_size: size, channels, crop_fraction: fraction } = metadata;
  const { width, height } = bitmap;
  const shorter = Math.min(height, width);
  // In float32 and half to even.
  const side = Math.max(
    roundHalfToEven(Math.fround(shorter * Math.fround(fraction))),
    1,
  );
  const left = Math.floor((width - side) / 2);
  const top = Math.floor((height - side) / 2);
  const rows = makePlanes(channels, side * size);
  const stripHeight = Math.ceil(STRIP_PIXELS / side);
  for (let row = 0; row < side; row += stripHeight) {
    const count = Math.min(stripHeight, side - row);
    const pixels = await readPixels(bitmap, left, top + row, side, count);
    splitChannels(pixels, channels).forEach((plane, channel) => {
      rows[channel].set(resizeRows(plane, count, side, size), row * size);
    });
  }
  const planes = rows.map((plane) => resizeColumns(plane, side, size, size));
  return Float32Array.from(
    { length: size * size * channels },
    (_, index) => planes[index % channels][Math.floor(index / channels)],
  );
}

/**
 * Resizes a drawing as if it had been scanned like scikit-learn's digits.
 *
 * Those have half of the pixels that the network sees on each side, and are
 * as blurred. A sharp drawing is read with less certainty.
 *
 * @param {OffscreenCanvas} drawing a square.
 * @param {{image_size: number}} metadata of a network of gray images.
 * @returns {Promise<Float32Array>} `image_size * image_size` values.
 */
export async function prepareDrawing(drawing, { image_size: size }) {
  const scanSize = Math.ceil(size / 2);
  const scan = await prepareImage(drawing, {
    image_size: scanSize,
    channels: 1,
    crop_fraction: 1,
  });
  const rows = resizeRows(scan, scanSize, scanSize, size);
  return resizeColumns(rows, scanSize, size, size);
}

function roundHalfToEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1;
}

function makePlanes(count, length) {
  return Array.from({ length: count }, () => new Float32Array(length));
}

/** Returns the red, green, blue and alpha of a part of an image. */
async function readPixels(bitmap, left, top, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", {
    willReadFrequently: true,
  });
  context.drawImage(bitmap, -left, -top);
  const { data } = context.getImageData(0, 0, width, height);
  if (isOpaque(data)) {
    return data;
  }
  // A canvas forgets the color of what is transparent, and Python shows it.
  return (await readColors(bitmap, left, top, width, height)) ?? data;
}

function isOpaque(pixels) {
  for (let index = 3; index < pixels.length; index += 4) {
    if (pixels[index] < 255) {
      return false;
    }
  }
  return true;
}

/** Returns red, green, blue and alpha, or null in browsers that cannot. */
async function readColors(bitmap, left, top, width, height) {
  if (typeof VideoFrame === "undefined") {
    return null;
  }
  const frame = new VideoFrame(bitmap, { timestamp: 0, alpha: "keep" });
  try {
    const isReversed = frame.format === "BGRA";
    if (!isReversed && frame.format !== "RGBA") {
      return null;
    }
    const rect = { x: left, y: top, width, height };
    const layout = [{ offset: 0, stride: 4 * width }];
    const pixels = new Uint8ClampedArray(4 * width * height);
    await frame.copyTo(pixels, { rect, layout });
    for (let index = 0; isReversed && index < pixels.length; index += 4) {
      const blue = pixels[index];
      pixels[index] = pixels[index + 2];
      pixels[index + 2] = blue;
    }
    return pixels;
  } finally {
    frame.close();
  }
}

function splitChannels(pixels, channels) {
  const planes = makePlanes(channels, pixels.length / 4);
  planes.forEach((plane, channel) => {
    for (let index = 0; index < plane.length; index++) {
      const first = 4 * index;
      plane[index] =
        channels === 1
          ? // The luminance of ITU-R 601, rounded as by Pillow.
            (pixels[first] * 19595 +
              pixels[first + 1] * 38470 +
              pixels[first + 2] * 7471 +
              0x8000) >>
            16
          : pixels[first + channel];
    }
  });
  return planes;
}
