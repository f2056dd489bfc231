'use strict';
// What a model or a person wrote goes into the page as text alone.
const find = (id) => document.getElementById(id);
const buttons = () => [find('score'), ...document.querySelectorAll('button.model')];
const fields = ['question', 'reference', 'kind', 'answer'];
let listed = [];
let number = null; // of the question that was chosen
let waiting = null;
const sitting = [];

async function ask(path, body, signal) {
  const post = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body), signal };
  let answer;
  try {
    answer = await fetch(path, body === undefined ? {} : post);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The server does not answer: start it again and open its new address.');
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function say(text, wrong = false) {
  find('said').textContent = text;
  find('said').classList.toggle('wrong', wrong);
}

/** Waits for one thing at a time, says so, and gives up where nobody wants to wait. */
async function wait(text, path, body) {
  waiting = new AbortController();
  buttons().forEach((button) => { button.disabled = true; });
  find('cancel').hidden = false;
  const begun = Date.now();
  const tick = () => say(`${text} (${Math.round((Date.now() - begun) / 1000)} s)`);
  const clock = setInterval(tick, 1000);
  tick();
  try {
    const found = await ask(path, body, waiting.signal);
    say('');
    return found;
  } catch (error) {
    say(error.name === 'AbortError' ? 'No longer waited for.' : error.message, error.name !== 'AbortError');
    return null;
  } finally {
    clearInterval(clock);
    buttons().forEach((button) => { button.disabled = false; });
    find('cancel').hidden = true;
  }
}

async function search() {
  const query = new URLSearchParams({ search: find('search').value, kind: find('among').value });
  try {
    const { questions, found } = await ask(`questions?${query}`);
    listed = questions;
    find('found').replaceChildren(...questions.map((q) => new Option(`${q.number}. ${q.text.replace(/\s+/g, ' ').slice(0, 120)}`)));
    if (found > questions.length) say(`${found} questions are found, ${questions.length} shown: search for more words.`);
  } catch (error) {
    say(error.message, true);
  }
}

function choose() {
  const chosen = listed[find('found').selectedIndex];
  if (!chosen) return;
  number = chosen.number;
  find('question').value = chosen.text;
  find('reference').value = chosen.reference;
  find('kind').value = chosen.kind;
  find('answer').value = '';
  find('result').hidden = true;
}

async function answer(model) {
  const found = await wait(`${model} answers`, 'answer', { question: find('question').value, model });
  if (found) find('answer').value = found.answer;
}

async function score() {
  const given = Object.fromEntries(fields.map((name) => [name, find(name).value]));
  const asked = number;
  const found = await wait('The judge reads', 'score', given);
  if (!found) return;
  find('value').textContent = found.score === null ? 'no score could be read' : String(found.score);
  find('reply').textContent = found.reply;
  find('result').hidden = false;
  find('result').scrollIntoView({ block: 'nearest' });
  sitting.push({ id: asked, input: given.question, output: given.answer, class: given.kind, score: found.score, reply: found.reply });
  const row = document.createElement('tr');
  for (const text of [given.kind, given.question.slice(0, 60), found.score === null ? 'unparsed' : String(found.score)]) {
    const cell = document.createElement('td');
    cell.textContent = text;
    row.append(cell);
  }
  find('history').append(row);
  means();
}

function means() {
  const kinds = new Map();
  for (const { class: kind, score } of sitting) {
    if (score !== null) kinds.set(kind, [...(kinds.get(kind) ?? []), score]);
  }
  const said = [...kinds].map(([kind, scores]) => {
    const mean = scores.reduce((sum, one) => sum + one, 0) / scores.length;
    return `${kind} ${mean.toFixed(3)} (${scores.length})`;
  });
  find('means').textContent = said.length ? `Means: ${said.join(', ')}` : 'No score yet.';
  find('save').disabled = false;
}

function save() {
  const text = sitting.map((row) => JSON.stringify(row) + '\n').join('');
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type: 'application/jsonl' }));
  link.download = 'scored.jsonl';
  link.click();
  URL.revokeObjectURL(link.href);
}

find('search').addEventListener('input', search);
find('among').addEventListener('change', search);
find('found').addEventListener('change', choose);
find('question').addEventListener('input', () => { number = null; });
find('score').addEventListener('click', score);
find('cancel').addEventListener('click', () => waiting?.abort());
find('save').addEventListener('click', save);
for (const button of document.querySelectorAll('button.model')) {
  button.addEventListener('click', () => answer(button.dataset.model));
}
search();
