// The chat: what is on the screen, and what happens on a key or a button.
import { get_json, is_key, on_key_needed, set_key } from './api.js';
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
const running = new Map(); // conversation id -> {abort, node, conversation, deleted}

// ---- the messages

const actions = {
  focus: () => $('input').focus(),
  pick(node) {
    store.pick_node(conversation, node);
    save(conversation);
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
      store.remove_node(conversation, node);
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

function show_messages(to_end = true) {
  const path = store.path_of(conversation);
  views = path.map((node) => view_of(node, store.children_of(conversation, node.parent), actions));
  keep_focus($('messages'), () => {
    $('messages').replaceChildren(...views.map((view) => view.root));
    if (path.length === 0) $('messages').append(welcome());
    update_views();
  });
  show_frame();
  show_problem(store.storage_problem);
  if (to_end) $('scroll').scrollTop = $('scroll').scrollHeight;
}

const name_of = (control) => control.dataset.name ?? control.ariaLabel ?? control.textContent;

// Replaces the items of a list. The focus goes to the control of the same name in the same item, to
// the other branch button at the last branch, or else to the message box.
function keep_focus(list, change) {
  const had = document.activeElement;
  const at = [...list.children].findIndex((item) => item.contains(had));
  const id = list.children[at]?.dataset.id;
  const by_keyboard = had?.matches(':focus-visible');
  change();
  if (at < 0) return;
  const item = id ? list.querySelector(`[data-id="${id}"]`) : list.children[at];
  const control = [...item?.querySelectorAll('button') ?? []].find((button) =>
    name_of(button) === name_of(had) && !button.disabled && button.checkVisibility()) ??
    (had.closest('.branches') && item?.querySelector('.branches button:enabled'));
  if (control) control.focus({ preventScroll: true });
  else focus_input(by_keyboard);
}

// Not after a tap: that would bring up the keyboard of a phone.
function focus_input(by_keyboard) {
  if (by_keyboard || matchMedia('(hover: hover)').matches) $('input').focus();
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
  const had = document.activeElement;
  const by_keyboard = had?.matches(':focus-visible');
  $('send').hidden = busy;
  $('stop').hidden = !busy;
  if (had?.hidden) focus_input(by_keyboard);
  $('title').textContent = conversation.title || 'New chat';
  $('thinking').setAttribute('aria-pressed', String(conversation.settings.thinking));
  show_context();
}

function show_problem(text) {
  $('problem').textContent = text ?? '';
  $('problem').hidden = !text;
}

function save(changed) {
  store.save_conversation(changed);
  show_problem(store.storage_problem);
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
  const list = $('conversations');
  if (list.querySelector('input')) return; // a title is being written: that ends with a call of this
  keep_focus(list, () => list.replaceChildren(...store.list_conversations().map((entry) => {
    const open = el('button.open', { type: 'button', title: entry.title }, entry.title || 'Untitled');
    if (entry.id === conversation.id) open.setAttribute('aria-current', 'true');
    open.onclick = () => open_conversation(entry.id);
    const buttons = [open,
      el('button.icon', { type: 'button', 'aria-label': `Rename ${entry.title}`, title: 'Rename', onclick: (event) => rename(entry, event) }, '✎'),
      el('button.icon', { type: 'button', 'aria-label': `Delete ${entry.title}`, title: 'Delete', onclick: () => remove(entry) }, '×')];
    ['open', 'rename', 'delete'].forEach((name, i) => (buttons[i].dataset.name = name));
    const item = el('li', {}, buttons);
    item.dataset.id = entry.id;
    return item;
  })));
}

function rename(entry, event) {
  const item = event.currentTarget.parentElement;
  const input = el('input', { value: entry.title, 'aria-label': 'Title', maxLength: 200 });
  let over = false;
  const finish = (keep, by_key) => {
    if (over) return;
    over = true;
    item.replaceChildren();
    const kept = in_memory(entry.id) ?? store.load_conversation(entry.id);
    if (keep && kept && input.value.trim()) {
      kept.title = input.value.trim();
      save(kept);
    }
    show_list();
    show_frame();
    if (by_key) $('conversations').querySelector(`[data-id="${entry.id}"] [data-name=rename]`)?.focus();
  };
  input.onkeydown = (key) => {
    key.stopPropagation();
    if (key.isComposing || (key.key !== 'Enter' && key.key !== 'Escape')) return;
    key.preventDefault(); // or Enter would press the button that gets the focus
    finish(key.key === 'Enter', true);
  };
  input.onblur = () => finish(true, false);
  item.replaceChildren(input);
  input.select();
}

function remove(entry) {
  if (!confirm(`Delete "${entry.title || 'Untitled'}"? This cannot be undone.`)) return;
  const failed = store.storage_problem !== null;
  store.delete_conversation(entry.id);
  forget(entry.id);
  // There may be room now for what there was none for.
  if (failed && Object.keys(conversation.nodes).length) save(conversation);
  else show_problem(store.storage_problem);
  show_list();
}

// A conversation that is deleted is neither answered nor shown any more.
function forget(id) {
  const run = running.get(id);
  if (run) {
    run.deleted = true;
    running.delete(id);
    run.abort.abort();
  }
  if (id === conversation.id) new_chat();
}

// The conversation where this tab works with it: it is one object, so that a stream goes into what
// is shown.
const in_memory = (id) =>
  running.get(id)?.conversation ?? (id === conversation.id ? conversation : null);

function open_conversation(id) {
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
  const run = { abort, node, conversation: mine, deleted: false };
  running.set(mine.id, run);
  save(mine);
  show_list();
  show_messages();
  say('Answering');

  let drawn = true;
  let saved = performance.now();
  const changed = () => {
    if (running.get(mine.id) === run && performance.now() - saved > 1000) {
      saved = performance.now();
      save(mine);
    }
    if (!drawn) return;
    drawn = false;
    requestAnimationFrame(() => {
      drawn = true;
      if (conversation === mine) follow(update_views);
    });
  };
  await generate(mine, node, model?.name, abort.signal, changed);
  if (run.deleted) return;
  if (running.get(mine.id) === run) running.delete(mine.id);
  mine.updated = Date.now();
  save(mine);
  show_list();
  if (conversation === mine) {
    follow(update_views);
    show_frame();
  }
  if (!node.error && !model) ask_server(); // it was not up when the page was loaded
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
    keeps = (await get_json('v1/dsa/selection')).keep_selection === true;
    model = { name: data[0].id, context: data[0].max_model_len ?? null };
    $('model').textContent = model.name;
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
      const key = $('key-input').value.trim();
      $('key-problem').hidden = is_key(key);
      if (!is_key(key)) return;
      given = true;
      set_key(key);
      dialog.close();
    };
    dialog.onclose = () => {
      asking = null;
      $('key-input').value = '';
      $('key-problem').hidden = true;
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

// Where the conversations are a menu over the page (style.css), the focus is in it while it is open.
const narrow = matchMedia('(max-width: 720px)');

function set_menu(open) {
  const leaves = !open && $('sidebar').contains(document.activeElement);
  $('app').classList.toggle('menu', open);
  $('shade').hidden = !open;
  $('menu').setAttribute('aria-expanded', String(open));
  $('main').inert = open;
  if (open) $('new-chat').focus();
  else if (leaves && narrow.matches) $('menu').focus();
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
    const { thinking } = conversation.settings;
    store.save_default_settings({ ...store.default_settings(), thinking });
    if (Object.keys(conversation.nodes).length) save(conversation);
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
      take_in(conversation.id);
    } catch (error) {
      show_problem(`${file.name} was not imported: ${error.message}`);
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
  narrow.onchange = () => set_menu(false);
  $('new-chat').onclick = new_chat;
}

// What was being answered when the page is left is kept as far as it came.
addEventListener('pagehide', () => {
  for (const { conversation: open, node } of running.values()) {
    node.finish = 'stopped';
    store.save_conversation(open);
  }
});

// Another tab, or a file, has changed what is kept of a conversation: what is here follows.
function take_in(id) {
  const mine = in_memory(id);
  const kept = mine && store.load_conversation(id);
  if (!kept) return;
  if (store.take_in(mine, kept, running.get(id)?.node ?? null)) save(mine);
  if (mine === conversation) show_changes();
}

// The messages as they are now, where the reader is left alone as far as can be.
function show_changes() {
  const path = store.path_of(conversation);
  const same = path.length === views.length && path.every((node, i) => node === views[i].node &&
    store.children_of(conversation, node.parent).length === views[i].siblings);
  const writes = [...$('messages').querySelectorAll('textarea')].some((area) => area.value);
  if (same) follow(update_views);
  else if (!writes) follow(() => show_messages(false));
  show_frame();
}

addEventListener('storage', (event) => {
  if (!event.key?.startsWith('fathom.')) return;
  const id = store.conversation_of_key(event.key);
  if (id !== null && event.newValue === null) forget(id);
  else if (id !== null) take_in(id);
  show_list();
});

setup_composer();
setup_theme();
setup_files();
setup_keys();
setup_settings(() => conversation.settings, (settings) => {
  conversation.settings = settings;
  if (Object.keys(conversation.nodes).length) save(conversation);
  show_frame();
});
const [latest] = store.list_conversations();
if (latest) open_conversation(latest.id);
else new_chat();
ask_server();
