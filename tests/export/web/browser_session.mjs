/**
 * Opens a page as people do, and prints what it said as JSON.
 *
 *     node browser_session.mjs PACKAGE_JSON BROWSER SITE CASES
 *
 * PACKAGE_JSON has playwright-core, SITE is the address of the page, and CASES
 * that of a folder, with `cases.json`.
 */

import { createRequire } from "node:module";

const [packageFile, executablePath, site, cases] = process.argv.slice(2);
const { chromium } = createRequire(packageFile)("playwright-core");

// Without a time limit of its own, what waits for the page waits forever; at
// the end of this process the browser ends, too.
setTimeout(() => process.exit(1), 120_000).unref();

const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const page = await browser.newPage();
const requests = [];
const errors = [];
page.on("request", (request) => requests.push(request.url()));
page.on("pageerror", (error) => errors.push(String(error)));
page.on("console", (message) => {
  if (message.text().includes("Content Security Policy")) {
    errors.push(message.text());
  }
});

const text = (selector) => page.locator(selector).textContent();
const isLoaded = () =>
  document.querySelector("#accelerator").textContent !== "loading …";

/** Returns how long the bars are, from 0 to 1, once all is computed. */
const getBars = () =>
  page.evaluate(async () => {
    await lambdaKeras.update();
    return Array.from(document.querySelectorAll("#bars .fill"), ({ style }) => {
      const [, percent] = style.transform.match(/\((.*)%\)/);
      return 1 + percent / 100;
    });
  });

/** Has the page read files as if they were dropped one by one. */
const openFiles = (names) =>
  page.evaluate(
    async ([cases, names]) => {
      const results = [];
      for (const name of names) {
        const contents = await (await fetch(cases + name)).blob();
        const result = await lambdaKeras.openFile(new File([contents], name));
        results.push(result && Array.from(result.probabilities));
      }
      return results;
    },
    [cases, names],
  );

async function drop(name) {
  const dataTransfer = await page.evaluateHandle(
    async ([cases, name]) => {
      const contents = await (await fetch(cases + name)).blob();
      const transfer = new DataTransfer();
      transfer.items.add(new File([contents], name));
      return transfer;
    },
    [cases, name],
  );
  await page.dispatchEvent("body", "drop", { dataTransfer });
}

async function draw(points) {
  const { x, y, width, height } = await page.locator("#pad").boundingBox();
  const place = ([right, down]) => [x + right * width, y + down * height];
  await page.mouse.move(...place(points[0]));
  await page.mouse.down();
  for (const point of points) {
    await page.mouse.move(...place(point), { steps: 3 });
  }
  await page.mouse.up();
}

async function run() {
  const { scans, models, prepared, bad, other } = await (
    await fetch(`${cases}cases.json`)
  ).json();
  const results = { models: {}, bad: {} };

  await page.goto(site);
  await page.evaluate(() => lambdaKeras.ready);
  results.options = await page.locator("#models option").allTextContents();
  results.accelerator = await text("#accelerator");
  for (const model of models) {
    await page.selectOption("#models", model);
    await page.waitForFunction(isLoaded);
    results.models[model] = await openFiles(scans);
  }

  results.prepared = await page.evaluate(
    async ([cases, prepared]) => {
      const { decodeImage } = await import("./image_file.js");
      const { prepareImage } = await import("./prepared_image.js");
      const images = [];
      for (const { file, ...metadata } of prepared) {
        const contents = await (await fetch(cases + file)).blob();
        const bitmap = await decodeImage(contents);
        images.push(Array.from(await prepareImage(bitmap, metadata)));
      }
      return images;
    },
    [cases, prepared],
  );

  for (const name of bad) {
    await openFiles([scans[0], name]);
    results.bad[name] = {
      message: await text("#message"),
      winner: await text("#winner"),
      bars: await getBars(),
      model: await page.locator("#models").inputValue(),
    };
  }

  await drop(other);
  await page.waitForFunction(
    (other) => document.querySelector("#models").value === other,
    other,
  );
  results.dropped = (await openFiles([scans[0]]))[0];

  await page.locator("#examples button").click();
  await page.waitForSelector("#photo", { state: "visible" });
  results.example = await getBars();
  // Over the image.
  await draw([
    [0.5, 0.2],
    [0.5, 0.8],
  ]);
  results.oneStroke = await getBars();
  await draw([
    [0.2, 0.3],
    [0.8, 0.3],
    [0.3, 0.7],
  ]);
  results.twoStrokes = await getBars();
  await page.click("#clear");
  results.cleared = await getBars();

  await page.route("**/models.json", (route) => route.fulfill({ status: 404 }));
  await page.goto(site);
  await page.evaluate(() => lambdaKeras.ready);
  results.withoutModels = await text("#message");
  return results;
}

try {
  const results = await run();
  console.log(JSON.stringify({ ...results, requests, errors }));
} finally {
  await browser.close();
}
