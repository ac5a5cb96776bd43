// The page itself: keys, themes, small screens, what a screen reader is told, and the API key.
import assert from 'node:assert/strict';
import test from 'node:test';
import { start_server } from '../support_node/server.mjs';
import { answered, ask, last_answer, says, setup } from './helpers.mjs';

const at = setup({ args: [] });

test('the keyboard reaches everything', async () => {
  const page = await at.open();
  at.proxy.script = says('Fine.');
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.textContent);
  assert.equal(await focused(), 'input');
  await page.keyboard.type('one');
  await page.keyboard.press('Shift+Enter');
  await page.keyboard.type('two');
  assert.equal(await page.inputValue('#input'), 'one\ntwo');
  await page.keyboard.press('Enter');
  await answered(page);
  assert.equal(await page.locator('.bubble').innerText(), 'one\ntwo');
  assert.equal(await focused(), 'input');
  await page.keyboard.press('Enter'); // an empty box sends nothing
  assert.equal(await page.locator('.message').count(), 2);

  await page.keyboard.press('ArrowUp');
  assert.equal(await page.getByLabel('Edit message').inputValue(), 'one\ntwo');
  await page.keyboard.press('Escape');
  assert.equal(await focused(), 'input');
  assert.equal(await page.getByLabel('Edit message').count(), 0);

  // Backward through the page: whatever has the focus shows it.
  for (let i = 0; i < 12; ++i) {
    await page.keyboard.press('Shift+Tab');
    const outline = await page.evaluate(() => {
      const node = document.activeElement;
      const style = getComputedStyle(node);
      return node === document.body || style.outlineStyle !== 'none' || style.boxShadow !== 'none';
    });
    assert.ok(outline, await focused());
  }
  await page.keyboard.press('Control+k');
  assert.equal(await focused(), 'input');
  assert.equal(await page.locator('.message').count(), 0);
  await page.click('#open-settings');
  await page.keyboard.press('Escape');
  assert.equal(await page.locator('dialog[open]').count(), 0);
  await at.close(page);
});

// The contrast of text on what is behind it, as WCAG has it.
const contrast = (page, selector) => page.evaluate((s) => {
  const rgb = (text) => text.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const node = document.querySelector(s);
  let behind = node;
  while ((rgb(getComputedStyle(behind).backgroundColor)[3] ?? 1) < 1) behind = behind.parentElement;
  const a = luminance(rgb(getComputedStyle(node).color));
  const b = luminance(rgb(getComputedStyle(behind).backgroundColor));
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}, selector);

test('light and dark, by the system and by choice, both readable', async () => {
  const grounds = {};
  for (const scheme of ['light', 'dark']) {
    const page = await at.open({ colorScheme: scheme });
    at.proxy.script = says('Some `code` and [a link](https://a.example).');
    await ask(page, 'Hello');
    await answered(page);
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    grounds[scheme] = await ground();
    for (const selector of ['.markdown p', '.markdown a', '.markdown code', '.bubble', '#model', '#send', '.figures', '.actions .quiet', '#conversations .open', '.hint']) {
      const ratio = await contrast(page, selector);
      assert.ok(ratio >= 4.5, `${scheme}: ${selector} has a contrast of ${ratio.toFixed(2)}`);
    }
    const other = scheme === 'light' ? 'dark' : 'light';
    while (!(await page.textContent('#theme')).includes(other)) await page.click('#theme');
    grounds[`${scheme}, chosen ${other}`] = await ground();
    await page.reload();
    assert.equal(await ground(), grounds[`${scheme}, chosen ${other}`]);
    await at.close(page);
  }
  assert.notEqual(grounds.light, grounds.dark);
  assert.equal(grounds['light, chosen dark'], grounds.dark);
  assert.equal(grounds['dark, chosen light'], grounds.light);
});

