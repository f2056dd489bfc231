'use strict';
// What a row says goes into the page as text alone: a model wrote it.

const NAMES = { keep: 'kept', drop: 'dropped', edit: 'edited', restore: 'taken back' };
const find = (id) => document.getElementById(id);
const filters = find('filters');
let items = [], current = 0, more = false;
let cursors = [-1]; // behind which place each page of rows begins, this one's last
let queue = Promise.resolve(); // what is asked for happens in order, each from where the last ended

// --- the server ----------------------------------------------------------------------------------

async function ask(path, body) {
  const post = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, body === undefined ? {} : post);
  } catch {
    throw new Error('The server does not answer, and nothing was saved. Start it again and open its new address.');
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function soon(work) {
  queue = queue.then(() => work()).catch((error) => say(error.message, true));
  return queue;
}

function say(text, wrong = false) {
  find('said').textContent = text;
  find('said').classList.toggle('wrong', wrong);
}

// --- showing -------------------------------------------------------------------------------------

function make(tag, text = '', kind = '') {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = kind;
  if (/[㐀-鿿]/.test(text)) made.lang = 'zh';
  return made;
}

/** Each value inside a row with its path, in order. */
function leaves(value, path = []) {
  if (value === null || typeof value !== 'object') return [[path, value]];
  return Object.keys(value).flatMap((key) => leaves(value[key], [...path, Array.isArray(value) ? +key : key]));
}

function card(item, place) {
  const made = make('article', '', `card row ${item.state}`);
  made.tabIndex = -1;
  const head = make('header');
  head.append(make('span', `#${(item.place + 1).toLocaleString('en')}`));
  if (item.reason) head.append(make('span', item.reason, 'reason'));
  if (item.category) head.append(make('span', item.category, 'tag'));
  if (item.similarity !== null) head.append(make('span', `similarity ${item.similarity.toFixed(2)}`));
  head.append(make('span', NAMES[item.state] || 'undecided', 'state'));
  if (item.nearest) {
    const near = make('span', `nearest: ${item.nearest}`, 'near');
    near.dir = 'auto';
    head.append(near);
  }
  const list = make('dl');
  const said = item.is_row ? leaves(item.row) : [[['text'], item.text]];
  for (const [path, value] of said) if (value !== '') list.append(make('dt', path.join(' ')), text(value));
  const buttons = make('div', '', 'buttons');
  for (const [action, name] of choices(item)) {
    const button = make('button', name);
    button.addEventListener('click', () => soon(() => { choose(place); return act(action); }));
    buttons.append(button);
  }
  made.append(head, list, buttons);
  made.addEventListener('mousedown', () => soon(() => choose(place, false)));
  return made;
}

function text(value) {
  const made = make('dd', String(value));
  made.dir = 'auto';
  return made;
}

function choices(item) {
  if (!item.reason) return [['keep', 'Keep'], ['drop', 'Drop'], ['edit', 'Edit']];
  const back = item.is_row ? [['restore', 'Take back'], ['edit', 'Edit and take back']] : [];
  return [...back, ['drop', 'Leave out']];
}

function show(place) {
  const made = card(items[place], place);
  const old = find('rows').children[place];
  old ? old.replaceWith(made) : find('rows').append(made);
}

function count(counts) {
  find('progress').max = counts.all || 1;
  find('progress').value = counts.decided;
  const number = (name) => counts[name].toLocaleString('en');
  find('counts').textContent = `${number('decided')} of ${number('all')} decided, ` +
    `${(counts.all - counts.decided).toLocaleString('en')} left: ${number('keep')} kept, ` +
    `${number('drop')} dropped, ${number('edit')} edited` +
    (counts.rejected ? `; ${number('restore')} of ${number('rejected')} rejected taken back` : '');
}

/** Loads the rows behind the last cursor. */
async function load(last = false) {
  const query = new URLSearchParams(new FormData(filters));
  query.set('after', cursors.at(-1));
  const found = await ask(`rows?${query}`);
  ({ items, more } = found);
  find('rows').replaceChildren();
  items.forEach((_, place) => show(place));
  find('passing').textContent = `${found.passing.toLocaleString('en')} with these filters`;
  find('before').disabled = cursors.length === 1;
  find('behind').disabled = !more;
  count(found.counts);
  if (!items.length) say('No rows with these filters.');
  choose(last ? items.length - 1 : 0);
}

function choose(place, focus = true) {
  find('rows').children[current]?.classList.remove('current');
  current = place;
  const chosen = find('rows').children[current];
  chosen?.classList.add('current');
  if (!focus) return;
  chosen?.focus({ preventScroll: true });
  chosen?.scrollIntoView({ block: 'nearest' });
}

async function move(by) {
  if (items[current + by]) return choose(current + by);
  if (by > 0 && more) return turn(1);
  if (by < 0 && cursors.length > 1) return turn(-1);
  say(by > 0 ? 'That was the last row with these filters.' : 'That is the first row.');
}

function turn(by) {
  by > 0 ? cursors.push(items.at(-1).place) : cursors.pop();
  return load(by < 0);
}

// --- deciding ------------------------------------------------------------------------------------

async function act(action, changes) {
  const item = items[current];
  if (!item) return;
  if (action === 'edit' && !changes) return edit(item);
  if (action === 'restore' && !item.reason) action = 'keep';
  const done = await ask('decide', { row: item.name, action, changes });
  items[current] = done.item;
  show(current);
  count(done.counts);
  say(`#${(item.place + 1).toLocaleString('en')} ${NAMES[action]}.`);
  await (action === 'edit' ? choose(current) : move(1));
}

async function undo() {
  const done = await ask('undo', {});
  count(done.counts);
  if (!done.item) return say('Undone, for a row that is not here now.');
  let place = items.findIndex((item) => item.name === done.item.name);
  if (place < 0) { // it is on another page, or the filters leave it out
    filters.reset();
    filters.elements.state.value = '';
    if (filters.elements.reason) filters.elements.reason.value = done.item.reason;
    cursors = done.item.place ? [-1, done.item.place - 1] : [-1];
    await load();
    place = 0;
  } else {
    items[place] = done.item;
    show(place);
  }
  choose(place);
  say(`#${(done.item.place + 1).toLocaleString('en')}: undone.`);
}

/** Puts a text field in place of each text of the row. */
function edit(item) {
  if (!item.is_row) throw new Error('This is not a row, so it cannot be edited.');
  const shown = find('rows').children[current];
  if (shown.querySelector('textarea')) return;
  const list = make('dl'), fields = [];
  for (const [path, value] of leaves(item.row)) {
    if (typeof value !== 'string') continue;
    const field = make('textarea');
    field.value = value;
    field.dir = 'auto';
    field.setAttribute('aria-label', path.join(' '));
    const holder = make('dd');
    holder.append(field);
    list.append(make('dt', path.join(' ')), holder);
    fields.push([path, value, field]);
  }
  const place = current;
  const cancel = () => { show(place); choose(place); };
  const save = () => soon(() => {
    choose(place, false);
    // A text field makes every end of a line \n, which is no change.
    const changed = fields.filter(([, before, field]) => field.value !== before.replace(/\r\n?/g, '\n'));
    return changed.length ? act('edit', changed.map(([path, , field]) => [path, field.value])) : cancel();
  });
  list.addEventListener('keydown', (event) => {
    if (event.isComposing) return;
    if (event.key === 'Escape') cancel();
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) save();
  });
  const buttons = make('div', '', 'buttons');
  for (const [name, does] of [['Save', save], ['Cancel', cancel]]) {
    const button = make('button', name);
    button.addEventListener('click', does);
    buttons.append(button);
  }
  shown.querySelector('dl').replaceWith(list);
  shown.querySelector('.buttons').replaceWith(buttons);
  for (const [, , field] of fields) field.style.height = `${Math.min(field.scrollHeight + 4, 400)}px`;
  fields[0]?.[2].focus();
}

// --- keys ----------------------------------------------------------------------------------------

const KEYS = {
  j: () => move(1), arrowdown: () => move(1), p: () => move(-1), arrowup: () => move(-1),
  k: () => act('keep'), d: () => act('drop'), e: () => act('edit'), r: () => act('restore'), u: undo,
  '/': () => filters.elements.search.focus(),
};

document.addEventListener('keydown', (event) => {
  const key = event.key.toLowerCase();
  if (event.target.closest('input, select, textarea')) {
    if (filters.contains(event.target) && (key === 'escape' || key === 'enter')) {
      event.preventDefault();
      event.target.blur();
    }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || !KEYS[key]) return;
  event.preventDefault();
  if (!find('rows').querySelector('textarea')) soon(KEYS[key]); // an edit is ended first
  else say('Save the open edit with Ctrl-Enter, or cancel it with Esc.', true);
});

filters.addEventListener('submit', (event) => event.preventDefault());
filters.addEventListener('change', () => soon(() => { cursors = [-1]; say(''); return load(); }));
find('before').addEventListener('click', () => soon(() => turn(-1)));
find('behind').addEventListener('click', () => soon(() => turn(1)));
soon(load);
