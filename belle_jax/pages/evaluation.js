'use strict';
// Shows the questions that pass the filters, a page at a time. What came from a model or a file is
// put in as text alone.
const AT_ONCE = 25;
const LONG = 400, LINES = 7; // characters and lines from which on a text is folded
const APART = 0.2, OTHERWISE = 0.3; // scores that differ by as much are looked for
const all = JSON.parse(document.getElementById('data').textContent);
const field = (id) => document.getElementById(id);
const texts = all.map((q) => [q.question, q.reference, q.answer, q.opponent || '',
  ...q.verdicts.map((v) => v[1]), ...q.pairs.map((p) => p[2])].join('\n').toLowerCase());
const winners = (q) => new Set(q.pairs.map((p) => p[1]));
const MARKS = {
  'without any score': (q) => q.score === null,
  'with a verdict missing': (q) => q.verdicts.length === 0 || q.verdicts.some((v) => v[0] === null),
  'asked for once more': (q) => q.verdicts.some((v) => v[2]),
  'judgings far apart': (q) => q.spread !== null && q.spread > APART - 1e-6,
  'a person says otherwise': (q) => q.person !== null && q.score !== null && Math.abs(q.person - q.score) > OTHERWISE - 1e-6,
  'the order decides': (q) => winners(q).size > 1 && !winners(q).has(null),
  'in training data': (q) => q.seen !== null,
  'cut or not answered': (q) => q.ended !== '' && q.ended !== 'stop',
};
const ORDERS = { // a key to sort by, the smallest first; what is not known comes last
  'lowest score first': (q) => q.score ?? 2,
  'highest score first': (q) => -(q.score ?? -2),
  'widest apart first': (q) => -(q.spread ?? -2),
};
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
  const holder = element('dd', '', list);
  const said = element('div', text, holder);
  said.dir = 'auto';
  if (/[㐀-鿿]/.test(text)) said.lang = 'zh';
  if (text.length <= LONG && text.split('\n').length <= LINES) return;
  said.className = 'folded';
  const button = element('button', `All ${text.length.toLocaleString('en')} characters`, holder, 'fold');
  button.type = 'button';
  button.setAttribute('aria-expanded', 'false');
  const open = button.textContent;
  button.addEventListener('click', () => {
    const folded = said.classList.toggle('folded');
    button.textContent = folded ? open : 'Less';
    button.setAttribute('aria-expanded', String(!folded));
  });
}

function card(q) {
  const made = document.createElement('article');
  made.className = 'card row question';
  const head = element('header', '', made);
  element('b', `#${q.number}`, head);
  element('span', q.kind, head, 'tag');
  element('span', q.score === null ? 'no score' : `score ${q.score}`, head);
  if (q.person !== null) element('span', `a person's ${q.person}`, head);
  if (q.seen !== null) element('span', `in training data (${q.seen})`, head, 'tag');
  if (q.ended && q.ended !== 'stop') element('span', `ended: ${q.ended}`, head);
  const list = element('dl', '', made);
  pair(list, 'question', q.question);
  if (q.reference) pair(list, 'reference', q.reference);
  pair(list, 'answer', q.answer || '(empty)');
  for (const [value, said, again, failed] of q.verdicts) {
    const read = value === null ? (failed ? 'not given' : 'unparsed') : String(value);
    pair(list, read + (again ? ', asked again' : ''), said);
  }
  if (q.opponent !== null) pair(list, 'the other answer', q.opponent || '(empty)');
  for (const [swapped, value, said] of q.pairs) {
    const better = { model: 'better', other: 'worse', tie: 'alike' }[value] ?? 'unparsed';
    pair(list, `${better}, shown ${swapped ? 'second' : 'first'}`, said);
  }
  return made;
}

function more() {
  const next = passing.slice(shown, shown + AT_ONCE).map((place) => card(all[place]));
  field('questions').append(...next);
  shown += next.length;
  field('more').hidden = shown >= passing.length;
  const [some, every, here] = [passing.length, all.length, shown].map((n) => n.toLocaleString('en'));
  field('count').textContent = `${some} of ${every} questions, ${here} shown`;
}

function filter() {
  const words = field('search').value.trim().toLowerCase();
  const number = /^#\d+$/.test(words) ? +words.slice(1) : null;
  const kind = field('kind').value;
  const marked = MARKS[field('mark').value];
  const [least, most] = [['least', 0], ['most', 1]].map(([id, end]) => {
    const given = parseFloat(field(id).value);
    return isNaN(given) ? end : given;
  });
  const whole = least <= 0 && most >= 1; // then those without a score are there too
  passing = [];
  all.forEach((q, place) => {
    if (kind && q.kind !== kind) return;
    if (marked && !marked(q)) return;
    if (!whole && (q.score === null || q.score < least || q.score > most)) return;
    if (number !== null ? q.number !== number : !texts[place].includes(words)) return;
    passing.push(place);
  });
  const key = ORDERS[field('order').value];
  if (key) passing.sort((a, b) => key(all[a]) - key(all[b]) || a - b);
  field('questions').replaceChildren();
  shown = 0;
  more();
}

for (const [name, marked] of Object.entries(MARKS)) {
  const count = all.filter(marked).length;
  if (count) element('option', `${name} (${count.toLocaleString('en')})`, field('mark')).value = name;
}
field('filters').addEventListener('input', filter);
field('filters').addEventListener('submit', (event) => event.preventDefault());
field('more').addEventListener('click', more);
filter();
