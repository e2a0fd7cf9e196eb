// The shop's page: a photo goes in, garments with their finds come out, as soon as each is known.
import {
  HUES, Problem, accessKey, ago, brandName, category, getJson, h, headers, icon, keyForm, languageSwitch, listed, locked, money, number, productPicture, recall, remember, repaint, say, serverEvents, t, term,
} from './kit.js';

const $ = (id) => document.getElementById(id);
const CATEGORIES = ['top', 'outerwear', 'dress', 'bottom', 'shoes', 'bag', 'hat', 'accessory', 'other'];
const SIZES = ['XS', 'S', 'M', 'L', 'XL', 'XXL'];
const LONGEST = 1600, LEAST = 24; // pixels: the longest side that is sent, the least side of a photo or a box
const SLOW = 8000; // ms without a result, then a kind word
const WAITS = 8; // how often a busy or waking service is asked again

const narrow = matchMedia('(max-width: 640px)');
const SORTS = ['likeness', 'price', 'stock'];
const state = { photo: null, rounds: [], items: [], only: null, shop: null, sample: false, facts: new Map(), sort: recall('sort', 'likeness'), words: '', reason: null, drawing: null, malls: [], samples: [], startProblem: '', locked: null };
const wishes = { mall: '', sizes: [], other: '', gender: '', min: '', max: '', keep: false, ...recall('wishes', {}) };

// --- wishes: mall, size, gender, price ------------------------------------------------------------------------------
const price = (text) => { const value = Number(String(text).replace(',', '.').trim()); return String(text).trim() !== '' && Number.isFinite(value) && value >= 0 ? value : null; };
const mySizes = () => [...new Set([...wishes.sizes, ...wishes.other.toUpperCase().split(/[\s,;]+/).filter(Boolean)])];
const wished = () => JSON.stringify([wishes.mall, mySizes(), wishes.gender, price(wishes.min), price(wishes.max)]);
const pricesWrong = () => price(wishes.min) != null && price(wishes.max) != null && price(wishes.min) > price(wishes.max);

function paintWishes() {
  const malls = [...new Set([...state.malls, ...(wishes.mall && !state.malls.length ? [wishes.mall] : [])])];
  repaint($('mall'), h('option', { value: '' }, t('mallAny')), malls.map((m) => h('option', { value: m }, m)));
  $('mall').value = malls.includes(wishes.mall) ? wishes.mall : '';
  $('mall').closest('label').hidden = state.shop != null && !malls.length;
  const toggle = (name, on, press, key) => h('button', { type: 'button', class: 'pill', 'aria-pressed': String(on), 'data-key': key, onclick: press }, name);
  repaint($('sizes'), SIZES.map((s) => toggle(s, wishes.sizes.includes(s), () => wish({ sizes: wishes.sizes.includes(s) ? wishes.sizes.filter((x) => x !== s) : [...wishes.sizes, s] }), `size-${s}`)));
  repaint($('gender'), WHOM.map(([g, name]) => toggle(t(name), wishes.gender === g, () => wish({ gender: g }), `gender-${g}`)));
  for (const [id, name] of [['sizes-other', 'other'], ['price-min', 'min'], ['price-max', 'max']]) if ($(id) !== document.activeElement) $(id).value = wishes[name];
  const n = (mySizes().length ? 1 : 0) + (wishes.gender ? 1 : 0) + (price(wishes.min) != null ? 1 : 0) + (price(wishes.max) != null ? 1 : 0);
  $('filters-name').textContent = n ? t('filtersOn', { n }) : t('filters');
  $('price-wrong').textContent = pricesWrong() ? t('priceWrong') : '';
  $('apply').hidden = !state.photo;
  $('apply').disabled = pricesWrong();
}
function wish(change) {
  Object.assign(wishes, change);
  remember('wishes', wishes);
  paintWishes();
  if (state.photo) paintStatus();
}

// --- the photo ------------------------------------------------------------------------------------------------------
async function openPhoto(blob) { // → {canvas, blob, width, height}; drawing it anew turns it upright and leaves its EXIF behind
  const bitmap = await createImageBitmap(blob);
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const canvas = Object.assign(document.createElement('canvas'), { width: Math.max(1, Math.round(bitmap.width * scale)), height: Math.max(1, Math.round(bitmap.height * scale)) });
  const pen = canvas.getContext('2d');
  pen.fillStyle = '#fff'; // what is see-through in a PNG
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = 'high';
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas;
}

async function begin(blob, sample = null) {
  state.startProblem = '';
  try {
    const canvas = await openPhoto(blob);
    if (Math.min(canvas.width, canvas.height) < LEAST) throw new RangeError('small');
    const sent = sample ? blob : await new Promise((done) => { canvas.toBlob(done, 'image/jpeg', 0.9); });
    reset();
    state.photo = { canvas, sent, width: canvas.width, height: canvas.height };
  } catch (e) {
    state.startProblem = e instanceof RangeError ? 'tooSmall' : 'notPhoto';
    if (state.photo) { reset(); history.replaceState(null, ''); }
    paintStart();
    return;
  }
  if (!history.state?.photo) history.pushState({ photo: true }, '');
  paintAll();
  $('results').focus({ preventScroll: true });
  window.scrollTo(0, 0);
  ask(newRound(sample?.boxes?.length ? sample.boxes : null));
}

function reset() {
  for (const round of state.rounds) round.stop();
  Object.assign(state, { photo: null, rounds: [], items: [], only: null, drawing: null, words: '', reason: null });
  forgetResult();
}
function leavePhoto() {
  reset();
  paintAll();
  $('choose').focus();
}

