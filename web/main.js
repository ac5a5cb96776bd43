// The chat: what is on the screen, and what happens on a key or a button.
import { get_json, on_key_needed, set_key } from './api.js';
import { $, el, download, format_count, say } from './dom.js';
import { open_dsa } from './dsa.js';
import { generate } from './generate.js';
import { view_of } from './messages.js';
import { setup_settings } from './settings.js';
import * as store from './store.js';

let conversation = store.new_conversation();
let views = []; // of the messages that are shown
let model = null; // {name, context} once the server has said it
let keeps = false; // whether the server keeps selections
const running = new Map(); // conversation id -> {abort, node, conversation}

// ---- the messages

const actions = {
  focus: () => $('input').focus(),
  pick(node) {
    store.pick_node(conversation, node);
    store.save_conversation(conversation);
    show_messages();
  },
  edit(node, text) {
    stop();
    store.add_node(conversation, node.parent, { role: 'user', content: text });
    answer();
    $('input').focus();
  },
  retry(node) {
    stop();
    // An attempt that gave nothing is not worth a branch.
    if (node.error && !node.content && store.children_of(conversation, node.id).length === 0) {
      delete conversation.nodes[node.id];
    }
    answer(node.parent);
  },
  results(node, texts) {
    let parent = node.id;
    node.tool_calls.forEach((call, i) => {
      parent = store.add_node(conversation, parent, {
        role: 'tool', content: texts[i], tool_call_id: call.id, name: call.name,
      }).id;
    });
    answer(parent);
  },
  look: (node) => open_dsa(node.request),
};

function show_messages() {
  const path = store.path_of(conversation);
  views = path.map((node) => view_of(node, store.children_of(conversation, node.parent), actions));
  $('messages').replaceChildren(...views.map((view) => view.root));
  if (path.length === 0) $('messages').append(welcome());
  update_views();
  show_frame();
  $('scroll').scrollTop = $('scroll').scrollHeight;
}

function welcome() {
  return el('li.welcome', {}, el('p.large', {}, 'What shall we talk about?'),
    el('p.muted', {}, 'Conversations stay in this browser.'));
}

function update_views() {
  const busy = running.get(conversation.id)?.node;
  views.forEach((view, i) =>
    view.update({ busy: view.node !== undefined && view.node === busy, last: i === views.length - 1, keeps }));
}

// What is around the messages: titles, buttons, how full the context is.
function show_frame() {
  const busy = running.has(conversation.id);
  $('send').hidden = busy;
  $('stop').hidden = !busy;
  $('title').textContent = conversation.title || 'New chat';
  $('thinking').setAttribute('aria-pressed', String(conversation.settings.thinking));
  $('problem').textContent = store.storage_problem ?? '';
  $('problem').hidden = store.storage_problem === null;
  show_context();
}

function show_context() {
  const usage = store.path_of(conversation).findLast((node) => node.stats?.usage)?.stats.usage;
  const box = $('context');
  box.hidden = !usage || !model?.context;
  if (box.hidden) return;
  const used = usage.prompt_tokens + usage.completion_tokens;
  const share = Math.min(1, used / model.context);
  $('context-fill').style.width = `${share * 100}%`;
  box.classList.toggle('full', share > 0.9);
  $('context-text').textContent = `${format_count(used)} / ${format_count(model.context)}`;
  box.setAttribute('aria-label', `${used} of ${model.context} tokens of context used`);
  box.title = 'Tokens of this conversation, of the context there is';
}

function show_list() {
  const entries = store.list_conversations();
  $('conversations').replaceChildren(...entries.map((entry) => {
    const open = el('button.open', { type: 'button', title: entry.title }, entry.title || 'Untitled');
    if (entry.id === conversation.id) open.setAttribute('aria-current', 'true');
    open.onclick = () => open_conversation(entry.id);
    return el('li', {}, open,
      el('button.icon', { type: 'button', 'aria-label': `Rename ${entry.title}`, title: 'Rename', onclick: (event) => rename(entry, event) }, '✎'),
      el('button.icon', { type: 'button', 'aria-label': `Delete ${entry.title}`, title: 'Delete', onclick: () => remove(entry) }, '×'));
  }));
}

