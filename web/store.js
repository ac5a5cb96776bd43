// Conversations, kept in this browser. A conversation is a tree: editing a question or asking for
// another answer adds a branch beside the old one, and `pick` says which branch is shown.
//
//   conversation  {id, title, created, updated, settings, pick, nodes: {id: node}}
//   node          {id, parent, pick, role, content, ...}; parent null: the first message

const kIndex = 'fathom.conversations'; // ids, the most recent first
const kPrefix = 'fathom.conversation.';
const kDefaults = 'fathom.settings';
const kFormat = 'fathom.conversations.1';

export const kInitialSettings = {
  system: '',
  temperature: null, // null: what the server takes when nothing is said
  top_p: null,
  top_k: null,
  min_p: null,
  max_tokens: null,
  seed: null,
  presence_penalty: null,
  frequency_penalty: null,
  repetition_penalty: null,
  thinking: false,
  tools: '',
};

const new_id = () => Array.from(crypto.getRandomValues(new Uint8Array(8)),
  (byte) => byte.toString(16).padStart(2, '0')).join('');

function read(key, fallback) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? fallback;
  } catch {
    return fallback; // written by something else
  }
}

// Why the last save did not work, or null: storage may be full or off.
export let storage_problem = null;

// Returns whether it worked.
function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    storage_problem = 'This browser keeps no more: export or delete conversations.';
    return false;
  }
}

// What a new conversation starts with. System prompt and tools belong to one conversation.
export const default_settings = () =>
  ({ ...check_settings(read(kDefaults, {})), system: '', tools: '' });
export const save_default_settings = ({ system, tools, ...settings }) => write(kDefaults, settings);

export function new_conversation() {
  const now = Date.now();
  return {
    id: new_id(),
    title: '',
    created: now,
    updated: now,
    settings: default_settings(),
    pick: null,
    nodes: {},
  };
}

// Titles and ids of all, the most recent first.
export function list_conversations() {
  const entries = read(kIndex, []);
  if (!Array.isArray(entries)) return [];
  return entries.filter((entry) => kId.test(entry?.id))
    .map(({ id, title, updated }) => ({ id, title: text_of(title), updated: Number(updated) || 0 }));
}

export const load_conversation = (id) => check(read(kPrefix + id, null));

// The id of the conversation that is kept under a key of the storage, or null.
export const conversation_of_key = (key) =>
  (key?.startsWith(kPrefix) ? key.slice(kPrefix.length) : null);

function put(conversation) {
  storage_problem = null;
  if (!write(kPrefix + conversation.id, conversation)) return false;
  const entry = { id: conversation.id, title: conversation.title, updated: conversation.updated };
  const others = list_conversations().filter((other) => other.id !== conversation.id);
  return write(kIndex, [entry, ...others].sort((a, b) => b.updated - a.updated));
}

// Returns whether it worked. Messages that another tab has added meanwhile are taken in.
export function save_conversation(conversation) {
  const kept = load_conversation(conversation.id);
  if (kept) add_unknown(conversation, kept);
  return put(conversation);
}

const removed = new Set(); // ids of messages that were removed here

export function remove_node(conversation, node) {
  removed.add(node.id);
  delete conversation.nodes[node.id];
}

// A message that is there both here and there: the answer that has ended is the whole one.
const more_whole = (node, than) => node.finish !== undefined && than.finish === undefined;

function add_unknown({ nodes }, kept) {
  const parents = new Set(Object.values(kept.nodes).map((node) => node.parent));
  for (const node of Object.values(kept.nodes)) {
    const known = Object.hasOwn(nodes, node.id) ? nodes[node.id] : null;
    if (known && more_whole(node, known)) Object.assign(known, node, { pick: known.pick });
    // A removed one stays away, unless it was gone on from in the other tab.
    else if (!known && (!removed.has(node.id) || parents.has(node.id))) nodes[node.id] = node;
  }
}

// Takes in what another tab has saved. `busy` is a message that is written here, or null: while
// there is one, what is shown stays. Returns whether something here is missing there.
export function take_in(conversation, kept, busy) {
  let missing = false;
  for (const known of Object.values(conversation.nodes)) {
    const node = Object.hasOwn(kept.nodes, known.id) ? kept.nodes[known.id] : null;
    if (!node || more_whole(known, node)) missing = true;
    else if (known !== busy) Object.assign(known, node, busy && { pick: known.pick });
  }
  add_unknown(conversation, kept);
  const { title, settings, updated } = kept;
  Object.assign(conversation, { title, settings, updated }, busy ? null : { pick: kept.pick });
  return missing;
}

export function delete_conversation(id) {
  storage_problem = null;
  localStorage.removeItem(kPrefix + id);
  write(kIndex, list_conversations().filter((entry) => entry.id !== id));
}

export function export_conversations() {
  const conversations = list_conversations().map(({ id }) => load_conversation(id)).filter(Boolean);
  return JSON.stringify({ format: kFormat, conversations }, null, 1);
}

