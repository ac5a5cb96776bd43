// Tokens that the server had guessed ahead are told apart in "What it looked at".
import assert from 'node:assert/strict';
import test from 'node:test';
import { answered, ask, golden_question, last_answer, setup } from './helpers.mjs';

const at = setup({ args: ['--keep-selection', '--speculative-tokens', '2', '--speculative-always'] });

test('guessed tokens are in italics, and say so', async () => {
  const page = await at.open();
  await page.click('#open-settings');
  await page.fill('#settings [name=temperature]', '0');
  await page.click('#settings-form button[type=submit]');
  const shown = page.waitForResponse((r) => /\/v1\/dsa\/selection\?/.test(r.url()) && !/token=/.test(r.url()));
  await ask(page, golden_question('find-700'));
  await answered(page);
  await last_answer(page).getByText('What it looked at').click();
  const { drafted, generated_tokens } = await (await shown).json();
  assert.ok(drafted.length > 0 && drafted.length < generated_tokens, `${drafted} of ${generated_tokens}`);
  await page.locator('#dsa .answer button[aria-current]').waitFor();
  const tokens = await page.locator('#dsa .answer button').evaluateAll((nodes) =>
    nodes.map((node) => ({ style: getComputedStyle(node).fontStyle, title: node.title, label: node.ariaLabel })));
  tokens.forEach(({ style, title, label }, i) => {
    const guessed = drafted.includes(i);
    assert.equal(style, guessed ? 'italic' : 'normal', `token ${i}`);
    assert.equal(title.includes('guessed ahead'), guessed);
    assert.equal(label.includes('guessed ahead'), guessed);
  });
  await at.close(page);
});
