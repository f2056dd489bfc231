// A person at the page of a review, in a real Chromium: node review_trial.cjs PART ADDRESS FOLDER
// playwright-core is looked up through NODE_PATH. What it saw is printed as JSON.
'use strict';
const http = require('node:http');
const { chromium } = require('playwright-core');

const [part, address, folder] = process.argv.slice(2);

const PARTS = {
  /** Keeps, drops, edits and undoes; takes a rejected row back; looks for what a row may do. */
  async decide(page, seen) {
    for (const key of ['k', 'd', 'd', 'e']) await press(page, key);
    seen.evil = await page.locator('article.current textarea').nth(2).inputValue();
    await page.locator('article.current textarea').nth(0).fill('改过的问题\n第二行');
    await page.keyboard.press('Control+Enter');
    await state(page, 3, 'edited');
    await press(page, 'j');
    await press(page, 'k');
    await state(page, 4, 'kept');
    await press(page, 'u');
    await state(page, 4, 'undecided');
    await press(page, 'e');
    await page.locator('article.current textarea').nth(0).fill('不要');
    await page.keyboard.press('Escape');
    seen.escaped = await page.locator('textarea').count();
    await page.locator('select[name=reason]').selectOption('*');
    await page.waitForSelector('.reason');
    await press(page, 'r');
    await press(page, 'r'); // is not a row
    await page.waitForSelector('#said.wrong');
    seen.refused = await page.locator('#said').textContent();
    await press(page, 'd');
    await page.waitForFunction(() => document.querySelectorAll('.drop').length === 1);
    seen.hacked = await page.evaluate(() => window.hacked ?? null);
    seen.scripts = await page.locator('article script, article img').count();
    seen.lang = await page.locator('dd[lang=zh]').count() > 0;
  },

  /** What is there after a restart. */
  async look(page, seen) {
    await page.locator('select[name=state]').selectOption('');
    await page.waitForFunction(() => document.querySelectorAll('article').length > 5);
    const states = await page.locator('article .state').allTextContents();
    seen.states = states.slice(0, 6);
    seen.edited = await page.locator('article dd').nth(await firstTextOf(page, 3)).textContent();
    await press(page, '/');
    await page.keyboard.type('第二行');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.querySelectorAll('article').length === 1);
    seen.found = await page.locator('article header span').first().textContent();
    await press(page, 'u'); // of the sitting before: the rejected piece that was left out
    await page.waitForFunction(() => document.getElementById('said').textContent.includes('undone'));
    seen.undone = await page.locator('#said').textContent();
  },

  /** The page at two widths, light and dark. */
  async pictures(page) {
    for (const [width, height] of [[1280, 900], [420, 900]]) {
      for (const colorScheme of ['light', 'dark']) {
        await page.emulateMedia({ colorScheme });
        await page.setViewportSize({ width, height });
        await page.screenshot({ path: `${folder}/${width}-${colorScheme}.png` });
      }
    }
  },

  /** Another site's page asks this server for things. */
  async attack(page, seen) {
    const site = http.createServer((_, answer) => {
      answer.setHeader('Content-Type', 'text/html');
      answer.end('<!DOCTYPE html><title>elsewhere</title>');
    });
    await new Promise((done) => site.listen(0, '127.0.0.1', done));
    await page.goto(`http://localhost:${site.address().port}/`);
    seen.attacks = await page.evaluate(async (target) => {
      const body = JSON.stringify({ row: 'x', action: 'drop' });
      const tries = {
        json: { method: 'POST', body, headers: { 'Content-Type': 'application/json' } },
        simple: { method: 'POST', body, mode: 'no-cors' },
        read: {},
      };
      const found = {};
      for (const [name, options] of Object.entries(tries)) {
        try {
          const answer = await fetch(`${target}${name === 'read' ? 'rows' : 'undo'}`, options);
          found[name] = `${answer.type} ${answer.status}`;
        } catch (error) {
          found[name] = error.name;
        }
      }
      return found;
    }, address);
    site.close();
  },
};

async function press(page, key) {
  await page.keyboard.press(key);
  await page.evaluate(() => queue); // the page's own
}

const state = (page, place, name) => page.waitForFunction(
  ([at, wanted]) => document.querySelectorAll('article .state')[at].textContent === wanted, [place, name]);

const firstTextOf = (page, place) => page.evaluate((at) => {
  const wanted = document.querySelectorAll('article')[at].querySelector('dd');
  return [...document.querySelectorAll('article dd')].indexOf(wanted);
}, place);

(async () => {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  const seen = { errors: [] };
  page.on('pageerror', (error) => seen.errors.push(String(error)));
  page.on('console', (said) => { if (said.type() === 'error') seen.errors.push(said.text()); });
  await page.goto(address);
  await page.waitForSelector('article.current');
  await PARTS[part](page, seen);
  seen.counts = await page.locator('#counts').textContent({ timeout: 1000 }).catch(() => '');
  await browser.close();
  console.log(JSON.stringify(seen));
})().catch((error) => { console.error(error); process.exit(1); });
