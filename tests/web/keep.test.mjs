// What this browser keeps: when there is no room, in two tabs, after a deletion; and what is carried
// over to new conversations.
import assert from 'node:assert/strict';
import test from 'node:test';
import { answered, ask, last_answer, says, setup, stream_of } from './helpers.mjs';

const at = setup({ args: [] });

const titles = (page) => page.locator('#conversations .open').allInnerTexts();
const bubbles = (page) => page.locator('.bubble').allInnerTexts();
// The kept conversation of that title, as it is written.
const kept = (page, title) => page.evaluate((t) => {
  const entry = JSON.parse(localStorage['fathom.conversations'] ?? '[]').find((one) => one.title === t);
  return entry && JSON.parse(localStorage[`fathom.conversation.${entry.id}`]);
}, title);
const contents = (conversation) => Object.values(conversation.nodes).map((node) => node.content);

// Another tab of the same profile.
async function second_tab(page) {
  const other = await page.context().newPage();
  await other.goto(at.proxy.url);
  await other.waitForFunction(() => document.getElementById('model').textContent);
  return other;
}

// A script that answers in two parts, the second when `go_on` is called.
function in_two_parts(...deltas) {
  let go_on;
  const waiting = new Promise((resolve) => (go_on = resolve));
  const script = async (body, reply) => {
    const parts = stream_of(deltas);
    await reply.write(parts.slice(0, 2).join(''));
    await waiting;
    await reply.write(parts.slice(2).join(''));
    reply.end();
  };
  return { script, go_on };
}

test('a browser that keeps no more says so, and keeps the answer when there is room', async () => {
  const page = await at.open();
  at.proxy.script = says('Small.');
  await ask(page, 'Before');
  await answered(page);
  // Full but for 2000 characters: enough for a question, not for its answer.
  await page.evaluate(() => {
    let filled = '';
    for (let size = 1 << 23; size >= 1; size >>= 1) {
      try {
        localStorage.setItem('fill', filled + 'x'.repeat(size));
        filled += 'x'.repeat(size);
      } catch {
        // No room for as much.
      }
    }
    localStorage.setItem('fill', filled.slice(2000));
  });
  await page.keyboard.press('Control+k');
  at.proxy.script = says('Long. '.repeat(1000));
  await ask(page, 'After');
  await answered(page);
  assert.match(await page.locator('#problem').innerText(), /keeps no more/);
  page.on('dialog', (dialog) => dialog.accept());
  await page.evaluate(() => localStorage.removeItem('fill'));
  await page.locator('#conversations li', { hasText: 'Before' }).hover();
  await page.getByLabel('Delete Before').click();
  assert.ok(!(await page.isVisible('#problem')));
  await page.reload();
  assert.deepEqual(await titles(page), ['After']);
  assert.match(await last_answer(page).innerText(), /^(Long. )+/);
  await at.close(page);
});

test('a conversation that is deleted while it waits stays deleted', async () => {
  const page = await at.open();
  let gone;
  at.proxy.script = async (body, reply) => {
    gone = reply.gone;
    await reply.write(stream_of(['half']).slice(0, 2).join(''));
  };
  await ask(page, 'Waits');
  await page.waitForFunction(() => document.querySelector('.markdown')?.innerText === 'half');
  // Time for a save has come.
  await page.evaluate(() => {
    const now = performance.now.bind(performance);
    performance.now = () => now() + 10000;
  });
  page.on('dialog', (dialog) => dialog.accept());
  await page.locator('#conversations li').hover();
  await page.getByLabel('Delete Waits').click();
  await gone;
  at.proxy.script = says('Here.');
  await ask(page, 'Next');
  await answered(page);
  assert.deepEqual(await titles(page), ['Next']);
  assert.equal(await page.evaluate(() => Object.keys(localStorage).filter((key) => key.startsWith('fathom.conversation.')).length), 1);
  await at.close(page);
});

