// The page over data that the test holds in its hand: POST /test/decide makes a decision.
import {base, check, contrast, done, equal, screenshot, structure, tabs, test} from './lib.mjs';

const decide = async () => (await fetch(base + '/test/decide', {method: 'POST'})).text();
const drawn = (page, n = 1) => page.waitForFunction((n) => document.querySelectorAll('.plot canvas').length >= n, n);
const ink = (page) => page.evaluate(() => [...document.querySelectorAll('.plot canvas')].map((c) => {
  const {data} = c.getContext('2d').getImageData(0, 0, c.width, c.height);
  const colors = new Set();
  for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) colors.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);
  return colors.size;
}));

await test('a decision appears', '/?refresh=1s', {}, async (page) => {
  await page.evaluate(() => { window.mark = 'same page'; });
  await page.locator('#t-abc summary').click();
  await page.locator('#t-def summary').focus();
  await page.fill('#why', 'half a sentence');
  await page.locator('#t-def summary').focus();
  const id = await decide();
  await page.locator(`#d-${id}`).waitFor();
  equal(await page.evaluate(() => window.mark), 'same page', 'the page was loaded anew');
  check(await page.locator('#t-abc').evaluate((d) => d.open), 'what was open is closed');
  equal(await page.evaluate(() => document.activeElement.parentElement.id), 't-def', 'the focus');
  equal(await page.inputValue('#why'), 'half a sentence', 'what was typed');
  equal(await page.locator('table[data-testid=decisions] > tbody > tr').first().getAttribute('id'), `d-${id}`, 'the newest decision');
  check((await page.textContent('#news')).startsWith('1 new: digits'), `announced: ${await page.textContent('#news')}`);
  // Where one reads, the page stays.
  await page.locator('#d-old12').evaluate((row) => row.scrollIntoView({block: 'start'}));
  const before = await page.locator('#d-old14').boundingBox();
  const next = await decide();
  await page.locator(`#d-${next}`).waitFor({state: 'attached'});
  await page.settled();
  const moved = Math.abs((await page.locator('#d-old14').boundingBox()).y - before.y);
  check(moved < 2, `the reader's row moved by ${moved} pixels`);
});

await test('refreshing stops', '/?refresh=1s', {}, async (page) => {
  await page.click('[data-testid=refresh]');
  check(new URL(page.url()).searchParams.get('refresh') === 'off', page.url());
  await page.settled();
  const before = await page.locator('body').innerHTML();
  const id = await decide();
  await page.click('.tiles a[href="#targets"]'); // a jump within the page is none to another state of it
  await page.waitForTimeout(2500);
  equal(await page.locator('body').innerHTML() === before, true, 'nothing changes');
  equal(await page.locator(`#d-${id}`).count(), 0, 'the decision');
  await page.click('[data-testid=refresh]');
  await page.locator(`#d-${id}`).waitFor();
  equal(await page.textContent('[data-testid=refresh]'), 'stop refreshing', 'the link');
});

await test('a permalink', '/?refresh=off', {}, async (page, context) => {
  await page.locator('#t-def summary').click();
  await page.waitForFunction(() => location.search.includes('decision=def'));
  const other = await context.newPage();
  await other.goto(page.url());
  check(await other.locator('#t-def').evaluate((d) => d.open), 'the decision is not open');
  check(!await other.locator('#t-abc').evaluate((d) => d.open), 'another is');
  const box = await other.locator('#t-def').boundingBox();
  check(box.y > 0 && box.y < 900, `the decision is at ${box.y}`);
  equal(await other.locator('#t-def [data-testid=permalink]').getAttribute('href'), '/?decision=def&refresh=off', 'the link');
  await page.locator('#t-def summary').click();
  await page.waitForFunction(() => !location.search.includes('decision='));
});

