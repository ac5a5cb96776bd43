// Talking on the page, with the real model and with answers that are played.
import assert from 'node:assert/strict';
import test from 'node:test';
import { answered, ask, last_answer, says, setup, stream_of } from './helpers.mjs';

const at = setup();
const needle = 'The pass key of Alice is 48213. The room number of Hugo is 2291. What is the pass key of Alice?';

async function set(page, values) {
  await page.click('#open-settings');
  for (const [name, value] of Object.entries(values)) await page.fill(`#settings [name=${name}]`, String(value));
  await page.click('#settings-form button[type=submit]');
}

test('the bundled model answers; reload keeps it; retry and edit make branches', async () => {
  at.proxy.script = null;
  const page = await at.open();
  assert.equal(await page.textContent('#model'), 'small');
  await set(page, { temperature: 0 });
  await ask(page, needle);
  await answered(page);
  assert.equal(await last_answer(page).locator('.markdown').innerText(), 'The pass key of Alice is 48213.');
  assert.match(await last_answer(page).locator('.figures').innerText(), /^12 tokens · .*first after \d+/);
  assert.match(await page.textContent('#context-text'), /^\d+ \/ [\d,]+$/);
  assert.equal(await page.inputValue('#input'), '');

  await page.reload();
  assert.match(await last_answer(page).innerText(), /48213/);
  assert.equal(await page.textContent('#title'), needle.slice(0, 60));

  await last_answer(page).getByText('Retry').click();
  await answered(page);
  assert.match(await last_answer(page).locator('.branches').innerText(), /2 \/ 2/);
  await last_answer(page).getByLabel('Previous branch').click();
  assert.match(await last_answer(page).locator('.branches').innerText(), /1 \/ 2/);

  // Arrow up in an empty box edits the last question.
  await page.focus('#input');
  await page.keyboard.press('ArrowUp');
  const box = page.getByLabel('Edit message');
  assert.equal(await box.inputValue(), needle);
  await box.fill('The pass key of Alice is 51762. What is the pass key of Alice?');
  await page.keyboard.press('Enter');
  await answered(page);
  assert.match(await last_answer(page).innerText(), /51762/);
  assert.match(await page.locator('.message.user .branches').innerText(), /2 \/ 2/);
  await page.locator('.message.user').getByLabel('Previous branch').click();
  assert.match(await last_answer(page).innerText(), /48213/);
  await at.close(page);
});

test('text is there while the answer goes on, however the stream is cut; Esc stops it', async () => {
  const page = await at.open();
  let gone = null;
  at.proxy.script = async (body, reply) => {
    gone = reply.gone;
    const bytes = Buffer.from(stream_of(['**Bo', 'ld** 漢字 ', '🦔 and `code`']).slice(0, 4).join(''));
    for (let i = 0; i < bytes.length; i += 7) await reply.write(bytes.subarray(i, i + 7));
  };
  await ask(page, 'Hello');
  await page.waitForFunction(() => document.querySelector('.markdown')?.innerText === 'Bold 漢字 🦔 and code');
  assert.equal(await page.locator('.markdown strong').innerText(), 'Bold');
  assert.ok(await page.isVisible('#stop'));
  await page.keyboard.press('Escape');
  await answered(page);
  await gone; // the server hears of it
  assert.match(await last_answer(page).innerText(), /Bold 漢字 🦔 and code[^]*stopped/);
  assert.equal(await page.locator('.failure:visible').count(), 0);
  await at.close(page);
});

test('a conversation may be left while it is answered', async () => {
  const page = await at.open();
  let go_on;
  const waiting = new Promise((resolve) => (go_on = resolve));
  at.proxy.script = async (body, reply) => {
    const parts = stream_of(['first ', 'second']);
    await reply.write(parts.slice(0, 2).join(''));
    await waiting;
    await reply.write(parts.slice(2).join(''));
    reply.end();
  };
  await ask(page, 'One');
  await page.waitForFunction(() => document.querySelector('.markdown')?.innerText === 'first');
  await page.keyboard.press('Control+k');
  assert.equal(await page.locator('.message').count(), 0);
  assert.ok(await page.isVisible('#send'));
  go_on();
  await page.getByRole('button', { name: 'One', exact: true }).click();
  await page.waitForFunction(() => document.querySelector('.markdown')?.innerText === 'first second');
  await answered(page);
  await at.close(page);
});