test('two tabs on one conversation lose nothing', async () => {
  const one = await at.open();
  at.proxy.script = says('A1');
  await ask(one, 'Q1');
  await answered(one);
  const two = await second_tab(one);
  assert.deepEqual(await bubbles(two), ['Q1']);

  // What one tab asks is seen in the other, which goes on from there.
  at.proxy.script = says('A2');
  await ask(one, 'Q2');
  await answered(one);
  await two.waitForFunction(() => document.querySelectorAll('.markdown').length === 2);
  assert.equal(await last_answer(two).locator('.markdown').innerText(), 'A2');

  // Both ask at once: everything of both is kept, and comes to both.
  const first = in_two_parts('from ', 'one');
  const second = in_two_parts('from ', 'two');
  const asked = [];
  at.proxy.script = (body, reply) => {
    asked.push(body.messages.at(-1).content);
    return (asked.at(-1) === 'Q3 one' ? first : second).script(body, reply);
  };
  await ask(one, 'Q3 one');
  await ask(two, 'Q3 two');
  while (asked.length < 2) await new Promise((resolve) => setTimeout(resolve, 20));
  first.go_on();
  await answered(one);
  second.go_on();
  await answered(two);
  const all = ['Q1', 'A1', 'Q2', 'A2', 'Q3 one', 'from one', 'Q3 two', 'from two'].sort();
  for (const page of [one, two]) {
    await page.waitForFunction((wanted) => {
      const key = Object.keys(localStorage).find((name) => name.startsWith('fathom.conversation.'));
      const nodes = Object.values(JSON.parse(localStorage[key]).nodes);
      return nodes.map((node) => node.content).sort().join() === wanted;
    }, all.join());
  }
  await one.reload();
  await one.locator('.bubble').first().waitFor();

  // What is being written here is left alone; a conversation deleted there is gone here.
  await two.locator('.message.user').first().hover();
  await two.getByText('Edit').first().click();
  await two.getByLabel('Edit message').fill('Q1, otherwise');
  at.proxy.script = says('A4');
  await ask(one, 'Q4');
  await answered(one);
  await two.waitForFunction(() => Object.values(localStorage).some((text) => text.includes('Q4')));
  assert.equal(await two.getByLabel('Edit message').inputValue(), 'Q1, otherwise');
  one.on('dialog', (dialog) => dialog.accept());
  await one.locator('#conversations li').hover();
  await one.getByLabel('Delete Q1').click();
  await two.waitForFunction(() => document.querySelectorAll('.message').length === 0);
  assert.equal(await two.textContent('#title'), 'New chat');
  await at.close(one);
  assert.deepEqual(two.errors ?? [], []);
});

test('a tab that has not heard of the other yet adds to what is kept', async () => {
  const page = await at.open();
  at.proxy.script = says('A1');
  await ask(page, 'Q1');
  await answered(page);
  // As another tab would have written it, without the news of it.
  await page.evaluate(() => {
    const key = Object.keys(localStorage).find((name) => name.startsWith('fathom.conversation.'));
    const conversation = JSON.parse(localStorage[key]);
    const parent = Object.values(conversation.nodes).find((node) => node.role === 'assistant').id;
    const id = 'f'.repeat(16);
    conversation.nodes[id] = { id, parent, pick: null, role: 'user', content: 'Q of another tab' };
    localStorage[key] = JSON.stringify(conversation);
  });
  await ask(page, 'Q2');
  await answered(page);
  assert.deepEqual(contents(await kept(page, 'Q1')).sort(), ['A1', 'A1', 'Q of another tab', 'Q1', 'Q2'].sort());
  assert.deepEqual(await bubbles(page), ['Q1', 'Q2']);
  await at.close(page);
});

test('system prompt and tools stay with their conversation', async () => {
  const page = await at.open();
  at.proxy.script = says('ok');
  await page.click('#open-settings');
  await page.fill('#settings [name=system]', 'Be a pirate.');
  await page.fill('#settings [name=tools]', '[{"name": "plunder"}]');
  await page.fill('#settings [name=temperature]', '0.5');
  await page.click('#settings-form button[type=submit]');
  await ask(page, 'Ahoy');
  await answered(page);
  assert.equal(at.proxy.bodies.at(-1).messages[0].role, 'system');

  // The button of the old conversation is kept with it, and carries over nothing else.
  await page.click('#thinking');
  assert.equal((await kept(page, 'Ahoy')).settings.thinking, true);
  await page.keyboard.press('Control+k');
  await ask(page, 'Hello');
  await answered(page);
  const body = at.proxy.bodies.at(-1);
  assert.deepEqual(body.messages, [{ role: 'user', content: 'Hello' }]);
  assert.equal(body.tools, undefined);
  assert.equal(body.temperature, 0.5);
  assert.deepEqual(body.chat_template_kwargs, { thinking: true });

  await page.getByRole('button', { name: 'Ahoy', exact: true }).click();
  await ask(page, 'Again');
  await answered(page);
  assert.deepEqual(at.proxy.bodies.at(-1).messages[0], { role: 'system', content: 'Be a pirate.' });
  assert.deepEqual(at.proxy.bodies.at(-1).chat_template_kwargs, { thinking: true });
  await at.close(page);
});
