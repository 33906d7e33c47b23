/** Antialiased bilinear resizing, to the same floats as Pillow's. */

/**
 * Returns the triangle over the input pixels for each output pixel.
 *
 * The triangle is as wide as two output pixels, and at least as two input
 * pixels.
 */
function computeWeights(inputSize, outputSize) {
  const scale = inputSize / outputSize;
  const support = Math.max(scale, 1);
  return Array.from({ length: outputSize }, (_, index) => {
    const center = (index + 0.5) * scale;
    // Both are cut off, not rounded down, as in Pillow.
    const begin = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), inputSize);
    const weights = new Float64Array(end - begin);
    let sum = 0;
    for (let tap = 0; tap < weights.length; tap++) {
      const distance = (tap + begin - center + 0.5) * (1 / support);
      weights[tap] = Math.max(1 - Math.abs(distance), 0);
      sum += weights[tap];
    }
    return { begin, weights: weights.map((weight) => weight / sum) };
  });
}

/**
 * Resizes lines of equally spaced values.
 *
 * @param {Float32Array} values the lines.
 * @param {number} count of lines.
 * @param {number} length of a line before it is resized.
 * @param {number} size its length afterwards.
 * @param {{step: number, line: number}} from distance of two values of a line
 *     and of two lines in `values`.
 * @param {{step: number, line: number}} to the same in the result.
 * @returns {Float32Array} `count * size` values.
 */
function resizeLines(values, count, length, size, from, to) {
  const result = new Float32Array(count * size);
  computeWeights(length, size).forEach(({ begin, weights }, index) => {
    for (let line = 0; line < count; line++) {
      const offset = line * from.line + begin * from.step;
      let sum = 0;
      for (let tap = 0; tap < weights.length; tap++) {
        sum += values[offset + tap * from.step] * weights[tap];
      }
      result[line * to.line + index * to.step] = sum;
    }
  });
  return result;
}

/**
 * Makes rows shorter or longer.
 *
 * @param {Float32Array} plane one channel, row by row.
 * @param {number} height its rows.
 * @param {number} width its columns.
 * @param {number} size columns of the result.
 * @returns {Float32Array} `height * size` values, row by row.
 */
export function resizeRows(plane, height, width, size) {
  const from = { step: 1, line: width };
  const to = { step: 1, line: size };
  return resizeLines(plane, height, width, size, from, to);
}

/**
 * Makes columns shorter or longer.
 *
 * @param {Float32Array} plane one channel, row by row.
 * @param {number} height its rows.
 * @param {number} width its columns.
 * @param {number} size rows of the result.
 * @returns {Float32Array} `size * width` values, row by row.
 */
export function resizeColumns(plane, height, width, size) {
  const from = { step: width, line: 1 };
  return resizeLines(plane, width, height, size, from, from);
}
