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

test('a key that no header can carry is refused; a late refusal does not ask again', async () => {
  const page = await at.open();
  at.proxy.script = says('With a key.');
  let release;
  const held = new Promise((resolve) => (release = resolve));
  let requests = 0;
  await page.route('**/v1/chat/completions', async (route) => {
    const first = ++requests === 1;
    if (first) await held;
    if (route.request().headers().authorization === 'Bearer right') return route.continue();
    await route.fulfill({ status: 401, json: { error: { message: 'a key is wanted' } } });
  });
  await ask(page, 'One');
  await page.keyboard.press('Control+k');
  await ask(page, 'Two');
  await page.locator('#key[open]').waitFor();
  await page.keyboard.type('schlüssel');
  await page.keyboard.press('Enter');
  assert.match(await page.locator('#key-problem').innerText(), /ASCII/);
  await page.fill('#key-input', ' right ');
  await page.keyboard.press('Enter');
  await answered(page);
  assert.equal(await last_answer(page).locator('.markdown').innerText(), 'With a key.');
  release();
  await page.getByRole('button', { name: 'One', exact: true }).click();
  await answered(page);
  assert.equal(await last_answer(page).locator('.markdown').innerText(), 'With a key.');
  assert.equal(await page.locator('dialog[open]').count(), 0);
  await at.close(page);
});

test('a server that came up after the page is known after the first answer', async () => {
  const page = await at.open();
  await page.route('**/v1/models', (route) => route.abort());
  await page.reload();
  await page.waitForFunction(() => document.getElementById('model').textContent === 'server not reached');
  await page.unroute('**/v1/models');
  at.proxy.script = says('Up.');
  await ask(page, 'Hello');
  await page.waitForFunction(() => document.getElementById('model').textContent === 'small');
  await page.locator('#context').waitFor();
  await at.close(page);
});

test('the focus stays where it was when messages and titles are drawn again', async () => {
  const page = await at.open();
  at.proxy.script = says('Fine.');
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.ariaLabel || document.activeElement.textContent);
  await ask(page, 'One');
  await answered(page);
  await last_answer(page).getByText('Retry').focus();
  await page.keyboard.press('Enter');
  await answered(page);
  assert.equal(await focused(), 'input');
  await page.keyboard.press('Shift+Tab'); // so that it is the keyboard's focus
  await last_answer(page).getByText('Retry').focus();
  await page.keyboard.press('Enter');
  await page.getByText('3 / 3').waitFor();
  await answered(page);
  await last_answer(page).getByLabel('Previous branch').focus();
  await page.keyboard.press('Enter');
  assert.equal(await focused(), 'Previous branch');
  await page.keyboard.press('Enter'); // to the first: there is no previous one any more
  assert.equal(await focused(), 'Next branch');
  await page.getByLabel('Rename One').focus();
  await page.keyboard.press('Enter');
  await page.keyboard.type('Other');
  await page.keyboard.press('Enter');
  assert.equal(await focused(), 'Rename Other');
  await at.close(page);
});

test('the menu of a phone has the focus while it is open', async () => {
  const page = await at.open({ viewport: { width: 390, height: 800 } });
  await page.locator('#menu').focus();
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'new-chat');
  assert.ok(await page.evaluate(() => document.getElementById('main').inert));
  await page.keyboard.press('Escape');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'menu');
  await page.keyboard.press('Enter');
  await page.setViewportSize({ width: 1000, height: 800 });
  await page.waitForFunction(() => !document.getElementById('main').inert);
  await at.close(page);
});

test('a long question is cut with a button for the rest; code and lists have their marks', async () => {
  const page = await at.open();
  at.proxy.script = says('- one\n  - two\n\n```\ncode\n```\n\n> said\n');
  await ask(page, 'Short');
  await answered(page);
  assert.ok(!(await page.getByText('Show all').isVisible()));
  await page.keyboard.press('Control+k');
  await ask(page, Array.from({ length: 60 }, (_, i) => `line ${i}`).join('\n'));
  await answered(page);
  const more = page.getByRole('button', { name: 'Show all' });
  await more.focus();
  await page.keyboard.press('Enter');
  const whole = () => page.locator('.bubble').evaluate((node) => node.scrollHeight <= node.clientHeight + 1);
  assert.ok(await whole());
  await page.getByRole('button', { name: 'Show less' }).click();
  assert.ok(!(await whole()));
  const style = (selector, name) => page.locator(selector).evaluate((node, n) => getComputedStyle(node)[n], name);
  assert.equal(await style('.markdown > ul', 'listStyleType'), 'disc');
  assert.equal(await style('.markdown li ul', 'listStyleType'), 'circle');
  assert.equal(await style('.code code', 'fontSize'), '14px');
  assert.equal(await style('blockquote p', 'marginBottom'), '0px');
  await at.close(page);
});