function rename(entry, event) {
  const item = event.currentTarget.parentElement;
  const input = el('input', { value: entry.title, 'aria-label': 'Title', maxLength: 200 });
  let over = false;
  const finish = (keep) => {
    if (over) return;
    over = true;
    const kept = entry.id === conversation.id ? conversation : store.load_conversation(entry.id);
    if (keep && kept && input.value.trim()) {
      kept.title = input.value.trim();
      store.save_conversation(kept);
    }
    show_list();
    show_frame();
  };
  input.onkeydown = (key) => {
    if (key.key === 'Enter') finish(true);
    if (key.key === 'Escape') finish(false);
    key.stopPropagation();
  };
  input.onblur = () => finish(true);
  item.replaceChildren(input);
  input.select();
}

function remove(entry) {
  if (!confirm(`Delete "${entry.title || 'Untitled'}"? This cannot be undone.`)) return;
  running.get(entry.id)?.abort.abort();
  running.delete(entry.id);
  store.delete_conversation(entry.id);
  if (entry.id === conversation.id) new_chat();
  else show_list();
}

function open_conversation(id) {
  // One that is being answered is the same object, so that the stream goes into what is shown.
  const found = running.get(id)?.conversation ?? store.load_conversation(id);
  if (!found) return;
  conversation = found;
  show_list();
  show_messages();
  set_menu(false);
  $('input').focus();
}

function new_chat() {
  conversation = store.new_conversation();
  show_list();
  show_messages();
  set_menu(false);
  $('input').focus();
}

// ---- answers

function send(text) {
  const path = store.path_of(conversation);
  store.add_node(conversation, path.at(-1)?.id ?? null, { role: 'user', content: text });
  conversation.title ||= text.replace(/\s+/g, ' ').trim().slice(0, 60);
  answer();
}

// Asks for an answer below `parent` (the last message when none is named).
async function answer(parent = store.path_of(conversation).at(-1)?.id) {
  const mine = conversation;
  const node = store.add_node(mine, parent, { role: 'assistant' });
  const abort = new AbortController();
  running.set(mine.id, { abort, node, conversation: mine });
  store.save_conversation(mine);
  show_list();
  show_messages();
  say('Answering');

  let drawn = true;
  let saved = performance.now();
  const changed = () => {
    if (performance.now() - saved > 1000) {
      saved = performance.now();
      store.save_conversation(mine);
    }
    if (!drawn) return;
    drawn = false;
    requestAnimationFrame(() => {
      drawn = true;
      if (conversation === mine) follow(update_views);
    });
  };
  await generate(mine, node, model?.name, abort.signal, changed);
  if (running.get(mine.id)?.node === node) running.delete(mine.id);
  mine.updated = Date.now();
  if (store.list_conversations().some((entry) => entry.id === mine.id)) store.save_conversation(mine);
  show_list();
  if (conversation === mine) {
    follow(update_views);
    show_frame();
  }
  say(node.error ? `The answer failed: ${node.error}` : 'The answer is there');
}

function stop() {
  const current = running.get(conversation.id);
  if (!current) return;
  running.delete(conversation.id);
  current.abort.abort();
}

// Stays at the end of the text if the reader is there, and nowhere else.
function follow(change) {
  const scroll = $('scroll');
  const at_end = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 40;
  change();
  if (at_end) scroll.scrollTop = scroll.scrollHeight;
}

// ---- the server

async function ask_server() {
  try {
    const { data } = await get_json('v1/models');
    model = { name: data[0].id, context: data[0].max_model_len ?? null };
    $('model').textContent = model.name;
    keeps = (await get_json('v1/dsa/selection')).keep_selection === true;
  } catch (error) {
    $('model').textContent = error.status === 401 ? 'no key' : 'server not reached';
    return;
  }
  update_views();
  show_frame();
}

