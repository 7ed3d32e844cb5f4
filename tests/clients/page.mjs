// Opens the page for operators in Chromium, uses it as a person would, and prints what it found as JSON.
//   node page.mjs URL CHROMIUM FOLDER
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { chromium } from "playwright-core";

const [url, program, folder] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const found = { errors: [], requests: [], axe: [], overflow: [] };

async function open(width, height, colorScheme) {
  const page = await browser.newPage({ viewport: { width, height }, colorScheme });
  // a refused request of the playground is an answer, which Chromium tells of all the same
  page.on("console", (message) => message.type() === "error" && !/status of 400/.test(message.text()) && found.errors.push(message.text()));
  page.on("pageerror", (error) => found.errors.push(error.message));
  page.on("request", (request) => found.requests.push(request.url()));
  await page.goto(url);
  await page.locator("#ended tbody button").first().waitFor();
  await page.evaluate(axe);
  return page;
}

async function judge(page, what) {
  const { violations } = await page.evaluate(() => window.axe.run());
  found.axe.push(...violations.map(({ id, nodes }) => `${what}: ${id}: ${nodes[0].html}`));
  const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  if (wide) found.overflow.push(what);
  await page.screenshot({ path: `${folder}/${what}.png`, fullPage: true });
}

async function plan(page, request) {
  await page.fill("#plan-request", request);
  await page.click("#plan-form button");
  await page.locator("#plan-answer:not([hidden]), #plan-error:not([hidden])").waitFor();
}

for (const scheme of ["light", "dark"]) {
  for (const [name, width, height] of [["desktop", 1280, 900], ["phone", 390, 844]]) {
    const page = await open(width, height, scheme);
    await judge(page, `live-${name}-${scheme}`);
    await page.click("#tab-plan");
    await plan(page, '{"model": "m", "input": "hi"}');
    await judge(page, `playground-${name}-${scheme}`);
    await page.close();
  }
}

const page = await open(1280, 900, "light");
const rows = (table) => page.$$eval(`#${table} tbody tr:not(:has(.empty))`, (all) => all.map((row) => [...row.cells].map((cell) => cell.textContent)));
found.status = await page.textContent("#status");
found.upstreams = await rows("upstreams");
found.running = await rows("running");
found.ended = await rows("ended");
found.charts = await page.$$eval("figure [role=img]", (all) => all.map((chart) => [chart.getAttribute("aria-label"), chart.querySelector("canvas") !== null]));
await page.check("#only-errors");
found.onlyErrors = await rows("ended");
await page.uncheck("#only-errors");
await page.fill("#filter", "no such request");
found.filtered = await rows("ended");
await page.fill("#filter", "");

// by the keyboard alone
await page.focus("#tab-live");
await page.keyboard.press("ArrowRight");
found.keyboardTab = await page.evaluate(() => [document.activeElement.id, document.getElementById("plan").hidden]);
await page.keyboard.press("ArrowLeft");
await page.locator("#ended tbody button").first().focus();
await page.keyboard.press("Enter");
found.details = await page.$$eval("dialog[open] dd", (all) => all.map((value) => value.textContent));
await page.keyboard.press("Escape");
found.closed = await page.evaluate(() => [document.querySelector("dialog[open]") === null, document.activeElement.textContent]);

await page.click("#tab-plan");
await plan(page, '{"model": "m", "instructions": "Be brief.", "input": "hi", "tools": [{"type": "web_search"}]}');
found.planned = [await page.textContent("#plan-head"), JSON.parse(await page.textContent("#plan-body")), await page.textContent("#plan-notes")];
await plan(page, '{"model": "m", "input": "hi", "temperature": "warm"}');
found.refused = await page.textContent("#plan-error");
await plan(page, '{"model": "m", "input": "hi", "previous_response_id": "resp_1"}');
found.stored = await page.textContent("#plan-error");
found.text = await page.content();
await browser.close();
console.log(JSON.stringify(found));
