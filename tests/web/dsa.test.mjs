// "What it looked at": the needle of a question is lit, and a context of 100,000 tokens is no burden.
import assert from 'node:assert/strict';
import test from 'node:test';
import { answered, ask, golden_question, last_answer, setup } from './helpers.mjs';

const at = setup();

async function look_at(page, question) {
  await page.click('#open-settings');
  await page.fill('#settings [name=temperature]', '0');
  await page.click('#settings-form button[type=submit]');
  await ask(page, question);
  await answered(page);
  await last_answer(page).getByText('What it looked at').click();
  await page.locator('#dsa .answer button[aria-current]').waitFor();
}

// Positions with the darkest colours, and the text around the needle.
const hottest = (page) => page.evaluate(() => {
  const tokens = [...document.querySelectorAll('.heat-text [data-p]')];
  return tokens.filter((node) => /^h[678]$/.test(node.className)).map((node) => node.textContent).join('');
});

test('the digits of the answer looked at the digits of the question', async () => {
  const page = await at.open();
  await look_at(page, golden_question('find-2500'));
  assert.equal(await last_answer(page).locator('.markdown').innerText(), 'The pass key of Clara is 60417.');

  // It opens at the token that something stood out most for, with that in view.
  await page.waitForFunction(() => document.activeElement.closest('.answer'));
  const digits = ['60', '4', '17'];
  assert.ok(digits.includes(await page.locator('.answer [aria-current]').innerText()));
  for (const digit of digits) {
    await page.locator('.answer button', { hasText: digit }).first().click();
    await page.waitForFunction(() => document.querySelectorAll('.heat-text .h8').length > 0);
    const lit = await page.evaluate(() => {
      const root = document.querySelector('.heat-text');
      const nodes = [...root.querySelectorAll('[data-p]')];
      const text = nodes.map((node) => node.textContent);
      // The needle is the first place that says so; its tokens by their positions.
      const whole = text.join('');
      const start = whole.indexOf('Clara is 60417');
      let at = 0;
      const heats = [];
      for (const node of nodes) {
        if (at + node.textContent.length > start && at < start + 14) heats.push(Number(node.className.slice(1)));
        at += node.textContent.length;
      }
      return { heats, hot: nodes.filter((node) => Number(node.className.slice(1)) >= 6).length, all: nodes.length };
    });
    assert.ok(Math.max(...lit.heats) >= 6, `token ${digit}: the needle's heat is ${lit.heats}`);
    assert.ok(lit.hot < lit.all / 20, `token ${digit}: ${lit.hot} of ${lit.all} tokens are hot`);
  }
  assert.match(await page.locator('.summary').innerText(), /it read \d.*% of the 3,3\d\d tokens in front of it/);
  await at.close(page);
});

test('layers, tokens and positions are walked', async () => {
  const page = await at.open();
  await look_at(page, golden_question('find-700'));
  await page.waitForFunction(() => document.activeElement.closest('.answer'));
  const current = () => page.locator('.answer button').evaluateAll((nodes) => nodes.findIndex((node) => node.ariaCurrent === 'true'));
  await page.keyboard.press('Home');
  assert.equal(await current(), 0);
  // Nothing came before the first token.
  await page.waitForFunction(() => document.querySelector('button.layer .bar:last-child b').textContent === '–');
  await page.keyboard.press('ArrowRight');
  assert.equal(await current(), 1);
  await page.waitForFunction(() => /^\d+ %$/.test(document.querySelector('button.layer .bar:last-child b').textContent));
  await page.keyboard.press('ArrowLeft');
  await page.keyboard.press('ArrowLeft');
  assert.equal(await current(), 0);
  await page.keyboard.press('End');

  assert.equal(await page.locator('button.layer').count(), 5);
  assert.match(await page.locator('button.layer').first().innerText(), /^0\s+\d+ %\s+\d+ %$/);
  await page.getByLabel('Layer', { exact: true }).focus();
  await page.keyboard.press('ArrowRight');
  assert.equal(await page.textContent('#dsa output'), 'layer 0 alone');
  await page.getByText('Share of layers').click();
  // One layer alone: a token was selected or it was not, and as many as the server says.
  const selected = await page.locator('.heat-text .h8').count();
  const rest = await page.locator('.heat-text [data-p]:not(.h8):not(.h0)').count();
  assert.equal(rest, 0);
  assert.ok(selected > 0 && selected <= 256, `${selected} selected`);
  await page.locator('button.layer').nth(4).click();
  assert.equal(await page.textContent('#dsa output'), 'layer 4 alone');

  await page.locator('.strip').hover({ position: { x: 3, y: 10 } });
  assert.match(await page.locator('.tip').innerText(), /^\d+: .*(layer|not selected)/s);
  await page.keyboard.press('Escape');
  assert.equal(await page.locator('dialog[open]').count(), 0);
  await at.close(page);
});

