// Messages on the screen. A view keeps its nodes while an answer grows; what to do when a button
// is pressed is main.js' business (`actions`).
import { copy_button, el, format_count, format_rate, format_seconds } from './dom.js';
import { MarkdownView } from './markdown.js';

function pretty_json(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // still being written, or not JSON at all
  }
}

const quiet = (label, onclick, props = {}) =>
  el('button.quiet', { type: 'button', onclick, ...props }, label);

// "‹ 2 / 3 ›" where a message has siblings.
function branches(node, siblings, actions) {
  if (siblings.length < 2) return null;
  const at = siblings.indexOf(node);
  const step = (by, label, sign) =>
    quiet(sign, () => actions.pick(siblings[at + by]), {
      'aria-label': label, disabled: !siblings[at + by],
    });
  return el('span.branches', {}, step(-1, 'Previous branch', '‹'),
    el('span', {}, `${at + 1} / ${siblings.length}`), step(1, 'Next branch', '›'));
}

class UserView {
  constructor(node, siblings, actions) {
    this.node = node;
    this.text = el('div.bubble', {}, node.content);
    this.more = quiet('Show all', () => this.#toggle());
    this.more.classList.add('more');
    this.more.hidden = true;
    this.more.ariaExpanded = 'false';
    new ResizeObserver(() => this.#measure()).observe(this.text);
    this.root = el('li.message.user', { 'aria-label': 'You' }, this.text, this.more,
      el('div.actions', {}, branches(node, siblings, actions), copy_button(() => node.content),
        quiet('Edit', () => this.edit(actions))));
  }

  update() {}

  // A long question is cut, with a button for all of it.
  #measure() {
    if (!this.text.isConnected || this.text.classList.contains('whole')) return;
    const cut = this.text.scrollHeight > this.text.clientHeight + 1;
    this.text.classList.toggle('cut', cut);
    this.more.hidden = !cut;
  }

  #toggle() {
    const whole = this.text.classList.toggle('whole');
    this.more.textContent = whole ? 'Show less' : 'Show all';
    this.more.ariaExpanded = String(whole);
  }

  edit(actions) {
    const area = el('textarea', { value: this.node.content, 'aria-label': 'Edit message', rows: 3 });
    const close = () => {
      form.replaceWith(this.text);
      this.root.classList.remove('editing');
    };
    const form = el('form.edit', {}, area,
      el('div.row', {}, quiet('Cancel', () => (close(), actions.focus())),
        el('button.primary', { type: 'submit' }, 'Send')));
    form.onsubmit = (event) => {
      event.preventDefault();
      if (!area.value.trim()) return;
      close();
      actions.edit(this.node, area.value);
    };
    area.onkeydown = (event) => {
      if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      } else if (event.key === 'Escape') {
        event.stopPropagation();
        close();
        actions.focus();
      }
    };
    this.text.replaceWith(form);
    this.root.classList.add('editing');
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}

class ToolView {
  constructor(node, siblings, actions) {
    this.root = el('li.message.tool', { 'aria-label': 'Tool result' },
      el('div.card', {}, el('div.card-head', {}, 'Result of ', el('code', {}, node.name || 'tool')),
        el('pre', { tabIndex: 0 }, pretty_json(node.content))),
      el('div.actions', {}, branches(node, siblings, actions)));
  }

  update() {}
}

// A box for each call of an answer, and what the model is told when all are filled in.
function result_form(node, actions) {
  const areas = node.tool_calls.map((call) =>
    el('textarea', { rows: 2, required: true, 'aria-label': `Result of ${call.name}` }));
  const form = el('form.results', {},
    node.tool_calls.map((call, i) =>
      el('label.wide', {}, 'Result of ', el('code', {}, call.name), areas[i])),
    el('div.row', {}, el('button.primary', { type: 'submit' }, 'Give results')));
  form.onsubmit = (event) => {
    event.preventDefault();
    actions.results(node, areas.map((area) => area.value));
  };
  return form;
}

class AssistantView {
  #reasoning_text = null;
  #opened = false;
  #calls_text = '';
  #form = null;