test('reasoning is folded, with its time', async () => {
  const page = await at.open();
  at.proxy.script = says({ reasoning_content: 'Let me ' }, { reasoning_content: 'think.' }, 'Done.');
  await page.click('#thinking');
  await ask(page, 'Think');
  await answered(page);
  assert.deepEqual(at.proxy.bodies.at(-1).chat_template_kwargs, { thinking: true });
  assert.match(await page.locator('summary').innerText(), /^Thought for [\d.]+ m?s$/);
  assert.ok(!(await page.locator('.reasoning').isVisible()));
  await page.locator('summary').click();
  assert.equal(await page.locator('.reasoning').innerText(), 'Let me think.');
  await at.close(page);
});

test('settings are what the server is told', async () => {
  const page = await at.open();
  at.proxy.script = says('ok');
  await ask(page, 'Plain');
  await answered(page);
  assert.deepEqual(Object.keys(at.proxy.bodies.at(-1)).sort(), ['messages', 'model', 'stream', 'stream_options']);
  await set(page, {
    system: 'Be brief.', temperature: 0.5, top_p: 0.9, top_k: 20, min_p: 0.05, max_tokens: 64, seed: 7,
    presence_penalty: -1, frequency_penalty: 0.25, repetition_penalty: 1.1,
  });
  await ask(page, 'Again');
  await answered(page);
  const body = at.proxy.bodies.at(-1);
  assert.deepEqual(body.messages, [
    { role: 'system', content: 'Be brief.' }, { role: 'user', content: 'Plain' },
    { role: 'assistant', content: 'ok' }, { role: 'user', content: 'Again' },
  ]);
  const { temperature, top_p, top_k, min_p, max_tokens, seed, presence_penalty, frequency_penalty, repetition_penalty } = body;
  assert.deepEqual(
    [temperature, top_p, top_k, min_p, max_tokens, seed, presence_penalty, frequency_penalty, repetition_penalty],
    [0.5, 0.9, 20, 0.05, 64, 7, -1, 0.25, 1.1]);
  // The real server takes them all.
  at.proxy.script = null;
  await ask(page, 'Hello!');
  await answered(page);
  assert.equal(await page.locator('.failure:visible').count(), 0);
  await page.click('#open-settings');
  await page.fill('#settings [name=tools]', '[{"name": }]');
  await page.click('#settings-form button[type=submit]');
  assert.match(await page.textContent('#settings-problem'), /not JSON/);
  await at.close(page);
});

test('tool calls are shown, and their results given', async () => {
  const page = await at.open();
  await set(page, { tools: '[{"name": "get_weather", "parameters": {"type": "object"}}]' });
  const call = (index, delta) => ({ tool_calls: [{ index, ...delta }] });
  at.proxy.script = says(
    call(0, { id: 'call_a', type: 'function', function: { name: 'get_weather', arguments: '' } }),
    call(0, { function: { arguments: '{"city": "Pa' } }), call(0, { function: { arguments: 'ris"}' } }),
    call(1, { id: 'call_b', type: 'function', function: { name: 'get_weather', arguments: '{"city":"Rome"}' } }));
  await ask(page, 'Weather?');
  await answered(page);
  assert.equal(at.proxy.bodies.at(-1).tools[0].function.name, 'get_weather');
  const cards = page.locator('.assistant .card pre');
  assert.equal(await cards.nth(0).innerText(), '{\n  "city": "Paris"\n}');
  assert.equal(await cards.nth(1).innerText(), '{\n  "city": "Rome"\n}');
  at.proxy.script = says('It is sunny.');
  await page.getByLabel('Result of get_weather').nth(0).fill('{"sky": "clear"}');
  await page.getByLabel('Result of get_weather').nth(1).fill('rain');
  await page.getByText('Give results').click();
  await answered(page);
  const { messages } = at.proxy.bodies.at(-1);
  assert.deepEqual(messages.slice(1).map((m) => [m.role, m.tool_call_id ?? null, m.content]), [
    ['assistant', null, ''], ['tool', 'call_a', '{"sky": "clear"}'], ['tool', 'call_b', 'rain']]);
  assert.equal(messages[1].tool_calls[0].function.arguments, '{"city": "Paris"}');
  assert.equal(await last_answer(page).locator('.markdown').innerText(), 'It is sunny.');
  assert.equal(await page.getByText('Give results').count(), 0);
  // The real server takes such a conversation.
  at.proxy.script = null;
  await last_answer(page).getByText('Retry').click();
  await answered(page);
  assert.equal(await page.locator('.failure:visible').count(), 0);
  await at.close(page);
});

