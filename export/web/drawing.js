/** A pad on which one draws in white on black. */

// Of the side of the square that a drawing fills: as in scikit-learn's digits.
const INK = 0.16;
// Of the side of the pad.
const PAD_INK = 1 / 16;
// A dot is not made larger than this.
const SMALLEST_SIZE = 1 / 4;

export class DrawingPad {
  #context;
  #strokes = [];

  /**
   * @param {HTMLCanvasElement} canvas a square.
   * @param {() => void} onChange called after each piece of a stroke.
   */
  constructor(canvas, onChange) {
    this.#context = canvas.getContext("2d");
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button === 0 && event.isPrimary) {
        canvas.setPointerCapture(event.pointerId);
        this.#strokes.push([this.#locate(event)]);
        this.#show();
        onChange();
      }
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.isPrimary && canvas.hasPointerCapture(event.pointerId)) {
        // Of fast strokes, where the pointer was since the last event.
        const events = event.getCoalescedEvents?.() ?? [];
        const points = (events.length ? events : [event]).map((between) =>
          this.#locate(between),
        );
        this.#strokes.at(-1).push(...points);
        this.#show();
        onChange();
      }
    });
    this.#show();
  }

  get isEmpty() {
    return this.#strokes.length === 0;
  }

  clear() {
    this.#strokes = [];
    this.#show();
  }

  /**
   * Draws the strokes once more so that they fill a square.
   *
   * @param {number} side of the square in pixels.
   * @returns {OffscreenCanvas}
   */
  render(side) {
    const { left, top, width, height } = findBounds(this.#strokes.flat());
    const size = Math.max(width, height, SMALLEST_SIZE);
    const context = new OffscreenCanvas(side, side).getContext("2d");
    const scale = ((1 - INK) * side) / size;
    drawStrokes(context, this.#strokes, INK * side, ([x, y]) => [
      side / 2 + (x - left - width / 2) * scale,
      side / 2 + (y - top - height / 2) * scale,
    ]);
    return context.canvas;
  }

  /** Returns where on the pad a pointer is, from 0 to 1. */
  #locate(event) {
    const { left, top, width, height } =
      this.#context.canvas.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / height];
  }

  #show() {
    const { width: side } = this.#context.canvas;
    drawStrokes(this.#context, this.#strokes, PAD_INK * side, ([x, y]) => [
      x * side,
      y * side,
    ]);
  }
}

function findBounds(points) {
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  const [left, top] = [xs, ys].map((values) => Math.min(...values));
  const [right, bottom] = [xs, ys].map((values) => Math.max(...values));
  return { left, top, width: right - left, height: bottom - top };
}

function drawStrokes(context, strokes, ink, place) {
  const { width, height } = context.canvas;
  context.fillStyle = "black";
  context.fillRect(0, 0, width, height);
  context.strokeStyle = "white";
  context.lineCap = "round";
  context.lineJoin = "round";
  context.lineWidth = ink;
  for (const stroke of strokes) {
    context.beginPath();
    // Without a line to itself, a dot would not be seen.
    context.moveTo(...place(stroke[0]));
    for (const point of stroke) {
      context.lineTo(...place(point));
    }
    context.stroke();
  }
}
