// The settings dialog of a conversation. Sampling and thinking are also what new conversations start
// with, system prompt and tools are not.
import { $, el } from './dom.js';
import { parse_tools } from './generate.js';
import { kInitialSettings, save_default_settings } from './store.js';

// name, label, smallest, largest, step
const kFields = [
  ['temperature', 'Temperature', 0, 2, 'any'],
  ['top_p', 'Top p', 0, 1, 'any'],
  ['top_k', 'Top k', 0, null, 1],
  ['min_p', 'Min p', 0, 1, 'any'],
  ['max_tokens', 'Max tokens', 1, null, 1],
  ['seed', 'Seed', 0, null, 1],
  ['presence_penalty', 'Presence penalty', -2, 2, 'any'],
  ['frequency_penalty', 'Frequency penalty', -2, 2, 'any'],
  ['repetition_penalty', 'Repetition penalty', 0.01, null, 'any'],
];

export function setup_settings(current, used) {
  const dialog = $('settings');
  const form = $('settings-form');
  const problem = $('settings-problem');
  $('sampling').append(...kFields.map(([name, label, min, max, step]) =>
    el('label', {}, label,
      el('input', { type: 'number', name, min: min ?? '', max: max ?? '', step, inputMode: 'decimal' }))));

  const show = (settings) => {
    for (const [name, value] of Object.entries(settings)) {
      const field = form.elements[name];
      if (!field) continue;
      if (field.type === 'checkbox') field.checked = value;
      else field.value = value ?? '';
    }
    problem.hidden = true;
  };

  $('open-settings').onclick = () => {
    show(current());
    dialog.showModal();
  };
  $('settings-reset').onclick = () => show(kInitialSettings);
  form.onsubmit = (event) => {
    event.preventDefault();
    const settings = {
      system: form.elements.system.value,
      thinking: form.elements.thinking.checked,
      tools: form.elements.tools.value,
    };
    for (const [name] of kFields) {
      const text = form.elements[name].value;
      settings[name] = text === '' ? null : Number(text);
    }
    try {
      parse_tools(settings.tools);
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
      return;
    }
    save_default_settings(settings);
    used(settings);
    dialog.close();
  };
}
