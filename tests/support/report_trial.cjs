// A person at a report, in a real Chromium: node report_trial.cjs FILE FOLDER
// playwright-core is looked up through NODE_PATH. What it saw is printed as JSON.
'use strict';
const { chromium } = require('playwright-core');

const [file, folder] = process.argv.slice(2);

(async () => {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  const seen = { errors: [], asked: [] };
  page.on('pageerror', (error) => seen.errors.push(String(error)));
  page.on('console', (said) => { if (said.type() === 'error') seen.errors.push(said.text()); });
  page.on('request', (request) => seen.asked.push(new URL(request.url()).protocol));
  await page.goto(`file://${file}`);
  const count = () => page.locator('#count').textContent();
  const first = (selector) => page.locator(`article:first-of-type ${selector}`).first().textContent();
  seen.all = await count();
  seen.evil = await page.locator('article:first-of-type dd').nth(2).textContent();
  seen.scripts = await page.locator('main script, main img').count();
  seen.hacked = await page.evaluate(() => window.hacked ?? null);

  const fold = page.locator('button.fold').first();
  const text = fold.locator('xpath=preceding-sibling::div');
  const height = () => text.evaluate((node) => node.clientHeight);
  const folded = await height();
  await fold.click();
  seen.unfolded = (await height()) > folded;
  await fold.click();
  seen.foldedAgain = (await height()) === folded;

  await page.locator('#more').click();
  seen.more = await count();
  await page.locator('#kind').selectOption('math');
  seen.math = await count();
  seen.kinds = [...new Set(await page.locator('article .tag').allTextContents())];
  await page.locator('#kind').selectOption('');
  seen.marks = {};
  for (const mark of await page.locator('#mark option').evaluateAll((found) => found.map((o) => o.value))) {
    await page.locator('#mark').selectOption(mark);
    seen.marks[mark] = parseInt((await count()).replace(',', ''));
  }
  await page.locator('#mark').selectOption('');
  await page.locator('#order').selectOption('lowest score first');
  seen.lowest = await first('header span:nth-of-type(2)');
  await page.locator('#order').selectOption('');
  await page.locator('#least').fill('0.5');
  await page.locator('#most').fill('0.6');
  seen.range = await count();
  await page.locator('#least').fill('');
  await page.locator('#most').fill('');
  seen.unbounded = await count();
  await page.locator('#search').fill('#12');
  seen.twelfth = await first('header b');
  await page.locator('#search').fill('ONERROR="WINDOW');
  seen.searched = await count();
  await page.locator('#search').fill('');
  seen.milliseconds = await page.evaluate(() => {
    const begun = performance.now();
    for (let i = 0; i < 20; i++) filter(); // the page's own
    return (performance.now() - begun) / 20;
  });
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    for (const width of [1280, 420]) {
      await page.setViewportSize({ width, height: 900 });
      await page.screenshot({ path: `${folder}/${width}-${colorScheme}.png`, fullPage: true });
      seen[`over${width}`] = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);
    }
  }
  await browser.close();
  console.log(JSON.stringify(seen));
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
