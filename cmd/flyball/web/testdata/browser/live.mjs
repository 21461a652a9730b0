// The page of a real flyball under load: a decision that is made while it is open appears on it.
import {check, contrast, done, equal, screenshot, structure, test} from './lib.mjs';

await test('a real decision appears', '/?refresh=1s&range=15m', {}, async (page) => {
  page.setDefaultTimeout(60000);
  await page.evaluate(() => { window.mark = 'same page'; });
  const seen = await page.evaluate(() => document.querySelectorAll('tr.up.applied').length);
  console.log(process.env.READY); // the load begins
  await page.waitForFunction((seen) => [...document.querySelectorAll('tr.up.applied')].filter((r) => r.querySelector('.reason').textContent === 'AboveTarget').length > seen, seen);
  equal(await page.evaluate(() => window.mark), 'same page', 'the page was loaded anew');
  const row = page.locator('tr.up.applied').first();
  await row.locator('summary').click();
  const trace = await row.locator('.trace').innerText();
  for (const want of ['model:requests:rate5s{model="digits"}', 'at 130 a replica needs', 'AboveTarget', 'the target took the new size', 'process/digits']) {
    check((trace + await row.innerText()).includes(want), `no ${want} in ${trace}`);
  }
  await page.waitForFunction(() => parseFloat(document.querySelector('#m-digits td').textContent) > 10);
  await page.waitForFunction(() => /^\d.* ms$|^\d.* s$/.test(document.querySelectorAll('#m-digits td')[4].textContent));
  await page.waitForFunction(() => document.querySelectorAll('#plot-digits canvas').length === 1);
  await page.waitForFunction(() => /desired:?\s*[2-9]/.test(document.querySelector('#plot-digits .u-legend').innerText.replaceAll('\n', ' ')));
  check(await page.locator('#freeze').isDisabled() && await page.locator('#brake-hint').isVisible(), 'the button without its flag');
  equal(await structure(page), [], 'structure');
  equal(await contrast(page), [], 'too little contrast');
  await screenshot(page, 'live');
  await page.emulateMedia({colorScheme: 'dark'});
  await page.waitForTimeout(500);
  await screenshot(page, 'live-dark');
  await row.locator('.trace a', {hasText: 'model:requests'}).click();
  await page.waitForFunction(() => document.querySelectorAll('.plot canvas').length === 1);
  equal(await page.locator('[data-testid=samples] tbody tr').count(), 1, 'series');
  await screenshot(page, 'live-graph');
});

await test('a wrong expression', '/graph?g0.expr=sum(', {allowErrors: true}, async (page) => {
  check((await page.textContent('.faults')).includes('parse error'), await page.textContent('.faults'));
});

await done();