// --- asking: a round is one request; "try again" repeats it under the same key ----------------------------------------
function newRound(boxes, items = []) {
  const round = { key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random().toString(36).slice(2)}`, boxes, wished: wished(), status: 'sending', items: [...items], id: null, scale: null, degraded: [], advice: '', ms: null, problem: null, wait: 0, tries: 0, slow: false, answered: false };
  round.form = () => {
    const form = new FormData();
    form.append('image', round.photo.sent, 'photo.jpg');
    const [mall, sizes, gender, min, max] = JSON.parse(round.wished);
    const fields = { user_mall: mall, boxes: boxes && JSON.stringify(boxes), sizes: sizes.length && JSON.stringify(sizes), gender, min_price: min, max_price: max, keep_photo: state.sample && wishes.keep ? 'true' : null };
    for (const [name, value] of Object.entries(fields)) if (value != null && value !== '' && value !== 0) form.append(name, value);
    return form;
  };
  round.photo = state.photo;
  round.stop = () => { round.controller?.abort(); round.wake?.(); };
  items.forEach((item, index) => Object.assign(item, { round, index, type: null, first: null, matches: null, reranked: false, tags: {}, feedback: null }));
  state.rounds = [...state.rounds.filter((r) => state.items.some((i) => i.round === r)), round];
  return round;
}
const working = (round) => ['sending', 'looking', 'waiting'].includes(round.status);
const current = (round) => state.rounds.includes(round);

const topDown = (seen) => [...seen].sort((a, b) => (a.person_index ?? 0) - (b.person_index ?? 0) || (a.box?.[1] ?? 0) - (b.box?.[1] ?? 0)); // so that the numbers run down the photo
function itemOf(round, index, seen = {}) {
  let item = round.items.find((i) => i.index === index);
  if (!item) {
    item = { n: Math.max(0, ...state.items.map((i) => i.n)) + 1, round, index, box: null, category: 'other', person: 0, reason: null, type: null, first: null, matches: null, reranked: false, tags: {}, feedback: null };
    round.items.push(item);
    state.items.push(item);
  }
  if (seen.box) Object.assign(item, { box: seen.box, category: seen.category ?? item.category, person: seen.person_index ?? item.person ?? 0 });
  return item;
}

async function ask(round) {
  Object.assign(round, { status: 'sending', problem: null, locked: null, slow: false, controller: new AbortController() });
  if (round.tries === 0) say(t('sending'));
  const key = accessKey();
  const late = setTimeout(() => { round.slow = true; if (current(round)) { paintStatus(); paintNotes(); say(t('slow')); } }, SLOW);
  paintFinds();
  try {
    const response = await fetch('api/v1/recognize', { method: 'POST', body: round.form(), signal: round.controller.signal, headers: headers({ Accept: 'text/event-stream', 'Idempotency-Key': round.key }) });
    if (!response.ok) throw await Problem.of(response);
    round.status = 'looking';
    paintStatus();
    if (round.slow) paintNotes();
    if (response.headers.get('content-type')?.startsWith('text/event-stream')) for await (const { event, data } of serverEvents(response)) { if (current(round)) take(round, event, data); }
    else take(round, 'result', await response.json());
    if (!round.answered) throw new Error('cut');
    round.status = 'done';
  } catch (e) {
    if (!current(round)) return;
    if (round.answered) round.status = 'done'; // only the advice is missing
    else if (round.controller.signal.aborted) round.status = 'stopped';
    else if (e instanceof Problem && [409, 425, 429, 503].includes(e.status) && round.tries < WAITS && !round.begun) return void later(round, e);
    else Object.assign(round, e instanceof Problem ? { status: 'failed', problem: e } : { status: 'cut' });
    round.locked = locked(e, key); // a shop with keys
    if (round.status !== 'done') say(troubleOf(round));
  } finally { clearTimeout(late); }
  if (current(round)) paintFinds();
}

async function later(round, problem) { // the service is waking up or busy: count down, then ask again
  Object.assign(round, { status: 'waiting', why: { 409: 'going', 425: 'going', 503: problem.type.endsWith('not_ready') ? 'waking' : 'busy' }[problem.status] ?? 'busy', tries: round.tries + 1, wait: Math.min(60, Math.max(1, Math.ceil(problem.retryAfter ?? 2 ** round.tries))) });
  say(t(round.why, { n: round.wait }));
  for (; round.wait > 0 && current(round); round.wait -= 1) {
    paintStatus();
    await new Promise((wake) => { round.wake = wake; setTimeout(wake, 1000); });
    if (round.controller.signal.aborted) { round.status = 'stopped'; if (current(round)) paintFinds(); return; }
  }
  if (current(round)) ask(round);
}

function take(round, event, data) {
  round.begun = true;
  if (event === 'detected') {
    Object.assign(round, { id: data.request_id ?? round.id, scale: data.width && data.height ? [data.width, data.height] : null });
    for (const seen of topDown(data.items)) itemOf(round, seen.item_index, seen);
    round.begun = false; // nothing is shown yet that a repeat could take away
    if (!state.items.length) say(t('foundNone')); else if (!round.boxes) say(t('foundCount', { n: data.items.length }));
    paintFinds();
  } else if (event === 'candidates') {
    const item = itemOf(round, data.item_index);
    item.first = data.matches ?? [];
    paintItem(item);
    paintTools();
  } else if (event === 'result') {
    Object.assign(round, { id: data.request_id, degraded: data.degraded ?? [], ms: data.total_ms, answered: true, status: 'done' });
    for (const told of topDown(data.items)) Object.assign(itemOf(round, told.item_index, told), { type: told.match_type, reason: told.reason ?? null, matches: told.matches, reranked: told.reranked, tags: told.tags ?? {} });
    state.reason = data.reason ?? null;
    const answered = new Set(data.items.map((i) => i.item_index));
    state.items = state.items.filter((i) => i.round !== round || answered.has(i.index));
    round.items = round.items.filter((i) => answered.has(i.index));
    keepResult();
    loadFacts();
    say([summary(), ...round.items.map((i) => `${t('garment', { n: i.n, category: nameOf(i) })}: ${t(i.type)}`)].join('. '));
    paintFinds();
  } else if (event === 'advice') {
    round.advice = typeof data === 'string' ? data : data.text ?? '';
    paintAfter();
  } else if (event === 'done') {
    round.ms = data.total_ms ?? round.ms;
  } else if (event === 'error') throw new Problem(data.status ?? 500, data);
}

// --- words about a round --------------------------------------------------------------------------------------------
const partOf = (round, item) => { const [w, hgt] = round.scale ?? [state.photo.width, state.photo.height]; return [item.box[0] / w, item.box[1] / hgt, item.box[2] / w, item.box[3] / hgt]; };
const whole = (item) => { if (!item.box) return false; const [a, b, c, d] = partOf(item.round, item); return (c - a) * (d - b) > 0.96 && item.category === 'other'; };
const nameOf = (item) => (whole(item) ? t('wholePhoto') : category(item.category));
const summary = () => { const done = state.rounds.filter((r) => r.answered); return t('summaryDone', { n: done.reduce((n, r) => n + r.items.length, 0), s: number(Math.max(...done.map((r) => r.ms ?? 0)) / 1000, 1) }); };
function troubleOf(round) {
  if (round.status === 'stopped') return t(round.items.some((i) => i.first) ? 'stopped' : 'stoppedEmpty');
  if (round.status === 'failed') return round.locked ? t(round.locked) : round.problem.kind;
  return `${navigator.onLine ? '' : `${t('offline')} `}${t(round.items.some((i) => i.first || i.matches) || (round.items.length && !round.boxes) ? 'cut' : 'cutEmpty')}`;
}

const KINDLY = [[/_detect$/, 'detect'], [/_search$/, 'search'], [/_tagging$|^local_tags$/, 'tagging'], [/_context$/, 'context'], [/_rerank$/, 'rerank'], [/^availability$/, 'availability'], [/^stock_feed$/, 'stock_feed'], [/^products$/, 'products'],
  [/^fallback$/, 'fallback'], [/^exact_scores$/, 'scores'], [/^budget$/, 'budget'], [/face/, 'faces'], [/^exploration$|_advice$/, null]];
export function kindly(codes) { // degraded codes → sentences, each once; what concerns nobody is not told
  const kinds = codes.map((code) => (KINDLY.find(([pattern]) => pattern.test(code)) ?? [null, 'other'])[1]).filter(Boolean);
  return [...new Set(kinds)].map((kind) => t(`d_${kind}`));
}

// --- painting: start ------------------------------------------------------------------------------------------------
function paintStart() {
  $('start').hidden = !!state.photo;
  $('work').hidden = !state.photo;
  document.body.classList.toggle('at-work', !!state.photo);
  repaint($('start-key'), state.locked && !state.photo && h('div', { class: state.locked === 'e401' ? 'key-ask' : 'problem' }, keyForm(state.locked, loadLists)));
  $('start-problem').textContent = state.startProblem ? t(state.startProblem) : '';
  $('samples').hidden = !state.samples.length;
  repaint($('shop-state'), shopState());
  const title = (s) => (document.documentElement.lang === 'ru' && s.title_ru) || s.title || '';
  repaint($('samples-list'), state.samples.map((s) => h('li', {}, h('button', { type: 'button', class: 'sample', 'aria-label': t('sampleUse', { title: title(s) }), title: title(s), 'data-key': s.url, onclick: () => trySample(s) },
    h('img', { src: s.url.replace(/^\//, ''), alt: '', width: s.width ?? 512, height: s.height ?? 768, decoding: 'async' })))));
}
function shopState() { // what keeps the page from being of use, each with words of its own; else what there is
  const screen = (name, glyph, more) => h('div', { class: 'note', id: `state-${name}`, role: 'status' }, icon(glyph), h('div', {}, h('h2', { class: 'note-name' }, t(`s_${name}`)), h('p', {}, t(`s_${name}Long`)), more));
  const retry = () => h('p', { class: 'row' }, h('button', { type: 'button', class: 'plain small', 'data-key': 'retry', onclick: loadLists }, t('again')));
  if (!navigator.onLine || state.away === 'offline') return screen('offline', 'out', retry());
  if (state.away === 'waking') return screen('waking', 'spark', retry());
  const shop = state.shop;
  if (!shop) return null;
  if (!shop.products) return screen('empty', 'hanger');
  if (!shop.indexed) return screen('waking', 'spark', retry());
  if (!shop.malls.length) return screen('noMall', 'pin');
  return h('p', { class: 'soft', id: 'shop-facts' }, t('shopFacts', { n: shop.products, products: number(shop.products) }), shop.stock_seen && ` ${t('shopStock', { ago: ago(shop.stock_seen) })}`);
}
async function trySample(sample) {
  try {
    const response = await fetch(sample.url.replace(/^\//, ''));
    if (!response.ok) throw await Problem.of(response);
    await begin(await response.blob(), sample);
  } catch { state.startProblem = 'failed'; paintStart(); }
}

// --- painting: the photo, its boxes, its tools ----------------------------------------------------------------------
function paintPhoto() {
  const { canvas, width, height } = state.photo, shown = $('photo');
  Object.assign(shown, { width, height });
  shown.getContext('2d').drawImage(canvas, 0, 0);
  $('frame').style.setProperty('--ratio', (width / height).toFixed(4));
}
const hue = (item) => `var(--hue-${(item.n - 1) % HUES})`;
function choose(item) {
  state.only = state.only === item?.n || !item ? null : item.n;
  paintStage();
  for (const el of $('items').children) el.hidden = state.only != null && el.dataset.n !== String(state.only);
  if (narrow.matches && state.only != null) document.querySelector(`.item[data-n="${state.only}"]`)?.scrollIntoView({ block: 'nearest', behavior: 'smooth' });
  say(state.only == null ? t('shownAll') : t('shownOnly', { n: state.only }));
}
function paintStage() {
  $('photo').setAttribute('aria-label', t('photoAlt', { n: state.items.length }));
  $('frame').classList.toggle('searching', state.rounds.some((r) => working(r) && !r.items.length));
  const area = ([a, b, c, d]) => (c - a) * (d - b);
  const boxes = state.items.filter((i) => i.box && !whole(i)).map((item) => ({ item, at: partOf(item.round, item) })).sort((a, b) => area(b.at) - area(a.at)); // the small above the large
  repaint($('boxes'), boxes.map(({ item, at: [x0, y0, x1, y1] }) => h('button', {
    type: 'button', class: `box${state.only != null && state.only !== item.n ? ' dim' : ''}`, 'aria-pressed': String(state.only === item.n), 'data-key': `box-${item.n}`, onclick: () => choose(item),
    'aria-label': t('only', { n: item.n, category: nameOf(item) }), vars: { left: `${x0 * 100}%`, top: `${y0 * 100}%`, width: `${(x1 - x0) * 100}%`, height: `${(y1 - y0) * 100}%`, '--hue': hue(item) },
  }, h('span', { class: 'dot' }, item.n))));
  $('boxes').inert = !!state.drawing;
  paintDrawing();
  paintTools();
}
function paintTools() {
  if (state.drawing) return repaint($('tools'), drawPanel());
  const chip = (item) => h('button', { type: 'button', class: 'chip', 'aria-pressed': String(state.only === item.n), 'data-key': `chip-${item.n}`, 'data-n': item.n, vars: { '--hue': hue(item) }, onclick: () => choose(item), 'aria-label': t('only', { n: item.n, category: nameOf(item) }) },
    h('span', { class: 'dot' }, item.n), nameOf(item));
  repaint($('tools'),
    state.items.length > 1 && h('div', { class: 'chips' }, h('button', { type: 'button', class: 'chip', 'aria-pressed': String(state.only == null), 'data-key': 'chip-all', onclick: () => choose(null) }, t('all')), inOrder().map(chip)),
    state.items.length === 1 && h('div', { class: 'chips' }, state.items.map(chip)),
    state.items.length > 0 && !state.rounds.some(working) && whomChoice(),
    h('details', { class: 'tools-more', open: state.toolsOpen ?? !narrow.matches, ontoggle: (e) => { state.toolsOpen = e.target.open; } }, h('summary', { 'data-key': 'tools' }, t('tools')),
      h('p', { class: 'row' }, h('button', { type: 'button', class: 'plain', 'data-key': 'draw', onclick: () => startDrawing() }, icon('frame'), t('draw'))),
      state.items.some((i) => i.matches?.length) && h('div', { class: 'order' }, sortChoice(), wordsField())));
}
const WHOM = [['', 'genderAny'], ['women', 'genderWomen'], ['men', 'genderMen'], ['kids', 'genderKids']];
function whomChoice() { // the photo does not say whose clothes are wanted, and the wrong ones are no finds
  const press = (gender) => { if (gender === wishes.gender) return; wish({ gender }); searchAgain(); };
  const select = h('select', { 'data-key': 'whom', onchange: (e) => press(e.target.value) }, WHOM.map(([g, name]) => h('option', { value: g }, t(g ? name : 'whomAny'))));
  select.value = wishes.gender;
  return h('label', { class: 'whom' }, h('span', {}, t('gender')), select);
}
function sortChoice() {
  const select = h('select', { 'data-key': 'sort', 'aria-label': t('sort'), onchange: (e) => { state.sort = e.target.value; remember('sort', state.sort); for (const item of state.items) paintItem(item); } }, SORTS.map((s) => h('option', { value: s }, t(`sort_${s}`))));
  select.value = SORTS.includes(state.sort) ? state.sort : 'likeness';
  return select;
}
function wordsField() {
  return h('input', { type: 'search', 'data-key': 'words', value: state.words, placeholder: t('words'), 'aria-label': t('words'), autocomplete: 'off', maxlength: 60, oninput: (e) => { state.words = e.target.value; for (const item of state.items) paintItem(item); } });
}
const translated = (text) => (text ?? '').split(/[^\p{L}-]+/u).filter(Boolean).map(term);
const inStock = (match) => (match.in_mall !== false && match.stores?.length > 0 ? 0 : 1);
function ordered(matches) { // as the person wants them, and only those with their words
  const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
  const about = (m) => {
    const { colour, category: kind, composition } = state.facts.get(`${m.brand}/${m.external_id}`) ?? {};
    return [m.name, brandName(m.brand), m.external_id, colour, term(colour), kind && category(kind), composition, ...translated(composition), ...(m.other_colours ?? []).flatMap((c) => [c.colour, term(c.colour)])].filter(Boolean).join(' ').toLowerCase();
  };
  const kept = words.length ? matches.filter((m) => words.every((w) => about(m).includes(w))) : [...matches];
  if (state.sort === 'price') kept.sort((a, b) => (a.price ?? Infinity) - (b.price ?? Infinity));
  if (state.sort === 'stock') kept.sort((a, b) => inStock(a) - inStock(b));
  return kept;
}
async function loadFacts() { // what the catalogue knows beyond the answer, to filter by and to show: once for all finds
  const wanted = [...new Set(state.items.flatMap((i) => i.matches ?? []).map((m) => `${m.brand}/${m.external_id}`))].filter((key) => !state.facts.has(key)).slice(0, 100);
  if (!wanted.length) return;
  try {
    for (const p of (await getJson(`api/v1/facts?${wanted.map((key) => `sku=${encodeURIComponent(key)}`).join('&')}`)).products) state.facts.set(`${p.brand}/${p.external_id}`, p);
    if (state.words) for (const item of state.items) paintItem(item);
  } catch { /* then names and colours must do */ }
}
function factsOf(match) {
  const { colour, composition } = state.facts.get(`${match.brand}/${match.external_id}`) ?? {};
  return (colour || composition) && h('p', { class: 'soft' }, [term(colour), composition].filter(Boolean).join(' · '));
}
function styles(matches) { // colourways of one style are one card: the first is shown, the others are its swatches
  const first = new Map();
  for (const match of matches) {
    const key = match.style_id ? `${match.brand}/${match.style_id}` : `${match.brand}//${match.external_id}`;
    if (first.has(key)) first.get(key).ways.push(match); else first.set(key, { ...match, ways: [] });
  }
  return [...first.values()];
}

