/** What the page shows of a network and of what it says. */

const MOST_BARS = 10;
// Names so long are set large.
const SHORT_NAME = 3;
// Screen readers say what stays for so long, not all that one sees.
const SPEAK_AFTER_MS = 700;

export class ResultView {
  #elements;
  #bars = [];
  #isRanked = false;
  #speech;

  /** @param {Record<string, HTMLElement>} elements of the page by their id. */
  constructor(elements) {
    this.#elements = elements;
  }

  /** Shows a network without a result. */
  showModel({ metadata, accelerator }, bytes) {
    const { class_names: names, image_size: size, channels } = metadata;
    const { accelerator: computes, bars, seen } = this.#elements;
    computes.textContent = accelerator;
    const kind = channels === 1 ? "gray" : "color";
    this.#elements["seen-size"].textContent = `${size} × ${size} ${kind}`;
    this.#elements["model-size"].textContent = `${formatMegabytes(bytes)} MB`;
    seen.width = seen.height = size;
    this.#isRanked = names.length > MOST_BARS;
    this.#bars = names.slice(0, MOST_BARS).map(makeBar);
    bars.replaceChildren(...this.#bars.map(({ row }) => row));
    const isNamed = names.some((name) => name.length > SHORT_NAME);
    bars.classList.toggle("named", isNamed);
    this.#fillBars(names, new Float32Array(names.length));
    this.clear();
  }

  /** Shows what a network says of an image. */
  show({ metadata, image, probabilities, milliseconds, preparation }) {
    const { class_names: names } = metadata;
    const best = probabilities.indexOf(Math.max(...probabilities));
    this.#fillBars(names, probabilities);
    this.#showWinner(names[best], formatPercent(probabilities[best]));
    this.#elements["network-time"].textContent = formatTime(milliseconds);
    this.#elements["preparation-time"].textContent = formatTime(preparation);
    const pixels = new ImageData(metadata.image_size, metadata.image_size);
    const { channels } = metadata;
    for (let index = 0; index < pixels.data.length; index++) {
      const pixel = Math.floor(index / 4);
      const channel = Math.min(index % 4, channels - 1);
      pixels.data[index] =
        index % 4 === 3 ? 255 : image[pixel * channels + channel];
    }
    this.#elements.seen.getContext("2d").putImageData(pixels, 0, 0);
  }

  /** Shows that there is no image. */
  clear() {
    this.#showWinner("–", "");
    this.#elements["network-time"].textContent = "–";
    this.#elements["preparation-time"].textContent = "–";
    for (const bar of this.#bars) {
      fillBar(bar, bar.name.textContent, 0, false);
      bar.value.textContent = "";
    }
    const { seen } = this.#elements;
    seen.getContext("2d").clearRect(0, 0, seen.width, seen.height);
  }

  #fillBars(names, probabilities) {
    const order = [...names.keys()];
    const best = probabilities.indexOf(Math.max(...probabilities));
    if (this.#isRanked) {
      order.sort((one, other) => probabilities[other] - probabilities[one]);
    }
    this.#bars.forEach((bar, place) => {
      const index = order[place];
      fillBar(bar, names[index], probabilities[index], index === best);
    });
  }

  #showWinner(name, share) {
    const { winner, status } = this.#elements;
    winner.textContent = name;
    winner.classList.toggle("short", name.length <= SHORT_NAME);
    this.#elements.share.textContent = share;
    clearTimeout(this.#speech);
    this.#speech = setTimeout(() => {
      status.textContent = share ? `${name}, ${share}` : "No result";
    }, SPEAK_AFTER_MS);
  }
}

function makeBar() {
  const row = document.createElement("li");
  const [name, track, fill, value] = ["name", "track", "fill", "value"].map(
    (className) => {
      const element = document.createElement("span");
      element.className = className;
      return element;
    },
  );
  track.append(fill);
  row.append(name, track, value);
  return { row, name, fill, value };
}

function fillBar({ row, name, fill, value }, text, probability, isBest) {
  name.textContent = name.title = text;
  fill.style.transform = `translateX(${100 * (probability - 1)}%)`;
  value.textContent = formatPercent(probability);
  row.classList.toggle("best", isBest);
}

function formatPercent(probability) {
  return `${(100 * probability).toFixed(1)} %`;
}

function formatTime(milliseconds) {
  return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
}

function formatMegabytes(bytes) {
  return (bytes / 1e6).toFixed(2);
}