// Adds what is in an exported file; one that is there already is replaced. Returns how many.
export function import_conversations(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch (error) {
    throw new Error(`not JSON: ${error.message}`);
  }
  if (file?.format !== kFormat || !Array.isArray(file.conversations)) {
    throw new Error(`not an export of this page (expected format ${kFormat})`);
  }
  const conversations = file.conversations.map(check);
  if (conversations.includes(null)) throw new Error('a conversation in it is damaged');
  for (const conversation of conversations) {
    if (!put(conversation)) throw new Error(storage_problem);
  }
  return conversations.length;
}

const kRoles = ['user', 'assistant', 'tool'];
const kId = /^[0-9a-f]{16}$/;

const text_of = (value) => (typeof value === 'string' ? value : '');
const maybe_text = (value) => (typeof value === 'string' ? value : undefined);
const maybe_number = (value) => (Number.isFinite(value) ? value : null);

function check_stats(given) {
  if (typeof given !== 'object' || given === null) return undefined;
  const { prompt_tokens, completion_tokens } = given.usage ?? {};
  return {
    usage: Number.isFinite(prompt_tokens) && Number.isFinite(completion_tokens)
      ? { prompt_tokens, completion_tokens } : undefined,
    tokens: maybe_number(given.tokens) ?? 0,
    first_ms: maybe_number(given.first_ms),
    rate: maybe_number(given.rate),
  };
}

// The fields of a message that the page knows, each of its type; null where it cannot be one.
function check_node(id, given) {
  if (!kId.test(id) || !kRoles.includes(given?.role) || typeof given.content !== 'string') return null;
  const calls = Array.isArray(given.tool_calls) ? given.tool_calls : [];
  return {
    id,
    parent: given.parent ?? null,
    pick: maybe_text(given.pick) ?? null,
    time: maybe_number(given.time) ?? 0,
    role: given.role,
    content: given.content,
    reasoning: maybe_text(given.reasoning),
    reasoning_ms: maybe_number(given.reasoning_ms) ?? 0,
    tool_calls: calls.length === 0 ? undefined : calls.map((call) => ({
      id: text_of(call?.id), name: text_of(call?.name), arguments: text_of(call?.arguments),
    })),
    tool_call_id: maybe_text(given.tool_call_id),
    name: maybe_text(given.name),
    model: maybe_text(given.model),
    request: maybe_text(given.request),
    finish: maybe_text(given.finish),
    error: maybe_text(given.error),
    error_status: maybe_number(given.error_status) ?? 0,
    stats: check_stats(given.stats),
  };
}

// Settings of the right types; what is not there or not right is as at first.
function check_settings(given) {
  const settings = { ...kInitialSettings };
  for (const [name, initial] of Object.entries(kInitialSettings)) {
    const value = given?.[name];
    if (initial === null ? Number.isFinite(value) : typeof value === typeof initial) {
      settings[name] = value;
    }
  }
  return settings;
}

// A conversation of which the page can rely on the shape, or null. What is stored may come from a
// file or an earlier version.
function check(given) {
  if (typeof given?.id !== 'string' || !kId.test(given.id)) return null;
  if (typeof given.nodes !== 'object' || given.nodes === null) return null;
  const nodes = {};
  for (const [id, fields] of Object.entries(given.nodes)) {
    const node = check_node(id, fields);
    if (node === null) return null;
    nodes[id] = node;
  }
  const count = Object.keys(nodes).length;
  for (const start of Object.values(nodes)) {
    // A parent that is not there, or its own descendant, would never lead to the beginning.
    let steps = 0;
    for (let n = start; n.parent !== null; n = nodes[n.parent]) {
      if (!Object.hasOwn(nodes, n.parent) || ++steps > count) return null;
    }
  }
  return {
    id: given.id,
    title: text_of(given.title),
    created: maybe_number(given.created) ?? 0,
    updated: maybe_number(given.updated) ?? 0,
    settings: check_settings(given.settings),
    pick: maybe_text(given.pick) ?? null,
    nodes,
  };
}

export function children_of(conversation, parent) {
  return Object.values(conversation.nodes).filter((node) => node.parent === parent);
}

// The messages that are shown, first to last.
export function path_of(conversation) {
  const path = [];
  let parent = null;
  let pick = conversation.pick;
  for (;;) {
    const children = children_of(conversation, parent);
    const node = children.find((child) => child.id === pick) ?? children.at(-1);
    if (!node) return path;
    path.push(node);
    parent = node.id;
    pick = node.pick;
  }
}

export function pick_node(conversation, node) {
  if (node.parent === null) conversation.pick = node.id;
  else conversation.nodes[node.parent].pick = node.id;
}

// Adds a message below `parent` (null: as a first one) and shows it.
export function add_node(conversation, parent, fields) {
  const node = { id: new_id(), parent, pick: null, time: Date.now(), content: '', ...fields };
  conversation.nodes[node.id] = node;
  pick_node(conversation, node);
  conversation.updated = Date.now();
  return node;
}
