// Markdown becomes nodes; what a model writes never becomes markup.
import assert from 'node:assert/strict';
import test from 'node:test';
import { answered, ask, last_answer, says, setup } from './helpers.mjs';

const at = setup();

// What the answer `text` looks like, as the page's HTML.
async function html_of(page, text) {
  at.proxy.script = says(text);
  await page.keyboard.press('Control+k');
  await ask(page, 'Show me');
  await answered(page);
  return last_answer(page).locator('.markdown').innerHTML();
}

const link = (href, text) =>
  `<a href="${href}" target="_blank" rel="noopener noreferrer nofollow">${text}</a>`;

test('every kind of block and span', async () => {
  const page = await at.open();
  const cases = {
    'One\ntwo\n\nthree': '<p>One<br>two</p><p>three</p>',
    '# A\n## B ##\n###### C': '<h3>A</h3><h4>B</h4><h6>C</h6>',
    '#not a heading': '<p>#not a heading</p>',
    '**b** *i* ***bi*** __b__ _i_ ~~s~~': '<p><strong>b</strong> <em>i</em> <strong><em>bi</em></strong> <strong>b</strong> <em>i</em> <del>s</del></p>',
    '**a *b* c**': '<p><strong>a <em>b</em> c</strong></p>',
    'snake_case_name 2 * 3 * 4 **open *too': '<p>snake_case_name 2 * 3 * 4 **open *too</p>',
    '`a < b` ``x`y`` `open': '<p><code>a &lt; b</code> <code>x`y</code> `open</p>',
    '\\*not\\* \\# \\q': '<p>*not* # \\q</p>',
    '- a\n- b\n  - c\n\n    d\n- e': '<ul><li>a</li><li>b<ul><li>c<p>d</p></li></ul></li><li>e</li></ul>',
    '3. a\n4. b\n\ntext': '<ol start="3"><li>a</li><li>b</li></ol><p>text</p>',
    '1. a\n  - b\n2. c': '<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>',
    'It was in\n1986. A year': '<p>It was in<br>1986. A year</p>',
    '> a\n> > b': '<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>',
    'a\n\n---\n\nb': '<p>a</p><hr><p>b</p>',
    '[t](https://a.example/x_(y) "T")': `<p>${link('https://a.example/x_(y)', 't').replace('target', 'title="T" target')}</p>`,
    'see https://a.example/b. Or <mailto:a@b.example>': `<p>see ${link('https://a.example/b', 'https://a.example/b')}. Or ${link('mailto:a@b.example', 'mailto:a@b.example')}</p>`,
    '![alt](https://a.example/i.png)': `<p>${link('https://a.example/i.png', 'alt')}</p>`,
  };
  for (const [text, html] of Object.entries(cases)) {
    const got = await html_of(page, text);
    const order = (s) => s.replace(/<a ([^>]*)>/g, (_, a) => `<a ${a.match(/[\w-]+="[^"]*"/g).sort().join(' ')}>`);
    assert.equal(order(got), order(html), text);
  }
  await html_of(page, '| A | B |\n|:-:|--:|\n| 1 | x \\| y |\n| 2 |\n\nend');
  assert.deepEqual(await last_answer(page).locator('th, td').allInnerTexts(), ['A', 'B', '1', 'x | y', '2', '']);
  assert.equal(await last_answer(page).locator('td.right').count(), 2);
  await at.close(page);
});

test('code keeps its text and is copied', async () => {
  const page = await at.open({ permissions: ['clipboard-read', 'clipboard-write'] });
  const code = 'if (a < b && c) {\n\n  "**x**" <script>\n}';
  await html_of(page, `Look:\n\n\`\`\`c++ title\n${code}\n\`\`\`\nand`);
  assert.equal(await page.locator('.code pre').innerText(), code);
  assert.equal(await page.locator('.code-head span').innerText(), 'c++');
  await page.locator('.code-head button').click();
  await page.getByText('Copied').waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), code);
  // A fence that is still open is code already.
  await html_of(page, '~~~\nhalf');
  assert.equal(await page.locator('.code pre').innerText(), 'half');
  await at.close(page);
});

const hostile = [
  '<script>window.hit = 1</script>',
  '<img src=x onerror="window.hit = 1">',
  '<svg onload=window.hit=1><a href="javascript:window.hit=1">x</a></svg>',
  '[click](javascript:window.hit=1)',
  '[click](JaVaScRiPt:window.hit=1)',
  '[click]( java\tscript:window.hit=1)',
  '[click](data:text/html,<script>window.hit=1</script>)',
  '[click](vbscript:x) [rel](/v1/models) [rel](//a.example)',
  '<javascript:window.hit=1>',
  '![x](javascript:window.hit=1)',
  '[a](https://a.example" onclick="window.hit=1)',
  '| <b onclick=window.hit=1>a</b> | b |\n|--|--|\n| <i>c</i> | [d](javascript:1) |',
  '```<img src=x onerror=window.hit=1>\n<script>window.hit=1</script>\n```',
  '# <iframe src="javascript:window.hit=1">',
  '> <style>* { display: none }</style>',
  '&lt;script&gt; &#106;avascript: [x](&#106;avascript:window.hit=1)',
  '<!-- --><base href="https://a.example/"><meta http-equiv=refresh content="0;url=https://a.example">',
];

test('markup, handlers and addresses that run code stay text', async () => {
  const page = await at.open();
  for (const text of hostile) {
    await html_of(page, text);
    const answer = last_answer(page).locator('.markdown');
    const found = await answer.evaluate((root) => [...root.querySelectorAll('*')].flatMap((node) => {
      const known = 'P H3 H4 H5 H6 UL OL LI TABLE THEAD TBODY TR TH TD DIV PRE CODE SPAN BUTTON A STRONG EM DEL BLOCKQUOTE HR BR';
      const bad = known.split(' ').includes(node.nodeName) ? [] : [node.nodeName];
      for (const { name, value } of node.attributes) {
        if (name.startsWith('on')) bad.push(name);
        if (name === 'href' && !/^(https?|mailto):/.test(value)) bad.push(value);
      }
      return bad;
    }));
    assert.deepEqual(found, [], text);
    for (const anchor of await answer.locator('a').all()) {
      assert.match(await anchor.getAttribute('rel'), /noopener/);
    }
  }
  // The same words as title, question, reasoning and tool call.
  const script = hostile.join(' ');
  at.proxy.script = says({ reasoning_content: script },
    { tool_calls: [{ index: 0, id: 'c', function: { name: hostile[1], arguments: hostile[0] } }] });
  await page.keyboard.press('Control+k');
  await ask(page, script);
  await answered(page);
  assert.equal(await page.locator('#app :is(script, iframe, svg, style, base, meta), #app img:not([src="web/icon.svg"])').count(), 0);
  assert.equal(await page.evaluate(() => window.hit), undefined);
  await at.close(page);
});

test('text that is nothing but trouble takes no time', async () => {
  const page = await at.open();
  const n = 20000;
  for (const text of ['*', '**a ', '[', '![](', '`', '``` ', '_a', '<', '\\', '> ', '- ', '  - a\n', '|', '| - ', '#', ' ', '~~', '*a **b ', 'http', '(', '1. ', '[a](b']) {
    await html_of(page, text.repeat(n / text.length));
    await html_of(page, `# ${text.repeat(n / text.length)}x\n${text.repeat(n / text.length)}y`);
  }
  await at.close(page);
});