// --- drawing a box, by pointer or keyboard --------------------------------------------------------------------------
function startDrawing(item = null) {
  const { width, height } = state.photo;
  const [w, hgt] = item?.round.scale ?? [width, height];
  const box = item?.box ? [item.box[0] / w * width, item.box[1] / hgt * height, item.box[2] / w * width, item.box[3] / hgt * height] : [width * 0.25, height * 0.25, width * 0.75, height * 0.65];
  state.drawing = { item: item && !whole(item) ? item : null, box, category: item && !whole(item) ? item.category : '', wrong: false };
  paintStage();
  $('stage').scrollIntoView({ block: 'nearest' });
  $('drawing').focus({ preventScroll: true });
}
function stopDrawing(back = 'draw') {
  state.drawing = null;
  paintStage();
  document.querySelector(`[data-key="${back}"]`)?.focus();
}
function setBox([x0, y0, x1, y1]) {
  const { width, height } = state.photo, clip = (v, most) => Math.max(0, Math.min(most, v));
  state.drawing.box = [clip(Math.min(x0, x1), width), clip(Math.min(y0, y1), height), clip(Math.max(x0, x1), width), clip(Math.max(y0, y1), height)];
  paintDrawing();
}
function paintDrawing() {
  const layer = $('drawing');
  layer.hidden = !state.drawing;
  if (!state.drawing) return;
  const { width, height } = state.photo, [x0, y0, x1, y1] = state.drawing.box;
  if (!layer.firstChild) {
    layer.append(h('div', { class: 'drawn' }, ['nw', 'ne', 'sw', 'se'].map((c) => h('i', { class: c }))));
    for (const [name, value] of Object.entries({ tabindex: '0', role: 'application', 'data-key': 'drawing' })) layer.setAttribute(name, value);
  }
  for (const [name, value] of Object.entries({ left: x0 / width, top: y0 / height, width: (x1 - x0) / width, height: (y1 - y0) / height })) layer.firstChild.style.setProperty(name, `${value * 100}%`);
  layer.setAttribute('aria-label', t('drawBox', { w: Math.round(x1 - x0), h: Math.round(y1 - y0), x: Math.round(x0), y: Math.round(y0) }));
}
function drawPanel() {
  const select = h('select', { id: 'draw-is', onchange: (e) => { state.drawing.category = e.target.value; }, 'data-key': 'draw-is' }, h('option', { value: '' }, t('drawAny')), CATEGORIES.filter((c) => c !== 'other').map((c) => h('option', { value: c }, category(c))));
  select.value = CATEGORIES.includes(state.drawing.category) && state.drawing.category !== 'other' ? state.drawing.category : '';
  return h('div', { class: 'draw-panel' }, h('h2', {}, t('drawTitle')), h('p', {}, t('drawHelp'), ' ', h('span', { class: 'no-touch' }, t('drawKeys'))), h('label', { class: 'stack' }, h('span', {}, t('drawIs')), select),
    h('p', { class: 'wrong', role: 'alert', id: 'draw-wrong' }, state.drawing.wrong ? t('drawSmall') : ''),
    h('p', { class: 'row' }, h('button', { type: 'button', class: 'main', 'data-key': 'draw-go', onclick: searchDrawn }, t('drawGo')), h('button', { type: 'button', class: 'plain', 'data-key': 'draw-leave', onclick: () => stopDrawing() }, t('drawCancel'))));
}
function searchDrawn() {
  const { box, category: is, item } = state.drawing, whole4 = box.map(Math.round);
  if (whole4[2] - whole4[0] < LEAST || whole4[3] - whole4[1] < LEAST) { state.drawing.wrong = true; $('draw-wrong').textContent = t('drawSmall'); return; }
  let target = item;
  if (target) { // the rest of its old round stands
    target.round.items = target.round.items.filter((i) => i !== target);
  } else {
    const others = state.items.filter((i) => !(whole(i) && state.items.length === 1)); // a drawn piece takes the place of "the whole photo"
    state.items = others;
    target = { n: Math.max(0, ...others.map((i) => i.n)) + 1 };
    state.items.push(target);
  }
  Object.assign(target, { box: whole4, category: is || 'other' });
  const round = newRound([{ box: whole4, category: is || null }], [target]);
  state.drawing = null;
  state.only = state.items.length > 1 ? target.n : null;
  paintAll();
  $('results').focus({ preventScroll: true });
  ask(round);
}
function watchPointer() {
  const layer = $('drawing');
  let from = null;
  const at = (e) => { const r = layer.getBoundingClientRect(); return [(e.clientX - r.left) / r.width * state.photo.width, (e.clientY - r.top) / r.height * state.photo.height]; };
  layer.addEventListener('pointerdown', (e) => {
    if (!state.drawing || e.button > 0) return;
    const [x, y] = at(e), [x0, y0, x1, y1] = state.drawing.box, near = 20 / layer.clientWidth * state.photo.width;
    const cornerX = Math.abs(x - x0) < near ? x1 : Math.abs(x - x1) < near ? x0 : null, cornerY = Math.abs(y - y0) < near ? y1 : Math.abs(y - y1) < near ? y0 : null;
    if (cornerX != null && cornerY != null) from = { fixed: [cornerX, cornerY] };
    else if (x > x0 && x < x1 && y > y0 && y < y1) from = { moved: [x, y], box: state.drawing.box, touched: false };
    else from = { fixed: [x, y] };
    layer.setPointerCapture(e.pointerId);
    e.preventDefault();
    layer.focus({ preventScroll: true });
  });
  layer.addEventListener('pointermove', (e) => {
    if (!from || !state.drawing) return;
    const [x, y] = at(e);
    if (from.fixed) return setBox([...from.fixed, x, y]);
    moveBox(from.box, x - from.moved[0], y - from.moved[1]);
  });
  for (const end of ['pointerup', 'pointercancel']) layer.addEventListener(end, () => { from = null; });
  layer.addEventListener('keydown', (e) => {
    if (!state.drawing) return;
    const step = Math.max(state.photo.width, state.photo.height) * 0.02, move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[e.key];
    if (move) {
      const [x0, y0, x1, y1] = state.drawing.box;
      if (e.shiftKey) setBox([x0, y0, Math.max(x0 + LEAST, x1 + move[0]), Math.max(y0 + LEAST, y1 + move[1])]); else moveBox(state.drawing.box, ...move);
    } else if (e.key === 'Enter') searchDrawn();
    else if (e.key !== 'Escape') return; // Escape is listened to on the whole page
    if (e.key !== 'Escape') e.preventDefault();
  });
}
function moveBox([x0, y0, x1, y1], dx, dy) {
  const { width, height } = state.photo, mx = Math.max(-x0, Math.min(width - x1, dx)), my = Math.max(-y0, Math.min(height - y1, dy));
  setBox([x0 + mx, y0 + my, x1 + mx, y1 + my]);
}

