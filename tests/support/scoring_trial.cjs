// A person at the page that scores answers, in a real Chromium: node scoring_trial.cjs ADDRESS FOLDER
// playwright-core is looked up through NODE_PATH. What it saw is printed as JSON.
'use strict';
const fs = require('node:fs');
const { chromium } = require('playwright-core');

const [address, folder] = process.argv.slice(2);
const EVIL = '第一行\n<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">\n第三行';

async function scored(page, rows) {
  await page.locator('#score').click();
  await page.waitForFunction((n) => document.querySelectorAll('#history tr').length === n, rows);
}

(async () => {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
  const page = await browser.newPage({ acceptDownloads: true });
  const seen = { errors: [] };
  page.on('pageerror', (error) => seen.errors.push(String(error)));
  await page.goto(address);
  await page.waitForFunction(() => document.querySelectorAll('#found option').length === 3);
  await page.locator('#search').fill('二加二');
  await page.waitForFunction(() => document.querySelectorAll('#found option').length === 1);
  await page.locator('#found').selectOption({ index: 0 });
  seen.reference = await page.locator('#reference').inputValue();
  await page.locator('#answer').fill(EVIL);
  await scored(page, 1);
  seen.value = await page.locator('#value').textContent();
  seen.reply = await page.locator('#reply').textContent();
  await page.locator('#question').fill('我自己的问题？\n分两行。');
  await page.locator('#kind').selectOption('code');
  await page.locator('button.model').first().click();
  await page.waitForFunction(() => document.getElementById('answer').value.includes('回答'));
  seen.answer = await page.locator('#answer').inputValue();
  await scored(page, 2);
  seen.means = await page.locator('#means').textContent();
  const [download] = await Promise.all([page.waitForEvent('download'), page.locator('#save').click()]);
  seen.saved = fs.readFileSync(await download.path(), 'utf8').trim().split('\n').map((line) => JSON.parse(line));
  await page.locator('#answer').fill('');
  await page.locator('#score').click();
  await page.waitForSelector('#said.wrong');
  seen.wrong = await page.locator('#said').textContent();
  seen.hacked = await page.evaluate(() => window.hacked ?? null);
  seen.scripts = await page.locator('main script, main img').count();
  for (const width of [1280, 420]) {
    await page.setViewportSize({ width, height: 1100 });
    await page.screenshot({ path: `${folder}/${width}.png`, fullPage: true });
    seen[`over${width}`] = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);
  }
  await browser.close();
  console.log(JSON.stringify(seen));
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