await test('a filter', '/?refresh=off', {}, async (page) => {
  await page.evaluate(() => { window.mark = 'same page'; });
  await page.locator('#r-digits a').click();
  await page.locator('[data-testid=filter]').waitFor();
  equal(new URL(page.url()).search, '?refresh=off&rule=digits', 'the address');
  equal(await page.locator('#d-def').count(), 0, 'a decision of another rule');
  equal(await page.locator('[data-testid=chart]').count(), 1, 'charts');
  await page.goBack();
  await page.locator('#d-def').waitFor();
  await page.locator('.label', {hasText: 'model=digits'}).click();
  await page.locator('[data-testid=filter]').waitFor();
  equal(await page.locator('#m-llama').count(), 0, 'another model');
  await page.locator('.ranges a', {hasText: '6h'}).click();
  await page.waitForFunction(() => document.getElementById('charts').dataset.range === '21600');
  equal(await page.evaluate(() => window.mark), 'same page', 'the page was loaded anew');
});

await test('charts', '/?refresh=1s&range=1h', {}, async (page) => {
  await drawn(page, 2);
  await page.settled();
  for (const colors of await ink(page)) check(colors > 5, `a chart has ${colors} colours`);
  const legend = await page.locator('#chart-digits .u-legend').innerText();
  for (const want of ['load', 'ready', 'desired']) check(legend.includes(want), `${want} is not in ${legend}`);
  check(/load:?\s*\d+/.test(legend.replaceAll('\n', ' ')), `no last value in ${legend}`);
  const canvas = await page.locator('#chart-digits canvas').elementHandle();
  await page.waitForResponse((r) => r.url().includes('query_range'));
  await page.waitForTimeout(1500);
  check(await canvas.evaluate((c) => c.isConnected), 'the chart was made anew by a refresh');
  equal(await page.locator('#chart-digits .plot').getAttribute('role'), 'img', 'the role of the chart');
  await page.locator('#rows-digits summary').click();
  check(await page.locator('#rows-digits tbody tr').count() > 10, 'no table of the chart');
});

await test('keyboard', '/?refresh=off', {}, async (page) => {
  await drawn(page, 2);
  const {reached, missed, unseen} = await tabs(page);
  equal(missed, [], 'not reached');
  equal(unseen, [], 'reached, but not to be seen');
  check(reached > 20, `${reached} reached`);
  await page.locator('#t-def summary').focus();
  await page.keyboard.press('Enter');
  check(await page.locator('#t-def').evaluate((d) => d.open), 'Enter does not open a decision');
  await page.keyboard.press('Enter');
  check(!await page.locator('#t-def').evaluate((d) => d.open), 'Enter does not close it');
  await page.locator('[data-testid=refresh]').focus();
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.querySelector('[data-testid=refresh]').textContent === 'stop refreshing');
  equal(await structure(page), [], 'structure');
});

// cut are the tables of an open decision that do not fit into what is seen of it.
const cut = (page) => page.locator('#t-abc .trace table').evaluateAll((all) => all
  .filter((t) => t.getBoundingClientRect().right > t.closest('.box').getBoundingClientRect().right).map((t) => t.caption.textContent));

await test('half a screen', '/?refresh=off&decision=abc', {viewport: {width: 1024, height: 768}}, async (page) => {
  equal(await cut(page), [], 'tables of the trace that are cut');
});