test('a request that is kept no more is said to be', async () => {
  const page = await at.open();
  await ask(page, 'Hello!');
  await answered(page);
  await page.route('**/v1/dsa/selection?**', (route) => route.continue({ url: route.request().url().replace(/request=[^&]*/, 'request=chatcmpl-gone') }));
  await last_answer(page).getByText('What it looked at').click();
  await page.getByText("nothing is kept of request 'chatcmpl-gone'").waitFor();
  await page.getByRole('button', { name: 'Close' }).click();
  await at.close(page);
});

test('the end of the scan takes nothing away from the reader', async () => {
  const page = await at.open();
  const words = Array.from({ length: 603 }, (_, i) => ` word${i}`);
  let release;
  const held = new Promise((resolve) => (release = resolve));
  await page.route('**/v1/dsa/selection?**', async (route) => {
    const token = new URL(route.request().url()).searchParams.get('token');
    if (token === '2') await held;
    const layers = [0, 1].map((layer) => ({
      layer, share: 0.1, overlap: null, selected: [[10 * Number(token), 10 * Number(token) + 5]],
    }));
    await route.fulfill({ json: token === null
      ? { request: 'x', model: 'm', prompt_tokens: 600, generated_tokens: 3, kept: 3, layers: 2, tokens: words }
      : { request: 'x', token: Number(token), text: 'a', position: 600, context_tokens: 600, layers } });
  });
  await ask(page, 'Hello!');
  await answered(page);
  await last_answer(page).getByText('What it looked at').click();
  await page.locator('#dsa .answer button[aria-current]').waitFor();
  await page.getByLabel('Layer', { exact: true }).focus();
  await page.keyboard.press('ArrowRight');
  const scroll = () => page.locator('.heat-text').evaluate((node) => node.scrollTop);
  const before = await scroll();
  release();
  await page.waitForFunction(() => document.querySelector('.answer button:last-child').style.getPropertyValue('--peak'));
  assert.equal(await page.evaluate(() => document.activeElement.ariaLabel), 'Layer');
  assert.match(await page.locator('.answer [aria-current]').innerText(), /word600/);
  assert.equal(await scroll(), before);
  await at.close(page);
});

test('100,000 tokens: nodes for what is on the screen alone', async () => {
  const page = await at.open();
  const n = 100000;
  const words = Array.from({ length: n + 3 }, (_, i) => (i % 17 === 16 ? '.' : ` word${i % 97}`));
  const layers = (token) => Array.from({ length: 61 }, (_, layer) => ({
    layer, share: 0.02, overlap: token ? 0.5 : null,
    selected: Array.from({ length: 1000 }, (__, i) => i * 97 + ((layer + token) % 50)).concat([[99000, n - 1]]),
  }));
  await page.route('**/v1/dsa/selection?**', (route) => {
    const token = new URL(route.request().url()).searchParams.get('token');
    const request = 'x';
    route.fulfill({ json: token === null
      ? { request, model: 'large', prompt_tokens: n, generated_tokens: 3, kept: 3, layers: 61, tokens: words }
      : { request, token: Number(token), text: 'a', position: n, context_tokens: n, layers: layers(Number(token)) } });
  });
  await ask(page, 'Hello!');
  await answered(page);
  await last_answer(page).getByText('What it looked at').click();
  await page.waitForFunction(() => document.activeElement.closest('.answer'));
  const nodes = () => page.locator('.heat-text [data-p]').count();
  assert.ok((await nodes()) < 6000, `${await nodes()} nodes`);
  await page.locator('.strip').click({ position: { x: 700, y: 20 } });
  await page.locator('.heat-text').evaluate((root) => root.scrollBy(0, 3000));
  await page.waitForFunction(() => document.querySelectorAll('.heat-text [data-p]').length > 0);
  assert.ok((await nodes()) < 6000, `${await nodes()} nodes`);
  assert.equal(await page.locator('button.layer').count(), 61);
  for (let i = 0; i < 3; ++i) await page.keyboard.press('ArrowRight');
  await at.close(page);
});