  constructor(node, siblings, actions) {
    this.node = node;
    this.actions = actions;
    this.summary = el('summary', {}, 'Thinking');
    this.reasoning = el('div.reasoning');
    this.details = el('details', { hidden: true }, this.summary, this.reasoning);
    this.body = el('div.markdown');
    this.markdown = new MarkdownView(this.body);
    this.calls = el('div.calls');
    this.wait = el('div.wait', { 'aria-hidden': 'true' }, el('i'), el('i'), el('i'));
    this.error = el('div.failure', { role: 'alert', hidden: true });
    this.figures = el('span.figures.muted');
    this.look = quiet('What it looked at', () => actions.look(node), { hidden: true });
    this.retry = quiet('Retry', () => actions.retry(node));
    this.bar = el('div.actions', {}, branches(node, siblings, actions),
      copy_button(() => node.content), this.retry, this.look, this.figures);
    this.root = el('li.message.assistant', { 'aria-label': 'Answer' },
      this.details, this.body, this.calls, this.wait, this.error, this.bar);
  }

  // `state`: {busy: being generated, last: nothing follows it, keeps: selections are kept}
  update({ busy, last, keeps }) {
    const { node } = this;
    this.#update_reasoning(busy);
    this.markdown.update(node.content);
    this.#update_calls(busy, last);
    this.wait.hidden = !busy || Boolean(node.content || node.reasoning || node.tool_calls?.length);
    this.root.classList.toggle('busy', busy);
    this.bar.hidden = busy && !node.stats;
    this.retry.hidden = busy;
    this.look.hidden = busy || !keeps || !node.request || !(node.stats?.tokens > 0);
    this.#update_error(busy);
    this.#update_figures(busy);
  }

  #update_reasoning(busy) {
    const { node } = this;
    this.details.hidden = !node.reasoning;
    if (!node.reasoning) return;
    const under_way = busy && !node.content && !node.tool_calls?.length;
    const seconds = format_seconds(node.reasoning_ms ?? 0);
    this.summary.textContent = under_way ? `Thinking for ${seconds}` : `Thought for ${seconds}`;
    // An answer that ended inside its reasoning has nothing else to show.
    if (!busy && !node.content && !node.tool_calls?.length && !this.#opened) {
      this.#opened = this.details.open = true;
    }
    if (this.#reasoning_text !== node.reasoning) this.reasoning.textContent = node.reasoning;
    this.#reasoning_text = node.reasoning;
  }

  #update_calls(busy, last) {
    const calls = this.node.tool_calls ?? [];
    const text = JSON.stringify(calls);
    if (text !== this.#calls_text) {
      this.#calls_text = text;
      this.calls.replaceChildren(...calls.map((call) =>
        el('div.card', {}, el('div.card-head', {}, 'Calls ', el('code', {}, call.name)),
          el('pre', { tabIndex: 0 }, pretty_json(call.arguments)))));
    }
    const wanted = calls.length > 0 && !busy && last;
    if (wanted && !this.#form) {
      this.#form = result_form(this.node, this.actions);
      this.calls.after(this.#form);
    } else if (!wanted && this.#form) {
      this.#form.remove();
      this.#form = null;
    }
  }

  #update_error(busy) {
    const { node } = this;
    this.error.hidden = !node.error;
    if (!node.error || this.error.dataset.text === node.error) return;
    this.error.dataset.text = node.error;
    const head = node.error_status ? `Error ${node.error_status}` : 'No answer';
    this.error.replaceChildren(el('strong', {}, head), el('p', {}, node.error),
      busy ? null : el('button.primary', { type: 'button', onclick: () => this.actions.retry(node) }, 'Try again'));
  }

  #update_figures(busy) {
    const { stats, finish } = this.node;
    const parts = [];
    if (stats?.tokens) parts.push(`${format_count(stats.tokens)} tokens`);
    if (stats?.rate) parts.push(`${format_rate(stats.rate)} tokens/s`);
    if (stats && stats.first_ms !== null) parts.push(`first after ${format_seconds(stats.first_ms)}`);
    if (!busy && finish === 'length') parts.push('cut at the length limit');
    if (!busy && finish === 'stopped') parts.push('stopped');
    this.figures.textContent = parts.join(' · ');
  }
}

export function view_of(node, siblings, actions) {
  const View = { user: UserView, tool: ToolView, assistant: AssistantView }[node.role];
  const view = new View(node, siblings, actions);
  return Object.assign(view, { node, siblings: siblings.length });
}