const pictures = new Set();
for (const [name, options] of [['light', {}], ['dark', {colorScheme: 'dark'}], ['narrow', {viewport: {width: 390, height: 844}}], ['narrow dark', {viewport: {width: 390, height: 844}, colorScheme: 'dark'}]]) {
  await test(name, '/?refresh=off&decision=abc', options, async (page) => {
    await drawn(page, 2);
    await page.evaluate(() => scrollTo(0, 0));
    await page.settled();
    pictures.add((await screenshot(page, name.replace(' ', '-'))).toString('base64'));
    equal(await contrast(page), [], 'too little contrast');
    const {wide, room} = await page.evaluate(() => ({wide: document.documentElement.scrollWidth, room: innerWidth}));
    check(wide <= room, `the page is ${wide} wide in ${room}`);
    if (name === 'narrow') {
      check(await page.locator('#t-abc .trace').evaluate((e) => e.getBoundingClientRect().right <= innerWidth), 'the trace is out of sight');
      equal(await cut(page), [], 'tables of the trace that are cut');
      await page.locator('#d-abc').evaluate((row) => row.scrollIntoView());
      await screenshot(page, 'narrow-decision', {fullPage: false});
      const box = page.locator('#s-replicas .box');
      equal(await box.getAttribute('tabindex'), '0', 'a box that scrolls is not reached by keyboard');
      equal(await box.getAttribute('aria-label'), 'Model servers that this process runs', 'its name');
      const {missed} = await tabs(page);
      equal(missed, [], 'not reached');
      await box.focus();
      for (let i = 0; i < 5; i++) await page.keyboard.press('ArrowRight');
      await page.waitForFunction(() => document.querySelector('#s-replicas .box').scrollLeft > 0);
    }
  });
}
await test('pictures', '/', {}, async () => equal(pictures.size, 4, 'light and dark, wide and narrow differ'));

await test('a change to dark while it is open', '/?refresh=off', {}, async (page) => {
  await drawn(page, 2);
  const canvas = await page.locator('#chart-digits canvas').elementHandle();
  await page.emulateMedia({colorScheme: 'dark'});
  await page.waitForFunction((c) => !c.isConnected && document.querySelectorAll('.plot canvas').length === 2, canvas);
});

await test('without JavaScript', '/?refresh=off', {javaScriptEnabled: false}, async (page) => {
  for (const id of ['rules', 'decisions', 'models', 'alerts', 'forecasts', 'replicas', 'groups', 'targets']) {
    check(await page.locator(`table[data-testid=${id}] tbody tr`).count() > 0, `no rows of ${id}`);
  }
  await page.locator('#t-abc summary').click();
  check(await page.locator('#t-abc .trace').isVisible(), 'a decision does not open');
  check((await page.locator('#t-abc .trace').innerText()).includes('behavior.up.policies'), 'no trace');
  await page.locator('#rows-digits summary').click();
  check(await page.locator('#rows-digits tbody tr').count() > 10, 'no table of the chart');
  await screenshot(page, 'no-script');
  await page.locator('#r-digits a').click();
  equal(new URL(page.url()).search, '?refresh=off&rule=digits', 'the address');
  await page.click('[data-testid=refresh]');
  await page.locator('noscript meta, meta[http-equiv=refresh]').waitFor({state: 'attached'});
});

for (const javaScriptEnabled of [true, false]) {
  await test(`freeze ${javaScriptEnabled ? 'with' : 'without'} JavaScript`, '/?refresh=off&rule=digits', {javaScriptEnabled}, async (page) => {
    equal(await page.locator('[data-testid=frozen]').count(), 0, 'frozen from the start');
    await page.fill('#why', 'a <b>bad</b> rollout');
    await page.click('#freeze');
    await page.locator('[data-testid=frozen]').waitFor();
    equal(new URL(page.url()).search, '?refresh=off&rule=digits', 'the address');
    check((await page.textContent('#brake')).includes('by 127.0.0.1: a <b>bad</b> rollout'), await page.textContent('#brake'));
    equal(await page.locator('#r-digits .badge').innerText(), 'act, frozen', 'the badge of the rule');
    equal(await contrast(page).catch(() => []), [], 'too little contrast');
    if (javaScriptEnabled) await screenshot(page, 'frozen');
    await page.click('#release');
    await page.locator('#freeze').waitFor();
    equal(await page.locator('[data-testid=frozen]').count(), 0, 'frozen after the release');
  });
}

await test('another site', '/', {allowErrors: true}, async (page) => {
  // A page of another origin posts the form: another host name is enough to be one.
  const other = base.replace('127.0.0.1', 'localhost');
  await page.goto(other + '/test/elsewhere');
  await Promise.all([page.waitForURL('**/-/freeze'), page.click('button')]);
  check((await page.textContent('body')).includes('cross-origin'), await page.textContent('body'));
  await page.goto(base + '/');
  equal(await page.locator('[data-testid=frozen]').count(), 0, 'frozen by another site');
  await page.evaluate(() => { window.violations = []; });
});