test('a phone of 320 pixels needs no scrolling to the side', async () => {
  const page = await at.open({ viewport: { width: 320, height: 600 }, hasTouch: true, isMobile: true });
  const wide = `${'long'.repeat(60)} https://a.example/${'x'.repeat(200)}\n\n| a | b |\n|--|--|\n| ${'wide '.repeat(20)} | ${'y'.repeat(80)} |\n\n\`\`\`\n${'code '.repeat(40)}\n\`\`\``;
  at.proxy.script = says({ reasoning_content: 'r'.repeat(300) }, wide,
    { tool_calls: [{ index: 0, id: 'c', function: { name: 'n'.repeat(80), arguments: `{"a": "${'z'.repeat(300)}"}` } }] });
  await ask(page, 'w'.repeat(300));
  await answered(page);
  await page.locator('summary').click();
  const overflow = () => page.evaluate(() => {
    const width = document.documentElement.clientWidth;
    const scroll = document.getElementById('scroll');
    return [document.documentElement.scrollWidth - width, scroll.scrollWidth - scroll.clientWidth,
      document.querySelector('header').getBoundingClientRect().right - width];
  });
  assert.deepEqual((await overflow()).map((n) => Math.max(0, n)), [0, 0, 0]);
  await page.click('#menu');
  await page.getByRole('button', { name: /^New chat/ }).click();
  await page.waitForFunction(() => getComputedStyle(document.getElementById('sidebar')).visibility === 'hidden');
  await page.click('#open-settings');
  const box = await page.locator('#settings').boundingBox();
  assert.ok(box.x >= 0 && box.x + box.width <= 320, JSON.stringify(box));
  await at.close(page);
});

test('names, labels, headings and news for those who do not see the page', async () => {
  const page = await at.open();
  at.proxy.script = says('Hello there.');
  await ask(page, 'Hello');
  await answered(page);
  assert.equal(await page.getAttribute('html', 'lang'), 'en');
  assert.equal(await page.locator('h1').count(), 1);
  assert.equal(await page.locator('main').count(), 1);
  assert.match(await page.getByRole('status').textContent(), /The answer is there/);
  // The text itself is not announced piece by piece.
  assert.equal(await page.locator('#messages[aria-live], #messages [aria-live]').count(), 0);
  await page.click('#open-settings');
  const nameless = await page.evaluate(() => [...document.querySelectorAll('button, input, textarea, a')]
    .filter((node) => !node.hidden && !(node.textContent.trim() || node.ariaLabel || node.labels?.length))
    .map((node) => node.outerHTML));
  assert.deepEqual(nameless, []);
  const ids = await page.evaluate(() => [...document.querySelectorAll('[id]')].map((node) => node.id));
  assert.equal(new Set(ids).size, ids.length);
  await at.close(page);
});

test('a server without kept selections offers none', async () => {
  const page = await at.open();
  at.proxy.script = null;
  await ask(page, 'Hello!');
  await answered(page);
  assert.ok(!(await last_answer(page).getByText('What it looked at').isVisible()));
  await at.close(page);
});

test('a server that wants a key gets one from the reader', async () => {
  const server = await start_server({ args: ['--api-key', 'right'] });
  try {
    const page = await at.open({ url: server.url, ready: false });
    await page.locator('#key[open]').waitFor();
    await page.keyboard.type('wrong');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.getElementById('key-input').value === '');
    await page.locator('#key[open]').waitFor();
    await page.keyboard.type('right');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.getElementById('model').textContent === 'small');
    await ask(page, 'Hello!');
    await answered(page);
    assert.match(await last_answer(page).locator('.markdown').innerText(), /\w/);
    assert.equal(await page.evaluate(() => JSON.stringify(localStorage).includes('right')), false);
    await page.reload();
    await page.waitForFunction(() => document.getElementById('model').textContent === 'small');

    // Without a key nothing is asked for again and again.
    const other = await at.open({ url: server.url, ready: false });
    await other.locator('#key[open]').waitFor();
    await other.keyboard.press('Escape');
    await other.waitForFunction(() => document.getElementById('model').textContent === 'no key');
    assert.equal(await other.locator('dialog[open]').count(), 0);
    await at.close(other);
    await at.close(page);
  } finally {
    await server.stop();
  }
});

test('the server that is gone is said to be', async () => {
  const server = await start_server();
  const page = await at.open({ url: server.url });
  await server.stop();
  await ask(page, 'Hello');
  await answered(page);
  assert.match(await page.getByRole('alert').filter({ visible: true }).innerText(), /cannot be reached/);
  await at.close(page);
});