let asking = null; // one dialog, however many requests were refused
on_key_needed(() => {
  asking ??= new Promise((resolve) => {
    const dialog = $('key');
    let given = false;
    $('key-form').onsubmit = (event) => {
      event.preventDefault();
      given = true;
      set_key($('key-input').value);
      dialog.close();
    };
    dialog.onclose = () => {
      asking = null;
      $('key-input').value = '';
      resolve(given);
      if (given && !model) ask_server();
    };
    dialog.showModal();
  });
  return asking;
});

// ---- controls

function fit_input() {
  const input = $('input');
  input.style.height = 'auto';
  input.style.height = `${Math.min(input.scrollHeight, innerHeight * 0.4)}px`;
}

function set_menu(open) {
  $('app').classList.toggle('menu', open);
  $('shade').hidden = !open;
  $('menu').setAttribute('aria-expanded', String(open));
}

function setup_composer() {
  const input = $('input');
  $('composer').onsubmit = (event) => {
    event.preventDefault();
    if (!input.value.trim() || running.has(conversation.id)) return;
    const text = input.value;
    input.value = '';
    fit_input();
    send(text);
  };
  input.oninput = fit_input;
  input.onkeydown = (event) => {
    if (event.isComposing) return;
    if (event.key === 'Enter' && !event.shiftKey) {
      event.preventDefault();
      $('composer').requestSubmit();
    } else if (event.key === 'ArrowUp' && input.value === '') {
      const last = views.findLast((view) => view.node?.role === 'user');
      if (!last) return;
      event.preventDefault();
      last.edit(actions);
    }
  };
  $('stop').onclick = () => (stop(), input.focus());
  $('thinking').onclick = () => {
    conversation.settings.thinking = !conversation.settings.thinking;
    store.save_default_settings(conversation.settings);
    show_frame();
  };
}

const kThemes = ['system', 'light', 'dark'];

function setup_theme() {
  const root = document.documentElement;
  const name = () => root.dataset.theme ?? 'system';
  const label = () => ($('theme').textContent = `Theme: ${name()}`);
  $('theme').onclick = () => {
    const next = kThemes[(kThemes.indexOf(name()) + 1) % kThemes.length];
    if (next === 'system') delete root.dataset.theme;
    else root.dataset.theme = next;
    localStorage.setItem('fathom.theme', next);
    label();
  };
  label();
}

function setup_files() {
  $('export').onclick = () =>
    download(`fathom-${new Date().toISOString().slice(0, 10)}.json`, store.export_conversations());
  $('import').onclick = () => $('import-file').click();
  $('import-file').onchange = async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    try {
      say(`${store.import_conversations(await file.text())} conversations imported`);
    } catch (error) {
      $('problem').textContent = `${file.name} was not imported: ${error.message}`;
      $('problem').hidden = false;
    }
    event.target.value = ''; // the same file may be chosen again
    show_list();
  };
}

function setup_keys() {
  document.addEventListener('keydown', (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 'k') {
      event.preventDefault();
      for (const dialog of document.querySelectorAll('dialog[open]')) dialog.close();
      new_chat();
    } else if (event.key === 'Escape' && !document.querySelector('dialog[open]')) {
      if ($('app').classList.contains('menu')) set_menu(false);
      else stop();
    }
  });
  for (const button of document.querySelectorAll('[data-close]')) {
    button.onclick = () => button.closest('dialog').close();
  }
  $('menu').onclick = () => set_menu(!$('app').classList.contains('menu'));
  $('shade').onclick = () => set_menu(false);
  $('new-chat').onclick = new_chat;
}

// What was being answered when the page is left is kept as far as it came.
addEventListener('pagehide', () => {
  for (const { conversation: open, node } of running.values()) {
    node.finish = 'stopped';
    store.save_conversation(open);
  }
});
// Another tab has changed the list.
addEventListener('storage', (event) => event.key?.startsWith('fathom.') && show_list());

setup_composer();
setup_theme();
setup_files();
setup_keys();
setup_settings(() => conversation.settings, (settings) => {
  conversation.settings = settings;
  if (Object.keys(conversation.nodes).length) store.save_conversation(conversation);
  show_frame();
});
const [latest] = store.list_conversations();
if (latest) open_conversation(latest.id);
else new_chat();
ask_server();