await test('flyball goes and comes back', '/?refresh=1s', {allowErrors: true}, async (page) => {
  await page.route('**/*', (route) => route.abort());
  await page.locator('#updated.bad').waitFor();
  check((await page.textContent('#updated')).startsWith('flyball does not answer; shown as of'), await page.textContent('#updated'));
  check(await page.locator('#d-abc').count() === 1, 'what was shown is gone');
  await page.unroute('**/*');
  await page.locator('#updated:not(.bad)').waitFor();
});

await test('another version in its place', '/?refresh=1s', {}, async (page) => {
  await page.evaluate(() => { window.mark = 'same page'; document.body.dataset.build = 'of before'; });
  await page.waitForFunction(() => !window.mark);
});

await test('graph', '/graph?g0.expr=flyball_scale_ready_replicas&g0.tab=1&g0.range_input=2h', {}, async (page) => {
  await drawn(page);
  await page.settled();
  check((await ink(page))[0] > 5, 'nothing is drawn');
  equal(await page.locator('[data-testid=samples] tbody tr').count(), 2, 'rows');
  equal(await contrast(page), [], 'too little contrast');
  const {missed, unseen} = await tabs(page);
  equal([...missed, ...unseen], [], 'not reached or not seen');
  await screenshot(page, 'graph');
  await page.fill('#expr', 'flyball_scale_desired_replicas');
  await page.click('text=Run');
  check(page.url().includes('g0.expr=flyball_scale_desired_replicas'), page.url());
  await drawn(page);
});

await test('forecasts', '/?refresh=off', {}, async (page) => {
  equal(await page.locator('[data-testid=forecasts] tbody tr').count(), 4, 'rows');
  await page.locator('.tiles a[href="#forecasts"]').click();
  check(await page.locator('#forecasts').evaluate((e) => e.getBoundingClientRect().top < innerHeight), 'the tile does not lead there');
  await page.locator('[data-testid=forecasts] a', {hasText: 'digits_demand'}).focus();
  await page.keyboard.press('Enter');
  await page.waitForURL('**/forecasts/digits_demand');
  await drawn(page);
  await page.settled();
  check((await ink(page))[0] > 5, 'nothing is drawn');
  const {missed, unseen} = await tabs(page);
  equal([...missed, ...unseen], [], 'not reached or not seen');
  const legend = (await page.locator('#plot-ahead .u-legend').innerText()).replaceAll('\n', ' ');
  for (const want of ['value', 'p10', 'p50', 'p90']) check(new RegExp(`${want}:?\\s*\\d+`).test(legend), `no last ${want} in ${legend}`);
  // What comes is right of the last value.
  const box = await page.locator('#plot-ahead .u-over').boundingBox();
  await page.mouse.move(box.x + box.width - 2, box.y + 50);
  await page.waitForFunction(() => /value:?\s*–.*p90:?\s*\d/.test(document.querySelector('#plot-ahead .u-legend').innerText.replaceAll('\n', ' ')));
  equal(await page.locator('#plot-ahead').getAttribute('role'), 'img', 'the role of the chart');
  check((await page.locator('#plot-ahead').getAttribute('aria-label')).startsWith('digits_demand {model="digits"} over time'), 'its text');
  await page.locator('#rows-ahead summary').focus();
  await page.keyboard.press('Enter');
  check(await page.locator('#rows-ahead tbody tr').count() > 20, 'no table of the chart');
  for (const id of ['standing', 'coverage', 'weights', 'seasons', 'anomalies']) {
    check(await page.locator(`table[data-testid=${id}] tbody tr`).count() > 0, `no rows of ${id}`);
  }
  equal(await contrast(page), [], 'too little contrast');
  equal(await structure(page), [], 'structure');
  await screenshot(page, 'forecast');
  await page.locator('.ranges a', {hasText: /^1d$/}).click();
  await page.waitForFunction(() => document.getElementById('ahead').dataset.range === '86400');
  await page.locator('[data-testid=standing] a', {hasText: /^digits$/}).click();
  await page.locator('[data-testid=filter]').waitFor();
});

