// What the page's tests share: the server, a proxy in front of it that plays scripted answers, and
// pages of a fresh browser profile.
import assert from 'node:assert/strict';
import http from 'node:http';
import { readFileSync } from 'node:fs';
import { after, before } from 'node:test';
import path from 'node:path';
import { start_server, root } from '../support_node/server.mjs';
import { launch } from './browser.mjs';

// A real server, a proxy and a browser for the tests of a file. `script` of the proxy may be set by
// a test: it then answers chat completions instead of the server.
export function setup({ args = ['--keep-selection'] } = {}) {
  const at = {};
  const pages = [];
  before(async () => {
    at.server = await start_server({ args });
    at.proxy = await start_proxy(at.server.url);
    at.browser = await launch();
  });
  after(async () => {
    await at.browser?.close();
    await at.proxy?.close();
    const code = await at.server?.stop();
    assert.equal(code, 0, `the server ended with ${code}:\n${at.server?.log()}`);
  });

  // A page in a profile of its own; errors on it fail the test that closes it.
  at.open = async (options = {}) => {
    const { url = at.proxy.url, ready = true, ...context_options } = options;
    const context = await at.browser.newContext({ viewport: { width: 1280, height: 800 }, ...context_options });
    const page = await context.newPage();
    page.setDefaultTimeout(30000);
    page.errors = [];
    page.on('pageerror', (error) => page.errors.push(error.stack));
    page.on('console', (message) => {
      // What the policy refuses is reported here; failed requests are, too, and are tested for.
      if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) {
        page.errors.push(message.text());
      }
    });
    await page.goto(url);
    if (ready) await page.waitForFunction(() => document.getElementById('model').textContent);
    pages.push(page);
    return page;
  };
  at.close = async (page) => {
    await page.context().close();
    assert.deepEqual(page.errors, []);
  };
  return at;
}

// Passes everything on to `target`, except chat completions while `script` is set:
// script(body, reply) with the request's JSON and {head(status, headers), write, end, gone}.
async function start_proxy(target) {
  const proxy = { script: null, bodies: [] };
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    if (request.url === '/v1/chat/completions') {
      proxy.bodies.push(JSON.parse(body));
      if (proxy.script) {
        const gone = new Promise((resolve) => response.once('close', resolve));
        let begun = false;
        const reply = {
          gone,
          head: (status, headers = {}) => {
            begun = true;
            response.writeHead(status, { 'content-type': 'application/json', ...headers });
          },
          write: (bytes) => {
            if (!begun) reply.head(200, { 'content-type': 'text/event-stream' });
            return new Promise((resolve) => response.write(bytes, resolve));
          },
          end: (text) => response.end(text),
          // The connection breaks.
          cut: () => response.destroy(),
        };
        await proxy.script(proxy.bodies.at(-1), reply);
        return;
      }
    }
    const { hostname, port } = new URL(target);
    const on = http.request({
      hostname, port, path: request.url, method: request.method, headers: request.headers,
    }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    on.on('error', () => response.destroy());
    response.on('close', () => on.destroy());
    on.end(body);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  proxy.url = `http://127.0.0.1:${server.address().port}`;
  proxy.close = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return proxy;
}

const line = (value) => `data: ${JSON.stringify(value)}\n\n`;
let answers = 0;

// The stream of an answer made of these deltas.
export function stream_of(deltas, finish = 'stop') {
  const id = `chatcmpl-test${++answers}`;
  const chunk = (delta, reason = null) =>
    line({ id, model: 'small', choices: [{ index: 0, delta, finish_reason: reason }] });
  return [
    chunk({ role: 'assistant', content: '' }),
    ...deltas.map((delta) => chunk(typeof delta === 'string' ? { content: delta } : delta)),
    chunk({}, finish),
    line({ id, choices: [], usage: { prompt_tokens: 20, completion_tokens: deltas.length } }),
    'data: [DONE]\n\n',
  ];
}

// A script that answers with these deltas at once.
export const says = (...deltas) => async (body, reply) => {
  for (const part of stream_of(deltas)) await reply.write(part);
  reply.end();
};

export async function ask(page, text) {
  await page.fill('#input', text);
  await page.keyboard.press('Enter');
}

// Until no answer is under way.
export const answered = (page) => page.waitForSelector('#send', { state: 'visible' });

export const last_answer = (page) => page.locator('.message.assistant').last();

// The question of a golden prompt, without the markers around it.
export function golden_question(name) {
  const file = path.join(root, 'tests/data/golden/prompts.json');
  const { text } = JSON.parse(readFileSync(file, 'utf8')).find((entry) => entry.name === name);
  return text.slice(text.indexOf('<｜User｜>') + '<｜User｜>'.length, text.indexOf('<｜Assistant｜>'));
}
