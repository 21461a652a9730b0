// What the browser tests share: a browser whose pages note what must not happen, and checks that say what they found.
import {createRequire} from 'node:module';
import {mkdirSync, rmSync} from 'node:fs';
import {join} from 'node:path';

const {chromium} = createRequire(join(process.env.NODE_MODULES, 'x'))('playwright-core');
export const base = process.env.PAGE;
const shots = process.env.SCREENSHOTS;
mkdirSync(shots, {recursive: true});

const browser = await chromium.launch({executablePath: process.env.CHROMIUM, args: ['--no-sandbox']});
let failures = 0;

export function check(holds, what) {
  if (!holds) throw new Error(what);
}

export function equal(got, want, what) {
  const [g, w] = [JSON.stringify(got), JSON.stringify(want)];
  check(g === w, `${what}: got ${g}, want ${w}`);
}

// test runs steps on a fresh page at a path and then looks for what must never happen: an error on the console, a
// violation of the security policy, a request to another origin.
export async function test(name, path, options, steps) {
  const {allowErrors, ...context} = options;
  const c = await browser.newContext({viewport: {width: 1440, height: 900}, ...context});
  const page = await c.newPage();
  page.setDefaultTimeout(60000); // of what takes a second where nothing else runs
  const failed = join(shots, `failed-${name.replaceAll(' ', '-')}.png`);
  rmSync(failed, {force: true});
  const wrong = [];
  page.on('console', (m) => {
    if (['error', 'warning'].includes(m.type())) wrong.push(`console: ${m.text()} ${m.location().url}`);
  });
  const asked = new Set();
  page.on('request', (r) => asked.add(r));
  for (const end of ['requestfinished', 'requestfailed']) page.on(end, (r) => asked.delete(r));
  // settled waits until the page has what it asked for, and has drawn it.
  page.settled = async () => {
    do {
      await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
    } while (asked.size);
  };
  page.on('pageerror', (e) => wrong.push(`script: ${e.stack}`));
  page.on('request', (r) => {
    if (new URL(r.url()).origin !== new URL(path, base).origin && !r.url().startsWith('data:')) wrong.push(`request to ${r.url()}`);
  });
  await c.addInitScript(() => {
    window.violations = [];
    document.addEventListener('securitypolicyviolation', (e) => window.violations.push(`${e.violatedDirective} ${e.blockedURI}`));
  });
  try {
    const response = await page.goto(new URL(path, base).href);
    check(response.headers()['content-security-policy'].startsWith("default-src 'none'"), 'no security policy');
    await steps(page, c);
    if (context.javaScriptEnabled !== false) equal(await page.evaluate(() => window.violations), [], 'violations of the security policy');
    if (!allowErrors) equal(wrong, [], 'errors');
    console.log(`ok   ${name}`);
  } catch (err) {
    failures++;
    console.log(`FAIL ${name}: ${err.stack}\n${wrong.join('\n')}`);
    await page.screenshot({path: failed, fullPage: true}).catch(() => {});
  }
  await c.close();
}

export const screenshot = (page, name, options = {}) => page.screenshot({path: join(shots, `${name}.png`), fullPage: true, ...options});

// contrast returns the texts whose colour is too near to that of their background (WCAG AA: 4.5 to 1).
export const contrast = (page) => page.evaluate(() => {
  const parse = (c) => {
    const [r, g, b, a = 1] = c.match(/[\d.]+/g).map(Number);
    return {r, g, b, a};
  };
  const over = (top, below) => ({
    r: top.r * top.a + below.r * (1 - top.a), g: top.g * top.a + below.g * (1 - top.a), b: top.b * top.a + below.b * (1 - top.a), a: 1,
  });
  const luminance = ({r, g, b}) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const background = (e) => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), {r: 255, g: 255, b: 255, a: 1});
  };
  const low = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest('.hide, script, noscript, :disabled')) continue;
    const back = background(e);
    const front = over(parse(getComputedStyle(e).color), back);
    const [a, b] = [luminance(front), luminance(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${e.tagName}.${e.className} ${walk.currentNode.data.trim().slice(0, 40)}`);
  }
  return low;
});

// tabs presses Tab from the beginning to the end of the page and returns what had the focus, and what had it unseen.
export async function tabs(page) {
  await page.evaluate(() => {
    document.activeElement?.blur();
    getSelection().removeAllRanges();
    document.querySelectorAll('a[href], button, input:not([type=hidden]), textarea, summary, [tabindex]').forEach((e, i) => { e.dataset.stop = i; });
  });
  const reached = [];
  const unseen = [];
  for (let i = 0; i < 1000; i++) {
    await page.keyboard.press('Tab');
    const at = await page.evaluate(() => {
      const e = document.activeElement;
      if (!e || e === document.body) return null;
      const style = getComputedStyle(e);
      const box = e.getBoundingClientRect();
      return {
        stop: e.dataset.stop, what: `${e.tagName} ${e.textContent.trim().slice(0, 30)}`,
        seen: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1 && box.width > 0 && box.bottom > 0 && box.top < innerHeight,
      };
    });
    if (!at || reached.includes(at.stop)) break;
    reached.push(at.stop);
    if (!at.seen) unseen.push(at.what);
  }
  const missed = await page.evaluate((reached) => [...document.querySelectorAll('[data-stop]')]
    .filter((e) => !e.disabled && e.tabIndex >= 0 && e.checkVisibility() && !reached.includes(e.dataset.stop))
    .map((e) => `${e.tagName} ${e.textContent.trim().slice(0, 30)}`), reached);
  return {reached: reached.length, missed, unseen};
}

// structure returns what a reader without eyes or mouse would miss.
export const structure = (page) => page.evaluate(() => {
  const faults = [];
  for (const landmark of ['header', 'nav', 'main', 'h1']) {
    if (document.querySelectorAll(landmark).length !== 1) faults.push(`not one ${landmark}`);
  }
  if (!document.documentElement.lang) faults.push('no language');
  for (const table of document.querySelectorAll('table:not(.u-legend)')) {
    if (!table.caption || !table.caption.textContent.trim()) faults.push(`a table without a caption: ${table.textContent.slice(0, 40)}`);
    for (const th of table.querySelectorAll('th')) if (!th.scope) faults.push(`a heading without a scope: ${th.textContent}`);
  }
  for (const section of document.querySelectorAll('section')) {
    if (!document.getElementById(section.getAttribute('aria-labelledby'))) faults.push('a section without a name');
  }
  for (const input of document.querySelectorAll('input:not([type=hidden]), textarea')) {
    if (!input.labels.length) faults.push(`${input.name} has no label`);
  }
  for (const e of document.querySelectorAll('[tabindex]')) if (e.tabIndex > 0) faults.push('an order of its own');
  for (const a of document.querySelectorAll('a')) if (!a.textContent.trim() && !a.ariaLabel) faults.push('a link without a name');
  const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
  for (const id of new Set(ids)) if (ids.filter((i) => i === id).length > 1) faults.push(`${id} is there twice`);
  return faults;
});

export async function done() {
  await browser.close();
  process.exitCode = failures ? 1 : 0;
}