await test('a forecast of two series', '/forecasts/all_demand?refresh=1s', {}, async (page) => {
  await drawn(page);
  const label = () => page.locator('#plot-ahead').getAttribute('aria-label');
  check((await label()).includes('model="digits"'), await label());
  await page.evaluate(() => { window.mark = 'same page'; });
  await page.locator('[data-testid=series] a', {hasText: 'llama'}).click();
  await page.waitForFunction(() => document.getElementById('plot-ahead').getAttribute('aria-label').includes('model="llama"'));
  equal(await page.textContent('[data-testid=armed]'), 'not armed', 'whether it is armed');
  equal(await page.evaluate(() => window.mark), 'same page', 'the page was loaded anew');
  const canvas = await page.locator('#plot-ahead canvas').elementHandle();
  await page.waitForResponse((r) => r.url().includes('query_range'));
  await page.settled();
  check(await canvas.evaluate((c) => c.isConnected), 'the chart was made anew by a refresh');
  await page.goBack();
  await page.waitForFunction(() => document.getElementById('plot-ahead').getAttribute('aria-label').includes('model="digits"'));
});

for (const [name, options] of [['dark', {colorScheme: 'dark'}], ['narrow', {viewport: {width: 390, height: 844}}]]) {
  await test(`a forecast, ${name}`, '/forecasts/digits_demand?refresh=off', options, async (page) => {
    await drawn(page);
    await page.settled();
    equal(await contrast(page), [], 'too little contrast');
    const {wide, room} = await page.evaluate(() => ({wide: document.documentElement.scrollWidth, room: innerWidth}));
    check(wide <= room, `the page is ${wide} wide in ${room}`);
    check(await page.locator('[data-testid=standing]').evaluate((e) => e.getBoundingClientRect().right <= innerWidth), 'how it stands is cut');
    await screenshot(page, `forecast-${name}`);
  });
}

await test('a forecast without JavaScript', '/forecasts/digits_demand?refresh=off', {javaScriptEnabled: false}, async (page) => {
  await page.locator('#rows-ahead summary').click();
  check(await page.locator('#rows-ahead tbody tr').count() > 20, 'no table of the chart');
  check((await page.innerText('[data-testid=standing]')).includes('0.74 times that of the last value'), 'why it is armed');
});

await test('graph of a series that began since the last step', process.env.EMPTY + '/graph?g0.expr=flyball_scale_ready_replicas&g0.tab=1', {}, async (page) => {
  await page.locator('.plot', {hasText: 'No samples in this time.'}).waitFor();
  await page.clock.setFixedTime((Number(process.env.BEGINS) + 3) * 1e3);
  await page.reload();
  await drawn(page);
  await page.settled();
  check((await ink(page))[0] > 5, 'nothing is drawn');
});

await test('graph without JavaScript', '/graph?g0.expr=flyball_scale_ready_replicas&g0.tab=1', {javaScriptEnabled: false}, async (page) => {
  equal(await page.locator('[data-testid=samples] tbody tr').count(), 2, 'rows');
  check((await page.innerText('#graph')).includes('needs JavaScript'), 'no word of the chart');
});

await test('empty', process.env.EMPTY + '/?refresh=off', {}, async (page) => {
  for (const want of ['flyball check rules FILE', 'flyball explain RULE', 'flyball check config flyball.yml']) {
    check((await page.locator('code').allInnerTexts()).includes(want), `no ${want}`);
  }
  equal(await contrast(page), [], 'too little contrast');
  equal(await structure(page), [], 'structure');
  check(await page.locator('#freeze').isDisabled(), 'the button without its flag');
  await screenshot(page, 'empty');
});

await done();