// --- painting: status and notes -------------------------------------------------------------------------------------
function paintStatus() {
  const busy = state.rounds.filter(working), last = busy.at(-1);
  $('finds').setAttribute('aria-busy', String(busy.length > 0));
  const words = !last ? (state.rounds.some((r) => r.answered) ? summary() : '') : last.status === 'waiting' ? t(last.why, { n: last.wait }) : last.slow ? t('slow') : last.status === 'sending' ? t('sending') : t(last.items.length ? 'lookingShops' : 'lookingPhoto');
  repaint($('status'), last && h('span', { class: 'spin', 'aria-hidden': 'true' }), h('span', { id: 'status-words' }, words), last && h('button', { type: 'button', class: 'plain small', 'data-key': 'stop', onclick: () => { for (const r of busy) r.stop(); $('results').focus(); } }, t('stop')),
    !last && state.rounds.length > 0 && state.rounds.some((r) => r.wished !== wished()) && !pricesWrong() && h('button', { type: 'button', class: 'main small', 'data-key': 'apply', onclick: searchAgain }, t('apply')),
    state.rounds.length > 0 && h('button', { type: 'button', class: 'plain small', 'data-key': 'new', onclick: () => history.back() }, t('newPhoto')));
}
function searchAgain() { // the same garments, new wishes: the boxes are known, so nobody is paid to find them twice
  if (!state.photo || pricesWrong()) return;
  const kept = state.items.filter((i) => i.box).sort((a, b) => a.n - b.n), all = kept.length > 0 && !(kept.length === 1 && whole(kept[0]));
  const boxes = kept.map((i) => { const [x0, y0, x1, y1] = partOf(i.round, i), { width, height } = state.photo; return { box: [x0 * width, y0 * height, x1 * width, y1 * height].map(Math.round), category: i.category === 'other' ? null : i.category }; });
  for (const round of state.rounds) round.stop();
  state.rounds = [];
  state.items = all ? kept : [];
  if (all) kept.forEach((item, k) => { item.box = boxes[k].box; });
  $('filters').open = false;
  const round = newRound(all ? boxes : null, all ? kept : []);
  if (state.only != null && !state.items.some((i) => i.n === state.only)) state.only = null;
  paintAll();
  $('results').focus({ preventScroll: true });
  ask(round);
}
function again(round) {
  round.tries = 0;
  $('results').focus({ preventScroll: true });
  ask(round);
}
function problemNote(round) {
  const p = round.problem;
  return h('div', { class: 'problem' }, !round.locked && h('p', {}, h('b', {}, troubleOf(round))),
    round.locked ? keyForm(round.locked, () => { loadLists(); again(round); })
      : h('p', { class: 'row' }, h('button', { type: 'button', class: 'main', 'data-key': `again-${round.key}`, onclick: () => again(round) }, t('again')), round.status === 'cut' && h('small', {}, t('againHint'))),
    p && (p.detail || p.requestId) && h('details', {}, h('summary', {}, t('details')), h('p', {}, [p.message, p.detail].filter(Boolean).join(': ')), p.requestId && h('p', {}, `${t('request')}: `, h('code', {}, p.requestId))));
}
function slowNote() { // the photo itself is what takes so long: a smaller one may do
  const round = state.rounds.find((r) => r.slow && r.status === 'sending'), size = round.photo.sent.size;
  return h('div', { class: 'note', id: 'state-slow' }, icon('out'), h('div', {}, h('h2', { class: 'note-name' }, t('s_slow')), h('p', {}, t('s_slowLong', { kb: number(size / 1000) })), h('p', { class: 'row' },
    !round.photo.small && h('button', { type: 'button', class: 'plain small', 'data-key': 'smaller', onclick: () => sendSmaller(round) }, t('smaller')))));
}
async function sendSmaller(round) {
  const { canvas } = round.photo, scale = Math.min(1, 800 / Math.max(canvas.width, canvas.height));
  const small = Object.assign(document.createElement('canvas'), { width: Math.round(canvas.width * scale), height: Math.round(canvas.height * scale) });
  small.getContext('2d').drawImage(canvas, 0, 0, small.width, small.height);
  const sent = await new Promise((done) => { small.toBlob(done, 'image/jpeg', 0.8); });
  round.stop();
  Object.assign(state, { rounds: [], items: [], photo: { canvas: small, sent, width: small.width, height: small.height, small: true } });
  paintAll();
  ask(newRound(null));
}
function paintNotes() {
  const codes = state.rounds.flatMap((r) => r.degraded), told = kindly(codes), one = state.items.length === 1 && whole(state.items[0]) && !['exact', 'similar'].includes(state.items[0].type);
  const nobody = state.reason === 'no_garment' && !state.items.length;
  repaint($('notes'), nobody && h('div', { class: 'note', id: 'no-garment' }, icon('hanger'), h('div', {}, h('h2', { class: 'note-name' }, t('foundNone')), h('p', {}, t('r_no_garment')), h('p', { class: 'row' }, h('button', { type: 'button', class: 'plain small', 'data-key': 'draw-none', onclick: () => startDrawing() }, t('draw'))))),
    state.rounds.filter((r) => ['cut', 'failed', 'stopped'].includes(r.status)).map(problemNote),
    state.rounds.some((r) => r.slow && r.status === 'sending') && slowNote(),
    one && h('div', { class: 'note' }, icon('frame'), h('div', {}, h('p', {}, t('wholeHint')), h('p', { class: 'row' }, h('button', { type: 'button', class: 'plain small', 'data-key': 'draw-hint', onclick: () => startDrawing() }, t('draw'))))));
  repaint($('good'), told.length > 0 && h('div', { class: 'note', id: 'degraded', 'data-codes': codes.join(' ') }, icon('note'), h('div', {}, h('h2', { class: 'note-name' }, t('note')), told.filter((said) => !(one && said === t('d_detect'))).map((said) => h('p', {}, said)))));
}

