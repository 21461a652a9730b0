// The page of a real flyball under load: a decision that is made while it is open appears on it.
import {check, contrast, done, equal, screenshot, structure, test} from './lib.mjs';

await test('a real decision appears', '/?refresh=1s&range=15m', {}, async (page) => {
  page.setDefaultTimeout(180000); // the browser, the load and the model servers share the processors with other tests
  await page.evaluate(() => { window.mark = 'same page'; });
  // The demand may be met by one decision or by several, one after another: the first one is enough.
  const forDemand = () => [...document.querySelectorAll('tr.up.applied')].filter((r) => r.querySelector('.reason').textContent === 'AboveTarget').length;
  equal(await page.evaluate(forDemand), 0, 'decisions before there is a demand');
  console.log(process.env.READY); // the load begins
  await page.waitForFunction(forDemand);
  equal(await page.evaluate(() => window.mark), 'same page', 'the page was loaded anew');
  const row = page.locator('#' + await page.locator('tr.up.applied').first().getAttribute('id')); // another may come above it
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
  const canvas = await page.locator('#plot-digits canvas').elementHandle();
  await page.emulateMedia({colorScheme: 'dark'});
  await page.waitForFunction((c) => !c.isConnected && document.querySelectorAll('#plot-digits canvas').length === 1, canvas);
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
