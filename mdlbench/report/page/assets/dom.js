// Elements of the page. Text is only ever set as text.

const SVG = 'http://www.w3.org/2000/svg';

function byId(id) {
  return document.getElementById(id);
}

/** A new element with attributes and children; strings become text. */
function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function drawing(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(key, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** Buttons of which one is on; returns what presses the button of a value. */
function choice(host, options, choose) {
  const buttons = options.map(([value, text]) =>
    [value, element('button', { type: 'button', onclick: () => choose(value) }, text)]);
  host.replaceChildren(...buttons.map(([, button]) => button));
  return (chosen) => {
    for (const [value, button] of buttons) button.setAttribute('aria-pressed', String(value === chosen));
  };
}

/** Names and values side by side. */
function definitions(facts) {
  const list = element('dl', { class: 'facts' });
  for (const [name, value] of Object.entries(facts)) {
    if (value === null) continue;
    const text = typeof value === 'number' ? whole(value) : String(value);
    list.append(element('div', {}, element('dt', {}, worded(name)), element('dd', {}, text)));
  }
  return list;
}

function worded(name) {
  return name.replaceAll('_', ' ');
}