test('what goes wrong is said, and can be tried again', async () => {
  const page = await at.open();
  const fails = {
    'the queue is full': async (body, reply) => {
      reply.head(429, { 'retry-after': '1' });
      reply.end(JSON.stringify({ error: { message: 'the queue is full', type: 'rate_limit_error' } }));
    },
    'the device gave up': async (body, reply) => {
      await reply.write(stream_of(['half an ans']).slice(0, 2).join(''));
      await reply.write('data: {"error": {"message": "the device gave up", "type": "server_error"}}\n\n');
      reply.end();
    },
    'The connection ended before the answer did.': async (body, reply) => {
      await reply.write(stream_of(['half']).slice(0, 2).join(''));
      reply.end();
    },
    'The connection broke': async (body, reply) => {
      await reply.write(stream_of(['half']).slice(0, 2).join(''));
      reply.cut();
    },
    '<b>no gateway</b>': async (body, reply) => {
      reply.head(502, { 'content-type': 'text/html' });
      reply.end('<b>no gateway</b>');
    },
  };
  for (const [message, script] of Object.entries(fails)) {
    at.proxy.script = script;
    await page.keyboard.press('Control+k');
    await ask(page, 'Hello');
    await answered(page);
    const failure = page.getByRole('alert').filter({ hasText: message });
    assert.ok(await failure.isVisible(), message);
    at.proxy.script = says('All is well.');
    await failure.getByText('Try again').click();
    await answered(page);
    assert.equal(await last_answer(page).locator('.markdown').innerText(), 'All is well.');
    assert.equal(await page.getByRole('alert').filter({ visible: true }).count(), 0);
  }
  await at.close(page);
});

test('conversations are renamed, deleted, exported and imported', async () => {
  const page = await at.open();
  at.proxy.script = says('Yes.');
  for (const text of ['First one', 'Second one']) {
    await page.keyboard.press('Control+k');
    await ask(page, text);
    await answered(page);
  }
  const titles = () => page.locator('#conversations .open').allInnerTexts();
  assert.deepEqual(await titles(), ['Second one', 'First one']);
  await page.locator('#conversations li').nth(1).hover();
  await page.getByLabel('Rename First one').click();
  await page.getByLabel('Title').fill('<b>Renamed</b>');
  await page.keyboard.press('Enter');
  assert.deepEqual(await titles(), ['Second one', '<b>Renamed</b>']);

  const downloading = page.waitForEvent('download');
  await page.click('#export');
  const file = await (await downloading).path();
  page.on('dialog', (dialog) => dialog.accept());
  await page.locator('#conversations li').nth(0).hover();
  await page.getByLabel('Delete Second one').click();
  assert.deepEqual(await titles(), ['<b>Renamed</b>']);
  assert.equal(await page.textContent('#title'), 'New chat');
  await page.reload();
  assert.deepEqual(await titles(), ['<b>Renamed</b>']);

  await page.setInputFiles('#import-file', file);
  await page.waitForFunction(() => document.querySelectorAll('#conversations .open').length === 2);
  await page.getByRole('button', { name: 'Second one', exact: true }).click();
  assert.equal(await last_answer(page).locator('.markdown').innerText(), 'Yes.');

  for (const [text, message] of [['{', 'not JSON'], ['{}', 'not an export'],
    ['{"format": "fathom.conversations.1", "conversations": [{"id": "x"}]}', 'damaged']]) {
    await page.setInputFiles('#import-file', { name: 'a.json', mimeType: 'application/json', buffer: Buffer.from(text) });
    await page.waitForFunction((m) => document.getElementById('problem').textContent.includes(m), message);
  }
  // Fields of wrong types are left out: the page still shows the rest.
  const [id, one, two] = ['0', '1', '2'].map((digit) => digit.repeat(16));
  const odd = {
    format: 'fathom.conversations.1',
    conversations: [{
      id, title: 7, updated: 'x', settings: { temperature: 'hot', system: ['x'], tools: null }, pick: {},
      nodes: {
        [one]: { role: 'user', content: 'Odd question', parent: null, pick: 3 },
        [two]: { role: 'assistant', content: 'Odd answer', parent: one, tool_calls: [null, { name: 5 }], stats: { usage: 'x', rate: {} }, reasoning: [1], error: {} },
      },
    }],
  };
  await page.setInputFiles('#import-file', { name: 'odd.json', mimeType: 'application/json', buffer: Buffer.from(JSON.stringify(odd)) });
  await page.getByRole('button', { name: 'Untitled', exact: true }).click();
  assert.equal(await last_answer(page).locator('.markdown').innerText(), 'Odd answer');
  await page.click('#open-settings');
  assert.equal(await page.inputValue('#settings [name=system]'), '');
  await page.keyboard.press('Escape');
  // A message that is its own ancestor is damage.
  odd.conversations[0].nodes[one].parent = two;
  await page.setInputFiles('#import-file', { name: 'loop.json', mimeType: 'application/json', buffer: Buffer.from(JSON.stringify(odd)) });
  await page.waitForFunction(() => document.getElementById('problem').textContent.includes('loop.json was not imported'));
  await at.close(page);
});