// --- painting: the finds --------------------------------------------------------------------------------------------
const noPicture = () => h('span', { class: 'picture empty' }, icon('hanger'), h('span', {}, t('noPicture')));
function picture(brand, id, alt, kind = 'picture') {
  return productPicture(brand, id, { class: kind, alt, width: 300, height: 400 }, () => (kind === 'picture' ? noPicture() : h('span', { class: 'swatch-gap' }, alt)));
}
const LEVELS = { sureExact: 4, sureSimilar: 3, sureSome: 2, sureStyle: 2, sureLittle: 1, sureNone: 1, sureFirst: 0 };
function sureness(item, match, final) { // in words; how far behind the best it lies, for each model has a scale of its own
  if (!final || !item) return 'sureFirst';
  const best = Math.max(...item.matches.map((m) => m.score)), part = best > 0 ? (match.score ?? 0) / best : 1;
  if (item.type === 'similar') return part >= 0.75 ? 'sureSimilar' : part >= 0.4 ? 'sureSome' : 'sureLittle';
  if (item.type === 'style') return part >= 0.6 ? 'sureStyle' : 'sureLittle';
  return { exact: 'sureExact', none: 'sureNone' }[item.type] ?? 'sureFirst';
}
function shared(match) { // in words, of an alternative: the same kind, the same colour
  const kind = match.agrees?.includes('category'), colour = match.agrees?.includes('color');
  return t(colour ? 'sameColour' : kind ? 'sameKind' : 'sureLittle');
}
function nearWords(item) { // what the nearest ones share with a garment that is not there
  const any = (what) => item.matches.some((m) => m.agrees?.includes(what)), colour = term(item.tags?.color);
  if (!item.matches.length) return t('noneLong');
  if (item.category !== 'other' && !any('category')) return t('near_otherKind');
  return colour ? t(any('color') ? 'near_colour' : 'near_noColour', { colour }) : t('near_kind');
}
function likeness(item, match, final) {
  if (final && UNLIKE.has(item?.reason)) return h('p', { class: 'likeness shared' }, h('b', {}, shared(match)));
  const word = sureness(item, match, final), level = LEVELS[word];
  return h('p', { class: `likeness ${final && item ? item.type : 'first'}` }, h('b', {}, t(word)), level > 0 && h('span', { class: 'meter', 'aria-hidden': 'true', 'data-level': level }, [1, 2, 3, 4].map((n) => h('i', { class: n <= level ? 'on' : null }))));
}
function storeOf(store, mine, full) {
  const place = [store.mall_name, store.floor && t('floor', { floor: store.floor })].filter(Boolean).join(', ');
  const hours = (Date.now() - new Date(store.fetched_at).getTime()) / 3600000;
  const { latitude: y, longitude: x } = store;
  return h('div', { class: 'store' }, h('p', { class: 'where' }, h('b', {}, store.name), place && h('span', {}, place), store.address && (full || !place) && h('span', { class: 'address' }, store.address),
    Number.isFinite(y) && Number.isFinite(x) && y != null && x != null && h('a', { href: `https://www.openstreetmap.org/?mlat=${y}&mlon=${x}#map=18/${y}/${x}`, target: '_blank', rel: 'noopener noreferrer', 'aria-label': t('mapOf', { store: store.name }) }, icon('pin'), t('map'))),
    store.sizes?.length ? h('ul', { class: 'size-list', 'aria-label': t('sizesIn') }, store.sizes.map((s) => { const my = mine.has(String(s).toUpperCase()); return h('li', { class: my ? 'mine' : null }, s, my && h('span', { class: 'unseen' }, ` (${t('yourSize')})`)); })) : h('p', { class: 'soft' }, t('noSizes')),
    store.fetched_at && h('p', { class: 'soft' }, t(hours > 24 ? 'stockOld' : 'stockSeen', { ago: ago(store.fetched_at) })));
}
function storesOf(match, full) {
  const mine = new Set(mySizes()), [first, ...more] = match.stores ?? [];
  const malls = match.other_malls ?? [];
  return [first && storeOf(first, mine, full), more.length > 0 && h('details', { class: 'more' }, h('summary', {}, t('moreStores', { n: more.length })), more.map((s) => storeOf(s, mine, full))),
    malls.length > 0 && h('p', { class: match.in_mall === false ? 'elsewhere' : 'soft' }, t(match.in_mall === false ? 'otherMalls' : 'inOtherMalls', { malls: listed(malls) })),
    !first && !malls.length && h('p', { class: 'soft' }, t('noStock'))];
}
function coloursOf(match, pick = null) { // `pick`: what a tap on one of them does
  const ways = match.ways ?? [], known = new Set(ways.map((w) => w.external_id));
  const all = [...ways.map((w) => ({ external_id: w.external_id, colour: state.facts.get(`${w.brand}/${w.external_id}`)?.colour ?? w.name, way: w })), ...(match.other_colours ?? []).filter((c) => !known.has(c.external_id))];
  if (!all.length) return null;
  return h('div', { class: 'colours' }, h('p', { class: 'soft' }, t('colours')), h('ul', {}, all.slice(0, pick ? 12 : 5).map((c) => { const named = term(c.colour) || c.external_id, seen = picture(match.brand, c.external_id, named, 'swatch'); return h('li', { title: named }, pick ? h('button', { type: 'button', class: 'swatch-of', 'aria-label': t('colourShow', { colour: named }), 'data-key': `colour-${c.external_id}`, onclick: () => pick(c, named) }, seen) : seen); }), all.length > (pick ? 12 : 5) && h('li', { class: 'soft' }, t('moreColours', { n: all.length - (pick ? 12 : 5) }))));
}
function noneButton(item, words) {
  const fb = item.feedback;
  return [h('button', { type: 'button', class: 'plain small', 'aria-pressed': String(fb?.choice === 'none'), 'aria-label': t('noneOfTheseOf', { n: item.n }), 'data-key': `none-${item.n}`, onclick: () => feedback(item, { none: true }, 'none') }, icon('cross'), t(words)),
    h('span', { class: fb?.failed ? 'wrong' : 'thanks' }, fb?.failed ? t('feedbackFailed') : fb?.choice && !fb.busy ? t('thanks') : '')];
}
const priceOf = (match) => h('p', { class: 'price' }, match.price == null ? h('span', { class: 'soft' }, t('noPrice')) : money(match.price, match.currency), match.price != null && !match.currency && h('span', { class: 'soft' }, ` ${t('noCurrency')}`));
function shopLink(match, kind) {
  if (!/^https?:\/\//i.test(match.product_url ?? '')) return null;
  return h('a', { class: `${kind} shop-link`, href: match.product_url, target: '_blank', rel: 'noopener noreferrer' }, t('openShop', { brand: brandName(match.brand) }), icon('out'));
}

// --- one find, close up: beside the garment, larger, with what else there is to know -------------------------------------
function cropOf(item) {
  if (!item.box || !state.photo) return null;
  const [x0, y0, x1, y1] = partOf(item.round, item), { canvas, width, height } = state.photo;
  const w = Math.max(1, Math.round((x1 - x0) * width)), hgt = Math.max(1, Math.round((y1 - y0) * height));
  const crop = h('canvas', { class: 'crop', width: w, height: hgt, role: 'img', 'aria-label': t('yourGarment') });
  crop.getContext('2d').drawImage(canvas, x0 * width, y0 * height, w, hgt, 0, 0, w, hgt);
  return crop;
}
const zoomable = (el, words) => h('button', { type: 'button', class: 'zoom', 'aria-pressed': 'false', 'aria-label': t('zoom', { what: words }), onclick: (e) => { const on = e.currentTarget.getAttribute('aria-pressed') !== 'true'; e.currentTarget.setAttribute('aria-pressed', String(on)); } }, el);
function openSheet(item, match, final) {
  const sheet = $('sheet'), name = match.name || match.external_id, choice = `${match.brand}/${match.external_id}`, crop = item && cropOf(item);
  const large = productPicture(match.brand, match.external_id, { class: 'large', alt: name }, noPicture, 960);
  const more = h('div', { class: 'alike' });
  const ofShop = h('figure', {}, zoomable(large, name), h('figcaption', {}, t('theProduct')));
  const lookAt = (c, named) => { // a colour that was found too has a card of its own; of the others there is a picture
    if (c.way) return openSheet(item, { ...c.way, ways: [{ ...match, ways: [] }, ...match.ways.filter((w) => w !== c.way)] }, final);
    const back = ofShop.dataset.colour === c.external_id; // a second tap shows the product's own again
    ofShop.dataset.colour = back ? '' : c.external_id;
    ofShop.replaceChildren(zoomable(back ? large : productPicture(match.brand, c.external_id, { class: 'large', alt: `${name}, ${named}` }, noPicture, 960), back ? name : named), h('figcaption', {}, back ? t('theProduct') : named));
    say(back ? name : named);
  };
  const paint = () => repaint(sheet,
    h('div', { class: 'sheet-head' }, h('div', {}, h('p', { class: 'brand' }, brandName(match.brand)), h('h2', { id: 'sheet-name', tabindex: '-1' }, name)), h('button', { type: 'button', class: 'plain small', 'data-key': 'sheet-close', 'aria-label': t('close'), onclick: () => sheet.close() }, icon('cross'))),
    h('div', { class: `compare${crop ? '' : ' one'}` }, crop && h('figure', {}, zoomable(crop, t('yourGarment')), h('figcaption', {}, t('yourGarment'))), ofShop),
    h('div', { class: 'row spread' }, priceOf(match), shopLink(match, 'main small')),
    factsOf(match),
    item && likeness(item, match, final),
    final && h('div', { class: 'at-hand-sheet' }, storesOf(match, true), coloursOf(match, lookAt)),
    final && item && h('p', { class: 'row' }, h('button', { type: 'button', class: 'plain small', 'aria-pressed': String(item.feedback?.choice === choice), 'data-key': 'sheet-it', onclick: async () => { await feedback(item, { brand: match.brand, external_id: match.external_id }, choice); paint(); } }, icon('check'), t('thisIsIt')), h('span', { class: item.feedback?.failed ? 'wrong' : 'thanks', role: 'status' }, item.feedback?.failed ? t('feedbackFailed') : item.feedback?.choice === choice && !item.feedback.busy ? t('thanks') : '')),
    h('p', { class: 'row' }, h('button', { type: 'button', class: 'plain small', 'data-key': 'sheet-more', onclick: () => showAlike(match, more) }, t('moreLike')), h('button', { type: 'button', class: 'plain small', 'data-key': 'sheet-cut', onclick: () => showAlike(match, more, 'cut') }, t('sameCut'))), more);
  if (!sheet.open && document.activeElement?.dataset.key) state.opened = CSS.escape(document.activeElement.dataset.key);
  paint();
  if (!sheet.open) sheet.showModal();
  sheet.scrollTop = 0;
  $('sheet-name').focus();
}
async function showAlike(match, place, kind = 'items') {
  repaint(place, h('p', { class: 'soft' }, t('searching')));
  try {
    const found = await getJson(`api/v1/similar-${kind}/${encodeURIComponent(match.brand)}/${encodeURIComponent(match.external_id)}?k=8`);
    repaint(place, h('ul', { class: 'cards' }, styles(found.matches).map((m) => h('li', { class: 'card' }, h('article', {}, h('button', { type: 'button', class: 'open', 'aria-label': t('openCard', { name: m.name || m.external_id }), onclick: () => openSheet(null, m, false) }, picture(m.brand, m.external_id, m.name || m.external_id)), h('div', { class: 'facts' }, h('p', { class: 'brand' }, brandName(m.brand)), h('h3', {}, m.name || m.external_id), priceOf(m)))))));
  } catch { repaint(place, h('p', { class: 'wrong' }, t('noAlike'))); }
  place.scrollIntoView({ block: 'end', behavior: 'smooth' });
}
const UNLIKE = new Set(['category_not_sold', 'nothing_near']);
const folded = (item) => item.matches != null && item.reason === 'category_not_sold' && !item.unfolded;
const alone = (item) => item.type === 'exact' && item.matches?.length === 1;
function card(item, match, final) {
  const name = match.name || match.external_id, choice = `${match.brand}/${match.external_id}`, chosen = item.feedback?.choice === choice;
  const open = h('button', { type: 'button', class: 'open', 'aria-label': t('openCard', { name }), 'data-key': `open-${item.n}-${choice}`, onclick: () => openSheet(item, match, final) }, picture(match.brand, match.external_id, name), match.ways?.length > 0 && h('span', { class: 'ways' }, t('waysCount', { n: match.ways.length + 1 })));
  return h('li', { class: `card${chosen ? ' chosen' : ''}`, 'data-sku': choice }, h('article', {}, open,
    h('div', { class: 'facts' }, h('p', { class: 'brand' }, brandName(match.brand)), h('h3', {}, name), priceOf(match),
      likeness(item, match, final)),
    final && h('div', { class: 'at-hand' }, storesOf(match, alone(item)), coloursOf(match), shopLink(match, 'plain small'),
      h('p', { class: 'row it' }, h('button', { type: 'button', class: 'plain small', 'aria-pressed': String(chosen), 'aria-label': t('thisIsItOf', { name }), 'data-key': `it-${item.n}-${choice}`, onclick: () => feedback(item, { brand: match.brand, external_id: match.external_id }, choice) }, icon('check'), t('thisIsIt')), alone(item) && noneButton(item, 'notThis')))));
}
const skeletons = (n) => h('ul', { class: 'cards', 'aria-hidden': 'true' }, Array.from({ length: n }, () => h('li', { class: 'card skeleton' }, h('span', { class: 'picture' }), h('div', { class: 'facts' }, h('i', {}), h('i', {}), h('i', {})))));
function tagsOf(item) {
  const tags = item.tags ?? {}, words = [tags.color, tags.material, tags.pattern, tags.style].filter(Boolean).map(term);
  if (!words.length) return null;
  const hex = /^#[0-9a-f]{6}$/i.test(tags.color_hex ?? '') && tags.color_hex;
  return h('p', { class: 'tags' }, hex && h('span', { class: 'ink', 'aria-hidden': 'true', vars: { '--ink-colour': hex } }), h('span', { class: 'unseen' }, `${t('tags')}: `), words.join(' · '));
}
function itemKids(item) {
  const busy = working(item.round), final = item.matches != null, all = final ? item.matches : item.first, shown = all && (folded(item) ? [] : styles(ordered(all)));
  const word = final ? t(item.reason === 'category_not_sold' ? 'notSold' : item.reason === 'nothing_near' && all.length ? 'closest' : item.type) : busy ? t('searching') : t('firstLook');
  const kind = !final ? (busy ? 'busy' : 'first') : UNLIKE.has(item.reason) ? 'none' : item.type;
  const long = final ? (item.reason === 'nothing_near' ? nearWords(item) : item.reason ? t(`r_${item.reason}`) : item.type === 'none' && all.length ? t('noneHere') : t(`${item.type}Long`)) : shown ? t(busy ? 'firstLookLong' : 'firstLookKept') : '';
  const most = !final ? 3 : item.type === 'style' && !item.all && !narrow.matches ? 3 : 12, hidden = shown ? Math.max(0, shown.length - most) : 0;
  const atEnd = final && narrow.matches && shown.length > 0 && !alone(item); // the end of the row to swipe through
  const persons = [...new Set(state.items.map((i) => i.person ?? 0))].sort((a, b) => a - b), leader = inOrder().find((i) => i.person === item.person);
  return [persons.length > 1 && leader === item && h('p', { class: 'person' }, t('person', { n: persons.indexOf(item.person) + 1 })),
  h('div', { class: 'item-head' }, h('span', { class: 'dot', 'aria-hidden': 'true' }, item.n), h('h2', { id: `item-${item.n}` }, nameOf(item)), (final || busy || shown) && h('span', { class: `verdict ${kind}` }, word), tagsOf(item),
    item.box && h('button', { type: 'button', class: 'quiet', 'aria-label': t('adjustOf', { n: item.n }), 'data-key': `adjust-${item.n}`, onclick: () => startDrawing(item) }, icon('frame'), h('span', {}, t(whole(item) ? 'draw' : 'adjust')))),
  long && h('p', { class: `long${item.reason || !final || !shown.length ? '' : ' usual'}` }, h('span', {}, long), all?.length > 0 && !shown.length && !folded(item) && ` ${t('noWords', { words: state.words })}`, folded(item) && all.length > 0 && [' ', h('button', { type: 'button', class: 'quiet', 'data-key': `unfold-${item.n}`, onclick: () => { item.unfolded = true; paintItem(item); } }, t('unfold'))], final && !item.reranked && shown.length > 1 && state.items.some((i) => i.reranked) && ` ${t('notJudged')}`),
  shown ? shown.length > 0 && h('ul', { class: `cards${alone(item) ? ' one' : ''}` }, shown.slice(0, shown.length - hidden).map((m) => card(item, m, final)), atEnd && h('li', { class: 'card end' }, noneButton(item, 'noneOfThese'))) : busy && skeletons(3),
  final && all.length > 0 && !folded(item) && !alone(item) && !atEnd && h('p', { class: 'row feedback' }, hidden > 0 && h('button', { type: 'button', class: 'plain small', 'data-key': `more-${item.n}`, onclick: () => { item.all = true; paintItem(item); document.querySelector(`.item[data-n="${item.n}"] .card:nth-child(${shown.length - hidden + 1}) button`)?.focus(); } }, t('moreFinds', { n: hidden })),
    noneButton(item, 'noneOfThese'))];
}
const RANK = { exact: 0, similar: 1, style: 2, none: 4 };
const rank = (item) => (item.matches == null ? 2 : item.reason === 'category_not_sold' ? 5 : item.reason === 'nothing_near' ? 3 : RANK[item.type] ?? 4);
const inOrder = () => [...state.items].sort((a, b) => (a.person ?? 0) - (b.person ?? 0) || rank(a) - rank(b) || a.n - b.n);
function paintItem(item) {
  let place = [...$('items').children].find((el) => el.dataset.n === String(item.n));
  if (!place) {
    place = h('section', { class: 'item', 'data-n': item.n, 'aria-labelledby': `item-${item.n}` });
    const order = inOrder(), after = order.slice(order.indexOf(item) + 1).map((i) => [...$('items').children].find((el) => el.dataset.n === String(i.n))).find(Boolean);
    $('items').insertBefore(place, after ?? null);
  }
  place.style.setProperty('--hue', hue(item));
  place.dataset.state = item.matches ? item.type : item.first ? 'first' : working(item.round) ? 'busy' : 'unknown';
  place.hidden = state.only != null && state.only !== item.n;
  place.classList.toggle('folded', folded(item));
  repaint(place, itemKids(item));
}
function paintAfter() {
  const advice = state.rounds.map((r) => r.advice).filter(Boolean), ids = state.rounds.filter((r) => r.answered && r.id);
  const unjudged = state.items.some((i) => i.matches?.length > 1 && !UNLIKE.has(i.reason)) && !state.items.some((i) => i.reranked);
  $('after').dataset.requests = ids.map((r) => r.id).join(' ');
  repaint($('after'), unjudged && h('p', { class: 'quiet-note' }, t('notJudged')), advice.length > 0 && h('section', { class: 'advice', 'aria-labelledby': 'advice' }, h('h2', { id: 'advice' }, t('advice')), advice.map((text) => h('p', {}, text)), h('small', {}, t('adviceNote'))),
    ids.length > 0 && !state.shopper && h('p', { class: 'trail' }, ids.map((r) => h('a', { href: `lab?id=${encodeURIComponent(r.id)}`, 'data-key': `lab-${r.id}` }, t('lab')))));
}
function paintFinds() {
  const known = new Set(state.items.map((i) => String(i.n)));
  for (const el of [...$('items').children]) if (!known.has(el.dataset.n)) el.remove();
  const nobody = !state.items.length && state.rounds.some(working);
  if (nobody) $('items').append(h('section', { class: 'item', 'data-n': 'skeleton' }, skeletons(3)));
  paintStatus();
  paintNotes();
  paintStage();
  for (const item of inOrder()) paintItem(item);
  const rows = inOrder().map((i) => [...$('items').children].find((el) => el.dataset.n === String(i.n)));
  if (rows.some((el, k) => el !== $('items').children[k])) $('items').append(...rows);
  paintAfter();
}
async function feedback(item, body, choice) {
  const before = item.feedback;
  if (before?.busy) return;
  item.feedback = { choice, busy: true };
  paintItem(item);
  try {
    const response = await fetch(`api/v1/requests/${encodeURIComponent(item.round.id)}/feedback`, { method: 'POST', headers: headers({ 'Content-Type': 'application/json' }), body: JSON.stringify({ item_index: item.index, ...body }) });
    if (!response.ok) throw await Problem.of(response);
    item.feedback = { choice };
    say(t('thanks'));
  } catch {
    item.feedback = { choice: before?.choice, failed: true };
    say(t('feedbackFailed'));
  }
  paintItem(item);
}

function paintAll() {
  paintWishes();
  paintStart();
  if (!state.photo) { $('items').replaceChildren(); return; }
  paintPhoto();
  paintFinds();
}

// --- a result outlives a reload and going back; it stays in this tab and goes with the photo --------------------------------
const KEPT = 'unde.result';
const forgetResult = () => { try { sessionStorage.removeItem(KEPT); } catch { /* nothing is kept */ } };
const asDataUrl = (blob) => new Promise((done, fail) => { const reader = Object.assign(new FileReader(), { onload: () => done(reader.result), onerror: fail }); reader.readAsDataURL(blob); });
async function keepResult() {
  if (!state.photo || !state.items.length || state.rounds.some(working)) return;
  const { photo, rounds, items, reason } = state;
  try {
    const plain = rounds.map(({ key, boxes, wished: asked, id, scale, degraded, advice, ms }) => ({ key, boxes, wished: asked, id, scale, degraded, advice, ms }));
    const parts = items.map(({ round, ...item }) => ({ ...item, of: rounds.indexOf(round) }));
    sessionStorage.setItem(KEPT, JSON.stringify({ photo: await asDataUrl(photo.sent), rounds: plain, items: parts, reason }));
  } catch { forgetResult(); } // no room, or not allowed: then it does not outlive a reload
}
async function restoreResult() {
  let kept;
  try { kept = JSON.parse(sessionStorage.getItem(KEPT)); } catch { kept = null; }
  if (!kept?.items?.length) return false;
  try {
    const [head, body] = kept.photo.split(','), bytes = Uint8Array.from(atob(body), (c) => c.charCodeAt(0));
    const sent = new Blob([bytes], { type: /:(.*?);/.exec(head)[1] }), canvas = await openPhoto(sent);
    state.photo = { canvas, sent, width: canvas.width, height: canvas.height };
    const made = kept.rounds.map((of) => Object.assign(newRound(of.boxes), of, { status: 'done', answered: true, items: [] }));
    state.rounds = made;
    state.items = kept.items.map(({ of, ...item }) => { const again = { ...item, round: made[of] }; made[of].items.push(again); return again; });
    state.reason = kept.reason;
    paintAll();
    loadFacts();
    return true;
  } catch { reset(); return false; }
}

// --- the page's own events ------------------------------------------------------------------------------------------
async function loadLists() {
  const key = accessKey(), before = state.locked;
  const [shop, samples] = await Promise.allSettled([getJson('api/v1/shop'), getJson('api/v1/samples')]);
  state.locked = shop.status === 'rejected' ? locked(shop.reason, key) : null;
  state.away = shop.status === 'rejected' && !state.locked ? (shop.reason instanceof Problem ? 'waking' : 'offline') : '';
  if (shop.status === 'fulfilled') { state.shop = shop.value; state.malls = shop.value.malls ?? []; }
  if (state.away || (state.shop && !state.shop.indexed)) { clearTimeout(loadLists.timer); loadLists.timer = setTimeout(loadLists, 5000); }
  if (samples.status === 'fulfilled') state.samples = samples.value.samples ?? [];
  if (state.malls.length && wishes.mall && !state.malls.includes(wishes.mall)) wish({ mall: '' });
  paintWishes();
  paintStart();
  loadOwn();
  if (before && !state.locked && !state.photo) { say(t('keyTaken')); $('choose').focus(); }
}
async function loadOwn() { // what is kept of whoever uses the page without a key, and how to delete it
  let own;
  try { own = await getJson('api/v1/me'); } catch { own = null; }
  $('own').hidden = !own?.shopper;
  state.sample = !!own?.sample;
  state.shopper = !!own?.shopper; // the lab is closed to whoever has no key
  $('staff').hidden = state.shopper;
  if (state.photo) paintAfter();
  $('consent').hidden = !state.sample;
  if (state.sample) repaint($('consent'), h('label', {}, h('input', { type: 'checkbox', checked: wishes.keep, 'data-key': 'keep', onchange: (e) => wish({ keep: e.target.checked }) }), ' ', t('keepPhoto', { n: own.days })));
  if (own?.shopper) repaint($('own'), h('p', {}, t('ownKept', { n: own.days })), h('p', { class: 'row' }, h('button', { type: 'button', class: 'plain small', 'data-key': 'own-delete', onclick: deleteOwn }, t('ownDelete')), h('span', { id: 'own-said', role: 'status' })));
}
async function deleteOwn() {
  try {
    const response = await fetch('api/v1/me', { method: 'DELETE', headers: headers() });
    if (!response.ok) throw await Problem.of(response);
    const { requests } = await response.json();
    forgetResult();
    $('own-said').textContent = t('ownDeleted', { n: requests });
  } catch { $('own-said').textContent = t('failed'); }
}
const firstImage = (files) => [...(files ?? [])].find((f) => f.type.startsWith('image/')) ?? files?.[0];
const fromUser = (files) => { const file = firstImage(files); if (file) begin(file); };

$('choose').addEventListener('click', () => $('file').click());
$('link').addEventListener('submit', async (e) => {
  e.preventDefault();
  const url = $('link-url').value.trim();
  if (!/^https?:\/\//i.test(url)) { state.startProblem = 'linkWrong'; paintStart(); return; }
  state.startProblem = '';
  paintStart();
  say(t('linkFetching'));
  try {
    const response = await fetch('api/v1/photo', { method: 'POST', headers: headers({ 'Content-Type': 'application/json' }), body: JSON.stringify({ url }) });
    if (!response.ok) throw await Problem.of(response);
    $('link-url').value = '';
    await begin(await response.blob());
  } catch { state.startProblem = 'linkFailed'; paintStart(); }
});
$('snap').addEventListener('click', () => $('camera').click());
for (const id of ['file', 'camera']) $(id).addEventListener('change', (e) => { fromUser(e.target.files); e.target.value = ''; });
addEventListener('paste', (e) => { if (e.clipboardData?.files?.length) { e.preventDefault(); fromUser(e.clipboardData.files); } });
let over = 0;
addEventListener('dragenter', (e) => { if (e.dataTransfer?.types.includes('Files')) { over += 1; document.body.classList.add('dropping'); } });
addEventListener('dragleave', () => { over = Math.max(0, over - 1); if (!over) document.body.classList.remove('dropping'); });
addEventListener('dragover', (e) => { if (e.dataTransfer?.types.includes('Files')) e.preventDefault(); });
addEventListener('drop', (e) => { over = 0; document.body.classList.remove('dropping'); if (e.dataTransfer?.files.length) { e.preventDefault(); fromUser(e.dataTransfer.files); } });
addEventListener('offline', () => { paintStart(); if (state.photo) paintNotes(); say(t('offline')); });
addEventListener('online', () => { // what broke off goes on by itself, under the same key
  loadLists();
  for (const round of state.rounds) if (round.status === 'cut') again(round);
});
addEventListener('popstate', () => { if (state.photo) leavePhoto(); });
addEventListener('keydown', (e) => {
  if (e.key !== 'Escape') return;
  if (state.drawing) stopDrawing(); else if ($('filters').open) { $('filters').open = false; $('filters').querySelector('summary').focus(); }
});
document.addEventListener('pointerdown', (e) => { if ($('filters').open && !$('filters').contains(e.target)) $('filters').open = false; });
$('wishes').addEventListener('submit', (e) => { e.preventDefault(); if (state.photo) searchAgain(); else $('filters').open = false; });
$('mall').addEventListener('change', (e) => wish({ mall: e.target.value }));
for (const [id, name] of [['sizes-other', 'other'], ['price-min', 'min'], ['price-max', 'max']]) $(id).addEventListener('input', (e) => wish({ [name]: e.target.value }));
$('sheet').addEventListener('click', (e) => { if (e.target === $('sheet')) $('sheet').close(); });
$('sheet').addEventListener('close', () => { if (state.opened) document.querySelector(`[data-key="${state.opened}"]`)?.focus(); });
$('forget').addEventListener('click', () => wish({ sizes: [], other: '', gender: '', min: '', max: '' }));
watchPointer();
narrow.addEventListener('change', () => { if (state.photo) paintFinds(); });
if (navigator.maxTouchPoints > 0) { document.documentElement.classList.add('touch'); document.querySelector('.drop-name').dataset.t = 'start'; }
languageSwitch($('languages'), () => { paintAll(); loadOwn(); });
if (!history.state?.photo) forgetResult();
else if (!(await restoreResult())) history.replaceState(null, '');
loadLists();
