'use strict';
// Shows the questions that pass the filters, a page at a time. What came from a model or a file is
// put in as text alone.
const AT_ONCE = 25;
const all = JSON.parse(document.getElementById('data').textContent);
const field = (id) => document.getElementById(id);
const texts = all.map((q) =>
  [q.question, q.reference, q.answer, ...q.verdicts.map((v) => v[1])].join('\n').toLowerCase());
let passing = [];
let shown = 0;

function element(name, text, parent, kind) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.textContent = text;
  parent.append(made);
  return made;
}

function pair(list, name, text) {
  element('dt', name, list);
  element('dd', text, list).dir = 'auto';
}

function card(q) {
  const made = document.createElement('article');
  made.className = 'card row question';
  const head = element('header', '', made);
  element('b', `${q.number}`, head);
  element('span', q.kind, head, 'tag');
  element('span', q.score === null ? 'no score' : `score ${q.score}`, head);
  if (q.seen) element('span', 'in training data', head, 'tag');
  if (q.ended && q.ended !== 'stop') element('span', `ended: ${q.ended}`, head);
  const list = element('dl', '', made);
  pair(list, 'question', q.question);
  if (q.reference) pair(list, 'reference', q.reference);
  pair(list, 'answer', q.answer || '(empty)');
  for (const [value, said, again] of q.verdicts) {
    pair(list, `${value === null ? 'unparsed' : value}${again ? ', asked again' : ''}`, said);
  }
  return made;
}

function more() {
  const next = passing.slice(shown, shown + AT_ONCE).map((place) => card(all[place]));
  field('questions').append(...next);
  shown += next.length;
  field('more').hidden = shown >= passing.length;
  field('count').textContent = `${passing.length} of ${all.length} questions, ${shown} shown`;
}

function filter() {
  const words = field('search').value.toLowerCase();
  const kind = field('kind').value;
  const [least, most] = ['least', 'most'].map((id) => parseFloat(field(id).value));
  const unparsed = field('unparsed').checked;
  const seen = field('seen') !== null && field('seen').checked;
  const whole = !(least > 0) && !(most < 1);
  passing = [];
  all.forEach((q, place) => {
    if (kind && q.kind !== kind) return;
    if (seen && !q.seen) return;
    if (unparsed && !(q.verdicts.length === 0 || q.verdicts.some((v) => v[0] === null))) return;
    if (!whole && (q.score === null || q.score < (least || 0) || q.score > (isNaN(most) ? 1 : most))) return;
    if (words && !texts[place].includes(words)) return;
    passing.push(place);
  });
  field('questions').replaceChildren();
  shown = 0;
  more();
}

field('filters').addEventListener('input', filter);
field('filters').addEventListener('submit', (event) => event.preventDefault());
field('more').addEventListener('click', more);
filter();
